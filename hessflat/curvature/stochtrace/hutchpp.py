"""Hutch++: the trace on a random subspace that holds the large eigenvalues, plus Hutchinson's estimate of the rest."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature.numerics import probes, sums
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.stochtrace.hutchinson import quadratic
from hessflat.curvature.stochtrace.sketch import TraceParts, product, sketch
from hessflat.utils import loops


def hutchpp(op: Operator, key: Array, num_products: int, loop: loops.Loop) -> TraceParts:
    """Tr A = Tr QᵀAQ + Tr B with B = (I − QQᵀ) A (I − QQᵀ), Q an orthonormal basis of A S for random S.

    Algorithm 1 of Meyer, Musco, Musco & Woodruff 2021: a third of the products each for A S, for A Q and for Tr B.
    Q does not depend on the probes of Tr B, which are therefore independent and unbiased whatever Q is.

    Departures. Where A S has a numerical rank below its width, Q is cut to that, and the products saved are not made.
    Probes are uniform on the sphere of the d dimensions that Q leaves, which takes the variance of their lengths out;
    one of them has the variance 2 d / (d + 2) (‖B‖²_F − Tr² B / d), and as ‖B v‖² estimates ‖B‖²_F from the same
    products, the standard error comes from that formula: of ten samples it is far steadier than their spread.
    """
    width = num_products // 3
    sketch_key, rest_key = jax.random.split(key)
    basis = sketch(op, sketch_key, width, loop).basis
    inside = np.array([jnp.vdot(q, product(op, q, loop)) for q in basis], np.float64)
    samples = []
    for number in range(num_products - 2 * width):
        vector = _draw_outside(basis, probes.draw(rest_key, op.size, op.dtype, "gaussian", number))
        samples.append(_quadratic_outside(basis, vector, product(op, vector, loop)))
    first, second, scale = np.array(samples, np.float64).T
    left = op.size - len(inside)
    trace, square = left * np.mean(scale * first), left * np.mean(scale**2 * second)
    variance = 2 * left / (left + 2) * max(square - trace**2 / left, 0.0)
    error = float(np.sqrt(variance / len(samples)))
    return TraceParts(np.append(inside, trace), error, len(inside) + num_products - width)


@jax.jit
def _draw_outside(basis: Array, vector: Array) -> Array:
    """The part of a vector orthogonal to the rows of `basis`, with length 1."""
    outside = _project(basis, vector)
    return outside / jnp.linalg.norm(outside)


@jax.jit
def _quadratic_outside(basis: Array, vector: Array, product: Array) -> Array:
    return quadratic(vector, _project(basis, product))


def _project(basis: Array, vector: Array) -> Array:
    for _ in range(2):  # once leaves rounding that is relative to what is taken out, and not to what stays
        vector = vector - sums.dots(basis, vector) @ basis
    return vector
