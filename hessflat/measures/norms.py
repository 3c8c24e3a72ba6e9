"""Norms of weights that bounds on generalisation are made of, by themselves and over the margin."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature import numerics
from hessflat.measures.eval_state import EvalState, curvature_batches, evaluated
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.training.optimisation import are_classes
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

# Of the margins of all measured examples.
_PERCENTILE = 10


def norms(state: EvalState) -> Measurement:
    """Larger is more complex, as the measures of Jiang et al. (2020, *Fantastic generalization measures*) are.

    `norms.distance` is ‖w − w₀‖₂ from the weights that the run started from; ‖w‖₂ is `weight_norm` of `performance`.
    `norms.spectral_product` is Π_l ‖W_l‖₂ over all weights of two axes or more, convolutions as matrices of all that
    leads to a channel (Bartlett et al. 2017, *Spectrally-normalized margin bounds*). `norms.path` is the root of the
    sum over paths from input to output of the products of w² (Neyshabur et al. 2015, *Path-SGD*): the outputs for
    squared weights at inputs of 1; with max pooling, over the largest of the paths it has to choose from. Both leave a
    factor that moves from one layer to the next alone, and are left out with batch norm, where the scale of weights
    says nothing; the second is so with activations that are not the identity above 0.

    `norms.spectral_product_over_margin` and `norms.path_over_margin` are over the margin, the 10th percentile of the
    logit of the label less the largest other, over the measured examples; they are left out where it is not above 0,
    as where fewer than nine of ten answers are right.
    """
    scalars: Scalars = {"norms.distance": _distance(state.params, state.first_params())}
    if state.has_batch_norm:
        return Measurement(scalars, {})
    complexity = {"spectral_product": _spectral_product(state.params)}
    path = _path(state)
    if path is not None:
        complexity["path"] = path
    margin = _margin(state) if are_classes(state.splits["train"]["labels"]) else None
    for name, value in complexity.items():
        scalars[f"norms.{name}"] = value
        if margin is not None and margin > 0:
            scalars[f"norms.{name}_over_margin"] = value / margin
    return Measurement(scalars, {})


def _distance(params: Any, first: Any) -> float:
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(first), strict=True)
    squares = [
        np.sum((hardware.on_host(w, np.float64) - hardware.on_host(start, np.float64)) ** 2) for w, start in pairs
    ]
    return float(np.sqrt(sum(squares)))


def _spectral_product(params: Any) -> float:
    kernels = (hardware.on_host(leaf, np.float64) for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    return float(np.prod([np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2) for kernel in kernels]))


def _path(state: EvalState) -> float | None:
    """None where activations are not the identity above 0: then outputs are not in proportion to inputs."""
    squared = jax.tree.map(jnp.square, state.params)
    ones = jnp.ones_like(hardware.first_examples(state.splits["train"], 1)["inputs"])
    without_biases = jax.tree.map(lambda leaf: leaf if leaf.ndim > 1 else jnp.zeros_like(leaf), squared)

    def outputs(params: Any, factor: float) -> np.ndarray:
        with numerics.matmul_precision():
            found = hardware.on_host(evaluated(state.functions().logits, params, factor * ones, state.batch_stats))
        if not np.isfinite(found).all():
            raise InputError("the path norm is not finite in single precision")
        return found

    if not np.allclose(2 * outputs(without_biases, 1.0), outputs(without_biases, 2.0), rtol=1e-4, atol=0):
        return None
    return float(np.sqrt(np.sum(outputs(squared, 1.0), dtype=np.float64)))


def _margin(state: EvalState) -> float:
    functions, batches = state.functions(), curvature_batches(state, "eval")
    margins = []
    for start, size in batches.cuts:
        batch = batches.take(start, size)
        with numerics.matmul_precision():
            found = evaluated(functions.predict, state.params, batch, state.batch_stats)
        outputs = hardware.on_host(found).astype(np.float64)
        rows, labels = np.arange(size), hardware.on_host(batch["targets"]).argmax(axis=1)
        own = outputs[rows, labels]
        outputs[rows, labels] = -np.inf
        margins.append(own - outputs.max(axis=1))
    return float(np.percentile(np.concatenate(margins), _PERCENTILE))


MEASURE = Measure(
    norms,
    cost=lambda settings, num_params: 1,
    doc="norms of weights are measured: distance from the start, spectral, path, over the margin",
    names={
        "norms.distance": ("‖w − w₀‖₂", r"$\|w - w_0\|_2$"),
        "norms.spectral_product": ("Π ‖W_l‖₂", r"$\prod_l\,\|W_l\|_2$"),
        "norms.path": "path norm",
        "norms.spectral_product_over_margin": ("Π ‖W_l‖₂ over the margin", r"$\prod_l\,\|W_l\|_2$ over the margin"),
        "norms.path_over_margin": "path norm over the margin",
    },
)
