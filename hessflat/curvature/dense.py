"""Every eigenvalue, exactly: from the dense matrix, or from the smaller Gram side of a Gauss-Newton matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

from hessflat.curvature import precision, trees
from hessflat.curvature.operators import Operator, Term, loop_for
from hessflat.curvature.products import gauss_newton_product
from hessflat.errors import InputError

# A float64 matrix of this size takes 3.2 GB, and its eigenvalues some minutes.
_LARGEST = 20_000


def eigvalsh(op: Operator) -> np.ndarray:
    """All P eigenvalues, ascending, float64 [P].

    The matrix is made in the operator's own precision and solved in float64. A Gauss-Newton matrix with fewer outputs
    N C than parameters is solved on its Gram side: the non-zero eigenvalues of Jᵀ D J are those of the N C × N C
    matrix K^½ D K^½ with K = J Jᵀ; the other P − N C are zero.

    Raises:
        InputError: both P and N C above 20,000 (use `spectrum` or `eigenpairs`), or values that are not finite.
    """
    outputs = _num_outputs(op)
    if outputs is not None and outputs < op.size and outputs <= _LARGEST:
        return _gram_eigenvalues(op, op.terms[0])
    if op.size > _LARGEST:
        raise InputError(
            f"eigvalsh takes operators of size up to {_LARGEST}, got {op.size}; use spectrum or eigenpairs instead"
        )
    return _solve(np.asarray(op.to_dense(), np.float64))


def _num_outputs(op: Operator) -> int | None:
    """N C where the operator is one Gauss-Newton matrix, scaled and shifted at most."""
    if len(op.terms) != 1 or op.terms[0].product is not gauss_newton_product:
        return None
    term = op.terms[0]
    outputs = trees.output_of("predict", term.functions[0], term.params, term.batches.arrays)
    return sum(leaf.size for leaf in jax.tree.leaves(outputs))


def _gram_eigenvalues(op: Operator, term: Term) -> np.ndarray:
    batches, total = term.batches, term.batches.num_examples
    rows, blocks = [], []
    with precision.chosen():
        for start in range(0, total, batches.size):
            size = min(batches.size, total - start)
            jacobian, curvature = _output_side(term, batches.take(start, size), loop_for(op))
            rows.append(np.asarray(jacobian, np.float64))
            blocks.append(np.asarray(curvature, np.float64) * (size / total))
    every_row = np.concatenate(rows)
    root = _square_root(every_row @ every_row.T)
    inner = _solve(root @ scipy.linalg.block_diag(*blocks) @ root)
    values = np.concatenate([inner, np.zeros(op.size - len(inner))])
    return np.sort(float(op.coefficients[0]) * values + float(op.shift))


def _output_side(term: Term, batch, loop) -> tuple[Array, Array]:
    """J [n C, P] and the second derivative of the criterion [n C, n C] for one batch."""
    predict, criterion = term.functions
    if loop == "scan":
        return _output_side_compiled(predict, criterion, term.params, batch)
    outputs, pull = jax.vjp(lambda p: predict(p, batch), term.params)
    flat = trees.flatten(outputs)
    pull_row = jax.jit(lambda row: trees.flatten(pull(trees.unflatten(outputs, row))[0]))
    rows = [pull_row(jnp.zeros_like(flat).at[i].set(1)) for i in range(flat.size)]
    return jnp.stack(rows), _curvature(criterion, outputs, batch)


def _output_side_impl(predict, criterion, params, batch) -> tuple[Array, Array]:
    outputs, pull = jax.vjp(lambda p: predict(p, batch), params)
    flat = trees.flatten(outputs)

    def row(i: Array) -> Array:
        return trees.flatten(pull(trees.unflatten(outputs, jnp.zeros_like(flat).at[i].set(1)))[0])

    return jax.lax.map(row, jnp.arange(flat.size), batch_size=16), _curvature(criterion, outputs, batch)


def _curvature(criterion, outputs, batch) -> Array:
    return jax.hessian(lambda f: criterion(trees.unflatten(outputs, f), batch))(trees.flatten(outputs))


_output_side_compiled = jax.jit(_output_side_impl, static_argnums=(0, 1))


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """The symmetric square root of a positive semi-definite matrix; negative rounding is cut."""
    values, vectors = scipy.linalg.eigh(matrix, driver="evd")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _solve(matrix: np.ndarray) -> np.ndarray:
    if not np.isfinite(matrix).all():
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    return scipy.linalg.eigh((matrix + matrix.T) / 2, eigvals_only=True, driver="evr", overwrite_a=True)
