"""Products of a curvature matrix against central differences of the functions that it is made of.

Call `relative_error` in 64-bit mode. Several step widths are tried and the best agreement counts: wide steps cross the
kinks of ReLU, narrow ones drown in rounding, and a derivative that is wrong is wrong at all of them. They are taken
near the parameters and not at them: exactly there may be a kink, of ReLU for rows of zeros and biases that are zero, of
an L1 norm at weights that are zero, where a derivative is a convention and no limit of differences.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, trees
from hessflat.curvature.operators.matrices import gauss_newton_product, hessian_product
from hessflat.curvature.operators.terms import Term, bound_functions, term_product
from hessflat.utils import compat
from hessflat.utils.convolution import canonical, equations_of

# Step widths relative to the size of the varied quantity.
_STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)

# Distance from the parameters, relative to their norm: ten times the widest step.
_NEARBY = 1e-3

# The accuracy of differences in float64; a wrong derivative has a much larger error.
TOLERANCE = 1e-4

# Derivatives below this multiple of the function count as zero.
_NEGLIGIBLE = 1e-6


def relative_error(term: Term, vector: Array) -> tuple[float, str] | str:
    """The largest relative error and what it is of, or why there is none to be had.

    Args:
        term: a Hessian, Gauss-Newton or residual term; its arrays are cast to float64 here.
        vector: [P] unit direction.
    """
    term = _nearby(dataclasses.replace(trees.cast(term, np.float64), narrow=False))
    tree = numerics.unravel(term.params, jnp.asarray(vector, np.float64))
    try:
        rounds = _rounds(term, tree)
        product = _product(term, tree)
        errors = _of_outputs(term, tree, product) if _is_gauss_newton(term) else _of_scalar(term, tree, product)
    except Exception as error:  # any error of the user's function: not to run in float64 is no fault
        return f"a function does not run in float64: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
    worst = max(errors, key=lambda error: error[0])
    if rounds and worst[0] > TOLERANCE:
        return "a function rounds to less than float64 on the way, so that differences prove nothing"
    return worst


def _nearby(term: Term) -> Term:
    random, leaves = np.random.default_rng(0), jax.tree.leaves(term.params)
    noise = [random.standard_normal(leaf.shape) for leaf in leaves]
    length = _NEARBY * (1 + _norm(term.params)) / np.sqrt(sum(leaf.size for leaf in leaves))
    moved = [leaf + jnp.asarray(length * step, leaf.dtype) for leaf, step in zip(leaves, noise, strict=True)]
    return dataclasses.replace(term, params=jax.tree.unflatten(jax.tree.structure(term.params), moved))


def _is_gauss_newton(term: Term) -> bool:
    return term.product is gauss_newton_product


def _of_scalar(term: Term, v: Any, product: Any) -> list[tuple[float, str]]:
    """A gradient against differences of its function along itself, and the product against those of the gradient."""
    value, gradient = _scalar(term, term.params)
    length = 1 + _norm(term.params)
    size = _norm(gradient)
    along = _scaled(gradient, 1 / size if size > 0 else 0.0)

    def slope(step: float) -> float:
        (up, _), (down, _) = (_scalar(term, _moved(term.params, along, sign * step)) for sign in (1, -1))
        return float(up - down) / (2 * step)

    def change(step: float) -> Any:
        (_, up), (_, down) = (_scalar(term, _moved(term.params, v, sign * step)) for sign in (1, -1))
        return _scaled(_moved(up, down, -1), 1 / (2 * step))

    steps = [step * length for step in _STEPS]
    first = min(_apart(slope(step), size, _NEGLIGIBLE * abs(float(value)) / length) for step in steps)
    second = min(_apart(change(step), product, _NEGLIGIBLE * size / length) for step in steps)
    return [(first, "the gradient"), (second, "the product")]


def _of_outputs(term: Term, v: Any, product: Any) -> list[tuple[float, str]]:
    """V·G v against differences of the outputs, and of the criterion's gradient along those; and that gradient."""
    outputs = _outputs(term, term.params)
    value, gradient = _criterion(term, outputs)
    length, reach, size = 1 + _norm(term.params), 1 + _norm(outputs), _norm(gradient)
    form = _dot(v, product)

    def quadratic(step: float) -> float:
        up, down = (_outputs(term, _moved(term.params, v, sign * step * length)) for sign in (1, -1))
        change = _scaled(_moved(up, down, -1), 1 / (2 * step * length))
        speed = _norm(change)
        if speed == 0:
            return _apart(0.0, form, 0.0)
        unit = _scaled(change, 1 / speed)
        (_, up), (_, down) = (_criterion(term, _moved(outputs, unit, sign * step * reach)) for sign in (1, -1))
        bent = _scaled(_moved(up, down, -1), speed / (2 * step * reach))
        # Terms of both signs may cancel, as may all of them for a criterion that is linear.
        floor = max(1e-3 * _norm(bent), _NEGLIGIBLE * speed * size / reach) * speed
        return _apart(_dot(change, bent), form, floor)

    along = _scaled(gradient, 1 / size if size > 0 else 0.0)

    def slope(step: float) -> float:
        (up, _), (down, _) = (_criterion(term, _moved(outputs, along, sign * step)) for sign in (1, -1))
        return float(up - down) / (2 * step)

    first = min(_apart(slope(step * reach), size, _NEGLIGIBLE * abs(float(value)) / reach) for step in _STEPS)
    return [(first, "the criterion's gradient"), (min(map(quadratic, _STEPS)), "the product")]


@jax.jit
def _product(term: Term, vector: Any) -> Any:
    return canonical(term_product, term.engine)(term, vector)


@jax.jit
def _scalar(term: Term, params: Any) -> tuple[Array, Any]:
    """What the product is the second derivative of, and its gradient: the loss, or the outputs along ∇_f ℓ."""
    functions, batch = bound_functions(term), term.batches.arrays
    if term.product is hessian_product:
        function = lambda p: functions[0](p, batch)  # noqa: E731
    else:
        predict, criterion = functions
        weights = jax.grad(criterion)(predict(term.params, batch), batch)
        function = lambda p: _vdot(weights, predict(p, batch))  # noqa: E731
    result: tuple[Array, Any] = canonical(jax.value_and_grad(function), term.engine)(params)
    return result


@jax.jit
def _outputs(term: Term, params: Any) -> Any:
    return bound_functions(term)[0](params, term.batches.arrays)


@jax.jit
def _criterion(term: Term, outputs: Any) -> tuple[Array, Any]:
    return jax.value_and_grad(bound_functions(term)[1])(outputs, term.batches.arrays)


@jax.jit
def _moved(x: Any, direction: Any, step: Any) -> Any:
    return jax.tree.map(lambda a, b: a + step * b, x, direction)


@partial(jax.jit, inline=True)
def _scaled(x: Any, factor: float) -> Any:
    return jax.tree.map(lambda a: factor * a, x)


@partial(jax.jit, inline=True)
def _vdot(a: Any, b: Any) -> Array:
    return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(b)), jnp.zeros(()))


def _dot(a: Any, b: Any) -> float:
    return float(_vdot(a, b))


def _norm(x: Any) -> float:
    return float(jnp.sqrt(_vdot(x, x)))


def _apart(a: Any, b: Any, negligible: float) -> float:
    """‖a − b‖ relative to the larger of the two, or to what is negligible where both are less."""
    scale = max(_norm(a), _norm(b), negligible)
    return _norm(_moved(a, b, -1.0)) / scale if scale > 0 else 0.0


def _rounds(term: Term, vector: Any) -> bool:
    """Whether anything that depends on the parameters or the vector is narrower than float64."""

    def product(params: Any, vector: Any) -> Any:
        return term_product(dataclasses.replace(term, params=params), vector)

    jaxpr = jax.make_jaxpr(canonical(product, term.engine))(term.params, vector).jaxpr
    depends = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if not depends.isdisjoint(v for v in equation.invars if not isinstance(v, compat.Literal)):
            depends.update(equation.outvars)
            if any(_is_narrow(variable) for e in equations_of([equation]) for variable in e.outvars):
                return True
    return False


def _is_narrow(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.floating) and variable.aval.dtype.itemsize < 8
