"""What holds for any parameters, data, batch size, floating type and scale.

The model is f(z) = (tanh z, z² / 2) with z_i = Σ x_i w over all leaves, under softmax cross-entropy. Every curvature
matrix is then Xᵀ diag(c) X / N with coefficients c that are written down here, in NumPy and float64. Shapes come from
short lists, since what takes time is compiling for new ones.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import criterion, losses_of, operator_of, symmetric
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import hessflat.curvature as cv
from hessflat.curvature.krylov.quadrature import quadrature

# The shapes of the leaves; tuples of numbers are shapes.
TREES = {
    "array": (5,),
    "scalar": {"scalar": ()},
    "nested": {"first": [(2, 3), {"bias": (2,)}], "second": ((), (1,))},
    "three axes": [(2, 1, 3), {"scale": ()}],
    "nothing in a leaf": {"empty": (0,), "flat": [(3,), (2, 0)], "scalar": ()},
}

# A tree, the number of examples, the batch size, the floating type.
NESTED, EMPTY = ("nested", 12, 5, "float64"), ("nothing in a leaf", 12, 20, "float32")
CASES = [
    ("array", 7, 3, "float64"),
    ("scalar", 12, 5, "float32"),
    ("nested", 7, 1, "float32"),
    NESTED,
    ("three axes", 1, 1, "float64"),
    EMPTY,
]
SIZES = (1, 2, 6, 13)
EPS = {name: float(np.finfo(name).eps) for name in ("float32", "float64")}

seeds = st.integers(0, 2**16)
numbers = st.floats(-4, 4, width=16)
cases = st.sampled_from(CASES)


def few(number):
    """The same examples every time; slow is what compiles."""
    slow = [HealthCheck.too_slow]
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=slow)


def is_shape(node):
    return isinstance(node, tuple) and all(isinstance(entry, int) for entry in node)


def predict(params, batch):
    leaves = zip(jax.tree.leaves(batch["x"]), jax.tree.leaves(params), strict=True)
    z = sum(jnp.tensordot(x, w, axes=w.ndim) for x, w in leaves)
    return jnp.stack([jnp.tanh(z), z**2 / 2], axis=1)


def loss(params, batch):
    return criterion(predict(params, batch), batch)


def losses(params, batch):
    return losses_of(predict(params, batch), batch)


KINDS = {
    "hessian": lambda params, data: cv.hessian(loss, params, data),
    "gauss_newton": lambda params, data: cv.gauss_newton(predict, criterion, params, data),
    "residual": lambda params, data: cv.residual(predict, criterion, params, data),
    "fisher": lambda params, data: cv.fisher(losses, params, data),
    "model_fisher": lambda params, data: cv.model_fisher(predict, params, data),
}


class Problem:
    """Parameters and data of one case, and what the oracle knows about them."""

    def __init__(self, case, seed):
        name, self.number, self.batch_size, self.dtype = case
        self.rng = np.random.default_rng(seed)
        self.params = self.tree(name, lambda shape: self.rng.normal(size=shape))
        x = self.tree(name, lambda shape: 0.5 * self.rng.normal(size=(self.number, *shape)))
        self.batch = {"x": x, "y": jax.device_put(self.rng.integers(2, size=self.number))}
        self.data = cv.Batches(self.batch, self.batch_size)
        self.rows = np.concatenate([np.reshape(leaf, (self.number, -1)) for leaf in jax.tree.leaves(x)], axis=1)
        self.rows = self.rows.astype(np.float64)
        self.size = self.rows.shape[1]
        self.tolerance = 100 * EPS[self.dtype]

    def tree(self, name, draw):
        return jax.tree.map(
            lambda shape: jax.device_put(np.asarray(draw(shape), self.dtype)), TREES[name], is_leaf=is_shape
        )

    def vector(self):
        return self.rng.normal(size=self.size).astype(self.dtype)

    def flat(self, tree):
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).astype(np.float64)

    def like_params(self, vector):
        leaves, structure = jax.tree.flatten(self.params)
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = np.split(np.asarray(vector), ends[:-1])
        return jax.tree.unflatten(
            structure, [jax.device_put(part.reshape(w.shape)) for part, w in zip(parts, leaves, strict=True)]
        )

    def outputs(self, params):
        z = self.rows @ self.flat(params)
        scores = np.stack([np.tanh(z), z**2 / 2], axis=1)
        p = np.exp(scores - scores.max(axis=1)[:, None])
        return z, p / p.sum(axis=1)[:, None]

    def loss(self, params):
        _, p = self.outputs(params)
        return -np.log(p[np.arange(self.number), np.asarray(self.batch["y"])]).mean()

    def matrix(self, kind):
        z, p = self.outputs(self.params)
        first = np.stack([1 - np.tanh(z) ** 2, z], axis=1)
        second = np.stack([-2 * np.tanh(z) * (1 - np.tanh(z) ** 2), np.ones_like(z)], axis=1)
        error = p - np.eye(2)[np.asarray(self.batch["y"])]
        bent = (p * first**2).sum(axis=1) - (p * first).sum(axis=1) ** 2
        rest = (error * second).sum(axis=1)
        coefficients = {
            "hessian": bent + rest,
            "gauss_newton": bent,
            "residual": rest,
            "fisher": (error * first).sum(axis=1) ** 2,
            "model_fisher": bent,
        }[kind]
        return (self.rows.T * coefficients) @ self.rows / self.number

    @property
    def scale(self):
        """Rounding is at the size of what is summed, of which the sum may be a small part."""
        return max(1.0, (self.rows**2).sum(axis=1).max())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
@pytest.mark.parametrize("kind", KINDS)
@few(3)
@given(seed=seeds, a=numbers, b=numbers)
def test_an_operator_is_its_matrix_whatever_the_batch_size(kind, case, seed, a, b):
    with jax.enable_x64(case[-1] == "float64"):
        problem = Problem(case, seed)
        op, matrix = KINDS[kind](problem.params, problem.data), problem.matrix(kind)
        v, w = problem.vector(), problem.vector()
        v /= np.linalg.norm(v)
        w /= np.linalg.norm(w)
        atol = problem.tolerance * problem.scale
        av, aw = np.asarray(op(v), np.float64), np.asarray(op(w), np.float64)
        assert op.size == problem.size
        assert op(v).dtype == problem.dtype
        assert_allclose(av, matrix @ v, atol=atol)
        combined = (a * v + b * w).astype(problem.dtype)
        assert_allclose(op(combined), a * av + b * aw, atol=10 * atol)
        assert_allclose(w @ av, v @ aw, atol=atol)
        tree = op(problem.like_params(v))
        assert jax.tree.structure(tree) == jax.tree.structure(problem.params)
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, problem.params)
        assert_allclose(problem.flat(tree), av, atol=atol)


@pytest.mark.slow
@few(12)
@given(case=cases, seed=seeds, a=numbers, b=numbers, shift=numbers)
def test_sums_multiples_and_shifts_are_those_of_the_matrices(case, seed, a, b, shift):
    with jax.enable_x64(case[-1] == "float64"):
        problem = Problem(case, seed)
        H, G, R = (KINDS[kind](problem.params, problem.data) for kind in ("hessian", "gauss_newton", "residual"))
        v = problem.vector()
        v /= np.linalg.norm(v)
        atol = 10 * problem.tolerance * problem.scale
        assert_allclose((H - (G + R))(v), np.zeros(problem.size), atol=atol)
        expected = a * problem.matrix("hessian") + b * (problem.matrix("gauss_newton") - problem.matrix("residual"))
        assert_allclose((a * H + b * (G - R) + shift)(v), expected @ v + shift * v, atol=atol)
        assert_allclose((shift - a * H)(v), shift * v - a * problem.matrix("hessian") @ v, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@few(10)
@given(case=cases, seed=seeds)
def test_a_kept_linearisation_gives_the_same_products(kind, case, seed):
    with jax.enable_x64(case[-1] == "float64"):
        problem = Problem(case, seed)
        op = KINDS[kind](problem.params, problem.data)
        kept, v = cv.linearize(op, limit=1 << 30), problem.vector()
        assert_allclose(kept(v), op(v), atol=problem.tolerance * problem.scale * np.linalg.norm(v))
        assert_allclose(kept(v), problem.matrix(kind) @ v, atol=problem.tolerance * problem.scale * np.linalg.norm(v))


@pytest.mark.parametrize(
    ("case", "names", "leaves"),
    [
        (NESTED, "first/*", [0, 1]),
        (NESTED, ["first/0", "second/?"], [0, 2, 3]),
        (EMPTY, lambda name: not name.startswith("flat"), [0, 3]),
        (EMPTY, "*", [0, 1, 2, 3]),
    ],
)
@few(3)
@given(seed=seeds)
def test_a_block_is_the_principal_submatrix(case, names, leaves, seed):
    with jax.enable_x64(case[-1] == "float64"):
        problem = Problem(case, seed)
        block = cv.restrict(KINDS["hessian"](problem.params, problem.data), names)
        owners = np.repeat(np.arange(4), [leaf.size for leaf in jax.tree.leaves(problem.params)])
        inside = np.isin(owners, leaves)
        assert block.size == inside.sum()
        expected = problem.matrix("hessian")[np.ix_(inside, inside)]
        assert_allclose(block.to_dense(), expected, atol=problem.tolerance * problem.scale)


@few(12)
@given(case=cases, seed=seeds)
def test_a_line_starts_and_ends_at_its_points(case, seed):
    with jax.enable_x64(case[-1] == "float64"):
        problem = Problem(case, seed)
        end = problem.tree(case[0], lambda shape: problem.rng.normal(size=shape))
        found = cv.line(loss, problem.params, end, [0.0, 1.0], problem.data)
        expected = [problem.loss(problem.params), problem.loss(end)]
        assert_allclose(found.values, expected, rtol=problem.tolerance, atol=problem.tolerance * problem.scale)
        length = np.linalg.norm(problem.flat(end) - problem.flat(problem.params))
        assert_allclose(found.distance, length, rtol=problem.tolerance)


def lists(values, sizes=SIZES):
    return st.sampled_from(sizes).flatmap(lambda n: st.lists(st.sampled_from(values), min_size=n, max_size=n))


# Zeros, copies and both signs, so that Krylov spaces end at any step.
spectra = lists([-2.0, -0.5, 0.0, 0.0, 1e-3, 1.0, 1.0, 3.0, 10.0])


@pytest.mark.slow
@few(40)
@given(eigenvalues=spectra, steps=st.sampled_from([1, 3, 12]), seed=seeds)
def test_quadrature_is_a_measure_and_exact_for_polynomials(eigenvalues, steps, seed):
    matrix = symmetric(eigenvalues, seed)
    largest = max(np.abs(eigenvalues).max(), 1e-300)
    with jax.enable_x64(True):
        op = operator_of(matrix, np.float64)
        result = cv.lanczos(op, jax.random.key(seed), steps, 2, return_basis=True)
        spectrum = quadrature(result, op.size, op.dtype)
        starts = np.asarray(result.basis)[:, 0]
    probes = zip(spectrum.nodes, spectrum.weights, spectrum.residuals, spectrum.num_valid, starts, strict=True)
    for nodes, weights, residuals, valid, start in probes:
        assert (weights >= 0).all()
        assert_allclose(weights.sum(), 1, atol=1e-13)
        assert nodes[:valid].min() >= min(eigenvalues) - 1e-13 * largest
        assert nodes[:valid].max() <= max(eigenvalues) + 1e-13 * largest
        distance = np.abs(nodes[:valid, None] - np.asarray(eigenvalues)[None]).min(axis=1)
        assert (distance <= residuals[:valid] + 1e-13 * largest).all()
        power = start
        for degree in range(2 * steps):
            assert_allclose(weights @ (nodes / largest) ** degree, start @ power, atol=1e-11)
            power = matrix / largest @ power


@pytest.mark.exact
@few(25)
@given(eigenvalues=spectra, exponent=st.integers(-60, 60), seed=seeds)
def test_scaling_by_a_power_of_two_changes_no_digit(eigenvalues, exponent, seed):
    op = operator_of(symmetric(eigenvalues, seed))
    one, other = (cv.spectrum(op * factor, jax.random.key(seed), 6, 2) for factor in (1.0, 2.0**exponent))
    np.testing.assert_array_equal(one.num_valid, other.num_valid)
    np.testing.assert_array_equal(one.nodes * 2.0**exponent, other.nodes)
    np.testing.assert_array_equal(one.weights, other.weights)


@few(25)
@given(size=st.sampled_from([6, 13]), exponent=st.integers(-25, 25), seed=seeds)
def test_scaling_by_a_power_of_ten_scales_the_nodes(size, exponent, seed):
    eigenvalues = np.arange(size) - 2.0
    op = operator_of(symmetric(eigenvalues, seed))
    one, other = (cv.spectrum(op * 10.0**k, jax.random.key(seed), 4, 2) for k in (0, exponent))
    assert_allclose(other.nodes / 10.0**exponent, one.nodes, atol=1e-4 * size)
    assert_allclose(other.weights, one.weights, atol=1e-4)
    assert_allclose(other.trace.value / 10.0**exponent, one.trace.value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@few(40)
@given(
    eigenvalues=spectra,
    k=st.integers(1, 3),
    which=st.sampled_from(["largest", "smallest", "magnitude", "both"]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=seeds,
)
def test_every_eigenpair_is_as_close_as_its_residual_says(eigenvalues, k, which, dtype, seed):
    k = min(k, len(eigenvalues))
    matrix = symmetric(eigenvalues, seed).astype(dtype).astype(np.float64)
    true = np.linalg.eigvalsh(matrix)
    with jax.enable_x64(dtype == "float64"):
        pairs = cv.eigenpairs(operator_of(matrix, dtype), jax.random.key(seed), k, which)
        vectors = np.asarray(pairs.vectors, np.float64)
    rounding = 20 * EPS[dtype] * np.abs(true).max()
    distance = np.abs(pairs.values[:, None] - true[None]).min(axis=1)
    assert (distance <= pairs.residuals + rounding).all()
    left = np.linalg.norm(vectors @ matrix - pairs.values[:, None] * vectors, axis=1)
    assert (left <= pairs.residuals + rounding).all()
    assert (pairs.values <= true[-1] + rounding).all()
    assert (pairs.values >= true[0] - rounding).all()


@few(25)
@given(eigenvalues=lists([-2.0, 0.0, 1e-3, 1.0, 10.0], (6, 13)), seed=seeds, number=st.integers(1, 5))
def test_random_signs_give_the_trace_of_a_diagonal_exactly(eigenvalues, seed, number):
    op = operator_of(symmetric(eigenvalues, rotate=False))
    estimate = cv.trace(op, jax.random.key(seed), number)
    rounding = 20 * EPS["float32"] * np.abs(eigenvalues).sum()
    assert abs(estimate.value - sum(eigenvalues)) <= rounding
    assert number == 1 or estimate.standard_error <= rounding
