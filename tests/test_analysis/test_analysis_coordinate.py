"""What decides the claims of m_coordinate and m_input_scale, on runs whose numbers are chosen."""

import json

import numpy as np
import pytest
from fabricated_runs import write_run

from experiments.macdonald2023 import m_coordinate, m_input_scale
from hessflat.analysis.results import load_run


def written(root, seed, settings, lines):
    folder = write_run(root, 0.0, seed, epochs=(0,), spectra=False)
    config = json.loads((folder / "config.json").read_text())
    for block, values in settings.items():
        config[block] = config.get(block, {}) | values if isinstance(values, dict) else values
    (folder / "config.json").write_text(json.dumps(config))
    records = [{"step": 10 * i, "epoch": 10.0 * i, **line} for i, line in enumerate(lines)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_run(folder)


def fits(root, seed, unfit=()):
    """The four networks of one trial, with numbers a little off the paper's; those of `unfit` miss the points."""
    found = []
    random = np.random.default_rng(seed)
    for net, published in m_coordinate.PAPER.items():
        model = {"activation": net.activation, "first_std": 0.035 if net == ("gaussian", "low") else 0.0}
        line = {
            metric: own.mean + own.std * (seed - 4.5) / 4 + 1e-3 * random.standard_normal()
            for metric, own in zip(m_coordinate.METRICS, published, strict=True)
        }
        settings = {
            "scale": "paper",
            "model": {"name": "coordinate_network", "coordinate_network": model},
            "data": {"name": "scattered"},
            "train": {"from_run": "data.name=sine" if net == ("relu", "high") else ""},
            "optim": {"lr": 1e-4, "sgd": {"momentum": 0.9}},
        }
        line["train_loss"] = 1.0 if net in unfit else 1e-6
        run = written(root / "-".join(net), seed, settings, [line])
        x = np.linspace(0, 1, 5)[:, None]
        np.savez(run.folder / "spectra" / "0-fit.npz", test_inputs=x, test_outputs=x**2 + 0.1 * seed * x)
        found.append(run)
    return found


def verdicts(experiment, runs):
    return {claim.id: claim.decide(runs).verdict for claim in experiment.EXPERIMENT.claims}


def test_the_papers_tables_hold(tmp_path):
    runs = [run for seed in range(10) for run in fits(tmp_path, seed)]
    assert set(verdicts(m_coordinate, runs).values()) == {"holds"}


def test_networks_that_miss_the_points_are_left_out_with_their_trial(tmp_path):
    low = m_coordinate.Net("gaussian", "low")
    runs = [run for seed in range(10) for run in fits(tmp_path, seed, unfit=(low,) if seed == 2 else ())]
    assert len(m_coordinate.fitted(runs)[low]) == 9
    claim = m_coordinate.EXPERIMENT.claims[0].decide(runs)
    assert claim.seeds == 9
    assert "1 of 10 trials left out" in claim.explanation
    runs = [run for seed in range(2) for run in fits(tmp_path / "none", seed, unfit=tuple(m_coordinate.PAPER))]
    assert verdicts(m_coordinate, runs)["relu-smoother-is-flatter"] == "undecided"


def test_the_steepest_slope_is_found_between_the_points(tmp_path):
    assert m_coordinate.steepest(fits(tmp_path, 1)[0]) == pytest.approx(1.85)


def test_welchs_test_is_that_of_two_samples():
    ours, theirs = [1.0, 2.0, 4.0], m_coordinate.Published(2.0, 1.0)
    assert 0 < m_coordinate.p_value(ours, theirs) < 1
    assert m_coordinate.p_value([9.0, 10.0, 11.0], theirs) < 0.01
    assert m_coordinate.p_value([1.9, 2.0, 2.1], theirs) == pytest.approx(1)


def scaled(root, seed, activation, scale, sharpness):
    lines = [
        {
            "train_loss": 1.0 - grown,
            "hessian.lambda_max": scale + grown * sharpness,
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
    return written(root / f"{activation}-{scale}", seed, settings, lines)


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
    found = verdicts(m_input_scale, runs)
    assert found.pop("smaller-inputs-flatter") == verdict
    del found["larger-inputs-sharper"]
    assert set(found.values()) == {"holds"}
