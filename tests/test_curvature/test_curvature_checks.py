import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params, operator_of, symmetric

import hessflat.curvature as cv
from hessflat.errors import InputError


def test_a_hessian_passes():
    H = cv.hessian(loss, mlp_params(5, 4, 3), cv.Batches(examples(11, 5, 3), 4))
    record = cv.check(H, jax.random.key(0))
    assert record.repeat == 0
    assert record.asymmetry < record.tolerance


def test_a_map_that_is_not_symmetric_is_refused():
    matrix = symmetric([1, 2, 3]) + np.triu(np.full((3, 3), 0.1), 1)
    with pytest.raises(InputError, match="must be symmetric"):
        cv.check(operator_of(matrix), jax.random.key(0))


def test_a_map_that_changes_is_refused():
    rng = np.random.default_rng(0)

    def noisy(vector):
        noise = jax.ShapeDtypeStruct(vector.shape, vector.dtype)
        return vector + jax.pure_callback(lambda: rng.normal(size=3).astype(np.float32), noise)

    with pytest.raises(InputError, match="must be deterministic"):
        cv.check(cv.from_matvec(noisy, jnp.zeros(3)), jax.random.key(0))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="not finite"):
        cv.check(operator_of(np.diag([1.0, np.nan])), jax.random.key(0))


def test_zero_passes():
    assert cv.check(operator_of(np.zeros((3, 3))), jax.random.key(0)).asymmetry == 0


def test_the_example_in_the_documentation_runs():
    assert doctest.testmod(cv).failed == 0
    assert doctest.testmod(cv).attempted > 5


def test_every_public_name_is_there():
    assert all(hasattr(cv, name) for name in cv.__all__)
