"""Inner products of vectors with millions of entries, without the rounding of long sums."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

# XLA's CPU product of a matrix and a vector adds one term after another, and its rounding grows with their number: at
# four million terms Gram-Schmidt leaves 1e-4. Sums of `_PIECE` terms are made by themselves, and then added.
_MANY = 2**18
_PIECE = 2**16


def is_long(vector: Array) -> bool:
    """Whether sums over the entries of `vector` [P] need care on this backend."""
    return jax.default_backend() == "cpu" and vector.size >= _MANY


def dots(rows: Array, vector: Array, roughly: bool = False) -> Array:
    """`rows` [m, P] times `vector` [P], in single precision at least: [m].

    With `roughly`, the rounding of long sums may be in it, where leaving it in is faster.
    """
    if not is_long(vector) or (roughly and rows.dtype == vector.dtype):
        return widened(rows) @ widened(vector)
    count = vector.size // _PIECE

    def add(number: Array, total: Array) -> Array:
        pieces = (jax.lax.dynamic_slice_in_dim(x, number * _PIECE, _PIECE, x.ndim - 1) for x in (rows, vector))
        return total + jnp.matmul(*map(widened, pieces))

    rest = widened(rows[:, count * _PIECE :]) @ widened(vector[count * _PIECE :])
    return jax.lax.fori_loop(0, count, add, rest)


def combination(coefficients: Array, rows: Array) -> Array:
    """`coefficients` [m] times `rows` [m, P], row by row, so that a narrow type is not widened all at once: [P]."""
    return sum(coefficient * row for coefficient, row in zip(coefficients, rows, strict=True))


def gram(slabs: tuple[Array, ...]) -> np.ndarray:
    """Q Qᵀ [..., m, m], in double precision, of the rows of all slabs [..., ., P] together.

    Made piece by piece: a product of whole slabs would copy them. Each piece is a product in the precision of the
    rows, single at least, and the pieces are added in double precision.
    """
    number, size = sum(slab.shape[-2] for slab in slabs), slabs[0].shape[-1]
    terms = min(_PIECE // 4, size)
    total = np.zeros((*slabs[0].shape[:-2], number, number))
    for first in range(0, size, terms):
        # The last piece is moved back until it fits; what it has in common with the one before is left out.
        start = min(first, size - terms)
        products, squares = _products_of_piece(slabs, start, first - start, terms)
        # On the diagonal all terms have one sign: a sum by itself rounds less than the matrix product.
        total += np.where(np.eye(number), np.asarray(squares)[..., None], products)
    return total


@partial(jax.jit, static_argnames="terms")
def _products_of_piece(slabs: tuple[Array, ...], start: int, skipped: int, terms: int) -> tuple[Array, Array]:
    rows = widened(jnp.concatenate([jax.lax.dynamic_slice_in_dim(s, start, terms, -1) for s in slabs], axis=-2))
    rows = jnp.einsum("...mt,t->...mt", rows, jnp.arange(terms) >= skipped)
    return rows @ jnp.matrix_transpose(rows), jnp.sum(rows**2, axis=-1)


def widened(x: Array) -> Array:
    """`x` in single precision at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
