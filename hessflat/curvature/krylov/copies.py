"""The look for eigenvalues that a Krylov space does not contain, such as the copies of a multiple one.

A Krylov space holds one vector of every eigenspace. A second recurrence, from a random vector and orthogonal to the
Ritz vectors that are known, contains the next copies. `recurrence.log_missed` tells when there is none.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from hessflat.curvature import vectors
from hessflat.curvature.krylov.recurrence import Limits, State, combine
from hessflat.curvature.operators.operator import Operator, matvec, matvec_compiled
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils.convolution import Loop

# A Ritz vector has a component along a missed eigenvector, of at most its residual r over the distance d of the two
# eigenvalues. It adds r times that to the residuals of the look: r²/d must be well below rtol d.
_CONTAMINATION = 0.25


class Look(NamedTuple):
    """A recurrence orthogonal to locked Ritz pairs, of which the requested ones are the first."""

    rows: int  # the locked rows of the basis; those beyond the number of pairs are zero
    values: np.ndarray  # [r] of the locked pairs
    residuals: np.ndarray  # [r]
    scale: float  # the largest Ritz value so far in magnitude, locked or not
    limits: Limits
    log_missed: np.ndarray  # [n] the logarithm of the bound on e · f, from the runs between restarts so far
    kept: np.ndarray  # the Ritz values kept by the last restart


class Pairs(NamedTuple):
    """Ritz pairs in ascending order, those of a look together with the locked ones."""

    values: np.ndarray  # [n]
    residuals: np.ndarray  # [n]
    coefficients: np.ndarray  # [m, n] in the rows of the basis
    ritz: np.ndarray  # the eigenvalues of the recurrence, ascending
    within: np.ndarray  # their eigenvectors
    betas: np.ndarray  # β of the steps since the last restart
    locked: np.ndarray  # where the locked pairs are


# The first recurrence, in which nothing is locked.
FIRST = Look(0, np.zeros(0), np.zeros(0), 0.0, Limits(np.zeros(0), np.zeros(0)), np.zeros(0), np.zeros(0))


def distances(limits: Limits, values: np.ndarray) -> np.ndarray:
    """How far each value lies inside the limits of the last requested pairs; below 0 for a better one."""
    inside = np.full(len(values), np.inf)
    for side in (1.0, -1.0):
        ends = (side * limits.values)[limits.sides == side]
        if len(ends):
            inside = np.minimum(inside, ends.min() - side * values)
    return inside


def finds_better(look: Look, pairs: Pairs) -> bool:
    """Whether a new Ritz value is better than a requested one."""
    return bool((distances(look.limits, pairs.ritz) < 0).any())


def begin(
    limits: Limits, pairs: Pairs, chosen: np.ndarray, scale: float, rtol: float, rows: int
) -> tuple[Look, np.ndarray]:
    """A look beyond the `chosen` pairs, and the coefficients [rows, m] of what it locks in the basis so far.

    Other pairs are locked too, as far as there is room, so that the new recurrence has less to find.
    """
    inside = distances(limits, pairs.values)
    pure = np.flatnonzero(pairs.residuals <= _CONTAMINATION * min(rtol, 0.1) ** 0.5 * inside)
    others = np.setdiff1d(pure, chosen)
    lock = np.concatenate([chosen, others[np.argsort(inside[others], kind="stable")][: rows - len(chosen)]])
    coefficients = np.zeros((rows, len(pairs.coefficients)))
    coefficients[: len(lock)] = pairs.coefficients[:, lock].T
    none = np.zeros(len(limits.values))
    return Look(rows, pairs.values[lock], pairs.residuals[lock], scale, limits, none, none[:0]), coefficients


def residuals(op: Operator, layout: Layout, state: State, pairs: Pairs, chosen: np.ndarray, loop: Loop) -> np.ndarray:
    """‖A x − θ x‖ of the chosen pairs, by a product each."""
    rows, values = combine(layout, state, pairs.coefficients[:, chosen]), pairs.values[chosen]
    product = matvec_compiled if op.in_memory else matvec
    errors = []
    for k, value in enumerate(values):
        x = jax.tree.map(lambda row, k=k: row[k], rows)
        errors.append(_distance(product(op, layout, x, loop), x, value))
    return np.array(errors, np.float64)


@jax.jit
def _distance(product: Vector, x: Vector, value: Array) -> Array:
    """‖A x − θ x‖ from A x."""
    return vectors.norm(jax.tree.map(lambda a, b: a - value.astype(a.dtype) * b, product, x))
