"""Verdicts on theorems about samples of growing size, from numbers that follow known laws."""

import numpy as np
import pytest

from experiments.macdonald2023 import m_bn_modes, m_lipschitz
from hessflat.analysis import lipschitz
from hessflat.analysis.results import Run

SIZES = np.array([10, 32, 100, 316, 1000])
POWERS = 2 ** np.arange(2, 13)


def run_of(folder, seed, name, arrays, config, metrics=None):
    (folder / "spectra").mkdir(parents=True, exist_ok=True)
    for array, content in arrays.items():
        np.savez(folder / "spectra" / f"5-{array}.npz", **content)
    plain = {"seed": seed, "scale": "smoke", "model": {"name": name}, "data": {"name": "digits"}} | config
    return Run(folder, plain, {"status": "done", "examples": {"train": 64}}, [{"step": 5, **(metrics or {})}])


@pytest.fixture
def modes(tmp_path):
    def made(entry=-1.0, operator=0.0, apart=1e-3, sharper=2.0):
        runs = []
        for seed in (0, 1, 2):
            noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal(len(SIZES))
            falling = dict.fromkeys(m_bn_modes.FALLING, noise * SIZES**entry)
            found = falling | {
                "examples": SIZES,
                "row": noise * SIZES**-0.5,
                "operator": noise * SIZES**operator,
                "train_operator": (1 - apart) * np.ones(len(SIZES)),
                "eval_operator": np.ones(len(SIZES)),
                "hessian_train": noise,
                "hessian_eval": sharper * noise,
            }
            arrays = {"batch_norm-layer": found, "batch_norm-network": found}
            runs.append(run_of(tmp_path / str(seed), seed, "mlp", arrays, {}))
        return {claim.id: claim.decide(runs).verdict for claim in m_bn_modes.EXPERIMENT.claims}

    return made


def test_modes_that_differ_as_the_theorem_says(modes):
    verdicts = modes()
    assert verdicts.pop("convolutional") == "not run"
    assert set(verdicts.values()) == {"holds"}


@pytest.mark.parametrize(
    ("law", "failing"),
    [
        ({"entry": -0.5}, {"layer", "perceptron"}),
        ({"entry": -1.5}, {"layer", "perceptron"}),
        ({"operator": -0.5}, {"norm-does-not-fall"}),
        ({"apart": 0.02}, {"jacobian-norms"}),
        ({"sharper": 1.1}, {"sharpness-differs"}),
    ],
)
def test_modes_that_differ_otherwise(modes, law, failing):
    assert {name for name, verdict in modes(**law).items() if verdict == "fails"} == failing


@pytest.fixture
def samples(tmp_path):
    """A cone on a square: its norm falls with slope 2 from 5 at a corner, as theorem 4.5 has it at worst."""

    def made(slope=2.0, gap=-1.0, deviation=1e-3):
        runs = []
        for seed in (0, 1, 2):
            for rate in (0.01, 0.1):
                misses = np.array([0.05, 0.1, 0.2])
                miss = 1 - lipschitz.within_share(5 * misses / 2, 2)
                jitter = 1 + 0.01 * np.random.default_rng(seed).standard_normal()
                found = {
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
                runs.append(run_of(folder, seed, "mlp", {"lipschitz": found}, config, metrics))
        return runs, {claim.id: claim.decide(runs).verdict for claim in m_lipschitz.EXPERIMENT.claims}

    return made


@pytest.mark.slow
def test_samples_that_reach_the_bound_and_whose_bound_on_means_is_vacuous(samples):
    runs, verdicts = samples()
    assert m_lipschitz.excess(runs[0]) == pytest.approx(0, abs=1e-6)
    assert m_lipschitz.rate_ratio(runs[0]) == pytest.approx(1)
    assert m_lipschitz.gap_exponent(runs[0]) == pytest.approx(-1)
    # Larger learning rates have the larger Lipschitz constants and, here, gaps.
    holds = {"maximum-bound", "exponential", "deviation-bound", "rougher-misses-more", "gap-exponent"}
    assert verdicts == dict.fromkeys(holds, "holds") | {"says-something": "fails"}
    first = m_lipschitz.says_something_from(runs[0])
    ends = m_lipschitz.deviation_bounds(runs[0], np.array([int(0.9 * first), int(first)]))
    assert ends[0] > m_lipschitz.widest(runs[0]) > ends[1]


@pytest.mark.slow
def test_samples_that_break_a_bound(samples):
    assert samples(slope=1.0)[1]["maximum-bound"] == "fails"
    assert samples(gap=-0.3)[1]["gap-exponent"] == "fails"
    assert samples(deviation=1e4)[1]["deviation-bound"] == "fails"
