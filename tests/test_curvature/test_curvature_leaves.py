"""What people bring as parameters, data and state: taken as it is meant, or refused by name in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, losses, mlp_params, predict
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = X.sum(axis=1)
EXACT = np.linalg.eigvalsh(X.astype(np.float64).T @ X / 30)
KEY = jax.random.key(0)
TANH = jax.custom_vjp(jnp.tanh)
TANH.defvjp(lambda z: (jnp.tanh(z), z), lambda z, g: (g * (1 - jnp.tanh(z) ** 2),))


def squares(w, batch, *state):
    return 0.5 * jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


@pytest.mark.parametrize(
    ("data", "params", "state"),
    [
        ({"x": X.astype(">f4"), "y": Y}, np.zeros(4, ">f8"), None),
        ({"x": X.astype(np.longdouble), "y": Y, "none": None}, np.zeros(4), None),
        (
            {"x": X, "y": Y, "keys": jax.random.split(KEY, 30), "n": np.arange(30), "on": np.ones(30, bool)},
            np.zeros(4),
            None,
        ),
        ({"x": X, "y": Y}, np.zeros(4), {"key": KEY, "count": 3, "on": True, "rate": 0.1, "none": None}),
        ({"x": X, "y": Y}, np.zeros(4), {}),
        ({"x": X, "y": Y}, np.zeros(4), {"a": {}, "b": (None,)}),
        ({"x": np.ma.array(X), "y": Y}, np.zeros(4), None),
        ({"x": X, "y": Y, "unused": np.full(30, np.nan)}, np.zeros(4), {"bias": np.full(3, -np.inf)}),
        (cv.Batches({"x": X, "y": Y}, np.int64(7)), np.zeros(4), None),
    ],
    ids=["big-endian", "long", "keys", "state", "empty", "nested empty", "unmasked", "infinite", "count"],
)
def test_leaves_of_every_kind(data, params, state):
    H = cv.hessian(squares, params, data, state)
    assert_allclose(cv.eigvalsh(H), EXACT, rtol=1e-5)
    assert_allclose(cv.eigvalsh(H, float64=True), EXACT, rtol=1e-6)
    assert_allclose(cv.minibatch_sharpness(H, KEY, np.int64(30), np.int64(1)).mean, EXACT[-1], rtol=1e-3)
    assert cv.check(H, KEY).batch_weights < 1e-4
    at = cv.along(squares, params, np.ones(4), [0.0], data, state).values
    assert_allclose(at, 0.5 * np.mean(Y**2), rtol=1e-5)


def test_an_empty_state_is_a_third_argument_for_a_function_that_takes_one():
    two = cv.hessian(lambda w, b: squares(w, b), np.zeros(4), {"x": X, "y": Y}, {})
    three = cv.hessian(lambda w, b, s: squares(w, b) + len(s), np.zeros(4), {"x": X, "y": Y}, {})
    for H in (two, three):
        assert_allclose(cv.eigvalsh(H), EXACT, rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "params", "message"),
    [
        ({"x": X, "y": np.array(["cat"] * 30)}, np.zeros(4), r"data\['y'\] must hold numbers, got text"),
        ({"x": X, "y": np.array([b"cat"] * 30)}, np.zeros(4), r"data\['y'\] must hold numbers, got text"),
        ({"x": X, "y": Y.astype(object)}, np.zeros(4), r"data\['y'\] must hold numbers, got objects"),
        ({"x": X, "y": np.zeros(30, "M8[s]")}, np.zeros(4), r"data\['y'\] must hold numbers, got dates"),
        ({"x": X, "y": np.zeros(30, [("a", "f4")])}, np.zeros(4), r"data\['y'\] must hold numbers, got records"),
        ({"x": np.ma.array(X, mask=X > 0), "y": Y}, np.zeros(4), r"data\['x'\] is a masked array"),
        ({"x": X, "y": np.arange(30) + 2**31}, np.zeros(4), r"data\['y'\] holds 30 of 30 values beyond int32"),
        ({"x": X, "y": np.full(30, 1e300)}, np.zeros(4), r"data\['y'\] holds 30 of 30 values beyond float32"),
        ({"x": X, "y": Y}, np.arange(4), "params must be real floating point, got int.*put them into state"),
        ({"x": X, "y": Y}, np.zeros(4, bool), "params must be real floating point.*put them into state"),
        ({"x": X, "y": Y}, np.zeros(4, complex), "params must be real .*give real and imaginary parts as two arrays"),
        ({"x": X, "y": Y}, np.full(4, np.inf), "params must be finite, got 4 of 4"),
        ({"x": X, "y": Y * np.nan}, np.zeros(4), r"data\['y'\] must be finite, got 30 of 30"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(data, params, message):
    with pytest.raises(InputError, match=message) as caught:
        cv.hessian(squares, params, data)
    assert "cast it" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.long
def test_infinities_that_the_loss_leaves_out():
    bias = np.where(np.arange(5) < RNG.integers(2, 6, size=12)[:, None], 0, -np.inf).astype(np.float32)
    labels = np.where(np.arange(12) % 4, RNG.normal(size=12), np.nan).astype(np.float32)
    batch = {"x": RNG.normal(size=(12, 5, 4)).astype(np.float32), "bias": bias, "y": labels}

    def attention(w, b):
        f = jnp.einsum("nt,ntd,d->n", jax.nn.softmax(b["x"] @ w[:, 0] + b["bias"], axis=1), b["x"], w[:, 1])
        known = ~jnp.isnan(b["y"])
        return jnp.mean(jnp.where(known, (f - jnp.where(known, b["y"], 0)) ** 2, 0))

    w = jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32)
    exact = np.linalg.eigvalsh(jax.hessian(attention)(w, jax.tree.map(jnp.asarray, batch)).reshape(8, 8))
    H = cv.hessian(attention, w, cv.Batches(batch, 5))
    assert_allclose(cv.eigvalsh(H), exact, atol=1e-5)
    cv.check(H, KEY)
    with pytest.raises(InputError, match=r"data\['bias'\] must be finite, .*or left out by the loss"):
        cv.hessian(lambda w, b: attention(w, b) + b["bias"].mean(), w, batch)
    with pytest.raises(InputError, match=r"data\['y'\] must be finite, .*or left out by the function"):
        cv.along(squares, np.zeros(4), np.ones(4), [0, 1], {"x": X, "y": Y * np.nan})


@pytest.mark.parametrize("shape", [(), (1,), (4, 3), (2, 1, 3)])
def test_one_bare_array_is_a_tree_and_a_flat_vector(shape):
    matrix = RNG.normal(size=(X.shape[1], int(np.prod(shape)))).astype(np.float32)

    def bare(w, b):
        return 0.5 * jnp.mean(jnp.sum((jnp.ravel(w)[None] * (b["x"] @ matrix) - 1) ** 2, axis=1))

    w = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    dense = np.diag(np.mean((X.astype(np.float64) @ matrix) ** 2, axis=0))
    H, v = cv.hessian(bare, w, {"x": X}), RNG.normal(size=shape).astype(np.float32)
    assert H(v).shape == shape
    assert_allclose(H(v).ravel(), dense @ v.ravel(), rtol=1e-4)
    assert_allclose(H(v.ravel()), dense @ v.ravel(), rtol=1e-4)
    assert_allclose(cv.eigvalsh(H), np.sort(np.diag(dense)), rtol=1e-4)
    cv.check(H, KEY)
    assert cv.minibatch_products(H, KEY, 30, 1, vector=v).relative_variance < 1e-6
    assert_allclose(cv.sharpness(H, KEY).value, dense.max(), rtol=1e-3)
    assert cv.eigenpairs(H, KEY).vectors.shape == (1, *shape)
    assert cv.random_direction(KEY, w, "unit").vector.shape == shape
    assert cv.line(bare, w, w + 1, [0, 1], {"x": X}).values.shape == (2,)
    assert_allclose(cv.decompose(lambda w, b: jnp.ravel(w)[None] * (b["x"] @ matrix), half, w, {"x": X}, KEY,
                                 num_steps=2, trace_probes=0, exact=True).hessian.exact.values,
                    np.sort(np.diag(dense)), rtol=1e-4)  # fmt: skip
    if w.size > 1:
        with pytest.raises(InputError, match="vector"):
            H(np.ones(w.size + 1, np.float32))


def half(outputs, batch):
    return 0.5 * jnp.mean(jnp.sum((outputs - 1) ** 2, axis=1))


def test_counts_of_every_integer_type():
    H, n = cv.hessian(squares, np.zeros(4), {"x": X, "y": Y}), np.int64(2)
    assert_allclose(cv.eigenpairs(H, KEY, k=n, max_steps=np.int32(20)).values, EXACT[:-3:-1], rtol=1e-3)
    assert_allclose(cv.eigenpairs(H, KEY, k=(n, np.uint8(1)), which="both").values, EXACT[[3, 2, 0]], rtol=1e-3)
    assert cv.spectrum(H, KEY, num_steps=np.int64(4), num_probes=n).nodes.shape == (2, 4)
    assert cv.moments(H, KEY, num_probes=n).num_products == 2
    assert cv.trace(H, KEY, num_products=jnp.asarray(3)).num_products == 3
    assert cv.plan(H, np.int64(3), n).num_products == 6
    norms = cv.jacobian_norms(lambda w, x: x * w[None], np.ones(4, np.float32), X, batch_size=np.int64(7))
    assert_allclose(norms.values, 1, rtol=1e-5)
    for wrong in (2.0, True, np.float64(2), np.bool_(True), "2", None):
        with pytest.raises(InputError, match="num_probes must be a whole number of at least 1"):
            cv.moments(H, KEY, num_probes=wrong)


def test_leaves_outside_a_restriction_may_be_of_any_type():
    base = RNG.integers(-9, 9, size=(4, 4)).astype(np.int8)
    params = {"base": base, "down": np.ones((4, 2), np.float32) / 4, "up": np.eye(2, 4, dtype=np.float32)}

    def adapted(p, b):
        return jnp.mean((b["x"] @ (p["base"] * 0.1 + p["down"] @ p["up"]) - b["y"][:, None]) ** 2)

    def only(low_rank, b):
        return adapted({"base": jnp.asarray(base), **low_rank}, b)

    H = cv.hessian(adapted, params, {"x": X, "y": Y})
    adapters = {name: params[name] for name in ("down", "up")}
    exact = cv.eigvalsh(cv.hessian(only, adapters, {"x": X, "y": Y}))
    assert_allclose(cv.eigvalsh(cv.restrict(H, ["down", "up"])), exact, atol=1e-5)
    for use in (lambda: H(np.ones(32, np.float32)), lambda: cv.sharpness(H, KEY), lambda: cv.eigvalsh(H)):
        with pytest.raises(InputError, match=r"params\['base'\] must be .* int8.*cv.restrict"):
            use()
    with pytest.raises(InputError, match="choose leaves of floating point"):
        cv.restrict(H, "*")


def test_flax_variables_given_whole():
    variables = {"params": {"w": np.zeros(4, np.float32)}, "batch_stats": {"mean": np.zeros(4, np.float32)}}
    with pytest.raises(InputError, match="params holds batch_stats") as caught:
        cv.hessian(lambda p, b: squares(p["params"]["w"], b), variables, {"x": X, "y": Y})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("transform", [jax.jit, lambda f: lambda w: jax.vmap(f)(w[None]), jax.grad])
@pytest.mark.parametrize(
    "measure",
    [
        lambda H, w: cv.sharpness(H, KEY).value,
        lambda H, w: cv.eigvalsh(H)[-1],
        lambda H, w: cv.trace(H, KEY).value,
        lambda H, w: cv.moments(H, KEY).mean_eigenvalue,
        lambda H, w: cv.spectrum(H, KEY).nodes.max(),
        lambda H, w: cv.check(H, KEY).repeat,
        lambda H, w: cv.minibatch_products(H, KEY, 2, 2).relative_variance,
        lambda H, w: cv.random_direction(KEY, w, "unit").norm,
        lambda H, w: cv.line(squares, w, w, [0.0], {"x": X, "y": Y}).values[0],
        lambda H, w: cv.jacobian_norms(lambda w, x: x * w[None], w, X).max,
    ],
)
def test_a_measurement_inside_a_transformation_is_refused(transform, measure):
    with pytest.raises(InputError, match="outside jit, vmap and grad") as caught:
        transform(lambda w: measure(cv.hessian(squares, w, {"x": X, "y": Y}), w))(jnp.zeros(4))
    assert "\n" not in str(caught.value)


def test_a_measurement_of_known_arrays_inside_jit_is_refused():
    H = cv.hessian(squares, np.zeros(4), {"x": X, "y": Y})
    with pytest.raises(InputError, match="outside jit"):
        jax.jit(lambda w: w * cv.sharpness(H, KEY).value)(1.0)
    with pytest.raises(InputError, match="outside jit"):
        jax.vmap(lambda key: cv.sharpness(H, key).value)(jax.random.split(KEY, 2))
    product = jax.jit(lambda w: cv.hessian(squares, w, {"x": X, "y": Y})(jnp.ones(4)))(jnp.zeros(4))
    assert_allclose(product, H(jnp.ones(4)), rtol=1e-6)


@pytest.mark.parametrize("thing", [None, 3, {"w": X}, squares, np.eye(3)])
def test_what_is_no_operator_is_refused(thing):
    for measure in (cv.sharpness, cv.spectrum, cv.trace, cv.moments, cv.check, cv.lanczos):
        with pytest.raises(InputError, match="this takes an operator"):
            measure(thing, KEY)
    for measure in (cv.eigvalsh, cv.plan, cv.blocks, cv.linearize, lambda x: cv.restrict(x, "w")):
        with pytest.raises(InputError, match="this takes an operator"):
            measure(thing)


def one_way(activation):
    def network(params, batch):
        return predict_with(activation, params, batch)

    return network


def predict_with(activation, params, batch):
    (first, bias), (last, shift) = params
    return activation(batch["x"] @ first + bias[None]) @ last + shift[None]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 4])
def test_networks_that_have_reverse_mode_alone(batch_size):
    params, data = mlp_params(5, 4, 3), cv.Batches(examples(11, 5, 3), batch_size)
    reverse = one_way(TANH)
    for make in (cv.gauss_newton, cv.residual):
        exact = cv.eigvalsh(make(predict, criterion, params, data))
        op = make(reverse, criterion, params, data)
        assert_allclose(cv.eigvalsh(op), exact, atol=1e-6)
        assert_allclose(cv.sharpness(op, KEY).value, exact[-1], rtol=2e-3)
        cv.check(op, KEY)
    exact = cv.eigvalsh(cv.hessian(loss, params, data))
    H = cv.hessian(lambda p, b: criterion(reverse(p, b), b), params, data)
    assert_allclose(cv.eigvalsh(H), exact, atol=1e-6)
    fisher = cv.fisher(losses, params, data)
    own = cv.fisher(
        lambda p, b: -jnp.take_along_axis(jax.nn.log_softmax(reverse(p, b)), b["y"][:, None], 1)[:, 0], params, data
    )
    assert_allclose(cv.eigvalsh(own), cv.eigvalsh(fisher), atol=1e-6)
    drawn = cv.eigvalsh(cv.model_fisher(reverse, params, data))
    assert_allclose(drawn, cv.eigvalsh(cv.gauss_newton(predict, criterion, params, data)), atol=1e-6)


def test_a_backward_pass_without_forward_mode():
    nested = jax.custom_vjp(jnp.tanh)
    nested.defvjp(lambda z: (jnp.tanh(z), z), lambda z, g: (g * (1 - TANH(z) ** 2),))
    params, batch = mlp_params(5, 4, 3), examples(11, 5, 3)
    H = cv.hessian(lambda p, b: criterion(predict_with(nested, p, b), b), params, batch)
    assert_allclose(cv.eigvalsh(H), cv.eigvalsh(cv.hessian(loss, params, batch)), atol=1e-6)
    R = cv.residual(one_way(nested), criterion, params, batch)
    assert_allclose(cv.eigvalsh(R), cv.eigvalsh(cv.residual(predict, criterion, params, batch)), atol=1e-6)


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_jacobians_in_reverse_mode_alone(method):
    params, x = mlp_params(5, 4, 3), examples(11, 5, 3)["x"]
    norms = [
        cv.jacobian_norms(lambda p, x, f=f: f(p, {"x": x}), params, x, method=method).values
        for f in (predict, one_way(TANH))
    ]
    assert_allclose(norms[1], norms[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 8])
def test_explicit_meshes(number):
    mesh = jax.make_mesh((number,), ("examples",), (AxisType.Explicit,), devices=jax.devices()[:number])
    params, batch = mlp_params(6, 16, 4), examples(160, 6, 4)
    spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("examples")))
    copied = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    v = np.ones(180, np.float32)
    exact = cv.hessian(loss, params, batch)(v)
    for p, b in ((params, spread), (copied, spread), (copied, batch)):
        H = cv.hessian(loss, p, cv.Batches(b, 80))
        assert_allclose(H(v), exact, atol=1e-6)
        assert_allclose(cv.sharpness(H, KEY).value, cv.sharpness(cv.hessian(loss, params, batch), KEY).value, rtol=1e-3)
        tree = H(jax.tree.map(jnp.ones_like, p))
        assert_allclose(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]), exact, atol=1e-6)
