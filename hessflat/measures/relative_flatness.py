"""Relative flatness of each layer: *Relative flatness and generalization* (Petzka et al. 2021)."""

from typing import Annotated

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.config import whole
from hessflat.curvature.operators.operator import require_finite
from hessflat.curvature.stochtrace import estimates
from hessflat.measures.eval_state import EvalState, curvature_operator
from hessflat.measures.measurement import Measure, Measurement, Scalars
from hessflat.utils import hardware
from hessflat.utils.errors import InputError


def relative_flatness(
    state: EvalState,
    *,
    relative_probes: Annotated[int, whole(2, 1_000_000), "products for traces in measure.relative_flatness"] = 20,
) -> Measurement:
    """Σ_{s,s'} ⟨w_s, w_s'⟩ Tr H_{s,s'} by layer, batch norm in eval mode; larger is sharper, for all its name.

    s and s' are outputs of a layer, w_s the weights that lead to one, H_{s,s'} the block of second derivatives by w_s
    and w_s'; biases are left out. `relative_flatness.sum` is the sum over layers and `.max` the largest, each with a
    standard error over probes in `_se`. Of a convolution, w_s is all that leads to a channel. A factor that moves from
    one layer of a ReLU network to the next changes nothing.

    With R of W = Q R, W [inputs, outputs], and Z random signs, the number of a layer is the mean of Vᵀ H V over
    V = Z R; one product serves all layers, for their Z are independent. The largest is of means over probes, so it is
    too large where several layers are alike within their errors. Where P products are no more, they give all exactly.

    Raises:
        InputError: a model without weights of two axes or more.
    """
    op = cv.linearize(curvature_operator(state, "hessian", "eval"))
    leaves = list(map(hardware.on_host, jax.tree.leaves(state.params)))
    kernels = [leaf.ndim > 1 for leaf in leaves]
    if not any(kernels):
        raise InputError("relative flatness is of layers, got no weights of two axes or more; set it to 'never'")
    if relative_probes >= op.size:
        samples = _exact(hardware.on_host(op.to_dense(), np.float64), leaves)[None]
    else:
        generator, roots = np.random.default_rng(state.protocol.seed), list(map(_root, leaves))
        samples = np.array([_sample(op, generator, leaves, roots) for _ in range(relative_probes)])
    require_finite(samples)
    samples = samples[:, kernels]
    totals, largest = samples.sum(axis=1), samples[:, samples.mean(axis=0).argmax()]
    scalars: Scalars = {}
    for name, values in {"sum": totals, "max": largest}.items():
        error = 0.0 if len(values) == 1 else float(estimates.standard_error(values))
        scalars |= {f"relative_flatness.{name}": float(values.mean()), f"relative_flatness.{name}_se": error}
    return Measurement(scalars, {})


def _rows(leaf: np.ndarray) -> np.ndarray:
    """[inputs, outputs] of a kernel, float64."""
    return leaf.reshape(-1, leaf.shape[-1]).astype(np.float64)


def _root(leaf: np.ndarray) -> np.ndarray:
    """R [r, outputs] with Rᵀ R = Wᵀ W; none for what has one axis or none."""
    return np.asarray(np.linalg.qr(_rows(leaf), mode="r")) if leaf.ndim > 1 else np.zeros((0, 1))


def _sample(
    op: cv.Operator, generator: np.random.Generator, leaves: list[np.ndarray], roots: list[np.ndarray]
) -> list[float]:
    """Vᵀ H V of each leaf."""
    vectors = []
    for leaf, root in zip(leaves, roots, strict=True):
        inputs = leaf.size // leaf.shape[-1] if len(root) else leaf.size
        signs = generator.choice([-1.0, 1.0], (inputs, len(root)))
        vectors.append((signs @ root).reshape(leaf.shape) if len(root) else np.zeros(leaf.shape))
    structure = jax.tree.structure(op.params)
    products = op(jax.tree.unflatten(structure, [v.astype(x.dtype) for v, x in zip(vectors, leaves, strict=True)]))
    pairs = zip(vectors, jax.tree.leaves(products), strict=True)
    return [float(np.vdot(v, hardware.on_host(h, np.float64))) for v, h in pairs]


def _exact(hessian: np.ndarray, leaves: list[np.ndarray]) -> np.ndarray:
    """Of each leaf, from the dense matrix [P, P] in the order of the leaves."""
    numbers, start = [], 0
    for leaf in leaves:
        outputs, own = leaf.shape[-1] if leaf.ndim else 1, slice(start, start + leaf.size)
        block = hessian[own, own].reshape(leaf.size // outputs, outputs, leaf.size // outputs, outputs)
        rows = leaf.reshape(-1, outputs).astype(np.float64)
        numbers.append(np.einsum("asat,st->", block, rows.T @ rows))
        start += leaf.size
    return np.array(numbers)


MEASURE = Measure(
    relative_flatness,
    cost=lambda settings, num_params: min(settings.relative_probes, num_params),
    doc="relative flatness of layers is measured",
    names={
        "relative_flatness.sum": "relative flatness, sum over layers",
        "relative_flatness.max": "relative flatness, largest layer",
    },
)
