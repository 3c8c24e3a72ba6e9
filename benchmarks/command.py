"""What the commands that measure share: their arguments, what they say of the machine, and how they end."""

import json
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from absl import logging

from benchmarks import machine, results
from hessflat.cli import app
from hessflat.utils.errors import InputError, require_known

Workload = TypeVar("Workload")
Judge = Callable[[dict[str, Any]], list[dict[str, Any]]]


class Options(NamedTuple, Generic[Workload]):
    """The arguments that every such command has; `others` are its own."""

    workloads: list[Workload]
    repeats: int
    budget: float
    scale: str
    out: str
    is_whole: bool
    others: Mapping[str, str]


def parse(
    argv: Sequence[str],
    chosen: Callable[[list[str]], list[Workload]],
    known: Collection[str],
    *,
    default: Sequence[str],
    on_device: Sequence[str],
    others: Mapping[str, str],
    budget: str = "1e9",
) -> Options[Workload]:
    """Of `chosen(names)` workloads, all of which `known` names; by default those of `default`, or of `on_device`.

    `others` are further arguments with their defaults. `budget` are the seconds that all default workloads may take.
    """
    on_gpu = "--gpu" in argv
    defaults = {
        "only": ",".join(on_device if on_gpu else default),
        "repeats": "3" if on_gpu else "5",
        "budget": "500" if on_gpu else budget,
        "scale": "full",
        "out": "",
        **others,
    }
    given, settings = app.parse_flags([a for a in argv if a != "--gpu"], defaults)
    if settings:
        raise InputError(f"the benchmark has no configuration; leave out {settings[0]}")
    require_known("scale", [given["scale"]], ["full", "smoke"])
    names = given["only"].split(",")
    for name in names:
        if not chosen([name]):
            require_known("workload", [name], known)
    return Options(
        workloads=chosen(names),
        repeats=int(number_of("repeats", given["repeats"])),
        budget=number_of("budget", given["budget"]),
        scale=given["scale"],
        out=given["out"],
        is_whole=all(given[name] == defaults[name] for name in ("only", "scale")),
        others={name: given[name] for name in others},
    )


def number_of(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise InputError(f"--{name} must be a number above 0, got {text!r}")
    return value


def nothing_yet(options: Options) -> dict[str, Any]:
    """The results that workloads are added to."""
    return {"scale": options.scale, "rows": [], "versions": {}, "skipped": []}


def finished(
    found: dict[str, Any], seconds: float, judge: Judge, in_jax: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """`found` so far, with the machine it was measured on, as the rows that are `in_jax` name it, and judged."""
    devices = [row["device"] for row in found["rows"] if row.get("device") and in_jax(row)]
    about = {"machine": machine.describe(devices[0] if devices else "cpu"), "seconds": seconds}
    found = found | about | {"versions": dict(sorted(found["versions"].items()))}
    return found | {"goals": judge(found)}


def destination(options: Options, found: dict[str, Any], folder: Path) -> Path | None:
    """Where results go: those of a whole run beside the others in `folder`, any other's nowhere unless asked."""
    if options.out:
        return Path(options.out)
    return folder / f"{machine.slug(found['machine'])}.json" if options.is_whole else None


def store(found: dict[str, Any], path: Path, options: Options, judge: Judge) -> None:
    """Write results beside the other workloads of the file; it begins anew where these are of other versions.

    Raises:
        InputError: they are, and the file was asked for.
    """
    if path.exists():
        before = json.loads(path.read_text())
        if options.out or not results.differing(before, found):
            found = results.join(before, found)
    path.parent.mkdir(parents=True, exist_ok=True)
    results.write(path, found | {"goals": judge(found)})


def run_as_command(main: Callable[[Sequence[str]], None]) -> None:
    """Stopped from outside, it still ends its processes and removes its folder."""
    logging.set_verbosity(logging.FATAL)  # as the commands of the package do
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main(sys.argv[1:])
    except app.HelpAsked as asked:
        module = sys.modules[main.__module__]
        name = (module.__spec__.name if module.__spec__ else main.__module__).removesuffix(".__main__")
        print(app.help_of(f"python -m {name}", module, asked.defaults))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
