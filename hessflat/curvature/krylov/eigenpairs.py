"""Extremal eigenpairs by thick-restart Lanczos, which stops when they have converged.

A start that happens to have little of the outermost eigenvector converges to the next one. So the bound of
`recurrence.log_missed` has to tell that nothing is missing: of the recurrence itself for a single pair, and of a look
for copies, which is in `krylov.copies`, for several.

The module is long because one loop holds the recurrence, its restarts and its looks for what was missed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.krylov import basis, copies
from hessflat.curvature.krylov.lanczos import step_callback
from hessflat.curvature.krylov.recurrence import (
    Limits,
    State,
    breakdown_tolerance,
    combine,
    continue_from,
    fill,
    initial_state,
    log_missed,
    python_steps,
    restart_from,
    scan_steps,
)
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace.estimates import RitzValue
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import hardware
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError, shown

Which = Literal["largest", "smallest", "magnitude", "both"]

# Products come in pairs. A check of the residuals needs the eigenvectors of a matrix of the size of the basis, which
# takes less than a millisecond while the basis is small. It becomes rarer as the basis grows, to stay below the cost
# of products. Those of an operator with few parameters take less than the check, and come in fours where one
# program has them.
_STEPS = 2
_FEW_PARAMETERS = 10_000
_CHECKS = 32

# Products by default. At the upper edge of a thousand eigenvalues drawn at random from an interval, with rtol = 1e-3,
# one pair takes about 75, and two to ten take 150 to 450.
_PRODUCTS = 200
_PRODUCTS_FOR_SEVERAL = 500

# The probability, about, that a recurrence ends before it sees an eigenvalue that is there.
_CHANCE = 0.01

# New vectors converge to a part of the tolerance, because the locked ones add to their residuals.
_PART = 0.25


@record(
    lambda self: f"{len(self.values)} eigenpairs, {np.count_nonzero(self.converged)} converged",
    {"λ": "values ± residuals"},
)
class EigenPairs(NamedTuple):
    """Ritz pairs with ‖A x − θ x‖ = residual; some eigenvalue of A lies within `residuals` of each value."""

    values: np.ndarray  # [k] the requested end first; "both": the k largest, descending, then the k smallest, ascending
    vectors: Any  # tree like params with a leading axis [k], unit length
    residuals: np.ndarray  # [k], at least the rounding of the largest value
    # [k] residual within rtol |value|, or within rounding at the scale of the operator, and no better one is missing
    converged: np.ndarray
    num_products: int
    seconds: float
    precision: str
    status: tuple[str, ...] = ()  # [k] "converged", or "not converged: ..." with the residual and what it should be

    def __str__(self) -> str:
        rows = zip(self.values, self.residuals, self.status, strict=True)
        return "\n".join(f"{value:.6g} ± {residual:.1e}  {status}" for value, residual, status in rows)


def eigenpairs(
    op: Operator,
    key: Array,
    k: int | tuple[int, int] = 1,
    which: Which = "largest",
    rtol: float = 1e-3,
    max_steps: int | None = None,
    start: Any = None,
    num_vectors: int | None = None,
    loop: Loop | None = None,
    show_progress: bool = True,
    on_steps: Callable[[int], None] | None = None,
    trust_start: bool = False,
) -> EigenPairs:
    """The k extremal eigenpairs at one end of the spectrum or at both, computed until they have converged.

    The method is Lanczos with full re-orthogonalisation, restarted from the best Ritz vectors when `num_vectors` are
    stored (Wu and Simon 2000).

    Multiple eigenvalues appear with their multiplicity. A Krylov space holds one vector of each eigenspace. So after
    convergence a second recurrence looks for better values from a new random vector, orthogonally to what is known, and
    so on until nothing better is there. It misses a value with a probability of about 1 %. If there is no better value,
    the look takes 4 to 15 products for isolated eigenvalues, and up to as many again as before at the edge of a dense
    bulk. Each round of copies takes as many products as it needs to converge, and one for each copy to check it. With k
    = 1 there is no look: the recurrence goes on, for about a quarter of the products where the eigenvalue is isolated,
    until a better one beyond the tolerance would be missed with a probability of about 1 % at most. If `max_steps` end
    it, pairs before which one may be missing count as not converged.

    In a dense bulk, convergence is slow: what counts is the gap to the next eigenvalue beyond the pairs that are asked
    for, over the width of the spectrum. To residuals of the same size this takes about as many products as ARPACK
    before the look, and at most twice as many with it. ARPACK does not look, and passes over eigenvalues of clusters
    that are as narrow as `rtol`; inside such a cluster the look takes ten times as many products or more, and often
    does not end within `max_steps`.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        k: the number of pairs; for "both" the number at each end, or (largest, smallest).
        which: "largest", "smallest" (most negative), "magnitude" (largest |λ|) or "both" ends.
        rtol: a pair has converged when its residual is at most `rtol` |value|.
        max_steps: the maximum number of products, an even number; None takes 200 for one pair and 500 for several.
            Convergence is tested after every two, or four with at most 10,000 parameters. A pair that has
            not converged by then is returned with its residual, and `status` says so.
        start: warm start: a tree like params, flat [P], or `EigenPairs.vectors` of a related operator. Half of the
            first vector stays random, so that an eigenvalue that has become extremal is found.
        num_vectors: the number of P-vectors to store; None takes 20 more than k. More vectors need fewer products.
        loop: "scan", "python" or None to choose.
        show_progress: show a progress bar on a terminal.
        on_steps: called with the number of further products, instead of the bar.
        trust_start: with a start, take a single pair once its residual is small, for about half of the products
            where it is isolated and a quarter of them in a bulk. It is for a series of operators that change little,
            where the next call finds what this one has missed: from the eigenvector of the second eigenvalue the first
            was missed in 1 to 9 % of calls at the default `rtol`, and in most of them at 0.1.

    Raises:
        InputError: counts out of range, an unknown end, a start of another shape, vectors that do not fit into memory,
            products that are not finite.
    """
    args = (op, key, k, which, rtol, max_steps, start, num_vectors, loop, show_progress, on_steps, trust_start)
    began = time.perf_counter()
    pairs, vectors_of = _search(*args)
    return pairs._replace(vectors=vectors_of(), seconds=time.perf_counter() - began)


def _search(
    op: Operator,
    key: Array,
    k: int | tuple[int, int],
    which: Which,
    rtol: float,
    max_steps: int | None,
    start: Any,
    num_vectors: int | None,
    loop: Loop | None,
    show_progress: bool,
    on_steps: Callable[[int], None] | None,
    trust_start: bool,
) -> tuple[EigenPairs, Callable[[], Any]]:
    """`eigenpairs` without the vectors, and a function that makes them."""
    began = time.perf_counter()
    is_default = max_steps is None
    counts, max_steps, rtol = _options(op, key, k, which, rtol, max_steps)
    wanted = _wanted(counts, which, rtol, op.size)
    num_vectors = _num_vectors(op, wanted, min(max_steps, _PRODUCTS) if is_default else max_steps, num_vectors)
    layout, trusted = operator.layout_of(op), numerics.require_flag("trust_start", trust_start) and start is not None
    basis.require_memory(layout, num_vectors + wanted.number, "device", hardware.platform(op))
    loop = loop_for(op, loop)
    warm_start = None if start is None else _sum_of(op, layout, start)
    op = linearize(op)
    num_products, projected, look = 0, np.zeros((num_vectors, num_vectors)), copies.FIRST
    runs = list[tuple[np.ndarray, copies.Pairs]]()  # of the first recurrence, between its restarts
    leak = 0.0  # of the products along vectors that were left where a Krylov space was exhausted
    size, precision = op.size, numerics.precision_name(op)
    epsilon, negligible = numerics.epsilon(layout.dtype, precision), breakdown_tolerance(layout.dtype)
    together, doing = _steps_together(size) if loop == "scan" else _STEPS, f"{wanted.number} eigenpairs"
    with numerics.matmul_precision(), step_callback(max_steps, doing, show_progress, on_steps) as on_steps:
        first = vectors.draw(layout, key, "gaussian")
        if warm_start is not None:
            first = _mixed(first, warm_start)
        state, step, restarted = initial_state(layout, first, num_vectors, True), 0, 0
        next_check = wanted.number
        while True:
            start_valid = step
            count = max(_STEPS, min(together, num_vectors - step, max_steps - num_products) // _STEPS * _STEPS)
            state = (scan_steps if loop == "scan" else python_steps)(op, layout, state, step, count)
            valid = int(state.num_valid)
            num_products, step = num_products + valid - start_valid, valid
            on_steps(valid - start_valid)
            exhausted = float(state.beta) == 0  # where the next vector is zero, and nowhere else
            if valid < min(next_check, num_vectors) and not exhausted and num_products + _STEPS <= max_steps:
                continue
            next_check = valid + max(_STEPS, (valid - look.rows) // _CHECKS)
            betas = fill(projected, state, restarted, valid)
            pairs = _pairs_of(projected[:valid, :valid], betas, look)
            scale = max(look.scale, float(np.abs(pairs.values).max()))
            floor = epsilon * scale
            np.maximum(pairs.residuals, floor, out=pairs.residuals)
            found = _judge(pairs, look, wanted, negligible * scale, exhausted, size)
            if not (wanted.looks or exhausted or trusted) and wanted.number < size and found.settled:
                share = 1.0 if start is None else 0.5
                sure = _nothing_missed_at_first(found.limits, [*runs, (look.kept, pairs)], wanted.number, size, share)
                found = found._replace(certain=sure)
            settled, new = found.settled, found.chosen[found.is_new]
            over = num_products + settled * len(new) + _STEPS > max_steps
            if settled and len(new) and not over:
                pairs.residuals[new] = np.maximum(copies.residuals(op, layout, state, pairs, new, loop), floor)
                settled = exhausted or bool((pairs.residuals[new] <= found.tolerances[found.is_new]).all())
                num_products += len(new)
                over = num_products + _STEPS > max_steps
                on_steps(len(new))
            else:
                # The components of A x along the locked vectors are at most their residuals.
                pairs.residuals[new] = np.hypot(pairs.residuals[new], np.linalg.norm(look.residuals))
                settled = settled and not len(new)
            everything = exhausted and len(pairs.values) == size
            rows, begin_at = None, None
            if over or everything or (settled and found.certain.all()):
                break
            if settled and found.improves and wanted.looks:
                pairs.residuals[:] = np.hypot(pairs.residuals, leak)
                room = _num_locked(wanted.number, num_vectors)
                look, rows = copies.begin(found.limits, pairs, found.chosen, scale, rtol, room)
                projected[:], exhausted = 0, True
            elif found.settled and not settled and len(look.values) > wanted.number:
                # Other locked pairs hold a part of what was found: it converges further without them.
                begin_at = jax.tree.map(lambda x: x.sum(axis=0), combine(layout, state, pairs.coefficients[:, new]))
                look, rows = copies.begin(look.limits, pairs, pairs.locked[: wanted.number], scale, 0.0, look.rows)
                projected[:], exhausted = 0, True
            elif valid == num_vectors:
                before = log_missed(look.limits, pairs.ritz, betas, look.kept, look.log_missed)
                runs = runs if look.rows else [*runs, (look.kept, pairs)]
                rows, projected, kept = _thick_restart(pairs, look.rows, wanted, num_vectors, exhausted)
                look = look._replace(kept=kept, log_missed=before)
            if rows is not None:
                rows = np.pad(rows, ((0, 0), (0, num_vectors - valid)))
                state = restart_from(layout, state, numerics.on_device(rows, layout.dtype))
                step = next_check = restarted = len(rows)
            if exhausted:
                leak = leak if look.rows else np.hypot(leak, betas[-1])
                if begin_at is None:
                    begin_at = vectors.draw(layout, key, "gaussian", num_products)
                state = continue_from(layout, state, begin_at)
    chosen = found.chosen
    seconds = time.perf_counter() - began
    values, residuals = pairs.values[chosen], pairs.residuals[chosen]
    residuals = residuals if look.rows else np.hypot(residuals, leak)
    tolerances = np.hypot(found.tolerances, leak)
    converged = (residuals <= tolerances) & found.certain
    status = tuple(map(_status, residuals, tolerances, found.certain))
    result = EigenPairs(values, None, residuals, converged, num_products, seconds, precision, status)
    return result, partial(_vectors_of, layout, state, pairs.coefficients[:, chosen])


def _vectors_of(layout: Layout, state: State, coefficients: np.ndarray) -> Any:
    with numerics.matmul_precision():
        return vectors.rows_to_tree(layout, combine(layout, state, coefficients))


def sharpness(
    op: Operator,
    key: Array,
    rtol: float = 1e-3,
    max_steps: int = 200,
    start: Any = None,
    loop: Loop | None = None,
    trust_start: bool = False,
) -> RitzValue:
    """The largest eigenvalue λ_max of `op`, with a residual within which some eigenvalue of the operator lies.

    For the Hessian of the training loss this is the sharpness (Cohen et al. 2021). It is the first of `eigenpairs`.

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        rtol: it ends when the residual is at most `rtol` |λ_max|.
        max_steps: the maximum number of products.
        start: a tree like the parameters near the eigenvector, such as that of an earlier step of training.
        loop: "scan", "python" or None to choose.
        trust_start: as in `eigenpairs`.

    Raises:
        InputError: as `eigenpairs`.
    """
    pairs, _ = _search(op, key, 1, "largest", rtol, max_steps, start, None, loop, True, None, trust_start)
    cost = (pairs.num_products, pairs.seconds, pairs.precision)
    return RitzValue(float(pairs.values[0]), float(pairs.residuals[0]), *cost)


@jax.jit
def _mixed(random: Vector, start: Vector) -> Vector:
    """A unit vector: the sum of a random one and the normalised `start`; the random one if they cancel, as they may
    where P = 1.
    """
    length = vectors.plain_norm(start)
    mixed = jax.tree.map(lambda a, b: a + b / jnp.where(length > 0, length, 1), random, start)
    length = vectors.plain_norm(mixed)
    scale = jnp.where(length > 0, length, 1)
    return jax.tree.map(lambda a, b: jnp.where(length > 1e-3, a / scale, b), mixed, random)


def _sum_of(op: Operator, layout: Layout, start: Any) -> Vector:
    """The sum of the vectors of `start`: a tree, a flat vector, or several of either along a leading axis."""
    start = numerics.as_arrays("start", start)
    like = op.vector_like
    if isinstance(start, jax.Array) and start.shape[-1:] == (op.size,) and start.ndim <= 2:
        start = numerics.unravel(like, jnp.atleast_2d(numerics.on_device(start, op.dtype)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    leaves = jax.tree.leaves(start)
    single = [jnp.shape(leaf) for leaf in leaves] == shapes
    alike = numerics.same_structure(start, op.params)
    if not alike or (not single and [jnp.shape(leaf)[1:] for leaf in leaves] != shapes):
        raise InputError("start must be a tree like params, with or without a leading axis, or flat of shape (P,)")
    return _sum_compiled(layout, start, single)


@partial(jax.jit, static_argnums=(0, 2))
def _sum_compiled(layout: Layout, start: Any, single: bool) -> Vector:
    rows = [leaf.astype(layout.dtype) for leaf in jax.tree.leaves(start)]
    summed = [leaf if single else leaf.sum(axis=0) for leaf in rows]
    return vectors.from_tree(layout, jax.tree.unflatten(layout.structure, summed))


def _status(residual: float, tolerance: float, certain: bool) -> str:
    if not residual <= tolerance:
        return f"not converged: its residual is {residual:.1e} and should be {tolerance:.1e}; raise max_steps"
    if not certain:
        return f"not converged: its residual is {residual:.1e}, but a better pair may be missing; raise max_steps"
    return "converged"


class _Wanted(NamedTuple):
    """What is asked for."""

    which: Which
    counts: tuple[int, int]  # at the two ends; the first is that of a single one
    number: int  # of pairs
    rtol: float
    looks: bool  # whether copies could be among them


class _Found(NamedTuple):
    """The best Ritz pairs so far, and whether they are what is asked for."""

    chosen: np.ndarray  # their positions
    is_new: np.ndarray  # of these, whether they are not locked
    tolerances: np.ndarray  # the residuals within which they have converged
    limits: Limits  # beyond which none may be missing: for each pair, or two for the end "magnitude"
    settled: bool  # whether all have, or are locked
    improves: bool  # whether they are better than what the look began with
    certain: np.ndarray  # whether no eigenvalue before each is missing


def _wanted(counts: tuple[int, int], which: Which, rtol: float, size: int) -> _Wanted:
    """What `eigenpairs` of an operator of that size is asked for."""
    number = min(sum(counts) if which == "both" else counts[0], size)
    # Copies of the largest or of the smallest eigenvalue do not change which it is.
    looks = number < size and max(counts if which == "both" else counts[:1]) > 1
    return _Wanted(which, counts, number, rtol, looks)


def _judge(
    pairs: copies.Pairs, look: copies.Look, wanted: _Wanted, rounding: float, exhausted: bool, size: int
) -> _Found:
    """The best pairs so far.

    Args:
        pairs: all pairs.
        look: the look that they belong to.
        wanted: what is asked for.
        rounding: a residual that counts as zero.
        exhausted: whether the Krylov space is.
        size: that of the operator.
    """
    best = _by_preference(pairs.values, wanted.which, wanted.counts)[: wanted.number]
    chosen = _presented(best, pairs.values, wanted.counts[0], wanted.which)
    improves = not look.rows or copies.finds_better(look, pairs)
    if not improves:
        chosen = pairs.locked[: wanted.number]
    tolerances = np.maximum(wanted.rtol * np.abs(pairs.values[chosen]), rounding)
    part, is_locked = _PART if look.rows else 1.0, np.isin(chosen, pairs.locked)
    converged = is_locked | (pairs.residuals[chosen] <= part * tolerances)
    settled = (len(chosen) == wanted.number and bool(converged.all())) or (exhausted and look.rows > 0)
    firsts = (0, wanted.counts[0]) if wanted.which == "both" else (0,)
    everything = exhausted and len(pairs.values) == size
    certain = np.isin(np.arange(len(chosen)), firsts) | everything | (not wanted.looks)
    if not improves:
        certain = certain | exhausted | _nothing_missed(look, pairs, wanted.number, size)
    is_new = ~is_locked & (look.rows > 0)
    limits = _limits(pairs.values[chosen], tolerances, wanted)
    return _Found(chosen, is_new, tolerances, limits, settled, improves, certain)


def _limits(values: np.ndarray, tolerances: np.ndarray, wanted: _Wanted) -> Limits:
    """The requested `values` [k, or 2 k for both ends], moved outwards by their `tolerances`."""
    if wanted.which == "magnitude":
        sizes = np.abs(values) + tolerances
        return Limits(np.concatenate([sizes, -sizes]), np.repeat([1.0, -1.0], len(values)))
    upper = {"largest": len(values), "smallest": 0}.get(wanted.which, wanted.counts[0])
    sides = np.where(np.arange(len(values)) < upper, 1.0, -1.0)
    return Limits(values + sides * tolerances, sides)


def _nothing_missed(
    look: copies.Look, pairs: copies.Pairs, num_pairs: int, size: int, share: float = 1.0
) -> np.ndarray:
    """Whether nothing beyond each of the requested pairs [num_pairs] was missed; `size` is that of the operator.

    The component of a random unit vector in n dimensions along another is below c / √n with a probability of at most
    √(2/π) c; of the first vector a `share` is random.
    """
    least = np.log(share * _CHANCE) - np.log(size - len(look.values)) / 2
    bounds = log_missed(look.limits, pairs.ritz, pairs.betas, look.kept, look.log_missed)
    result: np.ndarray = bounds.reshape(-1, num_pairs).max(axis=0) <= least
    return result


def _nothing_missed_at_first(
    limits: Limits, runs: list[tuple[np.ndarray, copies.Pairs]], num_pairs: int, size: int, share: float
) -> np.ndarray:
    """`_nothing_missed` by the first recurrence, whose limits are known only once it has converged.

    Args:
        limits: those of the pairs that were found.
        runs: for each run between restarts the Ritz values that it began with, and the pairs at its end.
        num_pairs: the number of pairs.
        size: that of the operator.
        share: of the first vector, what is random, at least: beside a warm start half of its length.
    """
    before = np.zeros(len(limits.values))
    for kept, pairs in runs[:-1]:
        before = log_missed(limits, pairs.ritz, pairs.betas, kept, before)
    kept, pairs = runs[-1]
    look = copies.FIRST._replace(limits=limits, kept=kept, log_missed=before)
    return _nothing_missed(look, pairs, num_pairs, size, share)


def _by_preference(values: np.ndarray, which: Which, counts: tuple[int, int]) -> np.ndarray:
    """Positions in ascending values, the requested end first; both ends alternate in the ratio of their counts."""
    ascending = np.arange(len(values))
    if which == "magnitude":
        return np.argsort(-np.abs(values), kind="stable")
    if which == "smallest":
        return ascending
    if which == "largest":
        return ascending[::-1]
    turns = np.minimum(ascending[::-1] / counts[0], (ascending + 0.5) / counts[1])
    return np.argsort(turns, kind="stable")


def _presented(positions: np.ndarray, values: np.ndarray, k: int, which: Which) -> np.ndarray:
    """Positions in the order of the result: for both ends the k largest, descending, then the smallest, ascending."""
    if which != "both":
        return positions
    descending = np.sort(positions)[::-1]
    return np.concatenate([descending[:k], descending[k:][::-1]])


def _pairs_of(projected: np.ndarray, betas: np.ndarray, look: copies.Look) -> copies.Pairs:
    """The pairs of a projected matrix [m, m], in whose first rows are those that are locked.

    Residuals do not include the components of A x along locked vectors.
    """
    rows, number = look.rows, len(look.values)
    ritz, within = np.linalg.eigh(projected[rows:, rows:])
    residuals = np.abs(betas[-1] * within[-1])
    values, residuals = np.concatenate([look.values, ritz]), np.concatenate([look.residuals, residuals])
    coefficients = np.zeros((len(projected), len(values)))
    coefficients[:number, :number], coefficients[rows:, number:] = np.eye(number), within
    order = np.argsort(values, kind="stable")
    locked = np.argsort(order)[:number]
    return copies.Pairs(values[order], residuals[order], coefficients[:, order], ritz, within, betas, locked)


def _num_vectors(op: Operator, wanted: _Wanted, max_steps: int, num_vectors: int | None) -> int:
    """The number of stored vectors, a multiple of the steps that run together."""
    if num_vectors is None:
        num_vectors = wanted.number + 20
    else:
        num_vectors = numerics.require_count("num_vectors", num_vectors)
        if num_vectors < min(wanted.number + 4, op.size):
            raise InputError(
                f"num_vectors must be at least 4 more than the {wanted.number} eigenpairs, got {num_vectors}"
            )
    number = max(min(num_vectors, max_steps, op.size), wanted.number + 4 if wanted.looks else 0)
    return number + -number % _steps_together(op.size)


def _steps_together(size: int) -> int:
    """The steps between two looks, where one program has them."""
    return _STEPS if size > _FEW_PARAMETERS else 2 * _STEPS


def _num_locked(num_pairs: int, num_vectors: int) -> int:
    """The number of rows that a look locks; four are left for its recurrence, or two in the smallest basis."""
    number = _num_restarted(num_pairs, num_vectors)
    return number if num_vectors - number >= 4 else num_pairs + num_pairs % 2


def _num_restarted(num_pairs: int, num_vectors: int) -> int:
    """The number of Ritz vectors that a restart keeps: the requested ones and half of the others."""
    number = num_pairs + (num_vectors - num_pairs) // 2
    return number - number % 2


def _thick_restart(
    pairs: copies.Pairs, locked: int, wanted: _Wanted, num_vectors: int, exhausted: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a full basis, whose first `locked` rows stay, is replaced by: its best Ritz vectors (Wu and Simon 2000).

    Returns:
        the coefficients of the new rows in the old ones [r, num_vectors], Qᵀ A Q of the new rows and of the vector that
        follows them [num_vectors, num_vectors], and the Ritz values that are kept [r - locked].
    """
    number = _num_restarted(0 if locked else wanted.number, num_vectors - locked)
    best = _by_preference(pairs.ritz, wanted.which, wanted.counts)[:number]
    following, new = locked + number, np.arange(locked, locked + number)
    rows, projected = np.zeros((following, num_vectors)), np.zeros((num_vectors, num_vectors))
    rows[:locked, :locked], rows[locked:, locked:] = np.eye(locked), pairs.within[:, best].T
    projected[new, new] = pairs.ritz[best]
    if not exhausted:
        projected[new, following] = projected[following, new] = pairs.betas[-1] * pairs.within[-1, best]
    return rows, projected, pairs.ritz[best]


def _options(
    op: Operator, key: Array, k: int | tuple[int, int], which: str, rtol: float, max_steps: int | None
) -> tuple[tuple[int, int], int, float]:
    """The numbers of pairs at each end, and of products at most, and the tolerance."""
    operator.require_operator(op)
    numerics.require_key(key)
    numerics.require_option("end", which, get_args(Which))
    if isinstance(k, tuple) and which != "both":
        raise InputError(f"k must be one whole number for the end {which!r}, got {k}; ask for 'both'")
    if isinstance(k, tuple) and len(k) != 2:
        raise InputError(f"k must be one whole number, or (largest, smallest), got {shown(k)}")
    largest, smallest = (numerics.require_count("k", count) for count in (k if isinstance(k, tuple) else (k, k)))
    counts = (largest, smallest)
    if max(counts) > op.size:
        raise InputError(f"k must be at most the size of the operator, {op.size}, got {k}")
    if max_steps is None:
        max_steps = _PRODUCTS_FOR_SEVERAL if which == "both" or largest > 1 else _PRODUCTS
    return counts, numerics.require_count("max_steps", max_steps), numerics.require_number("rtol", rtol, above=0)
