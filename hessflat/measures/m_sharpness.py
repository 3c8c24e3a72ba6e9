"""m-sharpness: how much the loss of m examples rises where the weights move, at most and on average."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.config import at_least, positive, whole
from hessflat.curvature.perturbations import Ball, average_case, worst_case
from hessflat.measures.eval_state import EvalState, FlatnessExamples, Functions, flatness_data, flatness_share
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import LOSSES
from hessflat.utils.errors import InputError

BatchSize = Annotated[int, at_least(1), "examples that share a perturbation in m_sharpness and geodesic_sharpness"]
Steps = Annotated[int, whole(1, 1_000), "gradients for the worst case of each batch in these two"]
_FORMS = {"worst_l2": "worst case, L2", "worst_linf": "worst case, L∞", "average": "average"}
_SCALED = {"": "", "adaptive_": ", adaptive"}
_LOGITS = {"": "", "logit_normalised_": ", logits normalised"}


def m_sharpness(
    state: EvalState,
    *,
    flatness_examples: FlatnessExamples = 512,
    m: BatchSize = 128,
    m_steps: Steps = 5,
    m_draws: Annotated[int, whole(1, 1_000_000), "draws of noise for each batch in measure.m_sharpness"] = 2,
    rho_l2: Annotated[float, positive, "ρ of the worst case in the ball of L2"] = 0.05,
    rho_linf: Annotated[float, positive, "ρ of the worst case in the ball of L∞"] = 1e-4,
    rho_average: Annotated[float, positive, "standard deviation of the noise of the average case"] = 5e-3,
    rho_adaptive_l2: Annotated[float, positive, "rho_l2 where weights move in units of |w|"] = 0.5,
    rho_adaptive_linf: Annotated[float, positive, "rho_linf where weights move in units of |w|"] = 5e-3,
    rho_adaptive_average: Annotated[float, positive, "rho_average where weights move in units of |w|"] = 0.05,
) -> Measurement:
    """The mean rise of the loss of `measure.m` examples over batches, batch norm in eval mode; larger is sharper.

    `m_sharpness.worst_l2` and `.worst_linf` are the largest rise that `measure.m_steps` of gradient ascent find in the
    ball of radius ρ (Foret et al. 2021, *Sharpness-aware minimization*), from below; `.average` is the mean rise under
    normal noise. `adaptive_` before a form has every weight move in units of |w| (Kwon et al. 2021, *ASAM*), so that a
    factor which moves from one layer of a ReLU network to the next changes nothing. `logit_normalised_` before that has
    the logits of each example divided by their standard deviation over classes, so that in the adaptive forms a factor
    of all logits changes nothing either. All are those of Andriushchenko et al. (2023, *A modern look at the
    relationship between sharpness and generalization*), but for the ascent, which is
    `curvature.perturbations.worst_case`.

    Every `_se` is a standard error over batches. They hold the first `measure.flatness_examples` of the measured
    examples, those beyond the last full batch left out.

    Raises:
        InputError: more examples in a batch than are measured.
    """
    data = flatness_data(state, flatness_examples)
    require_batches(len(data["targets"]), m)
    radii = {
        "": {"worst_l2": rho_l2, "worst_linf": rho_linf, "average": rho_average},
        "adaptive_": {
            "worst_l2": rho_adaptive_l2,
            "worst_linf": rho_adaptive_linf,
            "average": rho_adaptive_average,
        },
    }
    loss, batches, key = _loss(state.functions()), cv.Batches(data, m), jax.random.key(state.protocol.seed)
    scales = {"": None, "adaptive_": jax.tree.map(jnp.abs, state.params)}
    scalars: Scalars = {}
    for logits in _LOGITS if LOSSES[state.loss].logits else ("",):
        extra = (state.batch_stats, jnp.asarray(bool(logits)))
        for scaled, radius in radii.items():
            common = {"scales": scales[scaled], "state": extra}
            for form, rho in radius.items():
                at = (loss, state.params, batches, rho, key)
                if form == "average":
                    rise = average_case(*at, **common, num_draws=m_draws)
                else:
                    ball: Ball = "l2" if form == "worst_l2" else "linf"
                    rise = worst_case(*at, **common, ball=ball, num_steps=m_steps)
                name = f"m_sharpness.{logits}{scaled}{form}"
                scalars |= {name: rise.mean, f"{name}_se": rise.standard_error}
    return Measurement(scalars, {})


def require_batches(number: int, m: int) -> None:
    """Refuse batches of m examples where there are fewer."""
    if m > number:
        raise InputError(
            f"config.measure.m must be at most {number}, the measured examples of measure.flatness_examples, got {m}"
        )


@cache
def _loss(functions: Functions) -> Callable:
    """The mean loss, its state (batch_stats, whether logits are normalised); made once, so that it is compiled once."""

    def loss(params: Any, batch: Mapping[str, jax.Array], state: tuple[Any, jax.Array]) -> jax.Array:
        batch_stats, is_normalised = state
        outputs = functions.predict(params, batch, batch_stats)
        scale = jnp.where(is_normalised, _spread(outputs), jnp.ones_like(outputs[:, :1]))
        return functions.criterion(outputs / scale, batch, batch_stats)

    return loss


def _spread(outputs: jax.Array) -> jax.Array:
    """The standard deviation of each example's outputs over classes [n, 1]; 1 where they are all the same."""
    variance = jnp.var(outputs, axis=-1, keepdims=True)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


MEASURE = Measure(
    m_sharpness,
    # Eight ascents and four means of a noisy loss; a gradient is half a product, a loss a sixth.
    cost=lambda settings, num_params: (
        (8 * (settings.m_steps / 2 + 1 / 6) + 4 * (1 + 2 * settings.m_draws) / 6) * flatness_share(settings)
    ),
    doc="m-sharpness is measured: worst case and average, adaptive, logits normalised",
    names={
        f"m_sharpness.{logits}{scaled}{form}": f"{text}{scaled_text}{logits_text} m-sharpness"
        for logits, logits_text in _LOGITS.items()
        for scaled, scaled_text in _SCALED.items()
        for form, text in _FORMS.items()
    },
)
