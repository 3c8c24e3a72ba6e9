"""What has no meaning is refused in one line, before anything is allocated or repeated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import operator_of, symmetric

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)


@pytest.mark.parametrize("cast", [jnp.int32, jnp.complex64, bool])
def test_a_map_whose_products_are_not_real_floating_point(cast):
    with pytest.raises(InputError, match=r"matvec\(vector, \*arrays\) must be real floating point"):
        cv.from_matvec(lambda v: (2 * v).astype(cast), jnp.zeros(3))


FUNCTIONALS = {
    "zero_mass": cv.functionals.zero_mass,
    "effective_rank": cv.functionals.effective_rank,
    "participation_ratio": cv.functionals.participation_ratio,
    "effective_dimension": lambda values: cv.functionals.effective_dimension(values, 10.0),
    "log_determinant": lambda values: cv.functionals.log_determinant(values, 10.0),
}


@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan], "finite, got 1 of 2"),
        ([1.0, np.inf], "finite, got 1 of 2"),
        ([1 + 1j, 2.0], "real numbers"),
        ([], "real numbers"),
        ([[1.0], [2.0]], "real numbers"),
        (["a"], "real numbers"),
    ],
)
def test_eigenvalues_that_are_none(name, values, message):
    with pytest.raises(InputError, match=f"eigenvalues must be {message}"):
        FUNCTIONALS[name](np.array(values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"weights": 2 * a["weights"]}, "sum 1 for each probe"),
        (lambda a: {"weights": -a["weights"]}, "at least 0"),
        (lambda a: {"weights": a["weights"] * np.nan}, "at least 0"),
        (lambda a: {"weights": a["weights"][:, :-1]}, "of one shape"),
        (lambda a: {"nodes": a["nodes"] * np.nan}, "nodes of a stored spectrum must be finite"),
        (lambda a: {"nodes": a["nodes"] + 1j}, "must be real"),
        (lambda a: {"nodes": a["nodes"][:0], "weights": a["weights"][:0]}, "of one shape"),
    ],
)
def test_stored_spectra_that_are_no_distribution(change, message):
    arrays = cv.spectrum_to_arrays(cv.spectrum(operator_of(symmetric(np.arange(9.0))), KEY, 5, 2))
    assert cv.spectrum_from_arrays(arrays).trace.value > 0
    with pytest.raises(InputError, match=message):
        cv.spectrum_from_arrays(arrays | change(arrays))


def loss(w, batch):
    return jnp.mean((batch @ w) ** 2)


def call(name):
    op = cv.hessian(loss, jnp.ones(4), jnp.ones((5, 4)))
    return {
        "spectrum": lambda: cv.spectrum(op, KEY, 3, 10**9),
        "lanczos": lambda: cv.lanczos(op, KEY, 3, 10**9),
        "moments": lambda: cv.moments(op, KEY, 10**9),
        "frobenius": lambda: cv.frobenius(op, KEY, 10**9),
        "minibatch_products": lambda: cv.minibatch_products(op, KEY, 2, 10**9),
        "minibatch_sharpness": lambda: cv.minibatch_sharpness(op, KEY, 2, 10**9),
        "eigenpairs": lambda: cv.eigenpairs(op, KEY, 10**9),
        "decompose": lambda: cv.decompose(
            lambda w, b: b @ w, lambda f, b: jnp.mean(f**2), jnp.ones(4), jnp.ones((5, 4)), KEY, 3, 10**9
        ),
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "spectrum",
        "lanczos",
        "moments",
        "frobenius",
        "minibatch_products",
        "minibatch_sharpness",
        "eigenpairs",
        "decompose",
    ],
)
def test_counts_that_would_never_end(name):
    with pytest.raises(InputError, match="must be at most"):
        call(name)()


@pytest.mark.parametrize("wrong", [None, 3, np.eye(3), loss, "hessian"])
@pytest.mark.parametrize(
    "function",
    [
        lambda op: cv.spectrum(op, KEY),
        lambda op: cv.lanczos(op, KEY, 3),
        lambda op: cv.eigenpairs(op, KEY),
        lambda op: cv.sharpness(op, KEY),
        lambda op: cv.trace(op, KEY),
        lambda op: cv.moments(op, KEY),
        lambda op: cv.frobenius(op, KEY),
        lambda op: cv.check(op, KEY),
        lambda op: cv.plan(op),
        lambda op: cv.eigvalsh(op),
        lambda op: cv.exact_spectrum(op),
        lambda op: cv.linearize(op),
        lambda op: cv.blocks(op),
        lambda op: cv.restrict(op, "*"),
        lambda op: cv.minibatch_products(op, KEY, 2, 2),
        lambda op: cv.minibatch_sharpness(op, KEY, 2, 2),
    ],
)
def test_something_that_is_no_operator(function, wrong):
    with pytest.raises(InputError, match="operator") as caught:
        function(wrong)
    assert "\n" not in str(caught.value)


def squares(outputs, batch):
    return jnp.mean((outputs - batch["y"]) ** 2)


def test_labels_that_are_a_column_beside_flat_outputs_are_warned_of():
    data = {"x": np.ones((6, 4), np.float32), "y": np.ones((6, 1), np.float32)}
    allowed = jax.numpy_rank_promotion("allow")
    with allowed, pytest.warns(UserWarning, match=r"spreads the array \['y'\] of shape \(6, 1\) to \(6, 6\)"):
        cv.gauss_newton(lambda w, b: b["x"] @ w, squares, jnp.ones(4), data)
    allowed = jax.numpy_rank_promotion("allow")
    with allowed, pytest.warns(UserWarning, match=r"take labels\[:, 0\]"):
        cv.hessian(lambda w, b: squares(b["x"] @ w, b), jnp.ones(4), data)


def test_a_column_that_fits_is_not_warned_of():
    data = {"x": np.ones((6, 1), np.float32), "y": np.ones((6, 1), np.float32)}
    cv.hessian(lambda w, b: squares(b["x"] @ w, b), jnp.ones((1, 1)), data)
    cv.gauss_newton(lambda w, b: b["x"] @ w, squares, jnp.ones((1, 1)), data)


DATA = {"x": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}
MATRIX = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


def linear_map(w, batch):
    return batch["x"] @ w


def mean_square(outputs, batch):
    return jnp.mean(outputs**2)


def gauss_newton(w):
    return cv.gauss_newton(linear_map, mean_square, w, DATA)


OUTSIDE = {
    "diagonal": lambda w: cv.diagonal(gauss_newton(w), KEY),
    "solve": lambda w: cv.solve(gauss_newton(MATRIX), w, 1.0),
    "nystrom": lambda w: cv.nystrom(gauss_newton(w), KEY, 2),
    "ntk": lambda w: cv.ntk(linear_map, w, DATA),
    "alignment": lambda w: cv.TangentKernel(np.eye(6), 6, 6, 0.0, "highest").alignment(w.ravel()),
    "kfac": lambda w: cv.kfac(gauss_newton(w)),
    "block_spectra": lambda w: cv.block_spectra(gauss_newton(w), KEY),
    "block_diagonal_error": lambda w: cv.block_diagonal_error(gauss_newton(w), KEY),
    "relative_distance": lambda w: cv.relative_distance(gauss_newton(w), gauss_newton(MATRIX), KEY),
    "directional_sharpness": lambda w: cv.directional_sharpness(gauss_newton(w), w),
    "power_law": lambda w: cv.power_law(w.ravel()),
    "outliers": lambda w: cv.outliers(w.ravel()),
    "effective_rank": lambda w: cv.functionals.effective_rank(w.ravel()),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_looks_at_values_says_so_inside_jit(name):
    with pytest.raises(InputError, match="outside jit") as error:
        jax.jit(OUTSIDE[name])(MATRIX)
    assert "\n" not in str(error.value)


def test_what_may_be_called_inside_jit_gives_what_it_does_outside():
    factors = cv.kfac(gauss_newton(MATRIX))
    for call in (
        lambda w: factors.inverse(0.5)(w),
        lambda w: factors.operator()(w),
        lambda w: cv.preconditioned(gauss_newton(w), w**2 + 1)(w),
        lambda w: cv.gradient(cv.hessian(lambda w, batch: mean_square(linear_map(w, batch), batch), w, DATA)),
        lambda w: cv.edges.adam(w[0, 0], 0.9),
    ):
        np.testing.assert_allclose(jax.jit(call)(MATRIX), call(MATRIX), rtol=1e-4, atol=1e-5)
