"""Tests that an operator is deterministic, symmetric, the derivative of its functions, and a mean over examples."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import host, numerics, vectors
from hessflat.curvature.diagnostics import finite_differences
from hessflat.curvature.operators.matrices import loss_over, matvec_product
from hessflat.curvature.operators.operator import Operator, layout_of, require_finite, require_operator
from hessflat.curvature.operators.softmax import SoftmaxProduct
from hessflat.curvature.operators.terms import Term, over, shapes_of_product, traced_product
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace import estimates
from hessflat.utils.convolution import equations_of
from hessflat.utils.errors import InputError, shown

# The number of examples of the test by differences.
_EXAMPLES = 256

# A tolerance near 1 would let anything pass.
_LARGEST_TOLERANCE = 0.1

# Of losses, relative to the largest: sums in single precision are closer, whatever their order.
_VALUE_TOLERANCE = 1e-4

# The error of a test in float64 that counts as none: faults of more than a tolerance in float32 are far above it.
_SMALL_IN_FLOAT64 = 1e-6

# Larger multiples of the asymmetry, which one pair of vectors tells roughly, are no rounding.
_ROUNDING_FACTOR = 1e3

_ROUNDING = (
    "products in {} must be accurate, but differ by rounding, {} (relative), and agree in float64, as with a "
    "saturated network or terms that cancel; measure op.astype(numpy.float64) within jax.enable_x64(True)"
)

_NO_MEAN = (
    "the {} of all data at once is not the mean of those of two pieces, weighted by size; in batches it would need "
    "Batches(weights=...) for Σ m ℓ / Σ m, or statistics_batch=... for batch norm in train mode"
)

# Primitives that random numbers are made by.
_RANDOM = {"random_bits", "threefry2x32", "rng_bit_generator", "rng_uniform"}


@record(
    lambda self: "an operator that passes every test" + "".join(f"; {note}" for note in self.notes),
    {
        "repeat": "repeat",
        "asymmetry": "asymmetry",
        "differences": "finite_difference",
        "weights of batches": "batch_weights",
        "tolerance": "tolerance",
    },
)
class Check(NamedTuple):
    """The relative errors of the tests, all within tolerance; None where a test was skipped, see `notes`."""

    repeat: float  # ‖A v − A v‖ of the same product done twice
    asymmetry: float  # √P |v·A w − w·A v| for random unit v, w
    finite_difference: float | None  # products against central differences, in float64
    batch_weights: float | None  # twice a product against the sum of those over two draws of the data
    tolerance: float  # 1e-4 at least for differences
    num_products: int  # over all the data or some
    seconds: float
    precision: str
    notes: tuple[str, ...] = ()  # what was skipped, and why


def check(op: Operator, key: Array, tolerance: float | None = None, derivatives: bool = True) -> Check:
    """Test `op` with a few products along random unit vectors.

    - Two products with one vector are equal.
    - v·A w = w·A v, to the rounding that may be expected along a random vector. If it fails by rounding alone and holds
      in float64, the message says so.
    - H v agrees with central differences of the gradient, and the gradient with those of the loss; v·G v agrees with
      differences of the outputs and of the criterion's gradient. The test runs in float64 on at most 256 examples, with
      several step widths of which the best counts: in float32, and across the kinks of ReLU, differences are too
      inaccurate. It is skipped where a function does not run in float64, or uses a lower precision internally.
    - Examples count alike and by themselves. Two draws of N examples, in random order, hold each example twice between
      them: a random half twice, and the other half twice. Their products add up to twice that over all examples. This
      fails where any examples are coupled, as by batch norm in train mode without `Batches(statistics_batch=...)`, or
      are told apart by their place. That the loss is a mean and not a sum is seen from its value over two halves.

    For a stream, the last two tests look at its first batch.

    Two programs with products are compiled, one over all data and one in float64. At most 17 products are evaluated
    for one matrix, most often 9, and at most 15 + 3 n for a sum of n. A test that fails, as by rounding, is repeated
    in float64, which compiles a third.

    Args:
        op: any operator; for a linearised one or a known map, only the first two tests are possible.
        key: a JAX random key.
        tolerance: the relative tolerance; by default 1,000 times the machine epsilon of the operator's type, or 50
            times that of the user's matrix products where they are less precise, and never above 0.1.
        derivatives: whether products are compared with differences. False is for derivatives that are meant to be
            other than those of the function: `stop_gradient`, straight-through estimators.

    Raises:
        InputError: a test fails, or products are not finite; the message names the failure in one line.
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    op = op.as_it_is_now()
    derivatives = numerics.require_flag("derivatives", derivatives)
    if tolerance is not None and not 0 < numerics.number_of(tolerance) < 1:
        raise InputError(f"tolerance must be a number between 0 and 1, or None, got {shown(tolerance)}")
    tolerance = _default_tolerance(op) if tolerance is None else float(tolerance)
    layout = layout_of(op)
    v, w = (vectors.to_tree(layout, vectors.draw(layout, key, "gaussian", number)) for number in (0, 1))
    av, repeat, asymmetry = _require_symmetric(op, v, w, tolerance)
    num_products = 3
    notes: dict[str, None] = {} if derivatives else {"derivatives were not compared with differences": None}
    if not op.in_memory:
        notes["only the first batch of the stream was differentiated and taken apart"] = None
    some = dataclasses.replace(op, terms=tuple(map(_in_memory, op.terms)))
    terms: list[tuple[int, Term]] = []
    for number, term in enumerate(some.terms):
        if isinstance(term, Term) and isinstance(term.product, SoftmaxProduct):
            notes["a softmax in chunks is neither differentiated nor taken apart; compare cv.gauss_newton"] = None
        elif isinstance(term, Term) and term.product is not matvec_product:
            terms.append((number, term))
        else:
            what = "a known map" if isinstance(term, Term) else "an operator whose linearisation is made"
            notes[f"{what} is neither differentiated nor taken apart"] = None
    differences: list[float | str] = []
    if derivatives and terms:
        differences, count = _differences([term for _, term in terms], v, tolerance)
        num_products += count
    weights: list[float | str] = []
    for number, term in terms:
        if term.batches.num_examples < 2 * (term.batches.statistics_batch or 1):
            weights.append("one example, or one batch that shares statistics, cannot be taken apart")
            continue
        only = _alone(some, number)
        is_all = op.in_memory and (op.coefficients, op.shift) == (only.coefficients, only.shift)
        weights.append(_weights(only, number, v, av if is_all else only(v), key, tolerance, asymmetry))
        num_products += 2 if is_all else 3
    # The notes on one term come together.
    for pair in itertools.zip_longest(differences, weights):
        notes |= {note: None for note in pair if isinstance(note, str)}
    cost = estimates.cost_since(began, num_products, op)
    return Check(repeat, asymmetry, _largest(differences), _largest(weights), tolerance, *cost, tuple(notes))


def _in_memory(term: Any) -> Any:
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


def _largest(found: list[float | str]) -> float | None:
    return max((error for error in found if not isinstance(error, str)), default=None)


def _default_tolerance(op: Operator) -> float:
    own, products = float(jnp.finfo(op.dtype).eps), numerics.epsilon(op.dtype, numerics.precision_name(op))
    return min(max(1e3 * own, 50 * products if products > own else 0.0), _LARGEST_TOLERANCE)


def _size(x: Any) -> float:
    """The norm of a tree like the parameters."""
    return host.norm(np.positive, x)


def _alone(op: Operator, number: int) -> Operator:
    """One term, by the program of all: the others have a coefficient of 0."""
    return dataclasses.replace(op, coefficients=tuple(float(i == number) for i in range(len(op.terms))), shift=0.0)


def _require_symmetric(op: Operator, v: Any, w: Any, tolerance: float) -> tuple[Any, float, float]:
    """A v, and the errors of repetition and symmetry."""
    av, again, aw = op(v), op(v), op(w)
    require_finite(*map(_size, (av, again, aw)))
    scale = _size(av) + _size(aw) or 1.0
    repeat = host.norm(np.subtract, av, again) / scale
    if repeat > tolerance:
        raise InputError(
            f"the operator must be deterministic: the same product came out {repeat:.1e} (relative) apart; "
            "fix dropout, augmentation and order of the data"
        )
    asymmetry = _asymmetry(op, v, w, av, aw)
    if asymmetry > tolerance and len(op.terms) > 1:
        # Terms that cancel leave the rounding of each.
        parts = sum(abs(c) * _size(_alone(op, i)(v)) for i, c in enumerate(op.coefficients))
        asymmetry *= scale / max(scale, 2 * parts)
    if asymmetry > tolerance:
        if _is_rounding(op, lambda wide: _asymmetry(wide, v, w, wide(v), wide(w))):
            raise InputError(_ROUNDING.format(op.dtype, f"v·Aw and w·Av are {asymmetry:.1e}"))
        raise InputError(
            f"the operator must be symmetric: v·Aw and w·Av are {asymmetry:.1e} (relative) apart, "
            f"tolerance {tolerance:.1e}; look for custom derivatives or a map that is not symmetric"
        )
    return av, repeat, asymmetry


def _asymmetry(op: Operator, v: Any, w: Any, av: Any, aw: Any) -> float:
    # Rounding, and what a map is wrong by, have nothing to do with v, and so only 1/√P of their size lies along it.
    difference = abs(host.inner(v, aw) - host.inner(w, av)) * math.sqrt(op.size)
    return difference / (_size(av) + _size(aw) or 1.0)


def _is_rounding(op: Operator, error_of: Callable[[Operator], float]) -> bool:
    """Whether the test that has the error `error_of(op)`, too large a one, passes in float64."""
    if op.dtype == np.float64 or not all(isinstance(term, Term) for term in op.terms):
        return False
    with jax.enable_x64(True):
        try:
            wide = op.astype(np.float64)
        except InputError:  # a function does not run there
            return False
        return error_of(wide) <= _SMALL_IN_FLOAT64


def _differences(terms: list[Term], v: Any, tolerance: float) -> tuple[list[float | str], int]:
    """The relative error of the products of each term against differences, or why not; and the number of products."""
    generator = np.random.default_rng(0)
    some = [_some_examples(term, generator) for term in terms]
    with jax.enable_x64(True), numerics.matmul_precision():
        found = finite_differences.relative_errors(some, v)
    for result in found.each:
        if not isinstance(result, str) and result[0] > max(tolerance, finite_differences.TOLERANCE):
            raise InputError(
                f"derivatives must be those of the function: {result[1]} and central differences are {result[0]:.1e} "
                "(relative) apart in float64; look for custom_jvp, custom_vjp and stop_gradient, or take "
                "derivatives=False if they are meant"
            )
    return [result if isinstance(result, str) else result[0] for result in found.each], found.num_products


def _weights(
    op: Operator, number: int, v: Any, whole: Any, key: Array, tolerance: float, asymmetry: float
) -> float | str:
    """How far products over two draws of the data are from twice the product over all, or why it is not known.

    Args:
        op: all terms, of which all but the one with this `number` have a coefficient of 0: one program serves all.
        number: of the term.
        v: a unit vector, as a tree.
        whole: the product of `op` with it.
        key: for the draws.
        tolerance: relative to the sizes of the products.
        asymmetry: that of the products, which tells their rounding.
    """
    term = op.terms[number]
    num_examples, unit = term.batches.num_examples, term.batches.statistics_batch or 1
    function = "criterion" if len(term.functions) > 1 else "loss"
    draws = _two_draws(num_examples, unit, key)

    def error_of(op: Operator, whole: Any) -> float:
        drawn = []
        for positions in draws:
            terms = (_at(other, positions) if i == number else other for i, other in enumerate(op.terms))
            drawn.append(dataclasses.replace(op, terms=tuple(terms))(v))
        apart = host.norm(lambda whole, *drawn: 2 * whole - sum(drawn), whole, *drawn)
        return apart / (sum(map(_size, drawn)) or 1.0)

    error = error_of(op, whole)
    is_one_batch = len(term.batches.cuts) == 1 and term.batches.devices is None
    if not error <= tolerance:
        if _draws_random_numbers(term):
            fault = (
                f"the {function} draws random numbers, as dropout does, which differ by batch: it is no mean over "
                "examples; take it without them, or draw for each example from a key of its own"
            )
        elif error <= _ROUNDING_FACTOR * asymmetry and _is_rounding(op, lambda wide: error_of(wide, wide(v))):
            fault = _ROUNDING.format(op.dtype, f"those over two draws of the data are {error:.1e}")
        elif is_one_batch:
            fault = _NO_MEAN.format(function)
        else:
            fault = (
                f"examples must not depend on one another: the product over {num_examples} examples and the mean over "
                f"two draws of them are {error:.1e} (relative) apart; put batch norm in eval mode or name the batch "
                "that shares statistics, Batches(statistics_batch=...), and divide by nothing that is taken from the "
                "batch but its size"
            )
        if is_one_batch:
            return fault
        raise InputError(fault)
    # Of data in batches the values were compared when the operator was made.
    return (_why_no_mean(term, function) if is_one_batch else None) or error


def _why_no_mean(term: Term, function: str) -> str | None:
    """Why the loss of all data is not the mean of those of its halves; None where it is."""
    number, unit = term.batches.num_examples, term.batches.statistics_batch or 1
    half = number // unit // 2 * unit
    with numerics.matmul_precision():
        # Halves of equal size are evaluated by one program.
        values = [loss_over(term, start, size) for start, size in ((0, number), (0, half), (half, number - half))]
    whole, first, rest = map(float, jax.device_get(values))
    tolerance = _VALUE_TOLERANCE * max(abs(whole), abs(first), abs(rest))
    if abs(whole - (half * first + (number - half) * rest) / number) <= tolerance:
        return None
    if abs(whole - first - rest) <= tolerance:
        return f"the {function} of all data is the sum over its examples; for their mean, divide it by their number"
    return _NO_MEAN.format(function)


def _draws_random_numbers(term: Term) -> bool:
    closed, *_ = traced_product(*shapes_of_product(term))
    return any(equation.primitive.name in _RANDOM for equation in equations_of(closed.jaxpr.eqns))


def _two_draws(number: int, unit: int, key: Array) -> list[np.ndarray]:
    """Positions [number] of two draws of the examples that hold each of them twice between them, in random order.

    Whole blocks of `unit` examples are drawn; those left over stay where they are.
    """
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
    blocks = generator.permutation(number // unit)
    half = len(blocks) // 2
    left = np.arange(number // unit * unit, number)
    draws = []
    for chosen in (blocks[:half], blocks[half : 2 * half]):
        order = generator.permutation(np.concatenate([chosen, chosen, blocks[2 * half :]]))
        draws.append(np.concatenate([(order[:, None] * unit + np.arange(unit)[None]).ravel(), left]))
    return draws


def _at(term: Term, positions: np.ndarray) -> Term:
    """The term over the examples at these positions, as many as there are, spread over devices as they are."""

    def take(x: Array) -> Array:
        taken = numerics.gathered(x, positions)
        return jax.device_put(taken, x.sharding) if term.batches.devices else taken

    return dataclasses.replace(
        term, batches=dataclasses.replace(term.batches, arrays=jax.tree.map(take, term.batches.arrays))
    )


def _some_examples(term: Term, generator: np.random.Generator) -> Term:
    """The term over some of its examples, drawn at random, at once and on one device."""
    number, unit = term.batches.num_examples, term.batches.statistics_batch or 1
    blocks = np.sort(generator.permutation(number // unit)[: max(_EXAMPLES // unit, 1)])
    positions = (blocks[:, None] * unit + np.arange(unit)[None]).ravel() if number > unit else np.arange(number)
    arrays = jax.tree.map(lambda x: numerics.gathered(x, positions), term.batches.arrays)
    batches = dataclasses.replace(term.batches, arrays=arrays, batch_size=None, devices=None)
    return dataclasses.replace(term, batches=batches)
