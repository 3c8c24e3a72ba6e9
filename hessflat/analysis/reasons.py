"""Why a claim fails or stays open, in a sentence that its numbers give."""

from hessflat.analysis.decisions import Chance, Verdict
from hessflat.analysis.designs import MeanTest, ShareTest
from hessflat.analysis.evidence import ends_text, seed_count
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.names import number
from hessflat.analysis.power import ENOUGH, MOST_SEEDS, Power, aim_text, value_text


def reason_of(evidence: Evidence, verdict: Verdict, power: Power | None, family: int, p_holm: float | None) -> str:
    """The sentence, without its full stop; empty for a claim that holds or to which the runs do not apply.

    `verdict` is that among a family of claims, with the p that Holm's correction gives.
    """
    chance = evidence.chance
    if verdict in ("holds", "not applicable"):
        return ""
    if not chance or not all(test.design for test in chance.tests):
        return "one seed has no spread" if evidence.seeds == 1 else evidence.explanation
    tests, more = chance.tests, _needed(power, evidence.seeds)
    if verdict == "fails":
        worst = min(tests, key=lambda test: test.fails)
        return f"{_among(tests, 'one', ' fails')}{_fails(worst)}"
    if verdict == "cannot decide":
        worst = max(tests, key=lambda test: test.floor)
        return f"{_among(tests, 'the weakest')}no p is below {number(2 * worst.floor, 2)} with so few{more}"
    if evidence.verdict != "undecided":
        return (
            f"by itself it {evidence.verdict}, but with {family} claims decided together p is {number(p_holm, 2)}{more}"
        )
    worst = max(tests, key=lambda test: min(test.holds, test.fails))
    return f"{_among(tests, 'the weakest')}{_open(worst)}{more}"


def _among(tests: list[Chance], which: str, does: str = "") -> str:
    return f"{which} of {len(tests)} tests{does}: " if len(tests) > 1 else ""


def _needed(power: Power | None, seeds: int) -> str:
    """What these or more seeds would find."""
    if power is None:
        return ""
    if power.together >= ENOUGH:
        which = "these seeds" if power.seeds == seeds else f"the {power.seeds} planned seeds"
        return f"; if the effect is {power.aim}, {which} find it in {100 * power.together:.0f} % of cases"
    if power.needed is None:
        return f"; finding {power.aim} needs more than {MOST_SEEDS} seeds"
    return f"; {seed_count(power.needed)} would find {power.aim} in {100 * ENOUGH:g} % of cases"


def _fails(test: Chance) -> str:
    design = test.design
    if not isinstance(design, MeanTest):
        side = "the share is below the limit" if isinstance(design, ShareTest) else "the order is the opposite one"
        return f"{side} (p = {number(2 * test.fails, 2)})"
    low, high = design.estimate.interval[1:]
    is_above = design.estimate.mean > design.high
    limit = design.high if is_above else design.low
    if low <= design.high and high >= design.low:
        largest = value_text(design, max(design.estimate.values))
        return f"a run is at {largest}, beyond {value_text(design, design.high)}; one such run refutes the claim"
    beyond = sum(value > limit if is_above else value < limit for value in design.estimate.values)
    side = "above" if is_above else "below"
    return (
        f"{_interval(design)} lies {side} {value_text(design, limit)}, as do {beyond} of "
        f"{seed_count(len(design.estimate.values))}"
    )


def _open(test: Chance) -> str:
    design = test.design
    if not isinstance(design, MeanTest):
        what = "a share as far from the limit" if isinstance(design, ShareTest) else "an order as strong"
        return f"{what} comes by chance with p = {number(test.two_sided, 2)}"
    if design.estimate.is_one_number:
        return f"{_interval(design)} needs six seeds, whose signs then decide"
    low, high = design.estimate.interval[1:]
    inside = [limit for limit in (design.low, design.high) if low <= limit <= high]
    if not inside:
        return f"{_interval(design)} alone does not decide"
    limits = " and ".join(value_text(design, limit) for limit in inside)
    if low <= design.aim <= high:
        return f"{_interval(design)} contains both {limits} and the effect aimed at, {aim_text(design)}"
    return f"{_interval(design)} contains {limits} and leaves out the effect aimed at, {aim_text(design)}"


def _interval(design: MeanTest) -> str:
    """The subject of a sentence: the interval, or the one number that every seed has."""
    interval = design.estimate.interval
    ends = ends_text(interval, lambda value, digits: value_text(design, value, digits))
    return f"the interval {ends}" if ends else f"{value_text(design, interval.mean)}, the same in every seed,"
