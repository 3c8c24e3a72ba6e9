"""The look for eigenvalues that a Krylov space does not contain, such as the copies of a multiple one.

A Krylov space holds one vector of every eigenspace. A second recurrence, from a random vector f and orthogonal to the
Ritz vectors that are known, contains the next copies. It also tells when there is none: from the relation
A V = V T + β v_{m+1} e_mᵀ, an eigenvector e of eigenvalue λ that was missed has, for λ above all Ritz values θ_i of T,

    |e · f| ≤ β_m |[(λ − T)⁻¹]_{1m}| = Π β_i / Π (λ − θ_i),

which falls with every step. The component e · f of a random unit vector in n dimensions is below c / √n with a
probability of at most √(2/π) c. For a single pair this alone, of the first recurrence, tells that it is the outermost:
a start that happens to have little of the outermost eigenvector converges to the next one.
"""

from typing import NamedTuple

import numpy as np

from hessflat.curvature.krylov.recurrence import State, combine, norm
from hessflat.curvature.operators.operator import Operator, matvec, matvec_compiled
from hessflat.curvature.operators.terms import Devices
from hessflat.utils.convolution import Loop

# The probability, about, that a look ends before it sees an eigenvalue that is there.
_CHANCE = 0.01

# A Ritz vector has a component along a missed eigenvector, of at most its residual r over the distance d of the two
# eigenvalues. It adds r times that to the residuals of the look: r²/d must be well below rtol d.
_CONTAMINATION = 0.25


class Limits(NamedTuple):
    """Numbers beyond which nothing may be missed: one for each requested pair, or two for the end "magnitude"."""

    values: np.ndarray  # [n]
    sides: np.ndarray  # [n] 1 where larger eigenvalues are looked for, −1 where smaller ones are


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


def limits_of(values: np.ndarray, tolerances: np.ndarray, which: str, k: int) -> Limits:
    """The requested `values` [k, or 2 k for both ends], moved outwards by their `tolerances`."""
    if which == "magnitude":
        sizes = np.abs(values) + tolerances
        return Limits(np.concatenate([sizes, -sizes]), np.repeat([1.0, -1.0], len(values)))
    upper = {"largest": len(values), "smallest": 0}.get(which, k)
    sides = np.where(np.arange(len(values)) < upper, 1.0, -1.0)
    return Limits(values + sides * tolerances, sides)


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


def log_missed(look: Look, pairs: Pairs) -> np.ndarray:
    """The logarithm of the bound on |e · f| for eigenvalues beyond each limit [n].

    In a recurrence that was restarted, the bound above is that of the first new vector instead of f, with the
    differences to the kept Ritz values in the numerator. Those of successive restarts multiply.
    """
    limits = look.limits
    to_ritz = limits.sides[:, None] * (limits.values[:, None] - pairs.ritz)
    nearest = to_ritz.min(axis=1)
    # The kept values interlace with those of T; rounding must not place one beyond.
    to_kept = np.maximum(limits.sides[:, None] * (limits.values[:, None] - look.kept), nearest[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log(pairs.betas).sum() + np.log(to_kept).sum(axis=1) - np.log(to_ritz).sum(axis=1)
    return np.where(nearest > 0, look.log_missed + change, np.inf)


def nothing_missed(look: Look, pairs: Pairs, num_pairs: int, size: int) -> np.ndarray:
    """Whether nothing beyond each of the requested pairs [num_pairs] was missed; `size` is that of the operator."""
    least = np.log(_CHANCE) - np.log(size - len(look.values)) / 2
    result: np.ndarray = log_missed(look, pairs).reshape(-1, num_pairs).max(axis=0) <= least
    return result


def nothing_missed_at_first(
    limits: Limits, runs: list[tuple[np.ndarray, Pairs]], num_pairs: int, size: int
) -> np.ndarray:
    """`nothing_missed` by the first recurrence, whose limits are known only once it has converged.

    Args:
        limits: those of the pairs that were found.
        runs: for each run between restarts the Ritz values that it began with, and the pairs at its end.
        num_pairs: the number of pairs.
        size: that of the operator.
    """
    look = FIRST._replace(limits=limits, log_missed=np.zeros(len(limits.values)))
    for kept, pairs in runs[:-1]:
        look = look._replace(log_missed=log_missed(look._replace(kept=kept), pairs))
    kept, pairs = runs[-1]
    return nothing_missed(look._replace(kept=kept), pairs, num_pairs, size)


def residuals(
    op: Operator, state: State, pairs: Pairs, chosen: np.ndarray, loop: Loop, devices: Devices | None
) -> np.ndarray:
    """‖A x − θ x‖ of the chosen pairs, by a product each."""
    vectors, values = combine(state, pairs.coefficients[:, chosen], devices), pairs.values[chosen]
    product = matvec_compiled if op.in_memory else matvec
    errors = [norm(product(op, x, loop) - value * x) for x, value in zip(vectors, values, strict=True)]
    return np.array(errors, np.float64)
