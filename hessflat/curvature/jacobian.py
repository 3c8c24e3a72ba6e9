"""The input-output Jacobian of a network, per example.

The module is long because it holds both methods: all rows of each Jacobian, and an iteration where there are too many.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import linearised
from hessflat.curvature.operators.streams import Stream
from hessflat.curvature.operators.terms import user_function
from hessflat.curvature.records import plus_minus, record
from hessflat.utils import hardware
from hessflat.utils.errors import InputError
from hessflat.utils.widening import WideFunction, to_float32

JacobianMethod = Literal["auto", "exact", "iterative"]

# Outputs up to which all rows cost less than iterating, which takes 10 to 30 steps for any C. On a CPU the costs are
# equal between 20 and 60 outputs, for a dense network on 28 × 28 inputs and for a convolutional one on 32 × 32 × 3.
_FEW_OUTPUTS = 40

# Relative rounding of a norm in units of ε: that of the network's derivative, of the sums over inputs and of the
# eigenvalue. Under a softmax it grows by the range of the outputs, whose rounding its exponential multiplies.
_ROUNDING = 16

# Golub-Kahan steps between two checks of the residuals, and their maximum.
_BLOCK = 2
_MAX_STEPS = 100


@record(
    lambda self: f"spectral norms of the Jacobians of {len(self.values):,} examples, {self.method}",
    {
        "mean": lambda self: plus_minus(self.mean, self.bounds.mean()),
        "max": lambda self: plus_minus(self.max, self.bounds[self.values.argmax()]),
        "min": lambda self: plus_minus(self.values.min(), self.bounds[self.values.argmin()]),
    },
)
class JacobianNorms(NamedTuple):
    """The spectral norms ‖∂f(w, x_i)/∂x_i‖₂ of the examples."""

    values: np.ndarray  # [N]
    # [N] distance to some singular value, at most: the rounding, by a rule that is given below, or a larger residual
    bounds: np.ndarray
    method: str  # "exact" or "iterative"
    num_products: int  # vector-Jacobian and Jacobian-vector products, for each example
    seconds: float
    precision: str
    frobenius: np.ndarray | None = None  # [N] ‖∂f(w, x_i)/∂x_i‖_F; None by the iterative method

    @property
    def max(self) -> float:
        """The maximum over the examples."""
        return float(self.values.max())

    @property
    def mean(self) -> float:
        """The mean over the examples."""
        return float(self.values.mean())


def jacobian_norms(
    predict: Callable[..., Any],
    params: Any,
    inputs: Array | Stream,
    softmax: bool = False,
    batch_size: int | None = None,
    method: JacobianMethod = "auto",
    rtol: float = 1e-4,
    state: Any = None,
) -> JacobianNorms:
    """The spectral norm ‖∂f(w, x_i)/∂x_i‖₂ for every example (MacDonald et al. 2023).

    The exact method computes the C rows of J by vector-Jacobian products; the norm is the square root of the largest
    eigenvalue of the C × C matrix J Jᵀ, divided by its largest entry first. Where single precision finds no eigenvalue
    between the largest entry of the diagonal and the trace, as for some saturated examples, double precision does.

    The rounding of a norm is taken to be 16 ε of it, under a softmax times 1 + max f − min f, the range of the outputs
    of the example. Perceptrons on 45,000 images of MNIST, at losses down to 1e-6, stay below that. A network whose own
    derivative loses more digits has larger errors.

    The iterative method is Golub-Kahan bidiagonalisation, with one vector-Jacobian and one Jacobian-vector product a
    step, and re-orthogonalisation of the vectors in output space (Simon and Zha 2000). It starts from a fixed random
    vector. It stops when the residual of every example in a batch, over √2, is at most `rtol` times its norm, or after
    100 steps. Some singular value lies within that bound. The values are lower bounds with an error of second order, so
    they are much more accurate than their bounds.

    Args:
        predict: `predict(params, inputs [n, ...])` -> outputs [n, C], or [n, T, V] for T tokens, which give C = T V
            outputs and a softmax each. Every example passes alone, so batch norm must be in eval mode.
        params: pytree of arrays.
        inputs: [N, ...] floating, or a `Stream` whose batches are such arrays.
        softmax: take the Jacobian of the softmax of the outputs instead of the outputs.
        batch_size: the number of examples computed side by side; None takes all.
        method: "exact", "iterative", or "auto": exact up to 40 outputs, iterative above.
        rtol: the relative tolerance of the iterative method.
        state: a third argument of `predict`, such as running averages.

    Raises:
        InputError: inputs that are not floating or not finite, outputs without an axis after the examples or whose
            derivatives are not finite, or unknown options.
    """
    began = time.perf_counter()
    softmax, (size, rtol) = numerics.require_flag("softmax", softmax), _options(batch_size, method, rtol)
    if isinstance(inputs, Stream):
        own = partial(jacobian_norms, softmax=softmax, batch_size=batch_size, method=method, rtol=rtol, state=state)
        return _over_stream(lambda x: own(predict, params, x), inputs, began)
    if getattr(inputs, "shape", ())[:1] == (0,):
        raise InputError("inputs must hold at least one example, got 0")
    params, x = numerics.as_arrays("params", params), numerics.as_arrays("inputs", inputs)
    numerics.require_values(params, x, jnp.zeros(()))
    extra = numerics.as_state(state, predict)
    predict = user_function(predict)
    outputs = _num_outputs(predict, params, x, extra)
    if numerics.is_narrow_program(predict, params, x, *extra):
        predict = WideFunction(predict)
        params, x, extra = to_float32((params, x, extra))
    size = size or len(x)
    if method == "auto":
        method = "exact" if outputs <= _FEW_OUTPUTS else "iterative"
    # The loop over batches is driven from Python: there are few, and one compiled batch serves them all.
    with numerics.matmul_precision():
        place, pieces, order = _pieces(x, size)
        norms: Callable[..., Any] = partial(_exact, place) if method == "exact" else partial(_iterate, rtol, place)
        parts = [norms(predict, softmax, outputs, params, piece, extra) for piece in pieces]
    values, bounds = (np.concatenate([hardware.on_host(part[i]) for part in parts])[order] for i in (0, 1))
    frobenius = np.concatenate([hardware.on_host(part[3]) for part in parts])[order] if method == "exact" else None
    if not np.isfinite(values).all():
        raise InputError("the Jacobian is not finite; look at the outputs at these parameters")
    products = max(part[2] for part in parts)
    cost = products, time.perf_counter() - began, numerics.precision_name(x)
    return JacobianNorms(values, bounds, method, *cost, frobenius)


def _pieces(x: Array, size: int) -> tuple[NamedSharding | None, list[Array], np.ndarray]:
    """Where the examples of a piece go, the pieces, and the places [N] of the examples among those of all pieces.

    Of examples that are spread over devices a piece has as many of each device, so that none moves. Those that are
    whole on every device are shared out piece by piece.
    """
    number, mesh = len(x), hardware.mesh_of("inputs", [x])
    if mesh is None:
        return None, [x[i : i + size] for i in range(0, number, size)], np.arange(number)
    sharding: Any = x.sharding
    axes = sharding.spec[0] if len(sharding.spec) else None
    if axes is None:
        place = NamedSharding(mesh, PartitionSpec(tuple(mesh.axis_names)))
        return place, [x[i : i + size] for i in range(0, number, size)], np.arange(number)
    place = NamedSharding(mesh, PartitionSpec(axes))
    devices = number // place.shard_shape((number,))[0]
    own, step = number // devices, max(size // devices, 1)
    cuts = [(i, min(step, own - i)) for i in range(0, own, step)]
    taken = [_of_each_device(x, place, devices, start, count) for start, count in cuts]
    numbers = np.arange(number).reshape(devices, own)
    order = np.argsort(np.concatenate([numbers[:, start : start + count].ravel() for start, count in cuts]))
    return place, taken, order


@partial(jax.jit, static_argnums=(1, 2, 4))
def _of_each_device(x: Array, place: NamedSharding, devices: int, start: Array, count: int) -> Array:
    by_device = x.reshape(devices, -1, *x.shape[1:])
    piece = jax.lax.dynamic_slice_in_dim(by_device, start, count, 1).reshape(-1, *x.shape[1:])
    result: Array = jax.lax.with_sharding_constraint(piece, place)
    return result


def _over_stream(norms: Callable[[Array], JacobianNorms], inputs: Stream, began: float) -> JacobianNorms:
    each = []
    with inputs.parts() as parts:
        for part in parts:
            if not isinstance(part.arrays, jax.Array):
                raise InputError(
                    "inputs must be a stream of single arrays, got trees; make one of them, as by "
                    "cv.Stream(lambda: (x for x, y in loader))"
                )
            each.append(norms(part.arrays))
    values, bounds = (np.concatenate([of_batch[i] for of_batch in each]) for i in (0, 1))
    products = max(of_batch.num_products for of_batch in each)
    norms_of_all = [one.frobenius for one in each if one.frobenius is not None]
    frobenius = np.concatenate(norms_of_all) if len(norms_of_all) == len(each) else None
    cost = products, time.perf_counter() - began, each[0].precision
    return JacobianNorms(values, bounds, each[0].method, *cost, frobenius)


def _softmax_product(outputs: Array, vectors: Array) -> Array:
    """(diag p − p pᵀ) v, symmetric, along the last axis.

    Differences from the most likely class come first: where p is saturated, the derivative of `jax.nn.softmax` takes
    1 − p, which rounding has made zero.
    """
    first = jnp.argmax(outputs, axis=-1, keepdims=True)
    probabilities = jax.nn.softmax(outputs)
    relative = vectors - jnp.take_along_axis(vectors, jnp.broadcast_to(first, (*vectors.shape[:-1], 1)), axis=-1)
    return probabilities * (relative - jnp.sum(probabilities * relative, axis=-1, keepdims=True))


def _exact(
    place: NamedSharding | None,
    predict: Callable[..., Any],
    softmax: bool,
    outputs: int,
    params: Any,
    inputs: Array,
    extra: tuple[Any, ...],
) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    """Norms [n], their rounding [n], the number of products for each, and Frobenius norms [n]."""
    on_devices = _exact_norms(predict, softmax, params, inputs, extra, place)
    traces = hardware.on_host(jnp.trace(on_devices[2], axis1=1, axis2=2))
    scales, eigenvalues, grams, ranges = map(hardware.on_host, on_devices)
    if place is not None:
        eigenvalues = _largest_on_host(grams)
    values = scales * np.sqrt(np.maximum(_trusted(eigenvalues, grams), 0))
    frobenius = scales * np.sqrt(traces)
    return values, _rounding(inputs.dtype, ranges) * values, outputs, frobenius


def _rounding(dtype: Any, ranges: Any) -> Any:
    """The relative rounding of norms [n], for outputs with `ranges` [n] under a softmax."""
    return _ROUNDING * float(jnp.finfo(dtype).eps) * (1 + ranges)


def _range(softmax: bool, outputs: Array) -> Array:
    """What the softmax multiplies the rounding of `outputs` by: their largest range along the last axis."""
    return jnp.ptp(outputs, axis=-1).max() if softmax else jnp.zeros((), outputs.dtype)


@partial(jax.jit, static_argnums=(0, 1, 5))
def _exact_norms(
    predict: Callable[..., Any],
    softmax: bool,
    params: Any,
    inputs: Array,
    extra: tuple[Any, ...],
    place: NamedSharding | None,
) -> tuple[Array, Array, Array, Array]:
    """The largest entry of each J [n], and of J over it the largest eigenvalue of J Jᵀ [n] and J Jᵀ [n, C, C].

    Last come the ranges of the outputs [n]. On several devices the eigenvalues are left out: on a CPU, LAPACK waits for
    threads that the programs of the other devices hold.
    """
    if place is not None:
        inputs = jax.lax.with_sharding_constraint(inputs, place)

    def scaled(x: Array) -> tuple[Array, Array, Array, Array]:
        outputs, pull = jax.vjp(lambda x: predict(params, x[None], *extra)[0], x)
        unit = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)
        (rows,) = numerics.mapped(pull)(unit)
        columns = rows.reshape(outputs.size, -1).T
        if softmax:
            columns = _softmax_product(outputs[None], columns.reshape(-1, *outputs.shape)).reshape(columns.shape)
        # A saturated softmax would underflow in squares.
        largest = jnp.abs(columns).max()
        columns = columns / jnp.where(largest > 0, largest, 1)
        gram = columns.T @ columns
        eigenvalue = _largest_eigenvalue(gram) if place is None else jnp.zeros((), gram.dtype)
        return largest, eigenvalue, gram, _range(softmax, outputs)

    result: tuple[Array, Array, Array, Array] = numerics.mapped(scaled)(inputs)
    return result


def _largest_on_host(grams: np.ndarray) -> np.ndarray:
    """`_largest_eigenvalue` of each of `grams` [n, C, C], by NumPy."""
    sizes = np.abs(grams)
    negligible = np.finfo(grams.dtype).eps / grams.shape[-1] * sizes.max((1, 2), keepdims=True)
    cleared = np.where(np.isfinite(grams) & (sizes >= negligible), grams, 0)
    try:
        return np.linalg.eigvalsh(cleared)[:, -1]
    except np.linalg.LinAlgError:  # of one of them; which is told by double precision
        return np.full(len(grams), np.nan, grams.dtype)


def _trusted(eigenvalues: np.ndarray, grams: np.ndarray) -> np.ndarray:
    """Largest eigenvalues [n] of `grams` [n, C, C]; those that cannot be are computed in double precision."""
    diagonal = np.diagonal(grams, axis1=1, axis2=2).astype(np.float64)
    slack = 100 * float(jnp.finfo(grams.dtype).eps)
    inside = (eigenvalues >= (1 - slack) * diagonal.max(1)) & (eigenvalues <= (1 + slack) * diagonal.sum(1))
    doubtful = np.flatnonzero(~inside & np.isfinite(diagonal).all(1))
    result = eigenvalues.copy()
    for i in doubtful:
        gram = grams[i].astype(np.float64)
        result[i] = np.linalg.eigvalsh(gram)[-1] if np.isfinite(gram).all() else np.nan
    return result


def _largest_eigenvalue(gram: Array) -> Array:
    """Of a positive semi-definite matrix [C, C], to rounding; not a number where LAPACK gives up.

    It does, in one of 10⁵ examples of a saturated softmax, on matrices whose entries span more than single precision
    does. Entries that could not change the result beyond rounding are zero before it sees them.
    """
    negligible = jnp.finfo(gram.dtype).eps / len(gram) * jnp.abs(gram).max()
    result: Array = jnp.linalg.eigvalsh(jnp.where(jnp.abs(gram) < negligible, 0, gram))[-1]
    return result


class _Bidiagonal(NamedTuple):
    """Jᵀ U = V Bᵀ and J V = U B + β u eᵀ, for n examples side by side; B has α on and β below its diagonal."""

    basis: Array  # [n, m, C] U
    left: Array  # [n, C] the next u; zero once an example's space is exhausted
    right: Array  # [n, ...] the last v
    alphas: Array  # [n, m]
    betas: Array  # [n, m]
    step: Array  # []


def _iterate(
    rtol: float,
    place: NamedSharding | None,
    predict: Callable[..., Any],
    softmax: bool,
    outputs: int,
    params: Any,
    inputs: Array,
    extra: tuple[Any, ...],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Norms [n], bounds [n] and the number of products for each."""
    eps = float(jnp.finfo(inputs.dtype).eps)
    limit = min(outputs, _MAX_STEPS)
    state = _begin(inputs, outputs, limit, place)
    for steps in range(min(_BLOCK, limit), limit + _BLOCK, _BLOCK):
        state = _advance(predict, softmax, params, inputs, extra, state, min(_BLOCK, limit - int(state.step)), place)
        values, residuals = _largest(hardware.on_host(state.alphas), hardware.on_host(state.betas), int(state.step))
        bounds = residuals / np.sqrt(2)
        if steps >= limit or not (bounds > max(rtol, eps) * values).any():
            break
    ranges = _ranges(predict, params, inputs, extra) if softmax else 0.0
    return values, np.maximum(bounds, _rounding(inputs.dtype, hardware.on_host(ranges)) * values), 2 * int(state.step)


@partial(jax.jit, static_argnums=0)
def _ranges(predict: Callable[..., Any], params: Any, inputs: Array, extra: tuple[Any, ...]) -> Array:
    """The ranges of the outputs [n] of each example, as in `_exact_norms`."""
    result: Array = jax.vmap(partial(_range, True))(predict(params, inputs, *extra))
    return result


@partial(jax.jit, static_argnums=(1, 2, 3))
def _begin(inputs: Array, outputs: int, limit: int, place: NamedSharding | None) -> _Bidiagonal:
    count, dtype = len(inputs), inputs.dtype
    start = jax.random.normal(jax.random.key(0), (outputs,), dtype)
    state = _Bidiagonal(
        basis=jnp.zeros((count, limit, outputs), dtype),
        left=jnp.broadcast_to((start / jnp.linalg.norm(start))[None], (count, outputs)),
        right=jnp.zeros_like(inputs),
        alphas=jnp.zeros((count, limit), dtype),
        betas=jnp.zeros((count, limit), dtype),
        step=jnp.zeros((), jnp.int32),
    )
    return _shared(state, place)


# Steps are unrolled: XLA's CPU compiler runs the gradients of convolutions slowly inside loops.
@partial(jax.jit, static_argnums=(0, 1, 6, 7), donate_argnums=5)
def _advance(
    predict: Callable[..., Any],
    softmax: bool,
    params: Any,
    inputs: Array,
    extra: tuple[Any, ...],
    state: _Bidiagonal,
    num_steps: int,
    place: NamedSharding | None,
) -> _Bidiagonal:
    if place is not None:
        inputs = jax.lax.with_sharding_constraint(inputs, place)
    outputs, push, pull = linearised(numerics.mapped(lambda x: predict(params, x[None], *extra)[0]), inputs)

    def soften(vectors: Array) -> Array:
        return _softmax_product(outputs, vectors) if softmax else vectors

    for _ in range(num_steps):
        state = _step(
            lambda v: soften(push(v)).reshape(len(inputs), -1),
            lambda u: pull(soften(u.reshape(outputs.shape))),
            state,
        )
    return _shared(state, place)


def _shared(state: _Bidiagonal, place: NamedSharding | None) -> _Bidiagonal:
    """The state with its examples where `place` has them if they divide, and else whole on every device."""
    if place is None:
        return state
    whole = NamedSharding(place.mesh, PartitionSpec())
    where = whole if len(state.left) % place.mesh.size else place
    places: Any = jax.tree.map(lambda _: where, state)
    result: _Bidiagonal = jax.lax.with_sharding_constraint(state, places._replace(step=whole))
    return result


def _step(push: Callable[..., Any], pull: Callable[..., Any], state: _Bidiagonal) -> _Bidiagonal:
    i = state.step
    basis = state.basis.at[:, i].set(state.left)
    scale = jnp.maximum(state.alphas.max(axis=1), state.betas.max(axis=1))
    before = jnp.where(i > 0, jnp.take(state.betas, jnp.maximum(i - 1, 0), axis=1), 0)
    alpha, right = _normalised(pull(state.left) - _times(before, state.right), scale)
    rest = push(right) - _times(alpha, state.left)
    for _ in range(2):
        rest = rest - jnp.einsum("nm,nmc->nc", jnp.einsum("nmc,nc->nm", basis, rest), basis)
    beta, left = _normalised(rest, jnp.maximum(scale, alpha))
    return _Bidiagonal(basis, left, right, state.alphas.at[:, i].set(alpha), state.betas.at[:, i].set(beta), i + 1)


def _times(factors: Array, x: Array) -> Array:
    return factors.reshape(-1, *[1] * (x.ndim - 1)) * x


def _normalised(x: Array, scale: Array) -> tuple[Array, Array]:
    """Lengths [n] and unit vectors; both zero where a length is within rounding of `scale` [n]."""
    rows = x.reshape(len(x), -1)
    largest = jnp.abs(rows).max(axis=1)
    # Scaled first, so that a saturated softmax does not underflow.
    rows = rows / jnp.where(largest > 0, largest, 1)[:, None]
    length = jnp.linalg.norm(rows, axis=1)
    # Written so that values that are not finite stay so.
    alive = ~(largest * length <= 20 * jnp.finfo(x.dtype).eps * scale)
    unit = jnp.where(alive[:, None], rows / jnp.where(length > 0, length, 1)[:, None], 0)
    return jnp.where(alive, largest * length, 0), unit.reshape(x.shape)


def _largest(alphas: np.ndarray, betas: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest singular value of each B, and the residual |β q_last| of its vectors: [n] and [n]."""
    diagonal, below = alphas[:, :steps].astype(np.float64), betas[:, :steps].astype(np.float64)
    matrix = np.zeros((len(diagonal), steps, steps))
    index = np.arange(steps)
    matrix[:, index, index] = diagonal
    matrix[:, index[1:], index[:-1]] = below[:, :-1]
    if not np.isfinite(matrix).all():
        return np.full(len(diagonal), np.nan), np.full(len(diagonal), np.nan)
    _, values, right = np.linalg.svd(matrix)
    return values[:, 0], np.abs(below[:, -1] * right[:, 0, -1])


def _num_outputs(predict: Callable[..., Any], params: Any, inputs: Array, extra: tuple[Any, ...]) -> int:
    """C."""
    numerics.require_floating("inputs", inputs, "give what an embedding makes of tokens, and the network above it")
    outputs = numerics.output_shapes("predict(params, inputs)", predict, params, inputs, *extra)
    shape: Any = getattr(outputs, "shape", ())
    if len(shape) < 2 or shape[0] != len(inputs):
        raise InputError(f"predict(params, inputs) must have shape ({len(inputs)}, C), got {shape}")
    return math.prod(shape[1:])


def _options(batch_size: int | None, method: str, rtol: float) -> tuple[int | None, float]:
    """The batch size and the tolerance, once all options are known to be right."""
    known = ("auto", "exact", "iterative")
    if batch_size is not None:
        batch_size = numerics.require_count("batch_size", batch_size)
    numerics.require_option("method", method, known)
    return batch_size, numerics.require_number("rtol", rtol, above=0)
