"""Which part of the Hessian do G and R = H − G carry? *Empirical Analysis of the Hessian*, §2.2 and §3.4."""

from collections.abc import Sequence
from functools import partial

from hessflat.analysis import limits
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.analysis.spectra import exact_eigenvalues, largest_difference_at_the_top
from hessflat.report import figures

OPERATORS = ("hessian", "gauss_newton", "residual")
# As many as there are classes, in the data of the configuration.
OUTLIERS = 10


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The three spectra by rank: outliers and negative eigenvalues, at the start and at the end."""
    run = finished(runs)[0]
    panels = []
    for when, step in (("start", run.first_step), ("end", None)):
        curves = {symbol: exact_eigenvalues(run, name, step) for symbol, name in zip("HGR", OPERATORS, strict=True)}
        panels.append(figures.RankPanel(f"{when}, largest", curves, "largest", 40))
        panels.append(figures.RankPanel(f"{when}, below zero", {k: curves[k] for k in "HR"}, "negative"))
    caption = (
        "Exact eigenvalues of the Hessian H, its Gauss-Newton part G and the rest R = H − G: the 40 largest and those "
        f"below zero, at the initial weights and after training. Seed {run.seed}. {figures.context(runs)}"
    )
    return [figures.eigenvalues_by_rank(panels, "parts", caption, "H, G, R")]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """One row for each step with exact spectra, for the first seed."""
    run = finished(runs)[0]
    lines = [line for line in run.metrics if "residual.exact.frobenius" in line]
    rows = []
    for line in lines:
        largest = [line[f"{name}.exact.lambda_max"] for name in OPERATORS]
        smallest = [line[f"{name}.exact.lambda_min"] for name in ("hessian", "residual")]
        share = line["residual.exact.frobenius"] / line["hessian.exact.frobenius"]
        cells = (line.get("train_loss"), *largest, *smallest, share)
        rows.append((str(line["step"]), *(number(cell, 3) for cell in cells)))
    header = ("step", "train loss", "λ_max(H)", "λ_max(G)", "λ_max(R)", "λ_min(H)", "λ_min(R)", "‖R‖_F / ‖H‖_F")
    return [Table(f"H = G + R during training, from exact eigenvalues, seed {run.seed}.", header, tuple(rows))]


def outliers_apart(run: Run) -> float:
    """The largest relative difference of the `OUTLIERS` largest eigenvalues of H and G at the end."""
    return largest_difference_at_the_top(exact_eigenvalues(run), exact_eigenvalues(run, "gauss_newton"), OUTLIERS)


def share_of_residual(run: Run) -> float:
    """‖R‖_F / ‖H‖_F at the end."""
    return run.final("residual.exact.frobenius") / run.final("hessian.exact.frobenius")


def fall_of_residual(run: Run) -> float:
    """‖R‖_F / ‖H‖_F at the end over that at the start."""
    first = run.metrics[0]
    return share_of_residual(run) / (first["residual.exact.frobenius"] / first["hessian.exact.frobenius"])


def below_residual(run: Run) -> float:
    """(λ_min(R) − λ_min(H)) / λ_max(H) at the end.

    It is at most 0 by Weyl's inequality, because G is positive semi-definite.
    """
    gap = run.final("residual.exact.lambda_min") - run.final("hessian.exact.lambda_min")
    return gap / run.final("hessian.exact.lambda_max")


def smallest_of_g(run: Run) -> float:
    """−λ_min(G) / λ_max(G) at the end, which is rounding."""
    return -run.final("gauss_newton.exact.lambda_min") / run.final("gauss_newton.exact.lambda_max")


EXPERIMENT = Experiment(
    id="s_decomposition",
    paper="S",
    question="In H = G + R, do the outliers come from G and the negative eigenvalues from R, and does R vanish?",
    config="s_spectrum",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="outliers-are-g's",
            paper="S",
            where="§2.2, §3.1",
            statement="at the end of training the large eigenvalues of H are those of G",
            paper_value="an argument without numbers",
            decide=partial(
                limits.falls_below,
                statistic=outliers_apart,
                limit=0.05,
                what=f"largest relative difference of the {OUTLIERS} largest eigenvalues of H and G at the end",
                scale="log",
            ),
        ),
        Claim(
            id="negatives-are-r's",
            paper="S",
            where="§3.4",
            statement="negative eigenvalues can only come from R: G has none, and those of H are bounded by R's",
            paper_value="follows from eq. 4",
            decide=lambda runs: all_hold(
                limits.in_every_run(runs, smallest_of_g, 1e-12, "−λ_min(G) / λ_max(G)"),
                limits.in_every_run(runs, below_residual, 1e-12, "(λ_min(R) − λ_min(H)) / λ_max(H)"),
            ),
        ),
        Claim(
            id="r-is-small",
            paper="S",
            where="§2.2, eq. 5",
            statement="R is negligible at the end of training",
            paper_value="an argument without numbers",
            decide=partial(
                limits.falls_below, statistic=share_of_residual, limit=0.1, what="‖R‖_F / ‖H‖_F at the end", scale="log"
            ),
        ),
        Claim(
            id="r-falls",
            paper="S",
            where="§2.2",
            statement="training makes R small beside G",
            paper_value="an argument without numbers",
            decide=partial(
                limits.falls_below,
                statistic=fall_of_residual,
                limit=1.0,
                what="‖R‖_F / ‖H‖_F, end over start",
                scale="log",
            ),
        ),
    ),
    notes="The runs are those of s_spectrum.",
)
