"""Which measures follow the generalisation gap? Kendall's tau over the runs of an experiment, with an interval."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis.experiment import Experiment, Table
from hessflat.analysis.names import metric_name, setting_name
from hessflat.analysis.results import Run, finished
from hessflat.analysis.statistics import kendall_tau

GAP = "gap_loss"
# What the papers and their critics take for flatness, and for what it stands in for.
MEASURES = (
    "hessian.lambda_max",
    "hessian_eval.lambda_max",
    "gauss_newton.lambda_max",
    "hessian.trace",
    "hessian.frobenius",
    "hessian.norm_scaled_lambda_max",
    "hessian.adaptive_lambda_max",
    "hessian.filter_lambda_max",
    "jacobian.max",
    "jacobian.mean",
    "softmax_jacobian.max",
    "weight_norm",
)
_RESAMPLES = 1_000


class Correlation(NamedTuple):
    """Kendall's tau of a measure with the gap over runs, and the ends of its 95 % bootstrap interval."""

    tau: float
    low: float
    high: float
    runs: int


def correlation(runs: Sequence[Run], measure: str, target: str = GAP) -> Correlation | None:
    """Tau-b over the finished runs that have both numbers; None where fewer than four have.

    The interval is that of percentiles over 1,000 samples of as many runs, drawn with replacement. It counts the runs
    as independent, though those of a seed share their initial weights and those of a setting the setting.
    """
    points = [(run.final_or_nan(measure), run.final_or_nan(target)) for run in finished(runs)]
    found = np.array([point for point in points if all(map(math.isfinite, point))])
    if len(found) < 4:
        return None
    generator = np.random.default_rng(0)
    samples = [found[generator.integers(0, len(found), len(found))] for _ in range(_RESAMPLES)]
    low, high = np.quantile([kendall_tau(*sample.T) for sample in samples], (0.025, 0.975))
    return Correlation(kendall_tau(*found.T), float(low), float(high), len(found))


def correlation_table(experiments: Iterable[tuple[Experiment, str, Sequence[Run]]]) -> Table | None:
    """A column for every experiment and scale whose runs differ in a regulariser, a row for every measure.

    Measures that none of them has are left out; None where there is no such experiment.
    """
    columns = {
        f"{experiment.id} ({setting_name(experiment.regulariser)}), {scale}": {
            measure: correlation(runs, measure) for measure in MEASURES
        }
        for experiment, scale, runs in experiments
        if experiment.regulariser
    }
    columns = {name: column for name, column in columns.items() if any(column.values())}
    if not columns:
        return None
    shown = [measure for measure in MEASURES if any(column[measure] for column in columns.values())]
    rows = tuple((metric_name(measure), *(_cell(column[measure]) for column in columns.values())) for measure in shown)
    counts = [max(found.runs for found in column.values() if found) for column in columns.values()]
    caption = (
        "Kendall τ of each measure with the generalisation gap |train − test loss| at the end of training, over the "
        "finished runs of every experiment that varies a regulariser, with its 95 % bootstrap interval over runs. "
        "+1: the larger the measure, the larger the gap, as a measure of flatness promises; below 0: it misleads. A "
        "star: the interval leaves out 0."
    )
    return Table(caption, ("measure", *columns), (*rows, ("runs", *map(str, counts))))


def _cell(found: Correlation | None) -> str:
    if found is None:
        return "–"
    star = "*" if found.low > 0 or found.high < 0 else ""
    return f"{found.tau:+.2f}{star} [{found.low:+.2f}, {found.high:+.2f}]"
