"""How much noise the weights stand: the PAC-Bayesian flatness of Jiang et al. and Dziugaite et al. (2020)."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.config import one_of, positive, whole
from hessflat.curvature.tolerance import noise_tolerance
from hessflat.measures.eval_state import (
    EvalState,
    FlatnessExamples,
    Functions,
    chunk_size,
    flatness_data,
    flatness_share,
)
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import are_classes
from hessflat.utils.errors import SettingError

RISES = ("error", "loss")


def pac_bayes(
    state: EvalState,
    *,
    flatness_examples: FlatnessExamples = 512,
    noise_draws: Annotated[int, whole(2, 1_000_000), "draws of noise in measure.pac_bayes, each with both signs"] = 4,
    noise_rise: Annotated[float, positive, "rise that the noise of measure.pac_bayes makes"] = 0.1,
    noise_rise_of: Annotated[str, one_of(RISES), "what rises: the share of wrong answers, or the mean loss"] = "error",
) -> Measurement:
    """1 / σ², σ the standard deviation of noise that makes the training error rise by 0.1; larger is sharper.

    `pac_bayes.inverse_variance` has the same noise in all weights (Jiang et al. 2020, *Fantastic generalization
    measures*), `pac_bayes.magnitude_inverse_variance` noise of deviation σ |w| in each weight, so that
    a factor which moves from one layer of a ReLU network to the next changes nothing. Every `_se` is a standard error
    over draws. On the first `measure.flatness_examples` of the measured examples, batch norm in eval mode.

    Departures: σ is found as in `curvature.tolerance.noise_tolerance`; the mean is over all these examples and not
    over a sample for each draw; the noise has no least deviation of 10⁻³ beside σ |w|, so that weights of 0 stay.

    Raises:
        InputError: a rise that no noise makes, as of the error of a network at chance.
        SettingError: the error of real targets.
    """
    if noise_rise_of == "error" and not are_classes(state.splits["train"]["labels"]):
        raise SettingError(
            "config.measure.noise_rise_of must be 'loss' for real targets, which have no right answer, got 'error'"
        )
    functions = state.functions()
    function = functions.loss if noise_rise_of == "loss" else _error(functions)
    batches = cv.Batches(flatness_data(state, flatness_examples), chunk_size(state))
    scalars: Scalars = {}
    # Of weights of the size 0.1 the same noise.
    for name, scales, start in (("", None, 0.01), ("magnitude_", jax.tree.map(jnp.abs, state.params), 0.1)):
        found = noise_tolerance(
            function,
            state.params,
            batches,
            noise_rise,
            jax.random.key(state.protocol.seed),
            scales=scales,
            num_draws=noise_draws,
            start=start,
            state=state.curvature_state,
        )
        value = found.deviation**-2
        scalars[f"pac_bayes.{name}inverse_variance"] = value
        scalars[f"pac_bayes.{name}inverse_variance_se"] = 2 * found.relative_error * value
    return Measurement(scalars, {})


@cache
def _error(functions: Functions) -> Callable:
    """The share of wrong answers; made once, so that it is compiled once."""

    def error(params: Any, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        outputs = functions.predict(params, batch, batch_stats)
        wrong = jnp.argmax(outputs, axis=-1) != jnp.argmax(batch["targets"], axis=-1)
        # The largest of outputs that are not finite is no answer.
        return jnp.mean(jnp.where(jnp.isfinite(outputs).all(axis=-1), wrong, jnp.nan), dtype=jnp.float32)

    return error


MEASURE = Measure(
    pac_bayes,
    # About eight σ twice, of each two losses a draw; a loss is a sixth of a product.
    cost=lambda settings, num_params: 2 * 8 * 2 * settings.noise_draws / 6 * flatness_share(settings),
    doc="1 / σ² is measured, σ the noise that makes the training error rise",
    names={
        "pac_bayes.inverse_variance": ("1/σ² of PAC-Bayes", r"$1/\sigma^2$ of PAC-Bayes"),
        "pac_bayes.magnitude_inverse_variance": (
            "1/σ² of PAC-Bayes, noise σ|w|",
            r"$1/\sigma^2$ of PAC-Bayes, noise $\sigma |w|$",
        ),
    },
)
