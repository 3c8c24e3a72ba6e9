"""Suprema over the cube and samples drawn from it, beside finite differences and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import data, models
from hessflat.data import generator as generators
from hessflat.measures.lipschitz import MISSES, local_matrices, local_values
from hessflat.utils.errors import InputError

SETTINGS = {"sample_sizes": (2, 8, 32), "draws": 40_000, "grid": 60}
SOURCE = {"latent": 2, "dimension": 5, "num_outputs": 3, "frequency": 1.0, "seed": 3}


@pytest.mark.long
def test_derivatives_bound_and_nearly_reach_finite_differences():
    made = generators.draw(SOURCE)
    model = models.build("mlp", 3, hidden=(8,), activation="tanh", init="he")
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), model.init(jax.random.key(0), jnp.zeros((1, 5)))[0])

        def logits(params, inputs):
            return model.apply(params, {}, inputs, False)[0]

        of_input = jax.jit(jax.jacobian(lambda x: logits(params, x[None])[0]))
        outputs = jax.jit(logits)

        def jacobian(z):
            return np.asarray(of_input(generators.push_forward(made, z[None])[0]))

        def cost(z):
            output = outputs(params, jnp.asarray(generators.push_forward(made, z[None])))
            return float(np.linalg.norm(np.asarray(output) - generators.targets(made, z[None])))

        point, step = np.array([0.3, 0.7]), 1e-6
        arrays = jax.tree.map(jnp.asarray, made)
        matrices = local_matrices(logits, params, arrays, jnp.asarray(point))
        found = {k: float(v[0]) for k, v in local_values({k: np.asarray(v)[None] for k, v in matrices.items()}).items()}
        angles = np.linspace(0, np.pi, 60)
        steps = step * np.stack([np.cos(angles), np.sin(angles)], 1)
        turned = [(jacobian(point + d) - jacobian(point - d)) / (2 * step) for d in steps]
        moved = [
            (generators.push_forward(made, (point + d)[None]) - generators.push_forward(made, (point - d)[None]))[0]
            for d in steps
        ]
        lengths = np.linalg.norm(moved, axis=1) / (2 * step)
        norms = [np.linalg.norm(jacobian(point + d), 2) - np.linalg.norm(jacobian(point - d), 2) for d in steps]
        norm = np.linalg.norm(jacobian(point), 2)
        costs = [cost(point + d) - cost(point - d) for d in steps]
    changes = np.array([np.linalg.norm(matrix, 2) for matrix in turned])
    assert found["norm"] == pytest.approx(norm, rel=1e-6)
    assert found["norm_slope"] == pytest.approx(np.abs(norms).max() / (2 * step), rel=5e-3)
    assert found["cost_slope"] == pytest.approx(np.abs(costs).max() / (2 * step), rel=5e-3)
    assert found["generator"] == pytest.approx(lengths.max(), rel=5e-3)
    for name, largest in (("jacobian_slope", changes.max()), ("jacobian", (changes / lengths).max())):
        assert largest <= found[name] * (1 + 1e-5) <= np.sqrt(2) * largest * (1 + 1e-2)


def test_the_generator_is_an_injective_immersion_and_the_same_in_both_libraries():
    made = generators.draw(SOURCE)
    points = np.random.default_rng(0).random((200, 2))
    inputs = generators.push_forward(made, points)
    for library in (generators.push_forward, generators.targets):
        ours = library(jax.tree.map(jnp.asarray, made), jnp.asarray(points, jnp.float32), jnp)
        assert np.asarray(ours) == pytest.approx(library(made, points), abs=1e-5)
    step = 1e-6
    tangents = [(generators.push_forward(made, points + step * d) - inputs) / step for d in np.eye(2)[:, None]]
    assert min(np.linalg.svd(np.stack(pair))[1][-1] for pair in zip(*tangents, strict=True)) > 0.05
    apart = np.linalg.norm(inputs[:, None] - inputs[None], axis=-1) + np.eye(200)
    assert np.min(apart / (np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(200))) > 0.05


@pytest.fixture(scope="module")
def state():
    source = SOURCE | {"num_outputs": 1, "num_examples": 64, "test_examples": 8}
    loaded = data.load("generator", source, scaling="raw", validation_fraction=0.0)
    model = models.build("mlp", 1, hidden=(6,), activation="tanh", init="he")
    params, _ = model.init(jax.random.key(1), loaded.train["inputs"][:1])
    block = {"name": "generator", "scaling": "raw", "generator": source}
    splits = {"train": {name: jnp.asarray(array) for name, array in loaded.train.items()}}
    return eval_state(model, params, {}, splits, 1, "squared_error", data=block)


@pytest.mark.slow
def test_samples_miss_as_often_as_independent_draws_do(state):
    found = measured(state, "lipschitz", **SETTINGS)
    array, scalars = found.arrays["lipschitz"], found.scalars
    expected = array["miss"][None] ** array["size"][:, None]
    error = np.sqrt(expected * (1 - expected) / array["samples"][:, None] + 1e-4)
    assert array["missed"] == pytest.approx(expected, abs=5 * error.max())
    assert np.all(np.abs(array["missed"] - expected) < 5 * error)
    assert array["misses"].tolist() == list(MISSES)
    assert scalars["lipschitz.own_norm"] <= scalars["lipschitz.norm"]
    assert np.all(np.diff(array["gap"]) < 0)
    # Means of N values are off by 1/√N: a tenth as much for 16 times as many would not do.
    assert array["deviation"][2, 1] / array["deviation"][0, 1] == pytest.approx(1 / 4, rel=0.15)
    inputs, labels = state.splits["train"]["inputs"], state.splits["train"]["labels"]
    errors = np.asarray(state.model.apply(state.params, {}, inputs, False)[0]) - np.asarray(labels)
    assert scalars["lipschitz.own_cost"] == pytest.approx(np.abs(errors).mean(), rel=1e-5)


def test_data_that_no_more_can_be_drawn_of_are_refused(state):
    with pytest.raises(InputError, match=r"needs data.name=generator and data.scaling=raw, got 'digits' scaled 'unit'"):
        measured(state._replace(data={"name": "digits", "scaling": "unit"}), "lipschitz", **SETTINGS)
    with pytest.raises(InputError, match="draws must be at least 32, the largest sample size, got 20"):
        measured(state, "lipschitz", **SETTINGS | {"draws": 20})
    with pytest.raises(InputError, match=r"dimension must be at least generator.latent = 3, got 2"):
        data.load("generator", {"latent": 3, "dimension": 2}, scaling="raw")
