"""What decides the claims of m_coordinate, on runs whose numbers are chosen."""

import numpy as np
import pytest
from stored_runs import verdicts, written_run

from experiments.macdonald2023 import m_coordinate


def fits(root, seed, unfit=()):
    """The four networks of one trial, with numbers a little off the paper's; those of `unfit` miss the points."""
    result = []
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
            "train": {"init_from": "data.name=sine" if net == ("relu", "high") else ""},
            "optim": {"lr": 1e-4, "sgd": {"momentum": 0.9}},
        }
        line["train_loss"] = 1.0 if net in unfit else 1e-6
        run = written_run(root / "-".join(net), seed, settings, [line])
        x = np.linspace(0, 1, 5)[:, None]
        np.savez(run.folder / "spectra" / "0-predictions.npz", test_inputs=x, test_outputs=x**2 + 0.1 * seed * x)
        result.append(run)
    return result


def test_the_papers_tables_hold(tmp_path):
    runs = [run for seed in range(10) for run in fits(tmp_path, seed)]
    assert set(verdicts(m_coordinate, runs).values()) == {"holds"}


def test_networks_that_miss_the_points_are_left_out_with_their_trial(tmp_path):
    low = m_coordinate.Net("gaussian", "low")
    runs = [run for seed in range(10) for run in fits(tmp_path, seed, unfit=(low,) if seed == 2 else ())]
    assert len(m_coordinate.fitted(runs)[low]) == 9
    claim = m_coordinate.EXPERIMENT.claims[0].decide(runs)
    assert claim.seeds == 9
    assert "1 of 10 trials are left out" in claim.explanation
    runs = [run for seed in range(2) for run in fits(tmp_path / "none", seed, unfit=tuple(m_coordinate.PAPER))]
    assert verdicts(m_coordinate, runs)["relu-smoother-is-flatter"] == "undecided"


def test_the_steepest_slope_is_found_between_the_points(tmp_path):
    assert m_coordinate.steepest(fits(tmp_path, 1)[0]) == pytest.approx(1.85)
