"""Operators of shapes in place of arrays: for plans alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import conv_loss, criterion, examples, loss, losses, mlp_params, predict

import hessflat.curvature as cv
from hessflat.curvature.diagnostics.topology_plan import lowered_block
from hessflat.utils.errors import InputError


def shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


PARAMS, BATCH = mlp_params(6, 8, 3), examples(40, 6, 3)
SHAPES = shapes_of((PARAMS, BATCH))


def makers():
    data = cv.Batches(SHAPES[1], 16, weights=jax.ShapeDtypeStruct((40,), jnp.float32))
    return {
        "hessian": lambda: cv.hessian(loss, *SHAPES),
        "gauss_newton": lambda: cv.gauss_newton(predict, criterion, *SHAPES),
        "residual": lambda: cv.residual(predict, criterion, *SHAPES),
        "fisher": lambda: cv.fisher(losses, *SHAPES),
        "model_fisher": lambda: cv.model_fisher(predict, *SHAPES),
        "weighted": lambda: cv.hessian(loss, SHAPES[0], data),
        "batches": lambda: cv.hessian(loss, SHAPES[0], cv.Batches(SHAPES[1], 16)) + 0.5,
        "known": lambda: cv.from_matvec(lambda v, a: a * v, jnp.zeros(5), jax.ShapeDtypeStruct((5,), jnp.float32)),
        "block": lambda: cv.restrict(cv.hessian(loss, *SHAPES), "1/*"),
    }


@pytest.mark.parametrize("name", makers())
def test_every_constructor_takes_shapes_and_no_measurement_does(name):
    op = makers()[name]()
    assert op.size > 0
    key = jax.random.key(0)
    vector = np.zeros(op.size, np.float32)
    for measure in (
        lambda: op(vector),
        op.to_dense,
        lambda: op.astype(np.float32),
        lambda: cv.spectrum(op, key, 3),
        lambda: cv.eigenpairs(op, key),
        lambda: cv.trace(op, key),
        lambda: cv.eigvalsh(op),
        lambda: cv.check(op, key),
    ):
        with pytest.raises(InputError, match=r"made of shapes, for cv\.plan alone; give arrays") as caught:
            measure()
        assert "\n" not in str(caught.value)


def test_shapes_are_refused_where_they_are_no_operator():
    with pytest.raises(InputError, match="must be an array, got ShapeDtypeStruct"):
        cv.line(loss, SHAPES[0], SHAPES[0], [0.0], BATCH)
    pair = (lambda key, f: jax.random.categorical(key, f), lambda f, y: jax.nn.log_softmax(f)[y])
    with pytest.raises(InputError, match="labels are drawn from arrays"):
        cv.model_fisher(predict, *SHAPES, pair, jax.random.key(0))


def test_shapes_say_what_arrays_would():
    with pytest.raises(InputError, match="must be a scalar"):
        cv.hessian(losses, *SHAPES)
    short = {name: jax.ShapeDtypeStruct((39 + (name == "x"), *x.shape[1:]), x.dtype) for name, x in BATCH.items()}
    with pytest.raises(InputError, match="same leading example axis"):
        cv.hessian(loss, SHAPES[0], short)


@pytest.mark.slow
def test_a_plan_of_shapes_for_this_machine_is_that_of_arrays():
    plans = [cv.plan(cv.hessian(loss, params, cv.Batches(data, 20)), 10) for params, data in ((PARAMS, BATCH), SHAPES)]
    for name in ("size", "num_examples", "batch_size", "basis_bytes", "residual_bytes", "product_bytes"):
        assert getattr(plans[0], name) == getattr(plans[1], name) > 0
    assert plans[1].product_seconds > 0


def convolutional():
    kernel = {
        "kernel": jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32),
        "dense": jax.ShapeDtypeStruct((4, 3), jnp.float32),
    }
    images = {"x": jax.ShapeDtypeStruct((12, 6, 6, 2), jnp.float32), "y": jax.ShapeDtypeStruct((12,), jnp.int32)}
    return cv.hessian(conv_loss, kernel, images)


def long_vectors():
    return cv.from_matvec(lambda v, a: a * v, *[jax.ShapeDtypeStruct((300_000,), jnp.float32)] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [convolutional, long_vectors])
def test_what_is_lowered_is_for_the_platform_and_not_for_the_host(make, monkeypatch):
    """Convolutions, and sums of many terms, are others on CPUs; a host with a GPU, or none, changes nothing."""
    texts = {}
    for host in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda host=host: host)
        jax.clear_caches()
        texts |= {(host, platform): lowered_block(make(), 4, platform).as_text() for platform in ("cpu", "cuda")}
    for platform in ("cpu", "cuda"):
        assert texts["cpu", platform] == texts["gpu", platform]
    assert texts["cpu", "cuda"] != texts["cpu", "cpu"]
