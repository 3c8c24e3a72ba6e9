"""Several data sets of different lengths, each with its own mean: sums of operators, against jax.hessian in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
INTERIOR, EDGE, PENALTY = 30, 7, 10.0


def dense(shape):
    return (RANDOM.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


PARAMS = {"in": dense((2, 8)), "out": dense((8, 1))}


def solution(params, point):
    """u at one point [2]."""
    return (jnp.tanh(point @ params["in"]) @ params["out"])[0]


def residuals(params, batch):
    """Δu − f at points [n, 2] of the interior."""
    laplacian = jax.vmap(lambda point: jnp.trace(jax.hessian(solution, argnums=1)(params, point)))
    return laplacian(batch["point"]) - batch["source"]


def half_square(outputs, batch):
    return 0.5 * jnp.mean(outputs**2)


def equation(params, batch):
    return half_square(residuals(params, batch), batch)


def misfits(params, batch):
    return jax.vmap(solution, in_axes=(None, 0))(params, batch["point"]) - batch["value"]


def boundary(params, batch):
    return half_square(misfits(params, batch), batch)


def pinn():
    points = RANDOM.uniform(size=(INTERIOR, 2)).astype(np.float32)
    edge = RANDOM.uniform(size=(EDGE, 2)).astype(np.float32)
    edge[:, 0] = RANDOM.integers(2, size=EDGE)
    interior = {"point": points, "source": np.sin(np.pi * points).prod(axis=1)}
    return interior, {"point": edge, "value": edge.sum(axis=1)}


DATA = pinn()


def in_float64(function, params, *trees):
    """`function` of a flat vector, and that vector, in float64."""
    wide = lambda x: jnp.asarray(x, jnp.float64 if np.asarray(x).dtype == np.float32 else None)  # noqa: E731
    flat, unravel = ravel_pytree(jax.tree.map(wide, params))
    trees = jax.tree.map(wide, trees)
    return (lambda p: function(unravel(p), *trees)), flat


def total(params, interior, edge):
    """The loss over both sets, every term of which is a mean over its own."""
    terms = residuals(params, interior) ** 2, misfits(params, edge) ** 2
    return 0.5 * terms[0].sum() / INTERIOR + PENALTY * 0.5 * terms[1].sum() / EDGE


@pytest.fixture(scope="module")
def exact():
    with jax.enable_x64(True):
        function, flat = in_float64(total, PARAMS, *DATA)
        return np.asarray(jax.hessian(function)(flat))


def cut(tree, size):
    number = len(tree["point"])
    return [jax.tree.map(lambda x, i=i: x[i : i + size], tree) for i in range(0, number, size)]


def summed(make):
    """The operator over all points at once, in batches, and over a stream of the interior."""
    interior, edge = DATA
    return {
        "at once": make(equation, interior) + PENALTY * make(boundary, edge),
        "batches": make(equation, cv.Batches(interior, 8)) + PENALTY * make(boundary, cv.Batches(edge, 3)),
        "stream": make(equation, cv.Stream(cut(interior, 8))) + PENALTY * make(boundary, edge),
    }


@pytest.fixture(scope="module", params=["at once", "batches", "stream"])
def op(request):
    return summed(lambda function, data: cv.hessian(function, PARAMS, data))[request.param]


@pytest.mark.slow
def test_the_matrix(op, exact):
    scale = np.abs(exact).max()
    np.testing.assert_allclose(op.to_dense(), exact, atol=1e-5 * scale)
    np.testing.assert_allclose(cv.linearize(op).to_dense(), exact, atol=1e-5 * scale)
    np.testing.assert_allclose(cv.eigvalsh(op, float64=True), np.linalg.eigvalsh(exact), atol=1e-6 * scale)


@pytest.mark.slow
def test_estimates(op, exact):
    values, scale = np.linalg.eigvalsh(exact), np.abs(np.linalg.eigvalsh(exact)).max()
    pairs = cv.eigenpairs(op, KEY, 2, "both", rtol=1e-4)
    np.testing.assert_allclose(pairs.values, values[[-1, -2, 0, 1]], atol=1e-4 * scale)
    np.testing.assert_allclose(cv.trace(op, KEY, op.size).value, np.trace(exact), atol=1e-4 * scale)
    for method in ("hutchinson", "hutch++", "xtrace"):
        estimate = cv.trace(op, KEY, 20, method)
        assert abs(estimate.value - np.trace(exact)) < 5 * estimate.standard_error
    spectrum = cv.spectrum(op, KEY, op.size)
    np.testing.assert_allclose(spectrum.largest.value, values[-1], atol=1e-4 * scale)
    block = cv.blocks(op)["in"]
    np.testing.assert_allclose(block.to_dense(), exact[:16, :16], atol=1e-5 * scale)


@pytest.mark.slow
def test_check_plan_and_stored_recurrences(op, tmp_path):
    check = cv.check(op, KEY, tolerance=1e-3)
    assert check.finite_difference < 1e-4
    assert check.batch_weights < 1e-3
    assert cv.plan(op, 5).num_examples == INTERIOR
    first = cv.lanczos(op, KEY, 4, folder=tmp_path)
    np.testing.assert_array_equal(cv.lanczos(op, KEY, 4, folder=tmp_path).alphas, first.alphas)
    with pytest.raises(InputError, match="another operator"):
        cv.lanczos(op + op, KEY, 4, folder=tmp_path)


@pytest.mark.long
def test_gauss_newton_and_residual_add_up(exact):
    interior, edge = cv.Batches(DATA[0], 8), cv.Batches(DATA[1], 3)
    G, R = (
        make(residuals, half_square, PARAMS, interior) + PENALTY * make(misfits, half_square, PARAMS, edge)
        for make in (cv.gauss_newton, cv.residual)
    )
    scale = np.abs(exact).max()
    np.testing.assert_allclose((G + R).to_dense(), exact, atol=1e-5 * scale)
    with jax.enable_x64(True):
        outputs = lambda p, a, b: (residuals(p, a) / np.sqrt(INTERIOR), misfits(p, b) * np.sqrt(PENALTY / EDGE))  # noqa: E731
        function, flat = in_float64(lambda *args: jnp.concatenate(outputs(*args)), PARAMS, *DATA)
        jacobian = np.asarray(jax.jacobian(function)(flat))
    np.testing.assert_allclose(G.to_dense(), jacobian.T @ jacobian, atol=1e-5 * scale)
    assert cv.sharpness(G, KEY).value == pytest.approx(np.linalg.eigvalsh(jacobian.T @ jacobian)[-1], rel=1e-3)


def test_values_on_lines_and_planes_add_up():
    (interior, edge), other = DATA, jax.tree.map(lambda p: 0.5 * p, PARAMS)
    alphas = [0.0, 0.3, 1.0]
    lines = [
        cv.line(function, PARAMS, other, alphas, data)
        for function, data in ((equation, cv.Batches(interior, 8)), (boundary, edge))
    ]
    with jax.enable_x64(True):
        function, flat = in_float64(total, PARAMS, interior, edge)
        on_line = [float(function((1 - 0.5 * alpha) * flat)) for alpha in alphas]
        on_plane = [[float(function((1 + a + 0.5 * b) * flat)) for b in (0, 1)] for a in (0, 1)]
    np.testing.assert_allclose(lines[0].values + PENALTY * lines[1].values, on_line, rtol=1e-5)
    planes = [
        cv.plane(function, PARAMS, PARAMS, other, [0, 1], [0, 1], data)
        for function, data in ((equation, cv.Batches(interior, 8)), (boundary, edge))
    ]
    np.testing.assert_allclose(planes[0].values + PENALTY * planes[1].values, on_plane, rtol=1e-4)


@pytest.mark.slow
def test_covariances_of_independent_draws_add_up():
    interior, edge = DATA
    squares = {residuals: interior, misfits: edge}
    covariance = sum(
        factor**2 * cv.gradient_covariance(lambda w, b, f=function: 0.5 * f(w, b) ** 2, PARAMS, data)
        for factor, (function, data) in zip((1.0, PENALTY), squares.items(), strict=True)
    )
    with jax.enable_x64(True):
        wanted = 0.0
        for factor, (of, data) in zip((1.0, PENALTY), squares.items(), strict=True):
            function, flat = in_float64(lambda p, b, of=of: 0.5 * of(p, b) ** 2, PARAMS, data)
            wanted = wanted + factor**2 * np.cov(np.asarray(jax.jacobian(function)(flat)).T, bias=True)
    np.testing.assert_allclose(covariance.to_dense(), wanted, atol=1e-5 * np.abs(wanted).max())


def test_refusals_name_the_way(op):
    interior, edge = DATA
    with pytest.raises(InputError, match=r"different lengths add operators, cv.hessian\(f, w, a\) \+ cv.hessian"):
        cv.hessian(lambda w, both: equation(w, both[0]) + boundary(w, both[1]), PARAMS, (interior, edge))
    with pytest.raises(InputError, match="what belongs to all examples is state"):
        cv.hessian(equation, PARAMS, interior | {"penalty": np.float32(PENALTY)})
    with pytest.raises(InputError, match="different lengths add operators"):
        cv.decompose(residuals, half_square, PARAMS, (interior, edge), KEY)
    if op.in_memory:
        for measure in (cv.minibatch_products, cv.minibatch_sharpness):
            with pytest.raises(InputError, match=r"one data set, .*; measure each operator of the sum by itself"):
                measure(op, KEY, 2, 2)


NODES, EDGES = 12, 20
GRAPH = {"w1": dense((3, 5)), "w2": dense((5, 4))}


def graph():
    """State: the whole graph. Data: the labelled nodes, and pairs of nodes that are linked or not."""
    links = (RANDOM.random((NODES, NODES)) < 0.3).astype(np.float32)
    adjacency = np.maximum(links, links.T) + np.eye(NODES, dtype=np.float32)
    state = {
        "x": RANDOM.normal(size=(NODES, 3)).astype(np.float32),
        "spread": adjacency / adjacency.sum(axis=1, keepdims=True),
    }
    nodes = {"node": np.arange(5), "label": RANDOM.integers(4, size=5)}
    pairs = RANDOM.integers(NODES, size=(EDGES, 2))
    return state, nodes, {"pair": pairs, "linked": (adjacency[pairs[:, 0], pairs[:, 1]] > 0).astype(np.float32)}


def embedded(params, state):
    return state["spread"] @ jnp.tanh(state["spread"] @ state["x"] @ params["w1"]) @ params["w2"]


def of_nodes(params, batch, state):
    logits = embedded(params, state)[batch["node"]]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1))


def of_links(params, batch, state):
    h = embedded(params, state)
    scores = jnp.sum(h[batch["pair"][:, 0]] * h[batch["pair"][:, 1]], axis=1)
    return jnp.mean(jax.nn.softplus(scores) - batch["linked"] * scores)


@pytest.mark.long
def test_nodes_and_links_of_one_graph():
    state, nodes, links = graph()
    H = cv.hessian(of_nodes, GRAPH, cv.Batches(nodes, 2), state) + 0.5 * cv.hessian(
        of_links, GRAPH, cv.Batches(links, 8), state
    )
    with jax.enable_x64(True):
        function, flat = in_float64(
            lambda p, nodes, links, state: of_nodes(p, nodes, state) + 0.5 * of_links(p, links, state),
            GRAPH,
            nodes,
            links,
            state,
        )
        exact = np.asarray(jax.hessian(function)(flat))
    np.testing.assert_allclose(H.to_dense(), exact, atol=1e-6)
    assert cv.sharpness(H, KEY).value == pytest.approx(np.linalg.eigvalsh(exact)[-1], rel=1e-3)
    assert cv.check(H, KEY).finite_difference < 1e-4
