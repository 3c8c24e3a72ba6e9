"""How far numbers are rounded: the precision of matrix products, which is the highest unless the user has asked for
another, and inner products of vectors with millions of entries without the rounding of long sums.
"""

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.utils import compat

# JAX's settings, from the fastest to the most exact, and what each is on a backend. A CPU knows only the last.
_LEVELS = {
    **dict.fromkeys(("default", "fastest", "bfloat16"), 0),
    **dict.fromkeys(("high", "tensorfloat32", "bfloat16_3x"), 1),
    **dict.fromkeys(("highest", "float32"), 2),
}
_DONE_IN = {
    "cpu": ("highest", "highest", "highest"),
    "gpu": ("tensorfloat32", "tensorfloat32", "highest"),
    "tpu": ("bfloat16", "bfloat16_3x", "highest"),
}
_EPSILONS = {
    **dict.fromkeys(("tensorfloat32", "TF32_TF32_F32", "F16_F16_F32"), 2.0**-10),
    **dict.fromkeys(("bfloat16", "BF16_BF16_F32"), 2.0**-7),
    **dict.fromkeys(("bfloat16_3x", "BF16_BF16_F32_X3"), 2.0**-16),
}


def name() -> str:
    """What products of float32 matrices are done in: "highest", "tensorfloat32", "bfloat16_3x" or "bfloat16".

    It follows from the backend and the user's `jax.default_matmul_precision`; a dot algorithm stays as it is.
    """
    asked = _asked()
    levels = _DONE_IN.get(jax.default_backend())
    return levels[_LEVELS[asked]] if levels and asked in _LEVELS else asked


def chosen() -> AbstractContextManager[None]:
    """A context in which every matrix product is done in the user's precision, or else in the highest.

    TF32 and bfloat16 passes change small eigenvalues, so they are never taken unasked.
    """
    result: AbstractContextManager[None] = jax.default_matmul_precision(_asked())
    return result


def epsilon(dtype: Any, precision: str) -> float:
    """The relative rounding of a product in `precision` on numbers of type `dtype`."""
    own = float(jnp.finfo(dtype).eps)
    return own if jnp.dtype(dtype).itemsize > 4 else max(own, _EPSILONS.get(precision, 0.0))


def _asked() -> str:
    return str(compat.setting("jax_default_matmul_precision") or "highest")


# XLA's CPU product of a matrix and a vector adds one term after another, and its rounding grows with their number: at
# four million terms Gram-Schmidt leaves 1e-4. Sums of `_PIECE` terms are made by themselves, and then added.
_MANY = 2**18
_PIECE = 2**16


def is_long(vector: Array) -> bool:
    """Whether sums over the entries of `vector` [P] need care on a CPU."""
    return vector.size >= _MANY


def accurate_dot(rows: Array, vector: Array, compensated: bool = True) -> Array:
    """`rows` [m, P] times `vector` [P], in single precision at least: [m].

    Without `compensated`, the rounding of long sums may be in it, where leaving it in is faster.
    """
    if not is_long(vector) or (not compensated and rows.dtype == vector.dtype):
        return _dot_at_once(rows, vector)
    result: Array = _dot_of_many(rows, vector)
    return result


def _dot_at_once(rows: Array, vector: Array) -> Array:
    return widened(rows) @ widened(vector)


def _dot_in_pieces(rows: Array, vector: Array) -> Array:
    count = vector.size // _PIECE

    def add(number: Array, total: Array) -> Array:
        pieces = (jax.lax.dynamic_slice_in_dim(x, number * _PIECE, _PIECE, x.ndim - 1) for x in (rows, vector))
        return total + jnp.matmul(*map(widened, pieces))

    rest = widened(rows[:, count * _PIECE :]) @ widened(vector[count * _PIECE :])
    result: Array = jax.lax.fori_loop(0, count, add, rest)
    return result


_dot_of_many = compat.by_platform("dot_of_many", cpu=_dot_in_pieces, default=_dot_at_once)


def combination(coefficients: Array, rows: Array) -> Array:
    """`coefficients` [m] times `rows` [m, P], row by row, so that a narrow type is not widened all at once: [P]."""
    result: Array = sum(coefficient * row for coefficient, row in zip(coefficients, rows, strict=True))
    return result


def gram(blocks: tuple[Array, ...]) -> np.ndarray:
    """Q Qᵀ [..., m, m], in double precision, of the rows of all blocks [..., ., P] together.

    Made piece by piece: a product of whole blocks would copy them. Each piece is a product in the precision of the
    rows, single at least, and the pieces are added in double precision.
    """
    number, size = sum(block.shape[-2] for block in blocks), blocks[0].shape[-1]
    terms = min(_PIECE // 4, size)
    total = np.zeros((*blocks[0].shape[:-2], number, number))
    for first in range(0, size, terms):
        # The last piece is moved back until it fits; what it has in common with the one before is left out.
        start = min(first, size - terms)
        products, squares = _products_of_piece(blocks, start, first - start, terms)
        # On the diagonal all terms have one sign: a sum by itself rounds less than the matrix product.
        total += np.where(np.eye(number), np.asarray(squares)[..., None], products)
    return total


@partial(jax.jit, static_argnames="terms")
def _products_of_piece(blocks: tuple[Array, ...], start: int, skipped: int, terms: int) -> tuple[Array, Array]:
    rows = widened(jnp.concatenate([jax.lax.dynamic_slice_in_dim(s, start, terms, -1) for s in blocks], axis=-2))
    rows = jnp.einsum("...mt,t->...mt", rows, jnp.arange(terms) >= skipped)
    return rows @ jnp.matrix_transpose(rows), jnp.sum(rows**2, axis=-1)


def widened(x: Array) -> Array:
    """`x` in single precision at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
