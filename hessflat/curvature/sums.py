"""Inner products of vectors with millions of entries, without the rounding of long sums."""

import jax
import jax.numpy as jnp
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


def gram(slabs: tuple[Array, ...]) -> Array:
    """Q Qᵀ [m, m] of the rows of all slabs [., P] together, in single precision at least, made piece by piece.

    A product of whole slabs would copy them. The pieces are added with the rounding of each addition carried on
    (Kahan 1965), for what is asked of the result is how far it is from the identity.
    """
    size = slabs[0].shape[1]
    terms = min(_PIECE // 4, size)
    count = size // terms

    def of_piece(start: int | Array, length: int) -> Array:
        rows = widened(jnp.concatenate([jax.lax.dynamic_slice_in_dim(s, start, length, 1) for s in slabs]))
        # On the diagonal all terms have one sign: a sum by itself rounds less than the matrix product.
        return jnp.fill_diagonal(rows @ rows.T, jnp.sum(rows**2, axis=1), inplace=False)

    def add(number: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        total, carried = sums
        piece = of_piece(number * terms, terms) - carried
        new = total + piece
        return new, (new - total) - piece

    first = of_piece(count * terms, size - count * terms)
    return jax.lax.fori_loop(0, count, add, (first, jnp.zeros_like(first)))[0]


def widened(x: Array) -> Array:
    """`x` in single precision at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
