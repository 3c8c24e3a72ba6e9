"""Linear systems (A + δ I) x = b with products alone, and the preconditioner that makes them short."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.operator import Operator, layout_of, matvec, require_finite, require_operator
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace.estimates import cost_since
from hessflat.curvature.stochtrace.trace import probe_vector, product_with, sketch
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils.convolution import Loop
from hessflat.utils.errors import InputError

SolveMethod = Literal["cg", "minres"]
# Steps of one compiled scan.
_STEPS = 10
# A solution of what is left that leaves more than this of it is the last.
_PROGRESS = 0.5
# Singular values of a sketch below this multiple of rounding, relative to the largest, are noise.
_ROUNDINGS = 20


@record(
    lambda self: f"a solution of {self.num_steps} steps" + ("" if self.converged else ", not converged"),
    {"residual": "residual"},
)
class Solution(NamedTuple):
    """The solution of (A + δ I) x = b."""

    x: Any  # a tree like the parameters, or flat [P] where b is
    residual: float  # ‖b − (A + δ I) x‖ / ‖b‖, from one product at the end
    converged: bool  # whether that is at most rtol
    num_steps: int  # of the recurrence
    num_products: int
    seconds: float
    precision: str


@record(lambda self: f"a Nyström approximation of rank {len(self.values)}", {"eigenvalues": "values"})
class Nystrom(NamedTuple):
    """The approximation U diag(values) Uᵀ of a positive semi-definite matrix, of rank r."""

    values: np.ndarray  # [r] descending
    vectors: Vector  # [r, P] Uᵀ
    num_products: int
    seconds: float
    precision: str


class _CG(NamedTuple):
    x: Vector
    r: Vector  # b − A x
    p: Vector
    rz: Array
    steps: Array
    negative: Array  # whether a direction of curvature at most 0 was met


class _MINRES(NamedTuple):
    x: Vector
    r1: Vector
    r2: Vector
    y: Vector
    w: Vector
    w2: Vector
    beta: Array
    old_beta: Array
    dbar: Array
    epsln: Array
    phibar: Array
    cs: Array
    sn: Array
    steps: Array


def solve(
    op: Operator,
    b: Any,
    damping: float = 0.0,
    method: SolveMethod = "cg",
    rtol: float = 1e-4,
    max_steps: int = 1000,
    preconditioner: Nystrom | None = None,
    loop: Loop | None = None,
) -> Solution:
    """The x of (A + δ I) x = b, one product a step, as for influence functions and natural gradients.

    "cg" (Hestenes & Stiefel 1952) is for positive definite matrices: a Gauss-Newton or Fisher matrix with damping. A
    direction of negative curvature is refused. "minres" (Paige & Saunders 1975) takes any symmetric matrix, a Hessian
    too. Both stop by their own recurrences. The residual is then measured, by one more product; where rounding, or the
    norm of the preconditioner, has kept the recurrence from it, the same is done for what is left, while that helps.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: a symmetric operator A of size P.
        b: a tree like the parameters, or a flat array [P].
        damping: δ, in the units of the eigenvalues.
        method: "cg" or "minres".
        rtol: the residual, relative to ‖b‖, at which steps end.
        max_steps: the maximum number of steps.
        preconditioner: of `nystrom(op, ...)`, which takes the large eigenvalues out.
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: an unknown method, a vector of another structure, a matrix that is not positive definite for "cg".

    >>> import jax, jax.numpy as jnp, hessflat.curvature as cv
    >>> A = cv.from_matvec(lambda v: v * jnp.array([8.0, 3.0]), jnp.zeros(2))
    >>> [round(float(x), 4) for x in cv.solve(A, jnp.array([9.0, 8.0]), damping=1.0).x]
    [1.0, 2.0]
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_option("method", method, ("cg", "minres"))
    damping = numerics.require_number("damping", damping)
    rtol, max_steps = numerics.require_number("rtol", rtol, above=0), numerics.require_count("max_steps", max_steps)
    if preconditioner is not None and not isinstance(preconditioner, Nystrom):
        raise InputError(f"preconditioner must be cv.nystrom(op, ...), got {type(preconditioner).__name__}")
    op = op.as_it_is_now() + damping
    flat, layout = op._is_flat(b), layout_of(op)
    if preconditioner is not None and not _suits(preconditioner, layout):
        raise InputError(f"preconditioner must be cv.nystrom of an operator with the same {layout.size:,} parameters")
    tree = numerics.unravel(op.vector_like, numerics.on_device(b)) if flat else op._as_vector(b)
    loop, op = loop_for(op, loop), linearize(op)
    with numerics.matmul_precision():
        right = vectors.from_tree(layout, tree)
        length = float(_norm(right))
        require_finite(length)
        if length * float(jnp.finfo(layout.dtype).tiny) >= 1:  # whose inverse is flushed to zero
            raise InputError(f"b must have a norm that can be divided by, got {length:.3g}; scale b down, and x up")
        # Of length 1: squares of small numbers underflow.
        right = jax.tree.map(lambda v: v / (length or 1), right)
        inverse = _Inverse(None, None) if preconditioner is None else _inverse(preconditioner, damping, layout.dtype)
        x, residual, steps, products = jax.tree.map(jnp.zeros_like, right), 1.0 if length else 0.0, 0, 0
        rest, better = right, True
        while residual > rtol and steps < max_steps and better:
            change, taken = _run(op, layout, rest, inverse, method, rtol / residual, max_steps - steps, loop)
            tried = _plus(x, change, residual)
            left = _minus(right, product_with(op, layout, tried, loop))
            now = float(_norm(left))
            require_finite(now)
            steps, products = steps + taken, products + taken + 1
            better = now < _PROGRESS * residual
            if now < residual:
                x, residual, rest = tried, now, jax.tree.map(lambda v, n=now: v / (n or 1), left)
        found = vectors.to_tree(layout, jax.tree.map(lambda v: v * length, x))
    cost = cost_since(began, products, op)
    return Solution(numerics.ravel(found) if flat else found, residual, residual <= rtol, steps, *cost)


def nystrom(op: Operator, key: Array, rank: int = 20, loop: Loop | None = None) -> Nystrom:
    """A randomised Nyström approximation A Ω (Ωᵀ A Ω)⁺ Ωᵀ A of a positive semi-definite matrix.

    With it as a preconditioner, only the eigenvalues beyond `rank` and δ set the condition number (Frangella, Tropp &
    Udell 2023). Departure: the small matrix is inverted on its numerical range, where they shift it.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: a Gauss-Newton or Fisher matrix. For a Hessian, the negative part is left out.
        key: a JAX random key.
        rank: the number of products, and of vectors that are stored.
        loop: "scan", "python" or None to choose.

    Raises:
        InputError: a rank below 1 or above P, products that are not finite or do not fit into memory.
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    rank = numerics.require_count("rank", rank)
    if rank > op.size:
        raise InputError(f"rank must be at most {op.size:,}, the number of parameters, got {rank:,}")
    op = op.as_it_is_now()
    loop, layout, op = loop_for(op, loop), layout_of(op), linearize(op)
    with numerics.matmul_precision():
        drawn = sketch(op, layout, key, rank, loop)
        omega = [vectors.dots(layout, drawn.basis, probe_vector(layout, key, number)) for number in range(rank)]
        inside = np.array(omega, np.float64).reshape(rank, drawn.rank) @ drawn.coefficients  # Ωᵀ A Ω
        values, own = np.linalg.eigh((inside + inside.T) / 2)
        floor = _ROUNDINGS * float(jnp.finfo(op.dtype).eps) * np.abs(values).max(initial=0)
        roots = drawn.coefficients @ own[:, values > floor] / np.sqrt(values[values > floor])
        left, singular, _ = np.linalg.svd(roots, full_matrices=False)
        basis = _rotated(numerics.on_device(left.T, layout.dtype), drawn.basis)
    return Nystrom(singular**2, basis, *cost_since(began, rank, op))


def _suits(preconditioner: Nystrom, layout: Layout) -> bool:
    """Whether vectors of a preconditioner lie as those of the operator do."""
    own = [rows.shape[1] for rows in jax.tree.leaves(preconditioner.vectors)]
    return own == [layout.num_devices * length for length in layout.lengths]


class _Inverse(NamedTuple):
    """P⁻¹ = I + U diag(factors) Uᵀ, up to a multiple; the identity where there is nothing."""

    vectors: Any
    factors: Any


def _inverse(preconditioner: Nystrom, damping: float, dtype: Any) -> _Inverse:
    values = preconditioner.values
    if not len(values):
        return _Inverse(None, None)
    factors = (values[-1] + damping) / (values + damping) - 1
    return _Inverse(preconditioner.vectors, numerics.on_device(factors, dtype))


def _run(
    op: Operator,
    layout: Layout,
    right: Vector,
    inverse: _Inverse,
    method: str,
    rtol: float,
    max_steps: int,
    loop: Loop,
) -> tuple[Vector, int]:
    state: Any = (_start_cg if method == "cg" else _start_minres)(layout, right, inverse)
    done = 0
    while done < max_steps:
        if loop == "scan":
            state = _scan(op, layout, state, inverse, rtol, min(_STEPS, max_steps - done))
        else:
            for _ in range(min(_STEPS, max_steps - done)):
                state = _step_compiled(layout, state, inverse, rtol, matvec(op, layout, _direction(state), loop))
        done += _STEPS
        if isinstance(state, _CG) and bool(state.negative):
            raise InputError(
                f"the matrix is not positive definite: step {int(state.steps) + 1} of CG met a direction of curvature "
                "at most 0; take method='minres', or more damping"
            )
        if int(state.steps) < min(done, max_steps):
            break
    require_finite(state.rz if isinstance(state, _CG) else state.phibar)
    return state.x, int(state.steps)


def _direction(state: Any) -> Vector:
    """What a step takes the product with."""
    if isinstance(state, _CG):
        return state.p
    return jax.tree.map(lambda y: y / _positive(state.beta), state.y)


@partial(jax.jit, static_argnames=("layout", "num_steps"))
def _scan(op: Operator, layout: Layout, state: Any, inverse: _Inverse, rtol: Any, num_steps: int) -> Any:
    def step(state: Any, _: None) -> tuple[Any, None]:
        return _step(layout, state, inverse, rtol, matvec(op, layout, _direction(state))), None

    return jax.lax.scan(step, state, None, num_steps)[0]


def _step(layout: Layout, state: Any, inverse: _Inverse, rtol: Any, product: Vector) -> Any:
    """The next state; the same one where the residual is small enough."""
    step: Callable[..., Any] = _cg_step if isinstance(state, _CG) else _minres_step
    following, goes_on = step(layout, state, inverse, rtol, product)
    return jax.tree.map(lambda new, old: jnp.where(goes_on, new, old), following, state)


_step_compiled = jax.jit(_step, static_argnums=0)


def _start_cg(layout: Layout, right: Vector, inverse: _Inverse) -> _CG:
    z = _applied(layout, inverse, right)
    zeros = jax.tree.map(jnp.zeros_like, right)
    return _CG(zeros, right, z, vectors.dot(right, z), jnp.zeros((), jnp.int32), jnp.zeros((), bool))


def _cg_step(layout: Layout, state: _CG, inverse: _Inverse, rtol: Any, product: Vector) -> tuple[_CG, Array]:
    goes_on = (vectors.plain_norm(state.r) > rtol) & ~state.negative
    curvature = vectors.dot(state.p, product)
    negative = goes_on & ~(curvature > 0)
    alpha = jnp.where(negative, 0, state.rz / _positive(curvature))
    x = jax.tree.map(lambda x, p: x + alpha * p, state.x, state.p)
    r = jax.tree.map(lambda r, a: r - alpha * a, state.r, product)
    z = _applied(layout, inverse, r)
    rz = vectors.dot(r, z)
    p = jax.tree.map(lambda z, p: z + (rz / _positive(state.rz)) * p, z, state.p)
    return _CG(x, r, p, rz, state.steps + ~negative, negative), goes_on


def _start_minres(layout: Layout, right: Vector, inverse: _Inverse) -> _MINRES:
    y = _applied(layout, inverse, right)
    zeros = jax.tree.map(jnp.zeros_like, right)
    beta = jnp.sqrt(vectors.dot(right, y))
    none, one = jnp.zeros((), layout.dtype), jnp.ones((), layout.dtype)
    return _MINRES(
        zeros, right, right, y, zeros, zeros, beta, none, none, none, beta, -one, none, jnp.zeros((), jnp.int32)
    )


def _minres_step(
    layout: Layout, state: _MINRES, inverse: _Inverse, rtol: Any, product: Vector
) -> tuple[_MINRES, Array]:
    """One step of Paige & Saunders (1975), with their names."""
    goes_on = (state.phibar > rtol * jnp.where(state.steps == 0, 0, 1)) & (state.beta > 0)
    v = jax.tree.map(lambda y: y / _positive(state.beta), state.y)
    along = state.beta / _positive(state.old_beta) * (state.steps > 0)
    y = jax.tree.map(lambda a, r: a - along * r, product, state.r1)
    alpha = vectors.dot(v, y)
    y = jax.tree.map(lambda a, r: a - alpha / _positive(state.beta) * r, y, state.r2)
    z = _applied(layout, inverse, y)
    beta = jnp.sqrt(jnp.maximum(vectors.dot(y, z), 0))
    delta = state.cs * state.dbar + state.sn * alpha
    gbar = state.sn * state.dbar - state.cs * alpha
    epsln, dbar = state.sn * beta, -state.cs * beta
    gamma = _positive(jnp.hypot(gbar, beta))
    cs, sn = gbar / gamma, beta / gamma
    w = jax.tree.map(lambda v, a, b: (v - state.epsln * a - delta * b) / gamma, v, state.w, state.w2)
    x = jax.tree.map(lambda x, w: x + cs * state.phibar * w, state.x, w)
    following = _MINRES(
        x,
        state.r2,
        y,
        z,
        state.w2,
        w,
        beta,
        state.beta,
        dbar,
        epsln,
        sn * state.phibar,
        cs,
        sn,
        state.steps + 1,
    )
    return following, goes_on


def _applied(layout: Layout, inverse: _Inverse, vector: Vector) -> Vector:
    """P⁻¹ times a vector."""
    if inverse.vectors is None:
        return vector
    along = inverse.factors * vectors.dots(layout, inverse.vectors, vector)
    return jax.tree.map(lambda v, q: v + jnp.matmul(along, q, precision=numerics.EXACT), vector, inverse.vectors)


def _positive(x: Array) -> Array:
    return jnp.where(x == 0, 1, x)


@jax.jit
def _rotated(rotation: Array, rows: Vector) -> Vector:
    return jax.tree.map(lambda x: jnp.matmul(rotation, x, precision=numerics.EXACT), rows)


@jax.jit
def _plus(a: Vector, b: Vector, factor: Any) -> Vector:
    return jax.tree.map(lambda x, y: x + factor * y, a, b)


@jax.jit
def _minus(a: Vector, b: Vector) -> Vector:
    return jax.tree.map(jnp.subtract, a, b)


_norm = jax.jit(vectors.norm)
