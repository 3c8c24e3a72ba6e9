"""What decides the claims of m_lipschitz, on samples of growing size that follow known laws."""

import numpy as np
import pytest
from stored_runs import stored_run

from experiments.macdonald2023 import m_lipschitz
from hessflat.analysis import lipschitz_bounds

POWERS = 2 ** np.arange(2, 13)


@pytest.fixture
def samples(tmp_path):
    """A cone on a square: its norm falls with slope 2 from 5 at a corner, as theorem 4.5 has it at worst."""

    def made(slope=2.0, gap=-1.0, deviation=1e-3):
        runs = []
        for seed in range(8):
            for rate in (0.01, 0.1):
                misses = np.array([0.05, 0.1, 0.2])
                miss = 1 - lipschitz_bounds.within_share(5 * misses / 2, 2)
                jitter = 1 + 0.01 * np.random.default_rng(seed).standard_normal()
                result = {
                    "size": POWERS,
                    "samples": 10**6 // POWERS,
                    "draws": 10**6,
                    "misses": misses,
                    "miss": miss,
                    "missed": miss[None] ** POWERS[:, None],
                    "gap": jitter * rate * POWERS**gap,
                    "deviation": deviation * np.ones((len(POWERS), 3)) / np.sqrt(POWERS)[:, None],
                }
                constants = {"norm": 5.0, "norm_slope": slope, "jacobian": 10 * rate, "generator": 20.0, "pair": 20.0}
                costs = {"cost": 0.1, "cost_smallest": 0.0, "cost_largest": 1.0, "cost_slope": 3.0}
                metrics = {f"lipschitz.{name}": value for name, value in (constants | costs).items()}
                config = {"optim": {"lr": rate}, "data": {"name": "generator", "generator": {"latent": 2}}}
                folder = tmp_path / f"{seed}-{rate}"
                runs.append(stored_run(folder, seed, "mlp", {"lipschitz": result}, config, metrics))
        return runs, {claim.id: claim.decide(runs).verdict for claim in m_lipschitz.EXPERIMENT.claims}

    return made


@pytest.mark.slow
def test_samples_that_reach_the_bound_and_whose_bound_on_means_is_vacuous(samples):
    runs, verdicts = samples()
    assert lipschitz_bounds.excess_over_miss_bound(runs[0]) == pytest.approx(0, abs=1e-6)
    assert lipschitz_bounds.miss_rate_ratio(runs[0]) == pytest.approx(1)
    assert lipschitz_bounds.gap_exponent(runs[0]) == pytest.approx(-1)
    # Larger learning rates have the larger Lipschitz constants and, here, gaps; two rates are too few to decide by.
    holds = {"maximum-bound", "exponential", "deviation-bound", "gap-exponent"}
    others = {"says-something": "fails", "rougher-misses-more": "cannot decide"}
    assert verdicts == dict.fromkeys(holds, "holds") | others
    first = lipschitz_bounds.informative_from(runs[0])
    ends = lipschitz_bounds.cost_deviation_bounds(runs[0], np.array([int(0.9 * first), int(first)]))
    assert ends[0] > lipschitz_bounds.largest_deviation(runs[0]) > ends[1]


@pytest.mark.long
def test_samples_that_break_a_bound(samples):
    assert samples(slope=1.0)[1]["maximum-bound"] == "fails"
    assert samples(gap=-0.3)[1]["gap-exponent"] == "fails"
    assert samples(deviation=1e4)[1]["deviation-bound"] == "fails"
