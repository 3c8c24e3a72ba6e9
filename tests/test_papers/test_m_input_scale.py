"""What decides the claims of m_input_scale, on runs whose numbers are chosen."""

import pytest
from stored_runs import verdicts, written_run

from experiments.macdonald2023 import m_input_scale


def scaled(root, seed, activation, scale, sharpness):
    lines = [
        {
            "train_loss": 1.0 - grown,
            "hessian.lambda_max": scale * (1 + grown * sharpness),
            "jacobian.max": 0.2 + grown / scale,
            "softmax_jacobian.max": 0.1 + grown / scale,
            "features.Dense_1.norm": scale * (1 + grown),
            "features.Dense_2.norm": scale * (2 + grown),
        }
        for grown in (0.0, 0.9, 0.5)
    ]
    settings = {
        "model": {"name": "mlp", "mlp": {"activation": activation}},
        "data": {"name": "digits", "input_scale": scale},
    }
    return written_run(root / f"{activation}-{scale}", seed, settings, lines)


@pytest.mark.parametrize(
    ("of_sharpness", "verdict"), [(lambda scale: scale, "holds"), (lambda scale: 1 / scale, "fails")]
)
def test_growth_is_ordered_by_the_factor(tmp_path, of_sharpness, verdict):
    runs = [
        scaled(tmp_path, seed, activation, scale, of_sharpness(scale) * (1 + 0.01 * seed))
        for activation in ("relu", "tanh")
        for scale in (0.5, 1.0, 1.5)
        for seed in range(3)
    ]
    result = verdicts(m_input_scale, runs)
    assert result.pop("smaller-inputs-flatter") == verdict
    # Sharpness that starts in proportion to the inputs may end larger though it grows less.
    del result["larger-inputs-sharper"]
    assert set(result.values()) == {"holds"}
