import dataclasses
import importlib

import jax
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, predict
from numpy.testing import assert_allclose

import hessflat.curvature as cv

# The package has a function of the module's name.
JOINT_PRODUCT = importlib.import_module("hessflat.curvature.decomposition").joint_product
PARAMS, DATA = mlp_params(6, 8, 4), cv.Batches(examples(60, 6, 4), 25)


@pytest.fixture(scope="module")
def measured():
    return cv.decompose(predict, criterion, PARAMS, DATA, jax.random.key(0), 20, 2, exact=True)


@pytest.fixture(scope="module")
def separate():
    return {
        "hessian": cv.hessian(loss, PARAMS, DATA),
        "gauss_newton": cv.gauss_newton(predict, criterion, PARAMS, DATA),
        "residual": cv.residual(predict, criterion, PARAMS, DATA),
    }


@pytest.mark.slow
def test_every_part_is_what_it_is_alone(measured, separate):
    quadrature_key, moments_key = jax.random.split(jax.random.key(0))
    for name, op in separate.items():
        part = getattr(measured, name)
        alone = cv.spectrum(op, quadrature_key, 20, 2)
        assert_allclose(part.spectrum.nodes[:, [0, -1]], alone.nodes[:, [0, -1]], atol=1e-4)
        assert_allclose(part.spectrum.second_moment.value, alone.second_moment.value, rtol=1e-4)
        moments = cv.moments(op, moments_key, 20)
        assert_allclose(part.moments.trace[:2], moments.trace[:2], rtol=1e-4)
        assert_allclose(part.moments.frobenius[:2], moments.frobenius[:2], rtol=1e-4)
        assert_allclose(part.exact.values, np.linalg.eigvalsh(np.asarray(op.to_dense(), np.float64)), atol=1e-6)


@pytest.mark.slow
def test_traces_add_up(measured):
    traces = [getattr(measured, name).exact.trace for name in ("hessian", "gauss_newton", "residual")]
    assert_allclose(traces[0], traces[1] + traces[2], rtol=1e-6)
    assert_allclose(measured.hessian.moments.trace.value, sum(p.moments.trace.value for p in measured[1:3]), rtol=1e-4)


@pytest.mark.slow
def test_what_is_counted_and_left_out(measured):
    assert measured.num_products == 3 * 2 * 20 + 2 * 20 + 2 * 92
    only = cv.decompose(predict, criterion, PARAMS, DATA, jax.random.key(0), 0, trace_probes=3)
    assert only.hessian.spectrum is None
    assert only.hessian.exact is None
    assert only.num_products == 6


def test_the_network_is_kept_once_for_all_three(separate):
    (term,) = separate["gauss_newton"].terms
    joint = dataclasses.replace(term, product=JOINT_PRODUCT, params=(term.params,) * 3)

    def residual_bytes(term):
        return sum(x.nbytes for x in cv.linearize(cv.Operator((term,), (1.0,)), 10**9).terms[0].residuals_per_batch)

    assert residual_bytes(joint) < 0.6 * sum(residual_bytes(op.terms[0]) for op in separate.values())
