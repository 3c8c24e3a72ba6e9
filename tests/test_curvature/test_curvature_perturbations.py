"""The largest and the mean rise of a loss beside closed forms on quadratics, in NumPy and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from hessflat.curvature.operators.terms import Batches
from hessflat.curvature.perturbations import average_case, worst_case
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
HESSIAN = np.array([[3.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.25]])


def bowl(params, batch):
    """½ (w − x)ᵀ A (w − x), the mean over examples x."""
    away = params["w"][None] - batch
    return 0.5 * jnp.mean(jnp.sum((away @ jnp.asarray(HESSIAN, away.dtype)) * away, axis=1))


def points(number, seed=0):
    return np.random.default_rng(seed).normal(size=(number, 3)).astype(np.float32)


def largest_rise(gradient, hessian, radius):
    """The maximum of gᵀu + ½ uᵀAu over ‖u‖ ≤ ρ, A positive: u = (μ − A)⁻¹ g, with μ > λ_max for which ‖u‖ = ρ."""
    values, vectors = np.linalg.eigh(hessian)
    g = vectors.T @ gradient
    mu = brentq(lambda mu: np.linalg.norm(g / (mu - values)) - radius, values[-1] + 1e-9, 1e6, xtol=1e-14)
    u = g / (mu - values)
    return g @ u + 0.5 * u @ (values * u)


@pytest.mark.parametrize("scales", [None, np.array([2.0, 0.5, 1.0])])
def test_the_worst_case_in_a_ball_is_that_of_a_quadratic(scales):
    x, w, radius = points(8), np.array([0.3, -0.2, 0.9]), 0.7
    c = np.ones(3) if scales is None else scales
    found = worst_case(
        bowl, {"w": jnp.asarray(w, jnp.float32)}, Batches(x, 4), radius, KEY, num_steps=60,
        scales=None if scales is None else {"w": jnp.asarray(scales, jnp.float32)},
    )  # fmt: skip
    expected = [
        largest_rise(c * (HESSIAN @ (w - part.mean(axis=0))), np.diag(c) @ HESSIAN @ np.diag(c), radius)
        for part in (x[:4].astype(float), x[4:].astype(float))
    ]
    assert_allclose(found.values, expected, rtol=1e-4)
    assert_allclose(found.mean, np.mean(expected), rtol=1e-4)
    assert_allclose(found.standard_error, np.std(expected, ddof=1) / 2**0.5, rtol=1e-3)
    assert found.num_evaluations == 61


def test_the_worst_case_in_a_cube_is_at_the_best_corner():
    x, w, radius = points(6, seed=1), np.array([3.0, -2.0, 9.0]), 0.4
    found = worst_case(bowl, {"w": jnp.asarray(w, jnp.float32)}, x, radius, KEY, ball="linf", num_steps=20)
    corners = radius * np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    gradient = HESSIAN @ (w - x.astype(float).mean(axis=0))
    expected = max(gradient @ u + 0.5 * u @ HESSIAN @ u for u in corners)
    assert_allclose(found.mean, expected, rtol=1e-5)
    assert np.isnan(found.standard_error)


def test_one_step_is_that_of_sam():
    params, batch, radius = mlp_params(5, 4, 3), examples(11, 5, 3), 0.3
    found = worst_case(loss, params, batch, radius, KEY, num_steps=1)
    gradient = jax.grad(loss)(params, batch)
    length = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(gradient)))
    there = jax.tree.map(lambda w, g: w + radius * g / length, params, gradient)
    assert_allclose(found.mean, float(loss(there, batch)) - float(loss(params, batch)), rtol=1e-4)


def test_at_a_minimum_it_leaves_and_finds_the_sharpest_direction():
    x = np.zeros((5, 3), np.float32)
    found = worst_case(bowl, {"w": jnp.zeros(3)}, x, 0.1, KEY, num_steps=60)
    assert_allclose(found.mean, 0.5 * 0.01 * np.linalg.eigvalsh(HESSIAN)[-1], rtol=1e-4)


@pytest.mark.parametrize("ball", ["l2", "linf"])
def test_more_steps_never_find_less_where_the_loss_is_convex(ball):
    x, params = points(8), {"w": jnp.asarray([0.3, -0.2, 0.9])}
    rises = [worst_case(bowl, params, x, 0.5, KEY, ball=ball, num_steps=n).mean for n in range(1, 9)]
    assert np.all(np.diff(rises) >= -1e-6)
    assert rises[-1] > rises[0] or ball == "linf"  # whose first corner may be the best one


@pytest.mark.parametrize("scales", [None, np.array([2.0, 0.5, 0.0])])
def test_the_average_is_half_the_trace_by_the_variance(scales):
    x, w, radius = points(1024), np.array([0.3, -0.2, 0.9]), 0.5
    c = np.ones(3) if scales is None else scales
    found = average_case(
        bowl, {"w": jnp.asarray(w, jnp.float32)}, Batches(x, 8), radius, KEY, num_draws=8,
        scales=None if scales is None else {"w": jnp.asarray(scales, jnp.float32)},
    )  # fmt: skip
    expected = 0.5 * radius**2 * np.trace(np.diag(c) @ HESSIAN @ np.diag(c))
    assert abs(found.mean - expected) < 4 * found.standard_error
    assert found.standard_error < 0.05 * expected


def test_a_last_batch_that_is_short_is_left_out():
    x, params = points(10), {"w": jnp.ones(3)}
    assert_allclose(
        worst_case(bowl, params, Batches(x, 4), 0.1, KEY).values,
        worst_case(bowl, params, Batches(x[:8], 4), 0.1, KEY).values,
    )


def test_weights_of_examples_count():
    x, params, weights = points(4), {"w": jnp.ones(3)}, jnp.asarray([1.0, 1.0, 0.0, 0.0])

    def masked(params, batch):
        rows, mask = batch["x"], batch["mask"]
        each = jnp.stack([bowl(params, row[None]) for row in rows])
        return jnp.sum(mask * each) / jnp.sum(mask)

    found = worst_case(masked, params, Batches({"x": x, "mask": weights}, weights="mask"), 0.1, KEY)
    assert_allclose(found.mean, worst_case(bowl, params, x[:2], 0.1, KEY).mean, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"radius": 0.0}, "radius must be above 0, got 0"),
        ({"ball": "l1"}, "unknown ball 'l1'"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1, got 0"),
        ({"scales": {"w": jnp.ones(2)}}, r"scales\['w'\] must have shape \(3,\), got \(2,\)"),
        (
            {"radius": 1e30},
            "the loss or its gradient is not finite near these parameters; look at it, or lower the radius",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, line):
    arguments = {"radius": 0.1, **arguments}
    with pytest.raises(InputError, match=line):
        worst_case(bowl, {"w": jnp.ones(3)}, points(4), arguments.pop("radius"), KEY, **arguments)


def test_a_gradient_that_is_not_finite_is_no_worst_case():
    def loss(params, batch):
        return jnp.mean(batch) + jnp.sqrt(jnp.abs(params["w"] - params["w"])).sum()

    with pytest.raises(InputError, match="the loss or its gradient is not finite near these parameters"):
        worst_case(loss, {"w": jnp.ones(3)}, points(4), 0.5, KEY, num_steps=2)
