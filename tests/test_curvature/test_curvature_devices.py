"""Examples spread over a mesh of eight devices: the same numbers through the same calls, and one sum a product."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, losses, mlp_params, predict
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.recurrence import initial_state, scan_steps
from hessflat.curvature.operators import operator
from hessflat.utils.errors import InputError

pytestmark = pytest.mark.exact

GATHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("examples",), (AxisType.Auto,))


@pytest.fixture(scope="module")
def problem(mesh):
    params, batch = mlp_params(6, 16, 4), examples(160, 6, 4)
    return params, batch, jax.device_put(batch, NamedSharding(mesh, PartitionSpec("examples")))


def collectives(compiled):
    text = compiled.as_text()
    return {name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in ("all-reduce", *GATHERS)}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 40])
def test_products_are_those_of_one_device_and_one_sum(problem, batch_size):
    params, batch, spread = problem
    vector = jax.device_put(np.float32(np.random.default_rng(0).normal(size=180)))

    def everything(data):
        G = cv.gauss_newton(predict, criterion, params, data)
        return cv.hessian(loss, params, data) + G - 2 * cv.fisher(losses, params, data) + 0.5

    one, many = (everything(cv.Batches(data, batch_size)) for data in (batch, spread))
    for op in (many, cv.linearize(many)):
        assert_allclose(op(vector), one(vector), atol=2e-6)
        counts = collectives(jax.jit(operator.matvec).lower(op, vector).compile())
        assert counts == {"all-reduce": 1} | dict.fromkeys(GATHERS, 0)


@pytest.mark.slow
def test_measurements_are_those_of_one_device(problem):
    params, batch, spread = problem
    one, many = cv.hessian(loss, params, batch), cv.hessian(loss, params, cv.Batches(spread, 80))
    a, b = (cv.lanczos(op, jax.random.key(0), 24, return_basis=True) for op in (one, many))
    assert_allclose(a.alphas, b.alphas, atol=1e-5)
    assert_allclose(a.basis, b.basis, atol=1e-4)
    assert b.orthogonality[0] < 2e-6
    for values in (cv.spectrum(op, jax.random.key(1), 20, 2).nodes for op in (one, many)):
        assert_allclose(values[:, -1], cv.eigvalsh(one)[-1], rtol=1e-5)
    exact = cv.eigvalsh(one)
    pairs = cv.eigenpairs(many, jax.random.key(2), 2, "both", rtol=1e-4, num_vectors=12)
    assert pairs.converged.all()
    assert_allclose(pairs.values, [exact[-1], exact[-2], exact[0], exact[1]], rtol=1e-3)


def test_no_vector_of_the_basis_is_gathered(problem):
    params, _, spread = problem
    op = cv.hessian(loss, params, spread)
    devices = operator.example_devices(op)
    state = initial_state(jnp.ones(op.size) / op.size**0.5, 48, True, "device", devices)
    assert all(len(block.sharding.device_set) == 8 for block in state.blocks)
    assert {shard.data.shape for block in state.blocks for shard in block.addressable_shards} == {(3, op.size)}
    compiled = scan_steps.lower(op, state, 0, 12, devices=devices).compile()
    counts = collectives(compiled)
    assert counts["all-reduce"] == 1 + len(state.blocks)  # the two passes of Gram-Schmidt are one loop
    assert not any(counts[name] for name in GATHERS)
    assert len(basis.allocate(48, op.size, op.dtype, "half", devices)[0].sharding.device_set) == 8


def test_examples_that_cannot_be_spread(problem, mesh):
    params, batch, spread = problem
    with pytest.raises(InputError, match="spread over the same devices"):
        cv.hessian(loss, params, {"x": spread["x"], "y": batch["y"]})
    with pytest.raises(InputError, match="statistics_batch must divide the examples of each"):
        cv.hessian(loss, params, cv.Batches(spread, 24, statistics_batch=8))
    joined = cv.hessian(loss, params, cv.Batches(spread, None, statistics_batch=10))
    assert_allclose(joined(jnp.ones(180)), cv.hessian(loss, params, batch)(jnp.ones(180)), atol=1e-6)
