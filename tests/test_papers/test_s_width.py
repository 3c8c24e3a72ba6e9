"""What the experiments on both ends of a spectrum decide by, on numbers that are made up."""

import json
import re

import numpy as np
import pytest
from fabricated_runs import sealed, write_run

from experiments.sagun2017 import s_batch, s_spectrum, s_width, spectrum_ends
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
    runs = [run_of(tmp_path, width, seed, 1.0003 ** (seed * width)) for width in (10, 30, 70) for seed in range(3)]
    edge = s_width.right_edge(runs)
    assert edge.verdict == "holds"
    assert re.search(
        r"narrowest network: [\d.]+ → [\d.]+ .*; for comparison, training loss [\d.]+ → ", edge.explanation
    )
    by_elbow, by_ratio = (claim.decide(runs) for claim in spectrum_ends.as_many(s_width.WIDTH, "", ""))
    assert by_elbow.verdict == by_ratio.verdict == "holds"
    what = "number of eigenvalues above the largest ratio of neighbours"
    assert by_ratio.value == f"{what} 9, 9, 9 → 9, 9, 9 at hidden units 10 → 70"
    assert s_width.share_of_negatives_stays(runs).verdict == "not run"
    assert s_width.at_most_by_rank(runs).verdict == "not run"
    shrunk = [
        run_of(tmp_path / "shrunk", width, seed, 10 / width * 1.0003 ** (seed * width))
        for width in (10, 30, 70)
        for seed in range(3)
    ]
    assert s_width.right_edge(shrunk).verdict == "fails"


def test_a_missed_eigenvalue_shows_against_the_exact_spectrum(tmp_path):
    tail = -np.geomspace(1e-3, 1e-4, 6)
    right = run_of(tmp_path / "right", 3, 0, exact=np.concatenate([LARGEST, tail, np.zeros(5)]))
    missed = run_of(tmp_path / "missed", 3, 0, exact=np.concatenate([LARGEST, tail, np.zeros(5), [-5e-4]]))
    assert spectrum_ends.error_of_ends(right) == pytest.approx(0)
    assert spectrum_ends.error_of_ends(missed) > 0.1
    assert spectrum_ends.exact_share_below_zero(right) == pytest.approx(6 / 31)


def of_batch(tmp_path, batch, seed, tail):
    """A run with a negative tail of its own, after training with a batch size."""
    run = run_of(tmp_path / str(batch), 10, seed)
    run.config["train"] = {"batch_size": batch}
    path = run.folder / "spectra" / "50-hessian-extremes.npz"
    np.savez(path, **{**np.load(path), "smallest": tail})
    return run


@pytest.mark.parametrize(("exponent", "verdict"), [(1.0, "holds"), (3.0, "fails")])
def test_tails_of_two_batches_are_compared_by_their_shape(tmp_path, exponent, verdict):
    """Multiples of one tail have one shape; one that falls three times as steeply on a log axis has another."""
    tail = np.geomspace(1, 0.1, 20)
    runs = [of_batch(tmp_path, 10, seed, -1e-3 * tail) for seed in range(3)]
    runs += [of_batch(tmp_path, 512, seed, -1e-2 * 1.01**seed * tail ** (exponent * 1.01**seed)) for seed in range(3)]
    (claim,) = [claim for claim in s_batch.EXPERIMENT.claims if claim.id == "tail-has-one-shape"]
    assert claim.decide(runs).verdict == verdict
    # From rank 5 of 20 to the last, on the logarithmic tail.
    assert spectrum_ends.fall_of_tail(runs[0]) == pytest.approx(0.1 ** (15 / 19))


def test_the_bulk_is_compared_at_both_ends_of_training(tmp_path):
    runs = []
    for seed in range(3):
        run = run_of(tmp_path, 10, seed, exact=np.concatenate([np.full(95, 1e-3), np.full(5, 1.0)]))
        start = np.concatenate([np.full(92 + seed, 1e-3), np.full(8 - seed, 1.0)])
        np.savez(run.spectrum_file("hessian-exact", run.first_step), eigenvalues=start)
        run.config["experiment"] = "s_spectrum"
        runs.append(run)
    assert [s_spectrum.near_zero_at_start(run) for run in runs] == pytest.approx([0.92, 0.93, 0.94])
    assert [s_spectrum.more_near_zero(run) for run in runs] == pytest.approx([0.03, 0.02, 0.01])
    verdicts = {claim.id: claim.decide(runs).verdict for claim in s_spectrum.EXPERIMENT.claims}
    assert verdicts["bulk-at-zero-at-start"] == "holds"
    assert verdicts["bulk-gathers"] == "undecided"
    assert s_spectrum.tabulate(runs)[1].rows[0][2] == "93.0 %"
