"""Loss on a straight line in weight space: *Empirical Analysis of the Hessian*, §4.1, figure 9."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.config import between, whole
from hessflat.measures.eval_state import EvalState
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.measures.performance import losses_and_accuracies
from hessflat.utils import hardware
from hessflat.utils.errors import SettingError


def linear_interpolation(
    state: EvalState,
    *,
    line_from: Annotated[
        float, between(-100, 0), "first point of measure.linear_interpolation: 0 is the first weights"
    ] = -1.0,
    line_to: Annotated[
        float, between(1, 100), "last point of measure.linear_interpolation: 1 is the present weights"
    ] = 2.0,
    line_points: Annotated[
        int, whole(2, 100_000), "evenly spaced points of measure.linear_interpolation, beside 0 and 1"
    ] = 31,
) -> Measurement:
    """Losses and accuracies at (1 − α) w₀ + α w, where w₀ are the weights that the run started from.

    Array file `line`: `alphas` [n], which hold 0 and 1, `distance` between these two, and `<split>_loss` [n] and, of
    classes, `<split>_accuracy` [n]. `line.<split>_barrier` is the most by which the loss between w₀ and w exceeds the
    chord (1 − α) L(w₀) + α L(w), 0 where it nowhere does; `line.length` is the distance. At 0 and 1 the numbers are
    those of `performance`, to the bit. Raises `SettingError` for a model with batch norm: the running averages of
    either end do not belong to the weights between.
    """
    if state.has_batch_norm:
        raise SettingError(
            "config.measure.linear_interpolation is for models without batch norm, whose running averages do not "
            "belong to the weights between; set it to 'never'"
        )
    first, evenly = state.first_params(), np.linspace(line_from, line_to, line_points)
    # Rounded, so that a 0 or 1 among them is not there twice.
    alphas = np.unique(np.append(evenly, [0.0, 1.0]).round(12))
    names = list(state.splits)
    points = (state._replace(params=_between(first, state.params, alpha)) for alpha in alphas)
    means = [losses_and_accuracies(point, names) for point in points]
    distance = _distance(first, state.params)
    arrays = {"alphas": alphas, "distance": np.array(distance)}
    scalars: Scalars = {"line.length": distance}
    for name in names:
        losses = np.array([values[name][0] for values in means])
        arrays[f"{name}_loss"] = losses
        scalars[f"line.{name}_barrier"] = barrier(alphas, losses)
        if means[0][name][1] is not None:
            arrays[f"{name}_accuracy"] = np.array([values[name][1] for values in means])
    return Measurement(scalars, {"line": arrays})


def barrier(alphas: np.ndarray, losses: np.ndarray) -> float:
    """The most by which `losses` on 0 ≤ α ≤ 1 exceed the chord between those at 0 and 1, which are among `alphas`."""
    start, end = (losses[alphas == alpha][0] for alpha in (0, 1))
    between = (alphas >= 0) & (alphas <= 1)
    chord = (1 - alphas) * start + alphas * end
    return float(np.max((losses - chord)[between]))


def _between(first: Any, last: Any, alpha: float) -> Any:
    weights = jnp.float32(1 - alpha), jnp.float32(alpha)
    return jax.tree.map(lambda x, y: weights[0] * x + weights[1] * y, first, last)


def _distance(first: Any, last: Any) -> float:
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True)
    return float(
        np.sqrt(sum(np.sum((hardware.on_host(y, np.float64) - hardware.on_host(x, np.float64)) ** 2) for x, y in pairs))
    )


MEASURE = Measure(
    linear_interpolation,
    cost=lambda settings, num_params: settings.line_points,
    doc="losses on the line from the run's first weights are measured",
    names={
        "line.train_barrier": "barrier in training loss (nats)",
        "line.test_barrier": "barrier in test loss (nats)",
        "line.length": ("‖w − w₀‖₂", r"$\|w - w_0\|_2$"),
    },
)
