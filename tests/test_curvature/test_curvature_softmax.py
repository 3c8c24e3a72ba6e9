"""The Gauss-Newton matrix of a softmax in chunks: against all Jacobians in NumPy, and what its program holds."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from hessflat.curvature.operators.operator import tree_matvec
from hessflat.utils.errors import InputError


def hidden(params, batch):
    """A tied embedding: the matrix of the logits is below the hidden states too."""
    return jnp.tanh(params["embedding"][batch["tokens"]] @ params["mix"])


def readout(params):
    return params["embedding"]


def problem(number=5, tokens=3, classes=7, width=2, dtype=np.float64):
    rng = np.random.default_rng(0)
    params = {"embedding": rng.normal(size=(classes, width)), "mix": rng.normal(size=(width, width))}
    mask = rng.integers(0, 3, size=(number, tokens)).astype(dtype)
    mask[0] = 0
    data = {"tokens": rng.integers(classes, size=(number, tokens)), "mask": mask}
    return jax.tree.map(lambda leaf: leaf.astype(dtype), params), data


@pytest.mark.parametrize("weights", ["mask", "examples"])
def test_it_is_the_sum_over_labels_of_their_jacobians(weights):
    with jax.enable_x64(True):
        params, data = problem()
        flat, unflatten = ravel_pytree(params)
        logits = lambda p: hidden(unflatten(p), data) @ readout(unflatten(p)).T  # noqa: E731
        rows, z = np.asarray(jax.jacobian(logits)(flat)), np.asarray(logits(flat))
        probabilities = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        curvature = np.einsum("ntc,cd->ntcd", probabilities, np.eye(7)) - np.einsum(
            "ntc,ntd->ntcd", probabilities, probabilities
        )
        each = data["mask"] if weights == "mask" else np.ones((5, 3)) * np.arange(5)[:, None]
        exact = np.einsum("nt,ntcp,ntcd,ntdq->pq", each / each.sum(), rows, curvature, rows)
        given = np.arange(5.0) if weights == "examples" else weights
        for batch_size, chunk_size in ((None, 14), (2, 6)):
            op = cv.softmax_gauss_newton(
                hidden, readout, params, cv.Batches(data, batch_size, weights=given), chunk_size=chunk_size
            )
            np.testing.assert_allclose(op.to_dense(), exact, rtol=1e-9, atol=1e-12)
            v = np.arange(len(flat), dtype=float)
            np.testing.assert_allclose(cv.linearize(op) @ v, exact @ v, rtol=1e-9, atol=1e-11)
        block = cv.restrict(op, "mix")
        np.testing.assert_allclose(block.to_dense(), exact[-4:, -4:], rtol=1e-9, atol=1e-12)


def test_a_saturated_softmax_is_finite():
    params, data = problem(dtype=np.float32)
    far = {"embedding": 1e3 * params["embedding"], "mix": params["mix"]}
    plain = cv.model_fisher(lambda p, b: hidden(p, b) @ readout(p).T, far, data, per="token")
    chunked = cv.softmax_gauss_newton(hidden, readout, far, data, chunk_size=3)
    dense = np.asarray(plain.to_dense())
    np.testing.assert_allclose(chunked.to_dense(), dense, atol=1e-4 * np.abs(dense).max())


def chunked_loss(params, batch, chunks=24):
    """The cross-entropy with a chunk of logits at a time, whose backward pass computes them again."""
    states, matrix = hidden(params, batch), readout(params)
    flat, labels = states.reshape(-1, states.shape[-1]), batch["tokens"].ravel()

    @jax.checkpoint
    def add(total, rows):
        return jnp.logaddexp(total, jax.nn.logsumexp(flat @ rows.T, axis=1)), None

    start = jnp.full(len(flat), -jnp.inf)
    total, _ = jax.lax.scan(add, start, matrix.reshape(chunks, -1, matrix.shape[1]))
    return jnp.mean(total - jnp.sum(flat * matrix[labels], axis=1))


LARGE = {"number": 4, "tokens": 64, "classes": 50_304, "width": 32, "dtype": np.float32}


def compiled(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    shapes = re.findall(r"\w\d*\[([\d,]+)\]", program.as_text())
    return program, max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)


@pytest.mark.slow
def test_no_buffer_has_as_many_numbers_as_there_are_logits():
    params, data = problem(**LARGE)
    logits = LARGE["number"] * LARGE["tokens"] * LARGE["classes"]
    op = cv.softmax_gauss_newton(hidden, readout, params, data)
    product, largest = compiled(tree_matvec, op, params)
    assert largest == LARGE["classes"] * LARGE["width"] < logits
    gradient, _ = compiled(jax.grad(chunked_loss), params, data)
    temporary = [program.memory_analysis().temp_size_in_bytes for program in (product, gradient)]
    assert temporary[0] <= 1.2 * temporary[1]
    # And a plain one has such a buffer, so that it would have been found.
    plain = cv.model_fisher(lambda p, b: hidden(p, b) @ readout(p).T, params, data, per="token")
    assert compiled(tree_matvec, plain, params)[1] >= logits


@pytest.mark.long
@pytest.mark.exact
def test_a_product_takes_at_most_2_2_gradients():
    params, data = problem(**LARGE)
    product, _ = compiled(tree_matvec, cv.softmax_gauss_newton(hidden, readout, params, data), params)
    gradient, _ = compiled(jax.grad(chunked_loss), params, data)
    op = cv.softmax_gauss_newton(hidden, readout, params, data)

    def seconds(program, *arguments):
        began = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        return time.perf_counter() - began

    ratios = [seconds(product, op, params) / seconds(gradient, params, data) for _ in range(15)]
    assert np.median(ratios) <= 2.2


def test_what_does_not_go_together_is_one_line():
    params, data = problem(dtype=np.float32)
    with pytest.raises(InputError, match=r"one array \[5, ..., d\] and readout\(params\) one \[V, d\], got shapes .*7"):
        cv.softmax_gauss_newton(hidden, lambda params: params["embedding"].T, params, data)
    with pytest.raises(InputError, match=r"weights must match the labels, of shape .*, got shape \(5, 2\)"):
        cv.softmax_gauss_newton(hidden, readout, params, cv.Batches(data, weights=data["mask"][:, :2]))
    with pytest.raises(InputError, match="statistics"):
        cv.softmax_gauss_newton(hidden, readout, params, cv.Batches(data, statistics_batch=1))


def test_hidden_states_and_a_matrix_of_two_types_have_the_type_of_their_product():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    params = {"w": jnp.eye(3), "E": jax.random.normal(jax.random.key(1), (7, 3))}
    readouts = (lambda p: p["E"].astype(jnp.bfloat16), lambda p: p["E"].astype(jnp.bfloat16).astype(jnp.float32))
    narrow, same = (
        cv.softmax_gauss_newton(lambda p, b: b @ p["w"], readout, params, x, chunk_size=4).to_dense()
        for readout in readouts
    )
    np.testing.assert_allclose(narrow, same, rtol=1e-5, atol=1e-6)
