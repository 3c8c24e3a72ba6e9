"""Are there as many outliers as classes? *Empirical Analysis of the Hessian*, §3.1, figure 2 and table 1."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis import spectra
from hessflat.analysis.designs import ShareTest
from hessflat.analysis.evidence import decided, exact_text, of_test
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.analysis.statistics import share_test
from hessflat.report import figures


class Row(NamedTuple):
    """The settings of a row of table 1."""

    algorithm: str
    activation: str
    covariance: float
    blobs: int


class Counts(NamedTuple):
    """The entries of a row; None where the paper has no entry or an illegible one."""

    mean: float
    gap: int | None
    ratio: int | None
    elbow: int | None
    cutoff: float | None


PAPER = {
    Row("GD", "tanh", 1.0, 2): Counts(1.19e-05, 2, 3, None, None),
    Row("GD", "tanh", 1.0, 5): Counts(2.52e-05, 2, 17, None, None),
    Row("GD", "tanh", 1.0, 10): Counts(3.75e-05, 2, 4, None, None),
    Row("GD", "tanh", 1.0, 20): Counts(5.37e-05, 3, 4, None, None),
    Row("GD", "relu", 1.0, 2): Counts(7.13e-06, 3, None, 2, 0.003),
    Row("GD", "relu", 1.0, 5): Counts(1.55e-05, 6, 7, 5, 0.003),
    Row("GD", "relu", 1.0, 10): Counts(3.04e-05, 11, 12, 10, 0.003),
    Row("GD", "relu", 1.0, 20): Counts(5.65e-05, 4, 21, 21, 0.003),
    Row("GD", "relu", 1.0, 50): Counts(1.16e-04, 50, 51, 49, 0.003),
    Row("SGD", "relu", 1.0, 2): Counts(8.96e-06, 3, None, 2, 0.002),
    Row("SGD", "relu", 1.0, 5): Counts(1.62e-05, 6, 7, 7, 0.002),
    Row("SGD", "relu", 1.0, 10): Counts(2.97e-05, 2, 14, 15, 0.002),
    Row("SGD", "relu", 1.0, 20): Counts(4.53e-05, 2, 3, 21, 0.002),
    Row("SGD", "relu", 1.0, 50): Counts(6.78e-05, 50, 51, 49, 0.002),
    Row("SGD", "relu", 10.0, 2): Counts(9.49e-05, 2, None, 2, 0.015),
    Row("SGD", "relu", 10.0, 5): Counts(1.68e-04, 5, 6, 5, 0.015),
    Row("SGD", "relu", 10.0, 10): Counts(1.92e-04, 2, 11, 9, 0.015),
    Row("SGD", "relu", 10.0, 20): Counts(3.10e-04, 20, 21, 19, 0.015),
    Row("SGD", "relu", 10.0, 50): Counts(1.67e-04, 50, 51, 49, 0.005),
}
METHODS = ("gap", "ratio", "elbow")
NAMES = {"relu": "ReLU", "tanh": "tanh"}
MEAN_FACTOR = 2.0
SHARE = 0.8


def table_row(run: Run) -> Row:
    """The row of table 1 that a run belongs to."""
    algorithm = "SGD" if run.setting("train.batch_size") else "GD"
    covariance = round(run.setting("data.blobs.spread") ** 2, 6)
    return Row(algorithm, run.setting("model.mlp.activation"), covariance, run.setting("data.blobs.num_classes"))


def count_outliers(run: Run) -> Counts:
    """The mean eigenvalue and the three counts of outliers of a run at the end."""
    values = spectra.exact_eigenvalues(run)
    elbow, cutoff = spectra.count_above_elbow(values)
    gap, ratio = spectra.count_above_gap(values), spectra.count_above_ratio(values)
    return Counts(float(values.mean()), gap, ratio, elbow, cutoff)


def counts_by_row(runs: Sequence[Run]) -> dict[Row, list[Counts]]:
    """{row: counts of each seed}, in the order of the table."""
    by_row: dict[Row, list[Counts]] = {row: [] for row in PAPER}
    for run in finished(runs):
        by_row[table_row(run)].append(count_outliers(run))
    return {row: counts for row, counts in by_row.items() if counts}


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Table 1 with measured and published columns; a star marks counts that differ by more than 1 from the blobs."""
    rows = []
    for row, counts in counts_by_row(runs).items():
        paper = PAPER[row]
        cells = [row.algorithm, row.activation, number(row.covariance), str(row.blobs)]
        cells += [number(paper.mean, 3), number(float(np.mean([one.mean for one in counts])), 3)]
        for method in METHODS:
            ours = [getattr(one, method) for one in counts]
            cells += [_counts_text([getattr(paper, method)], row.blobs), _counts_text(ours, row.blobs)]
        cells += [number(paper.cutoff, 2), number(float(np.median([one.cutoff for one in counts])), 2)]
        rows.append(tuple(cells))
    header = ["algorithm", "activation", "covariance", "blobs"]
    header += [f"{what}, {whose}" for what in ("Tr H / P", *METHODS, "cut-off") for whose in ("paper", "here")]
    caption = (
        "Table 1 of the paper, beside every seed here: numbers of eigenvalues of H above the largest gap, above the "
        "largest ratio and above the elbow of the scree plot. A star marks a number that differs by more than one "
        "from the number of blobs. The paper's elbow is found by eye. A dash marks a number that the paper does not "
        "give, or that our copy of its text garbles."
    )
    return [Table(caption, tuple(header), tuple(rows))]


def _counts_text(counts: Sequence[int | None], blobs: int) -> str:
    return ", ".join("–" if one is None else f"{one}{'' if abs(one - blobs) <= 1 else '*'}" for one in counts)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The largest eigenvalues by rank with the counts: one panel for each number of blobs."""
    groups: dict[Row, list[Run]] = {}
    for run in finished(runs):
        groups.setdefault(table_row(run)._replace(blobs=0), []).append(run)
    drawings = []
    for group, own in groups.items():
        panels = []
        for run in sorted((run for run in own if run.seed == min(r.seed for r in own)), key=table_row):
            counts = count_outliers(run)
            note = f"gap {counts.gap}, ratio {counts.ratio}, elbow {counts.elbow}"
            k = table_row(run).blobs
            values = {"H": spectra.exact_eigenvalues(run)}
            panels.append(figures.RankPanel(f"{k} blobs", values, "largest", max(30, 2 * k), note, counts.cutoff))
        name = f"{group.algorithm}-{group.activation}-{number(group.covariance)}"
        caption = (
            f"The largest eigenvalues of the Hessian for each number of Gaussian blobs: {group.algorithm}, "
            f"{group.activation}, covariance {number(group.covariance)}; how many stand out by the largest gap, the "
            f"largest ratio and the elbow (dashed: its cut-off). Seed {own[0].seed}. {figures.context(own)}"
        )
        drawings.append(figures.eigenvalues_by_rank(panels, f"outliers-{name}", caption))
    return drawings


def is_matched(count: int | None, row: Row) -> bool:
    """Whether a count is within one of the number of blobs."""
    return count is not None and abs(count - row.blobs) <= 1


def published(method: str, activation: str, matching: bool) -> list[Row]:
    """The rows of table 1 in which the paper's own count matches the number of blobs, or does not."""
    return [
        row
        for row, counts in PAPER.items()
        if row.activation == activation
        and getattr(counts, method) is not None
        and is_matched(getattr(counts, method), row) == matching
    ]


def as_in_the_paper(method: str, activation: str, matching: bool, share: float) -> Callable[[Sequence[Run]], Evidence]:
    """The rule that counts match here in the rows in which the paper's do, or do not where the paper's do not.

    Every row and seed is a trial; the share of those that are as in the paper is tested against `share`.
    """
    asked = published(method, activation, matching)
    words = "match" if matching else "do not match"
    rule = (
        f"of the {len(asked)} rows with {NAMES[activation]} in which the paper's counts {words} the number of blobs, "
        f"within ± 1, the share of rows and seeds in which ours {words} it, too, above {number(share)} by an exact "
        "binomial test"
    )

    def decide(runs: Sequence[Run]) -> Evidence:
        rows = {row: counts for row, counts in counts_by_row(runs).items() if row in asked}
        if not rows:
            return Evidence("", "", 0, "not run", f"no finished run of these rows with {NAMES[activation]}", rule=rule)
        alike = {
            row: [is_matched(getattr(one, method), row) == matching for one in counts] for row, counts in rows.items()
        }
        right, trials = sum(map(sum, alike.values())), sum(map(len, alike.values()))
        seeds, test = min(map(len, rows.values())), share_test(right, trials, share)
        off = [
            f"{', '.join(str(getattr(one, method)) for one in counts)} of {row.blobs}"
            for row, counts in rows.items()
            if not all(alike[row])
        ]
        return decided(
            runs, rule, of_test(test, seeds, "larger", ShareTest(trials, seeds, share)),
            f"{right} of {trials} as in the paper, every seed in {len(rows) - len(off)} of {len(rows)} rows"
            + (f"; off: {'; '.join(off)}" if off else ""),
            exact_text(test, seeds), seeds, f"the paper's counts {words} in these {len(asked)} rows", number(share),
        )  # fmt: skip

    return decide


def mean_ratio(run: Run) -> float:
    """The mean eigenvalue of a run over the paper's in its row."""
    return count_outliers(run).mean / PAPER[table_row(run)].mean


def means_as_in_the_paper(runs: Sequence[Run]) -> Evidence:
    """Are the mean eigenvalues the paper's within a factor of `MEAN_FACTOR`, in most rows and seeds?"""
    rule = (
        f"of the {len(PAPER)} rows, the share of rows and seeds with Tr H / P within a factor of {number(MEAN_FACTOR)} "
        f"of the paper's, above {number(SHARE)} by an exact binomial test"
    )
    done = finished(runs)
    if not done:
        return Evidence("", "", 0, "not run", "no run has finished", rule=rule)
    ratios = np.array([mean_ratio(run) for run in done])
    right = int(np.sum(np.abs(np.log(ratios)) <= math.log(MEAN_FACTOR)))
    seeds, test = len({run.seed for run in done}), share_test(right, len(ratios), SHARE)
    return decided(
        runs, rule, of_test(test, seeds, "larger", ShareTest(len(ratios), seeds, SHARE)),
        f"{right} of {len(ratios)} within a factor of {number(MEAN_FACTOR)}, from {number(ratios.min(), 2)} to "
        f"{number(ratios.max(), 2)} of the paper's",
        exact_text(test, seeds), seeds, "the means of the paper's rows", number(SHARE),
    )  # fmt: skip


def _claim(method: str, words: str) -> Claim:
    right, others = (published(method, "relu", matching) for matching in (True, False))
    legible = "" if len(right) + len(others) == sum(row.activation == "relu" for row in PAPER) else " legible"
    return Claim(
        id=f"as-many-as-blobs-by-{method}",
        paper="S",
        where="§3.1, table 1",
        statement=f"with ReLU, as many eigenvalues stand out as there are classes, by {words}",
        paper_value=f"within ± 1 in {len(right)} of {len(right) + len(others)}{legible} rows",
        decide=as_in_the_paper(method, "relu", True, SHARE),
    )


EXPERIMENT = Experiment(
    id="s_outliers",
    paper="S",
    question="With Gaussian blobs, does the Hessian have as many outlying eigenvalues as there are classes?",
    config="s_outliers",
    draw=draw,
    tabulate=tabulate,
    claims=(
        _claim("elbow", "the elbow of the scree plot"),
        _claim("gap", "the largest gap"),
        _claim("ratio", "the largest ratio"),
        Claim(
            id="not-with-tanh",
            paper="S",
            where="table 1",
            statement="with tanh, the largest gap does not count the classes",
            paper_value="2, 2, 2 and 3 for 2, 5, 10 and 20 blobs",
            decide=as_in_the_paper("gap", "tanh", False, 0.5),
        ),
        Claim(
            id="mean-eigenvalue",
            paper="S",
            where="§3.1, table 1",
            statement="the mean eigenvalues are those of table 1",
            paper_value="7.13e-6 to 3.1e-4 over 19 rows",
            decide=means_as_in_the_paper,
        ),
    ),
    notes=(
        "The paper gives neither the number of examples, nor the number of steps, nor the learning rate. We take "
        "1,000 examples and 10,000 steps, with a rate of 0.1 (GD), or of 0.05 on batches of 100 (SGD). Centres of "
        "blobs are drawn from N(0, I)."
    ),
)
