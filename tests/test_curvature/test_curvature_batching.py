"""Functions that cannot be mapped over an axis, or that do not run in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature import numerics
from hessflat.utils.errors import InputError

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
EXPERTS, WIDTH, CLASSES, N = 3, 4, 3, 20
PARAMS = {
    "router": np.float32(RNG.normal(size=(WIDTH, EXPERTS))),
    "experts": np.float32(RNG.normal(size=(EXPERTS, WIDTH, CLASSES)) / 2),
}
DATA = {"x": np.float32(RNG.normal(size=(N, WIDTH))), "y": RNG.integers(CLASSES, size=N)}


def routed(params, x):
    probabilities = jax.nn.softmax(x @ params["router"])
    return probabilities.max(axis=1), probabilities.argmax(axis=1)


def dense(params, batch):
    weight, chosen = routed(params, batch["x"])
    return weight[:, None] * jnp.einsum("nd,ndc->nc", batch["x"], params["experts"][chosen])


def ragged(params, batch):
    """The same by `ragged_dot`, which has no rule for batches."""
    weight, chosen = routed(params, batch["x"])
    order = jnp.argsort(chosen, stable=True)
    sizes = jnp.bincount(chosen, length=EXPERTS).astype(jnp.int32)
    outputs = jax.lax.ragged_dot(batch["x"][order], params["experts"], sizes)
    return weight[:, None] * outputs[jnp.argsort(order)]


def criterion(outputs, batch):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], axis=1))


def both(measure):
    return [measure(predict) for predict in (ragged, dense)]


def test_ragged_dot_cannot_be_mapped():
    with pytest.raises(NotImplementedError):
        jax.vmap(lambda x: ragged(PARAMS, {"x": x[None]}))(DATA["x"])


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [None, 7])
def test_a_loop_where_a_primitive_cannot_be_mapped(batch_size):
    data = cv.Batches(DATA, batch_size)
    few = cv.Batches({name: array[:3] for name, array in DATA.items()}, batch_size)
    for make in (cv.gauss_newton, cv.residual):
        own, exact = both(lambda predict, make=make: cv.eigvalsh(make(predict, criterion, PARAMS, data)))
        assert_allclose(own, exact, atol=1e-6)
    own, exact = both(lambda predict: cv.exact_spectrum(cv.gauss_newton(predict, criterion, PARAMS, few)))
    assert own.method == exact.method == "gram"
    assert_allclose(own.values, exact.values, atol=1e-6)
    own, exact = both(
        lambda predict: (
            cv.lanczos(
                cv.gauss_newton(predict, criterion, PARAMS, data), KEY, 4, 2, together=True, show_progress=False
            ).alphas
        )
    )
    assert_allclose(own, exact, rtol=1e-4)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_jacobians_by_a_loop(method):
    own, exact = both(
        lambda predict: cv.jacobian_norms(lambda p, x: predict(p, {"x": x}), PARAMS, DATA["x"], method=method).values
    )
    assert_allclose(own, exact, rtol=1e-4)


@pytest.mark.slow
def test_drawn_labels_and_shared_statistics_by_a_loop():
    def sample(key, logits):
        return jax.random.categorical(key, logits)

    def log_likelihood(logits, label):
        return jax.nn.log_softmax(logits)[label]

    own, exact = both(
        lambda predict: cv.eigvalsh(cv.model_fisher(predict, PARAMS, DATA, (sample, log_likelihood), KEY))
    )
    assert_allclose(own, exact, atol=1e-5)
    batches = cv.Batches(DATA, 20, statistics_batch=5)
    own, exact = both(
        lambda predict: cv.eigvalsh(cv.hessian(lambda p, b: criterion(predict(p, b), b), PARAMS, batches))
    )
    assert_allclose(own, exact, atol=1e-6)


def test_mapped_is_vmap():
    def scaled(x, c):
        return {"a": c * x, "b": x.sum()}

    x, c = np.arange(6.0, dtype=np.float32).reshape(3, 2), np.float32(2)
    result = numerics.mapped(scaled, in_axes=(0, None))(x, c)
    assert_allclose(result["a"], 2 * x)
    assert_allclose(result["b"], x.sum(axis=1))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(CLASSES)(nn.RNN(nn.SimpleCell(4))(x)[:, -1])


@pytest.mark.slow
def test_networks_that_make_constants_in_float32():
    model, x = Recurrent(), np.float32(RNG.normal(size=(8, 5, 2)))
    params = model.init(KEY, x)["params"]
    batch = {"x": x, "y": RNG.integers(CLASSES, size=8)}
    H = cv.hessian(lambda p, b: criterion(model.apply({"params": p}, b["x"]), b), params, batch)
    assert np.isfinite(cv.eigvalsh(H)).all()
    with pytest.raises(InputError, match=r"a function does not run in float64: .*make its constants") as caught:
        cv.eigvalsh(H, float64=True)
    assert "\n" not in str(caught.value)
    checked = cv.check(H, KEY)
    assert checked.finite_difference is None
    assert any("does not run in float64" in note for note in checked.notes)
