"""The Ritz values that stand for zero in the paper's degeneracy experiment, of spectra made by hand."""

import numpy as np
import pytest
from fabricated_runs import write_run

from experiments.granziol2020 import g_degeneracy
from hessflat.analysis.results import load_run
from hessflat.analysis.spectra import zero_mass_history

SPLIT = (np.array([-2.0, -0.1, 0.3, 5.0]), np.array([0.1, 0.6, 0.2, 0.1]))


def test_the_paper_s_bound_is_computed():
    assert round(g_degeneracy.PAPER_BOUND, 4) == 0.9639


@pytest.fixture
def runs(tmp_path):
    """Six seeds: H's peak at zero splits in two at the last of two steps, G's never does."""
    return [make_run(tmp_path, seed) for seed in range(6)]


def make_run(folder, seed):
    run = load_run(write_run(folder, seed=seed, epochs=(0, 50), spectra=False))
    run.config["model"] = {"name": "vgg", "vgg": {"depth": 16}}
    whole = (np.array([-2.0, 1e-6, 0.4, 5.0]), np.array([0.1, 0.79, 0.01, 0.1]))
    for step, operator, (nodes, weights) in (
        (0, "hessian", whole),
        (500, "hessian", SPLIT),
        (0, "gauss_newton", whole),
        (500, "gauss_newton", whole),
    ):
        # The padding at the end is no Ritz value.
        nodes, weights = (np.append(values, 0.0)[None] for values in (nodes, weights))
        np.savez(run.spectrum_file(operator, step), nodes=nodes, weights=weights, num_valid=np.array([4]))
    return run


def test_a_split_peak_is_seen_and_repaired(runs):
    run = runs[0]
    assert zero_mass_history(run, "hessian", 1).mass == pytest.approx([0.79, 0.6])
    assert zero_mass_history(run, "hessian", 2).mass == pytest.approx([0.8, 0.8])
    assert g_degeneracy.smallest_mass(run) == pytest.approx(0.8)
    assert g_degeneracy.splitting(run) == pytest.approx(0.25 - 0.01 / 0.8)
    assert g_degeneracy.steadier(run) == pytest.approx(-0.19)
    verdicts = {claim.id: claim.decide(runs).verdict for claim in g_degeneracy.EXPERIMENT.claims}
    assert verdicts["peak-splits"] == verdicts["combining-steadies"] == "holds"
    assert "VGG-16 on digits" in g_degeneracy.tabulate(runs)[0].rows[0]
    assert [drawing.name for drawing in g_degeneracy.draw(runs)] == [
        "degeneracy-VGG-16-on-digits",
        "spectra-VGG-16-on-digits",
    ]


def test_changes_of_mass_go_with_those_of_the_ritz_value(tmp_path):
    """Masses and values, of which the largest changes are at the same steps, or at others."""
    masses = (0.9, 0.5, 0.8, 0.79, 0.785)
    for name, values, tau in (("same", (1e-6, 1e-1, 1e-3, 2e-3, 3e-3), 1.0), ("others", (1.0, 1.1, 1.3, 3, 30), -1.0)):
        run = load_run(write_run(tmp_path / name, epochs=(0, 1, 2, 5, 10), spectra=False))
        run.config["model"] = {"name": "vgg", "vgg": {"depth": 16}}
        for line, mass, value in zip(run.metrics, masses, values, strict=True):
            arrays = {"nodes": np.array([[value, -50.0]]), "weights": np.array([[mass, 1 - mass]])}
            np.savez(run.spectrum_file("hessian", line["step"]), **arrays, num_valid=np.array([2]))
        assert g_degeneracy.tandem(run) == pytest.approx(tau)


def test_claims_about_a_network_that_was_not_trained_are_not_run(runs):
    assert g_degeneracy.degenerate(runs).verdict == "not run"
    assert g_degeneracy.reaches_papers_bound(runs).verdict == "not run"
    for run in runs:
        run.config["data"]["name"] = "cifar10"
    assert g_degeneracy.reaches_papers_bound(runs).verdict == "fails"
