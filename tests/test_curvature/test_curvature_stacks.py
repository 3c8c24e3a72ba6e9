"""Blocks by layer in every library, and weights stacked over layers or networks along an axis that is declared."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.operators.blocks import stacks_by_shape
from hessflat.utils.errors import InputError

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
L, D = 3, 4
DATA = {"x": np.float32(RNG.normal(size=(12, D))), "y": np.float32(RNG.normal(size=(12, D)))}
STACKED = {
    "layers": {
        "b": np.float32(0.1 * RNG.normal(size=(L, D))),
        "w": np.float32(RNG.normal(size=(L, D, D)) * np.array([0.3, 1, 3])[:, None, None]),
    },
    "out": np.float32(RNG.normal(size=(D, D))),
}
APART = {f"layer_{i}": jax.tree.map(lambda a, i=i: a[i], STACKED["layers"]) for i in range(L)} | {"out": STACKED["out"]}


def layer(h, p):
    return h + jnp.tanh(h @ p["w"] + p["b"][None])


def scanned(p, b):
    h, _ = jax.lax.scan(lambda h, q: (layer(h, q), None), b["x"], p["layers"])
    return h @ p["out"]


def apart(p, b):
    h = b["x"]
    for i in range(L):
        h = layer(h, p[f"layer_{i}"])
    return h @ p["out"]


def criterion(f, b):
    return jnp.mean((f - b["y"]) ** 2)


def scanned_loss(p, b):
    return criterion(scanned(p, b), b)


@pytest.fixture(scope="module")
def exact():
    """The blocks of the float64 Hessian of the layers apart, by name."""
    with jax.enable_x64(True):
        double = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), tree)  # noqa: E731
        flat, unflatten = ravel_pytree(double(APART))
        batch = double(DATA)
        matrix = np.asarray(jax.jit(jax.hessian(lambda p: criterion(apart(unflatten(p), batch), batch)))(flat))
        places = unflatten(jnp.arange(len(flat), dtype=jnp.float64))
    index = {name: np.concatenate([np.ravel(a) for a in jax.tree.leaves(p)]).astype(int) for name, p in places.items()}
    return {name: matrix[np.ix_(rows, rows)] for name, rows in index.items()}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_layer_of_a_stack_is_the_layer_apart(exact, batch_size):
    H = cv.hessian(scanned_loss, STACKED, cv.Batches(DATA, batch_size))
    layers = cv.blocks(H, stacked="layers/*")
    assert list(layers) == ["layers/0", "layers/1", "layers/2", "out"]
    for i in range(L):
        for block in (
            layers[f"layers/{i}"],
            cv.restrict(H, f"layers/*/{i}"),
            cv.restrict(H, f"*/{i}", stacked=["layers/w", "layers/b"]),
            cv.restrict(H, lambda path, i=i: path.endswith(f"/{i}"), stacked=lambda path: path != "out"),
        ):
            assert block.size == D * (D + 1)
            assert_allclose(block.to_dense(), exact[f"layer_{i}"], atol=1e-4)
    assert_allclose(layers["out"].to_dense(), exact["out"], atol=1e-4)
    part = cv.restrict(H, "layers/*/2")
    assert part.params["layers"]["w"].shape == (1, D, D)
    assert_allclose(cv.sharpness(part, KEY).value, np.linalg.eigvalsh(exact["layer_2"])[-1], rtol=1e-3)
    cv.check(part, KEY)


def test_several_layers_and_whole_stacks(exact):
    H = cv.hessian(scanned_loss, STACKED, DATA)
    two = cv.restrict(H, ["layers/*/0", "layers/*/2"])
    assert two.params["layers"]["w"].shape == (2, D, D)
    traces = [np.trace(exact[f"layer_{i}"]) for i in range(L)]
    assert_allclose(np.trace(two.to_dense()), traces[0] + traces[2], rtol=1e-4)
    for names in ("layers/*", ["layers/*/1", "layers/*"]):
        whole = cv.restrict(H, names, stacked="layers/*")
        assert whole.params["layers"]["w"].shape == (L, D, D)
        assert_allclose(np.trace(whole.to_dense()), sum(traces), rtol=1e-4)
    again = cv.restrict(cv.restrict(H, "layers/*"), "layers/*/1")
    assert_allclose(again.to_dense(), exact["layer_1"], atol=1e-4)
    weights = cv.restrict(cv.restrict(H, "layers/*/1"), "layers/w")
    assert_allclose(weights.to_dense(), exact["layer_1"][D:, D:], atol=1e-4)
    for names in ("layers/*/7", "layers/*/x"):
        with pytest.raises(InputError, match="no leaf of params matches"):
            cv.restrict(H, names)
    with pytest.raises(InputError, match="no leaf of params matches stacked="):
        cv.blocks(H, stacked="layer/*")


def test_an_ensemble_by_vmap():
    def mean_loss(p, b):
        return jnp.mean(jax.vmap(lambda w: criterion(b["x"] @ w, b))(p["w"]))

    members = np.float32(RNG.normal(size=(5, D, D)))
    found = cv.blocks(cv.hessian(mean_loss, {"w": members}, DATA), stacked="w")
    gram = DATA["x"].astype(np.float64).T @ DATA["x"] * 2 / (12 * D) / 5
    assert list(found) == [f"w/{i}" for i in range(5)]
    for block in found.values():
        assert_allclose(cv.eigvalsh(block), np.sort(np.repeat(np.linalg.eigvalsh(gram), D)), rtol=1e-4)


@pytest.mark.parametrize("normalise", ["filter", "layer"])
def test_directions_of_a_stack_are_those_of_its_layers(normalise):
    vector = cv.random_direction(KEY, STACKED, normalise, stacked="layers/*").vector
    axis = 1 if normalise == "filter" else (1, 2)
    norms = [
        np.linalg.norm(np.asarray(w, np.float64), axis=axis) for w in (vector["layers"]["w"], STACKED["layers"]["w"])
    ]
    assert_allclose(norms[0], norms[1], rtol=1e-5)
    assert not np.asarray(vector["layers"]["b"]).any()


@pytest.mark.parametrize("output_axis", [0, 1, -2, lambda path: 0 if path == "a" else -1])
def test_the_axis_of_outputs(output_axis):
    params = {"a": np.float32(RNG.normal(size=(5, 3))), "b": np.float32(RNG.normal(size=(5, 3)))}
    vector = cv.random_direction(KEY, params, output_axis=output_axis).vector
    for name, weights in params.items():
        kept = (output_axis(name) if callable(output_axis) else output_axis) % 2
        norms = [np.linalg.norm(np.asarray(w, np.float64), axis=1 - kept) for w in (vector[name], weights)]
        assert_allclose(norms[0], norms[1], rtol=1e-5)
    stacked = np.float32(RNG.normal(size=(2, 5, 3)))
    drawn = cv.random_direction(KEY, {"a": stacked}, output_axis=0, stacked="a").vector["a"]
    assert_allclose(np.linalg.norm(drawn, axis=2), np.linalg.norm(stacked, axis=2), rtol=1e-5)
    with pytest.raises(InputError, match="output_axis must be one of the 2 axes of params 'a', got 2"):
        cv.random_direction(KEY, params, output_axis=2)


class Own(eqx.Module):
    matrix: jax.Array


def test_equinox_layers_are_known_and_others_asked_for():
    mlp = eqx.filter(eqx.nn.MLP(4, 3, 5, 1, key=KEY), eqx.is_inexact_array)
    for drawn, layer in zip(cv.random_direction(KEY, mlp).vector.layers, mlp.layers, strict=True):
        assert_allclose(np.linalg.norm(drawn.weight, axis=1), np.linalg.norm(layer.weight, axis=1), rtol=1e-5)
    both = {"conv": eqx.nn.Conv2d(2, 3, 3, key=KEY), "embedding": eqx.nn.Embedding(7, 4, key=KEY)}
    both = eqx.filter(both, eqx.is_inexact_array)
    drawn = cv.random_direction(KEY, both).vector
    for axis, of in (((1, 2, 3), lambda tree: tree["conv"].weight), (0, lambda tree: tree["embedding"].weight)):
        squares = [np.sum(np.square(of(tree), dtype=np.float64), axis=axis) for tree in (drawn, both)]
        assert_allclose(squares[0], squares[1], rtol=1e-5)
    for params in (Own(jnp.ones((3, 2))), {"fc.weight": jnp.ones((3, 2))}, {"fc": {"weight": jnp.ones((3, 2))}}):
        with pytest.raises(InputError, match=r"the output axis of params .* is not known"):
            cv.random_direction(KEY, params)
        cv.random_direction(KEY, params, output_axis=0)
        cv.random_direction(KEY, params, "layer")


def squares_of(params, batch):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) * jnp.mean(batch["x"] ** 2)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.LayerNorm()(nn.tanh(nn.Dense(5)(x))))


class Stacked(nnx.Module):
    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)


VARIABLES = Dense().init(KEY, jnp.ones((1, 4)))
MLP = eqx.filter(eqx.nn.MLP(4, 3, 5, 1, key=KEY), eqx.is_inexact_array)
PAIR = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}


@pytest.mark.parametrize(
    ("params", "by", "names"),
    [
        (VARIABLES, None, ["params/Dense_0", "params/Dense_1", "params/LayerNorm_0"]),
        (VARIABLES["params"], None, ["Dense_0", "Dense_1", "LayerNorm_0"]),
        (VARIABLES, 1, ["params/Dense_0", "params/Dense_1", "params/LayerNorm_0"]),
        (VARIABLES, "params/Dense_*", ["params/Dense_0", "params/Dense_1"]),
        (VARIABLES, {"dense": "*/Dense_*", "norm": ["*/LayerNorm_0/*"]}, ["dense", "norm"]),
        (VARIABLES, lambda path: "norm" if "Norm" in path else None, ["norm"]),
        (nnx.split(Stacked(nnx.Rngs(0)), nnx.Param, ...)[1], None, ["first", "last"]),
        (nnx.split(Stacked(nnx.Rngs(0)), nnx.Param, ...)[1], 1, ["first", "last"]),
        (MLP, None, ["layers/0", "layers/1"]),
        (MLP, 1, ["layers/0", "layers/1"]),
        (MLP, "layers/*", ["layers/0", "layers/1"]),
        ([PAIR, PAIR], None, ["0", "1"]),
        ({"layers": [PAIR, PAIR], "out": PAIR, "scale": jnp.ones(2)}, None, ["layers/0", "layers/1", "out", "scale"]),
        ({"layers": [PAIR, PAIR], "out": PAIR}, 1, ["layers", "out"]),
        (PAIR, None, ["b", "w"]),
        (jnp.ones(3), None, [""]),
    ],
)
def test_blocks_by_layer_depth_pattern_and_function(params, by, names):
    H = cv.hessian(squares_of, params, DATA)
    found = cv.blocks(H, by)
    assert list(found) == names
    curvature = 2 * np.mean(DATA["x"].astype(np.float64) ** 2)
    for block in found.values():
        assert_allclose(block.to_dense(), curvature * np.eye(block.size), rtol=1e-4, atol=1e-6)
    if by is None:
        assert sum(block.size for block in found.values()) == H.size


def test_blocks_that_are_not_there():
    H = cv.hessian(squares_of, VARIABLES, DATA)
    for by, message in (
        ("params/Conv_*", "no leaf of params is below 'params/Conv_"),
        (lambda path: None, "no leaf of params is in a block"),
        (0, "the number of keys must be a whole number of at least 1"),
        ({"a": "x"}, "no leaf of params matches 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            cv.blocks(H, by)


def shapes(**leaves):
    return {name: jnp.ones(shape) for name, shape in leaves.items()}


@pytest.mark.parametrize("normalise", ["filter", "layer"])
def test_a_stack_that_is_not_declared_is_recognised_by_its_biases_with_a_warning(normalise):
    with pytest.warns(UserWarning, match=r"params 'layers/b', 'layers/w' are taken for stacks of 3 along their first"):
        found = cv.random_direction(KEY, STACKED, normalise).vector
    said = cv.random_direction(KEY, STACKED, normalise, stacked="layers/*").vector
    jax.tree.map(np.testing.assert_array_equal, found, said)
    none = cv.random_direction(KEY, STACKED, normalise, stacked=()).vector
    assert np.abs(none["layers"]["b"]).max() > 0


def test_what_could_be_a_single_layer_is_no_stack():
    single = {
        "conv": shapes(kernel=(3, 3, 4, 8), bias=(8,)),
        "conv_1d": shapes(kernel=(3, 4, 8), bias=(8,)),
        "query": shapes(kernel=(6, 2, 3), bias=(2, 3)),
        "out": shapes(kernel=(2, 3, 6), bias=(6,)),
        "linear": shapes(q=(4, 4), k=(4, 4)),
        "bare": shapes(kernel=(4, 4, 4)),
    }
    assert stacks_by_shape(single) == {}
    scanned = {"block": {"dense": shapes(kernel=(4, 5, 6), bias=(4, 6)), "norm": shapes(scale=(4, 5), bias=(4, 5))}}
    assert stacks_by_shape(single | scanned) == dict.fromkeys(
        ("block/dense/bias", "block/dense/kernel", "block/norm/bias", "block/norm/scale"), 4
    )
