"""The curvature matrices, each as one product composed from jvp and vjp, and the operators made of them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import trees
from hessflat.curvature.batches import Batches, as_batches
from hessflat.curvature.operators import Operator, Term
from hessflat.errors import InputError


def hessian(loss: Callable, params: Any, data: Any) -> Operator:
    """The Hessian ∇²L of the example-weighted mean L of `loss` over `data`.

    Products are forward over reverse: the derivative of the gradient along the vector.

    Args:
        loss: `loss(params, batch)` -> the mean loss of the batch, a scalar. Name it once: a new function object (a
            lambda made in a loop) is compiled anew, the same one never is.
        params: pytree of floating arrays with P numbers in all.
        data: pytree of arrays [N, ...], or `Batches(arrays, batch_size)`.

    Raises:
        InputError: parameters or data that are empty, not arrays or not finite; a loss that is not a scalar.
    """
    params, batches = _checked(params, data)
    _require_scalar("loss(params, batch)", loss, params, batches.arrays)
    return _single(hessian_product, (loss,), params, batches)


def gauss_newton(predict: Callable, criterion: Callable, params: Any, data: Any) -> Operator:
    """The generalised Gauss-Newton matrix G = (1/N) Σ J_iᵀ (∇²_f ℓ_i) J_i, with J_i = ∂f(w, x_i)/∂w.

    Args:
        predict: `predict(params, batch)` -> outputs f, an array or a tree of arrays.
        criterion: `criterion(outputs, batch)` -> the mean loss of the batch, a scalar.
        params: pytree of floating arrays with P numbers in all.
        data: pytree of arrays [N, ...], or `Batches(arrays, batch_size)`.

    Raises:
        InputError: as `hessian`; outputs that are not floating point.
    """
    params, batches = _checked(params, data)
    outputs = trees.output_of("predict(params, batch)", predict, params, batches.arrays)
    trees.require_floating("predict(params, batch)", outputs)
    _require_scalar("criterion(outputs, batch)", criterion, outputs, batches.arrays)
    return _single(gauss_newton_product, (predict, criterion), params, batches)


def fisher(losses: Callable, params: Any, data: Any) -> Operator:
    """The empirical Fisher (1/N) Σ g_i g_iᵀ, with g_i the gradient of example i's loss.

    The model's own Fisher (labels drawn from the prediction) of a softmax cross-entropy is its `gauss_newton`.

    Args:
        losses: `losses(params, batch)` -> per-example losses [n].
        params: pytree of floating arrays with P numbers in all.
        data: pytree of arrays [N, ...], or `Batches(arrays, batch_size)`.

    Raises:
        InputError: as `hessian`; losses that are not one number per example.
    """
    params, batches = _checked(params, data)
    shape = getattr(trees.output_of("losses(params, batch)", losses, params, batches.arrays), "shape", None)
    if shape != (batches.num_examples,):
        raise InputError(f"losses(params, batch) must have shape ({batches.num_examples},), got {shape}")
    return _single(gauss_newton_product, (losses, _half_mean_square), params, batches)


def from_matvec(matvec: Callable, params: Any, *arrays: Any) -> Operator:
    """The operator of a known symmetric linear map: `matvec(vector, *arrays)` -> a tree like `vector`.

    Args:
        matvec: linear and symmetric in a tree like `params`.
        params: pytree of floating arrays (their values do not matter), or a flat array [P].
        *arrays: what the map is made of. Passing it here, and not by closure, keeps it out of the compiled program.

    Raises:
        InputError: a product that is not a tree like `params`.
    """
    params = trees.as_arrays("params", params)
    trees.require_floating("params", params)
    result = trees.output_of("matvec(vector, *arrays)", matvec, params, *arrays)
    if jax.tree.map(jnp.shape, result) != jax.tree.map(jnp.shape, params):
        raise InputError("matvec(vector, *arrays) must have the structure and shapes of params")
    return _single(_matvec_product, (matvec,), params, Batches(jax.tree.map(jnp.asarray, arrays)))


def hessian_product(functions: tuple[Callable, ...], params: Any, batch: Any, vector: Any) -> Any:
    """∇²L v as the derivative of ∇L along v."""
    (loss,) = functions
    return jax.jvp(lambda p: jax.grad(loss)(p, batch), (params,), (vector,))[1]


def gauss_newton_product(functions: tuple[Callable, ...], params: Any, batch: Any, vector: Any) -> Any:
    """Jᵀ (∇²_f ℓ) J v: one forward pass serves J and Jᵀ."""
    predict, criterion = functions
    outputs, push = jax.linearize(lambda p: predict(p, batch), params)
    curved = jax.jvp(lambda f: jax.grad(criterion)(f, batch), (outputs,), (push(vector),))[1]
    return jax.linear_transpose(push, params)(curved)[0]


def _matvec_product(functions: tuple[Callable, ...], params: Any, arrays: Any, vector: Any) -> Any:
    (matvec,) = functions
    return matvec(vector, *arrays)


def _half_mean_square(losses: Array, batch: Any) -> Array:
    """Its second derivative is the identity over n, so the Gauss-Newton matrix becomes the mean of g gᵀ."""
    return 0.5 * jnp.mean(losses**2)


def _checked(params: Any, data: Any) -> tuple[Any, Batches]:
    params = trees.as_arrays("params", params)
    trees.require_floating("params", params)
    return params, as_batches(data)


def _require_scalar(what: str, function: Callable, *args: Any) -> None:
    result = trees.output_of(what, function, *args)
    shape = getattr(result, "shape", None)
    if shape != ():
        came = "a tree" if shape is None else f"shape {shape}"
        raise InputError(f"{what} must be a scalar, the mean over the batch, got {came}")


def _single(product: Callable, functions: tuple[Callable, ...], params: Any, batches: Batches) -> Operator:
    return Operator((Term(product, functions, params, batches),), (1.0,))
