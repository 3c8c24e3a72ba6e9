"""Are outliers larger after training in large batches? *Empirical Analysis of the Hessian*, §3.3, 3.4, figures 4, 6."""

from collections.abc import Sequence

from experiments.sagun2017 import spectrum_ends
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, seeds_added
from hessflat.analysis.results import Run
from hessflat.analysis.tables import table_by
from hessflat.report import figures

BATCH = "train.batch_size"
COLUMNS = (
    ("train loss", "train_loss", ".2e"),
    ("train accuracy", "train_accuracy", ".1%"),
    ("test accuracy", "test_accuracy", ".1%"),
    ("λ_max(H)", "hessian.extremes.lambda_max", ".3g"),
    ("± (residual)", "hessian.extremes.lambda_max_bound", ".1g"),
    ("λ_min(H)", "hessian.extremes.lambda_min", ".2g"),
    ("± (residual)", "hessian.extremes.lambda_min_bound", ".1g"),
    ("not converged", "hessian.extremes.unconverged", ".0f"),
)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 4 and 6."""
    curves = {end: spectrum_ends.curves_by(runs, BATCH, end, "batch") for end in ("largest", "smallest")}
    panels = [
        figures.RankPanel("right edge", curves["largest"], "largest"),
        figures.RankPanel(
            "below zero", curves["smallest"], "negative", sizes=spectrum_ends.sizes_by(runs, BATCH, "batch")
        ),
    ]  # fmt: skip
    caption = (
        "The two ends of the spectrum of the Hessian after the same number of steps of the same size with small and "
        "with large batches: (a) the largest eigenvalues, (b) those below zero against their rank in per cent of P. "
        f"Mean over seeds, band ± 1 std. {spectrum_ends.accuracy_words(runs)} {figures.context(runs)}"
    )
    return [figures.eigenvalues_by_rank(panels, "ends", caption)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The solutions by batch size."""
    return [table_by(runs, BATCH, COLUMNS, "Solutions of small and of large batches.")]


def larger_outliers(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(H) larger with the large batch size?"""
    ends = claims.SMALLEST, claims.LARGEST
    evidence = claims.compare(runs, "hessian.extremes.lambda_max", BATCH, *ends, "larger")
    loss = claims.compare(runs, "train_loss", BATCH, *ends, "larger")
    return evidence._replace(explanation=f"{evidence.explanation}; for comparison, training loss {loss.value}")


def larger_over_loss(runs: Sequence[Run]) -> Evidence:
    """Is the mean outlier over the training loss equal for both batch sizes, within a factor of 1.25?"""
    return claims.unchanged(
        runs, lambda run: spectrum_ends.mean_outlier(run) / run.final("train_loss"), BATCH, claims.SMALLEST,
        claims.LARGEST, 1.25, f"mean of the {spectrum_ends.CLASSES} largest over training loss",
    )  # fmt: skip


EXPERIMENT = Experiment(
    id="s_batch",
    paper="S",
    question="Do large batches give larger outliers than small ones, and as many of them?",
    config="s_batch",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="larger-outliers",
            paper="S",
            where="§3.3, fig. 4",
            statement="the large batch ends where the positive eigenvalues are larger",
            paper_value="a figure without numbers",
            decide=larger_outliers,
        ),
        *spectrum_ends.as_many(BATCH, "§1.2, fig. 4", "the large batch produces the same number of outliers"),
        Claim(
            id="right-edge-at-equal-loss",
            paper="hessflat",
            where="§3.3, fig. 4",
            statement="the right edge depends on the training loss alone, and is proportional to it",
            paper_value="not in the paper",
            decide=larger_over_loss,
        ),
        spectrum_ends.tail_has_one_shape(BATCH, "§3.4, fig. 6"),
        spectrum_ends.NEGATIVES_ARE_SMALL,
        spectrum_ends.AGREEMENT,
    ),
    notes=(
        "The paper gives neither the learning rate nor the number of steps. We take the rate 0.05, with which small "
        "batches converge; with 0.1 they do not. An epoch with batches of 512 has two steps, of 512 and of 488 "
        "examples."
    ),
    tuned=(seeds_added("paper", 3),),
)
