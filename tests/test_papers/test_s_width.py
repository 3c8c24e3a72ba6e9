"""What the experiments on both ends of a spectrum decide by, on numbers that are made up."""

import json

import numpy as np
import pytest
from fabricated_runs import sealed, write_run

from experiments.sagun2017 import s_width, spectrum_ends
from hessflat.analysis.results import load_run

LARGEST = np.concatenate([np.geomspace(2.0, 1.0, 9), np.geomspace(0.1, 0.05, 11)])


def run_of(tmp_path, width, seed, scale=1.0, exact=None):
    final = {"hessian.extremes.lambda_max": 2 * scale, "hessian.extremes.lambda_min": -1e-3 * scale}
    final |= {"hessian.extremes.unconverged": 0}
    folder = write_run(tmp_path, width, seed, epochs=(0, 5), spectra=False, final=final)
    config = json.loads((folder / "config.json").read_text())
    config["model"] = {"name": "mlp", "mlp": {"hidden": [width]}}
    (folder / "config.json").write_text(json.dumps(config))
    ends = {"largest": scale * LARGEST, "smallest": -scale * np.geomspace(1e-3, 1e-4, 2 * width)}
    residuals = {f"{name}_residuals": np.full(len(values), 1e-9) for name, values in ends.items()}
    np.savez(folder / "spectra" / "50-hessian-extremes.npz", **ends, **residuals, num_params=1000 * width)
    if exact is not None:
        np.savez(folder / "spectra" / "50-hessian-exact.npz", eigenvalues=np.sort(exact))
    return load_run(sealed(folder))


def test_widths_are_compared_by_seed_and_outliers_counted(tmp_path):
    runs = [run_of(tmp_path, width, seed, 1.01**seed) for width in (10, 30, 70) for seed in range(3)]
    assert s_width.right_edge(runs).verdict == "holds"
    by_elbow, by_ratio = (claim.decide(runs) for claim in spectrum_ends.as_many(s_width.WIDTH, "", ""))
    assert by_elbow.verdict == by_ratio.verdict == "holds"
    what = "number of eigenvalues above the largest ratio of neighbours"
    assert by_ratio.value == f"{what} 9, 9, 9 → 9, 9, 9 at hidden units 10 → 70"
    assert s_width.share_of_negatives_stays(runs).verdict == "not run"
    assert s_width.at_most_by_rank(runs).verdict == "not run"
    shrunk = [run_of(tmp_path / "shrunk", width, seed, 10 / width) for width in (10, 30, 70) for seed in range(3)]
    assert s_width.right_edge(shrunk).verdict == "fails"


def test_a_missed_eigenvalue_shows_against_the_exact_spectrum(tmp_path):
    tail = -np.geomspace(1e-3, 1e-4, 6)
    right = run_of(tmp_path / "right", 3, 0, exact=np.concatenate([LARGEST, tail, np.zeros(5)]))
    missed = run_of(tmp_path / "missed", 3, 0, exact=np.concatenate([LARGEST, tail, np.zeros(5), [-5e-4]]))
    assert spectrum_ends.error_of_ends(right) == pytest.approx(0)
    assert spectrum_ends.error_of_ends(missed) > 0.1
    assert spectrum_ends.exact_share_below_zero(right) == pytest.approx(6 / 31)
