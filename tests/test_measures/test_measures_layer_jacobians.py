"""Eq. 4 of *On progressive sharpening* layer by layer: beside matrices multiplied out by hand in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

from hessflat import models
from hessflat.measures import Protocol, layer_jacobians
from hessflat.training.optimisation import LOSSES
from hessflat.utils.errors import InputError


def state_at(model, params, statistics, inputs, label_smoothing=0.0):
    split = {"inputs": inputs, "labels": jnp.arange(len(inputs)) % 3}
    splits = {"train": split, "test": split}
    return eval_state(model, params, statistics, splits, label_smoothing=label_smoothing)


def eq_4(state):
    """What `layer_jacobians` says of the first seven examples."""
    return measured(state, "layer_jacobians", layer_examples=7).scalars


def network(size=5, **settings):
    inputs = jax.random.normal(jax.random.key(0), (9, size))
    model = models.build("mlp", 3, hidden=(4, 6), activation="tanh", **settings)
    params, statistics = model.init(jax.random.key(1), inputs[:1])
    params = jax.tree.map(lambda x: 1.5 * x, params)
    # Running averages that are not those at the start, whose derivative would be that of nothing.
    statistics = jax.tree.map(lambda x: 1.3 * x + 0.2 * jnp.arange(x.size), statistics)
    return state_at(model, params, statistics, inputs)


@pytest.mark.slow
def test_it_is_the_chain_rule_by_hand():
    state = network()
    found = eq_4(state)
    layers = [state.params[f"Dense_{index}"] for index in range(3)]
    kernels, biases = ([np.asarray(layer[name], float) for layer in layers] for name in ("kernel", "bias"))
    summands, norms, rows = [[] for _ in layers], {name: [] for name in ("after", "whole", "product")}, []
    for x in np.asarray(state.splits["train"]["inputs"][:7], float):
        h1 = np.tanh(x @ kernels[0] + biases[0])
        h2 = np.tanh(h1 @ kernels[1] + biases[1])
        logits = h2 @ kernels[2] + biases[2]
        p = np.exp(logits) / np.exp(logits).sum()
        # From what a layer puts out, before its tanh, to what the next one does.
        between = [kernels[1].T * (1 - h1**2), kernels[2].T * (1 - h2**2)]
        after = [between[1] @ between[0], between[1], np.eye(3)]
        root = np.linalg.cholesky(np.diag(p) - np.outer(p, p) + 1e-13 * np.eye(3)) / np.sqrt(7)
        blocks = [
            root.T @ jacobian @ np.hstack([np.kron(np.eye(len(b)), before), np.eye(len(b))])
            for jacobian, before, b in zip(after, (x, h1, h2), biases, strict=True)
        ]
        for summand, block in zip(summands, blocks, strict=True):
            summand.append(block)
        rows.append(np.hstack(blocks))
        norms["after"].append(np.linalg.norm(after[0], 2))
        norms["whole"].append(np.linalg.norm(after[0] @ kernels[0].T, 2))
        norms["product"].append(np.linalg.norm(between[0], 2) * np.linalg.norm(between[1], 2))
    for index, summand in enumerate(summands):
        largest = np.linalg.norm(np.vstack(summand), 2) ** 2
        assert found[f"layers.Dense_{index}.lambda_max"] == pytest.approx(largest, rel=1e-9)
    assert found["layers.lambda_max"] == pytest.approx(np.linalg.norm(np.vstack(rows), 2) ** 2, rel=1e-9)
    assert found["layers.difference"] < 1e-12
    assert found["layers.after_first"] == pytest.approx(max(norms["after"]), rel=1e-9)
    assert found["layers.Dense_0.jacobian"] == found["layers.after_first"]
    assert found["layers.Dense_2.jacobian"] == pytest.approx(1)
    assert found["layers.input_output"] == pytest.approx(max(norms["whole"]), rel=1e-9)
    assert found["layers.product"] == pytest.approx(max(norms["product"]), rel=1e-9)


@pytest.mark.slow
def test_layers_of_batch_norm_are_layers_too():
    found = eq_4(network(batch_norm=True))
    assert found["layers.difference"] < 1e-12
    names = [key.split(".")[1] for key in found if key.endswith(".jacobian")]
    assert names == ["Dense_0", "BatchNorm_0", "Dense_1", "BatchNorm_1", "Dense_2"]
    assert found["layers.after_first"] == found["layers.Dense_0.jacobian"]
    assert found["layers.product"] >= found["layers.after_first"]


@pytest.mark.slow
def test_parameters_that_are_of_no_layer_are_found_out():
    model = models.build("deep_linear", 3, hidden=(4,))
    inputs = jax.random.normal(jax.random.key(0), (7, 5))
    params, statistics = model.init(jax.random.key(1), inputs[:1])

    def apply(params, statistics, inputs, train):
        logits, statistics = model.apply(params, statistics, inputs, train)
        return logits * jnp.sum(params["Dense_0"]["kernel"]), statistics

    found = eq_4(state_at(models.Model(model.init, apply), params, statistics, inputs))
    assert found["layers.difference"] > 0.01


def test_a_layer_that_is_passed_through_twice_is_refused():
    model = models.build("deep_linear", 5, hidden=())
    inputs = jnp.ones((7, 5))
    params, _ = model.init(jax.random.key(1), inputs[:1])

    def twice(params, statistics, inputs, train):
        return model.apply(params, statistics, model.apply(params, statistics, inputs, train)[0], train)

    with pytest.raises(InputError, match="Dense_0 is passed through more than once"):
        models.apply_by_layer(twice, params, {}, inputs)


@pytest.mark.long
def test_large_layers_are_iterated_for(monkeypatch):
    state = network(7)
    every = eq_4(state)
    monkeypatch.setattr(layer_jacobians, "_FEW_VALUES", 0)
    jax.clear_caches()
    assert eq_4(state)["layers.product"] == pytest.approx(every["layers.product"], rel=1e-4)


def test_outputs_are_those_of_the_whole_sample():
    state = network(8)._replace(label_smoothing=0.5)
    logits, _ = state.model.apply(state.params, {}, state.splits["train"]["inputs"], False)
    found = measured(state, "outputs").scalars
    parts = measured(state._replace(protocol=Protocol(batch_size=4)), "outputs").scalars
    for name, value in found.items():
        assert parts[name] == pytest.approx(value, rel=1e-5)
    assert found["outputs.frobenius"] == pytest.approx(float(jnp.linalg.norm(logits)), rel=1e-5)
    targets = 0.5 * np.eye(3)[np.arange(9) % 3] + 0.5 / 3
    divergence = np.sum(targets * (np.log(targets) - np.asarray(jax.nn.log_softmax(logits))), axis=1)
    assert found["outputs.excess_loss"] == pytest.approx(divergence.mean(), rel=1e-5)


def test_a_loss_below_what_its_entry_says_is_refused_in_one_line(monkeypatch):
    entry = LOSSES["cross_entropy"]._replace(least=lambda targets: 50 + 0 * targets[:, 0])
    monkeypatch.setitem(LOSSES, "cross_entropy", entry)
    assert (
        measured(network(8), "outputs")
        .failed["outputs"]
        .endswith(
            ", below 50, the least that its entry in LOSSES of training/optimisation.py gives for these targets; "
            "mend `least` there, or set it to None"
        )
    )
