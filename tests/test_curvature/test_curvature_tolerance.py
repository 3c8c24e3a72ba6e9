"""The noise under which a mean rises by so much, beside a quadratic, of which it is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hessflat.curvature.operators.terms import Batches
from hessflat.curvature.tolerance import noise_tolerance
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)


def square(params, batch):
    return 0.5 * jnp.sum(params["w"] ** 2 * batch["a"].mean(axis=0))


@pytest.mark.parametrize(("allowed", "start"), [(0.1, 0.01), (40.0, 0.01), (0.1, 30.0)])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_noise_that_a_quadratic_tolerates(allowed, start, scaled):
    """½ σ² Σ a c² is the rise, in 400 dimensions nearly that of every draw."""
    rng = np.random.default_rng(0)
    a, c = rng.uniform(1, 2, (6, 400)).astype(np.float32), rng.uniform(0.5, 1.5, 400).astype(np.float32)
    found = noise_tolerance(
        square, {"w": jnp.full(400, 0.01)}, Batches({"a": a}, 4), allowed, KEY, start=start, num_draws=6,
        scales={"w": jnp.asarray(c)} if scaled else None,
    )  # fmt: skip
    expected = np.sqrt(2 * allowed / np.sum(a.astype(float).mean(axis=0) * (c.astype(float) ** 2 if scaled else 1)))
    assert abs(np.log(found.deviation / expected)) < 4 * found.relative_error + 0.002
    # The deviation of Σ a c² z² over its mean is √(2 / 400), and more where a and c vary; σ goes with its root.
    assert 0.2 < found.relative_error / (0.5 * np.sqrt(2 / 400 / 6)) < 3
    assert found.deviations[0] <= found.deviation <= found.deviations[-1]


def test_errors_of_tolerated_noise_are_those_of_other_draws():
    a, params = np.ones((2, 20), np.float32), {"w": jnp.zeros(20)}
    found = [
        noise_tolerance(square, params, {"a": a}, 1.0, jax.random.key(i), start=0.1, num_draws=8) for i in range(40)
    ]
    spread = np.log([one.deviation for one in found]).std(ddof=1)
    assert_allclose(np.sqrt(np.mean([one.relative_error**2 for one in found])), spread, rtol=0.35)


def test_a_rise_that_no_noise_makes_is_refused():
    with pytest.raises(InputError, match="noise makes the mean rise by 2 at none of the"):
        noise_tolerance(lambda w, x: jnp.tanh(jnp.sum(w**2)) + x.mean(), jnp.ones(3), jnp.ones(4), 2.0, KEY)
