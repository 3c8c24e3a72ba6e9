"""Do more blobs, or blobs that overlap more, change the outliers alone? *Empirical Analysis of the Hessian*, abstract,
§3.1.

The outliers of a run are its k largest eigenvalues, k being the number of blobs; the bulk is the other eigenvalues.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from hessflat.analysis import claims, spectra, strata
from hessflat.analysis.evidence import Statistic
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, grouped
from hessflat.report import figures

BLOBS, SPREAD = "data.blobs.num_classes", "data.blobs.spread"
# What is claimed not to change may do so within this factor.
FACTOR = 2.0


def covariance(run: Run) -> float:
    """The variance of a blob in each direction."""
    return round(run.setting(SPREAD) ** 2, 6)


def blobs(run: Run) -> int:
    """The number of blobs, which is that of classes."""
    return run.setting(BLOBS)


def mean_outlier(run: Run) -> float:
    """The mean of the k largest eigenvalues at the end."""
    return float(np.sort(spectra.exact_eigenvalues(run))[-blobs(run) :].mean())


def size_of_bulk(run: Run) -> float:
    """The root mean square of all eigenvalues but the k largest at the end."""
    return float(np.sqrt(np.mean(np.sort(spectra.exact_eigenvalues(run))[: -blobs(run)] ** 2)))


def outlier_over_bulk(run: Run) -> float:
    """The mean of the k largest eigenvalues over the root mean square of the others."""
    return mean_outlier(run) / size_of_bulk(run)


def num_above_elbow(run: Run) -> int:
    """The number of eigenvalues above the elbow of the scree plot."""
    return spectra.count_above_elbow(spectra.exact_eigenvalues(run))[0]


def num_above_ratio(run: Run) -> int:
    """The number of eigenvalues above the largest ratio of neighbours."""
    return spectra.count_above_ratio(spectra.exact_eigenvalues(run))


OUTLIER, BULK = "mean of the k largest eigenvalues", "root mean square of the other eigenvalues"
COUNTS: dict[str, tuple[str, Callable[[Run], int]]] = {
    "elbow": ("the elbow of the scree plot", num_above_elbow),
    "ratio": ("the largest ratio of neighbours", num_above_ratio),
}


def _panel(
    runs: Sequence[Run], x: Callable[[Run], float], lines: Callable[[Run], float], unit: str, what: str,
    statistic: Statistic, scale: Literal["linear", "log"],
) -> figures.CurvePanel:  # fmt: skip
    """A statistic against one of the two settings, with a curve, `[seeds, n]`, for each value of the other."""
    by_line = grouped(sorted(finished(runs), key=lambda run: (lines(run), x(run), run.seed)), lines)
    places = sorted({x(run) for run in finished(runs)})
    curves = {}
    for value, own in by_line.items():
        seeds = by_setting(own, "seed").values()
        at = [{x(run): statistic(run) for run in group} for group in seeds]
        curves[f"{unit} {number(value)}"] = np.array([[one.get(place, np.nan) for place in places] for one in at])
    return figures.CurvePanel(what, np.array(places), curves, what, scale)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Counts against the blobs, sizes of outliers and bulk against the covariance, and the spectra themselves."""
    classes = [
        _panel(runs, blobs, covariance, "covariance", f"outliers, by {method}", count, "linear")
        for method, (_, count) in COUNTS.items()
    ]
    classes.append(_panel(runs, blobs, covariance, "covariance", "size of the bulk", size_of_bulk, "log"))
    sizes = [
        _panel(runs, covariance, blobs, "blobs:", what, statistic, "log")
        for what, statistic in (
            ("mean outlier", mean_outlier), ("size of the bulk", size_of_bulk),
            ("train loss", lambda run: run.final("train_loss")), ("outlier over bulk", outlier_over_bulk),
        )
    ]  # fmt: skip
    seed = min(run.seed for run in finished(runs))
    ranks = [
        figures.RankPanel(
            f"{k} blobs", {f"covariance {number(covariance(run))}": spectra.exact_eigenvalues(run) for run in own},
            "largest", max(30, 2 * k),
        )
        for k, own in by_setting([run for run in finished(runs) if run.seed == seed], BLOBS).items()
    ]  # fmt: skip
    words = (
        "The outliers are the k largest eigenvalues of the Hessian, k being the number of blobs; the bulk is the root "
        f"mean square of the others. Mean and range over seeds. {figures.context(runs)}"
    )
    return [
        figures.curves_with_bands(
            classes, "blobs", "blobs", f"Numbers of outliers, and the bulk, against the number of blobs. {words}", {}
        ),
        figures.curves_with_bands(
            sizes, "covariance", "covariance", f"Outliers, bulk and loss against the covariance of a blob. {words}", {}
        ),
        figures.eigenvalues_by_rank(
            ranks, "ranks", f"The largest eigenvalues by the covariance of a blob. Seed {seed}. {figures.context(runs)}"
        ),
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Counts of outliers of every seed, and means of their size, of the bulk and of the loss."""
    rows = []
    for (k, spread), own in grouped(
        sorted(finished(runs), key=lambda run: (blobs(run), covariance(run), run.seed)),
        lambda run: (blobs(run), covariance(run)),
    ).items():
        counts = [", ".join(str(count(run)) for run in own) for _, count in COUNTS.values()]
        metrics = ("train_loss", "train_accuracy", "test_accuracy")
        means = [*([run.final(metric) for run in own] for metric in metrics)]
        means += [[statistic(run) for run in own] for statistic in (mean_outlier, size_of_bulk)]
        rows.append((str(k), number(spread), *counts, *(number(float(np.mean(each)), 3) for each in means)))
    header = (
        "blobs", "covariance", "above elbow", "above ratio", "train loss", "train accuracy", "test accuracy",
        "mean outlier", "size of the bulk",
    )  # fmt: skip
    caption = (
        "The end of training. Numbers of outliers are given for every seed; the other columns are means over seeds."
    )
    return [Table(caption, header, tuple(rows))]


def _follows(
    statistic: Statistic, what: str, setting: str, other: Callable[[Run], float], alike: str, runs: Sequence[Run]
) -> Evidence:
    """Does a statistic, named `what`, increase with a setting, within runs with one value of the other setting?"""
    return strata.follows(
        runs, strata.RunQuantity(what, statistic), strata.setting_value(setting), other,
        setting=lambda run: run.setting(setting), alike=alike,
    )  # fmt: skip


def bulk_stays(setting: str, other: str, runs: Sequence[Run]) -> Evidence:
    """Is the bulk as large at both ends of a setting, within `FACTOR`, for every value of the other setting?"""
    unit = {BLOBS: "blobs:", SPREAD: "covariance"}[other]
    groups = {
        f"{unit} {number(value if other == BLOBS else round(value**2, 6))}": own
        for value, own in by_setting(finished(runs), other).items()
    }
    return strata.in_each_group(
        groups,
        lambda group: claims.unchanged(group, size_of_bulk, setting, claims.SMALLEST, claims.LARGEST, FACTOR, BULK),
        {BLOBS: "number of blobs", SPREAD: "covariance"}[other],
    )


EXPERIMENT = Experiment(
    id="s_separability",
    paper="S",
    question="Do more Gaussian blobs, or blobs that overlap more, change only the outliers of the spectrum?",
    config="s_separability",
    draw=draw,
    tabulate=tabulate,
    claims=(
        *(
            Claim(
                id=f"more-blobs-more-outliers-by-{method}",
                paper="S",
                where="abstract, §1.2 (3)",
                statement=f"the more clusters, the more eigenvalues stand out, by {words}",
                paper_value="table 1, SGD: 2 to 49 by the elbow with 2 to 50 clusters",
                decide=partial(
                    _follows, count, f"number of eigenvalues above {words}", BLOBS, covariance, "runs of one covariance"
                ),
            )
            for method, (words, count) in COUNTS.items()
        ),
        Claim(
            id="bulk-stays-with-blobs",
            paper="S",
            where="abstract",
            statement="adding clusters only affects the outliers: the bulk stays as it is",
            paper_value="said without numbers",
            decide=partial(bulk_stays, BLOBS, SPREAD),
        ),
        Claim(
            id="less-separable-larger-outliers",
            paper="S",
            where="abstract; table 1",
            statement="making the data less separable makes the outliers larger",
            paper_value="table 1, SGD: the cut-off below them rises from 0.002 to 0.015 (0.005 with 50 clusters)",
            decide=partial(_follows, mean_outlier, OUTLIER, SPREAD, blobs, "runs of as many blobs"),
        ),
        Claim(
            id="bulk-stays-with-separability",
            paper="S",
            where="abstract",
            statement="making the data less separable only affects the outliers: the bulk stays as it is",
            paper_value="said without numbers; the cut-off above the bulk rises in table 1 by 2.5 to 7.5 times",
            decide=partial(bulk_stays, SPREAD, BLOBS),
        ),
        Claim(
            id="outliers-move-more-than-bulk",
            paper="hessflat",
            where="abstract",
            statement="making the data less separable makes outliers grow more than the bulk",
            paper_value="not in the paper, which says that the bulk does not change",
            decide=partial(
                _follows, outlier_over_bulk, f"{OUTLIER} over the {BULK}", SPREAD, blobs, "runs of as many blobs"
            ),
        ),
    ),
    notes=(
        "The paper has the covariances 1 and 10; we add those between. The numbers of examples and of steps are ours, "
        "as in s_outliers. Inputs are normalised globally, so a larger covariance also brings the centres nearer to "
        "one another. The output layer has as many units as there are blobs: 13 parameters for each blob at scale "
        "small, 31 at scale paper."
    ),
)
