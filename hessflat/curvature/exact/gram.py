"""The small side of a Gauss-Newton matrix: J Jᵀ between outputs instead of Jᵀ J between parameters.

Where examples do not affect one another, the rows of J that belong to one example take one pass over that example
alone. Whether they do is tested on a few of them first, and at the end on all: Jᵀ D J v by the rows of J, for a random
vector v, has to be the product of the operator.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import gauss_newton_product
from hessflat.curvature.operators.operator import Operator, require_finite
from hessflat.curvature.operators.terms import Term, bound_functions, scaled_back
from hessflat.utils import convolution, hardware
from hessflat.utils.convolution import canonical
from hessflat.utils.errors import InputError

# Bytes of a part of J (two are stored at most), of the rows that a device computes at once, and of float64 copies.
_BLOCK_BYTES = 3 << 30
DEVICE_BYTES = 1 << 25
_COPY_BYTES = 1 << 27

# Rows of J side by side in one pass, and examples that are tested for dependence on their batch.
_ROWS = 16
_CHECKED = 16

# A product from other operations differs by this many of its roundings, at most.
_ROUNDINGS = 100


class _Part(NamedTuple):
    """`number` pieces of `size` examples each, one after the other, each with `rows` outputs."""

    start: int
    size: int
    number: int
    rows: int


def num_outputs(op: Operator) -> int | None:
    """N C where `op` is one Gauss-Newton matrix, scaled and shifted at most; None elsewhere."""
    if len(op.terms) != 1 or not isinstance(op.terms[0], Term) or op.terms[0].product is not gauss_newton_product:
        return None
    (term,) = op.terms
    if term.narrow or not term.batches.in_memory:
        return None
    whole = dataclasses.replace(term, batches=dataclasses.replace(term.batches, statistics_batch=None))
    return count_of(numerics.output_shapes("predict(params, batch)", outputs_of, whole))


def matrix(term: Term) -> tuple[np.ndarray, np.ndarray] | None:
    """M = Sᵀ J Jᵀ S [N C, N C] and signs σ [N C], both float64, with D = S diag(σ) Sᵀ the criterion's curvature.

    The non-zero eigenvalues of Jᵀ D J are those of diag(σ) M. None where examples turn out to affect one another.
    """
    found = _checked_gram(term)
    if found is None:
        return None
    result, blocks = found
    halves = [_split(block) for part in blocks for block in part]
    ends = np.cumsum([len(signs) for _, signs in halves])
    for end, (factor, signs) in zip(ends, halves, strict=True):
        rows = slice(end - len(signs), end)
        result[rows] = factor.T @ result[rows]
        result[:, rows] = result[:, rows] @ factor
    return result, np.concatenate([signs for _, signs in halves])


def kernel(term: Term) -> np.ndarray | None:
    """J Jᵀ [N C, N C], float64. None where examples turn out to affect one another."""
    found = _checked_gram(term)
    return None if found is None else found[0]


def diagonal(term: Term) -> np.ndarray | None:
    """The diagonal [P] of Jᵀ D J, float64: of every example the squares of its C rows of S^T J, with D = S σ Sᵀ.

    None where examples turn out to affect one another.
    """
    vector = _test_vector(term)
    whole, allowed = _product_and_rounding(term, vector)
    term = on_one_device(term)
    diagonal, product = np.zeros(vector.size), np.zeros(vector.size)
    for part in _parts(term):
        for first in range(0, part.number, together := _together(term, part, rows=2)):
            count = min(together, part.number - first)
            sums = _squares(term, vector, part.start + first * part.size, part.size, count)
            squares, along = (np.asarray(x, np.float64) * (part.size / term.batches.num_examples) for x in sums)
            diagonal, product = diagonal + squares, product + along
    require_finite(diagonal)
    return None if np.linalg.norm(product - whole) > allowed else diagonal


@partial(jax.jit, static_argnames=("size", "count"))
def _squares(term: Term, vector: Array, start: Any, size: int, count: int) -> tuple[Array, Array]:
    """Σ σ (row)² and Σ σ (row · v) row, [P] each, over the rows of some pieces, without the weights of pieces."""

    def piece(arrays: Any) -> Array:
        own = with_arrays(term, arrays)
        outputs, pull = jax.vjp(lambda p: outputs_of(dataclasses.replace(own, params=p)), term.params)
        block = curvature_of(own, arrays)
        values, roots = jnp.linalg.eigh((block + block.T) / 2)

        def add(total: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
            value, root = pair
            row = numerics.ravel(scaled_back(term, pull(numerics.unravel(outputs, root))[0]))
            return total + value * jnp.stack([row**2, jnp.vdot(row, vector, precision=numerics.EXACT) * row]), None

        total: Array = jax.lax.scan(add, jnp.zeros((2, vector.size), vector.dtype), (values, roots.T))[0]
        return total

    sums = _over_pieces(piece, term, start, size, count).sum(axis=0)
    return sums[0], sums[1]


def _test_vector(term: Term) -> Array:
    size, dtype = count_of(term.params), jnp.promote_types(numerics.common_dtype(term.params), jnp.float32)
    return numerics.draw_probe(jax.random.key(0), size, dtype, "gaussian")


def _checked_gram(term: Term) -> tuple[np.ndarray, list[list[np.ndarray]]] | None:
    """J Jᵀ, and D block by block."""
    vector = _test_vector(term)
    whole, allowed = _product_and_rounding(term, vector)
    term = on_one_device(term)
    parts = _parts(term)
    blocks = [list(_curvatures(term, part)) for part in parts]
    product = np.zeros(vector.size)
    result = _gram(term, parts, blocks, np.asarray(vector, np.float64), product)
    return None if np.linalg.norm(product - whole) > allowed else (result, blocks)


def _product_and_rounding(term: Term, vector: Array) -> tuple[np.ndarray, float]:
    """Jᵀ D J v by the operator, float64, and by how much another computation of it may differ.

    Rounding is seen in the product with a multiple of v: where outputs are saturated it is far more than ε.
    """
    op = Operator((term,), (1.0,))
    first, second = (np.asarray(op(vector * factor), np.float64) / factor for factor in (1.0, float(np.float16(1.7))))
    require_finite(first, second)
    eps = numerics.epsilon(op.dtype, numerics.precision_name(op))
    return first, _ROUNDINGS * float(eps * np.linalg.norm(first) + np.linalg.norm(second - first))


def _add_along(product: np.ndarray, rows: np.ndarray, blocks: list[np.ndarray], vector: np.ndarray) -> None:
    """Add Jᵀ D J v of the rows of one part to `product`."""
    width = max(1, _COPY_BYTES // (8 * len(rows)))
    pieces = [slice(start, start + width) for start in range(0, rows.shape[1], width)]
    along = sum(rows[:, piece].astype(np.float64) @ vector[piece] for piece in pieces)
    curved = np.concatenate([d @ x for d, x in zip(blocks, np.split(along, len(blocks)), strict=True)])
    for piece in pieces:
        product[piece] += curved @ rows[:, piece].astype(np.float64)


def _gram(
    term: Term, parts: list[_Part], blocks: list[list[np.ndarray]], vector: np.ndarray, product: np.ndarray
) -> np.ndarray:
    """J Jᵀ, and Jᵀ D J v added to `product`, with the blocks of D for each part.

    Rows of J are made again for every pair of parts, in an order that keeps one of two from pair to pair.
    """
    ends = np.cumsum([part.number * part.rows for part in parts])
    places = [slice(end - part.number * part.rows, end) for end, part in zip(ends, parts, strict=True)]
    result = np.zeros((ends[-1], ends[-1]))
    waiting = list(range(len(parts)))
    current = waiting.pop()
    rows = _rows(term, parts[current])
    while True:
        here, other = places[current], rows
        _add_product(result[here, here], rows, rows)
        _add_along(product, rows, blocks[current], vector)
        for i in waiting:
            del other  # three of them would not fit
            other = _rows(term, parts[i])
            _add_product(result[here, places[i]], rows, other)
            result[places[i], here] = result[here, places[i]].T
        if not waiting:
            return result
        current, rows = waiting.pop(), other


def _add_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Add a bᵀ, in float64, to `total`."""
    width = max(1, _COPY_BYTES // (8 * (len(a) + len(b))))
    for start in range(0, a.shape[1], width):
        left = a[:, start : start + width].astype(np.float64)
        right = left if b is a else b[:, start : start + width].astype(np.float64)
        total += left @ right.T


def _rows(term: Term, part: _Part) -> np.ndarray:
    """The rows of J that belong to a part: [r, P]."""
    size = count_of(term.params)
    result = np.empty((part.number * part.rows, size), numerics.common_dtype(term.params))
    for first in range(0, part.number, together := _together(term, part)):
        count = min(together, part.number - first)
        rows = _jacobian(term, part.start + first * part.size, part.size, count)
        result[first * part.rows :][: count * part.rows] = rows
    return result


def _together(term: Term, part: _Part, rows: int | None = None) -> int:
    """How many pieces a device does at once: one where XLA is slow for several, else what memory allows.

    `rows` are those of length P that it holds of each, by default all.
    """
    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(term)]
    piece = jax.tree.unflatten(jax.tree.structure(term), shapes)
    two = lambda term: _jacobian(term, 0, part.size, 2)  # noqa: E731
    if part.number > 1 and convolution.choose_loop(two, piece, platform=hardware.platform(term)) == "python":
        return 1
    return max(1, DEVICE_BYTES // ((rows or part.rows) * hardware.num_bytes(term.params)))


@partial(jax.jit, static_argnames=("size", "count"))
def _jacobian(term: Term, start: Any, size: int, count: int) -> Array:
    def rows(arrays: Any) -> Array:
        piece = with_arrays(term, arrays)
        outputs, pull = jax.vjp(lambda p: outputs_of(dataclasses.replace(piece, params=p)), term.params)

        def pulled(row: Array) -> Array:
            return numerics.ravel(scaled_back(term, pull(numerics.unravel(outputs, row))[0]))

        return _each_row(pulled, outputs)

    return _over_pieces(rows, term, start, size, count).reshape(-1, count_of(term.params))


def _curvatures(term: Term, part: _Part) -> Iterator[np.ndarray]:
    """The criterion's second derivative in the outputs of each piece, weighted by its size: float64 [rows, rows]."""
    together = max(1, term.batches.size // part.size)
    for first in range(0, part.number, together):
        count = min(together, part.number - first)
        blocks = _curvature(term, part.start + first * part.size, part.size, count)
        yield from np.asarray(blocks, np.float64) * (part.size / term.batches.num_examples)


@partial(jax.jit, static_argnames=("size", "count"))
def _curvature(term: Term, start: Any, size: int, count: int) -> Array:
    def block(arrays: Any) -> Array:
        return curvature_of(with_arrays(term, arrays), arrays)

    return _over_pieces(block, term, start, size, count)


def curvature_of(piece: Term, arrays: Any) -> Array:
    outputs, gradient = outputs_of(piece), jax.grad(bound_functions(piece)[1])

    def row(direction: Array) -> Array:
        along = numerics.unravel(outputs, direction)
        return numerics.ravel(jax.jvp(lambda f: gradient(f, arrays), (outputs,), (along,))[1])

    return _each_row(row, outputs)


def _each_row(function: Callable[..., Any], outputs: Any) -> Array:
    """`function` of every unit vector over the outputs; a few side by side."""
    unit = jnp.eye(count_of(outputs), dtype=numerics.common_dtype(outputs))
    few = len(unit) <= _ROWS
    try:
        result: Array = numerics.mapped(function)(unit) if few else jax.lax.map(function, unit, batch_size=_ROWS)
    except NotImplementedError:  # a primitive without a rule for batches
        result = jax.lax.map(function, unit)
    return result


def _over_pieces(function: Callable[..., Any], term: Term, start: Any, size: int, count: int) -> Array:
    arrays = term.batches.take(start, size * count)
    pieces = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), arrays)
    if jax.tree.leaves(pieces)[0].shape[0] == 1:
        single: Array = canonical(function, term.engine)(arrays)[None]
        return single
    result: Array = canonical(numerics.mapped(function), term.engine)(pieces)
    return result


def _split(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S and σ with S diag(σ) Sᵀ = `block`; what is within rounding of zero becomes zero."""
    if not np.isfinite(block).all():
        raise InputError("the criterion's second derivative is not finite; look at the loss at these parameters")
    values, vectors = np.linalg.eigh((block + block.T) / 2)
    size = np.abs(values)
    values = np.where(size > np.finfo(np.float32).eps * size.max(), values, 0)
    return vectors * np.sqrt(np.abs(values)), np.where(values < 0, -1.0, 1.0)


def _parts(term: Term) -> list[_Part]:
    """The data in pieces that go through the network each on its own, as many to a part as a block has room for."""
    batches, width = term.batches, hardware.num_bytes(term.params)
    total = batches.num_examples
    size = min(batches.statistics_batch or (1 if is_separate(term) else batches.size), total)
    whole = total - total % size
    parts = []
    for begin, end, length in ((0, whole, size), (whole, total, total - whole)):
        if begin == end:
            continue
        piece = with_arrays(term, shapes(batches.arrays, length))
        rows = count_of(numerics.output_shapes("predict(params, batch)", outputs_of, piece))
        step = length * max(1, _BLOCK_BYTES // (rows * width))
        starts = range(begin, end, step)
        parts += [_Part(start, length, (min(start + step, end) - start) // length, rows) for start in starts]
    return parts


def is_separate(term: Term) -> bool:
    """Whether outputs, and the criterion's gradient in them, are for an example alone what they are in its batch."""
    arrays = term.batches.take(0, term.batches.size)
    size, checked = term.batches.size, min(_CHECKED, term.batches.size)
    try:
        whole = _sides(term, arrays)
        alone = jax.lax.map(lambda one: _sides(term, one), jax.tree.map(lambda x: x[:checked, None], arrays))
    except (TypeError, ValueError):  # a function that does not accept a batch of one
        return False
    # The gradient of the mean is that of one example divided by the number of examples.
    pairs = []
    for factor, together, single in zip((1, size), whole, alone, strict=True):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(single), strict=True):
            if a.shape[:1] != (size,) or b.shape != (checked, 1, *a.shape[1:]):
                return False
            pairs.append((factor * a[:checked], jnp.squeeze(b, 1)))
    tolerance = 1e3 * float(jnp.finfo(numerics.common_dtype(whole[0])).eps)
    return all(float(jnp.abs(a - b).max()) <= tolerance * float(jnp.abs(a).max()) for a, b in pairs)


@jax.jit
def _sides(term: Term, arrays: Any) -> tuple[Any, Any]:
    piece = with_arrays(term, arrays)
    outputs = outputs_of(piece)
    return outputs, jax.grad(bound_functions(piece)[1])(outputs, arrays)


def outputs_of(term: Term) -> Any:
    return bound_functions(term)[0](term.params, term.batches.arrays)


def with_arrays(term: Term, arrays: Any) -> Term:
    """The term over these examples."""
    return dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=arrays, batch_size=None))


def on_one_device(term: Term) -> Term:
    if term.batches.devices is None:
        return term
    arrays = jax.tree.map(numerics.gathered, term.batches.arrays)
    return dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=arrays, devices=None))


def shapes(arrays: Any, size: int) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), arrays)


def count_of(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
