"""The curvature of mini-batches relative to that of all data.

A mini-batch is drawn without replacement, uniformly, and independently of the others. Its operator H_B is the same mean
over fewer examples, so that E H_B = H. With weights it is the mean by the weights of its own examples, as the loss of a
batch in training is; then E H_B approaches H with the batch size.
"""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.krylov.eigenpairs import eigenpairs
from hessflat.curvature.operators.fishers import Per, fisher, half_mean_square
from hessflat.curvature.operators.matrices import matvec_product
from hessflat.curvature.operators.operator import Operator, layout_of, require_operator
from hessflat.curvature.operators.terms import Term, bound_functions, over
from hessflat.curvature.operators.weights import Weighted, normalised, weighted_mean
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.convolution import canonical
from hessflat.utils.errors import InputError


@record(
    lambda self: f"products of {len(self.samples)} mini-batches",
    {
        "relative variance": "relative_variance ± standard_error",
        "vᵀ H v": "full_rayleigh",
        "of mini-batches": "rayleigh",
    },
)
class MinibatchProducts(NamedTuple):
    """Products of k mini-batches with one vector v, relative to the product of all data."""

    relative_variance: float  # E ‖H_B v − H v‖² / ‖H v‖²
    standard_error: float  # of `relative_variance`, over mini-batches
    samples: np.ndarray  # [k] ‖H_B v − H v‖² / ‖H v‖²
    rayleigh: np.ndarray  # [k] vᵀ H_B v / vᵀ v
    full_rayleigh: float  # vᵀ H v / vᵀ v
    num_products: int  # one over all data, the others over mini-batches
    seconds: float
    precision: str


@record(
    lambda self: f"λ_max of {len(self.values)} mini-batches",
    {
        "mean": "mean ± standard_error",
        "of all data": "full ± full_residual",
        "bias": "bias ± bias_standard_error",
    },
)
class MinibatchSharpness(NamedTuple):
    """λ_max of k mini-batches relative to that of all data.

    λ_max is convex and E H_B = H, so E λ_max(H_B) ≥ λ_max(H) (Jensen). With v the top eigenvector of H, each λ_max(H_B)
    ≥ vᵀ H_B v, whose expectation is λ_max(H). The bias is estimated from these differences, which are less noisy than
    the values.
    """

    values: np.ndarray  # [k] λ_max(H_B)
    residuals: np.ndarray  # [k] some eigenvalue of H_B lies within this distance of the value
    rayleigh: np.ndarray  # [k] vᵀ H_B v
    mean: float  # of the values
    standard_error: float  # of the mean, over mini-batches
    full: float  # λ_max(H)
    full_residual: float  # some eigenvalue of H lies within this distance of it
    bias: float  # of the mean against λ_max(H): mean of values − rayleigh
    bias_standard_error: float  # over mini-batches
    num_products: int  # over mini-batches and over all data
    seconds: float
    precision: str


def gradient_covariance(
    losses: Callable[..., Any], params: Any, data: Any, state: Any = None, per: Per | None = None
) -> Operator:
    """The covariance of per-example gradients, (1/N) Σ (g_i − ḡ)(g_i − ḡ)ᵀ with ḡ the mean gradient.

    The covariance of the gradient of B examples is 1 / B of it with replacement, and (N − B) / (B (N − 1)) of it
    without. It equals the empirical Fisher minus ḡ ḡᵀ, but is computed from the differences, so that there is no
    cancellation where ḡ is large. ḡ is computed once, in one pass over the data.

    Args:
        losses: `losses(params, batch)` -> per-example losses [n].
        params: pytree of floating arrays, or a flat array [P], at which gradients are taken.
        data: the examples of the mean, a pytree of arrays [N, ...], `Batches` or a `Stream`.
        state: a third argument of `losses`, if given.
        per: as in `fisher`.

    Raises:
        InputError: as `fisher`; a gradient that is not finite.
    """
    op = fisher(losses, params, data, state, per)
    require_operator(op)
    weighted = [
        jax.tree.map(lambda g, c=c: c * g, _mean_gradient(t)) for c, t in zip(op.coefficients, op.terms, strict=True)
    ]
    gradient = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *weighted)

    def centred(term: Term) -> Term:
        extra = () if term.state is None else (term.state,)
        functions = (CentredLosses(term.functions[0]), half_mean_square)
        return dataclasses.replace(term, functions=functions, state=(gradient, extra))

    return dataclasses.replace(op, terms=tuple(map(centred, op.terms)))


def minibatch_products(
    op: Operator, key: Array, batch_size: int, num_batches: int, vector: Any = None
) -> MinibatchProducts:
    """The relative error E ‖H_B v − H v‖² / ‖H v‖² of products of mini-batches.

    Args:
        op: curvature of a mean over one data set; a known map added to it is unchanged.
        key: a JAX random key.
        batch_size: the number of examples in a mini-batch.
        num_batches: k.
        vector: v, a tree like params or flat [P], such as a top eigenvector or a gradient; None draws one uniformly on
            the sphere.

    Raises:
        InputError: counts out of range, an operator without examples or over several data sets, a vector of another
            shape, or one whose product is zero.
    """
    began = time.perf_counter()
    vector_key, batch_key, batch_size, num_batches = require_draws_of(op, key, batch_size, num_batches)
    layout = layout_of(op)
    if vector is None:
        v = vectors.to_tree(layout, vectors.draw(layout, vector_key, "gaussian"))
    else:
        v = _as_tree(op, vector)
    full = op(v)
    size = host.inner(full, full)
    if not (np.isfinite(size) and size > 0):
        raise InputError("the product of the operator with vector must be finite and not zero; take another vector")
    square = host.inner(v, v)
    samples, rayleigh = [], []
    for part in drawn(op, batch_key, batch_size, num_batches):
        product = part(v)
        samples.append(host.squared_distance(product, full) / size)
        rayleigh.append(host.inner(v, product) / square)
    cost = estimates.cost_since(began, 1 + num_batches, op)
    variance = estimates.mean(np.array(samples), cost)
    return MinibatchProducts(
        variance.value,
        variance.standard_error,
        np.array(samples),
        np.array(rayleigh),
        host.inner(v, full) / square,
        *cost,
    )


def minibatch_sharpness(
    op: Operator, key: Array, batch_size: int, num_batches: int, rtol: float = 1e-3, max_steps: int = 200
) -> MinibatchSharpness:
    """λ_max of mini-batches relative to that of all data.

    Every mini-batch starts from the top eigenvector of all data.

    Args:
        op: curvature of a mean over one data set; a known map added to it is unchanged.
        key: a JAX random key.
        batch_size: the number of examples in a mini-batch.
        num_batches: k.
        rtol: the relative tolerance of each eigenvalue, as in `sharpness`.
        max_steps: the maximum number of products for each.

    Raises:
        InputError: counts out of range, an operator without examples or over several data sets, products that are not
            finite.
    """
    began = time.perf_counter()
    start_key, batch_key, batch_size, num_batches = require_draws_of(op, key, batch_size, num_batches)
    full = eigenpairs(op, start_key, 1, "largest", rtol, max_steps, show_progress=False)
    top = jax.tree.map(lambda leaf: leaf[0], full.vectors)
    pairs, rayleigh = [], []
    for part in drawn(op, batch_key, batch_size, num_batches):
        top_pair = eigenpairs(part, start_key, 1, "largest", rtol, max_steps, start=top, show_progress=False)
        pairs.append((float(top_pair.values[0]), float(top_pair.residuals[0]), top_pair.num_products))
        rayleigh.append(host.inner(top, part(top)))
    values, residuals, counts = (np.array(column) for column in zip(*pairs, strict=True))
    cost = estimates.cost_since(began, full.num_products + int(counts.sum()) + num_batches, op)
    mean, bias = (estimates.mean(samples, cost) for samples in (values, values - np.array(rayleigh)))
    return MinibatchSharpness(
        values,
        residuals,
        np.array(rayleigh),
        mean.value,
        mean.standard_error,
        float(full.values[0]),
        float(full.residuals[0]),
        bias.value,
        bias.standard_error,
        *cost,
    )


@dataclasses.dataclass(frozen=True)
class CentredLosses:
    """ℓ_i − ḡ·w, whose gradients are g_i − ḡ; ḡ comes with the state. Equal where `losses` is the same."""

    losses: Callable[..., Any]

    def __call__(self, params: Any, batch: Any, state: Any) -> Array:
        gradient, extra = state
        shift = sum(jnp.vdot(g, p) for g, p in zip(*map(jax.tree.leaves, (gradient, params)), strict=True))
        result: Array = self.losses(params, batch, *extra) - shift
        return result


def _mean_gradient(term: Term) -> Any:
    batches = term.batches
    total = jax.tree.map(jnp.zeros_like, term.params)
    with numerics.matmul_precision(), batches.parts() as parts:
        for part in parts:
            piece = over(term, part)
            for start, size in part.cuts:
                gradient = _gradient(_over(piece, part.take(start, size)))
                total = jax.tree.map(lambda t, g, w=size / batches.num_examples: t + w * g, total, gradient)
            jax.block_until_ready(total)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(total)):
        raise InputError("the gradient of the losses is not finite; look at the losses at these parameters")
    return total


@jax.jit
def _gradient(term: Term) -> Any:
    (losses, _), batch = bound_functions(term), term.batches.arrays
    mean = jax.grad(lambda params: weighted_mean(losses(params, batch), batch))
    return canonical(mean, term.engine)(term.params)


def _over(term: Term, arrays: Any) -> Term:
    return dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=arrays))


def require_draws_of(op: Operator, key: Array, batch_size: int, num_batches: int) -> tuple[Array, Array, int, int]:
    """Two keys and the checked counts of mini-batches of an operator.

    Raises:
        InputError: counts out of range, an operator without examples, over several data sets or over a stream.
    """
    require_operator(op)
    numerics.require_key(key)
    num_batches = numerics.require_draws("num_batches", num_batches)
    batch_size = numerics.require_count("batch_size", batch_size)
    sizes = {term.batches.num_examples for term in op.terms if _has_examples(term)}
    if not sizes:
        raise InputError("mini-batches need the curvature of a mean over examples, got a known map")
    if not op.in_memory:
        raise InputError("mini-batches are drawn from arrays in memory, got a stream; give cv.Batches of its examples")
    if len(sizes) > 1:
        raise InputError(
            f"mini-batches need one data set, got terms over {sorted(sizes)} examples; measure each operator of the "
            "sum by itself"
        )
    if batch_size > max(sizes):
        raise InputError(f"batch_size must be at most the {max(sizes)} examples of the data, got {batch_size}")
    first, second = jax.random.split(key)
    return first, second, batch_size, num_batches


def _has_examples(term: Any) -> bool:
    if not isinstance(term, Term):
        raise InputError("take mini-batches of the operator before its linearisation is made, not after")
    return term.product is not matvec_product


def drawn(op: Operator, key: Array, batch_size: int, num_batches: int) -> Any:
    """The operators of the mini-batches, one after the other."""
    (number,) = {term.batches.num_examples for term in op.terms if _has_examples(term)}
    for one in jax.random.split(key, num_batches):
        chosen = np.asarray(jax.random.choice(one, number, (batch_size,), replace=False))
        terms = tuple(_chosen(term, chosen) if _has_examples(term) else term for term in op.terms)
        yield dataclasses.replace(op, terms=terms)


def _chosen(term: Term, chosen: np.ndarray) -> Term:
    """The term over the examples `chosen`; where examples are spread over devices, these few are whole on each."""
    batches = term.batches
    if batches.devices is None:
        arrays = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), batches.arrays)
    else:
        arrays = jax.tree.map(partial(_gathered, batches.devices.mesh, chosen), batches.arrays)
    if isinstance(arrays, Weighted):
        if not float(arrays.weights.max()) > 0:
            raise InputError(
                f"a mini-batch of {len(chosen)} has drawn examples without weight alone; take a larger batch_size, or "
                "leave those examples out of the data"
            )
        arrays = normalised(arrays)
    return dataclasses.replace(term, batches=dataclasses.replace(batches, arrays=arrays, devices=None))


@partial(jax.jit, static_argnums=0)
def _rows_of(mesh: Mesh, array: Array, chosen: Array) -> Array:
    whole = NamedSharding(mesh, PartitionSpec())
    rows: Array = jax.lax.with_sharding_constraint(jnp.take(array, chosen, axis=0), whole)
    return rows


def _gathered(mesh: Mesh, chosen: np.ndarray, array: Array) -> Array:
    """Some examples, whole on every device of the mesh; typed random keys too."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _rows_of(mesh, jax.random.key_data(array), chosen)
        keys: Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        return keys
    rows: Array = _rows_of(mesh, array, chosen)
    return rows


def _as_tree(op: Operator, vector: Any) -> Any:
    """A vector as a tree, from one or from a flat array."""
    if isinstance(vector, (jax.Array, np.ndarray)) and np.shape(vector) == (op.size,):
        numerics.require_floating("vector", vector)
        vector = numerics.unravel(op.vector_like, numerics.on_device(vector, op.dtype))
    numerics.require_like("vector", vector, op.params)
    wide = jax.tree.map(lambda v, p: numerics.on_device(v, p.dtype), vector, op.vector_like)
    return vectors.placed(layout_of(op), wide)
