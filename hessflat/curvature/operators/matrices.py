"""The curvature matrices: the product of each, composed of jvp and vjp, and the operators made of them.

In all of them `params` is a pytree of floating arrays with P numbers in all, and `data` is a pytree of arrays [N, ...]
or `Batches(arrays, batch_size)`. With `state`, any pytree of arrays, the functions take it as a third argument, such as
running statistics of batch norm. It is a constant of the operator.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import (
    Batches,
    Returns,
    Term,
    Weighted,
    as_batches,
    bound_functions,
    example_with_weight,
    unweighted,
)
from hessflat.utils.errors import InputError

# Relative to the largest loss of a batch: sums of losses in single precision are closer, whatever their order.
_MEAN_TOLERANCE = 1e-4


def hessian(loss: Callable[..., Any], params: Any, data: Any, state: Any = None) -> Operator:
    """The Hessian ∇²L of the example-weighted mean L of `loss` over `data`.

    Products are forward over reverse: the derivative of the gradient along the vector (Pearlmutter 1994).

    Args:
        loss: `loss(params, batch)` -> the mean loss of the batch, a scalar. Use one function object: a new one (a
            lambda made in a loop) is compiled anew.
        params: the point at which the curvature is taken.
        data: the examples of the mean.
        state: a third argument of `loss`, if given.

    Raises:
        InputError: parameters or data that are empty, not arrays or not finite; a loss that is not a scalar.
    """
    params, batches, extra = _checked(params, data, state)
    _require_scalar("loss(params, batch)", loss, params, unweighted(batches.arrays), *extra)
    return _single(hessian_product, (loss,), ("mean",), params, batches, state)


def gauss_newton(
    predict: Callable[..., Any], criterion: Callable[..., Any], params: Any, data: Any, state: Any = None
) -> Operator:
    """The generalised Gauss-Newton matrix G = (1/N) Σ J_iᵀ (∇²_f ℓ_i) J_i, with J_i = ∂f(w, x_i)/∂w.

    It is the first term of the Hessian in Sagun et al. (2017), eq. 4.

    Args:
        predict: `predict(params, batch)` -> outputs f, an array or a tree of arrays [n, ...].
        criterion: `criterion(outputs, batch)` -> the mean loss of the batch, a scalar.
        params: the point at which the curvature is taken.
        data: the examples of the mean.
        state: a third argument of `predict` and `criterion`, if given.

    Raises:
        InputError: as `hessian`; outputs that are not floating point.
    """
    return _operator_on_outputs(gauss_newton_product, predict, criterion, params, data, state)


def residual(
    predict: Callable[..., Any], criterion: Callable[..., Any], params: Any, data: Any, state: Any = None
) -> Operator:
    """R = H − G = (1/N) Σ_i Σ_c ∂ℓ_i/∂f_c ∇²f_c(w, x_i), the second term of Sagun et al. (2017), eq. 4.

    It is computed as the Hessian of f along the gradient of the loss, which is held fixed. A difference of H and G
    would cancel near an interpolating minimum. The arguments are those of `gauss_newton`.

    Raises:
        InputError: as `gauss_newton`.
    """
    return _operator_on_outputs(residual_product, predict, criterion, params, data, state)


def fisher(losses: Callable[..., Any], params: Any, data: Any, state: Any = None) -> Operator:
    """The empirical Fisher (1/N) Σ g_i g_iᵀ, with g_i the gradient of example i's loss.

    It uses the labels of the data; `model_fisher` takes the expectation over the model's predictions instead.

    Args:
        losses: `losses(params, batch)` -> per-example losses [n].
        params: the point at which gradients are taken.
        data: the examples of the mean.
        state: a third argument of `losses`, if given.

    Raises:
        InputError: as `hessian`; losses that are not one number per example.
    """
    params, batches, extra = _checked(params, data, state)
    shape = getattr(
        numerics.output_shapes("losses(params, batch)", losses, params, unweighted(batches.arrays), *extra),
        "shape",
        None,
    )
    expected = batches.arrays.weights.shape if isinstance(batches.arrays, Weighted) else (batches.num_examples,)
    if shape != expected:
        what = ", that of the weights," if isinstance(batches.arrays, Weighted) else ""
        raise InputError(f"losses(params, batch) must have shape {expected},{what} got {shape}".replace(",,", ","))
    return _single(gauss_newton_product, (losses, half_mean_square), ("each", "weighted mean"), params, batches, state)


def model_fisher(
    predict: Callable[..., Any],
    params: Any,
    data: Any,
    likelihood: Literal["softmax"] | tuple[Callable[..., Any], Callable[..., Any]] = "softmax",
    key: Array | None = None,
    num_samples: int = 1,
    state: Any = None,
) -> Operator:
    """The Fisher of the model, (1/N) Σ_i E_{y ~ p(y|f_i)} [g_i(y) g_i(y)ᵀ], with g_i(y) = −∇ log p(y | f(w, x_i)).

    For a softmax it is exact, (1/N) Σ J_iᵀ (diag p − p pᵀ) J_i, and equal to the `gauss_newton` of the cross-entropy
    with any labels. For another likelihood the expectation is the mean over `num_samples` labels, drawn once for each
    example from `key`. The matrix is therefore the same at every product and for every batch size.

    Args:
        predict: `predict(params, batch)` -> outputs, an array [n, ...] (logits [n, C] for "softmax").
        params: the point at which the curvature is taken.
        data: the examples of the mean.
        likelihood: "softmax", or `(sample, log_likelihood)` for one example: `sample(key, outputs)` -> a label, and
            `log_likelihood(outputs, label)` -> log p, a scalar.
        key: for drawing labels.
        num_samples: the number of labels for each example.
        state: a third argument of `predict`, if given.

    Raises:
        InputError: as `gauss_newton`; no key where one is needed; statistics over batches with drawn labels.
    """
    if likelihood == "softmax":
        criterion = _cross_entropy if state is None else _cross_entropy_with_state
        return _operator_on_outputs(gauss_newton_product, predict, criterion, params, data, state, "weighted mean")
    if not isinstance(likelihood, tuple) or len(likelihood) != 2:
        raise InputError(f"likelihood must be 'softmax' or (sample, log_likelihood), got {likelihood!r}")
    numerics.require_count("num_samples", num_samples)
    if key is None:
        raise InputError("a likelihood given by (sample, log_likelihood) needs a key to draw labels from")
    numerics.require_key(key)
    sample, log_likelihood = likelihood
    params, batches, _ = _checked(params, data, state)
    if batches.statistics_batch is not None:
        raise InputError("labels are drawn for one example at a time: give data without statistics_batch")
    losses = SampledLosses(predict, log_likelihood)
    with numerics.matmul_precision():
        labels = _draw_labels(predict, sample, params, batches, state, key, num_samples)
    pairs: Any = (unweighted(batches.arrays), labels)
    if isinstance(batches.arrays, Weighted):
        pairs = batches.arrays._replace(arrays=pairs)
    drawn = dataclasses.replace(batches, arrays=pairs)
    return _single(gauss_newton_product, (losses, half_mean_square), ("each", "weighted mean"), params, drawn, state)


def from_matvec(matvec: Callable[..., Any], params: Any, *arrays: Any) -> Operator:
    """The operator of a given symmetric linear map: `matvec(vector, *arrays)` -> a tree like `vector`.

    Args:
        matvec: linear and symmetric in a tree like `params`.
        params: pytree of floating arrays (their values do not matter), or a flat array [P].
        *arrays: the arrays of the map. As arguments instead of a closure they are not constants of the compiled
            program.

    Raises:
        InputError: a product that is not a tree like `params`.
    """
    params = numerics.as_arrays("params", params)
    numerics.require_floating("params", params)
    arrays = jax.tree.map(jnp.asarray, arrays)
    result = numerics.output_shapes("matvec(vector, *arrays)", matvec, params, *arrays)
    if jax.tree.map(jnp.shape, result) != jax.tree.map(jnp.shape, params):
        raise InputError("matvec(vector, *arrays) must have the structure and shapes of params")
    # There are no examples: a single one represents the map, whose arrays are constants.
    return _single(matvec_product, (KnownMap(matvec),), ("each",), params, Batches(jnp.zeros(1)), arrays)


def hessian_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """∇²L v as the derivative of ∇L along v."""
    (loss,) = functions
    return jax.jvp(lambda p: jax.grad(loss)(p, batch), (params,), (vector,))[1]


def gauss_newton_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """Jᵀ (∇²_f ℓ) J v: one forward pass serves J and Jᵀ."""
    predict, criterion = functions
    outputs, push = jax.linearize(lambda p: predict(p, batch), params)
    curved = jax.jvp(lambda f: jax.grad(criterion)(f, batch), (outputs,), (push(vector),))[1]
    return jax.linear_transpose(push, params)(curved)[0]


def residual_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """The derivative along v of Jᵀ g, with g = ∇_f ℓ held fixed."""
    predict, criterion = functions

    def pulled(p: Any) -> Any:
        outputs, pull = jax.vjp(lambda q: predict(q, batch), p)
        return pull(jax.lax.stop_gradient(jax.grad(criterion)(outputs, batch)))[0]

    return jax.jvp(pulled, (params,), (vector,))[1]


def matvec_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vector: Any) -> Any:
    """The given map, restricted to the leaves of the vectors."""
    (known,) = functions
    return numerics.select(known(vector, batch), params)


@dataclasses.dataclass(frozen=True)
class KnownMap:
    """`matvec` with its arrays as the state; equal where `matvec` is the same."""

    matvec: Callable[..., Any]

    def __call__(self, vector: Any, batch: Any, arrays: Any) -> Any:
        return self.matvec(vector, *arrays)


@dataclasses.dataclass(frozen=True)
class SampledLosses:
    """−log p of the drawn labels, [n, num_samples]; equal where the functions are the same."""

    predict: Callable[..., Any]
    log_likelihood: Callable[..., Any]

    def __call__(self, params: Any, batch: Any, *state: Any) -> Array:
        data, labels = batch
        outputs = self.predict(params, data, *state)
        one = jax.vmap(self.log_likelihood, in_axes=(None, 0))
        result: Array = -jax.vmap(one)(outputs, labels)
        return result


def _draw_labels(
    predict: Callable[..., Any],
    sample: Callable[..., Any],
    params: Any,
    batches: Batches,
    state: Any,
    key: Array,
    num_samples: int,
) -> Any:
    """[N, num_samples, ...], from a key for each example: the cut of the data does not matter."""
    extra = () if state is None else (state,)

    def for_one(key: Array, outputs: Any) -> Any:
        return jax.vmap(sample, in_axes=(0, None))(jax.random.split(key, num_samples), outputs)

    @jax.jit
    def for_batch(params: Any, batch: Any, extra: Any, start: Array) -> Any:
        outputs = predict(params, batch, *extra)
        numbers = start + jnp.arange(jax.tree.leaves(outputs)[0].shape[0])
        return jax.vmap(for_one)(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), outputs)

    parts = [for_batch(params, batches.take(start, size), extra, jnp.asarray(start)) for start, size in batches.cuts]
    return jax.tree.map(lambda *part: jnp.concatenate(part), *parts)


def half_mean_square(losses: Array, batch: Any, *state: Any) -> Array:
    """Its second derivative is the identity over n, so the Gauss-Newton matrix becomes the mean of g gᵀ."""
    return 0.5 * weighted_mean(losses**2, batch)


def weighted_mean(values: Array, batch: Any) -> Array:
    """The mean of `values` [n, ...], weighted where the batch is; its weights [n, ...] may have fewer axes."""
    if not isinstance(batch, Weighted):
        return jnp.mean(values)
    weights = batch.weights
    of_each = jnp.mean(values, axis=tuple(range(weights.ndim, values.ndim)))
    return jnp.sum(weights.astype(values.dtype) * of_each) / len(values)


def _cross_entropy(logits: Array, batch: Any) -> Array:
    """Against class 0: the second derivative in the logits is that for any label."""
    return -weighted_mean(jax.nn.log_softmax(logits)[..., 0], batch)


def _cross_entropy_with_state(logits: Array, batch: Any, state: Any) -> Array:
    return _cross_entropy(logits, batch)


def _operator_on_outputs(
    product: Callable[..., Any],
    predict: Callable[..., Any],
    criterion: Callable[..., Any],
    params: Any,
    data: Any,
    state: Any,
    returns: Returns = "mean",
) -> Operator:
    params, batches, extra = _checked(params, data, state)
    outputs = numerics.output_shapes("predict(params, batch)", predict, params, unweighted(batches.arrays), *extra)
    numerics.require_floating("predict(params, batch)", outputs)
    batch = unweighted(batches.arrays) if returns == "mean" else batches.arrays
    _require_scalar("criterion(outputs, batch)", criterion, outputs, batch, *extra)
    return _single(product, (predict, criterion), ("each", returns), params, batches, state)


def _checked(params: Any, data: Any, state: Any) -> tuple[Any, Batches, tuple[Any, ...]]:
    params = numerics.as_arrays("params", params)
    numerics.require_floating("params", params)
    extra = () if state is None else (numerics.as_arrays("state", state),)
    return params, as_batches(data), extra


def _require_scalar(what: str, function: Callable[..., Any], *args: Any) -> None:
    result = numerics.output_shapes(what, function, *args)
    shape = getattr(result, "shape", None)
    if shape != ():
        came = "a tree" if shape is None else f"shape {shape}"
        raise InputError(f"{what} must be a scalar, the mean over the batch, got {came}")


def _single(
    product: Callable[..., Any],
    functions: tuple[Callable[..., Any], ...],
    returns: tuple[Returns, ...],
    params: Any,
    batches: Batches,
    state: Any = None,
) -> Operator:
    spare = example_with_weight(batches.arrays)
    term = Term(product, functions, returns, params, batches, state=state, spare=spare)
    if product is not matvec_product:
        _require_mean(term)
    return Operator((term,), (1.0,))


def _require_mean(term: Term) -> None:
    """Look at the loss once, and, where the data are in batches, at whether it is the mean over its examples.

    Raises:
        InputError: a loss that is not finite, or that of a batch that is not the mean, weighted by size, of those of
            its halves.
    """
    batches = term.batches
    if numerics.any_traced(term):
        return
    unit = batches.statistics_batch or 1
    taken_apart = len(batches.cuts) > 1 or batches.devices is not None
    with numerics.matmul_precision():
        values = [
            _loss_and_that_of_halves(term, jnp.asarray(start), size, (size // unit // 2) * unit if taken_apart else 0)
            for start, size in batches.cuts
        ]
    wholes, means, sums = np.asarray(jax.device_get(values), np.float64).T
    lost = len(wholes) - np.count_nonzero(np.isfinite(wholes))
    if lost:
        which = "" if lost == len(wholes) else f" of {lost} of {len(wholes)} batches"
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


@partial(jax.jit, static_argnames=("size", "half"))
def _loss_and_that_of_halves(term: Term, start: Array, size: int, half: int) -> tuple[Array, Array, Array]:
    """The loss of a batch; of those of its first `half` examples and the others the mean by size, and the sum."""

    def loss(start: Any, size: int) -> Array:
        batch = term.batches.take(start, size)
        piece = dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=batch, batch_size=None))
        first, *others = bound_functions(piece)
        value = first(term.params, batch)
        for function in others:
            value = function(value, batch)
        return jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.float32))

    whole = loss(start, size)
    if not half:
        return whole, whole, whole
    first, rest = loss(start, half), loss(start + half, size - half)
    return whole, (half * first + (size - half) * rest) / size, first + rest
