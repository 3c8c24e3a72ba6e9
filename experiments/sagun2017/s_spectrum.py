"""What is the full spectrum before and after training? *Empirical Analysis of the Hessian*, §2.1 and figure 1."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.sagun2017.spectrum_ends import negatives_are_small
from hessflat.analysis import limits
from hessflat.analysis.designs import TENTH, to_one
from hessflat.analysis.experiment import Claim, Drawing, Experiment, Table, seeds_added
from hessflat.analysis.names import number
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
NEAR = (0.001, 0.01, 0.1)


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
        "All exact eigenvalues of the Hessian in increasing order: (a) at the initial weights, (b) after training, "
        f"(c) those below zero at both, in per cent of P. Seed {run.seed}. {figures.context(runs)}"
    )
    return [figures.eigenvalues_by_rank(panels, "by-rank", caption)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The end of training and statistics of its spectrum, and the bulk at both ends of training."""
    rows = []
    for words, step in (("start", lambda run: run.first_step), ("end", lambda run: None)):
        values = [exact_eigenvalues(run, step=step(run)) for run in finished(runs)]
        shares = [f"{100 * np.mean([share_near_zero(one, near) for one in values]):.1f} %" for near in NEAR]
        rows.append((words, *shares))
    header = ("step", *(f"|λ| < {number(near)} λ_max(H)" for near in NEAR))
    return [
        table_by(runs, by="experiment", columns=COLUMNS, caption="From the exact spectrum."),
        Table("Shares of eigenvalues near zero, at the initial weights and after training; means over seeds.", header,
              tuple(rows)),
    ]  # fmt: skip


def near_zero_at_end(run: Run) -> float:
    """The share of eigenvalues at the end with |λ| below 1 % of the largest |λ|."""
    return share_near_zero(exact_eigenvalues(run))


def near_zero_at_start(run: Run) -> float:
    """The share of eigenvalues at the initial weights with |λ| below 1 % of the largest |λ|."""
    return share_near_zero(exact_eigenvalues(run, step=run.first_step))


def more_near_zero(run: Run) -> float:
    """That share at the end less that at the start."""
    return near_zero_at_end(run) - near_zero_at_start(run)


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
    question=(
        "Does the full spectrum of a small network have a bulk at zero, a few outliers and small negative eigenvalues?"
    ),
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
                limits.exceeds,
                statistic=near_zero_at_end,
                limit=0.9,
                what="share of |λ| < 0.01 λ_max(H) at the end",
                least=to_one(0.9),
            ),
        ),
        Claim(
            id="bulk-at-zero-at-start",
            paper="S",
            where="§1.1, fig. 1",
            statement="the bulk of the spectrum is near zero even at the random initial point",
            paper_value="a figure without numbers",
            decide=partial(
                limits.exceeds,
                statistic=near_zero_at_start,
                limit=0.9,
                what="share of |λ| < 0.01 λ_max(H) at the initial weights",
            ),
        ),
        Claim(
            id="bulk-gathers",
            paper="hessflat",
            where="§1.2 (1), fig. 1",
            statement="training brings more eigenvalues near zero, compared with the largest",
            paper_value="not in the paper, whose figure shows both ends of training",
            decide=partial(
                limits.exceeds,
                statistic=more_near_zero,
                limit=0.0,
                what="share of |λ| < 0.01 λ_max(H), at the end less at the start,",
                least=TENTH,
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
    notes="The paper does not name the data of this figure. At scale paper we take the Gaussian blobs of its §3.1.",
    tuned=(seeds_added("paper", 3),),
)
