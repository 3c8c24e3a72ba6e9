import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, examples, loss, mlp_params, predict
from numpy.testing import assert_allclose
from scipy.spatial.distance import jensenshannon

import hessflat.curvature as cv
from hessflat.curvature.operators.shared import with_one_linearization
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def problem():
    return mlp_params(5, 4, 3), cv.Batches(examples(23, 5, 3), 10)


def dense_matrix(op):
    with jax.enable_x64(True):
        return np.asarray(op.astype(np.float64).to_dense())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_every_block_has_the_eigenvalues_of_its_principal_submatrix(problem, kind):
    params, data = problem
    op = cv.hessian(loss, params, data) if kind == "hessian" else cv.gauss_newton(predict, criterion, params, data)
    found = cv.block_spectra(op, jax.random.key(0), num_steps=16, num_probes=12, tolerance=0)
    dense, start = dense_matrix(op), 0
    assert list(found.spectra) == ["0", "1"]
    for name, size in found.sizes.items():
        values = np.linalg.eigvalsh(dense[start : start + size, start : start + size])
        top = found.sharpness[name]
        assert abs(top.value - values[-1]) <= 2 * top.residual
        assert abs(found.traces[name].value - values.sum()) < 5 * found.traces[name].standard_error + 1e-4
        start += size
    # A − D of the dense matrix.
    first = found.sizes["0"]
    outside = np.sqrt(2) * np.linalg.norm(dense[:first, first:]) / np.linalg.norm(dense)
    ratio = cv.block_diagonal_error(op, jax.random.key(1), num_probes=64)
    assert abs(ratio.value - outside) < 4 * ratio.standard_error < 0.3


def test_layers_of_a_stack_are_blocks_and_the_parts_of_a_vector():
    def stacked_loss(w, batch):
        y, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer), None), batch["x"], w["layers"])
        return jnp.mean(y**2)

    params = {"layers": jax.random.normal(jax.random.key(0), (3, 2, 2))}
    op = cv.hessian(stacked_loss, params, {"x": jax.random.normal(jax.random.key(1), (9, 2))})
    found = cv.block_spectra(op, jax.random.key(0), stacked="layers", num_probes=1)
    dense = dense_matrix(op)
    largest = [np.linalg.eigvalsh(dense[i : i + 4, i : i + 4])[-1] for i in (0, 4, 8)]
    assert_allclose([top.value for top in found.sharpness.values()], largest, rtol=1e-4, atol=1e-6)
    kept = sum(np.sum(dense[i : i + 4, i : i + 4] ** 2) for i in (0, 4, 8))
    outside = np.sqrt(1 - kept / np.sum(dense**2))
    ratio = cv.block_diagonal_error(op, jax.random.key(1), stacked="layers", num_probes=200)
    assert abs(ratio.value - outside) < 4 * ratio.standard_error < 0.4


def diagonal(scales, size):
    """Operators of known spectra: `scales` times the numbers from 0 to 1."""
    return {str(s): cv.from_matvec(lambda v, d: d * v, jnp.zeros(size), s * jnp.linspace(0, 1, size)) for s in scales}


def test_distances_are_those_of_scipy_and_separate_spectra_are_one_apart():
    spectra = {
        name: cv.spectrum(op, jax.random.key(1), 20, 3, probe="gaussian")
        for name, op in diagonal([1.0, 2.0], 60).items()
    }
    between = cv.heterogeneity(spectra, width=0.1, num_points=200)
    low = min(s.smallest.value for s in spectra.values()) - 0.5
    high = max(s.largest.value for s in spectra.values()) + 0.5
    grid = np.linspace(low, high, 200)
    densities = [s.density(grid, 0.1).mean for s in spectra.values()]
    assert_allclose(between.distances[0, 1], jensenshannon(*densities, base=2), rtol=1e-6)
    assert 0 < between.standard_errors[0, 1] < between.distances[0, 1]
    assert between.standard_error == pytest.approx(between.standard_errors[0, 1])
    far = {"a": spectra["1.0"], "b": cv.spectrum(diagonal([1.0], 60)["1.0"] + 9.0, jax.random.key(1), 20, 3)}
    assert cv.heterogeneity(far).mean == pytest.approx(1, abs=1e-6)
    assert cv.heterogeneity({"a": spectra["1.0"], "b": spectra["1.0"]}).mean == 0


def test_a_recurrence_ends_where_its_quadrature_is_settled():
    op = cv.from_matvec(
        lambda v, d: d * v, jnp.zeros(400), jnp.where(jnp.arange(400) < 3, 5.0, jnp.linspace(0, 0.1, 400))
    )
    loose = cv.block_spectra(op, jax.random.key(0), {"all": "*"}, num_steps=96, num_probes=2)
    assert loose.spectra["all"].nodes.shape[1] < 40
    assert loose.quadrature_errors["all"] <= 1e-2 * loose.sharpness["all"].value
    assert loose.sharpness["all"].value == pytest.approx(5, rel=1e-4)


def test_what_is_no_partition_and_what_cannot_be_compared_is_refused(problem):
    params, data = problem
    op = cv.hessian(loss, params, data)
    with pytest.raises(InputError, match="in none and 0 in several"):
        cv.block_diagonal_error(op, jax.random.key(0), {"first": "0/*"})
    with pytest.raises(InputError, match="0 in none and"):
        cv.block_diagonal_error(op, jax.random.key(0), {"first": "0/*", "all": "*"})
    with pytest.raises(InputError, match="takes no folder"):
        cv.block_spectra(op, jax.random.key(0), folder="x")
    with pytest.raises(InputError, match="two blocks at least"):
        cv.heterogeneity({})


def test_blocks_of_one_linearisation_have_the_products_of_their_own():
    params, data = mlp_params(5, 4, 3), cv.Batches(examples(23, 5, 3), 10)
    op = (cv.hessian(loss, params, data) - 0.5 * cv.gauss_newton(predict, criterion, params, data) + 0.1).as_it_is_now()
    parts = cv.blocks(op, 2)
    together = with_one_linearization(op, parts)
    kept = next(iter(together.values())).terms[0].residuals_per_batch
    for name, part in parts.items():
        own, shared = cv.linearize(part), together[name]
        assert shared.terms[0].residuals_per_batch is kept
        vector = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), part.params)
        for found, right in zip(jax.tree.leaves(shared(vector)), jax.tree.leaves(part(vector)), strict=True):
            assert_allclose(found, right, rtol=1e-4, atol=1e-5)
        # Nothing is multiplied that a linearisation of the block alone does not multiply.
        for ours, theirs in zip(shared.terms, own.terms, strict=True):
            counts = [sum(e.primitive.name == "dot_general" for e in x.stages.unknown) for x in (ours, theirs)]
            assert counts[0] <= counts[1]
    again = with_one_linearization(op, parts)
    assert all(again[name].terms[0].stages is together[name].terms[0].stages for name in parts)
