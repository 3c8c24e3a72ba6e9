"""Runs on disk: skipped, continued, refused; killed at any moment they end with the same bits."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import runs

from hessflat.analysis.results import load_run
from hessflat.cli import measure
from hessflat.runs import checkpoints, loop, run_folder
from hessflat.runs.cost_model import run_cost
from hessflat.runs.jobs import make_jobs
from hessflat.utils import progress
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run, for reading alone."""
    return runs.run_all([runs.tiny()], tmp_path_factory.mktemp("runs"))[0]


@pytest.mark.slow
def test_folder_holds_everything(finished):
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["status"] == "done"
    for key in ("command", "versions", "device", "matmul_precision", "batch_norm_mode", "seeds", "data_checksum",
                "git_commit", "started", "finished", "num_params"):  # fmt: skip
        assert manifest[key], key
    assert [record["epoch"] for record in runs.metrics(finished)] == [0, 1, 2, 5]
    assert {path.name for path in (finished / "spectra").iterdir()} == {
        *(f"{step}-{name}.npz" for step in (0, 10, 20, 50) for name in ("hessian", "gauss_newton")),
        "50-answers.npz",
    }
    assert {"0", "10", "20", "50"} <= {path.name for path in (finished / "checkpoints").iterdir()}
    assert finished.parent.name == "g_mlp"


def test_training_lowers_the_loss_and_metrics_are_consistent(finished):
    first, *_, last = runs.metrics(finished)
    assert last["train_loss"] < first["train_loss"]
    assert last["gap_loss"] == pytest.approx(abs(last["train_loss"] - last["test_loss"]))
    assert last["hessian.mean_eigenvalue"] == pytest.approx(last["hessian.trace"] / last["num_params"])
    assert last["hessian.second_moment"] == pytest.approx(last["hessian.frobenius"] ** 2 / last["num_params"])
    assert last["gauss_newton.lambda_min"] > -1e-5 * last["gauss_newton.lambda_max"]
    assert last["softmax_jacobian.max"] <= last["jacobian.max"]


def test_same_command_again_touches_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != ".lock"}
    root = finished.parents[1]
    assert runs.run_all([runs.tiny()], root) == [finished]
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize("settings", [(), ("--config.optim.lr=1e20",), ("--config.stop.train_accuracy=0.2",)])
def test_work_told_of_and_skipped_is_that_of_the_whole_run_however_it_ends(tmp_path, settings):
    job = make_jobs([runs.tiny(*settings)], tmp_path)[0]
    told = []
    reporter = progress.Reporter(lambda work, doing: told.append(work), told.append, lambda line: None)
    for times in (1, 2):
        loop.run_all([job], reporter)
        assert sum(told) == pytest.approx(times * run_cost(job.config).total_seconds(), rel=1e-3)


def test_foreign_folder_is_refused_and_left_alone(tmp_path):
    job = make_jobs([runs.tiny()], tmp_path)[0]
    job.folder.mkdir(parents=True)
    (job.folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and has no config\.json"):
        runs.run_all([job.config], tmp_path)
    (job.folder / "config.json").write_text(json.dumps({"seed": 1}))
    with pytest.raises(InputError, match=r"belongs to another configuration \(they differ in .*seed"):
        runs.run_all([job.config], tmp_path)
    assert {path.name for path in job.folder.iterdir()} == {"notes.txt", "config.json"}


def test_folder_in_use_is_refused(tmp_path):
    job = make_jobs([runs.tiny()], tmp_path)[0]
    with run_folder.locked(job.folder), pytest.raises(InputError, match="in use by another process"):
        runs.run_all([job.config], tmp_path)


def test_sweep_with_a_run_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="same run twice"):
        make_jobs([runs.tiny(), runs.tiny()], tmp_path)


def test_other_data_is_refused(tmp_path):
    folder = runs.run_all([runs.tiny("--config.train.epochs=1")], tmp_path)[0]
    run_folder.write_manifest(folder, data_checksum="0" * 64)
    with pytest.raises(InputError, match="run on other data"):
        runs.run_all([runs.tiny("--config.train.epochs=1")], tmp_path)


def test_divergence_ends_the_run_keeps_its_measurements_and_not_the_sweep(tmp_path):
    # 1e20 overflows float32 within an epoch.
    diverging, fine = runs.tiny("--config.optim.lr=1e20"), runs.tiny()
    folders = runs.run_all([diverging, fine], tmp_path)
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert [manifest["status"] for manifest in manifests] == ["diverged", "done"]
    assert "not finite" in manifests[0]["reason"]
    assert [record["step"] for record in runs.metrics(folders[0])] == [0]


@pytest.mark.slow
def test_vectorised_sweep_agrees_with_runs_in_turn(finished, tmp_path):
    others = [runs.tiny("--config.execution=vectorised", f"--config.seed={seed}") for seed in (0, 1, 2)]
    together = runs.run_all(others, tmp_path)
    assert json.loads((together[0] / "manifest.json").read_text())["runs_together"] == 3
    for key in ("train_loss", "test_accuracy", "hessian.lambda_max", "jacobian.mean"):
        assert runs.metrics(together[0])[-1][key] == pytest.approx(runs.metrics(finished)[-1][key], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 3])
def test_of_checkpoints_between_measurements_the_last_ones_stay(tmp_path, monkeypatch, last):
    monkeypatch.setattr(loop, "SECONDS_PER_BLOCK", 1e-9)  # blocks of one step
    often = ["--config.checkpoint.minutes=1e-9", f"--config.checkpoint.last={last}"]
    folder = runs.run_all([runs.tiny(*often)], tmp_path)[0]
    kept = {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {0, 10, 20, 50, *range(50 - last, 50)}


@pytest.mark.slow
def test_with_a_damaged_checkpoint_runs_go_on_from_the_one_before(tmp_path):
    common = ["--config.execution=vectorised", "--config.train.epochs=1"]
    chosen = [runs.tiny(*common, f"--config.seed={seed}") for seed in (0, 1)]
    folders = runs.run_all(chosen, tmp_path)
    before = [runs.metrics(folder) for folder in folders]
    for folder in folders:
        run_folder.write_manifest(folder, status="running")
    for path in runs.leaf_files(folders[0] / "checkpoints" / "10"):
        path.write_bytes(path.read_bytes()[:20])
    notes = []
    runs.run_all(chosen, tmp_path, progress.silent()._replace(note=notes.append))
    (line,) = notes
    assert re.search(r"checkpoints.10 is damaged.*going on from the one before", line)
    assert "\n" not in line
    assert [run_folder.read_manifest(folder)["resumed_from"] for folder in folders] == [[0], [0]]
    assert [runs.metrics(folder) for folder in folders] == before
    # The other run's was whole: it is made again, not kept as a damaged one.
    assert [(folder / "checkpoints" / "damaged-10").is_dir() for folder in folders] == [True, False]


@pytest.mark.slow
def test_measure_again_with_other_settings(finished, capsys):
    measure.main([f"--run={finished}", "--steps=0,50", "--config.measure.probes=3"])
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == finished / "measurements"
    again = runs.metrics(folder)
    assert [record["step"] for record in again] == [0, 50]
    own = runs.metrics(finished)[-1]
    assert again[-1]["train_loss"] == own["train_loss"]
    assert again[-1]["hessian.lambda_max"] == pytest.approx(own["hessian.lambda_max"], rel=0.2)
    assert runs.spectra(folder)["50-hessian.npz"]["nodes"].shape == (3, 4)
    measure.main([f"--run={finished}", "--steps=50", "--config.measure.probes=3"])
    assert runs.metrics(folder) == again


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--config.seed=3"], "only --config.measure"),
        (["--steps=7"], "no checkpoint of step 7"),
        (["--steps=soon"], "must be all, last or steps"),
        (["--stepz=all"], "Did you mean: steps ?"),
    ],
)
def test_measure_refuses_in_one_line(finished, arguments, line):
    with pytest.raises(InputError, match=line):
        measure.main([f"--run={finished}", *arguments])


def test_a_folder_of_another_format_is_refused_in_one_line(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "other")
    manifest = json.loads((finished / "manifest.json").read_text())
    for version in (None, run_folder.FORMAT + 1):
        (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest | {"format": version}))
        for read in (run_folder.read_config, load_run):
            with pytest.raises(
                InputError, match=f"is a run folder of format {version}, this code reads format 1"
            ) as error:
                read(tmp_path / "other")
            assert "\n" not in str(error.value)
            assert str(error.value).count(str(tmp_path)) == 1
            assert "to mend it" not in str(error.value)


@pytest.mark.slow
def test_commands_answer_bad_input_in_one_line(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "hessflat", "train", "--config=g_mlp:smoke", "--config.optim.lrr=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: unknown setting config.optim.lrr; did you mean 'optim.lr'?")
    assert process.stderr.count("\n") == 1


class Killed(BaseException):
    """Stands for SIGKILL at a chosen line: nothing catches it."""


def run_until_killed(configs, root, monkeypatch, module, name, number, before=False):
    """Run, and be killed after (or before) the call of that number to `module.name`."""
    original, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(args)
        if before and len(calls) == number:
            raise Killed
        result = original(*args, **kwargs)
        if len(calls) == number:
            raise Killed
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, name, counted)
        with pytest.raises(Killed):
            runs.run_all(configs, root)


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["measured", "end"])
def test_kill_in_a_measurement_loses_no_measurement(tmp_path, monkeypatch, keep):
    chosen = runs.tiny("--config.checkpoint.minutes=1e-9", keep=keep)
    run_until_killed([chosen], tmp_path, monkeypatch, loop, "record", 3, before=True)
    folder = runs.run_all([chosen], tmp_path)[0]
    assert [record["epoch"] for record in runs.metrics(folder)] == [0, 1, 2, 5]


@pytest.mark.exact
@pytest.mark.slow
def test_vectorised_runs_killed_between_their_checkpoints_continue(tmp_path, monkeypatch):
    chosen = [runs.tiny("--config.execution=vectorised", f"--config.seed={seed}") for seed in (0, 1)]
    straight = runs.run_all(chosen, tmp_path / "straight")
    # The fifth save is that of the first of the two runs at the third measurement.
    run_until_killed(chosen, tmp_path / "killed", monkeypatch, checkpoints, "save", 5)
    for a, b in zip(straight, runs.run_all(chosen, tmp_path / "killed"), strict=True):
        assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()


def test_half_written_configuration_of_a_killed_process_is_no_foreign_content(tmp_path):
    job = make_jobs([runs.tiny("--config.train.epochs=1")], tmp_path)[0]
    job.folder.mkdir(parents=True)
    (job.folder / ".config.json.4242").write_text('{"se')
    assert runs.run_all([job.config], tmp_path) == [job.folder]


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.jsonl", "not json\n"), ("metrics.jsonl", "{}\n"), ("manifest.json", "[]"), ("config.json", "{")],
)
def test_what_is_damaged_of_an_interrupted_run_is_one_line_and_made_again(tmp_path, name, content):
    chosen = runs.tiny("--config.train.epochs=1")
    folder = runs.run_all([chosen], tmp_path)[0]
    before = (folder / "metrics.jsonl").read_bytes()
    run_folder.write_manifest(folder, status="running")
    (folder / name).write_text(content)
    notes = []
    runs.run_all([chosen], tmp_path, progress.silent()._replace(note=notes.append))
    (line,) = notes
    assert f"{folder}: {name} is altered" in line
    assert "\n" not in line
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_full_disk_is_one_line(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left on device; free space"):
        run_folder.append_line(tmp_path / "metrics.jsonl", {"step": 0})


def test_batch_larger_than_the_data_is_refused(tmp_path):
    with pytest.raises(InputError, match="batch_size must be at most 1258, the training split, got 5000"):
        runs.run_all([runs.tiny("--config.train.batch_size=5000")], tmp_path)
