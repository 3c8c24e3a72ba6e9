"""From an interval over seeds to a verdict, and the text of evidence: effects, intervals, reasons, excluded runs."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from hessflat.analysis.experiment import Effect, Evidence, Magnitude, Verdict
from hessflat.analysis.names import is_fraction, number
from hessflat.analysis.results import Needs, Run, meeting
from hessflat.analysis.statistics import Interval, OrderTest

Expect = Literal["larger", "smaller"]
_ONE_SIDED = 0.025
_FACTOR = 2.0  # within which the size of an effect agrees with that in the paper


def verdict_against_zero(change: Interval, seeds: int, expect: Expect, or_equal: bool = False) -> Verdict:
    """The verdict on the claim that a number is above (`expect="larger"`) or below 0, from its interval.

    "holds" or "fails" where the interval lies wholly on one side; "undecided" otherwise, and for fewer than two seeds.
    With `or_equal` an interval that ends at 0 holds.
    """
    if seeds < 2:
        return "undecided"
    low, high = (change.low, change.high) if expect == "larger" else (-change.high, -change.low)
    if low > 0 or (or_equal and low == 0):
        return "holds"
    return "fails" if high < 0 else "undecided"


def verdict_within(interval: Interval, low: float, high: float, seeds: int) -> Verdict:
    """The verdict on the claim that a number lies between `low` and `high`, from its interval.

    "holds" where the interval lies between the limits, "fails" where it lies outside; "undecided" otherwise, and for
    fewer than two seeds.
    """
    if seeds < 2:
        return "undecided"
    if low <= interval.low and interval.high <= high:
        return "holds"
    return "fails" if interval.high < low or interval.low > high else "undecided"


def verdict_of_order(test: OrderTest, seeds: int, expect: Expect) -> Verdict:
    """The verdict on the claim that an order is the expected one, by its probability if there is none.

    "holds" or "fails" where that is at most 2.5 %, on one side or the other; "undecided" otherwise, and for fewer than
    two seeds.
    """
    if seeds < 2:
        return "undecided"
    claimed, other = (test.larger, test.smaller) if expect == "larger" else (test.smaller, test.larger)
    if claimed <= _ONE_SIDED:
        return "holds"
    return "fails" if other <= _ONE_SIDED else "undecided"


def order_text(test: OrderTest, seeds: int) -> str:
    """`exact p = 0.004 (at least 5e-5), 3 seeds`: that of the side on which the order is."""
    if seeds < 2:
        return "one seed, no test"
    # Both sides are tested, each at 2.5 %.
    two_sided = min(1.0, 2 * min(test.larger, test.smaller))
    return f"exact p = {number(two_sided, 2)} (at least {number(min(1.0, 2 * test.floor), 2)}), {seed_count(seeds)}"


def order_reason(verdict: Verdict, test: OrderTest, seeds: int) -> str:
    """A clause that says what the test of an order says."""
    if seeds < 2:
        return "one seed cannot decide"
    if test.floor > _ONE_SIDED:
        return "so few settings and seeds cannot decide, whatever their order"
    return {
        "holds": "without an order, one so clear would come by chance in at most 2.5 %",
        "fails": "without an order, one so clear the other way would come by chance in at most 2.5 %",
    }.get(verdict, "it may have come by chance")


def magnitude(effect: Effect | None, seeds: int, paper: float | None) -> tuple[Magnitude, str] | None:
    """Whether an effect is as large as in the paper, and the text of how the two compare; None where one has no size.

    It "agrees" where the interval of the ratio of the two lies within a factor of 2 of 1, "differs" where it lies
    outside, and is "open" otherwise, and where seeds have no spread. An effect of the other sign differs.
    """
    if effect is None or paper is None:
        return None
    mean, low, high = effect.interval
    if effect.scale == "ratio":
        size, said = f"× {number(exp_or_inf(mean), 3)}", f"× {number(paper, 3)}"
        mean, low, high = (exp_or_inf(end - math.log(paper)) for end in (mean, low, high))
    else:
        size, said = f"{signed(100 * mean)} points", f"{signed(100 * paper)} points"
        mean, low, high = mean / paper, *sorted((low / paper, high / paper))
    verdict: Magnitude = "open"
    has_interval = seeds > 1 and high > low
    if has_interval and low >= 1 / _FACTOR and high <= _FACTOR:
        verdict = "agrees"
    elif has_interval and (high < 1 / _FACTOR or low > _FACTOR):
        verdict = "differs"
    interval = f", 95 % interval [{number(low, 3)}, {number(high, 3)}]" if has_interval else ", no interval"
    return verdict, f"{size} here, {said} in the paper: {number(mean, 3)} of it{interval}"


def no_evidence(runs: Sequence[Run], reason: str) -> Evidence:
    """Evidence without a number: "undecided" where a run diverged or failed, else "not run"."""
    tried = [run for run in runs if run.status in ("diverged", "failed")]
    return Evidence("", "", 0, "undecided" if tried else "not run", reason + left_out(runs))


def reason(verdict: Verdict, seeds: int, line: str) -> str:
    """A clause that says on which side of `line` the interval lies."""
    if seeds < 2:
        return "one seed cannot decide"
    return {
        "holds": f"the interval lies on the claimed side of {line}",
        "fails": f"the interval lies on the other side of {line}",
    }.get(verdict, f"the interval includes {line}")


def left_out(runs: Sequence[Run]) -> str:
    """A clause that lists the runs that did not finish (more than four by counts); empty where all finished."""
    unfinished = [run for run in runs if run.status != "done"]
    if len(unfinished) > 4:
        counts = Counter(run.status for run in unfinished)
        return f"; left out: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))} runs"
    if not unfinished:
        return ""
    return f"; left out: {', '.join(f'{run.folder.name} ({run.status})' for run in unfinished)}"


def not_needed(runs: Sequence[Run], needs: Needs) -> str:
    """`91 of 228 finished runs at chance left out`; empty where none is."""
    done = [run for run in runs if run.status == "done"]
    count = len(done) - len([run for run in meeting(runs, needs) if run.status == "done"])
    why = {"learnt": "at chance", "fitted": "that did not fit the training data"}.get(needs, "")
    return f"{count} of {len(done)} finished runs {why} left out" if count else ""


def effect_text(metric: str, mean: float, scale: str) -> str:
    """The text of a mean change: the ratio exp(`mean`) for the scale "ratio", else the difference with its unit."""
    if scale == "ratio":
        return f"ratio {exp_or_inf(mean):.3g}"
    return f"{change_text(metric, mean, scale)}{' points' if is_fraction(metric) else ''}"


def change_text(metric: str, value: float, scale: str) -> str:
    """The text of one end of an interval: the ratio exp(`value`), or the difference, in percentage points for a
    fraction.
    """
    if scale == "ratio":
        return number(exp_or_inf(value), 3)
    return signed(100 * value if is_fraction(metric) else value)


def interval_text(interval: Interval, seeds: int, write: Callable[[float], str]) -> str:
    """`95 % interval [1, 2], 3 seeds`, each end formatted by `write`; for one seed, that there is no interval."""
    if seeds < 2:
        return "one seed, no interval"
    return f"95 % interval [{write(interval.low)}, {write(interval.high)}], {seed_count(seeds)}"


def seed_count(count: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"


def signed(value: float) -> str:
    """A number in three significant digits, with its sign."""
    return f"{'+' if value > 0 else ''}{number(value, 3)}"


def exp_or_inf(value: float) -> float:
    """exp(value); infinite where it overflows."""
    return math.exp(value) if value < 700 else math.inf
