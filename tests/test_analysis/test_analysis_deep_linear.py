"""The closed forms of three weights in a row, beside derivatives by complex and finite differences."""

import itertools

import numpy as np
import pytest

from hessflat.analysis import deep_linear

WEIGHTS = np.array([[0.7, -1.3, 0.9], [1.0, 1.0, 1.0], [2.0, 0.4, -0.6]])
X = -1.7


def loss(weights):
    return np.exp(weights[0] * weights[1] * weights[2] * X)


def by_differences(weights):
    """Gradient by complex steps and Hessian by central differences of it."""

    def gradient(at):
        steps = 1e-30j * np.eye(3)
        return np.array([loss(at + step).imag / 1e-30 for step in steps])

    steps = 1e-5 * np.eye(3)
    return gradient(weights), np.array([(gradient(weights + s) - gradient(weights - s)) / 2e-5 for s in steps])


def test_gradient_hessian_and_trace():
    expected = [by_differences(weights) for weights in WEIGHTS]
    np.testing.assert_allclose(deep_linear.exact_gradient(WEIGHTS, X), [g for g, _ in expected], rtol=1e-12)
    np.testing.assert_allclose(deep_linear.exact_hessian(WEIGHTS, X), [h for _, h in expected], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(deep_linear.exact_trace(WEIGHTS, X), [np.trace(h) for _, h in expected], rtol=1e-7)


def test_known_values_at_equal_weights():
    # With w = (1, 1, 1) and X = -1, u = -1: p_i X = -1, H_ij = exp(-1) on the diagonal and 0 off it.
    ones = np.ones((1, 3))
    np.testing.assert_allclose(deep_linear.exact_gradient(ones, -1.0), -np.exp(-1) * ones)
    np.testing.assert_allclose(deep_linear.exact_hessian(ones, -1.0), np.exp(-1) * np.eye(3)[None], atol=1e-16)


@pytest.mark.parametrize("size", [3.0, 6.0])
def test_the_largest_share_is_that_of_equal_weights(size):
    weights = np.full((1, 3), size)
    values = np.linalg.eigvalsh(deep_linear.exact_hessian(weights, -1.0)[0])
    # The other two eigenvalues are each 1 / (3 ln(1/loss) - 2) of the first, so that the limit is exact.
    expected = float(deep_linear.largest_share(np.exp(-(size**3))))
    assert values[-1] / values.sum() == pytest.approx(expected, rel=1e-9)


def copies_of(weights):
    """The six pairs at two scales, as they are stored, with derivatives by differences."""
    pairs = list(itertools.permutations(range(3), 2))
    rows = []
    for scale, (i, j) in itertools.product((1.0, 100.0), pairs):
        scaled = weights.copy()
        scaled[i] *= scale
        scaled[j] /= scale
        product = scaled.prod()
        # Differences lose digits at these scales; by hand, of exp(pX).
        first = np.array([product / w for w in scaled])
        second = np.array([[0 if a == b else product / (scaled[a] * scaled[b]) for b in range(3)] for a in range(3)])
        hessian = (np.outer(first, first) * X**2 + second * X) * loss(scaled)
        rows.append((scaled, first * X * loss(scaled), hessian, loss(scaled), scale, i, j))
    names = ("weights", "gradient", "hessian", "loss", "scale", "multiplied", "divided")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def test_what_a_reparameterisation_changes_and_leaves():
    copies = copies_of(np.array([0.9, 1.1, 1.2]))
    values = {name: quantity.values(copies) for name, quantity in deep_linear.QUANTITIES.items()}
    for name in ("loss", "adaptive"):
        assert np.ptp(values[name]) / values[name].min() < 1e-11
    for name in ("gradient", "lambda_max", "trace", "norm_scaled"):
        assert values[name].max() / values[name].min() > 10
    assert deep_linear.misalignment(copies) < 1e-3
    assert deep_linear.distance_from_closed_form(copies, X) < 1e-12
    assert deep_linear.distance_from_trace(copies, X) < 1e-12
    copies["hessian"] = 1.01 * copies["hessian"]
    assert deep_linear.distance_from_closed_form(copies, X) == pytest.approx(0.01)
    assert deep_linear.distance_from_trace(copies, X) == pytest.approx(0.01)
