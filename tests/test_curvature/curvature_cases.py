"""Small problems with known answers. The oracles are NumPy in float64 and share no code with what they check."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv

EVENTS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **more: EVENTS.append((name.rpartition("/")[2], more.get("fun_name")))
)


def compiled_by(function):
    """The result of a call, and the names of the programs that it compiles."""
    return _happening_in(function, "backend_compile_duration")


def traced_by(function):
    """The result of a call, and the names of the functions that it traces."""
    return _happening_in(function, "jaxpr_trace_duration")


def _happening_in(function, what):
    EVENTS.clear()
    result = function()
    return result, [name for kind, name in EVENTS if kind == what]


def predict(params, batch):
    """A multilayer perceptron: a list of (weights, bias), tanh between."""
    x = batch["x"]
    for weights, bias in params[:-1]:
        x = jnp.tanh(x @ weights + bias[None])
    weights, bias = params[-1]
    return x @ weights + bias[None]


def losses_of(outputs, batch):
    """Softmax cross-entropy of each example."""
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["y"][:, None], axis=1)[:, 0]


def criterion(outputs, batch):
    """Its mean."""
    return jnp.mean(losses_of(outputs, batch))


def loss(params, batch):
    return criterion(predict(params, batch), batch)


def losses(params, batch):
    return losses_of(predict(params, batch), batch)


def conv_predict(params, batch):
    x = jax.lax.conv_general_dilated(
        batch["x"], params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.tanh(x).mean(axis=(1, 2)) @ params["dense"]


def conv_loss(params, batch):
    return criterion(conv_predict(params, batch), batch)


def mlp_params(*sizes, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return [
        (
            jax.device_put(np.asarray(rng.normal(size=(a, b)) / np.sqrt(a), dtype)),
            jax.device_put(np.asarray(0.1 * rng.normal(size=b), dtype)),
        )
        for a, b in itertools.pairwise(sizes)
    ]


def examples(number, features, classes, seed=1, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(number, features))
    return {"x": jax.device_put(np.asarray(x, dtype)), "y": jax.device_put(rng.integers(classes, size=number))}


def conv_problem(number=12):
    rng = np.random.default_rng(3)
    kernel, dense = 0.5 * rng.normal(size=(3, 3, 1, 2)), rng.normal(size=(2, 3))
    params = {"kernel": jax.device_put(np.float32(kernel)), "dense": jax.device_put(np.float32(dense))}
    images = jax.device_put(np.float32(rng.normal(size=(number, 4, 4, 1))))
    return params, {"x": images, "y": jax.device_put(rng.integers(3, size=number))}


def softmax_regression_hessian(params, batch):
    """(1/N) Σ (x̃ x̃ᵀ) ⊗ (diag p − p pᵀ) with x̃ = (x, 1), the order of [(weights [D, C], bias [C])]."""
    ((weights, bias),) = [tuple(np.asarray(a, np.float64) for a in pair) for pair in params]
    x = np.asarray(batch["x"], np.float64)
    scores = x @ weights + bias
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    tilde = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    size = tilde.shape[1] * p.shape[1]
    total = np.zeros((size, size))
    for xi, pi in zip(tilde, p, strict=True):
        total += np.kron(np.outer(xi, xi), np.diag(pi) - np.outer(pi, pi))
    return total / len(x)


def symmetric(eigenvalues, seed=0, rotate=True):
    """A float64 matrix with these eigenvalues, in a random basis or diagonal."""
    eigenvalues = np.asarray(eigenvalues, np.float64)
    if not rotate:
        return np.diag(eigenvalues)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=2 * eigenvalues.shape))
    return (basis * eigenvalues) @ basis.T


def times(vector, matrix):
    return matrix @ vector


def operator_of(matrix, dtype=np.float32):
    """A known matrix as an operator on flat vectors."""
    matrix = jax.device_put(np.asarray(matrix, dtype))
    return cv.from_matvec(times, jax.device_put(np.zeros(len(matrix), dtype)), matrix)
