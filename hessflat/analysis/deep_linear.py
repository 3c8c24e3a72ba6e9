"""The deep linear network with three weights and loss exp(w₁w₂w₃X): closed forms, and the distance of runs from them.

*Flatness is a False Friend*, §2. With the product p = w₁w₂w₃ and u = pX the loss is exp(u). Hence ∂L/∂w_i = p_i X
exp(u) and H_ij = (p_i p_j X² + p_ij X) exp(u), where p_i = p / w_i, p_ij = p / (w_i w_j) for i ≠ j, and p_ii = 0. With
D = diag(1/w_i), H = exp(u) D [(u² + u) 1 1ᵀ − u I] D.

A reparameterisation multiplies one weight by α and divides another by α, which leaves the function unchanged. The
arrays of `hessflat.measures.reparameterised` hold K such copies of the weights: `weights` `[K, 3]`, `gradient` `[K,
3]`, `hessian` `[K, 3, 3]`, `loss`, `scale` (α), `multiplied` and `divided` (indices of weights), all `[K]`. Functions
of a `Run` raise an InputError where the run did not measure what they read.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hessflat.analysis.results import Run
from hessflat.analysis.statistics import kendall_tau, power_law_exponent

Copies = dict[str, np.ndarray]

# Where exp(u) counts as small: below it the polynomial's (u² + u) is past its minimum.
LOW_LOSS = 0.1


def exact_gradient(weights: np.ndarray, x: float) -> np.ndarray:
    """The gradient p_i X exp(pX) `[K, 3]` at weights `[K, 3]`."""
    product = weights.prod(1, keepdims=True)
    return product / weights * x * np.exp(product * x)


def exact_hessian(weights: np.ndarray, x: float) -> np.ndarray:
    """The Hessian (p_i p_j X² + p_ij X) exp(pX) `[K, 3, 3]` at weights `[K, 3]`."""
    product, first, second = weights.prod(1)[:, None, None], *_derivatives_of_product(weights)
    return (first[:, :, None] * first[:, None, :] * x**2 + second * x) * np.exp(product * x)


def exact_trace(weights: np.ndarray, x: float) -> np.ndarray:
    """The trace of the Hessian Σ p_i² X² exp(pX) `[K]` at weights `[K, 3]`."""
    first, _ = _derivatives_of_product(weights)
    return np.sum(first**2, axis=1) * x**2 * np.exp(weights.prod(1) * x)


def largest_share(loss: np.ndarray) -> np.ndarray:
    """1 − 2 / (3 ln(1/loss)): the limit of λ_max(H) / Tr H for weights of equal magnitude as the loss tends to 0."""
    return 1 + 2 / (3 * np.log(loss))


def _derivatives_of_product(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product, pairs = weights.prod(1)[:, None], weights[:, :, None] * weights[:, None, :]
    return product / weights, product[:, :, None] / pairs * (1 - np.eye(3)[None])


def _lambda_max(copies: Copies) -> np.ndarray:
    return np.linalg.eigvalsh(copies["hessian"])[:, -1]


def _adaptive_sharpness(copies: Copies) -> np.ndarray:
    """λ_max of |w_i w_j| H_ij `[K]`, the adaptive sharpness."""
    sizes = np.abs(copies["weights"])
    return np.linalg.eigvalsh(sizes[:, :, None] * copies["hessian"] * sizes[:, None, :])[:, -1]


class CopyQuantity(NamedTuple):
    """A scalar quantity of each copy of the weights, `[K]`, and its name in a table."""

    name: str
    values: Callable[[Copies], np.ndarray]


QUANTITIES = {
    "loss": CopyQuantity("loss", lambda copies: copies["loss"]),
    "gradient": CopyQuantity("‖∇L‖", lambda copies: np.linalg.norm(copies["gradient"], axis=1)),
    "lambda_max": CopyQuantity("λ_max(H)", _lambda_max),
    "trace": CopyQuantity("Tr H", lambda copies: np.trace(copies["hessian"], axis1=1, axis2=2)),
    "norm_scaled": CopyQuantity(
        "λ_max ‖w‖²", lambda copies: _lambda_max(copies) * np.sum(copies["weights"] ** 2, axis=1)
    ),
    "adaptive": CopyQuantity("λ_max(|w| H |w|)", _adaptive_sharpness),
}


def reparameterised_copies(run: Run, step: int | None = None) -> Copies:
    """The arrays of a run's reparameterised copies at a step; the last measured step by default."""
    return run.spectrum("reparameterised", step)


def relative_spread(run: Run, quantity: str) -> float:
    """(max − min) / min over the copies of a key of `QUANTITIES`; the larger of the first and last measured step."""
    return max(
        float(np.ptp(values) / values.min())
        for values in (
            QUANTITIES[quantity].values(reparameterised_copies(run, step)) for step in (run.first_step, None)
        )
    )


def decades(run: Run, quantity: str) -> float:
    """log₁₀(max / min) of a key of `QUANTITIES` over the copies at the last measured step."""
    values = QUANTITIES[quantity].values(reparameterised_copies(run))
    return float(np.log10(values.max() / values.min()))


def misalignment(copies: Copies) -> float:
    """1 − |∂L/∂w_j| / ‖∇L‖ at the largest α, where w_j is the divided weight; the maximum over pairs of weights."""
    at = copies["scale"] == copies["scale"].max()
    gradients, divided = copies["gradient"][at], copies["divided"][at]
    own = np.abs(np.take_along_axis(gradients, divided[:, None], 1))[:, 0]
    return float(np.max(1 - own / np.linalg.norm(gradients, axis=1)))


def distance_from_closed_form(copies: Copies, x: float) -> float:
    """The largest relative difference, in the Frobenius norm, of a copy's gradient or Hessian from its closed form."""
    worst = 0.0
    for measured, exact in (
        (copies["gradient"], exact_gradient(copies["weights"], x)),
        (copies["hessian"], exact_hessian(copies["weights"], x)),
    ):
        rows = measured.reshape(len(measured), -1), exact.reshape(len(exact), -1)
        apart = np.linalg.norm(rows[0] - rows[1], axis=1) / np.linalg.norm(rows[1], axis=1)
        worst = max(worst, float(apart.max()))
    return worst


def distance_from_trace(copies: Copies, x: float) -> float:
    """|Tr H / (Σ p_i² X² exp(pX)) − 1|, the largest value over copies."""
    return float(np.max(np.abs(QUANTITIES["trace"].values(copies) / exact_trace(copies["weights"], x) - 1)))


def rest_of_trace(run: Run) -> float:
    """1 − λ_max(H) / Tr H at the last measured step; 0 for a matrix of rank one."""
    return 1 - run.final("hessian.exact.lambda_max") / run.final("hessian.exact.trace")


def distance_from_largest_share(run: Run) -> float:
    """|(1 − λ_max(H) / Tr H) · 3/2 · ln(1/loss) − 1| at the last measured step, which tends to 0 with the loss."""
    return abs(-rest_of_trace(run) * 1.5 * np.log(run.final("train_loss")) - 1)


def sharpness_times_time(run: Run) -> float:
    """λ_max(H) · learning rate · steps at the last measured step."""
    return run.final("hessian.exact.lambda_max") * run.setting("optim.lr") * run.metrics[-1]["step"]


def at_low_loss(run: Run, metric: str) -> np.ndarray:
    """The values of a metric at the measured steps with a training loss below `LOW_LOSS`."""
    return run.history(metric)[run.history("train_loss") < LOW_LOSS]


def exponent_of_loss(run: Run, metric: str) -> float:
    """The exponent b of metric = a · loss^b, fitted to the measured steps with a training loss below `LOW_LOSS`."""
    return power_law_exponent(at_low_loss(run, "train_loss"), at_low_loss(run, metric))


def order_of_share(run: Run) -> float:
    """Kendall's tau-b of λ_max(H) / Tr H and the training loss, over measured steps with a loss below `LOW_LOSS`."""
    share = at_low_loss(run, "hessian.exact.lambda_max") / at_low_loss(run, "hessian.exact.trace")
    return kendall_tau(at_low_loss(run, "train_loss").tolist(), share.tolist())
