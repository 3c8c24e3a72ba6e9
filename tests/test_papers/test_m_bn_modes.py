"""What decides the claims of m_bn_modes, on Jacobians whose differences follow known laws."""

import numpy as np
import pytest
from stored_runs import stored_run

from experiments.macdonald2023 import m_bn_modes

SIZES = np.array([10, 32, 100, 316, 1000])


@pytest.fixture
def modes(tmp_path):
    def made(entry=-1.0, operator=0.0, apart=1e-3, sharper=2.0):
        runs = []
        for seed in range(8):
            noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal(len(SIZES))
            falling = dict.fromkeys(m_bn_modes.FALLING, noise * SIZES**entry)
            result = falling | {
                "examples": SIZES,
                "row": noise * SIZES**-0.5,
                "operator": noise * SIZES**operator,
                "train_operator": (1 - apart) * np.ones(len(SIZES)),
                "eval_operator": np.ones(len(SIZES)),
                "hessian_train": noise,
                "hessian_eval": sharper * noise,
            }
            arrays = {"batch_norm-layer": result, "batch_norm-network": result}
            runs.append(stored_run(tmp_path / str(seed), seed, "mlp", arrays, {}))
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
        ({"entry": -1.5}, set()),  # O(1/N) is an upper bound
        ({"operator": -0.5}, {"norm-does-not-fall"}),
        ({"apart": 0.02}, {"jacobian-norms"}),
        ({"sharper": 1.1}, {"sharpness-differs"}),
    ],
)
def test_modes_that_differ_otherwise(modes, law, failing):
    assert {name for name, verdict in modes(**law).items() if verdict == "fails"} == failing
