"""What each layer gives to the Gauss-Newton matrix: *On progressive sharpening*, §3.2, eq. 4.

C DF DFᵀ Cᵀ = C (Σ_l Jf_L ⋯ Jf_{l+1} Df_l Df_lᵀ Jf_{l+1}ᵀ ⋯ Jf_Lᵀ) Cᵀ has the non-zero eigenvalues of G. Here the right
side is made of the layers: Jf_L ⋯ Jf_{l+1} is the derivative of the logits by what layer l puts out, Df_l that of the
layer by itself by its parameters. The left side is made without looking at layers.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hessflat.curvature as cv
from hessflat.config import at_least
from hessflat.curvature import numerics
from hessflat.measures.eval_state import EvalState, as_float64, curvature_data
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.models import Model, apply_by_layer
from hessflat.utils import hardware

# Between two layers: up to this many values of one of them every derivative is made, above it λ_max is iterated for.
_FEW_VALUES = 512
_ITERATIONS = 60


def layer_jacobians(
    state: EvalState,
    *,
    layer_examples: Annotated[
        int, at_least(1), "first measured examples, on which measure.layer_jacobians is computed"
    ] = 100,
) -> Measurement:
    """Both sides of eq. 4 on the first `measure.layer_examples` measured examples, in float64, batch norm in eval mode.

    `layers.lambda_max` is λ_max(G) on these examples; `layers.difference` the largest difference between the N C
    eigenvalues of the two sides, over it. Of each layer, by name: `layers.<name>.lambda_max`, that of its summand, and
    `layers.<name>.jacobian`, max_i ‖Jf_L ⋯ Jf_{l+1}‖₂. Of the network, each a maximum over examples:
    `layers.after_first`, ‖Jf_L ⋯ Jf_2‖₂; `layers.input_output`, ‖Jf_L ⋯ Jf_1‖₂; `layers.product`,
    Π_{l ≥ 2} ‖Jf_l‖₂ with Jf_l from what layer l − 1 puts out to what layer l does, which bounds the first where each
    layer sees the one before alone.
    """
    model, functions = state.model, state.functions()
    data = {name: array[:layer_examples] for name, array in curvature_data(state).items()}
    with jax.enable_x64(True):
        params, data, batch_stats = (as_float64(tree) for tree in (state.params, data, state.curvature_state))
        # In the order of the pass; what comes out of compiled functions is in that of the alphabet.
        first, *rest = apply_by_layer(model.apply, params, batch_stats or {}, data["inputs"][:1])[1]
        sides = _sides(model, functions.criterion, params, data, batch_stats)
        gauss_newton = cv.gauss_newton(functions.predict, functions.criterion, params, cv.Batches(data), batch_stats)
        expected = np.sort(cv.eigvalsh(gauss_newton, float64=True))[::-1]
    grams, norms, between, whole = jax.tree.map(hardware.on_host, sides)
    summed = np.sort(np.linalg.eigvalsh(sum(grams.values())))[::-1]
    count = min(len(summed), len(expected))
    scalars: Scalars = {
        "layers.lambda_max": float(expected[0]),
        "layers.difference": float(np.abs(summed[:count] - expected[:count]).max() / expected[0]),
        "layers.after_first": float(norms[first].max()),
        "layers.input_output": float(whole.max()),
        "layers.product": float(math.prod((between[name] for name in rest), start=np.ones(1)).max()),
    }
    for name in (first, *rest):
        scalars[f"layers.{name}.lambda_max"] = float(np.linalg.eigvalsh(grams[name])[-1])
        scalars[f"layers.{name}.jacobian"] = float(norms[name].max())
    return Measurement(scalars, {})


@partial(jax.jit, static_argnums=(0, 1))
def _sides(
    model: Model, criterion: Callable, params: Any, data: dict[str, Array], batch_stats: Any
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array], Array]:
    """By layer: summands [N C, N C], ‖∂f/∂z_l‖ [N] and ‖∂z_l/∂z_{l−1}‖ [N]; and ‖∂f/∂x‖ [N]."""
    one = partial(_one_example, model, criterion, params, batch_stats)
    rows, norms, between, whole = jax.lax.map(one, data)
    share = 1 / jnp.sqrt(len(whole))  # of an example in the mean loss
    flat = {name: share * block.reshape(-1, block.shape[-1]) for name, block in rows.items()}
    return {name: block @ block.T for name, block in flat.items()}, norms, between, whole


def _one_example(
    model: Model, criterion: Callable, params: Any, batch_stats: Any, example: dict[str, Array]
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array], Array]:
    """Rows Sᵀ Jf_L ⋯ Jf_{l+1} Df_l [C, P_l], S Sᵀ the criterion's second derivative, and the norms of `_sides`."""
    batch = jax.tree.map(lambda x: x[None], example)
    pass_through = partial(apply_by_layer, model.apply, params, batch_stats or {})
    logits, layers = pass_through(batch["inputs"])
    zeros = {name: jnp.zeros_like(layer.outputs) for name, layer in layers.items()}

    def shifted_logits(added: dict[str, Array], inputs: Array) -> Array:
        return pass_through(inputs, lambda name, outputs: outputs + added[name])[0][0]

    unit = jnp.eye(logits.size, dtype=logits.dtype)
    by_outputs, by_inputs = jax.vmap(jax.vjp(shifted_logits, zeros, batch["inputs"])[1])(unit)
    curvature = jax.hessian(lambda f: criterion(f[None], batch))(logits[0])
    values, vectors = jnp.linalg.eigh(curvature)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]
    rows, norms, between = {}, {}, {}
    before, outputs_before = "", batch["inputs"]
    for name, layer in layers.items():
        pull = jax.vjp(layer.alone, layer.params)[1]
        own = jax.vmap(lambda row, pull=pull: numerics.ravel(pull(row)[0]))(by_outputs[name])
        rows[name] = root.T @ own
        norms[name] = _norm(by_outputs[name].reshape(logits.size, -1))

        def next_outputs(z: Array, name: str = name, before: str = before, at: Array = outputs_before) -> Array:
            if not before:
                return pass_through(z)[1][name].outputs
            return pass_through(batch["inputs"], lambda n, z_n: z_n + (z - at) if n == before else z_n)[1][name].outputs

        between[name] = _norm_by_iteration(next_outputs, outputs_before)
        before, outputs_before = name, layer.outputs
    return rows, norms, between, _norm(by_inputs.reshape(logits.size, -1))


def _norm(matrix: Array) -> Array:
    """The spectral norm of a matrix, from the smaller of its two Gram matrices."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(wide @ wide.T)[-1], 0))


def _norm_by_iteration(function: Callable[[Array], Array], at: Array) -> Array:
    """The spectral norm of the derivative of `function`; by power iteration, from below, where both sides are large."""
    outputs, pull = jax.vjp(function, at)
    if outputs.size <= _FEW_VALUES:
        unit = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)
        return _norm(jax.vmap(lambda row: pull(row)[0].ravel())(unit))
    if at.size <= _FEW_VALUES:
        unit = jnp.eye(at.size, dtype=at.dtype).reshape(-1, *at.shape)
        return _norm(jax.vmap(lambda column: jax.jvp(function, (at,), (column,))[1].ravel())(unit))

    def step(_: int, vector: Array) -> Array:
        image = pull(jax.jvp(function, (at,), (vector,))[1])[0]
        return image / jnp.maximum(jnp.linalg.norm(image), jnp.finfo(image.dtype).tiny)

    start = jax.random.normal(jax.random.key(0), at.shape, at.dtype)
    vector = jax.lax.fori_loop(0, _ITERATIONS, step, start / jnp.linalg.norm(start))
    return jnp.linalg.norm(jax.jvp(function, (at,), (vector,))[1])


MEASURE = Measure(
    layer_jacobians,
    # A vector-Jacobian product for each class, in float64, between all layers and for the rows of the spectra.
    cost=lambda settings, num_params: 60,
    doc="the summands of G by layer and norms between layers are computed",
    names={
        "layers.lambda_max": ("λ_max(G), few examples", r"$\lambda_{\max}(G)$, few examples"),
        "layers.after_first": ("max ‖Jf_L ⋯ Jf_2‖₂", r"$\max_i\,\|Jf_L \cdots Jf_2\|_2$"),
        "layers.input_output": ("max ‖Jf_L ⋯ Jf_1‖₂", r"$\max_i\,\|Jf_L \cdots Jf_1\|_2$"),
        "layers.product": ("max Π_{l≥2} ‖Jf_l‖₂", r"$\max_i\,\prod_{l\geq 2}\|Jf_l\|_2$"),
    },
)
