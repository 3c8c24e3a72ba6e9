"""Norms of what goes into each dense layer, which its parameter derivative is made of, and of its weights.

The derivative of a dense layer's outputs by its kernel is the matrix of its inputs, f_{l-1}(X) in *On progressive
sharpening*, appendix C.2; the norm of the first layer's weights is in that paper's tables 1 and 2.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from scipy.sparse.linalg import svds

from hessflat.measures.eval_state import EvalState, curvature_data
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.models import apply_by_layer
from hessflat.utils import hardware

# Of a matrix whose smaller side is above this, the largest singular value is found by iterating.
_MOST_DENSE = 512


def layer_input_norms(state: EvalState) -> Measurement:
    """Of each dense layer `features.<name>.norm`, ‖f_{l-1}(X)‖₂ over the measured examples X in eval mode.

    It grows as the root of the number of examples. `kernel.<name>.norm` is the Frobenius norm of the weights without
    the bias. Names are those of the parameters: `Dense_0` is the first layer of an MLP.
    """
    inputs = curvature_data(state)["inputs"]
    scalars: Scalars = {}
    layers = _dense_layers(state.model.apply, state.params, state.batch_stats, inputs)
    for name, (matrix, kernel) in layers.items():
        scalars[f"features.{name}.norm"] = spectral_norm(hardware.on_host(matrix).reshape(-1, matrix.shape[-1]))
        scalars[f"kernel.{name}.norm"] = float(np.linalg.norm(hardware.on_host(kernel)))
    return Measurement(scalars, {})


def spectral_norm(matrix: np.ndarray) -> float:
    """The largest singular value of a float32 `[n, d]`, to some six digits."""
    if min(matrix.shape) > _MOST_DENSE:
        start = np.ones(min(matrix.shape), matrix.dtype)
        return float(svds(matrix, k=1, v0=start, return_singular_vectors=False)[0])
    matrix = matrix.astype(np.float64)
    gram = matrix.T @ matrix if matrix.shape[0] > matrix.shape[1] else matrix @ matrix.T
    return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))


@partial(jax.jit, static_argnums=0)
def _dense_layers(apply: Callable, params: Any, batch_stats: Any, inputs: jax.Array) -> dict[str, list[jax.Array]]:
    """What goes into each dense layer, `[n, ..., d]`, and its kernel, `[d, d']`."""
    _, layers = apply_by_layer(apply, params, batch_stats, inputs)
    dense = {name: layer for name, layer in layers.items() if _is_dense(layer.params)}
    return {name: [layer.inputs, layer.params["kernel"]] for name, layer in dense.items()}


def _is_dense(params: Any) -> bool:
    return "kernel" in params and params["kernel"].ndim == 2


MEASURE = Measure(
    layer_input_norms,
    cost=lambda settings, num_params: 2,
    doc="norms of the inputs of dense layers, and of kernels, are measured",
    names={
        "features.<layer>.norm": ("‖f(X)‖₂ into <layer>", r"$\|f(X)\|_2$ into <layer>"),
        "kernel.<layer>.norm": ("‖W‖_F of <layer>", r"$\|W\|_F$ of <layer>"),
    },
)
