"""XTrace: every random vector serves the subspace of all the others, and Hutchinson's estimate of what that misses."""

from typing import NamedTuple

import numpy as np
from jax import Array

from hessflat.curvature.numerics import estimates
from hessflat.curvature.numerics.sums import dots
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.stochtrace.sketch import TraceParts, probe_vector, product, sketch
from hessflat.utils import loops


def xtrace(op: Operator, key: Array, num_products: int, loop: loops.Loop) -> TraceParts:
    """The mean over i of Tr Q_iᵀAQ_i + ω_iᵀ (I − Q_iQ_iᵀ) A (I − Q_iQ_iᵀ) ω_i (Epperly, Tropp & Webber 2024).

    Q_i is an orthonormal basis of A ω_j for all j but i; the k = num_products // 2 vectors ω are uniform on a sphere,
    and are stretched after the projection to the length that belongs to the dimensions left, as the authors do.

    Departures. The bases come from an SVD of the triangular factor and not from its inverse, so that a sketch of
    numerical rank r < k needs no special case: then Q_i is Q for every i, and k + r products are made. A ω_i gives
    Qᵀ A ω_i too, for A is symmetric. The authors' standard error is the spread s of the k estimates over √k; but these
    share vectors, and come out alike, so that it is a quarter too small. Here the squared error is s² / k + c, where c
    is the covariance of two estimates. With Δ_ij the change of estimate i when ω_j is taken from its basis as well,
    c = E[Δ_ij Δ_ji] without bias: each estimate has mean Tr A given all vectors but its own, so that every other term
    of the covariance is zero.
    """
    drawn = sketch(op, key, num_products // 2, loop)
    rank, count = drawn.coefficients.shape
    inside = np.array([dots(drawn.basis, product(op, q, loop)) for q in drawn.basis], np.float64).reshape(rank, rank)
    omega = np.array([dots(drawn.basis, probe_vector(op, key, number)) for number in range(count)], np.float64)
    small = Small(inside, omega, drawn.coefficients.T, op.size)
    own = _own_directions(small.image)
    rest = _estimates(small, slice(None), own)
    variance = estimates.standard_error(rest) ** 2 + _covariance(small, own, rest)
    error = float(np.sqrt(variance))
    return TraceParts(np.append(np.diag(inside), rest.mean()), error, count + rank)


class Small(NamedTuple):
    """Everything in the coordinates of Q, float64."""

    inside: np.ndarray  # [r, r] QᵀAQ
    omega: np.ndarray  # [k, r] Qᵀω_i
    image: np.ndarray  # [k, r] QᵀAω_i
    size: int  # P


def _own_directions(image: np.ndarray) -> np.ndarray:
    """What Q has and Q_i has not: one unit vector for each i [k, 1, r], none where the others span all [k, 0, r].

    They are the normalised rows of the pseudo-inverse of `image`, whose columns are orthogonal.
    """
    count, rank = image.shape
    if rank < count:
        return np.zeros((count, 0, rank))
    dual = image / np.sum(image**2, axis=0)
    return (dual / np.linalg.norm(dual, axis=1, keepdims=True))[:, None]


def _estimates(small: Small, which: int | slice, lost: np.ndarray) -> np.ndarray:
    """Of the probes `which`, the estimates less Tr QᵀAQ, [n], where their bases lack `lost` [n, l, r], orthonormal."""
    omega, image = np.atleast_2d(small.omega[which], small.image[which])
    along = np.sum(lost * omega[:, None], axis=2)
    kept = omega - np.sum(along[:, :, None] * lost, axis=1)
    rank = omega.shape[1]
    missing = np.sum(
        (lost.reshape(lost.shape[0] * lost.shape[1], rank) @ small.inside).reshape(lost.shape) * lost, axis=(1, 2)
    )
    # ω_iᵀ A x − pᵀ A x, with p = Q `kept` the projection of ω_i and x = ω_i − p.
    first = np.sum(along * np.sum(lost * image[:, None], axis=2), axis=1)
    rest = first - np.sum(kept * (image - kept @ small.inside), axis=1)
    left = small.size - rank + lost.shape[1]
    return rest * left / (small.size - np.sum(kept**2, axis=1)) - missing


def _covariance(small: Small, own: np.ndarray, rest: np.ndarray) -> float:
    """The mean of Δ_ij Δ_ji over all pairs; what is negative is noise, and 0."""
    count = len(rest)
    if not own.size or count == 1:
        return 0.0
    changes = np.zeros((count, count))
    for i in range(count):
        others = np.arange(count) != i
        both = _orthonormal_pairs(own[i], own[others, 0])
        changes[i, others] = rest[i] - _estimates(small, i, both)
    return max(float(np.sum(changes * changes.T)) / (count * (count - 1)), 0.0)


def _orthonormal_pairs(first: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, 2, r]: bases of the planes that a unit vector [1, r] spans with each of [n, r]."""
    for _ in range(2):
        others = others - (others @ first.T) * first
        others = others / np.linalg.norm(others, axis=1, keepdims=True)
    return np.stack([np.broadcast_to(first, others.shape), others], axis=1)
