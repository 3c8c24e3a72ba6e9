"""P^-1/2 A P^-1/2 against dense matrices and SciPy, and P of Optax states against the updates that Optax makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.sparse.linalg import lobpcg

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
GENERATOR = np.random.default_rng(0)
SIZE, NUMBER = 12, 40
PARAMS = {"kernel": jnp.zeros((4, 2)), "bias": jnp.zeros(4)}
P = {"kernel": GENERATOR.uniform(0.1, 9, (4, 2)), "bias": GENERATOR.uniform(0.1, 9, 4)}
X = GENERATOR.standard_normal((NUMBER, SIZE)).astype(np.float32)
FLAT = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(P)])


def predict(params, x):
    return x @ jnp.concatenate([params["bias"], params["kernel"].ravel()])


def criterion(outputs, x):
    return jnp.mean(outputs**2) / 2


def loss(params, x):
    return criterion(predict(params, x), x)


def operator(x=X, batch_size=16):
    return cv.hessian(loss, PARAMS, cv.Batches(x, batch_size))


def expected(matrix=None, shift=0.0):
    """The Hessian of a mean of squares, XᵀX / N, in the coordinates of P; float64, by NumPy."""
    wide = np.asarray(X, np.float64)
    matrix = wide.T @ wide / NUMBER if matrix is None else matrix
    return (matrix + shift * np.eye(SIZE)) / np.sqrt(np.outer(FLAT, FLAT))


def by_function(vector, preconditioner):
    return jax.tree.map(lambda v, p: v / jnp.sqrt(p), vector, preconditioner)


def test_a_tree_and_a_function_give_the_matrix():
    H = operator()
    shifted = cv.preconditioned(H + 0.5, P)
    np.testing.assert_allclose(shifted.to_dense(), expected(shift=0.5), rtol=1e-5, atol=1e-6)
    v = np.ones(SIZE, np.float32)
    np.testing.assert_allclose(shifted(v), expected(shift=0.5) @ v, rtol=1e-5, atol=1e-6)
    twice = cv.preconditioned(shifted, by_function, P) - H
    wide = np.asarray(X, np.float64)
    matrix = expected(expected(shift=0.5)) - wide.T @ wide / NUMBER
    np.testing.assert_allclose(twice.to_dense(), matrix, rtol=1e-5, atol=1e-4)


def test_eigenvalues_are_those_that_scipy_finds():
    start = np.random.default_rng(1).standard_normal((SIZE, 2))
    values, _ = lobpcg(expected(), start, tol=1e-10, maxiter=200)
    pairs = cv.eigenpairs(cv.preconditioned(operator(), P), KEY, k=2, rtol=1e-5)
    np.testing.assert_allclose(pairs.values, values, rtol=1e-5)
    # The Gram side, between outputs.
    few = cv.gauss_newton(predict, criterion, PARAMS, X[:5])
    side = cv.eigvalsh(cv.preconditioned(few, P))
    wide = np.asarray(X[:5], np.float64)
    np.testing.assert_allclose(side, np.linalg.eigvalsh(expected(wide.T @ wide / 5)), rtol=1e-5, atol=1e-5)


def test_blocks_examples_over_devices_and_narrow_parameters_keep_it():
    block = cv.restrict(cv.preconditioned(operator(), P), "kernel").to_dense()
    np.testing.assert_allclose(block, expected()[4:, 4:], rtol=1e-5, atol=1e-6)
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    spread = jax.device_put(X, NamedSharding(mesh, PartitionSpec("d")))
    v = np.ones(SIZE, np.float32)
    product = cv.preconditioned(operator(spread), P)(v)
    np.testing.assert_allclose(product, expected() @ v, rtol=1e-5, atol=1e-6)
    narrow = cv.hessian(loss, jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS), X)
    product = cv.preconditioned(narrow, P)(v)
    np.testing.assert_allclose(product, expected() @ v, rtol=1e-4, atol=1e-4)
    assert product.dtype == jnp.float32
    np.testing.assert_allclose(cv.preconditioned(narrow, P).to_dense(), expected(), rtol=1e-5, atol=1e-5)


def test_an_operator_inside_jit_is_preconditioned():
    product = jax.jit(lambda op, p, v: cv.preconditioned(op + 0.5, p)(v))(operator(), P, jnp.ones(SIZE))
    np.testing.assert_allclose(product, expected(shift=0.5).sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("preconditioner", "message"),
    [
        ({"kernel": P["kernel"]}, "P must have the structure"),
        ({**P, "bias": np.zeros(4)}, r"P\['bias'\] must be above 0, got 0"),
        (lambda v: v["bias"], "the product of P\\^-1/2 must have the structure"),
    ],
)
def test_what_is_no_preconditioner_is_refused(preconditioner, message):
    with pytest.raises(InputError, match=message):
        cv.preconditioned(operator(), preconditioner)


def test_a_block_of_what_a_function_preconditions_is_refused():
    with pytest.raises(InputError, match="then precondition it with a function"):
        cv.restrict(cv.preconditioned(operator(), by_function, P), "kernel")


W = {"a": jnp.array([0.3, -2.0, 1.0]), "b": jnp.array([[0.5]])}
GRADIENTS = [{"a": jnp.array([3.0, -0.1, 0.02]) * t, "b": jnp.array([[-1.0]]) / t} for t in (1.0, 3.0, 0.4)]
RATE = 0.1
ADAM = {"b1": 0.8, "b2": 0.95, "eps": 1e-3}
ADAPTIVE = {
    "adam": optax.adam(RATE, **ADAM),
    "chain": optax.chain(optax.clip_by_global_norm(1e9), optax.adam(RATE, **ADAM), optax.add_noise(0.0, 0.0, KEY)),
    "adamw": optax.adamw(RATE, **ADAM, weight_decay=0.0),
    "inject": optax.inject_hyperparams(optax.adam)(RATE, **ADAM),
    "multi_steps": optax.MultiSteps(optax.adam(RATE, **ADAM), 1),
    "apply_if_finite": optax.apply_if_finite(optax.adam(RATE, **ADAM), 2),
}


def after(optimiser, gradients=GRADIENTS):
    state = optimiser.init(W)
    for gradient in gradients:
        updates, state = optimiser.update(gradient, state, W)
    return updates, state


def moments(state):
    (adam,) = [s for s in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")]
    return adam.mu


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adam_moves_by_its_first_moment_over_its_preconditioner(name):
    updates, state = after(ADAPTIVE[name])
    settings = {} if name == "inject" else ADAM
    preconditioner = jax.jit(cv.preconditioner)(state, W, **settings)
    for u, m, p in zip(*map(jax.tree.leaves, (updates, moments(state), preconditioner)), strict=True):
        np.testing.assert_allclose(u, -RATE * m / p, rtol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("settings", [{}, {"eps_in_sqrt": False}, {"bias_correction": True}])
def test_rmsprop_moves_by_its_gradient_over_its_preconditioner(centred, settings):
    updates, state = after(optax.rmsprop(RATE, 0.9, 1e-2, centered=centred, **settings))
    root = {"eps_in_sqrt": settings.get("eps_in_sqrt", True)}
    preconditioner = cv.preconditioner(state, W, b2=0.9, eps=1e-2, **root)
    for u, g, p in zip(*map(jax.tree.leaves, (updates, GRADIENTS[-1], preconditioner)), strict=True):
        np.testing.assert_allclose(u, -RATE * g / p, rtol=1e-5)


# What has Adam's state, with what it gives its learning rate and settings; the page names those with another P.
SHARED = {"adam", "adamw", "nadam", "nadamw", "adamax", "adamaxw", "radam", "yogi", "lamb", "adopt", "adopt_adamw"}


def test_what_has_the_state_of_adam_has_its_preconditioner_or_is_named():
    other = set()
    for module in (optax, optax.contrib):
        for name in SHARED & set(dir(module)):
            updates, state = after(getattr(module, name)(RATE, **{**ADAM, "b2": 0.9}), GRADIENTS[:2])
            preconditioner = cv.preconditioner(state, W, **{**ADAM, "b2": 0.9})
            pairs = zip(*map(jax.tree.leaves, (updates, moments(state), preconditioner)), strict=True)
            if not all(np.allclose(u, -RATE * m / p, rtol=1e-2) for u, m, p in pairs):
                other.add(name.removesuffix("_adamw").removesuffix("w").lower())
    assert other == {"nadam", "adamax", "radam", "adopt", "lamb"}
    told = cv.preconditioner.__doc__.lower()
    assert all(name in told for name in other)


def test_the_correction_of_the_bias_has_the_precision_of_the_parameters():
    with jax.enable_x64(True):
        w, g = jnp.array([0.3, -2.0]), jnp.array([3.0, -0.1])
        adam = optax.adam(RATE, b1=0.9, b2=0.9999, eps=1e-8)
        updates, state = adam.update(g, adam.init(w))
        preconditioner = cv.preconditioner(state, w, b1=0.9, b2=0.9999, eps=1e-8)
        np.testing.assert_allclose(updates, -RATE * state[0].mu / preconditioner, rtol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"b1": 1.0}, "b1 must be one number, at least 0 and below 1, got 1.0"),
        ({"b1": "0.9"}, "b1 must be one number, at least 0 and below 1, got '0.9'"),
        ({"b1": jnp.array([0.9, 0.8])}, "b1 must be one number"),
        ({"b2": 1.5}, "b2 must be one number, at least 0 and below 1, got 1.5"),
        ({"eps": -1e-8}, "eps must be one number, finite and at least 0"),
        ({"eps_root": np.nan}, "eps_root must be one number"),
        ({"eps_in_sqrt": "False"}, "eps_in_sqrt must be True or False"),
    ],
)
def test_settings_that_no_optimiser_has_are_refused(settings, message):
    _, state = after(ADAPTIVE["adam"])
    with pytest.raises(InputError, match=message):
        cv.preconditioner(state, W, **{**ADAM, **settings})


def test_rmsprop_has_no_preconditioner_before_its_first_update():
    state = optax.rmsprop(RATE).init(W)
    with pytest.raises(InputError, match="seen no gradient yet"):
        cv.preconditioner(state, W, eps=1e-8)
    within = jax.jit(lambda s: cv.preconditioner(s, W, eps=1e-8))(state)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(within))


def test_what_is_not_adaptive_has_ones():
    for optimiser in (optax.sgd(RATE), optax.sgd(lambda step: RATE, 0.9, nesterov=True)):
        _, state = after(optimiser)
        assert all((leaf == 1).all() for leaf in jax.tree.leaves(cv.preconditioner(state, W)))
    masked = optax.chain(optax.masked(optax.scale_by_adam(**ADAM), {"a": True, "b": False}), optax.scale(-RATE))
    labels = optax.partition({"x": optax.adam(RATE, **ADAM), "y": optax.sgd(RATE)}, {"a": "x", "b": "y"})
    whole = cv.preconditioner(after(ADAPTIVE["adam"])[1], W, **ADAM)
    for optimiser in (masked, labels):
        preconditioner = cv.preconditioner(after(optimiser)[1], W, **ADAM)
        np.testing.assert_array_equal(preconditioner["a"], whole["a"])
        assert preconditioner["b"] == 1


def test_the_state_of_an_nnx_optimizer_is_read():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimiser = nnx.Optimizer(model, optax.adam(RATE, **ADAM), wrt=nnx.Param)
    gradient = nnx.grad(lambda model: jnp.mean((model(jnp.ones((4, 3))) - 1) ** 2))(model)
    optimiser.update(model, gradient)
    params = nnx.state(model, nnx.Param)
    preconditioner = cv.preconditioner(optimiser.opt_state, params, **ADAM)
    for g, p in zip(*map(jax.tree.leaves, (gradient, preconditioner)), strict=True):
        np.testing.assert_allclose(p, (1 - ADAM["b1"]) * (np.abs(g) + ADAM["eps"]), rtol=1e-5)
    assert jax.tree.structure(preconditioner) == jax.tree.structure(params)


def test_states_that_say_too_little_are_refused():
    _, state = after(ADAPTIVE["adam"])
    with pytest.raises(InputError, match=r"ScaleByLionState.*directional_sharpness"):
        cv.preconditioner(after(optax.lion(RATE))[1], W)
    with pytest.raises(InputError, match=r"MuonState.*directional_sharpness"):
        cv.preconditioner(optax.contrib.muon(RATE).init({"a": jnp.ones((2, 2))}), {"a": jnp.ones((2, 2))})
    with pytest.raises(InputError, match="does not hold b1: say that of your optimiser"):
        cv.preconditioner(state, W)
    with pytest.raises(InputError, match="seen no gradient yet"):
        cv.preconditioner(ADAPTIVE["adam"].init(W), W, **ADAM)
    with pytest.raises(InputError, match="belongs to other parameters"):
        cv.preconditioner(state, {"a": W["a"]}, **ADAM)
    with pytest.raises(InputError, match="two second moments"):
        cv.preconditioner((state, state), W, **ADAM)


def test_a_function_for_parameters_of_half_the_bits_is_refused():
    H = cv.hessian(lambda p, x: jnp.mean(jnp.tanh(x @ p) ** 2), jnp.ones(3, jnp.bfloat16), jnp.ones((4, 3)))
    with pytest.raises(InputError, match=r"32 bits or more, got bfloat16; give P as a tree"):
        cv.preconditioned(H, jnp.multiply, jnp.ones(3))
    assert cv.preconditioned(H, jnp.full(3, 4.0)).to_dense().shape == (3, 3)
