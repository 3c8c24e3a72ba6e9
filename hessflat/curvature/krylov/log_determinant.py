"""The log-determinant of a damped operator, as the Laplace approximation of the evidence needs it."""

from typing import Any

from jax import Array

from hessflat.curvature.krylov.quadrature import spectrum
from hessflat.curvature.numerics.estimates import Estimate
from hessflat.curvature.operators.operator import Operator


def log_determinant(
    op: Operator, key: Array, damping: float, num_steps: int = 50, num_probes: int = 10, **options: Any
) -> Estimate:
    """The logarithm of det(A + damping I), in nats, by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    `spectrum(...).log_determinant(damping)`: one spectrum serves every damping, and says what else it knows. The
    standard error is over probes. What the quadrature itself leaves out is not in it: it is positive (Gauss
    quadrature of a function whose even derivatives are negative) and falls as exp(−4 m / √κ), with m steps and
    κ = (λ_max + damping) / (λ_min + damping).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        damping: in the units of the eigenvalues; A + damping I must be positive definite.
        num_steps: m, at most; clipped to P.
        num_probes: how many runs of that many products.
        **options: all others that `lanczos` takes.

    Raises:
        InputError: a Ritz value plus damping that is not above the noise floor, and as `lanczos`.
    """
    return spectrum(op, key, num_steps, num_probes, **options).log_determinant(damping)
