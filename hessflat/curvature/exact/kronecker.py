"""Kronecker-factored approximations of a Gauss-Newton matrix, K-FAC and EKFAC, with their inverses.

Each layer has a block U diag(Λ) Uᵀ, U = U_a ⊗ U_b, with the eigenvectors of the second moments of what goes into the
layer and of the gradients at what comes out. Blocks between layers are zero.
"""

import dataclasses
import time
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.exact import gram, layers
from hessflat.curvature.exact.layers import Layer
from hessflat.curvature.operators.blocks import leaf_name
from hessflat.curvature.operators.matrices import from_matvec
from hessflat.curvature.operators.operator import Operator, require_finite, require_operator
from hessflat.curvature.operators.terms import Term
from hessflat.curvature.operators.weights import Weighted
from hessflat.curvature.records import record
from hessflat.utils.convolution import canonical
from hessflat.utils.errors import InputError

Kind = Literal["kfac", "ekfac"]
Sharing = Literal["expand", "reduce"]
_HOW = (
    "K-FAC takes one Gauss-Newton or Fisher matrix over arrays in memory whose examples do not affect one another, "
    "with parameters that are whole on every device"
)


class Factors(NamedTuple):
    """The block of one layer: `inputs` and `outputs` have eigenvectors as columns, `scales` [a, b] the eigenvalues."""

    inputs: Array  # [a, a], one more than the inputs where there is a bias
    outputs: Array  # [b, b]
    scales: Array  # [a, b]


@record(
    lambda self: f"{self.kind} of {len(self.factors)} layers",
    {
        "largest eigenvalues": lambda self: ", ".join(
            f"{n} {float(f.scales.max()):.3g}" for n, f in self.factors.items()
        )
    },
)
@dataclasses.dataclass(frozen=True, eq=False)
class KroneckerFactors:
    """An approximation of a Gauss-Newton matrix by one Kronecker product a layer, whose kernels name the layers."""

    factors: dict[str, Factors]  # of each layer, by the name of its kernel
    kind: Kind  # "kfac" or "ekfac"
    params: Any  # the point at which the matrix is taken
    layers: tuple[Layer, ...]  # as they were found in the function
    shift: float  # the multiple of the identity that is added
    num_products: int  # backward passes of an example, of each pass over the data
    seconds: float
    precision: str

    def operator(self) -> Operator:
        """The approximation K as an operator, to be compared with others: `cv.relative_distance(G, K, key)`.

        This and `inverse` may be called inside `jax.jit`, with a damping that is a Python number.
        """
        return self._operator(self._scales(0.0))

    def inverse(self, damping: float) -> Operator:
        """(K + damping I)⁻¹ as an operator.

        Raises:
            InputError: a matrix that is not positive definite.
        """
        damping = numerics.require_number("damping", damping)
        scales = self._scales(damping)
        least = min(float(scale.min()) for scale in scales)
        if not least > 0:
            raise InputError(f"damping must make every eigenvalue positive, got {least:g} as the smallest; take more")
        return self._operator([1 / scale for scale in scales])

    def _scales(self, damping: float) -> list[np.ndarray]:
        """The eigenvalues of each layer, computed outside of any program that this is called in."""
        return [np.asarray(factors.scales) + (self.shift + damping) for factors in self.factors.values()]

    def _operator(self, scales: list[np.ndarray]) -> Operator:
        pairs = zip(self.factors.values(), scales, strict=True)
        both = [f._replace(scales=numerics.on_device(scale, f.scales.dtype)) for f, scale in pairs]
        return from_matvec(partial(_product, self.layers), self.params, both)


def kfac(op: Operator, kind: Kind = "kfac", sharing: Sharing = "expand") -> KroneckerFactors:
    """Kronecker factors of a Gauss-Newton or Fisher matrix of dense and convolutional layers.

    "kfac" (Martens & Grosse 2015; Grosse & Martens 2016): E[a aᵀ] ⊗ E[g gᵀ], with a what goes into a layer and a one
    for its bias, and g gradients at what comes out of it, taken with the exact square root of the criterion's curvature
    instead of drawn labels. "ekfac" (George et al. 2018): the same eigenvectors, with the eigenvalues that bring it
    nearest to the matrix in Frobenius norm, from a second pass over the data, whatever the sharing.

    Where a kernel is used at several positions of an example, as in convolutions and on tokens, "expand" takes every
    position as an example of its own, and "reduce" the mean of a over positions and the sum of g (Eschenhagen et al.
    2023).

    Layers are found in the function's jaxpr, whatever the framework. A parameter that is anything else than the kernel
    or bias of one dense or convolutional layer (of a norm, an embedding, tied, inside a loop, grouped channels) is
    refused; leave it out by `cv.restrict`.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: of `cv.gauss_newton`, `cv.fisher` or `cv.model_fisher`, scaled or shifted at most.
        kind: "kfac" or "ekfac".
        sharing: "expand" or "reduce".

    Raises:
        InputError: another matrix; a parameter of no such layer; examples that affect one another.

    >>> import jax.numpy as jnp, hessflat.curvature as cv
    >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
    >>> G = cv.gauss_newton(lambda w, b: b["x"] @ w, lambda f, b: 0.5 * jnp.mean(f**2), jnp.ones((2, 1)), {"x": x})
    >>> cv.kfac(G).operator().to_dense().tolist() == G.to_dense().tolist()
    True
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_option("kind", kind, ("kfac", "ekfac"))
    numerics.require_option("sharing", sharing, ("expand", "reduce"))
    op = op.as_it_is_now()
    outputs = gram.num_outputs(op)
    if outputs is None or op.terms[0].is_partitioned or op.terms[0].scalings:
        raise InputError(_HOW)
    term, coefficient = gram.on_one_device(op.terms[0]), float(op.coefficients[0])
    names = tuple(leaf_name(path) for path, _ in jax.tree.leaves_with_path(term.params))
    with numerics.matmul_precision():
        if not gram.is_separate(term):
            raise InputError(_HOW)
        piece = gram.with_arrays(term, gram.shapes(term.batches.arrays, 1))
        _, found = layers.layers_of(gram.outputs_of, names, piece)
        factors = {}
        for layer, (inputs, gradients) in zip(found, _mean(term, names, sharing), strict=True):
            (values, own), (scales, other) = np.linalg.eigh(inputs), np.linalg.eigh(gradients)
            scales = coefficient * np.outer(np.maximum(values, 0), np.maximum(scales, 0))
            factors[names[layer.kernel]] = Factors(*(numerics.on_device(x, op.dtype) for x in (own, other, scales)))
        if kind == "ekfac":
            scaled = _mean(term, names, "expand", tuple((f.inputs, f.outputs) for f in factors.values()))
            for (name, old), scales in zip(list(factors.items()), scaled, strict=True):
                factors[name] = old._replace(scales=numerics.on_device(coefficient * scales, op.dtype))
    cost = (outputs, time.perf_counter() - began, numerics.precision_name(op))
    return KroneckerFactors(factors, kind, term.params, tuple(found), float(op.shift), *cost)


def _mean(term: Term, names: tuple[str, ...], sharing: Sharing, bases: Any = None) -> list[Any]:
    """The means over examples of `_moments`, in float64."""
    number, width = term.batches.num_examples, 0
    _, shapes = jax.eval_shape(partial(_rows, names), gram.with_arrays(term, gram.shapes(term.batches.arrays, 1)))
    width = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    size = min(max(1, gram.DEVICE_BYTES // width), number)
    total: Any = None
    for start in range(0, number, size):
        sums = _moments(term, bases, start, min(size, number - start), names, sharing)
        sums = jax.tree.map(lambda x: np.asarray(x, np.float64) / number, sums)
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    require_finite(*jax.tree.leaves(total))
    result: list[Any] = total
    return result


@partial(jax.jit, static_argnames=("size", "names", "sharing"))
def _moments(term: Term, bases: Any, start: Any, size: int, names: tuple[str, ...], sharing: Sharing) -> list[Any]:
    """For each layer Σ m a aᵀ / R and Σ g gᵀ over some examples; with `bases`, Σ (U_aᵀ (Σ_R a gᵀ) U_b)²."""
    arrays = term.batches.take(start, size)
    pieces = jax.tree.map(lambda x: x[:, None], arrays)
    rows = canonical(numerics.mapped(lambda one: _rows(names, gram.with_arrays(term, one))[1]), term.engine)(pieces)
    if bases is not None:
        return [_squares(a @ own, g @ other) for (a, g), (own, other) in zip(rows, bases, strict=True)]
    sums = []
    weights = jnp.ones(size) if not isinstance(arrays, Weighted) else arrays.weights.reshape(size, -1).mean(axis=1)
    for a, g in rows:  # [n, R, inputs], [n, C, R, outputs], the latter with the roots of the weights
        if sharing == "reduce":
            a, g = a.mean(axis=1, keepdims=True), g.sum(axis=2, keepdims=True)
        a = a * jnp.sqrt(weights / a.shape[1])[:, None, None]
        a, g = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
        sums.append((a.T @ a, g.T @ g))
    return sums


def _squares(a: Array, g: Array) -> Array:
    """Σ over examples and outputs of the squares of Σ_R a gᵀ: [inputs, outputs]."""
    if a.shape[1] == 1:
        return (a[:, 0] ** 2).T @ (g[:, :, 0] ** 2).sum(axis=1)

    def add(total: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        a, g = one

        def add_output(total: Array, row: Array) -> tuple[Array, None]:
            return total + (a.T @ row) ** 2, None

        return jax.lax.scan(add_output, total, g)[0], None

    total: Array = jax.lax.scan(add, jnp.zeros((a.shape[-1], g.shape[-1]), a.dtype), (a, g))[0]
    return total


def _rows(names: tuple[str, ...], piece: Term) -> tuple[Any, list[tuple[Array, Array]]]:
    """For each layer what goes into it [R, inputs], and the gradients at its results [C, R, outputs] of one example."""
    closed, found = layers.layers_of(gram.outputs_of, names, piece)
    leaves = jax.tree.leaves(piece)

    def moved(by: list[Array]) -> tuple[list[Any], list[Array]]:
        return layers.run(closed, found, leaves, by)

    zeros = [jnp.zeros(like.shape, like.dtype) for like in layers.results_like(closed, found)]
    outputs, pull, inputs = jax.vjp(moved, zeros, has_aux=True)
    block = gram.curvature_of(piece, piece.batches.arrays)
    values, vectors = jnp.linalg.eigh((block + block.T) / 2)
    # What is negative is rounding, or no part of a positive semi-definite approximation.
    roots = (vectors * jnp.sqrt(jnp.maximum(values, 0))[None]).T
    gradients = jax.lax.map(lambda root: pull(numerics.unravel(outputs, root))[0], roots)
    pairs = zip(found, inputs, gradients, strict=True)
    return outputs, [(a, jax.vmap(partial(layers.by_position, layer))(g)) for layer, a, g in pairs]


def _product(found: tuple[Layer, ...], vector: Any, factors: list[Factors]) -> Any:
    leaves, structure = jax.tree.flatten(vector)
    result = dict(enumerate(leaves))
    for layer, (inputs, outputs, scales) in zip(found, factors, strict=True):
        inside = inputs.T @ layers.to_matrix(layer, leaves) @ outputs
        result |= layers.from_matrix(layer, inputs @ (scales * inside) @ outputs.T)
    return jax.tree.unflatten(structure, [result[i] for i in range(len(leaves))])
