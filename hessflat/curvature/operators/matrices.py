"""The curvature matrices: the product of each, composed of jvp and vjp, and the operators made of them.

In all of them `params` is a pytree of floating arrays with P numbers in all, and `data` is a pytree of arrays [N, ...],
`Batches(arrays, batch_size)`, or a `Stream` of batches. With `state`, any pytree of arrays, the functions take it as a
third argument, such as running statistics of batch norm. It is a constant of the operator. Shapes
(`jax.ShapeDtypeStruct`, with shardings or without) may stand in place of arrays: such an operator is for `plan` alone.

The module is long because each matrix says in full what it is the mean of.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, trees
from hessflat.curvature.operators.operator import Operator, value_over
from hessflat.curvature.operators.streams import why_not_finite
from hessflat.curvature.operators.terms import (
    Batches,
    Term,
    as_batches,
    over,
    shares,
    user_function,
)
from hessflat.curvature.operators.weights import Returns, Weighted, example_with_weight
from hessflat.utils import compat, hardware
from hessflat.utils.convolution import equations_of
from hessflat.utils.errors import InputError

# Flax variables given whole, or an NNX state that was not split.
_STATISTICS = (
    "params holds batch_stats, running statistics that no optimiser moves; give variables['params'] as params and the "
    "statistics as state (with NNX, nnx.split(model, nnx.Param, ...) takes them apart)"
)

# Relative to the largest loss of a batch: sums of losses in single precision are closer, whatever their order.
_MEAN_TOLERANCE = 1e-4


def hessian(loss: Callable[..., Any], params: Any, data: Any, state: Any = None) -> Operator:
    """The Hessian ∇²L of the example-weighted mean L of `loss` over `data`.

    Products are forward over reverse: the derivative of the gradient along the vector (Pearlmutter 1994).

    Args:
        loss: `loss(params, batch)` -> the mean loss of the batch, a scalar. Use one function object: a new one (a
            lambda made in a loop) is compiled anew.
        params: pytree of floating arrays, or a flat array [P], at which the curvature is taken.
        data: the examples of the mean: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        state: a third argument of `loss`, if given.

    Raises:
        InputError: parameters or data that are empty, not arrays or not finite; a loss that is not a scalar.
    """
    params, batches, extra = checked(params, data, state, loss)
    loss = user_function(loss)
    batch = batches.like.unweighted
    _require_scalar("loss(params, batch)", loss, params, batch, *extra)
    narrow = numerics.is_narrow_program(loss, params, batch, *extra)
    return single_term(hessian_product, (loss,), ("mean",), params, batches, extra, narrow)


def gauss_newton(
    predict: Callable[..., Any], criterion: Callable[..., Any], params: Any, data: Any, state: Any = None
) -> Operator:
    """The generalised Gauss-Newton matrix G = (1/N) Σ J_iᵀ (∇²_f ℓ_i) J_i, with J_i = ∂f(w, x_i)/∂w.

    It is the first term of the Hessian in Sagun et al. (2017), eq. 4.

    Args:
        predict: `predict(params, batch)` -> outputs f, an array or a tree of arrays [n, ...].
        criterion: `criterion(outputs, batch)` -> the mean loss of the batch, a scalar.
        params: pytree of floating arrays, or a flat array [P], at which the curvature is taken.
        data: the examples of the mean: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        state: a third argument of `predict` and `criterion`, if given.

    Raises:
        InputError: as `hessian`; outputs that are not floating point.
    """
    return operator_on_outputs(gauss_newton_product, predict, criterion, params, data, state)


def residual(
    predict: Callable[..., Any], criterion: Callable[..., Any], params: Any, data: Any, state: Any = None
) -> Operator:
    """R = H − G = (1/N) Σ_i Σ_c ∂ℓ_i/∂f_c ∇²f_c(w, x_i), the second term of Sagun et al. (2017), eq. 4.

    It is computed as the Hessian of f along the gradient of the loss, which is held fixed. A difference of H and G
    would cancel near an interpolating minimum.

    Args:
        predict: as in `gauss_newton`.
        criterion: as in `gauss_newton`.
        params: pytree of floating arrays, or a flat array [P].
        data: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        state: as in `gauss_newton`.

    Raises:
        InputError: as `gauss_newton`.
    """
    return operator_on_outputs(residual_product, predict, criterion, params, data, state)


def from_matvec(matvec: Callable[..., Any], params: Any, *arrays: Any) -> Operator:
    """The operator of a given symmetric linear map: `matvec(vector, *arrays)` -> a tree like `vector`.

    Args:
        matvec: linear and symmetric in a tree like `params`.
        params: pytree of floating arrays (their values do not matter), or a flat array [P].
        *arrays: the arrays of the map. They are arguments, so they are no constants of the compiled program.

    Raises:
        InputError: a product that is not a tree like `params`, or not real floating point.
    """
    params = numerics.as_arrays("params", params, shapes=True)
    numerics.require_floating("params", params)
    arrays = jax.tree.map(lambda x: x if numerics.any_shapes(x) else numerics.on_device(x), arrays)
    matvec = user_function(matvec)
    result = numerics.output_shapes("matvec(vector, *arrays)", matvec, params, *arrays)
    if jax.tree.map(jnp.shape, result) != jax.tree.map(jnp.shape, params):
        raise InputError("matvec(vector, *arrays) must have the structure and shapes of params")
    numerics.require_floating("matvec(vector, *arrays)", result, "multiply in floating point")
    # There are no examples: a single one represents the map, whose arrays are constants.
    narrow = numerics.is_narrow_program(matvec, params, *arrays)
    return single_term(matvec_product, (KnownMap(matvec),), ("each",), params, Batches(jnp.zeros(1)), (arrays,), narrow)


def hessian_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """∇²L v as the derivative of ∇L along v."""
    (loss,) = functions
    one_way = _holds(compat.CUSTOM_VJP, jax.make_jaxpr(loss)(params, batch))
    return _along(one_way, lambda p: jax.grad(loss)(p, batch), params)(vector)


def gauss_newton_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """Jᵀ (∇²_f ℓ) J v: one forward pass serves J and Jᵀ."""
    predict, criterion = functions
    outputs, push, pull = linearised(lambda p: predict(p, batch), params)
    one_way = _holds(compat.CUSTOM_VJP, jax.make_jaxpr(criterion)(outputs, batch))
    return pull(_along(one_way, lambda f: jax.grad(criterion)(f, batch), outputs)(push(vector)))


def residual_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """The derivative along v of Jᵀ g, with g = ∇_f ℓ held fixed."""
    predict, criterion = functions

    def pulled(p: Any) -> Any:
        outputs, pull = jax.vjp(lambda q: predict(q, batch), p)
        return pull(jax.lax.stop_gradient(jax.grad(criterion)(outputs, batch)))[0]

    one_way = _holds(compat.CUSTOM_VJP, jax.make_jaxpr(predict)(params, batch))
    return _along(one_way, pulled, params)(vector)


def linearised(function: Callable[..., Any], x: Any) -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    """`function(x)` with the products of its Jacobian: J v and Jᵀ u.

    A function that holds one of `jax.custom_vjp` has no forward mode. Its J v is the gradient in u of v·Jᵀ u, by
    reverse mode alone.
    """
    if not _holds(compat.CUSTOM_VJP, jax.make_jaxpr(function)(x)):
        outputs, push = jax.linearize(function, x)
        transposed = jax.linear_transpose(push, x)
        return outputs, push, lambda u: transposed(u)[0]
    outputs, pull = jax.vjp(function, x)
    _, push_again = jax.vjp(lambda u: pull(u)[0], jax.tree.map(jnp.zeros_like, outputs))
    return outputs, lambda v: push_again(v)[0], lambda u: pull(u)[0]


def _along(one_way: bool, gradient: Callable[..., Any], x: Any) -> Callable[[Any], Any]:
    """The derivative along a vector of the gradient of a function, which is `one_way` if it holds `jax.custom_vjp`.

    Where the backward pass holds another such function, it is by reverse mode: the transpose of a second derivative is
    itself.
    """
    along = lambda v: jax.jvp(gradient, (x,), (v,))[1]  # noqa: E731
    if one_way and _holds(compat.REVERSE_ONLY, jax.make_jaxpr(along)(x)):
        return lambda v: jax.vjp(gradient, x)[1](v)[0]
    return along


def _holds(primitives: tuple[str, ...], traced: Any) -> bool:
    """Whether any of `primitives` is in a jaxpr."""
    return any(equation.primitive.name in primitives for equation in equations_of(traced.jaxpr.eqns))


def matvec_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """The given map, restricted to the leaves of the vectors."""
    (known,) = functions
    return trees.select(known(vector, batch), params)


@dataclasses.dataclass(frozen=True)
class KnownMap:
    """`matvec` with its arrays as the state; equal where `matvec` is the same."""

    matvec: Callable[..., Any]

    def __call__(self, vector: Any, batch: Any, arrays: Any) -> Any:
        return self.matvec(vector, *arrays)


def operator_on_outputs(
    product: Callable[..., Any],
    predict: Callable[..., Any],
    criterion: Callable[..., Any],
    params: Any,
    data: Any,
    state: Any,
    returns: Returns = "mean",
) -> Operator:
    params, batches, extra = checked(params, data, state, predict)
    predict, criterion = user_function(predict), user_function(criterion)
    like = batches.like
    outputs = numerics.output_shapes("predict(params, batch)", predict, params, like.unweighted, *extra)
    numerics.require_floating("predict(params, batch)", outputs)
    batch = like.unweighted if returns == "mean" else like.arrays
    _require_scalar("criterion(outputs, batch)", criterion, outputs, batch, *extra)
    narrow = numerics.is_narrow_program(predict, params, like.unweighted, *extra)
    narrow |= numerics.is_narrow_program(criterion, outputs, batch, *extra)
    return single_term(product, (predict, criterion), ("each", returns), params, batches, extra, narrow)


def checked(params: Any, data: Any, state: Any, function: Callable[..., Any]) -> tuple[Any, Batches, tuple[Any, ...]]:
    """Parameters, batches, and the third argument of `function`, if there is one, as arrays.

    Leaves that cannot be differentiated are refused with the first product: `restrict` may leave them out before.
    """
    params = numerics.as_arrays("params", params, shapes=True)
    is_statistic = lambda x: type(x).__name__ == "BatchStat"  # noqa: E731
    if (isinstance(params, Mapping) and "batch_stats" in params) or any(
        map(is_statistic, jax.tree.leaves(params, is_leaf=is_statistic))
    ):
        raise InputError(_STATISTICS)
    if not any(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(params)):
        numerics.require_floating("params", params, "integers are no parameters: put them into state")
    return params, as_batches(data), () if state is None else numerics.as_state(state, function)


def _require_scalar(what: str, function: Callable[..., Any], *args: Any) -> None:
    result = numerics.output_shapes(what, function, *args)
    shape = getattr(result, "shape", None)
    if shape != ():
        came = "a tree" if shape is None else f"shape {shape}"
        raise InputError(f"{what} must be a scalar, the mean over the batch, got {came}")
    numerics.require_floating(what, result)
    _warn_of_columns(what, function, args)


def _warn_of_columns(what: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Warn where an array [n, 1] of the batch is spread to [n, n], as labels are beside outputs [n]."""
    column = _spread_column(function, args)
    if column is None:
        return
    name, number = column

    def one_more(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct((number + 1, *leaf.shape[1:]), leaf.dtype) if leaf.shape[:1] == (number,) else leaf

    # A width that happens to be the number of examples does not grow with it.
    first = args[0] if what.startswith("loss") else jax.tree.map(one_more, args[0])
    try:
        again = _spread_column(function, (first, jax.tree.map(one_more, args[1]), *args[2:]))
    except Exception:  # a function for this number of examples alone
        return
    if again is not None:
        warnings.warn(
            f"{what} spreads the array {name} of shape ({number}, 1) to ({number}, {number}), as labels (n, 1) "
            "beside outputs (n,) are; if this is not meant, take labels[:, 0]",
            stacklevel=5,
        )


def _spread_column(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, int] | None:
    """The name and the length of an array [n, 1] of the arguments that is spread to [n, n], if there is one."""
    named = jax.tree.leaves_with_path(args)
    columns = {i: leaf.shape[0] for i, (_, leaf) in enumerate(named) if leaf.shape[1:] == (1,) and leaf.shape[0] > 1}
    if not columns:
        return None
    jaxpr = numerics.jaxpr_of(function, *args)
    for i, number in columns.items():
        for equation in jaxpr.eqns:
            spread = any(variable.aval.shape == (number, number) for variable in equation.outvars)
            if spread and any(variable is jaxpr.invars[i] for variable in equation.invars):
                return jax.tree_util.keystr(named[i][0][1:]), number
    return None


def single_term(
    product: Callable[..., Any],
    functions: tuple[Callable[..., Any], ...],
    returns: tuple[Returns, ...],
    params: Any,
    batches: Batches,
    extra: tuple[Any, ...] = (),
    narrow: bool = False,
) -> Operator:
    params, batches, extra = _on_one_mesh(params, batches, extra)
    state = extra[0] if extra else None
    functions = tuple(map(user_function, functions))
    spread = hardware.is_partitioned((params, state))

    def term_over(batches: Batches) -> Term:
        partitioned = spread or (batches.in_memory and (batches.shares_statistics or batches.is_uneven))
        weighted = batches.in_memory and isinstance(batches.arrays, Weighted)
        spare = example_with_weight(batches.arrays) if weighted else None
        return Term(product, functions, returns, params, batches, None, state, spare, None, narrow, partitioned)

    term = term_over(batches)
    if product is not matvec_product:
        _require_mean(term)
    if batches.in_memory and batches.is_uneven and _can_be_shared(term):
        coefficients, parts = zip(*shares(batches, apart=not spread), strict=True)
        return Operator(tuple(map(term_over, parts)), coefficients)
    return Operator((term,), (1.0,))


def _can_be_shared(term: Term) -> bool:
    """Whether the examples can be parted into those that divide over the devices and the rest."""
    known = not numerics.any_traced(term) and not numerics.any_shapes(term)
    return known and term.batches.statistics_batch is None


def _on_one_mesh(params: Any, batches: Batches, extra: tuple[Any, ...]) -> tuple[Any, Batches, tuple[Any, ...]]:
    """What lies on a single device is put on every device of the mesh on which parameters or data lie."""
    arrays = batches.arrays if batches.in_memory else ()
    if numerics.any_traced((params, arrays, extra)):
        return params, batches, extra
    mesh = hardware.mesh_of("params and data", (params, arrays, extra))
    if mesh is None:
        return params, batches, extra
    place = partial(jax.tree.map, lambda x: hardware.on_mesh(x, mesh))
    if batches.in_memory:
        batches = dataclasses.replace(batches, arrays=place(arrays))
    return place(params), batches, place(extra)


def _require_mean(term: Term) -> None:
    """Look at the loss once, and, where the data are in batches, at whether it is the mean over its examples.

    Raises:
        InputError: a loss that is not finite, or that of a batch that is not the mean, weighted by size, of those of
            its halves.
    """
    batches = term.batches
    if numerics.any_traced(term) or numerics.any_shapes(term):
        return
    unit = batches.statistics_batch or 1
    taken_apart = len(batches.cuts) > 1 or batches.devices is not None
    values: list[Any] = []
    with numerics.matmul_precision(), batches.parts() as parts:
        for part in parts:
            piece = over(term, part)
            for start, size in part.cuts:
                half = (size // unit // 2) * unit if taken_apart else 0
                values.append(_loss_and_that_of_halves(piece, np.int32(start), size, half))
            jax.block_until_ready(values[-1])
    if numerics.any_traced(values):
        return
    wholes, means, sums = np.asarray(jax.device_get(values), np.float64).T
    lost = len(wholes) - np.count_nonzero(np.isfinite(wholes))
    if lost:
        which = "" if lost == len(wholes) else f" of {lost} of {len(wholes)} batches"
        if words := why_not_finite(batches, term.state):
            raise InputError(f"{words}, or left out by the loss, which{which} is not finite")
        raise InputError(
            f"the loss{which} is not finite at these parameters; look at it there, or give Batches(..., weights=m) "
            "where it is Σ m ℓ / Σ m and a batch may have no weight"
        )
    tolerance = _MEAN_TOLERANCE * np.abs(wholes).max()
    errors = np.abs(wholes - means)
    if (errors <= tolerance).all():
        return
    if (np.abs(wholes - sums) <= tolerance).all():
        what = "it is their sum: divide it by their number"
    else:
        what = (
            "if it is Σ m ℓ / Σ m, as with a mask or class weights, give Batches(..., weights=m); if batch norm is in "
            "train mode, Batches(..., statistics_batch=...); if it draws random numbers, fix their key"
        )
    raise InputError(
        "in batches, the loss of a batch must be the mean over its examples, but the mean of those of its halves is "
        f"{np.nanmax(errors, initial=0) / np.abs(wholes).max():.1e} (relative) off; {what}"
    )


def loss_over(term: Term, start: int, size: int) -> Array:
    """The loss of `size` examples from `start` on, by the program that looked at it when the operator was made."""
    result: Array = _loss_and_that_of_halves(term, np.int32(start), size, 0)[0]
    return result


@partial(jax.jit, static_argnames=("size", "half"))
def _loss_and_that_of_halves(term: Term, start: Array, size: int, half: int) -> tuple[Array, Array, Array]:
    """The loss of a batch; of those of its first `half` examples and the others the mean by size, and the sum."""
    whole = value_over(term, start, size)
    if not half:
        return whole, whole, whole
    first, rest = value_over(term, start, half), value_over(term, start + half, size - half)
    return whole, (half * first + (size - half) * rest) / size, first + rest
