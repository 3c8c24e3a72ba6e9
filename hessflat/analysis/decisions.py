"""From how likely evidence is by chance to a verdict: for one claim alone, and for those of an experiment together.

A claim holds or fails where evidence as strong as this, for or against it, comes by chance in at most 2.5 % of cases.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from hessflat.analysis.designs import Design

Verdict = Literal["holds", "fails", "undecided", "cannot decide", "not applicable", "not run"]
LEVEL = 0.05  # of both sides together


class Chance(NamedTuple):
    """How likely evidence at least as strong is by chance: for the claim where it is just not so, and against it.

    `floor` is the least that either could be, whatever the runs showed. `design` is what the test rests on, from which
    its power follows; a claim of several tests has those of its `parts`.
    """

    holds: float
    fails: float
    floor: float = 0.0
    design: Design | None = None
    parts: tuple["Chance", ...] = ()

    @property
    def two_sided(self) -> float:
        """The p of the decision that is nearer."""
        return min(1.0, 2 * min(self.holds, self.fails))

    @property
    def tests(self) -> list["Chance"]:
        """The chance of each test by itself."""
        return [test for part in self.parts for test in part.tests] if self.parts else [self]


NOTHING = Chance(1.0, 1.0)  # what one seed shows


def verdict_of(chance: Chance, p: float | None = None) -> Verdict:
    """The verdict that a chance gives; with `p`, its two-sided p adjusted for other claims.

    "cannot decide" where too few settings or seeds were run to decide whatever they showed.
    """
    if 2 * chance.floor > LEVEL:
        return "cannot decide"
    if (chance.two_sided if p is None else p) > LEVEL:
        return "undecided"
    return "holds" if chance.holds <= chance.fails else "fails"


def conjunction(chances: Sequence[Chance]) -> Chance:
    """The chance of claims together: they hold where each does, and fail where any does (Bonferroni over them)."""
    each = len(chances)
    return Chance(
        max(chance.holds for chance in chances),
        min(1.0, each * min(chance.fails for chance in chances)),
        min(max(chance.floor for chance in chances), each * min(chance.floor for chance in chances)),
        parts=tuple(chances),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """The p of each of several claims, adjusted so that in at most 5 % of cases any is decided wrongly (Holm 1979)."""
    adjusted, largest = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = largest
    return adjusted
