"""How evidence reads: an effect, its interval, the reason for a verdict and the runs it leaves out, in words."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from hessflat.analysis.experiment import Verdict
from hessflat.analysis.names import is_fraction, number
from hessflat.analysis.results import Run
from hessflat.analysis.statistics import Interval


def reason(verdict: Verdict, seeds: int, line: str) -> str:
    if seeds < 2:
        return "one seed cannot decide"
    return {
        "holds": f"the interval lies on the claimed side of {line}",
        "fails": f"the interval lies on the other side of {line}",
    }.get(verdict, f"the interval includes {line}")


def left_out(runs: Sequence[Run]) -> str:
    """The runs that did not finish by name, where they are few."""
    out = [run for run in runs if run.status != "done"]
    if len(out) > 4:
        counts = Counter(run.status for run in out)
        return f"; left out: {', '.join(f'{count} {status}' for status, count in sorted(counts.items()))} runs"
    return f"; left out: {', '.join(f'{run.folder.name} ({run.status})' for run in out)}" if out else ""


def effect(metric: str, mean: float, scale: str) -> str:
    if scale == "ratio":
        return f"ratio {exp_or_inf(mean):.3g}"
    return f"{end(metric, mean, scale)}{' points' if is_fraction(metric) else ''}"


def end(metric: str, value: float, scale: str) -> str:
    """One end of the interval: a ratio, or a difference, in points where the metric is a fraction."""
    if scale == "ratio":
        return number(exp_or_inf(value), 3)
    return signed(100 * value if is_fraction(metric) else value)


def interval(found: Interval, seeds: int, write: Callable[[float], str]) -> str:
    if seeds < 2:
        return "one seed, no interval"
    return f"95 % interval [{write(found.low)}, {write(found.high)}], {seed_count(seeds)}"


def seed_count(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value, 3)}"


def exp_or_inf(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
