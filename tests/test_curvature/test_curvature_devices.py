"""Parameters and examples on a mesh of eight devices: the numbers of one device, and what a compiled step exchanges."""

import math
import re
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, losses, mlp_params, predict
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature import host, jacobian, vectors
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov import lanczos as lanczos_module
from hessflat.curvature.krylov.recurrence import initial_state, scan_steps
from hessflat.curvature.operators import linearize, operator
from hessflat.curvature.operators.terms import UserFunction
from hessflat.curvature.vectors import layout_for
from hessflat.utils.errors import InputError

pytestmark = pytest.mark.exact

KEY = jax.random.key(0)
P = PartitionSpec
LONG = pytest.mark.long
WAYS = ("replicated", "fsdp, data whole", "fsdp", "tensor")
KINDS = {
    "H": lambda params, data: cv.hessian(loss, params, data),
    "G": lambda params, data: cv.gauss_newton(predict, criterion, params, data),
    "R": lambda params, data: cv.residual(predict, criterion, params, data),
    "F": lambda params, data: cv.fisher(losses, params, data),
}


def placed(way, params, batch):
    """The parameters and the data of a problem, one of the ways in which people lay them out."""
    line = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    square = jax.make_mesh((2, 4), ("data", "model"), (AxisType.Auto,) * 2)

    def put(tree, mesh, spec):
        return jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, spec(x))), tree)

    def over(axis, count):
        """The first dimension that divides."""
        return lambda x: P(*next(([*[None] * i, axis] for i, n in enumerate(x.shape) if n % count == 0), []))

    if way == "tensor":
        return put(params, square, over("model", 4)), put(batch, square, lambda x: P("data"))
    weights = put(params, line, over("x", 8)) if way.startswith("fsdp") else params
    return weights, batch if way.endswith("whole") else put(batch, line, lambda x: P("x"))


@pytest.fixture(scope="module")
def problem():
    return mlp_params(6, 16, 4), examples(160, 6, 4)


@pytest.fixture(scope="module")
def network():
    """A perceptron [64, 256, 64] twice, whose largest array has 16,384 numbers."""
    draw = np.random.default_rng(0)
    weights = lambda *shape: np.float32(draw.normal(size=shape) / math.sqrt(shape[0]))  # noqa: E731
    params = {"blocks": [(weights(64, 256), weights(256, 64)) for _ in range(2)], "out": weights(64, 16)}
    return params, {"x": weights(64, 64), "y": np.eye(16, dtype=np.float32)[draw.integers(0, 16, 64)]}


def network_outputs(params, batch):
    h = batch["x"]
    for first, second in params["blocks"]:
        h = h + jnp.tanh(h @ first) @ second
    return h @ params["out"]


def network_loss(params, batch):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(network_outputs(params, batch)) * batch["y"], axis=-1))


def exchanged(compiled):
    """The numbers in each collective of a program, by its kind, the largest first."""
    found = {}
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"):
        for result in re.findall(rf"= (.*?) {kind}(?:-start)?\(", compiled.as_text()):
            sizes = [
                math.prod(map(int, filter(None, shape.split(",")))) for shape in re.findall(r"\[([\d,]*)\]", result)
            ]
            found.setdefault(kind, []).extend(sizes)
    return {kind: sorted(sizes, reverse=True) for kind, sizes in found.items()}


def block_of_steps(op, num_steps=100):
    layout = operator.layout_of(op)
    state = initial_state(layout, vectors.draw(layout, KEY, "rademacher"), num_steps, True)
    return layout, scan_steps.lower(cv.linearize(op), layout, state, 0, 10).compile()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "batch_size"),
    [
        case if case in (("replicated", 40), ("fsdp", 40), ("tensor", None)) else pytest.param(*case, marks=LONG)
        for case in product(WAYS, (None, 40))
    ],
)
def test_products_are_those_of_one_device(problem, way, batch_size):
    vector = jax.tree.map(lambda x: np.float32(np.random.default_rng(x.size).normal(size=x.shape)), problem[0])
    for build in KINDS.values():
        one = build(problem[0], problem[1])
        params, data = placed(way, *problem)
        many = build(params, cv.Batches(data, batch_size))
        for op in (many, cv.linearize(many)):
            results = [jax.tree.leaves(tree) for tree in (op(vector), one(vector), many.params)]
            for found, expected, weights in zip(*results, strict=True):
                assert_allclose(found, expected, atol=2e-6)
                assert found.sharding.is_equivalent_to(weights.sharding, weights.ndim)


def test_examples_that_are_spread_take_one_sum_a_product(problem):
    params, data = placed("replicated", *problem)
    op = sum((build(params, cv.Batches(data, 40)) for build in KINDS.values()), start=0.5)
    for one in (op, cv.linearize(op)):
        compiled = operator.tree_matvec_compiled.lower(one, one.params).compile()
        assert exchanged(compiled) == {"all-reduce": [180]}


@pytest.mark.long
@pytest.mark.parametrize("way", ["fsdp", *(pytest.param(way, marks=LONG) for way in WAYS if way != "fsdp")])
def test_measurements_are_those_of_one_device(problem, way):
    params, data = placed(way, *problem)
    one, many = cv.hessian(loss, *problem), cv.hessian(loss, params, cv.Batches(data, 80))
    for options in ({}, {"reorthogonalise": "selective"}, {"storage": "host"}, {"reorthogonalise": "none"}):
        a, b = (cv.lanczos(op, KEY, 12, **options) for op in (one, many))
        assert_allclose(a.alphas, b.alphas, atol=2e-6)
        assert_allclose(a.betas, b.betas, atol=2e-6)
    half = cv.lanczos(many, KEY, 8, storage="half")
    assert_allclose(half.alphas, cv.lanczos(one, KEY, 8).alphas, atol=2e-3)
    basis = cv.lanczos(many, KEY, 8, return_basis=True)
    assert basis.orthogonality[0] < 1e-6
    rows = np.concatenate([np.asarray(x).reshape(1, 8, -1) for x in jax.tree.leaves(basis.basis)], axis=2)
    assert_allclose(rows, cv.lanczos(one, KEY, 8, return_basis=True).basis, atol=1e-4)
    exact = cv.eigvalsh(one)
    pairs = cv.eigenpairs(many, jax.random.key(2), 2, "both", rtol=1e-4, num_vectors=12)
    assert pairs.converged.all()
    assert_allclose(pairs.values, [exact[-1], exact[-2], exact[0], exact[1]], rtol=1e-3)
    for leaf, weights in zip(jax.tree.leaves(pairs.vectors), jax.tree.leaves(many.params), strict=True):
        assert leaf.sharding.shard_shape(leaf.shape)[1:] == weights.sharding.shard_shape(weights.shape)
    again = cv.eigenpairs(many, jax.random.key(3), 2, "both", rtol=1e-4, start=pairs.vectors)
    assert_allclose(again.values, pairs.values, rtol=1e-3)
    for estimate in (
        lambda op: cv.moments(op, KEY, 4).frobenius.value,
        *(lambda op, m=m: cv.trace(op, KEY, 21, m).value for m in ("hutchinson", "hutch++", "xtrace")),
        lambda op: cv.minibatch_products(op, KEY, 16, 2).rayleigh,
        lambda op: cv.minibatch_sharpness(op, KEY, 16, 2).values,
        lambda op: cv.spectrum(op, KEY, 12).log_determinant(2.0).value,
    ):
        assert_allclose(estimate(many), estimate(one), rtol=1e-3)
    parts = (
        cv.decompose(predict, criterion, *case, KEY, 8, trace_probes=2)[:3]
        for case in (problem, (params, cv.Batches(data, 80)))
    )
    for ours, theirs in zip(*parts, strict=True):
        assert_allclose(ours.spectrum.nodes, theirs.spectrum.nodes, atol=1e-5)
        assert_allclose(ours.moments.trace.value, theirs.moments.trace.value, rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("storage", ["device", *(pytest.param(one, marks=LONG) for one in ("half", "host"))])
def test_a_recurrence_continues_on_other_devices(problem, storage, tmp_path, monkeypatch):
    monkeypatch.setattr(lanczos_module, "_SECONDS_BETWEEN_SAVES", -1.0)
    measure = lambda way, **options: cv.lanczos(  # noqa: E731
        cv.hessian(loss, *(problem if way == "one" else placed(way, *problem))), KEY, 24, storage=storage, **options
    )

    class KilledError(Exception):
        pass

    for begun, continued in (("fsdp", "one"), ("one", "tensor"), ("tensor", "replicated"), ("fsdp", "fsdp")):
        folder, steps = tmp_path / f"{begun}-{continued}", []

        def kill(count, steps=steps):
            steps.append(count)
            if sum(steps) >= 24:
                raise KilledError

        with pytest.raises(KilledError):
            measure(begun, folder=folder, on_steps=kill)
        first = []
        found, whole = measure(continued, folder=folder, on_steps=first.append), measure(continued)
        assert first[0] == 12
        assert_allclose(found.alphas, whole.alphas, atol=2e-3 if storage == "half" else 1e-5)
        if begun == continued:
            np.testing.assert_array_equal(found.alphas, whole.alphas)


@pytest.mark.parametrize("way", WAYS)
def test_a_step_exchanges_leaves_and_coefficients(network, way):
    """No gather beyond the largest leaf, and of Gram-Schmidt at most 2 m + 16 numbers."""
    num_steps = 100
    op = cv.hessian(network_loss, *placed(way, *network))
    layout, compiled = block_of_steps(op, num_steps)
    found = exchanged(compiled)
    largest = max(leaf.size for leaf in jax.tree.leaves(op.params))
    assert max(found["all-gather"]) <= largest
    # Its two passes are one loop over a sum of m numbers; what is larger are sums of a gradient or of activations.
    assert found["all-reduce"].count(num_steps) == 1
    if way == "replicated":
        assert found["all-reduce"] == [op.size, num_steps, 1, 1, 1, 1]
        assert set(found) == {"all-reduce", "all-gather"}
    bytes_of_vectors = (num_steps + 8) * op.size / 8 * 4
    gradient = jax.jit(jax.grad(network_loss)).lower(op.params, op.terms[0].batches.arrays).compile()
    memory, own = compiled.memory_analysis(), gradient.memory_analysis()
    arguments = sum(x.nbytes // len(x.sharding.device_set) for x in jax.tree.leaves(op.terms[0].batches.arrays))
    params = sum(math.prod(x.sharding.shard_shape(x.shape)) * 4 for x in jax.tree.leaves(op.params))
    assert sum(layout.lengths) <= op.size / 8 + 8 * len(layout.leaves)
    spare = 3 * (own.temp_size_in_bytes + own.output_size_in_bytes) + 4 * params + 2 * arguments
    assert memory.argument_size_in_bytes + memory.temp_size_in_bytes <= bytes_of_vectors + spare


@pytest.mark.parametrize("size", [3, 16])
def test_probes_have_the_same_bits_on_any_devices(size):
    params = {"a": jnp.ones((size, 24)), "b": jnp.ones((7,)), "c": jnp.ones(()), "d": jnp.ones((8, 3, 16))}
    data = jnp.ones((16, 2))
    for probe in ("rademacher", "gaussian"):
        one = layout_for(params)
        for number in (0, 3):
            expected = host.to_flat(one, vectors.draw(one, KEY, probe, number))
            assert_allclose(np.linalg.norm(np.float64(expected)), 1, rtol=1e-6)
            for way in WAYS:
                layout = layout_for(*placed(way, params, data))
                np.testing.assert_array_equal(host.to_flat(layout, vectors.draw(layout, KEY, probe, number)), expected)


@pytest.mark.long
def test_a_vector_too_long_for_one_array_is_several(problem, monkeypatch):
    """XLA counts the numbers of an array in 32 bits; here an array may have a hundred."""
    op = cv.hessian(loss, *problem)
    one = cv.lanczos(op, KEY, 12), cv.eigenpairs(op, KEY, 2), cv.trace(op, KEY, 21, "xtrace")
    monkeypatch.setattr(vectors, "_LONGEST", 100)
    layout = operator.layout_of(op)
    assert len(layout.arrays) == 2
    jax.clear_caches()
    for options in ({}, {"storage": "half"}, {"storage": "host"}):
        assert_allclose(cv.lanczos(op, KEY, 12, **options).alphas, one[0].alphas, atol=2e-3)
    pairs = cv.eigenpairs(op, KEY, 2)
    assert_allclose(pairs.values, one[1].values, rtol=1e-3)
    jax.tree.map(lambda a, b: assert_allclose(abs(a), abs(b), atol=2e-2), pairs.vectors, one[1].vectors)
    assert_allclose(cv.trace(op, KEY, 21, "xtrace").value, one[2].value, rtol=1e-3)
    jax.clear_caches()


@pytest.mark.long
def test_examples_on_different_devices_share_statistics(problem):
    params, data = placed("replicated", *problem)

    def coupled(params, batch):
        h = jnp.tanh(batch["x"] @ params[0][0])
        h = (h - h.mean(axis=0)[None]) / (1 + h.std(axis=0)[None])
        return -jnp.mean(jnp.sum(jax.nn.log_softmax(h @ params[1][0]) * jax.nn.one_hot(batch["y"], 4), axis=-1))

    vector = jnp.ones(180)
    for statistics in (160, 40, 10):
        one, many = (
            cv.hessian(coupled, params, cv.Batches(arrays, statistics, statistics)) for arrays in (problem[1], data)
        )
        assert_allclose(one(vector), many(vector), atol=2e-6)


def test_places_that_do_not_go_together(problem):
    params, batch = problem
    spread = placed("replicated", *problem)[1]
    with pytest.raises(InputError, match="spread over the same devices"):
        cv.hessian(loss, params, {"x": spread["x"], "y": batch["y"]})
    with pytest.raises(InputError, match=r"params and data must be on one mesh .* got data=2x?.*"):
        cv.hessian(loss, placed("tensor", *problem)[0], spread)


@pytest.mark.long
@pytest.mark.parametrize("number", [36, pytest.param(5, marks=LONG)])
def test_examples_that_do_not_divide_are_spread_too(problem, number):
    """On each device at most 1.3 times an eighth of the operations, and the numbers of one device."""
    params, batch = problem[0], jax.tree.map(lambda x: x[:number], problem[1])
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    everything = (*KINDS.values(), lambda params, data: cv.gradient_covariance(losses, params, data))
    for build in everything if number == 5 else everything[-2:]:
        one, many = build(params, batch), build(params, cv.spread(batch, mesh))
        vector = jnp.ones(one.size)
        for op in (many, cv.linearize(many)):
            assert_allclose(op(vector), one(vector), atol=2e-6)
    one, many = cv.hessian(loss, params, batch), cv.hessian(loss, params, cv.spread(batch, mesh))
    assert_allclose(cv.lanczos(many, KEY, 6).alphas, cv.lanczos(one, KEY, 6).alphas, atol=2e-6)
    parts = [
        cv.decompose(predict, criterion, params, data, KEY, 6, trace_probes=2)[:3]
        for data in (batch, cv.spread(cv.Batches(batch, 16), mesh))
    ]
    for ours, theirs in zip(*parts, strict=True):
        assert_allclose(ours.spectrum.nodes, theirs.spectrum.nodes, atol=1e-5)
    if number == 36:
        flops = [
            operator.tree_matvec_compiled.lower(op, op.params).compile().cost_analysis()["flops"]
            for op in (cv.linearize(one), cv.linearize(many))
        ]
        assert flops[1] <= 1.3 * flops[0] / 8


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replicated", "fsdp", "tensor"])
def test_no_device_has_all_examples_that_do_not_divide(problem, way):
    """Each has an eighth, and at most the rest, wherever the parameters lie; the product is that of one device."""
    params, batch = problem[0], jax.tree.map(lambda x: x[:67], problem[1])
    laid, data = placed(way, params, problem[1])
    mesh = jax.tree.leaves(data)[0].sharding.mesh
    one, many = cv.hessian(loss, params, batch), cv.hessian(loss, laid, cv.spread(cv.Batches(batch, 16), mesh))
    held = [x.sharding.shard_shape(x.shape)[0] for term in many.terms for x in jax.tree.leaves(term.batches.arrays)]
    assert max(held) == 8
    assert {term.is_partitioned for term in many.terms} == {way != "replicated"}
    for op in (many, cv.linearize(many)):
        assert_allclose(op(jnp.ones(180)), one(jnp.ones(180)), atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["replicated", "fsdp"])
def test_weights_of_examples_that_do_not_divide(problem, way):
    params, batch = problem[0], jax.tree.map(lambda x: x[:37], problem[1])
    batch |= {"m": jnp.linspace(0, 1, 37)}

    def weighted_loss(params, batch):
        return jnp.sum(batch["m"] * losses(params, batch)) / jnp.sum(batch["m"])

    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    data = cv.Batches(batch, 16, weights="m")
    one = cv.hessian(weighted_loss, params, data)
    many = cv.hessian(weighted_loss, placed(way, params, problem[1])[0], cv.spread(data, mesh))
    assert len(many.terms) == 2
    assert_allclose(many(jnp.ones(180)), one(jnp.ones(180)), atol=2e-6)


@pytest.mark.long
@pytest.mark.parametrize("number", [160, 36])
def test_jacobians_of_examples_on_several_devices(problem, number):
    params, inputs = problem[0], problem[1]["x"][:number]
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    spread = jax.device_put(inputs, NamedSharding(mesh, P("x") if number == 160 else P()))
    for method in ("exact", "iterative"):
        for size in (None, 16):
            one, many = (
                cv.jacobian_norms(lambda p, x: predict(p, {"x": x}), params, x, True, size, method)
                for x in (inputs, spread)
            )
            assert_allclose(many.values, one.values, rtol=1e-5)
            assert_allclose(many.bounds, one.bounds, rtol=1e-2)
    place, pieces, order = jacobian._pieces(spread, 16)
    assert sorted(order) == list(range(number))
    arguments = (UserFunction(lambda p, x: predict(p, {"x": x}), "", []), False, params)
    flops = [
        jacobian._exact_norms.lower(*arguments, x, (), where).compile().cost_analysis()["flops"]
        for x, where in ((inputs[:16], None), (pieces[0], place))
    ]
    assert flops[1] <= 1.1 * flops[0] / 8
    flops = []
    for x, where in ((inputs[:16], None), (pieces[0], place)):
        state = jacobian._begin(x, 4, 4, where)
        flops.append(jacobian._advance.lower(*arguments, x, (), state, 2, where).compile().cost_analysis()["flops"])
    assert flops[1] <= 1.2 * flops[0] / 8


def test_the_memory_that_a_device_has_limits_a_linearisation(problem):
    """Residuals of spread examples take an eighth on each of eight devices."""
    params, data = problem
    op = cv.hessian(loss, *placed("replicated", params, jax.tree.map(lambda x: x[:160], data)))
    small, (term,) = linearize._bytes_on_a_device, cv.linearize(op).terms
    computed = term.constants, term.residuals, term.residuals_per_batch, term.remainders
    own = small(term.batches, computed)
    assert own == sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(computed))
    assert isinstance(cv.linearize(op, limit=own).terms[0], linearize.LinearizedTerm)
    assert not isinstance(cv.linearize(op, limit=own - 1).terms[0], linearize.LinearizedTerm)


def test_the_gram_matrix_over_devices_is_summed_as_on_one():
    """A hundred thousand numbers a row, of which single precision alone would lose digits."""
    rows = np.random.default_rng(0).standard_normal((3, 100_000)).astype(np.float32)
    rows[2] = rows[0] + 1e-3 * rows[1]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    params, mesh = jnp.zeros(rows.shape[1]), jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    layout = layout_for(jax.device_put(params, NamedSharding(mesh, P("x"))))
    block = jax.device_put(rows, NamedSharding(mesh, P(None, "x")))
    parts = basis._gram_over_devices(layout, (block[:2], block[2:]))
    exact = rows.astype(np.float64) @ rows.T.astype(np.float64)
    assert_allclose(sum(np.asarray(part, np.float64).sum(axis=0) for part in parts), exact, atol=2e-8)


@pytest.mark.slow
def test_an_operator_is_checked_where_it_lies(problem):
    one, many = (
        cv.check(cv.gauss_newton(predict, criterion, *where), KEY) for where in (problem, placed("tensor", *problem))
    )
    assert max(many.repeat, many.asymmetry, many.batch_weights) < 1e-5
    assert_allclose(many.finite_difference, one.finite_difference, atol=1e-7)
    assert many.notes == one.notes
