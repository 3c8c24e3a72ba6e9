"""Tests that an operator is deterministic, symmetric, the derivative of its functions, and a mean over examples."""

import dataclasses
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.diagnostics import finite_differences
from hessflat.curvature.operators.matrices import matvec_product
from hessflat.curvature.operators.operator import Operator, require_finite, require_operator
from hessflat.curvature.operators.terms import Term, over, shapes_of_product, traced_product
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.convolution import equations_of
from hessflat.utils.errors import InputError

# The number of examples of the test by differences.
_EXAMPLES = 256


# Primitives that random numbers are made by.
_RANDOM = {"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"}


class Check(NamedTuple):
    """The relative errors of the tests, all within tolerance; None where a test was skipped, see `notes`."""

    repeat: float  # ‖A v − A v‖ of the same product done twice
    asymmetry: float  # |v·A w − w·A v| for unit v, w
    finite_difference: float | None  # products against central differences, in float64
    batch_weights: float | None  # a product against the mean, weighted by size, of products over two parts of the data
    tolerance: float  # 1e-4 at least for differences
    num_products: int  # over all the data or some
    seconds: float
    precision: str
    notes: tuple[str, ...] = ()


def check(op: Operator, key: Array, tolerance: float | None = None, derivatives: bool = True) -> Check:
    """Test `op` with a few products along random unit vectors.

    - Two products with one vector are equal.
    - v·A w = w·A v.
    - H v agrees with central differences of the gradient, and the gradient with those of the loss; v·G v agrees with
      differences of the outputs and of the criterion's gradient. The test runs in float64 on at most 256 examples, with
      several step widths of which the best counts: in float32, and across the kinks of ReLU, differences are too
      inaccurate. It is skipped where a function does not run in float64, or uses a lower precision internally.
    - The product over all examples is the mean, weighted by size, of the products over two unequal parts of them, drawn
      at random. This fails for a loss that is a sum over the batch. It also fails where any examples are coupled, as by
      batch norm in train mode, without `Batches(statistics_batch=...)`.

    Of a stream, the last two look at its first batch.

    Args:
        op: any operator; for a linearised one or a known map, only the first two tests are possible.
        key: a JAX random key.
        tolerance: the relative tolerance; by default 1,000 times the machine epsilon of the operator's type.
        derivatives: whether products are compared with differences. False is for derivatives that are meant to be
            other than those of the function: `stop_gradient`, straight-through estimators.

    Raises:
        InputError: a test fails, or products are not finite; the message names the failure in one line.
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    op = op.as_it_is_now()
    if tolerance is not None and not 0 < tolerance < 1:
        raise InputError(f"tolerance must be a number between 0 and 1, or None, got {tolerance!r}")
    tolerance = 1e3 * float(jnp.finfo(op.dtype).eps) if tolerance is None else tolerance
    v, w = (numerics.draw_probe(k, op.size, op.dtype, "gaussian") for k in jax.random.split(key))
    repeat, asymmetry = _require_symmetric(op, v, w, tolerance)
    errors_by_check: dict[str, list[float]] = {"difference": [], "weights": []}
    notes: dict[str, None] = {} if derivatives else {"derivatives were not compared with differences": None}
    num_products = 3
    if not op.in_memory:
        notes["of a stream, the first batch was differentiated and taken apart"] = None
    for term in map(_in_memory, op.terms):
        if not isinstance(term, Term) or term.product is matvec_product:
            what = "a known map" if isinstance(term, Term) else "an operator whose linearisation is made"
            notes[f"{what} is neither differentiated nor taken apart"] = None
            continue
        for name, result in (
            ("difference", _difference(term, v, tolerance) if derivatives else None),
            ("weights", _weights(term, v, key, tolerance)),
        ):
            if result is None:
                continue
            if isinstance(result, str):
                notes[result] = None
            else:
                errors_by_check[name].append(result)
                num_products += 1 if name == "difference" else 3
    errors = [max(values) if values else None for values in errors_by_check.values()]
    cost = estimates.cost_since(began, num_products)
    return Check(repeat, asymmetry, errors[0], errors[1], tolerance, *cost, tuple(notes))


def _in_memory(term: Term) -> Term:
    """The term; that over a stream over its first batch, in two pieces where there are more."""
    if term.batches.in_memory:
        return term
    with term.batches.parts() as parts:
        part = next(parts)
    if len(term.batches.cuts) > 1:
        unit = term.batches.statistics_batch or 1
        half = part.num_examples // 2
        part = dataclasses.replace(part, batch_size=max(half - half % unit, unit))
    return over(term, part)


def _require_symmetric(op: Operator, v: Array, w: Array, tolerance: float) -> tuple[float, float]:
    av, again, aw = op(v), op(v), op(w)
    require_finite(av, aw)
    scale = jnp.linalg.norm(av) + jnp.linalg.norm(aw)
    scale = jnp.where(scale > 0, scale, 1)
    repeat = float(jnp.linalg.norm(av - again) / scale)
    if repeat > tolerance:
        raise InputError(
            f"the operator must be deterministic: the same product came out {repeat:.1e} (relative) apart; "
            "fix dropout, augmentation and order of the data"
        )
    asymmetry = float(jnp.abs(jnp.vdot(v, aw) - jnp.vdot(w, av)) / scale)
    if asymmetry > tolerance:
        raise InputError(
            f"the operator must be symmetric: v·Aw and w·Av are {asymmetry:.1e} (relative) apart, "
            f"tolerance {tolerance:.1e}; look for custom derivatives or a map that is not symmetric"
        )
    return repeat, asymmetry


def _difference(term: Term, v: Array, tolerance: float) -> float | str:
    """The relative error of products against differences, or why it is not known."""
    unit = term.batches.statistics_batch or 1
    number = min(term.batches.num_examples, max(_EXAMPLES - _EXAMPLES % unit, unit))
    term = _over(term, 0, number)
    with jax.enable_x64(True), numerics.matmul_precision():
        result = finite_differences.relative_error(term, v)
    if isinstance(result, str):
        return result
    error, where = result
    if error > max(tolerance, finite_differences.TOLERANCE):
        raise InputError(
            f"derivatives must be those of the function: {where} and central differences are {error:.1e} (relative) "
            "apart in float64; look for custom_jvp, custom_vjp and stop_gradient, or take derivatives=False if they "
            "are meant"
        )
    return error


def _weights(term: Term, v: Array, key: Array, tolerance: float) -> float | str:
    """The relative error of the weighted mean of products over two pieces of the data, or why it is not known."""
    number, unit = term.batches.num_examples, term.batches.statistics_batch or 1
    if number < 2 * unit:
        return "one example, or one batch that shares statistics, cannot be taken apart"
    drawn = np.random.default_rng(np.asarray(jax.random.key_data(key))).permutation(number // unit)
    chosen = np.isin(np.arange(number) // unit, drawn[: max(1, len(drawn) // 3)])
    whole, *parts = (
        Operator((part,), (1.0,))(v)
        for part in (term, *(_part(term, np.flatnonzero(flags)) for flags in (chosen, ~chosen)))
    )
    shares = chosen.mean(), 1 - chosen.mean()
    scale = sum(share * jnp.linalg.norm(part) for share, part in zip(shares, parts, strict=True))
    scale = jnp.where(scale > 0, scale, 1)
    error = float(jnp.linalg.norm(whole - shares[0] * parts[0] - shares[1] * parts[1]) / scale)
    if error <= tolerance:
        return error
    function = "criterion" if len(term.functions) > 1 else "loss"
    if _draws_random_numbers(term):
        fault = (
            f"the {function} draws random numbers, as dropout does, and other ones for every batch: it is no mean over "
            "examples; take it without, or draw for each example from a key of its own"
        )
        if term.batches.cuts == [(0, term.batches.num_examples)]:
            return fault
        raise InputError(fault)
    is_sum = float(jnp.linalg.norm(whole - parts[0] - parts[1]) / scale) <= tolerance
    if term.batches.cuts == [(0, term.batches.num_examples)] and term.batches.devices is None:
        if is_sum:
            return f"the {function} of all data is the sum over its examples; for their mean, divide it by their number"
        return (
            f"the {function} of all data at once is not the mean of those of two pieces, weighted by size; in batches "
            "it would need Batches(weights=...) for Σ m ℓ / Σ m, or statistics_batch=... for batch norm in train mode"
        )
    if is_sum:
        raise InputError(
            f"the {function} of a batch must be the mean over its examples, but products over two pieces of the data "
            f"add up as those of a sum do; divide by the number of examples, {error:.1e} (relative) is what it matters"
        )
    raise InputError(
        f"examples must not depend on one another: the product over {number} examples and the mean over two pieces of "
        f"them are {error:.1e} (relative) apart; put batch norm in eval mode or name the batch that shares statistics, "
        "Batches(statistics_batch=...), and divide by nothing that is taken from the batch but its size"
    )


def _draws_random_numbers(term: Term) -> bool:
    closed, *_ = traced_product(*shapes_of_product(term))
    return any(equation.primitive.name in _RANDOM for equation in equations_of(closed.jaxpr.eqns))


def _part(term: Term, positions: np.ndarray) -> Term:
    """The term over the examples at these positions, in batches of the same size and on one device."""
    arrays = jax.tree.map(lambda x: numerics.gathered(x[positions]), term.batches.arrays)
    return dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=arrays, devices=None))


def _over(term: Term, start: int, size: int) -> Term:
    """The term over some of its examples, at once and on one device."""
    batches = term.batches
    arrays = jax.tree.map(lambda x: numerics.gathered(x[start : start + size]), batches.arrays)
    return dataclasses.replace(term, batches=dataclasses.replace(batches, arrays=arrays, batch_size=None, devices=None))
