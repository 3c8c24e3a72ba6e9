"""Damage to a run folder: flipped bits and edits by hand."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hessflat.utils.errors import InputError

Read = TypeVar("Read")
Damage = Callable[[Path], Any]


def flipped(content: bytes, numbers: random.Random) -> bytes:
    """The content with one other bit."""
    at = numbers.randrange(8 * len(content))
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


def line_or(read: Callable[[], Read]) -> Read | str:
    """What `read` gives, or the line that it is refused in.

    Raises:
        AssertionError: it is refused in more than one line.
    """
    try:
        return read()
    except InputError as error:
        line = str(error)
    assert "\n" not in line, line
    return line


def edit(name: str, change: Callable[[str], str]) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_text()
        (folder / name).write_text(change(content))

    return damage


def edit_last_metric(value: Any) -> Damage:
    def change(text: str) -> str:
        *lines, last = text.splitlines()
        return "\n".join([*lines, json.dumps(json.loads(last) | {"test_accuracy": value})]) + "\n"

    return edit("metrics.jsonl", change)


def another_digit(numbers: random.Random) -> Damage:
    """One digit of one text file becomes another."""
    name = numbers.choice(("config.json", "manifest.json", "metrics.jsonl", "eval.jsonl"))

    def change(text: str) -> str:
        at = numbers.choice([place for place, letter in enumerate(text) if letter.isdigit()])
        return text[:at] + numbers.choice("0123456789".replace(text[at], "")) + text[at + 1 :]

    return edit(name, change)


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


EDITS: dict[str, Damage] = {
    "out of range": edit_last_metric(7),
    "text": edit_last_metric("0.9"),
    "list": edit_last_metric([0.9]),
    "nested": edit("metrics.jsonl", lambda text: "[" * 100_000 + text),
    "reversed": edit("metrics.jsonl", lambda text: "".join(reversed(text.splitlines(keepends=True)))),
    "half": edit("metrics.jsonl", lambda text: "".join(text.splitlines(keepends=True)[:1])),
    "cut": edit("metrics.jsonl", lambda text: text[:-30]),
    "doubled": edit("metrics.jsonl", lambda text: text + text.splitlines(keepends=True)[-1]),
    "no metrics": remove("metrics.jsonl"),
    "evaluations": edit("eval.jsonl", lambda text: text.replace("0.", "0.9", 1)),
    "no evaluations": remove("eval.jsonl"),
    "steps": edit("manifest.json", lambda text: text.replace('"steps": 20', '"steps": 10')),
    "data_checksum": edit("manifest.json", lambda text: text.replace('"data_checksum": "', '"data_checksum": "0')),
    "status": edit("manifest.json", lambda text: text.replace('"done"', '"diverged"')),
    "not JSON": edit("manifest.json", lambda text: text[:-3]),
    "no object": edit("manifest.json", lambda text: "[]"),
    "no manifest": remove("manifest.json"),
    "seed": edit("config.json", lambda text: text.replace('"seed": 0', '"seed": 1')),
    "no settings": remove("config.json"),
    "half settings": edit("config.json", lambda text: text[:50]),
    "settings and manifest": lambda folder: (EDITS["half settings"](folder), EDITS["not JSON"](folder)),
    "no digests": edit("manifest.json", lambda text: text.replace('"digests"', '"digestt"')),
    "no spectrum": remove("spectra/10-hessian.npz"),
    "empty spectrum": lambda folder: (folder / "spectra/0-hessian.npz").write_bytes(b""),
    "another's": lambda folder: shutil.copy(folder / "spectra/0-hessian.npz", folder / "spectra/20-hessian.npz"),
    "one spectrum more": lambda folder: shutil.copy(folder / "spectra/0-hessian.npz", folder / "spectra/5-hessian.npz"),
}  # fmt: skip
