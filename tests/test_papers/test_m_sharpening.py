"""Growth and the edge of stability: what decides the claims of m_sharpening, on runs whose numbers are made up."""

from pathlib import Path

import pytest

from experiments.macdonald2023 import m_sharpening
from experiments.macdonald2023.label_smoothing import JACOBIAN, SHARPNESS, less_growth
from hessflat.analysis.results import Run


def run_of(sharpness, jacobian=None, smoothing=0.0, seed=0, rate=0.5, every=5):
    """A finished run, ten steps an epoch; the last line is of a measurement of something else alone."""
    lines = [
        {
            "step": every * i,
            "epoch": every * i / 10,
            SHARPNESS: value,
            JACOBIAN: value if jacobian is None else jacobian[i],
        }
        for i, value in enumerate(sharpness)
    ]
    lines.append({"step": every * len(lines), "epoch": every * len(lines) / 10, SHARPNESS: None})
    config = {"seed": seed, "optim": {"lr": rate}, "train": {"label_smoothing": smoothing}}
    config["model"] = {"name": "mlp", "mlp": {"batch_norm": False}}
    return Run(Path(f"runs/m/{smoothing}-{seed}"), config, {"status": "done"}, lines)


def test_the_edge_counts_from_where_it_is_first_reached():
    run = run_of([1.0, 3.0, 5.0, 3.0, 4.0])  # 2/η = 4
    assert m_sharpening.edge_crossing(run) == 10
    assert m_sharpening.edge_ratio(run) == 1
    below = run_of([1.0, 3.0, 2.0])
    assert m_sharpening.edge_crossing(below) is None
    assert m_sharpening.edge_ratio(below) == 0.75


@pytest.mark.parametrize(
    ("orders", "verdict"), [((1, 1, 1), "holds"), ((-1, -1, -1), "fails"), ((1, 1, -1), "undecided")]
)
def test_less_growth_is_judged_by_the_order_in_every_seed(orders, verdict):
    runs = [
        run_of([1.0, 5 - 4 * order * smoothing], smoothing=smoothing, seed=seed)
        for seed, order in enumerate(orders)
        for smoothing in (0.0, 0.5, 0.75)
    ]
    result = less_growth(runs, SHARPNESS, "λ_max(H)")
    assert result.verdict == verdict
    assert "at label smoothing 0, 0.5, 0.75" in result.value


def test_every_network_and_rate_must_follow():
    rising = [run_of([1.0, 2.0 + seed / 10], seed=seed) for seed in range(8)]
    falling = [run_of([2.0, 2.0], seed=seed, rate=0.25) for seed in range(8)]
    assert m_sharpening.sharpens(rising).verdict == "holds"
    result = m_sharpening.sharpens([*rising, *falling])
    assert result.verdict == "fails"
    assert "MLP, η = 0.5: " in result.value
