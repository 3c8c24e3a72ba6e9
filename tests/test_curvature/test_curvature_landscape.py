from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params, predict
from numpy.testing import assert_allclose

from hessflat.curvature.landscape import along, line, plane
from hessflat.curvature.operators.terms import Batches
from hessflat.utils.errors import InputError


def loss_and_accuracy(params, batch):
    right = predict(params, batch).argmax(axis=1) == batch["y"]
    return {"loss": loss(params, batch), "accuracy": right.mean()}


def bowl(params, batch):
    """½ (w − mean x)ᵀ diag(1, 2) (w − mean x), up to a constant that the examples give."""
    return 0.5 * jnp.mean(((params["w"][None] - batch) ** 2) @ jnp.array([1.0, 2.0], batch.dtype))


def bowl_by_hand(w, x):
    return 0.5 * np.mean(((np.asarray(w, np.float64)[None] - x) ** 2) @ [1.0, 2.0])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_values_on_and_beyond_the_segment(seed):
    a, b, batch = mlp_params(5, 3, seed=seed), mlp_params(5, 3, seed=seed + 10), examples(11, 5, 3)
    alphas = [-0.5, 0, 0.25, 1, 2]
    found = line(loss_and_accuracy, a, b, alphas, Batches(batch, 4))
    points = [jax.tree.map(lambda x, y, t=t: (1 - t) * x + t * y, a, b) for t in alphas]
    assert_allclose(found.values["loss"], [loss(p, batch) for p in points], rtol=1e-5)
    assert_allclose(found.values["accuracy"], [loss_and_accuracy(p, batch)["accuracy"] for p in points], rtol=1e-5)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(p)]) for p in (a, b)]
    assert_allclose(found.distance, np.linalg.norm(flat[1] - flat[0]), rtol=1e-6)
    assert found.num_evaluations == 5
    assert found.precision == "highest"


def test_the_ends_are_the_points_themselves_to_the_last_bit():
    a, b, batch = mlp_params(5, 3), mlp_params(5, 3, seed=1), examples(11, 5, 3)
    ends = line(loss, a, b, [0, 1], batch).values
    there = line(loss, a, a, [0], batch).values, line(loss, b, b, [0], batch).values
    assert_allclose(ends, np.concatenate(there), rtol=0)


@pytest.mark.parametrize("batch_size", [None, 1, 4, 7])
def test_batches_do_not_change_a_mean(batch_size):
    x = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    found = line(bowl, {"w": jnp.zeros(2)}, {"w": jnp.ones(2)}, [0.0, 0.5], Batches(x, batch_size))
    assert_allclose(found.values, [bowl_by_hand([0, 0], x), bowl_by_hand([0.5, 0.5], x)], rtol=1e-6)


def test_along_a_direction_in_its_own_units():
    x, direction = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32), np.array([3.0, 4.0], np.float32)
    found = along(bowl, {"w": jnp.ones(2)}, {"w": jax.device_put(direction)}, [-1, 0, 0.5], Batches(x, 4))
    assert_allclose(found.values, [bowl_by_hand(1 + t * direction, x) for t in (-1, 0, 0.5)], rtol=1e-5)
    assert_allclose(found.distance, 5)
    assert_allclose(found.alphas, [-1, 0, 0.5])


def test_a_plane_is_a_grid_of_alphas_by_betas():
    x = np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32)
    u, v = np.array([1.0, 1.0], np.float32), np.array([0.0, 2.0], np.float32)
    alphas, betas = [-1, 0, 1], [0, 0.5]
    found = plane(
        bowl, {"w": jnp.ones(2)}, {"w": jax.device_put(u)}, {"w": jax.device_put(v)}, alphas, betas, Batches(x, 4)
    )
    by_hand = [[bowl_by_hand(1 + a * u + b * v, x) for b in betas] for a in alphas]
    assert_allclose(found.values, by_hand, rtol=1e-5)
    assert_allclose([*found.distances, found.cosine], [2**0.5, 2, 0.5**0.5], rtol=1e-6)
    assert found.num_evaluations == 6


def test_state_is_a_third_argument():
    def shifted(params, batch, state):
        return jnp.mean(batch) + params.sum() + state["mean"]

    found = line(shifted, jnp.zeros(2), jnp.ones(2), [0, 1], jnp.ones(4), state={"mean": jnp.array(10.0)})
    assert_allclose(found.values, [11, 13])


def test_float64_stays_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(11, 2))
        found = along(bowl, {"w": jnp.ones(2)}, {"w": jnp.ones(2)}, [1 / 3], Batches(jax.device_put(x), 4))
        assert_allclose(found.values, [bowl_by_hand([4 / 3, 4 / 3], x)], rtol=1e-14)


def test_other_points_and_data_do_not_compile_again():
    traced = deque()  # known to the hash of a function by identity alone, whatever it holds

    def counted(params, batch):
        traced.append(1)
        return jnp.mean(batch) * params.sum()

    line(counted, jnp.zeros(2), jnp.ones(2), [0, 1], jnp.ones(4))
    before = len(traced)
    line(counted, jnp.ones(2), 3 * jnp.ones(2), np.linspace(0, 1, 7), 2 * jnp.ones(4))
    assert len(traced) == before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: line(loss, mlp_params(5, 3), mlp_params(5, 4), np.zeros(1), examples(11, 5, 3)), r"b\[0\]\[0\] must"),
        (lambda: line(loss, [], [], jnp.zeros(1), examples(11, 5, 3)), "a must be a tree of arrays"),
        (lambda: along(loss, mlp_params(5, 3), {}, [0], examples(11, 5, 3)), "direction must be a tree"),
        (lambda: along(loss, mlp_params(5, 3), mlp_params(5, 3), [], examples(11, 5, 3)), "distances must be finite"),
        (lambda: line(bowl, {"w": jnp.ones(2)}, {"w": jnp.ones(2)}, ["x"], jnp.ones((3, 2))), "alphas must be a seq"),
        (lambda: line(bowl, {"w": jnp.ones(2)}, {"w": jnp.ones(2)}, [np.nan], jnp.ones((3, 2))), "alphas must be fin"),
        (lambda: line(lambda p, x: x, jnp.ones(2), jnp.ones(2), [0], jnp.ones((3, 2))), r"means .* got shape \(3, 2\)"),
    ],
)
def test_wrong_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
