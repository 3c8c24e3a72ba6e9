"""Curvature where one layer is multiplied and another divided: *Flatness is a False Friend*, §2.

A deep linear network computes the same function at all of these weights, so whatever differs between them is a matter
of parameters and says nothing of the function (Dinh et al. 2017).
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from hessflat.measures.eval_state import EvalState, as_float64, chunk_size, curvature_data
from hessflat.measures.measurement import Measure, Measurement, Scales
from hessflat.models import num_params
from hessflat.utils.errors import SettingError

LARGEST = 200


def reparameterised(state: EvalState, *, scales: Scales = (1.0, 2.0, 4.0, 8.0)) -> Measurement:
    """Loss, gradient and Hessian with layer i times α and layer j over α, in float64, for every i ≠ j and every α.

    Arrays `reparameterised`, of K copies, one for each ordered pair of layers and each α of `measure.scales`:
    `multiplied`, `divided` [K], the layers, from 0; `scale` [K], α; `weights` [K, P], in the order of
    `ravel_pytree`; `loss` [K]; `gradient` [K, P]; `hessian` [K, P, P].

    Raises:
        SettingError: a model that is no product of two or more dense layers, or more than 200 parameters.
    """
    data, layers = curvature_data(state), _layers(state.params)
    count = num_params(state.params)
    if count > LARGEST:
        raise SettingError(
            f"config.measure.reparameterised keeps whole Hessians, of at most {LARGEST} parameters, got {count}; "
            "use a smaller model, or set it to 'never'"
        )
    functions = state.functions()
    rows = []
    with jax.enable_x64(True):
        params, data, batch_stats = (as_float64(tree) for tree in (state.params, data, state.curvature_state))
        _require_product(functions.predict(params, data, batch_stats), params, layers, data["inputs"])
        batches = cv.Batches(data, chunk_size(state))
        value_and_gradient = jax.jit(jax.value_and_grad(functions.loss))
        for i, j in ((i, j) for i in range(len(layers)) for j in range(len(layers)) if i != j):
            for scale in sorted(scales):
                copy = params | {layers[i]: _times(params[layers[i]], scale)}
                copy |= {layers[j]: _times(params[layers[j]], 1 / scale)}
                loss, gradient = value_and_gradient(copy, data, batch_stats)
                hessian = cv.hessian(functions.loss, copy, batches, batch_stats).to_dense()
                flat, flat_gradient = (ravel_pytree(tree)[0] for tree in (copy, gradient))
                rows.append((i, j, scale, flat, loss, flat_gradient, hessian))
    names = ("multiplied", "divided", "scale", "weights", "loss", "gradient", "hessian")
    arrays = {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return Measurement({}, {"reparameterised": arrays})


def _layers(params: Any) -> list[str]:
    """The names of the layers from input to output; only kernels of dense layers are allowed."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    is_linear = all(
        len(path) == 2 and path[0].key.startswith("Dense_") and path[1].key == "kernel" and leaf.ndim == 2
        for path, leaf in leaves
    )
    if not is_linear or len(leaves) < 2:
        raise _refusal()
    return sorted(params, key=lambda name: int(name.removeprefix("Dense_")))


def _require_product(outputs: jax.Array, params: Any, layers: list[str], inputs: jax.Array) -> None:
    """Refuse activations, which parameters do not show."""
    kernels = (params[name]["kernel"] for name in layers)
    product = reduce(jnp.matmul, kernels, inputs.reshape(len(inputs), -1))
    if jnp.max(jnp.abs(outputs - product)) > 1e-9 * jnp.max(jnp.abs(product)):
        raise _refusal()


def _times(layer: Any, factor: float) -> Any:
    return jax.tree.map(lambda leaf: leaf * factor, layer)


def _refusal() -> SettingError:
    return SettingError(
        "config.measure.reparameterised needs two or more dense layers without biases or activations; "
        "use the model 'deep_linear', or set it to 'never'"
    )


MEASURE = Measure(
    reparameterised,
    # In float64, a product for each column, for the six ordered pairs of three layers.
    cost=lambda settings, num_params: 12 * len(settings.scales) * num_params,
    doc="H is measured with one layer multiplied by α and another divided by it",
)
