"""Training and measuring on tokens: means are by their weights, wherever they are taken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from measured import eval_state, measured

import hessflat.curvature as cv
from hessflat import models
from hessflat.config import override
from hessflat.measures.eval_state import curvature_operator
from hessflat.runs.jobs import compiled
from hessflat.runs.schema import base_config, freeze
from hessflat.training.optimisation import cross_entropy, loss_of_best_guess, make_targets
from hessflat.training.step import Batch, make_gradient
from hessflat.training.trainer import make_hyperparams, make_trainer
from hessflat.utils.errors import InputError

V, T = 5, 4
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
MODEL = {"layers": 1, "width": 4, "heads": 1, "mlp_ratio": 1, "embedding_std": 1.0}


def split(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, size=(rows, T)).astype(np.float32)
    weights[:, 0] = 1
    tokens = rng.integers(V, size=(2, rows, T)).astype(np.int32)
    return {"inputs": jnp.asarray(tokens[0]), "labels": jnp.asarray(tokens[1]), "weights": jnp.asarray(weights)}


def made(dropout=0.0):
    model = models.build("transformer", V, **MODEL, dropout=dropout)
    return model, quick_jit(model.init)(jax.random.key(1), split()["inputs"])[0]


def loss_by_hand(model, params, data):
    logits = np.asarray(quick_jit(model.apply, static_argnums=3)(params, {}, data["inputs"], False)[0], np.float64)
    picked = np.take_along_axis(logits, np.asarray(data["labels"])[..., None], axis=2)[..., 0]
    losses = np.log(np.exp(logits).sum(-1)) - picked
    return float((data["weights"] * losses).sum() / data["weights"].sum())


def test_the_gradient_is_that_of_the_weighted_mean():
    model, params = made()
    data = split()
    batch = Batch(data["inputs"], make_targets(data["labels"], V), data["weights"])
    gradient, _ = quick_jit(make_gradient(model, cross_entropy))(params, {}, batch)
    direction = jax.tree.map(lambda leaf: 1e-2 * np.sin(np.arange(leaf.size)).reshape(leaf.shape), params)
    ahead, behind = (
        loss_by_hand(model, jax.tree.map(lambda p, d, s=sign: p + s * d, params, direction), data) for sign in (1, -1)
    )
    along = sum(jnp.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
    np.testing.assert_allclose(along, (ahead - behind) / 2, rtol=2e-3, atol=1e-6)


@pytest.mark.long
def test_losses_accuracies_and_curvature_are_by_weights_for_every_batch_size():
    model, params = made()
    splits = {"train": split(), "test": split(seed=1)}
    state = eval_state(model, params, {}, splits, V)
    scalars = measured(state, "performance").scalars
    np.testing.assert_allclose(scalars["train_loss"], loss_by_hand(model, params, splits["train"]), rtol=1e-5)
    np.testing.assert_allclose(scalars["test_loss"], loss_by_hand(model, params, splits["test"]), rtol=1e-5)
    assert "rank_bound" not in scalars
    whole, parts = (
        curvature_operator(eval_state(model, params, {}, splits, V, batch_size=size), "hessian", "eval")
        for size in (0, 4)
    )
    v = jnp.sin(jnp.arange(whole.size, dtype=jnp.float32))
    np.testing.assert_allclose(whole @ v, parts @ v, rtol=1e-4, atol=1e-5)
    failed = measured(state, "sharpness").failed
    assert failed == {"sharpness": "it is not for tokens; set config.measure.sharpness='never'"}


def test_the_best_guess_is_the_unigram_entropy():
    data = split()
    shares = np.bincount(np.ravel(data["labels"]), np.ravel(data["weights"]), V) / float(data["weights"].sum())
    found = loss_of_best_guess("cross_entropy", data["labels"], V, data["weights"])
    np.testing.assert_allclose(found, -(shares * np.log(shares)).sum(), rtol=1e-5)


def settings(**changes):
    fixed = {"model.name": "transformer", "train.batch_size": 3, "train.epochs": 2, "optim.name": "adam", "devices": 1}
    fixed |= {f"model.transformer.{name}": value for name, value in MODEL.items()}
    return freeze(override(base_config("small"), fixed | changes))


def test_training_with_dropout_goes_on_to_the_same_bits_and_other_seeds_drop_others():
    config, data = settings(**{"model.transformer.dropout": 0.5, "optim.lr": 0.1}), split()
    trainer = make_trainer(config, V, data)
    hyperparams = make_hyperparams(config)
    start = trainer.init(hyperparams)
    assert start.params["embedding"]["embedding"].shape == (V, 4)
    whole = trainer.train_steps(start, hyperparams, data, 0, 4)
    halves = trainer.train_steps(trainer.train_steps(start, hyperparams, data, 0, 2), hyperparams, data, 2, 4)
    jax.tree.map(np.testing.assert_array_equal, whole.params, halves.params)
    without = settings(**{"optim.lr": 0.1})
    plain = make_trainer(without, V, data).train_steps(start, hyperparams, data, 0, 4)
    moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (whole.params, plain.params)), strict=True)]
    assert max(moved) > 1e-2
    with pytest.raises(
        InputError, match=r"config.model.name must be 'transformer' for data set 'grammar', which is of t"
    ):
        compiled(freeze(override(base_config("small"), {"data.name": "grammar", "data.scaling": "raw"})))
    with pytest.raises(InputError, match=r"config.train.mixup must be 0 for tokens, got 0.2"):
        make_trainer(settings(**{"train.mixup": 0.2}), V, data)


@pytest.mark.long
def test_fisher_per_token_is_gauss_newton_and_jacobians_by_embedding_are_those_of_all_logits():
    model, params = made()
    data = split()
    predict = lambda p, b: model.apply(p, {}, b["inputs"], False)[0]  # noqa: E731
    batches = cv.Batches(data, 4, weights="weights")
    fisher = cv.model_fisher(predict, params, batches, "softmax", per="token")
    chunked = cv.softmax_gauss_newton(
        lambda p, b: model.tokens.hidden(p, b["inputs"]), model.tokens.readout, params, batches, chunk_size=4
    )
    v = jnp.sin(jnp.arange(fisher.size, dtype=jnp.float32))
    np.testing.assert_allclose(fisher @ v, chunked @ v, rtol=1e-4, atol=1e-6)
    vectors = quick_jit(model.tokens.embed)(params, data["inputs"])

    def logits(params, vectors):
        return model.apply(params, {}, vectors, False)[0]

    jacobian = np.asarray(quick_jit(jax.jacobian(lambda x: logits(params, x[None])[0]))(vectors[0]))  # [T, V, T, d]
    of_all = cv.jacobian_norms(logits, params, vectors)
    of_last = cv.jacobian_norms(lambda p, x: logits(p, x)[:, -1], params, vectors)
    np.testing.assert_allclose(of_all.values[0], np.linalg.norm(jacobian.reshape(T * V, -1), 2), rtol=1e-4)
    np.testing.assert_allclose(of_last.values[0], np.linalg.norm(jacobian[-1].reshape(V, -1), 2), rtol=1e-4)
