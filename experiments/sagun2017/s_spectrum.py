"""The full spectrum before and after training: *Empirical Analysis of the Hessian*, §2.1 and figure 1."""

from collections.abc import Sequence
from functools import partial

from experiments.sagun2017.spectrum_ends import negatives_are_small
from hessflat.analysis import limits
from hessflat.analysis.experiment import Claim, Drawing, Experiment, Table, seeds_added
from hessflat.analysis.results import Run, finished
from hessflat.analysis.spectra import exact_eigenvalues, share_near_zero
from hessflat.analysis.tables import table_by
from hessflat.report import figures

COLUMNS = (
    ("train loss", "train_loss", ".2e"),
    ("λ_max(H)", "hessian.exact.lambda_max", ".3g"),
    ("λ_min(H)", "hessian.exact.lambda_min", ".2g"),
    ("Tr H", "hessian.exact.trace", ".3g"),
    ("‖H‖_F", "hessian.exact.frobenius", ".3g"),
    ("noise", "hessian.exact.noise_floor", ".1g"),
    ("zero mass", "hessian.exact.zero_mass", ".3f"),
)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """All eigenvalues by rank, at the start and at the end, and the negative ones."""
    run = finished(runs)[0]
    start, end = exact_eigenvalues(run, step=run.first_step), exact_eigenvalues(run)
    panels = [
        figures.RankPanel("start", {"start": start}),
        figures.RankPanel("end", {"end": end}),
        figures.RankPanel("below zero", {"start": start, "end": end}, "negative"),
    ]
    caption = (
        "Every eigenvalue of the Hessian in increasing order, exactly: (a) at the initial weights, (b) after training, "
        f"(c) those below zero at both, in per cent of P. Seed {run.seed}. {figures.context(runs)}"
    )
    return [figures.eigenvalues_by_rank(panels, "by-rank", caption)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The end of training and statistics of its spectrum."""
    return [table_by(runs, by="experiment", columns=COLUMNS, caption="Every eigenvalue, exactly.")]


def near_zero_at_end(run: Run) -> float:
    """The share of eigenvalues at the end with |λ| below 1 % of the largest |λ|."""
    return share_near_zero(exact_eigenvalues(run))


def exact_negative_over_largest(run: Run) -> float:
    """|λ_min| / λ_max at the end."""
    values = exact_eigenvalues(run)
    return -float(values.min() / values.max())


def shrinkage_of_negatives(run: Run) -> float:
    """|λ_min| / λ_max at the end over that at the start."""
    before = exact_eigenvalues(run, step=run.first_step)
    return exact_negative_over_largest(run) / -float(before.min() / before.max())


EXPERIMENT = Experiment(
    id="s_spectrum",
    paper="S",
    question="Every eigenvalue of a small network: a bulk at zero, a few outliers, small negative ones?",
    config="s_spectrum",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="bulk-at-zero",
            paper="S",
            where="§2.1, fig. 1",
            statement="the bulk of the spectrum is at zero at the end of training",
            paper_value="a figure without numbers",
            decide=partial(
                limits.exceeds, statistic=near_zero_at_end, limit=0.9, what="share of |λ| < 0.01 λ_max(H) at the end"
            ),
        ),
        negatives_are_small(exact_negative_over_largest),
        Claim(
            id="negatives-shrink",
            paper="S",
            where="§2.1, fig. 1; §3.4",
            statement="training makes the negative eigenvalues small beside the positive ones",
            paper_value="a figure without numbers",
            decide=partial(
                limits.falls_below,
                statistic=shrinkage_of_negatives,
                limit=1.0,
                what="|λ_min| / λ_max, end over start",
                scale="log",
            ),
        ),
    ),
    notes="The paper does not name the data of this figure; at scale paper they are the Gaussian blobs of its §3.1.",
    tuned=(seeds_added("paper", 3),),
)
