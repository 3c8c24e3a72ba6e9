"""What the kits that try many cases share: outcomes, the seed, progress, counts, and how they end."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from hessflat.utils.errors import InputError

WRONG, LEFT_OUT = "wrong", "left out"


class Outcome(NamedTuple):
    """What became of a case; `times` is how often something was done to it."""

    result: str
    why: str = ""
    times: int = 1


class Result(NamedTuple):
    """An outcome with the kind and the number of its case."""

    kind: str
    number: int
    outcome: Outcome


def seed_of(text: str) -> int:
    if not text.isdecimal():
        raise InputError(f"--seed must be a whole number, got {text!r}")
    return int(text)


def wrong_ones(results: Sequence[Result]) -> list[Result]:
    return [one for one in results if one.outcome.result == WRONG]


def tell(results: Sequence[Result], total: int, elapsed: float, seconds: float) -> None:
    """A line on standard error: how far it is of `total` cases, and how much of the `seconds` it may still take."""
    left = min(elapsed / len(results) * (total - len(results)), seconds - elapsed)
    print(
        f"[{elapsed:.0f} s, at most about {max(left, 0):.0f} s left] {len(results)} of {total} cases, "
        f"{len(wrong_ones(results))} wrong",
        file=sys.stderr,
        flush=True,
    )


def counts(results: Sequence[Result], columns: Sequence[str]) -> list[str]:
    """How often something was tried, and how often each result of `columns` came of it; what was left out was not."""
    found = {name: sum(one.outcome.times for one in results if one.outcome.result == name) for name in columns}
    tried = sum(count for name, count in found.items() if name != LEFT_OUT)
    return [str(tried), *map(str, found.values())]


def end(results: Sequence[Result], seed: int) -> None:
    """Print what is wrong and what was left out, and end the process with status 1 unless nothing is wrong."""
    wrong = wrong_ones(results)
    for one in wrong:
        print(f"wrong: {seed}:{one.kind}:{one.number}: {' '.join(one.outcome.why.split())}")
    for why in sorted({one.outcome.why for one in results if one.outcome.result == LEFT_OUT}):
        print(f"left out: {why}")
    if wrong:
        sys.exit(1)
