import math

import numpy as np
import pytest
from fabricated_runs import EPOCHS, sealed, write_run, write_sweep

from hessflat.analysis.results import (
    by_setting,
    error_bound,
    finished,
    finite_final,
    grouped,
    load_run,
    num_examples,
    pairs_by_seed,
    setting_of,
)
from hessflat.utils.errors import InputError


def test_a_run_is_read_back_as_written(tmp_path):
    run = load_run(write_run(tmp_path, 5e-4, 2, final={"hessian.lambda_max": 7.5}))
    assert (run.seed, run.status, run.setting("optim.l2")) == (2, "done", 5e-4)
    assert run.final("hessian.lambda_max") == 7.5
    assert math.isnan(run.final("hessian.trace_se"))
    assert run.history("epoch").tolist() == list(EPOCHS)
    assert run.spectrum("hessian")["nodes"].shape[0] == 2
    assert run.path.startswith("runs/toy/toy-l2=0.0005-seed=2-")


def test_groups_are_ordered_by_setting_and_seed(tmp_path):
    runs = [load_run(folder) for folder in reversed(write_sweep(tmp_path, spectra=False))]
    groups = by_setting(runs, "optim.l2")
    assert list(groups) == [0.0, 1e-4, 5e-4]
    assert [[run.seed for run in group] for group in groups.values()] == [[0, 1, 2]] * 3


def test_a_run_that_failed_at_once_is_readable(tmp_path):
    folder = write_run(tmp_path, status="failed", epochs=(), spectra=False)
    (folder / "metrics.jsonl").unlink()
    run = load_run(sealed(folder))
    assert not finished([run])
    assert math.isnan(run.final_or_nan("train_loss"))
    with pytest.raises(InputError, match="nothing was measured"):
        run.final("train_loss")
    with pytest.raises(InputError, match="nothing was measured"):
        run.spectrum("hessian")


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    "damage",
    [
        _remove("config.json"),
        _remove("manifest.json"),
        _remove("metrics.jsonl"),
        _write("metrics.jsonl", '{"step": 0}\n{"step": 1, "trai'),
        _write("metrics.jsonl", ""),
        _write("metrics.jsonl", "[1, 2]\n"),
        _write("manifest.json", '{"format": 1}'),
        _write("config.json", "{}"),
        _write("config.json", "[]"),
    ],
)
def test_a_damaged_folder_is_named_in_one_line(tmp_path, damage):
    folder = write_run(tmp_path)
    damage(folder)
    with pytest.raises(InputError, match=r"is damaged|is not a readable run folder") as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"not a zip file"])
def test_a_damaged_spectrum_is_named_in_one_line(tmp_path, content):
    run = load_run(write_run(tmp_path))
    file = run.spectrum_file("hessian")
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read spectra/{file.name}") as caught:
        run.spectrum("hessian")
    assert "\n" not in str(caught.value)


def test_unknown_names_get_the_nearest_known_one(tmp_path):
    run = load_run(write_run(tmp_path))
    with pytest.raises(InputError, match=r"did you mean 'hessian\.lambda_max'"):
        run.final("hessian.lamda_max")
    with pytest.raises(InputError, match="did you mean 'l2'"):
        run.setting("optim.l22")
    with pytest.raises(InputError, match="no setting"):
        run.setting("seed.nothing")


def test_the_exact_spectrum_is_there_only_where_measured(tmp_path):
    with_exact = load_run(write_run(tmp_path, exact=True))
    assert with_exact.has_spectrum("hessian-exact")
    assert np.all(np.diff(with_exact.spectrum("hessian-exact")["eigenvalues"]) >= 0)
    assert not load_run(write_run(tmp_path, seed=1)).has_spectrum("hessian-exact")


def test_derived_metrics_are_read_like_measured_ones(tmp_path):
    run = load_run(write_run(tmp_path, spectra=False))
    last = run.metrics[-1]
    assert run.final("test_error") == 1 - last["test_accuracy"]
    scaled = last["hessian.lambda_max"] * last["weight_norm"] ** 2
    assert run.final("hessian.norm_scaled_lambda_max") == scaled == run.history("hessian.norm_scaled_lambda_max")[-1]
    assert run.final("hessian.norm_scaled_lambda_max_bound") == 1e-4 * last["weight_norm"] ** 2
    run.metrics[-1]["hessian_eval.trace"] = 2 * last["hessian.trace"]
    assert run.final("hessian.eval_over_train_trace") == 2
    assert math.isnan(run.final_or_nan("hessian_eval.norm_scaled_lambda_max"))
    with pytest.raises(InputError, match=r"'hessian_eval.lambda_max' was not measured; did you mean 'hessian.lambda_m"):
        run.final("hessian_eval.norm_scaled_lambda_max")


def test_groups_keep_the_order_in_which_runs_come(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, l2s=(5e-4, 0.0), seeds=(1, 0), spectra=False)]
    groups = grouped(runs, lambda run: run.seed)
    assert {seed: [run.setting("optim.l2") for run in group] for seed, group in groups.items()} == {
        1: [5e-4, 0.0],
        0: [5e-4, 0.0],
    }
    assert list(groups) == [1, 0]


def test_runs_are_paired_by_seed_and_twins_refused(tmp_path):
    low = [load_run(write_run(tmp_path, 0.0, seed, spectra=False)) for seed in (2, 0, 1)]
    high = [load_run(write_run(tmp_path, 5e-4, seed, spectra=False)) for seed in (0, 2)]
    pairs = pairs_by_seed(low, high, "optim.l2")
    assert [(a.seed, b.seed) for a, b in pairs] == [(2, 2), (0, 0)]
    assert all(a.setting("optim.l2") < b.setting("optim.l2") for a, b in pairs)
    twin = load_run(write_run(tmp_path / "twin", 0.0, 0, spectra=False))
    with pytest.raises(InputError, match=r"share optim\.l2 and seed"):
        pairs_by_seed([*low, twin], high, "optim.l2")


def test_bounds_and_counts_limit_what_a_difference_says(tmp_path):
    final = {"m": 1.0, "m_bound": 0.25, "bad": None}
    runs = [
        load_run(write_run(tmp_path, 0.0, n, final=final, examples={"test": 100 + n}, spectra=False)) for n in (0, 1)
    ]
    assert (error_bound(runs[0], "m"), error_bound(runs[0], "train_loss")) == (0.25, 0.0)
    assert num_examples("test_accuracy", [(runs[1], runs[0])]) == 100
    assert num_examples("test_loss", [(runs[1], runs[0])]) is None
    assert num_examples("train_accuracy", [(runs[1], runs[0])]) is None
    assert finite_final(runs[0], "m") == 1.0
    with pytest.raises(InputError, match="bad is nan although the run is done"):
        finite_final(runs[0], "bad")


def test_the_answers_of_a_run_are_read_back(tmp_path):
    run = load_run(write_run(tmp_path))
    assert run.answers("test") is None
    right = np.arange(13) % 3 == 0
    arrays = {"test": np.packbits(right), "test_size": 13, "test_labels": 5}
    np.savez(run.folder / "spectra" / f"{run.metrics[-1]['step']}-answers.npz", **arrays)
    assert run.answers("test").right.tolist() == right.tolist()
    assert run.answers("test").labels == 5
    assert run.answers("validation") is None


def test_runs_of_one_setting_may_have_splits_of_their_own(tmp_path):
    first, second, other = (load_run(write_run(tmp_path, l2, seed)) for l2, seed in ((0.0, 0), (0.0, 1), (0.1, 1)))
    for run in (first, second, other):
        run.config["data"] = {"name": "digits", "split_seed": run.seed}
    assert setting_of(first) == setting_of(second) != setting_of(other)
