"""Convolutions and products over examples in the form that XLA's CPU compiler runs fast, in loops and out of them.

Differentiation makes convolutions whose dimensions stand in another order than (batch, spatial, features). On CPUs
those are slow, and 20 to 60 times slower still inside a loop; the gradient of a kernel, a convolution with a "kernel"
as large as the image, is slow in any order. `canonical` rewrites a function after it has been differentiated: the
first by transposing, the second as products of matrices of patches. Which of the two forms runs is decided where a
program is lowered: on other platforms a convolution is what it was.

The gradient of a dense layer is a product xᵀ y over the examples. It takes up to 1.4 times as long where the wider of
the two is the one that is transposed, so that `canonical` computes yᵀ x there. Nothing changes but rounding.

Rewriting interprets the function's jaxpr. `HESSFLAT_LINEARIZE=plain` in the environment, or `engine="plain"`, switches
that off, here and in `hessflat.curvature.linearize`.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.utils import compat, hardware
from hessflat.utils.errors import InputError

# What evaluates a derivative: an interpreter of its jaxpr, or JAX as it is.
Engine = Literal["jaxpr", "plain"]

# How a loop over batches or steps runs: compiled into `jax.lax.scan`, or from Python over a compiled body.
Loop = Literal["scan", "python"]

# Rows of a product over examples from which on their order matters more than one transposition of the result.
_FEW_ROWS = 64

# Bytes of patches made at a time: what the caches hold, with the rest of the operands.
_PATCH_BYTES = 1 << 20

_REWRITTEN = {"conv_general_dilated", "dot_general"}

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def engine_in_use(engine: Engine | None = None) -> Engine:
    """`engine`, or where it is None that of the environment variable `HESSFLAT_LINEARIZE`, "jaxpr" without it.

    Raises:
        InputError: an engine that does not exist.
    """
    name = engine or os.environ.get("HESSFLAT_LINEARIZE") or "jaxpr"
    if name not in get_args(Engine):
        what = "engine" if engine else "the environment variable HESSFLAT_LINEARIZE"
        raise InputError(f"{what} must be 'jaxpr' or 'plain', got {name!r}")
    return name  # type: ignore[return-value]


def canonical(function: Callable[..., Any], engine: Engine | None = None) -> Callable[..., Any]:
    """`function`, which must not be differentiated further, with calls inlined and convolutions fast on CPUs.

    With the plain engine it is `function` itself.
    """
    if engine_in_use(engine) == "plain":
        return function

    def rewritten(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return rewritten


def canonical_jaxpr(closed: Any) -> Any:
    """What `canonical` makes of a function, for one that has been traced."""
    return jax.make_jaxpr(lambda *args: _evaluate(closed.jaxpr, closed.consts, args))(*closed.in_avals)


def run_equations(equations: Iterable[Any], values: dict[Any, Any]) -> None:
    """Evaluate `equations` in order, adding their outputs to `values`."""
    for equation in equations:
        outputs = compat.bind(equation, values_of(equation.invars, values))
        values.update(zip(equation.outvars, outputs, strict=True))


def values_of(variables: Iterable[Any], values: Mapping[Any, Any]) -> list[Any]:
    """What stands for `variables`, some of which may be literals."""
    return [v.val if isinstance(v, compat.Literal) else values[v] for v in variables]


def equations_of(equations: Iterable[Any]) -> Iterable[Any]:
    """All of them, and those of inner jaxprs."""
    for equation in equations:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                if isinstance(inner, compat.ClosedJaxpr):
                    yield from equations_of(inner.jaxpr.eqns)
                elif isinstance(inner, compat.Jaxpr):
                    yield from equations_of(inner.eqns)


def is_narrow(dtype: Any) -> bool:
    """Whether a type is floating and of less than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def narrow_types(equations: Iterable[Any], variables: Iterable[Any]) -> list[str]:
    """The narrow types among the results of equations, inner ones included, and among variables."""
    results = (v for equation in equations_of(equations) for v in equation.outvars)
    found = {str(v.aval.dtype) for v in (*variables, *results) if hasattr(v.aval, "dtype") and is_narrow(v.aval.dtype)}
    return sorted(found)


def has_slow(equations: Iterable[Any]) -> bool:
    """Whether a convolution among them, inner jaxprs included, is one that a CPU runs slowly inside loops."""
    plain = (e for e in equations_of(equations) if e.primitive.name == "conv_general_dilated")
    return not all(is_canonical(equation.params) for equation in plain)


def choose_loop(function: Callable[..., Any], *args: Any, platform: str | None = None) -> Loop:
    """`"python"` on a CPU where `function(*args)` holds a convolution that is slow in loops, else `"scan"`.

    Args:
        function: what the body of the loop does.
        *args: trees of arrays, or of shapes.
        platform: where the loop runs; by default where `args` lie.
    """
    if (platform or hardware.platform(args)) != "cpu":
        return "scan"
    return "python" if has_slow(jax.make_jaxpr(function)(*args).jaxpr.eqns) else "scan"


def is_canonical(params: Mapping[str, Any]) -> bool:
    """Whether a convolution with these parameters is already (batch, spatial, features) and ungrouped."""
    numbers = params["dimension_numbers"]
    return _is_ungrouped(params) and numbers == _canonical_numbers(len(numbers.lhs_spec))


def _is_ungrouped(params: Mapping[str, Any]) -> bool:
    return bool(params["feature_group_count"] == params["batch_group_count"] == 1)


def _evaluate(jaxpr: Any, constants: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of `jaxpr`, its calls inlined and its convolutions rewritten."""
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *args], strict=True))
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inputs = [v.val if isinstance(v, compat.Literal) else values[v] for v in equation.invars]
        if name in CALLS:
            outputs = _evaluate(params[CALLS[name]].jaxpr, params[CALLS[name]].consts, inputs)
        elif name == "conv_general_dilated" and _is_ungrouped(params):
            outputs = [_convolution(*inputs, **params)]
        elif name == "dot_general":
            outputs = _product(equation, *inputs)
        elif any(inner.primitive.name in _REWRITTEN for inner in equations_of([equation]) if inner is not equation):
            outputs = compat.bind(equation, inputs, {key: _rewritten_inside(value) for key, value in params.items()})
        else:
            outputs = compat.bind(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return values_of(jaxpr.outvars, values)


def _product(equation: Any, lhs: Array, rhs: Array) -> list[Any]:
    """The outputs of a product; of lhsᵀ rhs over rows, one of them much wider, the narrower one is transposed."""
    params, rows = equation.params, lhs.shape[:-1]
    axes = tuple(range(len(rows)))
    is_over_rows = (
        lhs.ndim == rhs.ndim > 1
        and params["dimension_numbers"] == ((axes, axes), ((), ()))
        and params.get("out_sharding") is None
        and math.prod(rows) >= _FEW_ROWS
    )
    # XLA would merge a transposition of the result into the product, which is the other product again.
    if is_over_rows and 2 * lhs.shape[-1] <= rhs.shape[-1]:
        return [compat.apart().bind(one) for one in compat.bind(equation, [lhs, rhs])]
    if is_over_rows and 2 * rhs.shape[-1] <= lhs.shape[-1]:
        precision = params["precision"]
        swapped = {"precision": precision[::-1] if isinstance(precision, tuple) else precision}
        return [compat.apart().bind(one).T for one in compat.bind(equation, [rhs, lhs], params | swapped)]
    return compat.bind(equation, [lhs, rhs])


def _rewritten_inside(value: Any) -> Any:
    """Bodies of loops and branches, rewritten like the rest."""
    if type(value) is tuple:
        return tuple(map(_rewritten_inside, value))
    if not isinstance(value, compat.ClosedJaxpr):
        return value
    return jax.make_jaxpr(lambda *args: _evaluate(value.jaxpr, value.consts, args))(*value.in_avals)


def _convolve(
    lhs: Array,
    rhs: Array,
    *,
    dimension_numbers: Any,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    precision: Any,
    preferred_element_type: Any,
    **_: Any,
) -> Array:
    spec = dimension_numbers
    images = jnp.transpose(lhs, (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1]))
    kernel = jnp.transpose(rhs, (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]))
    size = [
        ((n - 1) * dilation + 1 + sum(pad) - (k - 1) * stretch - 1) // stride + 1
        for n, k, dilation, pad, stretch, stride in zip(
            images.shape[1:-1], kernel.shape[:-2], lhs_dilation, padding, rhs_dilation, window_strides, strict=True
        )
    ]
    if 0 < math.prod(size) < math.prod(kernel.shape[:-2]):
        edges = [(*pad, dilation - 1) for pad, dilation in zip(padding, lhs_dilation, strict=True)]
        result = _by_patches(
            images, kernel, size, edges, window_strides, rhs_dilation, precision, preferred_element_type
        )
    else:
        result = jax.lax.conv_general_dilated(
            images,
            kernel,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers=_canonical_numbers(lhs.ndim),
            precision=precision,
            preferred_element_type=preferred_element_type,
        )
    order = (spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1])
    return jnp.transpose(result, [order.index(axis) for axis in range(lhs.ndim)])


_convolution = compat.by_platform("convolution", cpu=_convolve, default=jax.lax.conv_general_dilated)


def _canonical_numbers(rank: int) -> jax.lax.ConvDimensionNumbers:
    last = (0, rank - 1, *range(1, rank - 1))
    return jax.lax.ConvDimensionNumbers(last, (rank - 1, rank - 2, *range(rank - 2)), last)


def _by_patches(
    images: Array,
    kernel: Array,
    size: Sequence[int],
    edges: Sequence[tuple[int, int, int]],
    strides: Sequence[int],
    dilation: Sequence[int],
    precision: Any,
    dtype: Any,
) -> Array:
    """A convolution with few positions and a large kernel [*k, F, O], over `images` [B, *n, F]: [B, *size, O].

    In the gradient of a kernel F counts the examples, B the input features: each position of the output is one matrix
    product over examples and pixels. Patches are made for a few examples at a time.
    """
    examples = jnp.moveaxis(jnp.moveaxis(images, -1, 0), 1, -1)  # [F, *n, B]
    cotangents = jnp.moveaxis(kernel, -2, 0)  # [F, *k, O]
    count, extent, width = kernel.shape[-2], kernel.shape[:-2], images.shape[0]
    examples = jax.lax.pad(examples, jnp.zeros((), images.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    positions = list(itertools.product(*map(range, size)))
    together = _divisor(count, _PATCH_BYTES // (len(positions) * width * math.prod(extent) * images.dtype.itemsize))

    def patches(group: Array) -> Array:
        starts = [[p * stride for p, stride in zip(position, strides, strict=True)] for position in positions]
        pieces = [
            jax.lax.slice(
                group,
                (0, *start, 0),
                (len(group), *(s + (k - 1) * d + 1 for s, k, d in zip(start, extent, dilation, strict=True)), width),
                (1, *dilation, 1),
            )
            for start in starts
        ]
        return jnp.concatenate(pieces, axis=-1).reshape(-1, len(positions) * width)

    def product(examples: Array, cotangents: Array) -> Array:
        rows, columns = patches(examples), cotangents.reshape(-1, kernel.shape[-1])
        return jax.lax.dot_general(
            rows, columns, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=dtype
        )

    if together == count:
        total = product(examples, cotangents)
    else:
        groups = [x.reshape(count // together, together, *x.shape[1:]) for x in (examples, cotangents)]
        zero = jnp.zeros((len(positions) * width, kernel.shape[-1]), dtype or images.dtype)
        total, _ = jax.lax.scan(lambda total, group: (total + product(*group), None), zero, groups)
    return jnp.moveaxis(total.reshape(*size, width, -1), -2, 0)


def _divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` that is at most `limit`, and at least 1."""
    return max(d for d in range(1, max(1, min(limit, count)) + 1) if count % d == 0)
