"""Curvature example by example, along one vector; and what λ_max of some examples says of that of all."""

import dataclasses
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.krylov.eigenpairs import EigenPairs, eigenpairs
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Batches, as_batches, user_function
from hessflat.curvature.operators.weights import Weighted
from hessflat.curvature.stochtrace import estimates
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

# What the mean of the examples' forms may differ by from that of the operator, in units of the largest form.
_TOLERANCE = 1e-3


class Forms(NamedTuple):
    """Forms of a vector v in the gradient g_i, the Hessian H_i and the Gauss-Newton matrix G_i of N examples."""

    gradient: np.ndarray  # [N] vᵀ g_i
    hessian: np.ndarray  # [N] vᵀ H_i v
    gauss_newton: np.ndarray  # [N] vᵀ G_i v


class SubsetSharpness(NamedTuple):
    """λ_max of n of N examples, and its error as the λ_max of all N.

    `value` − `bias` ± 1.96 `standard_error` covers that in 95 % of random subsets where λ_max is isolated, and in more
    of them where it is the edge of a dense spectrum: there the error comes out too large, and the bias too small.
    """

    value: float  # of the n examples
    residual: float
    standard_error: float  # of the draw of the n examples; 0 for all N
    bias: float  # by which λ_max of n examples is too large on average
    folds: np.ndarray  # [k] λ_max of disjoint n / k examples
    num_products: int  # over n examples, and over n / k of them
    seconds: float
    precision: str


def quadratic_forms(
    predict: Callable[..., Any], losses: Callable[..., Any], params: Any, vector: Any, data: Any, state: Any = None
) -> Forms:
    """The forms of `vector`, exact, by forward mode alone: the cost of four forward passes, and no memory of [N, P].

    With f(t) = f(w + t v, x_i): vᵀg_i = ∂ℓ·f′, vᵀG_i v = f′ᵀ ∇²ℓ f′ and vᵀH_i v = vᵀG_i v + ∂ℓ·f″.

    Args:
        predict: `predict(params, batch)` -> outputs [n, ...], of each example by itself.
        losses: `losses(outputs, batch)` -> [n], the loss of each example.
        params: pytree of floating arrays.
        vector: v, a tree like `params`.
        data: pytree of arrays [N, ...] or `Batches`, in memory and without weights.
        state: a third argument of `predict` and `losses`.

    Raises:
        InputError: a vector of another structure, data that come as a stream or with weights, forms that are not
            finite.
    """
    params = numerics.as_arrays("params", params)
    vector = numerics.as_arrays("vector", vector)
    numerics.require_floating("params", params)
    numerics.require_like("vector", vector, params)
    batches, extra = as_batches(data), numerics.as_state(state, predict)
    if not batches.in_memory or isinstance(batches.arrays, Weighted):
        raise InputError("forms of examples need arrays in memory, all of one weight; give cv.Batches(arrays)")
    functions = user_function(predict), user_function(losses)
    with numerics.matmul_precision():
        parts = [_forms(*functions, params, vector, batches.take(start, size), extra) for start, size in batches.cuts]
    columns = ([hardware.on_host(x) for x in column] for column in zip(*parts, strict=True))
    forms = Forms(*(np.concatenate(column).astype(np.float64) for column in columns))
    if not all(np.isfinite(form).all() for form in forms):
        raise InputError("the derivatives of the loss of an example are not finite; look at the outputs there")
    return forms


@partial(jax.jit, static_argnums=(0, 1))
def _forms(predict: Any, losses: Any, params: Any, vector: Any, batch: Any, extra: Any) -> tuple[Array, Array, Array]:
    def along(t: Array) -> Any:
        return predict(jax.tree.map(lambda w, v: w + t.astype(w.dtype) * v, params, vector), batch, *extra)

    def both(t: Array) -> tuple[Any, Any]:
        return jax.jvp(along, (t,), (jnp.ones_like(t),))

    zero = jnp.zeros(())
    (outputs, first), (_, second) = jax.jvp(both, (zero,), (jnp.ones_like(zero),))

    def slope(outputs: Any) -> Any:
        return jax.grad(lambda f: jnp.sum(losses(f, batch, *extra)))(outputs)

    slopes, curved = jax.jvp(slope, (outputs,), (first,))
    gauss_newton = _by_example(first, curved)
    return _by_example(slopes, first), gauss_newton + _by_example(slopes, second), gauss_newton


def _by_example(a: Any, b: Any) -> Array:
    """The inner products [n] of trees [n, ...]."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.sum(x * y, axis=tuple(range(1, x.ndim))) for x, y in pairs), jnp.zeros(()))


def subset_error(samples: np.ndarray, population: int) -> float:
    """The standard error of the mean of n samples, drawn without replacement, as the mean of all `population`.

    √((1 − n / N) s² / n): 0 for all of them, nan for one of several (Cochran 1977, *Sampling techniques*, eq. 2.20).

    Raises:
        InputError: fewer in all than there are samples.
    """
    number = len(samples)
    if number > population:
        raise InputError(f"population must be at least the {number} samples, got {population}")
    if number == population:
        return 0.0
    return math.sqrt(1 - number / population) * float(estimates.standard_error(np.asarray(samples, np.float64)))


def subset_sharpness(
    build: Callable[[Batches], Operator],
    data: Any,
    forms: Callable[[Any], np.ndarray],
    population: int,
    key: Array,
    num_folds: int = 4,
    rtol: float = 1e-3,
    max_steps: int = 200,
) -> SubsetSharpness:
    """λ_max of the mean of A_i over a random subset of N examples, with its error as that of all N.

    With u the eigenvector, λ_max is the mean of uᵀA_i u over the subset; to first order their spread over examples is
    its error. To second order λ_max of n examples is too large by b (1/n − 1/N), for u follows the examples that are
    there. b is estimated from k disjoint folds of f = ⌊n / k⌋ examples, of which λ_max is larger still, as in the
    jackknife (Quenouille 1956): the mean over folds exceeds λ_max of all n by (n / f − 1) b / n.

    Args:
        build: makes the operator of the mean over batches; examples must not be coupled, as by batch norm in train
            mode.
        data: the n examples, in random order.
        forms: maps a vector, a tree like the parameters, to uᵀA_i u [n] of the same examples.
        population: N.
        key: a JAX random key.
        num_folds: k, at least 2.
        rtol: the relative tolerance of λ_max; ten times that of the folds, whose spread matters.
        max_steps: products that a search may take.

    Raises:
        InputError: counts out of range, data that come as a stream, forms that are not those of the operator, or a
            search that takes more products.
    """
    began, num_folds = time.perf_counter(), numerics.require_count("num_folds", num_folds, 2)

    def search(part: Batches, rtol: float, start: Any = None) -> EigenPairs:
        found = eigenpairs(build(part), key, rtol=rtol, start=start, max_steps=max_steps, show_progress=False)
        if not found.converged[0]:
            raise InputError(
                f"λ_max of {part.num_examples} examples is not known to {rtol:g} after {max_steps} products; raise "
                "max_steps or rtol"
            )
        return found

    batches = as_batches(data)
    number = batches.num_examples
    if not batches.in_memory:
        raise InputError("folds need examples in memory, got a stream; give cv.Batches of its examples")
    if population < number or number < num_folds:
        raise InputError(
            f"n examples must be at least the {num_folds} folds and at most the population, {population}, got {number}"
        )
    fold = number // num_folds
    # Of batches that are driven from Python, one compiled product serves the subset and its folds.
    size = min(batches.batch_size or number, fold)
    whole = search(dataclasses.replace(batches, batch_size=size), rtol)
    top = jax.tree.map(lambda leaf: leaf[0], whole.vectors)
    value, residual = float(whole.values[0]), float(whole.residuals[0])
    rayleigh = forms(top)
    if abs(rayleigh.mean() - value) > residual + rtol * abs(value) + _TOLERANCE * np.abs(rayleigh).max():
        raise InputError(
            f"the mean of forms(u) must be λ_max, {value:g}, got {rayleigh.mean():g}; give the forms of this operator "
            "on these examples"
        )
    values, products = [], whole.num_products
    for start in range(0, fold * num_folds, fold):
        part = dataclasses.replace(batches, arrays=batches.take(start, fold), batch_size=size)
        pairs = search(part, 10 * rtol, top)
        values.append(float(pairs.values[0]))
        products += pairs.num_products
    share = 1 - number / population
    return SubsetSharpness(
        value,
        residual,
        subset_error(rayleigh, population),
        share * (float(np.mean(values)) - value) / (number / fold - 1),
        np.array(values),
        *estimates.cost_since(began, products, batches.arrays),
    )
