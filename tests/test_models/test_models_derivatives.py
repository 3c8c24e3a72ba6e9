"""Gradients and Hessian-vector products of every family against central differences in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from model_cases import SHALLOW, quick_jit, randomised

STEP = 1e-6

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", SHALLOW, ids=lambda case: case.label)
def test_second_derivatives_are_differences_of_first_ones(case):
    model, params, batch_stats, inputs = randomised(case, number=5)
    labels = np.arange(len(inputs)) % case.outputs

    def loss(params):
        outputs, _ = model.apply(params, batch_stats, inputs, True)
        if case.outputs == 1:
            return jnp.mean((outputs - 1.0) ** 2)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), labels[:, None], axis=1))

    with jax.enable_x64(True):
        point, unravel = ravel_pytree(jax.tree.map(jnp.asarray, params))
        direction = np.random.default_rng(7).normal(size=point.shape)
        direction /= np.linalg.norm(direction)
        both = jax.value_and_grad(lambda flat: loss(unravel(flat)))
        derivatives = quick_jit(lambda flat: jax.jvp(both, (flat,), (direction,)))
        (_, slope), (along, product) = jax.tree.map(np.asarray, derivatives(point))
        (above, up), (below, down) = (
            jax.tree.map(np.asarray, derivatives(point + sign * STEP * direction)[0]) for sign in (1, -1)
        )
    assert np.isfinite(slope).all()
    assert np.isfinite(product).all()
    assert np.linalg.norm(product) > 1e-6
    np.testing.assert_allclose(slope @ direction, along, rtol=1e-9)
    np.testing.assert_allclose(along, (above - below) / (2 * STEP), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(product, (up - down) / (2 * STEP), rtol=1e-4, atol=1e-6 * np.abs(product).max())
