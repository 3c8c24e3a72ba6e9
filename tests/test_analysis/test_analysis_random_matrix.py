"""The laws of sample covariance matrices, against integrals that are known and against matrices that are drawn."""

import numpy as np
import pytest
from scipy import integrate

from hessflat.analysis import random_matrix

RATIOS = [0.02, 0.5, 1.0, 2.0]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("variance", [1.0, 0.5])
def test_moments_of_the_bulk(ratio, variance):
    low, high = random_matrix.bulk_edges(ratio, variance)

    def moment(k):
        return integrate.quad(lambda x: x**k * random_matrix.bulk_density(x, ratio, variance), low, high, limit=500)[0]

    moments = [moment(k) for k in range(3)]
    expected = [min(1.0, 1 / ratio), variance, variance**2 * (1 + ratio)]
    np.testing.assert_allclose(moments, expected, rtol=1e-4)


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_share_below_is_the_integral_and_counts_zeros(ratio):
    low, high = random_matrix.bulk_edges(ratio)
    x = np.array([-1.0, 0.3 * low + 0.7 * high, high + 1])
    below = integrate.quad(lambda x: float(random_matrix.bulk_density(x, ratio)), low, x[1], limit=500)[0]
    zeros = max(0.0, 1 - 1 / ratio)
    np.testing.assert_allclose(random_matrix.cumulative_share(x, ratio), [0, zeros + below, 1], atol=1e-4)


def spiked(dimension, number, spike, seed):
    deviations = np.ones(dimension)
    deviations[0] = spike**0.5
    x = np.random.default_rng(seed).standard_normal((number, dimension)) * deviations
    return np.linalg.eigvalsh(x.T @ x / number)


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_drawn_matrices_follow_the_laws(ratio):
    values = spiked(400, int(400 / ratio), 1.0, 0)
    expected = random_matrix.cumulative_share(values, ratio)
    assert np.max(np.abs(np.arange(1, 401) / 400 - expected)[values > 1e-9]) < 0.01
    assert random_matrix.distance_to_bulk(values, ratio) < 0.01
    assert random_matrix.distance_to_bulk(2 * values, ratio) > 0.1
    assert values[-1] == pytest.approx(random_matrix.bulk_edges(ratio)[1], rel=0.05)
    for spike in (3 * random_matrix.detection_threshold(ratio), 1 + 0.3 * ratio**0.5):
        largest = np.mean([spiked(400, int(400 / ratio), spike, seed)[-1] for seed in range(10)])
        assert largest == pytest.approx(random_matrix.outlier_position(spike, ratio), rel=0.05)
    assert random_matrix.outlier_position(1.0, ratio) == random_matrix.bulk_edges(ratio)[1]
