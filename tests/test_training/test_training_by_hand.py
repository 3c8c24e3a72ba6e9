"""Whole runs of softmax regression beside a few lines of NumPy in float64, with every optimiser."""

import jax
import numpy as np
import pytest

from hessflat import config
from hessflat.runs import schema
from hessflat.training.trainer import make_hyperparams, make_trainer

NUMBER, INPUTS, CLASSES, STEPS = 12, 5, 3, 7
RATE, L2, SMOOTHING, RADIUS = 0.05, 0.03, 0.1, 0.2


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(NUMBER, INPUTS)), rng.integers(0, CLASSES, NUMBER)


def by_hand(weights, optimiser):
    """The weights after each of `STEPS` full-batch steps from `weights` [INPUTS + 1, CLASSES], the bias last."""
    x, labels = data()
    x = np.hstack([x, np.ones((NUMBER, 1))])
    targets = (1 - SMOOTHING) * np.eye(CLASSES)[labels] + SMOOTHING / CLASSES

    def gradient(w):
        p = np.exp(x @ w)
        return x.T @ (p / p.sum(1, keepdims=True) - targets) / NUMBER

    w, m, v, history = weights.astype(np.float64), 0.0, 0.0, []
    for step in range(1, STEPS + 1):
        g = gradient(w)
        if optimiser == "sam":
            g = gradient(w + RADIUS * g / np.linalg.norm(g))
        if optimiser in ("sgd", "sam"):
            m = 0.9 * m + g + L2 * w
            w = w - RATE * m
        else:
            g = g + L2 * w if optimiser == "adam" else g
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            update = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            w = w - RATE * (update + (0 if optimiser == "adam" else L2 * w))
        history.append(w)
    return history


@pytest.mark.parametrize("optimiser", ["sgd", "sam", "adam", "adamw", "gadam"])
@pytest.mark.parametrize("ghost", [0, 4])
def test_the_weights_are_those_of_numpy(optimiser, ghost):
    name = {"sam": "sgd", "gadam": "adamw"}.get(optimiser, optimiser)
    overrides = {
            "model.name": "softmax_regression", "optim.name": name, "optim.lr": RATE, "optim.l2": L2,
            "optim.sam_radius": RADIUS if optimiser == "sam" else 0.0, "train.label_smoothing": SMOOTHING,
            "train.batch_size": 0, "train.ghost_batch_size": ghost, "train.epochs": STEPS,
            "train.average_from": 3 if optimiser == "gadam" else 0, "schedule.name": "constant",
    }  # fmt: skip
    chosen = schema.freeze(config.override(schema.base_config("smoke"), overrides))
    x, labels = data()
    train = {"inputs": jax.device_put(np.float32(x)), "labels": jax.device_put(np.asarray(labels, np.int32))}
    trainer, hyperparams = make_trainer(chosen, CLASSES, train), make_hyperparams(chosen)

    def matrix(params):
        return np.vstack([params["Dense_0"]["kernel"], params["Dense_0"]["bias"][None]])

    start = trainer.init(hyperparams)
    end = trainer.train_steps(start, hyperparams, train, 0, STEPS)
    history = by_hand(matrix(start.params), optimiser)
    np.testing.assert_allclose(matrix(end.params), history[-1], rtol=2e-4, atol=1e-5)
    if optimiser == "gadam":
        params, _ = trainer.eval_params(end, train)
        np.testing.assert_allclose(matrix(params), np.mean(history[3:], axis=0), rtol=2e-4, atol=1e-5)
