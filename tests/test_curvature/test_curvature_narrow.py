"""bfloat16 and float16, in parameters, in some of them or on the way: the float32 matrix at the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv

RANDOM = np.random.default_rng(0)
KEY = jax.random.key(0)


def weights(*shape):
    return RANDOM.normal(size=shape) / np.sqrt(shape[0])


def perceptron(params, x, cast):
    hidden = jnp.tanh(cast(x) @ cast(params["in"]) + cast(params["bias"])[None])
    return hidden @ cast(params["out"])


def gated(params, x, cast):
    """Custom derivatives (relu), a checkpoint, and a normalisation whose mean is taken in float32."""
    hidden = jax.checkpoint(lambda p, x: jax.nn.relu(cast(x) @ cast(p["in"]) + cast(p["bias"])[None]))(params, x)
    wide = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    wide = (wide - wide.mean(axis=-1, keepdims=True)) / jnp.sqrt(wide.var(axis=-1, keepdims=True) + 1e-3)
    return cast(wide) @ cast(params["out"])


def recurrent(params, x, cast):
    def step(state, x):
        return jnp.tanh(x[:, None] * cast(params["in"])[:1] + state * cast(params["bias"])[None]), None

    start = jnp.zeros((x.shape[0], params["in"].shape[1]), cast(params["out"]).dtype)
    return jax.lax.scan(step, start, cast(x).T)[0] @ cast(params["out"])


def convolutional(params, x, cast):
    images = cast(x).reshape(-1, 2, 2, 1)
    kernel = cast(params["in"]).reshape(2, 2, 1, -1)
    hidden = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jnp.tanh(hidden.mean(axis=(1, 2)) + cast(params["bias"])[None]) @ cast(params["out"])


NETWORKS = {"perceptron": perceptron, "gated": gated, "recurrent": recurrent, "convolutional": convolutional}
POINT = {"in": weights(4, 6), "bias": 0.1 * weights(6), "out": weights(6, 3)}
BATCH = {"x": RANDOM.normal(size=(20, 4)), "y": RANDOM.normal(size=(20, 3))}


def loss_of(network, cast):
    def loss(params, batch):
        outputs = network(params, batch["x"], cast)
        return jnp.mean((outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32)) - batch["y"]) ** 2)

    return loss


def itself(x):
    return x


def to_bfloat16(x):
    return x.astype(jnp.bfloat16)


def cases(network):
    """The function, the parameters and the data of each way in which a program is narrow."""
    data = jax.tree.map(np.float32, BATCH)
    single = jax.tree.map(np.float32, POINT)
    half = {name: x.astype(jnp.bfloat16) for name, x in single.items()}
    narrow_data = {"x": data["x"].astype(jnp.bfloat16), "y": data["y"]}
    return {
        "bfloat16 parameters": (loss_of(network, itself), half, narrow_data),
        "float16 parameters": (
            loss_of(network, itself),
            {name: x.astype(np.float16) for name, x in single.items()},
            {"x": data["x"].astype(np.float16), "y": data["y"]},
        ),
        "cast on the way": (loss_of(network, to_bfloat16), single, data),
        "one narrow leaf": (loss_of(network, to_bfloat16), single | {"bias": half["bias"]}, data),
    }


KINDS = list(cases(perceptron))


def exact(network, params, data):
    """The Hessian of the same function without casts, in float64 at the same numbers."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), (params, data))
        flat, unravel = ravel_pytree(wide[0])
        return np.asarray(jax.jit(jax.hessian(lambda v: loss_of(network, itself)(unravel(v), wide[1])))(flat))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_matrix_is_that_of_the_function_in_float32(network, kind):
    loss, params, data = cases(NETWORKS[network])[kind]
    true = exact(NETWORKS[network], params, data)
    op = cv.hessian(loss, params, cv.Batches(data, 8))
    vector = RANDOM.normal(size=len(true)).astype(np.float32)
    assert op.dtype == jnp.float32
    for product in (op(vector), cv.linearize(op)(vector)):
        assert product.dtype == jnp.float32
        np.testing.assert_allclose(product, true @ vector, atol=1e-5 * np.linalg.norm(true, 2) * np.linalg.norm(vector))
    tree = op(jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), params))
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_interval_holds_the_value_in_float32(kind):
    loss, params, data = cases(perceptron)[kind]
    true = np.linalg.eigvalsh(exact(perceptron, params, data))
    op = cv.hessian(loss, params, data)
    held = []
    for number in range(20):
        key = jax.random.key(number)
        top = cv.sharpness(op, key, rtol=1e-3)
        held.append(abs(top.value - true[-1]) <= top.residual + 1e-6 * true[-1])
        trace = cv.trace(op, key, num_products=30, method="hutch++")
        held.append(abs(trace.value - true.sum()) <= 3 * trace.standard_error + 1e-5 * np.abs(true).sum())
    assert np.mean(held) >= 0.95


@pytest.mark.long
def test_intervals_of_ten_models_hold_the_value_in_float32_and_are_no_wider_than_they_must_be():
    """The residual of a Ritz value bounds its error, which is of the square; that of a trace is a standard error."""
    held, widths, errors = [], [], []
    for network, kind in [(network, kind) for network in NETWORKS.values() for kind in KINDS][:10]:
        loss, params, data = cases(network)[kind]
        true = np.linalg.eigvalsh(exact(network, params, data))
        op, size = cv.hessian(loss, params, data), np.abs(true).sum()
        for number in range(20):
            trace = cv.trace(op, jax.random.key(number), num_products=30, method="hutchinson")
            top = cv.sharpness(op, jax.random.key(number))
            errors.append(abs(trace.value - true.sum()) / size)
            widths.append(2.576 * trace.standard_error / size)  # of 99 % to each side
            held += [errors[-1] <= widths[-1], abs(top.value - true[-1]) <= top.residual]
    assert np.mean(held) >= 0.95
    assert np.median(widths) <= 5 * np.median(errors)


@pytest.mark.slow
def test_every_estimator_takes_them():
    loss, params, data = cases(perceptron)["bfloat16 parameters"]
    true = np.linalg.eigvalsh(exact(perceptron, params, data))
    op = cv.hessian(loss, params, data)
    np.testing.assert_allclose(cv.eigvalsh(op), true, atol=1e-5 * true[-1])
    assert cv.spectrum(op, KEY, num_steps=20, num_probes=2).noise_floor < 1e-6 * true[-1]
    pairs = cv.eigenpairs(op, KEY, 2)
    np.testing.assert_allclose(pairs.values, true[-2:][::-1], rtol=1e-3)
    assert {leaf.dtype for leaf in jax.tree.leaves(pairs.vectors)} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(cv.eigvalsh(op, float64=True), true, atol=1e-7 * true[-1])
    part = cv.restrict(op, lambda path: "out" in jax.tree_util.keystr(path))
    assert part.dtype == jnp.float32
    assert cv.check(op, KEY).asymmetry < 1e-5


@pytest.mark.slow
def test_other_matrices_are_those_of_float32_too():
    data = jax.tree.map(np.float32, BATCH)
    single, half = jax.tree.map(np.float32, POINT), jax.tree.map(lambda x: x.astype(jnp.bfloat16), POINT)

    def predict(params, batch):
        return perceptron(params, batch["x"], itself).astype(jnp.float32)

    def criterion(outputs, batch):
        return jnp.mean((outputs - batch["y"]) ** 2)

    def losses(params, batch):
        return ((predict(params, batch) - batch["y"]) ** 2).mean(axis=1)

    rounded = jax.tree.map(lambda x: np.asarray(x, np.float32), half)
    narrow_data = {"x": data["x"].astype(jnp.bfloat16), "y": data["y"]}
    wide_data = {"x": np.asarray(narrow_data["x"], np.float32), "y": data["y"]}
    vector = np.ones(sum(x.size for x in single.values()), np.float32)
    for make in (
        lambda p, d: cv.gauss_newton(predict, criterion, p, d),
        lambda p, d: cv.residual(predict, criterion, p, d),
        lambda p, d: cv.fisher(losses, p, d),
        lambda p, d: cv.gradient_covariance(losses, p, d),
    ):
        expected = make(rounded, wide_data)(vector)
        np.testing.assert_allclose(make(half, narrow_data)(vector), expected, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(
        cv.eigvalsh(cv.gauss_newton(predict, criterion, half, narrow_data))[-1],
        cv.eigvalsh(cv.gauss_newton(predict, criterion, rounded, wide_data))[-1],
        rtol=1e-5,
    )


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_jacobian_norms_are_those_of_float32(method):
    single, x = jax.tree.map(np.float32, POINT), np.float32(BATCH["x"])
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), single)
    rounded = jax.tree.map(lambda w: np.asarray(w, np.float32), (half, x.astype(jnp.bfloat16)))
    expected = cv.jacobian_norms(lambda p, x: perceptron(p, x, itself), *rounded, method=method).max
    found = cv.jacobian_norms(lambda p, x: perceptron(p, x, itself), half, x.astype(jnp.bfloat16), method=method).max
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    cast = cv.jacobian_norms(lambda p, x: perceptron(p, x, to_bfloat16), single, x, method=method).max
    whole = cv.jacobian_norms(lambda p, x: perceptron(p, x, itself), single, x, method=method).max
    np.testing.assert_allclose(cast, whole, rtol=1e-4)


def test_a_loss_that_is_rounded_is_looked_at_in_float32():
    """In batches a mean in bfloat16 is not, to float32, the mean of those of its halves."""
    x = RANDOM.normal(size=(100, 4)).astype(jnp.bfloat16)
    data = {"x": x, "y": RANDOM.normal(size=100).astype(jnp.bfloat16)}

    def rounded(w, batch):
        return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)

    op = cv.hessian(rounded, np.ones(4, jnp.bfloat16), cv.Batches(data, 10))
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(cv.eigvalsh(op), np.linalg.eigvalsh(2 * wide.T @ wide / 100), rtol=1e-5)
