"""The parts of evidence: chances and the text of effects, intervals, reasons and excluded runs."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from hessflat.analysis.decisions import NOTHING, Chance, conjunction, verdict_of
from hessflat.analysis.designs import FACTOR, FIFTH, Design, MeanTest, Origin, Unit
from hessflat.analysis.experiment import Effect, Evidence, Magnitude
from hessflat.analysis.names import is_fraction, number
from hessflat.analysis.results import Needs, Run, meeting
from hessflat.analysis.statistics import ROUNDING, Estimate, ExactTest, Interval

Statistic = Callable[[Run], float]
Expect = Literal["larger", "smaller"]
# The ends of sentences that say how a rule decides.
BY_T = "Student's t over seeds"
EXACTLY = "exact permutation test"


def against(
    estimate: Estimate,
    limit: float,
    expect: Expect,
    least: float | None = None,
    unit: Unit = "plain",
    examples: int = 0,
    origin: Origin = "least",
) -> Chance:
    """The chance of the claim that an expectation is above (`expect="larger"`) or below a limit.

    `least` is the distance from the limit that the test should find, a fifth of the limit where it is not given.
    `unit`, `examples` and `origin` are those of `MeanTest`.
    """
    far = FIFTH * abs(limit) if least is None else least
    above, below = estimate.above(limit), estimate.below(limit)
    if expect == "larger":
        return Chance(above, below, design=MeanTest(estimate, limit, math.inf, limit + far, unit, examples, origin))
    return Chance(below, above, design=MeanTest(estimate, -math.inf, limit, limit - far, unit, examples, origin))


def between(estimate: Estimate, low: float, high: float, unit: Unit = "plain") -> Chance:
    """The chance of the claim that an expectation lies between two limits."""
    return Chance(
        max(estimate.above(low), estimate.below(high)),
        min(estimate.below(low), estimate.above(high)),
        design=MeanTest(estimate, low, high, (low + high) / 2, unit),
    )


def of_test(test: ExactTest, seeds: int, expect: Expect, design: Design) -> Chance:
    """The chance of the claim that a number is larger (or smaller) than by chance; one seed shows nothing."""
    if seeds < 2:
        return NOTHING
    sides = (test.larger, test.smaller) if expect == "larger" else (test.smaller, test.larger)
    return Chance(*sides, test.floor, design)


def decided(
    runs: Sequence[Run],
    rule: str,
    chance: Chance,
    value: str,
    spread: str,
    seeds: int,
    explanation: str,
    line: str = "",
    effect: Effect | None = None,
) -> Evidence:
    """The evidence that a rule comes to from `runs`.

    `line` names what the claim is on one side of, for the clause of the explanation that says why.
    """
    verdict = verdict_of(chance)
    explanation = "; ".join(filter(None, [explanation, reason(verdict, seeds, line) if line else ""]))
    return Evidence(value, spread, seeds, verdict, explanation + left_out(runs), effect, rule, chance)


def reason(verdict: str, seeds: int, line: str) -> str:
    """A clause that says what chance has to do with being on one side of `line`."""
    if seeds < 2:
        return "one seed cannot decide"
    return {
        "holds": f"chance alone puts it so far on the claimed side of {line} in at most 2.5 % of cases",
        "fails": f"chance alone puts it so far on the other side of {line} in at most 2.5 % of cases",
        "cannot decide": "so few settings and seeds cannot decide, whatever they show",
    }.get(verdict, f"chance alone may put it on this side of {line}")


def exact_text(test: ExactTest, seeds: int) -> str:
    """`exact p = 0.004 (at least 5e-5), 3 seeds`: that of the side on which the number is."""
    if seeds < 2:
        return "one seed, no test"
    # Both sides are tested, each at 2.5 %.
    two_sided = min(1.0, 2 * min(test.larger, test.smaller))
    return f"exact p = {number(two_sided, 2)} (at least {number(min(1.0, 2 * test.floor), 2)}), {seed_count(seeds)}"


def magnitude(effect: Effect | None, seeds: int, paper: float | None) -> tuple[Magnitude, str] | None:
    """Whether an effect is as large as in the paper, and the text of how the two compare; None where one has no size.

    It "agrees" where the interval of the ratio of the two lies within a factor of 2 of 1, and the effect's own leaves
    out none; it "differs" where the first lies outside, or the effect's has the other sign; it is "open" otherwise, and
    where seeds have no spread.
    """
    if effect is None or paper is None:
        return None
    mean, low, high = effect.interval
    is_up = paper > (1 if effect.scale == "ratio" else 0)
    same_sign, other_sign = (low > 0, high < 0) if is_up else (high < 0, low > 0)
    if effect.scale == "ratio":
        size, said = f"× {number(exp_or_inf(mean), 3)}", f"× {number(paper, 3)}"
        mean, low, high = (exp_or_inf(end - math.log(paper)) for end in (mean, low, high))
    else:
        size, said = f"{signed(100 * mean)} points", f"{signed(100 * paper)} points"
        mean, low, high = mean / paper, *sorted((low / paper, high / paper))
    verdict: Magnitude = "open"
    has_interval = seeds > 1 and high > low
    if has_interval and same_sign and low >= 1 / FACTOR and high <= FACTOR:
        verdict = "agrees"
    elif has_interval and (other_sign or high < 1 / FACTOR or low > FACTOR):
        verdict = "differs"
    interval = f", 95 % interval [{number(low, 3)}, {number(high, 3)}]" if has_interval else ", no interval"
    return verdict, f"{size} here, {said} in the paper: {number(mean, 3)} of the paper's{interval}"


def no_evidence(runs: Sequence[Run], why: str, rule: str) -> Evidence:
    """Evidence without a number: "undecided" where a run diverged or failed, else "not run"."""
    tried = [run for run in runs if run.status in ("diverged", "failed")]
    return Evidence("", "", 0, "undecided" if tried else "not run", why + left_out(runs), rule=rule)


def none_finished(runs: Sequence[Run], rule: str) -> Evidence:
    """Evidence without a number where no run has finished, or none is of the kind that a claim is on."""
    return no_evidence(runs, "no run has finished" if runs else "no run is of the kind that the claim is on", rule)


def not_applicable(rule: str, why: str, seeds: int, value: str = "") -> Evidence:
    """Evidence of runs to which a claim does not apply: they could not tell for or against it."""
    return Evidence(value, "", seeds, "not applicable", why, rule=rule)


def all_hold(*parts: Evidence) -> Evidence:
    """The conjunction of rules: it holds where every part does, and fails where any does, of as many as there are.

    Parts that are not applicable are left to the others. Otherwise the conjunction is "not run" if a part is.
    """
    decisive = [part for part in parts if part.verdict != "not applicable"] or list(parts)
    chances = [part.chance for part in decisive if part.chance]
    chance = conjunction(chances) if chances else None
    verdict = verdict_of(chance) if chance else "undecided"
    if verdict != "fails":
        # What has no chance is not run, not applicable, or undecided because runs diverged.
        lacking = [part.verdict for part in decisive if not part.chance]
        verdict = next((word for word in ("not run", "undecided", "not applicable") if word in lacking), verdict)
        chance = None if lacking else chance
    return Evidence(
        "; ".join(part.value for part in parts if part.value),
        "; ".join(part.spread for part in parts if part.spread),
        min(part.seeds for part in parts),
        verdict,
        "; and ".join(dict.fromkeys(part.explanation for part in parts)),
        None,
        "; and ".join(dict.fromkeys(part.rule for part in parts)),
        chance,
    )


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
    """`91 of 228 finished runs at chance are left out`; empty where none is."""
    done = [run for run in runs if run.status == "done"]
    count = len(done) - len([run for run in meeting(runs, needs) if run.status == "done"])
    why = {"learnt": "at chance", "fitted": "that did not fit the training data"}.get(needs, "")
    return f"{count} of {len(done)} finished runs {why} are left out" if count else ""


def effect_text(metric: str, mean: float, scale: str) -> str:
    """The text of a mean change: the ratio exp(`mean`) for the scale "ratio", else the difference with its unit."""
    if scale == "ratio":
        return f"ratio {exp_or_inf(mean):.3g}"
    return f"{change_text(metric, mean, scale)}{' points' if is_fraction(metric) else ''}"


def change_text(metric: str, value: float, scale: str, digits: int = 3) -> str:
    """The text of one end of an interval: the ratio exp(`value`), or the difference, in percentage points for a
    fraction.
    """
    if scale == "ratio":
        return number(exp_or_inf(value), digits)
    return signed(100 * value if is_fraction(metric) else value, digits)


def interval_text(interval: Interval, seeds: int, write: Callable[[float, int], str]) -> str:
    """`95 % interval [1, 2], 3 seeds`, by `ends_text`; for one seed, or one number, that there is none."""
    if seeds < 2:
        return "one seed, no interval"
    ends = ends_text(interval, write)
    return f"95 % interval {ends}, {seed_count(seeds)}" if ends else f"the same in all {seed_count(seeds)}, no interval"


def ends_text(interval: Interval, write: Callable[[float, int], str]) -> str:
    """`[1, 2]`; empty for an interval that says nothing, of width zero or the whole line: one number in all seeds.

    `write` takes a value and a number of significant digits: 3, or as many as it takes to tell the ends apart.
    """
    width = interval.high - interval.low
    if not math.isfinite(width) or width <= ROUNDING * abs(interval.mean):
        return ""
    ends = ["", ""]
    for digits in range(3, 17):
        ends = [write(end, digits) for end in (interval.low, interval.high)]
        if ends[0] != ends[1]:
            break
    return f"[{', '.join(ends)}]"


def side_of(expect: Expect) -> str:
    """`above` or `below`."""
    return "above" if expect == "larger" else "below"


def seed_count(count: int) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} seed{'' if count == 1 else 's'}"


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return f"{'+' if value > 0 else ''}{number(value, digits)}"


def exp_or_inf(value: float) -> float:
    """exp(value); infinite where it overflows."""
    return math.exp(value) if value < 700 else math.inf
