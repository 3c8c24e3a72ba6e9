"""Are there as many outliers as classes? *Empirical Analysis of the Hessian*, §3.1, figure 2 and table 1."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hessflat.analysis import spectra
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Verdict
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
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
        "Table 1 of the paper: eigenvalues of H above the largest gap, above the largest ratio, and above the elbow of "
        "the scree plot, of every seed here. A star: off by more than one from the number of blobs. The paper's elbow "
        "is found by eye; a dash is a number that it does not give, or that the text at hand garbles."
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


def matched(method: str, activation: str) -> Callable[[Sequence[Run]], Evidence]:
    """The rule that the median count of a method over seeds is within one of the number of blobs in every row."""

    def decide(runs: Sequence[Run]) -> Evidence:
        rows = {row: counts for row, counts in counts_by_row(runs).items() if row.activation == activation}
        if not rows:
            return Evidence("", "", 0, "not run", f"no finished run with {activation}")
        medians = {row: float(np.median([getattr(one, method) for one in counts])) for row, counts in rows.items()}
        right = [row for row, count in medians.items() if abs(count - row.blobs) <= 1]
        seeds = min(map(len, rows.values()))
        each = [getattr(one, method) - row.blobs for row, counts in rows.items() for one in counts]
        verdict: Verdict = "undecided" if seeds < 2 else "holds" if len(right) == len(rows) else "fails"
        listed = ", ".join(f"{number(count)} of {row.blobs}" for row, count in medians.items() if row not in right)
        return Evidence(
            f"{len(right)} of {len(rows)} rows within ± 1" + (f"; off: {listed}" if listed else ""),
            f"count less blobs from {min(each):+d} to {max(each):+d} over rows and seeds",
            seeds,
            verdict,
            "the median count over seeds is within one of the number of blobs in "
            + ("every row" if len(right) == len(rows) else f"{len(right)} of {len(rows)} rows"),
        )

    return decide


def _reversed(evidence: Evidence) -> Evidence:
    swapped: dict[Verdict, Verdict] = {"holds": "fails", "fails": "holds"}
    return evidence._replace(verdict=swapped.get(evidence.verdict, evidence.verdict))


def _claim(method: str, words: str) -> Claim:
    counts = {row: getattr(counts, method) for row, counts in PAPER.items() if row.activation == "relu"}
    known = {row: count for row, count in counts.items() if count is not None}
    right = sum(abs(count - row.blobs) <= 1 for row, count in known.items())
    legible = "" if len(known) == len(counts) else " legible"
    return Claim(
        id=f"as-many-as-blobs-by-{method}",
        paper="S",
        where="§3.1, table 1",
        statement=f"with ReLU as many eigenvalues stand out as there are classes, by {words}",
        paper_value=f"within ± 1 in {right} of {len(known)}{legible} rows",
        rule="median over seeds within ± 1 of the number of blobs in every row with ReLU",
        decide=matched(method, "relu"),
    )


EXPERIMENT = Experiment(
    id="s_outliers",
    paper="S",
    question="Gaussian blobs: as many outlying eigenvalues as classes?",
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
            statement="with tanh the largest gap does not count the classes",
            paper_value="2, 2, 2 and 3 for 2, 5, 10 and 20 blobs",
            rule="median over seeds within ± 1 of the number of blobs in every row with tanh: claimed to fail",
            decide=lambda runs: _reversed(matched("gap", "tanh")(runs)),
        ),
    ),
    notes=(
        "The paper gives neither the number of examples nor of steps, nor their size: here 1,000 examples, 10,000 "
        "steps of 0.1 (GD) or of 0.05 on batches of 100 (SGD). Centres of blobs are drawn from N(0, I)."
    ),
)
