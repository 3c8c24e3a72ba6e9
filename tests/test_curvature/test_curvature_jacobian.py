from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_predict, conv_problem, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature import jacobian
from hessflat.utils.errors import InputError


def apply(params, inputs):
    return predict(params, {"x": inputs})


def apply_conv(params, inputs):
    return conv_predict(params, {"x": inputs})


def linear(params, inputs):
    return inputs @ params


def closed_form(params, x, softmax):
    """The spectral norm for one hidden tanh layer, in NumPy."""
    (w1, b1), (w2, b2) = [tuple(np.asarray(a, np.float64) for a in pair) for pair in params]
    hidden = np.tanh(x @ w1 + b1)
    jacobian = w2.T @ np.diag(1 - hidden**2) @ w1.T
    if softmax:
        p = np.exp(hidden @ w2 + b2)
        p /= p.sum()
        jacobian = (np.diag(p) - np.outer(p, p)) @ jacobian
    return np.linalg.norm(jacobian, 2)


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_norms_are_the_closed_form(batch_size, softmax):
    params, inputs = mlp_params(6, 5, 3), np.random.default_rng(0).normal(size=(11, 6)).astype(np.float32)
    found = cv.jacobian_norms(apply, params, inputs, softmax, batch_size)
    norms = [closed_form(params, x.astype(np.float64), softmax) for x in inputs]
    assert_allclose(found.values, norms, rtol=1e-5)
    assert_allclose([found.max, found.mean], [np.max(norms), np.mean(norms)], rtol=1e-5)
    assert (found.method, found.num_products, found.precision) == ("exact", 3, "highest")


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_iterating_gives_the_closed_form_within_its_bounds(seed, softmax):
    params = mlp_params(30, 40, 50, seed=seed)
    inputs = np.random.default_rng(seed).normal(size=(11, 30)).astype(np.float32)
    found = cv.jacobian_norms(apply, params, inputs, softmax, batch_size=4, rtol=1e-3)
    norms = np.array([closed_form(params, x.astype(np.float64), softmax) for x in inputs])
    assert found.method == "iterative"
    assert found.num_products < 50
    assert (found.bounds <= 1e-3 * found.values).all()
    assert (np.abs(found.values - norms) <= found.bounds).all()
    assert_allclose(found.values, norms, rtol=1e-5)


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("scale", [1, 5])
def test_bounds_hold_the_rounding_of_norms_that_have_converged(scale, softmax, method):
    """The larger the outputs, the more of their rounding a softmax shows."""
    params = [(scale * weights, scale * bias) for weights, bias in mlp_params(40, 100, 10)]
    inputs = np.random.default_rng(0).normal(size=(200, 40)).astype(np.float32)
    found = cv.jacobian_norms(apply, params, inputs, softmax, method=method, rtol=1e-7)
    norms = np.array([closed_form(params, x.astype(np.float64), softmax) for x in inputs])
    assert (np.abs(found.values - norms) <= found.bounds).all()
    assert (found.bounds <= (1e-3 if softmax else 1e-5) * norms).all()


def test_a_smaller_rtol_takes_more_products():
    params, inputs = mlp_params(30, 40, 50), np.random.default_rng(0).normal(size=(11, 30)).astype(np.float32)
    loose, tight = (cv.jacobian_norms(apply, params, inputs, rtol=rtol) for rtol in (1e-1, 1e-5))
    assert loose.num_products < tight.num_products
    assert loose.bounds.max() > tight.bounds.max()


@pytest.mark.parametrize(("outputs", "features"), [(1, 7), (2, 7), (3, 7), (7, 2), (5, 5)])
def test_iterating_until_the_space_is_exhausted_is_exact(outputs, features):
    weights = np.random.default_rng(0).normal(size=(features, outputs))
    with jax.enable_x64(True):
        found = cv.jacobian_norms(
            linear, jax.device_put(weights), jnp.ones((2, features)), method="iterative", rtol=1e-15
        )
        assert_allclose(found.values, np.linalg.norm(weights, 2), rtol=1e-13)
    assert found.num_products <= 2 * outputs


def test_repeated_and_vanishing_singular_values():
    for weights, norm in ((np.eye(6), 1), (np.diag([3.0, 3, 3, 0, 0, 0]), 3), (np.zeros((6, 6)), 0)):
        found = cv.jacobian_norms(linear, jax.device_put(np.float32(weights)), jnp.ones((2, 6)), method="iterative")
        assert_allclose(found.values, norm, rtol=1e-6)
        assert_allclose(found.bounds, 0, atol=1e-5)


def test_state_is_a_third_argument():
    def scaled(params, inputs, state):
        return state["scale"] * linear(params, inputs)

    for method in ("exact", "iterative"):
        weights, state = jnp.diag(jnp.array([1.0, 3.0, 2.0])), {"scale": jnp.array(5.0)}
        found = cv.jacobian_norms(scaled, weights, jnp.ones((2, 3)), method=method, state=state)
        assert_allclose(found.values, 15, rtol=1e-6)


def test_a_saturated_softmax_is_not_lost_in_rounding():
    params = [(1e2 * jnp.eye(3)[:, :2], jnp.asarray([0.0, -60.0]))]
    for method in ("exact", "iterative"):
        found = cv.jacobian_norms(apply, params, jnp.zeros((1, 3)), softmax=True, method=method)
        # p (1 − p) (−1, 1)ᵀ (w₁ − w₀), with p = exp(−60) and columns of length 100.
        assert_allclose(found.values, 200 * np.exp(-60), rtol=1e-4)


@pytest.mark.slow
def test_convolutions_in_batches():
    params, batch = conv_problem(7)
    whole = cv.jacobian_norms(apply_conv, params, batch["x"])
    assert whole.values.shape == (7,)
    pieces = cv.jacobian_norms(apply_conv, params, batch["x"], batch_size=3)
    assert_allclose(pieces.values, whole.values, rtol=1e-5)
    iterated = cv.jacobian_norms(apply_conv, params, batch["x"], batch_size=3, method="iterative")
    assert_allclose(iterated.values, whole.values, rtol=1e-5)


def test_a_constant_has_norm_zero():
    params = mlp_params(4, 3)
    assert_allclose(cv.jacobian_norms(lambda p, x: 0 * apply(p, x), params, jnp.ones((2, 4))).values, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((apply, [(jnp.ones((3, 2)), jnp.ones(2))], jnp.ones((2, 4))), "cannot be evaluated"),
        ((lambda p, x: x.sum(), {"a": jnp.ones(1)}, jnp.ones((2, 4))), r"must have shape \(2, C\), got \(\)"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, np.ones((2, 4), int)), "inputs must be real floating point"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.full((2, 4), jnp.inf)), "inputs must be finite"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((2, 4)), False, 0), "batch_size must be"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((0, 4))), "at least one example"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((2, 4)), False, None, "power"), "unknown method 'power'"),
        ((lambda p, x: x, {"a": jnp.ones(1)}, jnp.ones((2, 4)), False, None, "auto", 0), "rtol must be above 0"),
        ((lambda p, x: jnp.sqrt(x), {"a": jnp.ones(1)}, jnp.zeros((2, 4))), "Jacobian is not finite"),
        ((lambda p, x: jnp.sqrt(x), {"a": jnp.ones(1)}, jnp.zeros((2, 4)), False, None, "iterative"), "is not finite"),
    ],
)
def test_wrong_input_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        cv.jacobian_norms(*arguments)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_a_second_set_of_parameters_does_not_compile_again(method):
    traced = deque()  # known to the hash of a function by identity alone, whatever it holds

    def counted(params, inputs):
        traced.append(1)
        return apply(params, inputs)

    inputs = jnp.ones((5, 6))
    cv.jacobian_norms(counted, mlp_params(6, 3), inputs, batch_size=2, method=method)
    before = len(traced)
    cv.jacobian_norms(counted, jax.tree.map(lambda p: p + 1, mlp_params(6, 3)), inputs, batch_size=2, method=method)
    assert len(traced) == before


GIVEN_UP = (  # the lower triangle, by rows
    (0.0,),
    (0.0, 0.0),
    (0.0, 0.0, 0.0),
    (1.123972903623487e-31, 2.636316996432646e-35, 3.3012551022398475e-32, 5.590425247086303e-22),
    (
        7.50567794211156e-27,
        1.5265921320004651e-30,
        2.9088976249832596e-27,
        6.2373529274142675e-18,
        1.361420091244847e-12,
    ),
    (
        -1.3532111789251371e-20,
        -1.5511304926183811e-24,
        -4.960613442590444e-21,
        -2.935330103981393e-11,
        -1.3091022310618428e-06,
        33.64073944091797,
    ),
    (
        1.353201404622977e-20,
        1.5511055448922535e-24,
        4.960556897040758e-21,
        2.935317960917061e-11,
        1.3090933634885005e-06,
        -33.640716552734375,
        33.64069366455078,
    ),
)


def test_a_matrix_that_lapack_gives_up_on_has_a_norm():
    """Met in training: J Jᵀ of one of 45,000 examples, for which LAPACK's single precision finds no eigenvalues."""
    lower = np.zeros((7, 7), np.float32)
    for row, values in enumerate(GIVEN_UP):
        lower[row, : row + 1] = values
    gram = lower + np.tril(lower, -1).T
    expected = np.linalg.eigvalsh(gram.astype(float))[-1]
    assert_allclose(jacobian._largest_eigenvalue(jax.device_put(gram)), expected, rtol=1e-6)


def test_an_eigenvalue_that_lapack_does_not_give_is_computed_in_double_precision():
    lower = np.zeros((7, 7), np.float32)
    for row, values in enumerate(GIVEN_UP):
        lower[row, : row + 1] = values
    given_up, plain = lower + np.tril(lower, -1).T, np.eye(7, dtype=np.float32)
    grams = np.stack([given_up, plain, given_up, np.full((7, 7), np.nan, np.float32)])
    trusted = jacobian._trusted(np.array([np.nan, 1, 1e-3, np.nan], np.float32), grams)
    expected = np.linalg.eigvalsh(given_up.astype(float))[-1]
    assert_allclose(trusted, [expected, 1, expected, np.nan], rtol=1e-6)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_saturated_examples_have_the_norms_of_float64(method):
    """Losses from 1 down to 1e-30: (diag p − p pᵀ) Wᵀ in NumPy, with differences from the likeliest class."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(12, 10)), rng.normal(size=(3000, 12))
    w, x = np.float32(w), np.float32(x * np.geomspace(0.3, 15, 3000)[:, None])
    wide, scores = w.astype(float), x.astype(float) @ w.astype(float)
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    relative = wide.T[None] - wide.T[scores.argmax(1)][:, None]
    rows = p[:, :, None] * (relative - np.einsum("nc,ncd->nd", p, relative)[:, None])
    largest = np.abs(rows).max((1, 2))
    expected = largest * np.linalg.norm(rows / largest[:, None, None], 2, (1, 2))
    found = cv.jacobian_norms(linear, w, x, softmax=True, batch_size=1000, method=method)
    assert np.isfinite(found.values).all()
    assert (1 - p.max(1)).min() < 1e-6
    # Scores of 100 are rounded to 1e-5.
    assert_allclose(found.values, expected, rtol=2e-4, atol=1e-36)


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("softmax", [False, True])
def test_outputs_for_tokens_are_taken_together_with_a_softmax_each(softmax, method):
    """Outputs [n, T, V]: one Jacobian of T V rows."""
    w = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)

    def tokens(params, inputs):
        return jnp.einsum("nd,dtv->ntv", inputs, params)

    found = cv.jacobian_norms(tokens, w, x, softmax, method=method)
    for norm, one in zip(found.values, x.astype(float), strict=True):
        rows = w.astype(float).transpose(1, 2, 0)
        if softmax:
            p = np.exp(np.einsum("d,dtv->tv", one, w))
            p /= p.sum(1, keepdims=True)
            rows = np.stack([(np.diag(q) - np.outer(q, q)) @ block for q, block in zip(p, rows, strict=True)])
        assert_allclose(norm, np.linalg.norm(rows.reshape(12, 6), 2), rtol=1e-5)


def test_frobenius_norms_are_those_of_the_whole_jacobian():
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(6, 4)), rng.normal(size=(7, 6))
    outputs = lambda w, x: jnp.tanh(x @ w)  # noqa: E731
    arrays = jnp.asarray(w, jnp.float32), jnp.asarray(x, jnp.float32)
    rows = [(1 - np.tanh(one @ w)[:, None] ** 2) * w.T for one in x]
    found = cv.jacobian_norms(outputs, *arrays, batch_size=3)
    assert_allclose(found.frobenius, [np.sqrt(np.sum(own**2)) for own in rows], rtol=1e-5)
    assert_allclose(found.values, [np.linalg.svd(own)[1][0] for own in rows], rtol=1e-5)
    assert cv.jacobian_norms(outputs, *arrays, method="iterative").frobenius is None
