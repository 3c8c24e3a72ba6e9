"""Geodesics of the quotient by GL(h) beside the integrated equation, and horizontal as they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import solve_ivp

from hessflat.curvature.quotients import balanced, product_geodesic, rescaled
from hessflat.utils.errors import InputError


def factors(seed=0, n=5, h=3, m=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, h)), rng.normal(size=(h, m))


def test_balanced_factors_have_the_product_and_forget_the_group():
    g, h = factors()
    first, second = balanced(g, h)
    assert_allclose(first @ second, g @ h, atol=1e-12)
    assert_allclose(first.T @ first, second @ second.T, atol=1e-12)
    a = np.random.default_rng(1).normal(size=(3, 3))
    again = balanced(g @ a, np.linalg.inv(a) @ h)
    assert_allclose(np.abs(again[0]), np.abs(first), atol=1e-8)
    with pytest.raises(InputError, match=r"the quotient by GL\(4\) needs a product of rank 4, got 2 of 5 x 2; use"):
        balanced(np.ones((5, 4)) + np.eye(5)[:, :4], np.random.default_rng(0).normal(size=(4, 2)))


def metric(g, h, velocity, other):
    first = np.trace(np.linalg.inv(g.T @ g) @ velocity.T @ velocity)
    return first + np.trace(other.T @ np.linalg.inv(h @ h.T) @ other)


def integrated(point, velocity):
    """The geodesic of Tr (GᵀG)⁻¹ dGᵀdG at time 1, from its Lagrangian: d/dt (Ġ S⁻¹) = −G S⁻¹ ĠᵀĠ S⁻¹."""
    shape = point.shape

    def slope(_, packed):
        g, momentum = packed.reshape(2, *shape)
        speed = momentum @ (g.T @ g)
        inverse = np.linalg.inv(g.T @ g)
        return np.concatenate([speed.ravel(), (-g @ inverse @ speed.T @ speed @ inverse).ravel()])

    start = np.concatenate([point.ravel(), (velocity @ np.linalg.inv(point.T @ point)).ravel()])
    return solve_ivp(slope, (0, 1), start, rtol=1e-11, atol=1e-12).y[:, -1].reshape(2, *shape)[0]


def along(g, h, scale, seed=2):
    rng = np.random.default_rng(seed)
    u = scale * rng.normal(size=g.shape), scale * rng.normal(size=h.shape)
    with jax.enable_x64(True):
        ends = product_geodesic(*map(jnp.asarray, (g, h, *u)))
        tangents = jax.jvp(
            lambda t: product_geodesic(jnp.asarray(g), jnp.asarray(h), t * u[0], t * u[1]), (0.0,), (1.0,)
        )[1]
    return [np.asarray(x) for x in (*ends, *tangents)], u


def test_it_starts_at_right_angles_to_the_orbit_and_no_longer_than_u():
    g, h = balanced(*factors())
    (_, _, velocity, other), u = along(g, h, 0.1)
    for i in range(3):
        for j in range(3):
            a = np.zeros((3, 3))
            a[i, j] = 1
            inside = np.trace(np.linalg.inv(g.T @ g) @ velocity.T @ g @ a)
            assert_allclose(inside - np.trace(other.T @ np.linalg.inv(h @ h.T) @ a @ h), 0, atol=1e-10)
    length = metric(g, h, velocity, other)
    assert 0.1 * sum(np.sum(x**2) for x in u) < length < sum(np.sum(x**2) for x in u)


def test_it_is_the_geodesic_to_second_order():
    g, h = balanced(*factors())
    errors = []
    for scale in (0.1, 0.05):
        (first, second, velocity, other), _ = along(g, h, scale)
        expected = integrated(g, velocity), integrated(h.T, other.T).T
        assert np.abs(expected[0] - g - velocity).max() > 5 * np.abs(expected[0] - first).max()
        errors.append([np.abs(first - expected[0]).max(), np.abs(second - expected[1]).max()])
    # Halving u makes an error of third order eight times smaller.
    assert_allclose(np.divide(*errors), 8, rtol=0.3)


def test_factors_of_weights_are_steps_in_their_logarithms():
    params, moved = {"w": jnp.asarray([2.0, -3.0, 0.0])}, {"w": jnp.asarray([0.1, -0.2, 5.0])}
    ends = rescaled(params, {"w": jnp.ones(3)}, moved)["w"]
    assert_allclose(ends, [2 * np.exp(0.1), -3 * np.exp(-0.2), 0], rtol=1e-6)
