"""Products of curvature matrices against central differences of the functions that they are made of.

Call `relative_errors` in 64-bit mode. Several step widths are tried and the best agreement counts: wide steps cross the
kinks of ReLU, narrow ones drown in rounding, and a derivative that is wrong is wrong at all of them. They are taken
near the parameters and not at them: exactly there may be a kink, of ReLU for rows of zeros and biases that are zero, of
an L1 norm at weights that are zero, where a derivative is a convention and no limit of differences.

One program evaluates all terms, so that there is one to compile. Vectors are trees that lie where the parameters lie.
On one CPU they are NumPy's, with nothing to compile to add them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import host, vectors
from hessflat.curvature.operators.matrices import gauss_newton_product, hessian_product
from hessflat.curvature.operators.terms import Term, bound_functions, term_product
from hessflat.curvature.vectors import layout_for
from hessflat.utils import compat, hardware
from hessflat.utils.convolution import canonical, equations_of

# Step widths relative to the size of the varied quantity, those first that agree best for most functions.
_STEPS = (1e-5, 1e-6, 1e-4, 1e-7, 1e-8)

# Errors below it end the search for a better step width.
_CLOSE = 1e-7

# Distance from the parameters, relative to their norm: ten times the widest step.
_NEARBY = 1e-3

# The accuracy of differences in float64; a wrong derivative has a much larger error.
TOLERANCE = 1e-4

# Derivatives below this multiple of the function count as zero.
_NEGLIGIBLE = 1e-6


class Errors(NamedTuple):
    """What differences say of each term."""

    each: list[tuple[float, str] | str]  # the largest relative error and what it is of, or why there is none to be had
    num_products: int  # evaluations of the functions with a product


def relative_errors(terms: Sequence[Term], vector: Any) -> Errors:
    """The relative errors of products and gradients, in the coordinates of the parameters themselves.

    Args:
        terms: Hessian, Gauss-Newton or residual terms over the same parameters; their arrays are cast to float64 here.
        vector: a unit direction, a tree like the parameters.
    """
    terms = [_nearby(_in_float64(term)) for term in terms]
    try:
        return _of_all(terms, _in_float64(vector))
    except Exception as error:  # any error of the user's function: not to run in float64 is no fault
        if len(terms) == 1:
            line = (str(error).strip() or "no message").splitlines()[0]
            return Errors([f"a function does not run in float64: {type(error).__name__}: {line}"], 0)
    apart = [relative_errors([term], vector) for term in terms]
    return Errors([each for errors in apart for each in errors.each], sum(errors.num_products for errors in apart))


def _of_all(terms: list[Term], vector: Any) -> Errors:
    here = [term.params for term in terms]
    compiled = _evaluate_compiled_on_cpu if hardware.platform(vector) == "cpu" else _evaluate_compiled
    lengths, count = [1 + _norm(x) for x in here], 0

    def evaluate(points: Sequence[Any], vectors: Sequence[Any]) -> list[_Evaluated]:
        nonlocal count
        count += 1
        results = compiled(tuple(terms), tuple(points), tuple(vectors))
        return [_Evaluated(float(value), _as_here(out), _as_here(product)) for value, out, product in results]

    first = evaluate(here, [vector] * len(terms))
    is_scalar = [not _is_gauss_newton(term) for term in terms]
    # The direction of a scalar holds a part of the gradient, along which differences of the function are large.
    along = [
        _unit(_moved(vector, 1, _unit(at.out))) if scalar else vector
        for at, scalar in zip(first, is_scalar, strict=True)
    ]
    again = evaluate(here, along) if any(is_scalar) else first
    best = [dict[str, float]() for _ in terms]
    for width in _STEPS:
        steps = [width * length for length in lengths]
        up, down = (
            evaluate([_moved(x, sign * step, d) for x, step, d in zip(here, steps, along, strict=True)], along)
            for sign in (1, -1)
        )
        for i, term in enumerate(terms):
            change = _Change(up[i].value - down[i].value, _moved(up[i].out, -1, down[i].out), 2 * steps[i])
            at = first[i]._replace(product=again[i].product)
            if is_scalar[i]:
                errors = _of_scalar(at, along[i], change, lengths[i])
            else:
                errors = _of_outputs(term, at, along[i], change, width)
            best[i] = {what: min(error, best[i].get(what, math.inf)) for what, error in errors.items()}
        if all(error <= _CLOSE for errors in best for error in errors.values()):
            break
    return Errors([_verdict(term, errors) for term, errors in zip(terms, best, strict=True)], count)


class _Evaluated(NamedTuple):
    """A term at one point."""

    value: float  # of the scalar whose second derivative is the product; of the criterion for a Gauss-Newton term
    out: Any  # the gradient of that scalar, like the parameters; for a Gauss-Newton term the outputs
    product: Any  # like the parameters


class _Change(NamedTuple):
    """What changes between two points that are `step` apart."""

    value: float
    out: Any
    step: float


def _of_scalar(at: _Evaluated, along: Any, change: _Change, length: float) -> dict[str, float]:
    """The gradient against differences of its function, and the product against those of the gradient."""
    slope, size = _inner(at.out, along), _norm(at.out)
    return {
        "the gradient": _apart(change.value / change.step, slope, _NEGLIGIBLE * abs(at.value) / length),
        "the product": _trees_apart(_times(1 / change.step, change.out), at.product, _NEGLIGIBLE * size / length),
    }


def _of_outputs(term: Term, at: _Evaluated, along: Any, change: _Change, width: float) -> dict[str, float]:
    """V·G v against differences of the outputs, and of the criterion's gradient along those; and that gradient."""
    reach = 1 + _norm(at.out)

    def criterion(outputs: Any) -> tuple[float, Any]:
        value, gradient = _criterion(term, outputs)
        return float(value), _as_here(gradient)

    value, gradient = criterion(at.out)
    size = _norm(gradient)
    velocity = _times(1 / change.step, change.out)
    speed = _norm(velocity)
    form = _inner(along, at.product)
    step = width * reach
    (up, _), (down, _) = (criterion(_moved(at.out, sign * step, _unit(gradient))) for sign in (1, -1))
    errors = {
        "the criterion's gradient": _apart((up - down) / (2 * step), size, _NEGLIGIBLE * abs(value) / reach),
        "the product": _apart(0.0, form, 0.0),
    }
    if speed:
        (_, ahead), (_, behind) = (criterion(_moved(at.out, sign * step / speed, velocity)) for sign in (1, -1))
        bent = _times(speed / (2 * step), _moved(ahead, -1, behind))
        # Terms of both signs may cancel, as may all of them for a criterion that is linear.
        floor = max(1e-3 * _norm(bent), _NEGLIGIBLE * speed * size / reach) * speed
        errors["the product"] = _apart(_inner(velocity, bent), form, floor)
    return errors


def _verdict(term: Term, errors: dict[str, float]) -> tuple[float, str] | str:
    what, worst = max(errors.items(), key=lambda item: item[1])
    if worst == math.inf:
        return "a function is not finite near the parameters, where differences are taken"
    if worst > TOLERANCE and _rounds(term):
        return "a function rounds to less than float64 on the way, so that differences prove nothing"
    return worst, what


def _in_float64(tree: Any) -> Any:
    """Trees and terms with what is floating in float64, where it lies."""

    def cast(leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        # NumPy compiles no program for every shape.
        whole = hardware.mesh_of("params", leaf) is None
        return jax.device_put(np.asarray(leaf, np.float64)) if whole else leaf.astype(np.float64)

    tree = jax.tree.map(cast, tree)
    return dataclasses.replace(tree, narrow=False, scalings=()) if isinstance(tree, Term) else _as_here(tree)


def _as_here(tree: Any) -> Any:
    """A tree as vectors are added: as it lies, or as NumPy's on one CPU."""
    if hardware.platform(tree) != "cpu" or hardware.mesh_of("params", tree) is not None:
        return tree
    return jax.tree.map(np.asarray, tree)


def _nearby(term: Term) -> Term:
    here, layout = _as_here(term.params), layout_for(term.params)
    if layout.mesh is None:
        generator = np.random.default_rng(0)
        noise = _unit(jax.tree.map(lambda x: generator.standard_normal(x.shape), here))
    else:
        noise = vectors.to_tree(layout, vectors.draw(layout, jax.random.key(0), "gaussian"))
    return dataclasses.replace(term, params=_moved(here, _NEARBY * (1 + _norm(here)), noise))


def _is_gauss_newton(term: Term) -> bool:
    return term.product is gauss_newton_product


def _evaluate(terms: tuple[Term, ...], points: tuple[Any, ...], vectors: tuple[Any, ...]) -> list[Any]:
    """The value, gradient or outputs, and product of each term: what `_Evaluated` holds."""

    def one(term: Term, point: Any, vector: Any) -> Any:
        there = dataclasses.replace(term, params=point)
        product = term_product(there, vector)
        functions, batch = bound_functions(term), term.batches.arrays
        if term.product is gauss_newton_product:
            return jnp.zeros(()), functions[0](point, batch), product
        if term.product is hessian_product:
            function = lambda p: functions[0](p, batch)  # noqa: E731
        else:  # the outputs along ∇_f ℓ, which is held fixed
            predict, criterion = functions
            weights = jax.grad(criterion)(predict(term.params, batch), batch)
            function = lambda p: _vdot(weights, predict(p, batch))  # noqa: E731
        return *jax.value_and_grad(function)(point), product

    return [
        canonical(one, term.engine)(term, point, vector)
        for term, point, vector in zip(terms, points, vectors, strict=True)
    ]


_evaluate_compiled = jax.jit(_evaluate)
# On a CPU machine code that is not optimised takes half the time to compile, and little more over few examples.
_evaluate_compiled_on_cpu = jax.jit(_evaluate, compiler_options={"xla_backend_optimization_level": "0"})


@jax.jit
def _criterion(term: Term, outputs: Any) -> tuple[Array, Any]:
    return jax.value_and_grad(bound_functions(term)[1])(outputs, term.batches.arrays)


def _vdot(a: Any, b: Any) -> Array:
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)), jnp.zeros(()))


def _inner(a: Any, b: Any) -> float:
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((a, b))):
        return host.inner(a, b)
    return float(sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)))


def _norm(x: Any) -> float:
    return math.sqrt(_inner(x, x))


def _times(factor: float, x: Any) -> Any:
    return jax.tree.map(lambda leaf: factor * leaf, x)


def _moved(x: Any, step: float, direction: Any) -> Any:
    return jax.tree.map(lambda a, b: a + step * b, x, direction)


def _unit(x: Any) -> Any:
    size = _norm(x)
    return _times(1 / size, x) if size > 0 else x


def _apart(a: float, b: float, negligible: float) -> float:
    """|a − b| relative to the larger of the two, or to what is negligible where both are less; inf for no number."""
    return _relative(abs(a - b), max(abs(a), abs(b), negligible))


def _trees_apart(a: Any, b: Any, negligible: float) -> float:
    """`_apart` of vectors, by their norms."""
    return _relative(_norm(_moved(a, -1, b)), max(_norm(a), _norm(b), negligible))


def _relative(error: float, scale: float) -> float:
    error = error / scale if scale else 0.0
    return error if math.isfinite(error) else math.inf


def _rounds(term: Term) -> bool:
    """Whether anything that depends on the parameters or the vector is narrower than float64."""

    def product(params: Any, vector: Any) -> Any:
        return term_product(dataclasses.replace(term, params=params), vector)

    jaxpr = jax.make_jaxpr(canonical(product, term.engine))(term.params, term.params).jaxpr
    depends = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if not depends.isdisjoint(v for v in equation.invars if not isinstance(v, compat.Literal)):
            depends.update(equation.outvars)
            if any(_is_narrow(variable) for e in equations_of([equation]) for variable in e.outvars):
                return True
    return False


def _is_narrow(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.floating) and variable.aval.dtype.itemsize < 8
