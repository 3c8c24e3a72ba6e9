"""Weights of examples and tokens: the same matrix whatever the batch size, that of jax.hessian in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

N, T, D, C = 24, 5, 4, 3
KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
PARAMS = {"in": RANDOM.normal(size=(D, 6)).astype(np.float32), "out": RANDOM.normal(size=(6, C)).astype(np.float32)}

PADDED = (np.arange(T) < RANDOM.integers(1, T + 1, N)[:, None]).astype(np.float32)
PADDED[8:16] = 0  # whole batches of 8, 4 and 1 without a token that counts
WEIGHTS = {
    "class weights": RANDOM.uniform(0.1, 3, N).astype(np.float32),
    "ignored labels": (RANDOM.random(N) < 0.5).astype(np.float32),
    "padding": PADDED,
}


def data_with(weights):
    shape = (*weights.shape, D)
    labels = RANDOM.integers(C, size=weights.shape)
    return {"x": np.random.default_rng(1).normal(size=shape).astype(np.float32), "y": labels, "m": weights}


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def losses_of(outputs, batch):
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][..., None], -1)[..., 0]


def criterion(outputs, batch):
    return jnp.sum(batch["m"] * losses_of(outputs, batch)) / jnp.sum(batch["m"])


def loss(params, batch):
    return criterion(predict(params, batch), batch)


def losses(params, batch):
    return losses_of(predict(params, batch), batch)


def exact(name, data):
    """The matrix in float64 from its definition, over all the data at once."""
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), PARAMS))
        data = {
            key: jnp.asarray(x, jnp.float64) if x.dtype == np.float32 else jnp.asarray(x) for key, x in data.items()
        }
        m = np.asarray(data["m"]).ravel() / np.asarray(data["m"]).sum()
        hessian = np.asarray(jax.jit(jax.hessian(lambda v: loss(unravel(v), data)))(flat))
        gradients = np.asarray(jax.jit(jax.jacrev(lambda v: losses(unravel(v), data).ravel()))(flat))
        jacobian = np.asarray(jax.jit(jax.jacrev(lambda v: predict(unravel(v), data).reshape(-1, C)))(flat))
        p = np.asarray(jax.nn.softmax(predict(unravel(flat), data))).reshape(-1, C)
    curvature = np.einsum("n,ncd->ncd", m, np.einsum("nc,cd->ncd", p, np.eye(C)) - np.einsum("nc,nd->ncd", p, p))
    gauss_newton = np.einsum("nci,ncd,ndj->ij", jacobian, curvature, jacobian)
    mean = m @ gradients
    return {
        "hessian": hessian,
        "gauss_newton": gauss_newton,
        "residual": hessian - gauss_newton,
        "fisher": np.einsum("n,ni,nj->ij", m, gradients, gradients),
        "model_fisher": gauss_newton,
        "gradient_covariance": np.einsum("n,ni,nj->ij", m, gradients - mean, gradients - mean),
    }[name]


MAKERS = {
    "hessian": lambda data: cv.hessian(loss, PARAMS, data),
    "gauss_newton": lambda data: cv.gauss_newton(predict, criterion, PARAMS, data),
    "residual": lambda data: cv.residual(predict, criterion, PARAMS, data),
    "fisher": lambda data: cv.fisher(losses, PARAMS, data),
    "model_fisher": lambda data: cv.model_fisher(predict, PARAMS, data),
    "gradient_covariance": lambda data: cv.gradient_covariance(losses, PARAMS, data),
}


# Every matrix with batches that are all padding; every kind of weights with one matrix.
CASES = [(name, "padding") for name in MAKERS] + [("hessian", name) for name in ("class weights", "ignored labels")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "weights"), CASES)
def test_products_are_those_of_the_definition_whatever_the_batch_size(name, weights):
    data = data_with(WEIGHTS[weights])
    true = exact(name, data)
    vector = np.asarray(jax.random.normal(KEY, (len(true),)))
    eight, seven = (MAKERS[name](cv.Batches(data, size, weights="m")) for size in (8, 7))
    for product in (eight(vector), cv.linearize(seven)(vector)):
        error = np.abs(np.asarray(product) - true @ vector).max()
        assert error < 1e-5 * np.linalg.norm(true, 2) * np.linalg.norm(vector)


def test_one_batch_and_batches_of_one_have_the_same_product():
    data = data_with(WEIGHTS["padding"])
    vector = np.asarray(jax.random.normal(KEY, (D * 6 + 6 * C,)))
    true = exact("hessian", data) @ vector
    for size in (None, 1):
        op = MAKERS["hessian"](cv.Batches(data, size, weights="m"))
        np.testing.assert_allclose(op(vector), true, atol=1e-5 * np.abs(true).max())


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, 7])
def test_estimators_agree_with_the_dense_matrix(size):
    data = data_with(WEIGHTS["padding"])
    batches = cv.Batches(data, size, weights="m")
    for name in ("hessian", "gauss_newton"):
        values = np.linalg.eigvalsh(exact(name, data))
        op = MAKERS[name](batches)
        scale = np.abs(values).max()
        np.testing.assert_allclose(cv.eigvalsh(op), values, atol=1e-5 * scale)
        assert abs(cv.sharpness(op, KEY, rtol=1e-5).value - values[-1]) < 1e-5 * scale
        assert abs(cv.trace(op, KEY, num_products=len(values), method="xtrace").value - values.sum()) < 1e-4 * scale
    line = cv.line(loss, PARAMS, jax.tree.map(np.zeros_like, PARAMS), [0.0, 0.5], batches)
    halved = jax.tree.map(lambda x: x / 2, PARAMS)
    np.testing.assert_allclose(line.values, [loss(PARAMS, data), loss(halved, data)], rtol=1e-5)


def test_examples_spread_over_devices_have_the_same_product():
    data = data_with(WEIGHTS["padding"])
    mesh = jax.make_mesh((8,), ("examples",), (AxisType.Auto,))
    spread = jax.device_put(data, NamedSharding(mesh, PartitionSpec("examples")))
    vector = np.asarray(jax.random.normal(KEY, (D * 6 + 6 * C,)))
    expected = exact("hessian", data) @ vector
    for weights in ("m", data["m"]):
        product = cv.hessian(loss, PARAMS, cv.Batches(spread, weights=weights))(vector)
        np.testing.assert_allclose(product, expected, atol=1e-5 * np.abs(expected).max())


def test_weights_may_be_an_array_that_is_not_in_the_data_and_its_scale_does_not_matter():
    data = data_with(WEIGHTS["ignored labels"])
    labels = np.where(data["m"] > 0, data["y"], -100)
    unmasked = {"x": data["x"], "y": labels}

    def ignoring(params, batch):
        counted = batch["y"] >= 0
        each = losses(params, batch | {"y": jnp.where(counted, batch["y"], 0)})
        return jnp.sum(jnp.where(counted, each, 0)) / jnp.sum(counted)

    vector = np.asarray(jax.random.normal(KEY, (D * 6 + 6 * C,)))
    expected = exact("hessian", data) @ vector
    for weights in (labels >= 0, 1e-6 * (labels >= 0), np.asarray(labels >= 0, np.int32)):
        product = cv.hessian(ignoring, PARAMS, cv.Batches(unmasked, 1, weights=weights))(vector)
        np.testing.assert_allclose(product, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("mask", r"no array of data is named 'mask'; did you mean 'm'|known: m, x, y"),
        (-np.ones(N), "weights must be at least 0, got -1"),
        (np.zeros(N), "weights must not be 0 throughout"),
        (np.ones(N - 1), r"leading axis of data, \(24,\), got shape \(23,\)"),
        (np.full(N, np.nan), "weights.* must be finite"),
    ],
)
def test_weights_that_mean_nothing_are_refused(weights, said):
    data = data_with(WEIGHTS["class weights"])
    with pytest.raises(InputError, match=said):
        cv.hessian(loss, PARAMS, cv.Batches(data, 7, weights=weights))


@pytest.mark.parametrize("size", [7, 8])
def test_without_weights_a_masked_mean_in_batches_is_refused_and_told_what_to_do(size):
    data = data_with(WEIGHTS["padding"])
    with pytest.raises(InputError, match=r"weights=m"):
        cv.hessian(loss, PARAMS, cv.Batches(data, size))
    with pytest.raises(InputError, match=r"weights=m"):
        cv.gauss_newton(predict, criterion, PARAMS, cv.Batches(data, size))


def test_check_accepts_all_data_at_once_and_notes_what_batches_would_need():
    data = data_with(WEIGHTS["padding"])
    result = cv.check(cv.hessian(loss, PARAMS, data), KEY)
    assert any("weights=" in note for note in result.notes)
    weighted = cv.check(cv.hessian(loss, PARAMS, cv.Batches(data, 7, weights="m")), KEY)
    assert weighted.batch_weights < weighted.tolerance
    assert not any("weights=" in note for note in weighted.notes)


def two_logits(w, batch):
    return batch["x"] @ w


@pytest.mark.parametrize(
    ("likelihood", "curvature"),
    [
        ("bernoulli", lambda f: jax.nn.sigmoid(f) * (1 - jax.nn.sigmoid(f))),
        ("gaussian", np.ones_like),
    ],
)
def test_fishers_of_named_likelihoods_are_their_closed_forms(likelihood, curvature):
    x = RANDOM.normal(size=(30, 4)).astype(np.float32)
    w = np.array([0.3, -0.2, 0.1, 0.4], np.float32)
    expected = (x * np.asarray(curvature(x @ w))[:, None]).T @ x / 30
    for outputs in (two_logits, lambda w, batch: two_logits(w, batch)[:, None]):
        op = cv.model_fisher(outputs, w, cv.Batches({"x": x}, 7), likelihood)
        np.testing.assert_allclose(op.to_dense(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["softmax", "bernoulli", "gaussian"])
def test_per_example_is_the_sum_over_tokens_of_per_token(likelihood):
    data = {"x": RANDOM.normal(size=(6, T, D)).astype(np.float32)}
    labels = T if likelihood == "softmax" else T * C
    vector = np.asarray(jax.random.normal(KEY, (D * 6 + 6 * C,)))
    example, token = (
        cv.model_fisher(predict, PARAMS, data, likelihood, per=per)(vector) for per in ("example", "token")
    )
    np.testing.assert_allclose(example, labels * token, rtol=1e-5, atol=1e-6 * np.abs(example).max())


def test_the_empirical_fisher_of_examples_sums_the_losses_of_their_tokens():
    data = data_with(np.ones((6, T), np.float32))
    vector = np.asarray(jax.random.normal(KEY, (D * 6 + 6 * C,)))

    def summed(params, batch):
        return losses(params, batch).sum(axis=1)

    def each(params, batch):
        return losses(params, batch).ravel()

    tokens = {name: array.reshape(6 * T, *array.shape[2:]) for name, array in data.items()}
    cases = {"example": cv.fisher(summed, PARAMS, data), "token": cv.fisher(each, PARAMS, tokens)}
    for per, expected in cases.items():
        product = cv.fisher(losses, PARAMS, data, per=per)(vector)
        np.testing.assert_allclose(product, expected(vector), rtol=1e-5, atol=1e-6 * np.abs(product).max())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda d: cv.model_fisher(predict, PARAMS, d), r"\(5,\) labels for each example; say per='token'"),
        (lambda d: cv.model_fisher(predict, PARAMS, d, "gaussian"), r"\(5, 3\) labels for each example; say per="),
        (lambda d: cv.fisher(losses, PARAMS, d), r"\(5,\) labels for each example; say per='token'"),
        (
            lambda d: cv.model_fisher(predict, PARAMS, d, "sofmax"),
            "unknown likelihood 'sofmax'; did you mean 'softmax'",
        ),
        (lambda d: cv.model_fisher(predict, PARAMS, d, per="word"), "unknown value of per 'word'"),
        (lambda d: cv.model_fisher(losses, PARAMS, {k: v[:, 0] for k, v in d.items()}), "at least two classes"),
        (lambda d: cv.model_fisher(predict, PARAMS, cv.Batches(d, weights="m"), per="example"), "for single tokens"),
        (lambda d: cv.fisher(loss, PARAMS, d), r"must have shape \(6,\) or more axes, got shape \(\)"),
    ],
)
def test_layouts_are_not_guessed(make, said):
    with pytest.raises(InputError, match=said):
        make(data_with(np.ones((6, T), np.float32)))
