"""Kendall's tau of curvature and Jacobian measures with the generalisation gap over runs, with bootstrap intervals.

Tau is computed over pairs of runs. A pair counts if both runs train one network on one data set, or, for a single
regulariser, if the two runs differ in that regulariser (and the seed) alone. The gap is |train − test loss| in nats at
the last measured step.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.names import metric_name, setting_name
from hessflat.analysis.results import Run, finished

GAP = "gap_loss"
SHARPNESS, JACOBIAN = "hessian.lambda_max", "jacobian.max"
# What the papers and their critics take for flatness, and for what it stands in for.
COMPARED_MEASURES = (
    SHARPNESS,
    "hessian_eval.lambda_max",
    "gauss_newton.lambda_max",
    "hessian.trace",
    "hessian.frobenius",
    "hessian.norm_scaled_lambda_max",
    "hessian.adaptive_lambda_max",
    "hessian.filter_lambda_max",
    JACOBIAN,
    "jacobian.mean",
    "softmax_jacobian.max",
    "softmax_jacobian.mean",
    "weight_norm",
)
_RESAMPLES = 1_000


class Correlation(NamedTuple):
    """Kendall's tau-b of a measure with the target over runs, and the ends of its 95 % bootstrap interval."""

    tau: float
    low: float
    high: float
    runs: int


def correlation(
    runs: Sequence[Run],
    measure: str,
    target: str = GAP,
    given: str = "",
    stratum: Callable[[Run], Hashable] = lambda run: None,
) -> Correlation | None:
    """Kendall's tau-b of `measure` and `target` over pairs of finished runs that share a `stratum`.

    With a measure `given`, it is the partial tau (Kendall 1942): (τ_mt − τ_mg τ_gt) / √((1 − τ_mg²)(1 − τ_gt²)).

    The interval is the percentile interval over 1,000 bootstrap samples of the runs, with a fixed random seed. It
    treats runs as independent, although runs of one seed share their initial weights.

    Args:
        runs: runs, of which those that finished and have all metrics count.
        measure: the name of a metric, read at the last measured step.
        target: the name of the other metric.
        given: the name of the metric that is controlled for, or "".
        stratum: maps a run to a key; only runs with equal keys are compared.

    Returns:
        None where fewer than four runs count, or where no pair of them is ordered by both metrics.
    """
    names = [measure, target, *([given] if given else [])]
    rows = [(run, [run.final_or_nan(name) for name in names]) for run in finished(runs)]
    rows = [(run, numbers) for run, numbers in rows if all(map(math.isfinite, numbers))]
    if len(rows) < 4:
        return None
    keys = [stratum(run) for run, _ in rows]
    compared = np.array([[one == other for other in keys] for one in keys])
    values = np.array([numbers for _, numbers in rows])
    signs = [np.sign(np.subtract.outer(column, column)) * compared for column in values.T]
    generator = np.random.default_rng(0)
    size = len(rows)
    samples = [np.bincount(generator.integers(0, size, size), minlength=size) for _ in range(_RESAMPLES)]
    counts = np.array([np.ones(size), *samples])
    taus = _tau(signs[0], signs[1], counts)
    if math.isnan(taus[0]):
        return None
    if given:
        taus = _partial(taus, _tau(signs[0], signs[2], counts), _tau(signs[2], signs[1], counts))
    low, high = np.quantile(np.nan_to_num(taus[1:]), (0.025, 0.975))
    return Correlation(float(np.nan_to_num(taus[0])), float(low), float(high), size)


def _tau(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[samples] Tau-b from the signs of differences `[n, n]`, each run counted `counts` `[samples, n]` times.

    It is 0 where either side is constant. In the first sample, the runs themselves, it is then NaN.
    """

    def total(matrix: np.ndarray) -> np.ndarray:
        return np.einsum("si,si->s", counts @ matrix, counts)

    scale = np.sqrt(total(x**2) * total(y**2))
    tau = np.divide(total(x * y), scale, out=np.zeros_like(scale), where=scale > 0)
    tau[0] = tau[0] if scale[0] else math.nan
    return tau


def _partial(direct: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Partial tau; 0 where the given measure determines the order of one of the two entirely."""
    scale = np.sqrt((1 - first**2) * (1 - second**2))
    return np.divide(direct - first * second, scale, out=np.zeros_like(scale), where=scale > 1e-12)


def network_and_data(runs: Sequence[Run]) -> Callable[[Run], Hashable]:
    """A function that maps a run to a key; runs of equal keys have the same settings `model.*` and `data.*`."""
    return _differing_settings(runs, lambda name: name.startswith(("data.", "model.")))


def differing_only_in(runs: Sequence[Run], setting: str) -> tuple[list[Run], Callable[[Run], Hashable]]:
    """The runs for which another run differs in `setting` (and perhaps the seed) alone, and the key that such runs
    share.
    """
    key = _differing_settings(runs, lambda name: name not in (setting, "seed", "experiment"))
    values: dict[Hashable, set[Any]] = {}
    for run in runs:
        values.setdefault(key(run), set()).add(run.setting(setting))
    return [run for run in runs if len(values[key(run)]) > 1], key


def _differing_settings(runs: Sequence[Run], counts: Callable[[str], bool]) -> Callable[[Run], Hashable]:
    """A function that maps a run to its values of the settings in which these runs differ and whose names `counts`
    accepts.

    A setting with one value in all runs that have it is ignored, so that runs stored without it are comparable.
    """
    settings = {run.folder: dict(_flat(run.config)) for run in runs}
    values: dict[str, set[str]] = {}
    for own in settings.values():
        for name, value in own.items():
            values.setdefault(name, set()).add(value)
    differing = sorted(name for name, own in values.items() if len(own) > 1 and counts(name))
    return lambda run: tuple(settings[run.folder].get(name) for name in differing)


def _flat(block: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in block.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def correlation_table(stored: Iterable[StoredExperiment]) -> Table | None:
    """Kendall's tau with the gap: one column for each experiment and scale that varies a regulariser, one row for each
    measure.

    Rows of measures that no run has are left out. None where there is no such experiment.
    """
    columns = {
        f"{experiment.id} ({', '.join(map(setting_name, experiment.regularisers))}), {scale}": {
            measure: correlation(runs, measure, stratum=network_and_data(runs)) for measure in COMPARED_MEASURES
        }
        for experiment, scale, runs, *_ in stored
        if experiment.regularisers
    }
    return _table(
        columns,
        "Kendall τ of each measure with the generalisation gap |train − test loss| at the end of training, over the "
        "finished runs of every experiment that varies a regulariser, with its 95 % bootstrap interval over runs. "
        "+1: the larger the measure, the larger the gap, as a measure of flatness promises; below 0: it misleads. A "
        "star: the interval leaves out 0.",
    )


def regulariser_tables(stored: Iterable[StoredExperiment]) -> list[Table]:
    """Two tables for each scale over the runs of all experiments of *On progressive sharpening*, by regulariser and
    pooled.

    The first has Kendall's tau of each measure with the gap. The second has the partial tau, given the largest Jacobian
    norm, or given λ_max(H) for Jacobian norms of the outputs. Runs that several experiments share count once.
    """
    by_scale: dict[str, tuple[dict[str, None], dict[Any, Run]]] = {}
    for experiment, scale, runs, *_ in stored:
        if experiment.paper == "M" and experiment.regularisers:
            settings, together = by_scale.setdefault(scale, ({}, {}))
            settings.update(dict.fromkeys(experiment.regularisers))
            # Experiments may ask different questions of the same runs.
            together.update({run.folder: run for run in finished(runs)})
    tables = []
    for scale, (settings, together) in by_scale.items():
        runs = list(together.values())
        groups = {setting_name(setting): differing_only_in(runs, setting) for setting in settings}
        groups["pooled"] = (runs, network_and_data(runs))
        plain = {
            name: {measure: correlation(group, measure, stratum=key) for measure in COMPARED_MEASURES}
            for name, (group, key) in groups.items()
        }
        beside = {
            name: {
                measure: correlation(
                    group, measure, given=SHARPNESS if measure in (JACOBIAN, "jacobian.mean") else JACOBIAN, stratum=key
                )
                for measure in COMPARED_MEASURES
            }
            for name, (group, key) in groups.items()
        }
        pairs = (
            "Of a regulariser, pairs of runs that differ in it (and the seed) alone; pooled, all pairs of runs of one "
            "network on one data set. 95 % bootstrap intervals over runs; a star: the interval leaves out 0."
        )
        tables += [
            _table(
                plain,
                f"By regulariser, scale {scale}: Kendall τ of each measure with the generalisation gap |train − test "
                f"loss| on clean examples and unsmoothed labels. {pairs}",
            ),
            _table(
                beside,
                f"By regulariser, scale {scale}: partial Kendall τ of each measure with the gap, given "
                f"{metric_name(JACOBIAN)}; of Jacobian norms of the outputs, given {metric_name(SHARPNESS)}. {pairs}",
            ),
        ]
    return [table for table in tables if table is not None]


def _table(columns: dict[str, dict[str, Correlation | None]], caption: str) -> Table | None:
    columns = {name: column for name, column in columns.items() if any(column.values())}
    if not columns:
        return None
    shown = [measure for measure in COMPARED_MEASURES if any(column[measure] for column in columns.values())]
    rows = tuple((metric_name(measure), *(_cell(column[measure]) for column in columns.values())) for measure in shown)
    counts = [max(cell.runs for cell in column.values() if cell) for column in columns.values()]
    return Table(caption, ("measure", *columns), (*rows, ("runs", *map(str, counts))))


def _cell(correlated: Correlation | None) -> str:
    if correlated is None:
        return "–"
    tau, low, high, _ = correlated
    star = "*" if low > 0 or high < 0 else ""
    return f"{tau:+.2f}{star} [{low:+.2f}, {high:+.2f}]"
