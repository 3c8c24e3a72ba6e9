"""Kendall's tau of curvature and Jacobian measures with the generalisation gap over runs that fit, with intervals.

Tau is computed over pairs of runs of different settings. A pair counts if both runs train one network on one data set,
or, for a single regulariser, if the two runs differ in that regulariser (and the seed) alone. The gap is |train − test
loss| in nats at the last measured step. A run that does not fit its training data has a small gap whatever its
curvature is, so only runs that do are compared; how far they fit is a measure among the others, and a control.
"""

import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from hessflat.analysis.evidence import not_needed
from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.names import metric_name, setting_name
from hessflat.analysis.results import NO_DIFFERENCE, Run, finished, meeting, setting_of

GAP = "gap_loss"
FIT, SHARPNESS, JACOBIAN = "train_loss", "hessian.lambda_max", "jacobian.max"
# What the papers and their critics take for flatness, and for what it stands in for.
COMPARED_MEASURES = (
    FIT,
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
    "jacobian.frobenius_max",
    "jacobian.frobenius_mean",
    "softmax_jacobian.frobenius_max",
    "softmax_jacobian.frobenius_mean",
    "weight_norm",
    *(
        f"m_sharpness.{logits}{scaled}{form}"
        for logits in ("", "logit_normalised_")
        for scaled in ("", "adaptive_")
        for form in ("worst_l2", "worst_linf", "average")
    ),
    "geodesic_sharpness.worst",
    "fisher_rao.empirical",
    "fisher_rao.model",
    "pac_bayes.inverse_variance",
    "pac_bayes.magnitude_inverse_variance",
    "relative_flatness.sum",
    "relative_flatness.max",
    "norms.distance",
    "norms.spectral_product",
    "norms.spectral_product_over_margin",
    "norms.path",
    "norms.path_over_margin",
)
_ROUNDING = 1e-9
# With three settings no interval has the coverage that it states.
_FEWEST_SETTINGS = 4
_ROWS_AT_ONCE = 4_000_000  # of the matrix of pairs, in entries


class Correlation(NamedTuple):
    """Kendall's tau-b of a measure with the target over runs, and the ends of its 95 % interval, NaN where none is."""

    tau: float
    low: float
    high: float
    runs: int
    settings: int

    @property
    def is_found(self) -> bool:
        """Whether there is an interval and it leaves out 0."""
        return self.low > 0 or self.high < 0


def correlation(
    runs: Sequence[Run],
    measure: str,
    target: str = GAP,
    given: str = "",
    stratum: Callable[[Run], Hashable] = lambda run: None,
    setting: Callable[[Run], Hashable] = setting_of,
) -> Correlation | None:
    """Kendall's tau-b of `measure` and `target` over pairs of finished runs that share a `stratum`, not a setting.

    Two runs share a setting where they differ in the seed alone. With a measure `given`, it is the partial tau (Kendall
    1942): (τ_mt − τ_mg τ_gt) / √((1 − τ_mg²)(1 − τ_gt²)).

    The interval is Student's, of the jackknife over settings (Arvesen 1969): a setting is left out with all its seeds.
    It is computed for artanh τ, and has as many degrees of freedom as there are settings, less one. Where measure and
    gap have nothing to do with one another, it leaves out 0 in at most 6 % of cases, from 4 settings on.

    Args:
        runs: runs, of which those that finished and have all metrics count.
        measure: the name of a metric, read at the last measured step.
        target: the name of the other metric.
        given: the name of the metric that is controlled for, or "".
        stratum: maps a run to a key; only runs with equal keys are compared.
        setting: maps a run to a key; runs of one setting have equal keys.

    Returns:
        None where no pair of runs is ordered by both metrics, or where the given one orders them all as one of the two
        does. There is no interval with fewer than 4 settings, nor where tau is the same whichever is left out.
    """
    names = [measure, target, *([given] if given else [])]
    rows = [(run, [run.final_or_nan(name) for name in names]) for run in finished(runs)]
    rows = [(run, numbers) for run, numbers in rows if all(map(math.isfinite, numbers))]
    if not rows:
        return None
    settings, strata = (_numbered([key(run) for run, _ in rows]) for key in (setting, stratum))
    totals = _totals(np.array([numbers for _, numbers in rows]).T, settings, strata)
    compared = totals[0, 0] > 0  # the settings that have a pair
    count = int(compared.sum())
    # Over all settings first, then without each; a setting's pairs are counted from both sides.
    whole = totals.sum(axis=-1, keepdims=True)
    sums = np.concatenate([whole, whole - 2 * totals], axis=-1)
    taus = _tau(sums, 0, 1)
    if not sums[0, 0, 0] or not sums[1, 1, 0]:
        return None
    if given:
        beside = _tau(sums, 0, 2), _tau(sums, 2, 1)
        if max(abs(tau[0]) for tau in beside) > 1 - _ROUNDING:
            return None
        taus = _partial(taus, *beside)
    low, high = _jackknife(taus[0], taus[1:][compared]) if count >= _FEWEST_SETTINGS else (math.nan, math.nan)
    return Correlation(float(taus[0]), low, high, len(rows), count)


def _numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """[n] The number of each key among the different ones, from 0 in the order in which they come."""
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(key, len(places)) for key in keys])


def _totals(columns: np.ndarray, settings: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """[c, c, S] The sum, over the pairs that count and have a run of a setting, of the products of two columns' signs.

    `columns` is `[c, n]`; the sign of a column and a pair is that of its difference.
    """
    totals = np.zeros((len(columns), len(columns), settings.max() + 1))
    size = len(settings)
    for start in range(0, size, step := max(1, _ROWS_AT_ONCE // size)):
        own = slice(start, start + step)
        counts = (strata[own, None] == strata) & (settings[own, None] != settings)
        signs = [np.sign(column[own, None] - column) * counts for column in columns]
        for i, one in enumerate(signs):
            for j, other in enumerate(signs[: i + 1]):
                np.add.at(totals[i, j], settings[own], np.einsum("ij,ij->i", one, other))
    lower = np.tril_indices(len(columns), -1)
    totals[lower[1], lower[0]] = totals[lower]
    return totals


def _tau(sums: np.ndarray, i: int, j: int) -> np.ndarray:
    """Tau-b of two columns from sums `[c, c, ...]` of products of signs; 0 where either side is constant."""
    scale = np.sqrt(sums[i, i] * sums[j, j])
    return np.divide(sums[i, j], scale, out=np.zeros_like(scale), where=scale > 0)


def _partial(direct: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Partial tau; 0 where the given measure determines the order of one of the two entirely."""
    scale = np.sqrt(np.maximum((1 - first**2) * (1 - second**2), 0))
    return np.divide(direct - first * second, scale, out=np.zeros_like(scale), where=scale > _ROUNDING)


def _jackknife(tau: float, without: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of tau from its values without each setting `[S]`; NaN where these are all the same."""
    count = len(without)
    # As if half of one pair of settings were not ordered, for artanh 1 is infinite.
    most = 1 - 1 / (count * (count - 1))
    whole, each = (np.arctanh(np.clip(value, -most, most)) for value in (tau, without))
    error = math.sqrt((count - 1) / count * float(((each - each.mean()) ** 2).sum()))
    if not error > 1e-12:
        return math.nan, math.nan
    half = stats.t.ppf(0.975, count - 1) * error
    return float(np.tanh(whole - half)), float(np.tanh(whole + half))


class Grid(NamedTuple):
    """Correlations of measures with the gap, in columns by group of runs, with a file's name and a caption."""

    name: str
    columns: dict[str, dict[str, Correlation | None]]
    caption: str

    @property
    def measures(self) -> list[str]:
        """Those that any group has, in the order of `COMPARED_MEASURES`."""
        return [measure for measure in COMPARED_MEASURES if any(own[measure] for own in self.columns.values())]


def network_and_data(runs: Sequence[Run]) -> Callable[[Run], Hashable]:
    """A function that maps a run to a key; runs of equal keys have the same settings `model.*` and `data.*`."""
    return _differing_settings(runs, lambda name: name.startswith(("data.", "model.")) and name not in NO_DIFFERENCE)


def differing_only_in(runs: Sequence[Run], setting: str) -> tuple[list[Run], Callable[[Run], Hashable]]:
    """The runs for which another run differs in `setting` (and perhaps the seed) alone, and the key that such runs
    share.
    """
    key = _differing_settings(runs, lambda name: name != setting and name not in NO_DIFFERENCE)
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


def experiment_grid(stored: Iterable[StoredExperiment]) -> Grid:
    """Kendall's tau with the gap: one column for each experiment and scale that varies a regulariser."""
    columns: dict[str, dict[str, Correlation | None]] = {}
    excluded = []
    for experiment, scale, runs, *_ in stored:
        if not experiment.regularisers:
            continue
        fitted = finished(meeting(runs, "fitted"))
        name = f"{experiment.id} ({', '.join(map(setting_name, experiment.regularisers))}), {scale}"
        columns |= _columns({name: (fitted, network_and_data(fitted))}, lambda measure: "")
        excluded += [f"{experiment.id}, {scale}: {text}" for text in [not_needed(runs, "fitted")] if text]
    return Grid(
        "correlations",
        columns,
        "Kendall τ of each measure with the generalisation gap |train − test loss| at the end of training, with its "
        "95 % interval over settings. Each column has the runs of one experiment that fit their training data. If τ "
        "is 1, the run with the larger measure has the larger gap in every pair. If τ is below 0, it has the smaller "
        f"gap in most pairs. {_STAR}" + (f" {'; '.join(excluded)}." if excluded else ""),
    )


def regulariser_grids(stored: Iterable[StoredExperiment]) -> list[tuple[Grid, Grid, Grid]]:
    """Three grids for each scale over the fitted runs of *On progressive sharpening*, by regulariser and pooled.

    The first has Kendall's tau of each measure with the gap. The second has the partial tau, given the training loss;
    the third has it given the largest Jacobian norm, or given λ_max(H) for Jacobian norms of the outputs. Runs that
    several experiments share count once.
    """
    by_scale: dict[str, tuple[dict[str, None], dict[Any, Run]]] = {}
    for experiment, scale, runs, *_ in stored:
        if experiment.paper == "M" and experiment.regularisers:
            settings, together = by_scale.setdefault(scale, ({}, {}))
            settings.update(dict.fromkeys(experiment.regularisers))
            # Experiments may ask different questions of the same runs.
            together.update({run.folder: run for run in finished(runs)})
    grids = []
    for scale, (settings, together) in by_scale.items():
        everything = list(together.values())
        runs, excluded = meeting(everything, "fitted"), not_needed(everything, "fitted")
        groups = {setting_name(setting): differing_only_in(runs, setting) for setting in settings}
        groups["pooled"] = (runs, network_and_data(runs))
        pairs = (
            "The column of a regulariser has pairs of runs that differ only in it and the seed. The pooled column has "
            "all pairs of runs of one network on one data set. All runs fit their training data. Intervals are 95 % "
            f"intervals over settings. {_STAR}"
        ) + (f" {excluded}." if excluded else "")
        name = f"correlations-{scale}"
        grids.append(
            (
                Grid(
                    name,
                    _columns(groups, lambda measure: ""),
                    f"By regulariser, scale {scale}: Kendall τ of each measure with the generalisation gap |train − "
                    f"test loss| on clean examples and unsmoothed labels. {pairs}",
                ),
                Grid(
                    f"{name}-given-fit",
                    _columns(groups, lambda measure: FIT),
                    (
                        f"By regulariser, scale {scale}: partial Kendall τ of each measure with the gap, given the "
                        f"training loss. {pairs}"
                    ),
                ),
                Grid(
                    f"{name}-given-the-other",
                    _columns(groups, lambda measure: SHARPNESS if measure.startswith("jacobian.") else JACOBIAN),
                    f"By regulariser, scale {scale}: partial Kendall τ of each measure with the gap, given "
                    f"{metric_name(JACOBIAN)}, or given {metric_name(SHARPNESS)} for Jacobian norms of the outputs. "
                    f"{pairs}",
                ),
            )
        )
    return grids


def _columns(
    groups: Mapping[str, tuple[Sequence[Run], Callable[[Run], Hashable]]], given: Callable[[str], str]
) -> dict[str, dict[str, Correlation | None]]:
    """The correlations of every measure but the one that is `given` for it, within each group that has any."""
    columns = {name: _column(runs, stratum, given) for name, (runs, stratum) in groups.items()}
    return {name: column for name, column in columns.items() if any(column.values())}


def _column(
    runs: Sequence[Run], stratum: Callable[[Run], Hashable], given: Callable[[str], str]
) -> dict[str, Correlation | None]:
    # Once, not for each measure: a key may hold all settings of a run.
    strata, settings = ({run.folder: key(run) for run in runs} for key in (stratum, setting_of))

    def correlated(measure: str) -> Correlation | None:
        return correlation(
            runs,
            measure,
            given=given(measure),
            stratum=lambda run: strata[run.folder],
            setting=lambda run: settings[run.folder],
        )

    return {measure: None if measure == given(measure) else correlated(measure) for measure in COMPARED_MEASURES}


_STAR = "A star marks an interval that excludes 0. If there is no correlation, at most 6 % of intervals exclude 0."


def as_table(grid: Grid) -> Table:
    """One row for each measure that any group has, then how many runs and settings there are.

    A cell of a measure that some of these runs lack says how many have it.
    """
    columns = grid.columns.values()
    counts = {
        name: [max(getattr(cell, name) for cell in column.values() if cell) for column in columns]
        for name in ("runs", "settings")
    }
    counted = tuple(zip(columns, counts["runs"], strict=True))
    rows = (
        (metric_name(measure), *(_cell(column[measure], runs) for column, runs in counted)) for measure in grid.measures
    )
    ends = ((name, *map(str, numbers)) for name, numbers in counts.items())
    return Table(grid.caption, ("measure", *grid.columns), (*rows, *ends))


def _cell(correlated: Correlation | None, runs: int) -> str:
    if correlated is None:
        return "–"
    tau, low, high, *_ = correlated
    few = f", {correlated.runs} runs" if correlated.runs < runs else ""
    if math.isnan(low):
        return f"{tau:+.2f}, no interval{few}"
    star = "*" if correlated.is_found else ""
    return f"{tau:+.2f}{star} [{low:+.2f}, {high:+.2f}]{few}"
