import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import mlp_params
from numpy.testing import assert_allclose

from hessflat.curvature.directions import random_direction
from hessflat.utils.errors import InputError


def network(dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "norm": {"scale": (4,)}, "dense": {"kernel": (4, 5)}}
    draw = lambda s: jax.device_put(np.asarray(rng.normal(size=s) * rng.uniform(0.1, 10, size=s[-1]), dtype))  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=lambda s: isinstance(s, tuple))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_filter_has_the_norm_of_its_weights(seed):
    params = network()
    found = random_direction(jax.random.key(seed), params, "filter")
    for layer in ("conv", "dense"):
        for output in range(params[layer]["kernel"].shape[-1]):
            filters = [np.asarray(tree[layer]["kernel"][..., output]) for tree in (found.vector, params)]
            assert_allclose(*map(np.linalg.norm, filters), rtol=1e-5)
            assert abs(np.corrcoef(*map(np.ravel, filters))[0, 1]) < 0.99
    assert not np.any(found.vector["conv"]["bias"])
    assert not np.any(found.vector["norm"]["scale"])
    kernels = [np.linalg.norm(params[layer]["kernel"]) for layer in ("conv", "dense")]
    assert_allclose(found.norm, np.linalg.norm(kernels), rtol=1e-5)


def test_every_layer_has_the_norm_of_its_weights():
    params = network()
    found = random_direction(jax.random.key(0), params, "layer").vector
    for layer in ("conv", "dense"):
        norms = [np.linalg.norm(tree[layer]["kernel"]) for tree in (found, params)]
        assert_allclose(*norms, rtol=1e-5)
        assert np.linalg.norm(found[layer]["kernel"][..., 0]) != pytest.approx(
            np.linalg.norm(params[layer]["kernel"][..., 0]), rel=1e-3
        )


def test_a_unit_direction_has_norm_one_over_everything():
    found = random_direction(jax.random.key(0), mlp_params(30, 20), "unit")
    flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.vector)])
    assert_allclose(np.linalg.norm(flat), 1, rtol=1e-6)
    assert found.norm == 1
    assert np.count_nonzero(found.vector[0][1]) == 20


def test_rescaling_two_relu_layers_changes_no_value_along_the_direction():
    """Layer one times 8 and layer two divided by 8 is the same function: so must be its landscape."""
    params = [(w, 0 * b) for w, b in mlp_params(6, 8, 3)]
    scaled = [(8 * params[0][0], params[0][1]), (params[1][0] / 8, params[1][1])]
    x = jax.device_put(np.float32(np.random.default_rng(0).normal(size=(9, 6))))

    def moved(params):
        direction = random_direction(jax.random.key(1), params, "filter").vector
        (first, _), (second, _) = jax.tree.map(lambda p, d: p + 0.3 * d, params, direction)
        return jax.nn.relu(x @ first) @ second

    assert_allclose(moved(params), moved(scaled), rtol=1e-4, atol=1e-5)


def test_dead_filters_and_types_are_kept():
    params = {"w": jnp.ones((3, 2), jnp.bfloat16).at[:, 0].set(0), "b": jnp.ones(2)}
    found = random_direction(jax.random.key(0), params)
    assert not np.any(np.asarray(found.vector["w"][:, 0], np.float32))
    assert found.vector["w"].dtype == jnp.bfloat16
    with jax.enable_x64(True):
        assert random_direction(jax.random.key(0), network(np.float64)).vector["dense"]["kernel"].dtype == np.float64


@pytest.mark.parametrize(
    ("params", "normalise", "message"),
    [
        ({"w": jnp.ones((3, 2))}, "filters", "unknown normalisation 'filters'; did you mean 'filter'"),
        ({"b": jnp.ones(3)}, "filter", "use normalise='unit'"),
        ({"b": jnp.ones((3, 3), int)}, "unit", "must be real floating point"),
    ],
)
def test_wrong_input_is_one_line(params, normalise, message):
    with pytest.raises(InputError, match=message):
        random_direction(jax.random.key(0), params, normalise)
