"""What the weight-decay experiments of *Flatness is a False Friend* share: their figures, their tables, their rules."""

from collections.abc import Sequence
from functools import partial

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Table
from hessflat.analysis.results import Run
from hessflat.analysis.tables import table_by
from hessflat.report import figures

PERFORMANCE = (
    ("train loss", "train_loss", ".4f"),
    ("test loss", "test_loss", ".4f"),
    ("gap (loss)", "gap_loss", ".4f"),
    ("train acc", "train_accuracy", ".2%"),
    ("val acc", "validation_accuracy", ".2%"),
    ("test acc", "test_accuracy", ".2%"),
    ("‖w‖", "weight_norm", ".3g"),
)
CURVATURE = (
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
DEGENERACY = (
    ("zero mass H", "hessian.zero_mass", ".4f"),
    ("at λ =", "hessian.zero_value", ".1e"),
    ("zero mass G", "gauss_newton.zero_mass", ".4f"),
    ("at λ =", "gauss_newton.zero_value", ".1e"),
    ("1 − rank bound/P", "zero_mass_bound", ".4f"),
)
JACOBIAN = (
    ("max ‖J‖", "jacobian.max", ".3g"),
    ("mean ‖J‖", "jacobian.mean", ".3g"),
    ("max ‖J‖, softmaxed", "softmax_jacobian.max", ".3g"),
    ("mean ‖J‖, softmaxed", "softmax_jacobian.mean", ".3g"),
)
EXACT = (
    ("λ_max(H)", "hessian.lambda_max", ".4g"),
    ("exact", "hessian.exact.lambda_max", ".4g"),
    ("Tr H", "hessian.trace", ".4g"),
    ("exact", "hessian.exact.trace", ".4g"),
    ("‖H‖_F", "hessian.frobenius", ".4g"),
    ("exact", "hessian.exact.frobenius", ".4g"),
    ("zero mass", "hessian.zero_mass", ".4f"),
    ("exact", "hessian.exact.zero_mass", ".4f"),
)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Spectra by L2 as in the paper, what L2 does to flatness and generalisation, and the way there."""
    panels = (
        ("hessian.lambda_max",),
        ("jacobian.max",),
        ("gap_loss",),
    )
    histories = ("train_loss", "test_accuracy", "weight_norm", "hessian.lambda_max", "hessian.trace", "jacobian.max")
    return [
        figures.spectra_by(runs),
        figures.panels_against(runs, panels=panels, name="flatness-and-gap"),
        figures.over_training(runs, metrics=histories),
        figures.degeneracy_over_training(runs),
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Performance, curvature, degeneracy and Jacobians by L2; the exact spectrum beside the estimate where it is."""
    tables = [
        table_by(runs, columns=PERFORMANCE, caption="Losses in nats and accuracies on clean examples."),
        table_by(runs, columns=CURVATURE, caption="Curvature of the training loss, L2 term left out."),
        table_by(runs, columns=DEGENERACY, caption="Mass at zero, against the bound that G's rank bound implies."),
        table_by(runs, columns=JACOBIAN, caption="Input-output Jacobian norms over the training examples."),
    ]
    if any("hessian.exact.lambda_max" in line for run in runs for line in run.metrics):
        tables.append(table_by(runs, columns=EXACT, caption="Lanczos quadrature beside every exact eigenvalue."))
    return tables


COMPARED = "best L2 by validation accuracy against L2 = 0, paired by seed, 95 % t-interval"

SHARED_CLAIMS = (
    Claim(
        "weight-norm",
        "G",
        "§3.1",
        "L2 reduces the weight norm",
        "a figure without numbers",
        "Kendall τ of ‖w‖ with L2 in each seed below 0, 95 % t-interval",
        partial(claims.increases, metric="weight_norm", expect="decreases"),
    ),
    Claim(
        "sharper-with-smaller-gap",
        "hessflat",
        "beyond the paper",
        "the solution with the smaller generalisation gap in loss is the sharper one",
        "not in the paper for this network",
        f"λ_max(H) and |train − test loss|, {COMPARED}: the first larger, the second smaller",
        partial(claims.sharper_and_better, quality="gap_loss", expect_quality="smaller"),
    ),
    Claim(
        "jacobian-norm",
        "hessflat",
        "beyond the paper",
        "the input-output Jacobian norm falls where L2 generalises better, unlike sharpness",
        "not in the paper",
        f"{COMPARED}: ratio below 1",
        partial(claims.compare, metric="jacobian.max", expect="smaller"),
    ),
    Claim(
        "zero-mass",
        "G",
        "§3.2, eq. 11",
        "the mass at zero of the Hessian is at least 1 − 4 d_y (Σ N_l + d_x) / P",
        "0.9639 for VGG-16, largely respected",
        "worst measured step of each seed, margin above 0 by a 95 % t-interval",
        partial(claims.at_least, metric="hessian.zero_mass", bound_metric="zero_mass_bound", when="always"),
    ),
)
