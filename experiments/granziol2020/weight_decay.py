"""Figures, tables and claims that the weight-decay experiments of *Flatness is a False Friend* share."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from hessflat.analysis import claims, limits
from hessflat.analysis.experiment import Claim, Drawing, Table
from hessflat.analysis.results import Run
from hessflat.analysis.tables import table_by
from hessflat.report import figures
from hessflat.report.figures.captions import mode_words

PERFORMANCE_COLUMNS = (
    ("train loss", "train_loss", ".4f"),
    ("test loss", "test_loss", ".4f"),
    ("gap (loss)", "gap_loss", ".4f"),
    ("train acc", "train_accuracy", ".2%"),
    ("val acc", "validation_accuracy", ".2%"),
    ("test acc", "test_accuracy", ".2%"),
    ("‖w‖", "weight_norm", ".3g"),
)
CURVATURE_COLUMNS = (
    ("λ_max(H)", "hessian.lambda_max", ".4g"),
    ("± bound", "hessian.lambda_max_bound", ".1g"),
    ("λ_min(H)", "hessian.lambda_min", ".2g"),
    ("Tr H", "hessian.trace", ".4g"),
    ("± s.e.", "hessian.trace_se", ".1g"),
    ("Tr H / P", "hessian.mean_eigenvalue", ".3g"),
    ("‖H‖_F", "hessian.frobenius", ".4g"),
    ("‖H‖_F²/P", "hessian.second_moment", ".3g"),
    ("λ_max(G)", "gauss_newton.lambda_max", ".4g"),
)
DEGENERACY_COLUMNS = (
    ("zero mass H", "hessian.zero_mass", ".4f"),
    ("at λ =", "hessian.zero_value", ".1e"),
    ("zero mass G", "gauss_newton.zero_mass", ".4f"),
    ("at λ =", "gauss_newton.zero_value", ".1e"),
    ("1 − rank bound/P", "zero_mass_bound", ".4f"),
)
JACOBIAN_COLUMNS = (
    ("max ‖J‖", "jacobian.max", ".3g"),
    ("mean ‖J‖", "jacobian.mean", ".3g"),
    ("max ‖J‖, softmaxed", "softmax_jacobian.max", ".3g"),
    ("mean ‖J‖, softmaxed", "softmax_jacobian.mean", ".3g"),
)
SCALED_COLUMNS = (
    ("λ_max(H)", "hessian.lambda_max", ".4g"),
    ("λ_max(H)·‖w‖²", "hessian.norm_scaled_lambda_max", ".4g"),
    ("adaptive", "hessian.adaptive_lambda_max", ".4g"),
    ("filter-normalised", "hessian.filter_lambda_max", ".4g"),
    ("‖w‖", "weight_norm", ".3g"),
    ("gap (loss)", "gap_loss", ".4f"),
)
EXACT_COLUMNS = (
    ("λ_max(H)", "hessian.lambda_max", ".4g"),
    ("exact", "hessian.exact.lambda_max", ".4g"),
    ("Tr H", "hessian.trace", ".4g"),
    ("exact", "hessian.exact.trace", ".4g"),
    ("‖H‖_F", "hessian.frobenius", ".4g"),
    ("exact", "hessian.exact.frobenius", ".4g"),
    ("zero mass", "hessian.zero_mass", ".4f"),
    ("exact", "hessian.exact.zero_mass", ".4f"),
)

SHARPNESS_PANELS = (
    ("hessian.lambda_max", r"$\lambda_{\max}(H)$, train mode", "log"),
    ("hessian_eval.lambda_max", r"$\lambda_{\max}(H)$, eval mode", "log"),
)


def draw(runs: Sequence[Run], by: str = "optim.l2") -> list[Drawing]:
    """Spectra (as figs. 2 to 7), flatness and generalisation, and histories of training, by the values of a setting.

    For models with batch norm, spectra and sharpness are drawn in both of its modes.
    """
    hessians = [name for name in ("hessian", "hessian_eval") if times_measured(runs, f"{name}.lambda_max")]
    # Sharpness in two modes differs by too much for linear axes.
    sharpness = SHARPNESS_PANELS if len(hessians) > 1 else (("hessian.lambda_max",),)
    panels = [panel for panel in (*sharpness, ("jacobian.max",), ("gap_loss",)) if times_measured(runs, panel[0])]
    histories = ("train_loss", "test_error", "weight_norm", "hessian.lambda_max", "hessian.trace", "jacobian.max")
    drawings = [figures.spectra_by(runs, by, operator=name) for name in hessians]
    drawings += [
        figures.panels_against(runs, by, panels=panels, name="flatness-and-gap"),
        figures.over_training(runs, by, metrics=[name for name in histories if times_measured(runs, name) > 1]),
    ]
    operators = [name for name in ("hessian", "gauss_newton") if times_measured(runs, f"{name}.zero_mass") > 1]
    return drawings + ([figures.degeneracy_over_training(runs, by, operators)] if operators else [])


def tabulate(runs: Sequence[Run], by: str = "optim.l2") -> list[Table]:
    """Performance, curvature, degeneracy and Jacobian norms by a setting; exact spectra where measured."""
    table = partial(measured_table, runs, by)
    tables = [table(PERFORMANCE_COLUMNS, "Losses in nats and accuracies on clean examples.")]
    for suffix in ("", "_eval"):
        mode = mode_words(runs, f"hessian{suffix}")
        zero = f"Mass at zero{mode}, beside the lower bound from the rank of G."
        curvature, degeneracy = (in_mode(columns, suffix) for columns in (CURVATURE_COLUMNS, DEGENERACY_COLUMNS))
        tables += [
            table(curvature, f"Curvature of the training loss{mode}, without the L2 term."),
            table(degeneracy, zero),
            table(
                in_mode(SCALED_COLUMNS, suffix),
                f"Sharpness scaled by the weights{mode}, beside the gap.",
                f"hessian{suffix}.lambda_max",
            ),
        ]
    tables += [
        table(JACOBIAN_COLUMNS, "Input-output Jacobian norms over the training examples."),
        table(EXACT_COLUMNS, "Lanczos quadrature beside the exact spectrum.", "hessian.exact.lambda_max"),
    ]
    return [made for made in tables if made is not None]


def in_mode(columns: Sequence[tuple[str, str, str]], suffix: str) -> tuple[tuple[str, str, str], ...]:
    """The columns with the suffix of a mode of batch norm added to the operators' names."""
    return tuple((label, metric.replace(".", f"{suffix}."), style) for label, metric, style in columns)


def measured_table(
    runs: Sequence[Run], by: str, columns: Sequence[tuple[str, str, str]], caption: str, needed: str = ""
) -> Table | None:
    """The table of the columns that any run measured; None where the first column, or `needed`, was not measured."""
    if not times_measured(runs, needed or columns[0][1]):
        return None
    return table_by(runs, by, [column for column in columns if times_measured(runs, column[1])], caption)


def times_measured(runs: Sequence[Run], metric: str) -> int:
    """The largest number of steps at which a run measured the metric."""
    return max((sum(map(math.isfinite, run.history(metric))) for run in runs), default=0)


def generalises_better(*, where: str, paper_value: str, paper_effect: float | None = None) -> Claim:
    """The claim that L2 raises the test accuracy."""
    decide = partial(claims.compare, metric="test_accuracy", scale="difference")
    return Claim(
        id="accuracy",
        paper="G",
        where=where,
        statement="L2 improves generalisation",
        paper_value=paper_value,
        decide=decide,
        paper_effect=paper_effect,
    )


def grows_with_l2(
    *, id: str, where: str, what: str, metric: str, paper_value: str, paper_effect: float | None = None
) -> Claim:
    """The claim that L2 raises a metric of the Hessian, named `what`."""
    return Claim(
        id=id,
        paper="G",
        where=where,
        statement=f"{what} grows with L2",
        paper_value=paper_value,
        decide=partial(claims.compare, metric=metric),
        paper_effect=paper_effect,
    )


def sharper_generalises_better(
    *, where: str, paper_value: str, operator: str = "hessian", paper_effect: float | None = None
) -> Claim:
    """The claim of the paper's title: the solution with better generalisation is the sharper one."""
    sharpness = f"{operator}.lambda_max"
    return Claim(
        id="sharper-and-better" + ("-eval" if operator.endswith("_eval") else ""),
        paper="G",
        where=f"title, {where}",
        statement="the solution that generalises better is the sharper one",
        paper_value=paper_value,
        decide=partial(claims.of_the_better, metric=sharpness),
        paper_effect=paper_effect,
    )


def interpolates(*, where: str, paper_value: str) -> Claim:
    """The claim that the network interpolates its training data, with and without L2."""
    return Claim(
        id="train-accuracy",
        paper="G",
        where=where,
        statement="the network fits its training examples both with and without L2",
        paper_value=paper_value,
        decide=partial(
            limits.falls_below, statistic=lambda run: run.final("train_error"), limit=0.01, what="training error"
        ),
    )


# λ_max in coordinates that grow with the weights, by what is done to it.
SCALED_SHARPNESS = {
    "norm_scaled_lambda_max": "λ_max(H) times ‖w‖²",
    "adaptive_lambda_max": "adaptive sharpness, λ_max of |w| H |w|,",
    "filter_lambda_max": "filter-normalised sharpness",
}


def scaled_sharpness_claims(operator: str = "hessian", **paired: Any) -> tuple[Claim, ...]:
    """Claims beyond the papers on sharpness measures that account for the scale of the weights.

    `paired` gives the two settings to `claims.compare`.
    """
    scaled = tuple(
        Claim(
            id=name.replace("_", "-"),
            paper="hessflat",
            where="beyond the paper",
            statement=f"{words} is smaller for the solution that generalises better, unlike λ_max(H) itself",
            paper_value="not in the paper",
            decide=partial(claims.of_the_better, metric=f"{operator}.{name}", expect="smaller", **paired),
        )
        for name, words in SCALED_SHARPNESS.items()
    )
    return (
        Claim(
            id="sharper-with-smaller-gap",
            paper="hessflat",
            where="beyond the paper",
            statement="the solution with the smaller generalisation gap in loss is the sharper one",
            paper_value="not in the paper for this network",
            decide=partial(
                claims.of_the_better,
                metric=f"{operator}.lambda_max",
                quality="gap_loss",
                better="smaller",
                **paired,
            ),
        ),
        *scaled,
        Claim(
            id="jacobian-norm",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "the input-output Jacobian norm is smaller for the solution that generalises better, unlike sharpness"
            ),
            paper_value="not in the paper",
            decide=partial(claims.of_the_better, metric="jacobian.max", expect="smaller", **paired),
        ),
    )


SHARED_CLAIMS = (
    Claim(
        id="weight-norm",
        paper="G",
        where="§3.1",
        statement="L2 reduces the weight norm",
        paper_value="a figure without numbers",
        decide=partial(claims.increases, metric="weight_norm", expect="decreases"),
    ),
    *scaled_sharpness_claims(),
    Claim(
        id="zero-mass",
        paper="G",
        where="§3.2, eq. 11",
        statement="the mass at zero of the Hessian is at least 1 − 4 d_y (Σ N_l + d_x) / P",
        paper_value="0.9639 for VGG-16, largely respected",
        decide=partial(limits.reaches_bound, metric="hessian.zero_mass", bound_metric="zero_mass_bound", when="always"),
    ),
)

# Of models with batch norm, whose curvature is measured in both of its modes.
BATCH_NORM_CLAIMS = (
    Claim(
        id="magnified-in-eval-mode",
        paper="G",
        where="§4, contributions",
        statement="L2 sharpens the solution more in batch norm's eval mode than in its train mode",
        paper_value="≈ 30 times sharper in train mode, ≈ 1000 times in eval mode (figs. 6, 7)",
        decide=partial(claims.compare, metric="hessian.eval_over_train_lambda_max"),
        paper_effect=1000 / 30,
    ),
    Claim(
        id="zero-mass-eval",
        paper="G",
        where="§3.2, eq. 11",
        statement="the mass at zero of the Hessian is at least 1 − 4 d_y (Σ N_l + d_x) / P in eval mode, too",
        paper_value="a figure without numbers",
        decide=partial(
            limits.reaches_bound, metric="hessian_eval.zero_mass", bound_metric="zero_mass_bound", when="always"
        ),
    ),
)
