"""Runs under damage: what is not as it was written is named in one line, never read, and mended by that command."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from test_runner import run_until_killed

from benchmarks.chaos.damage import EDITS, edit, flipped, line_or
from benchmarks.chaos.tiny import SHORT, differences, restored
from hessflat.analysis.experiment import StoredExperiment
from hessflat.analysis.results import load_run
from hessflat.cli import measure, train
from hessflat.cli.experiment import collect, load
from hessflat.report.sections import notices
from hessflat.runs import loop, run_folder
from hessflat.runs.jobs import make_jobs
from hessflat.utils import progress
from hessflat.utils.errors import DamagedError, InputError

ROOT = Path(__file__).parents[1]
# XLA's CPU client may wait for itself where several virtual devices solve small eigenproblems at once.
ALONE = "--config.measure.jacobian=never"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One finished run, for reading alone."""
    return runs.run_all([runs.tiny(*SHORT)], tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture
def copy(whole, tmp_path):
    """The run again, to be damaged."""
    folder = tmp_path / "runs" / whole.parent.name / whole.name
    shutil.copytree(whole, folder)
    return folder


def run_again(folder, anew=False):
    """What the command that made a run does when it is given again; its notes, and what it could not mend."""
    notes = []
    reporter = progress.silent()._replace(note=notes.append)
    lost = loop.run_all(make_jobs([runs.tiny(*SHORT)], folder.parents[1]), reporter, anew)
    assert not any("\n" in line for line in notes + lost)
    return notes, lost


def assert_same(folder, whole):
    assert differences(folder, whole) == []
    assert load_run(folder).metrics == load_run(whole).metrics


@pytest.mark.slow
def test_no_flipped_bit_of_a_file_changes_what_is_read(whole, copy):
    numbers, wanted = random.Random(0), load_run(whole)
    names = ["config.json", "manifest.json", "metrics.jsonl", "eval.jsonl", "spectra/20-hessian.npz"]
    refused = 0
    for number in range(300):
        path = copy / names[number % len(names)]
        content = path.read_bytes()
        path.write_bytes(flipped(content, numbers))
        found = line_or(lambda: load_run(copy)._replace(folder=whole))
        if isinstance(found, str):
            refused += 1
            assert str(copy) in found
        else:  # a blank between two words
            assert path.name == "manifest.json"
            assert found == wanted
        path.write_bytes(content)
    assert refused >= 285
    assert load_run(copy).metrics == wanted.metrics


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_changes_what_is_restored(whole, copy):
    numbers, chosen = random.Random(0), runs.tiny(*SHORT)
    place = copy / "checkpoints" / "20"
    files = [path for path in sorted(place.rglob("*")) if path.is_file() and path.stat().st_size]
    leaves = runs.leaf_files(place)
    sizes = [path.stat().st_size for path in leaves]
    wanted, named = runs.final_state(whole), 0
    for path in numbers.choices(leaves, sizes, k=40) + numbers.choices(files, k=20):
        content = path.read_bytes()
        path.write_bytes(flipped(content, numbers))
        found = line_or(lambda: restored(chosen, copy, 20))
        if isinstance(found, str):
            named += path in leaves
        else:
            jax.tree.map(np.testing.assert_array_equal, found, wanted)
        path.write_bytes(content)
    assert named > 25


def test_a_checkpoint_of_another_run_or_of_another_step_is_refused(whole, copy, tmp_path):
    chosen = runs.tiny(*SHORT)
    shutil.rmtree(copy / "checkpoints" / "20")
    (copy / "checkpoints" / "10").rename(copy / "checkpoints" / "20")
    other = json.loads((whole / "config.json").read_text()) | {"seed": 1}
    foreign = tmp_path / "foreign"
    shutil.copytree(whole / "checkpoints", foreign / "checkpoints")
    (foreign / "config.json").write_text(json.dumps(other))
    for folder in (copy, foreign):
        with pytest.raises(DamagedError, match="leaves are not those that were saved, or it is of another run"):
            restored(chosen, folder, 20)


@pytest.mark.parametrize("damage", EDITS.values(), ids=EDITS)
def test_what_was_edited_is_named_and_the_same_command_mends_it(whole, copy, damage):
    damage(copy)
    with pytest.raises(InputError) as error:
        load_run(copy)
    assert "\n" not in str(error.value)
    by_run = "config.json is" not in str(error.value)
    assert ("to mend it: python -m hessflat train --run=" + str(copy) in str(error.value)) == by_run
    notes, lost = run_again(copy)
    assert lost == []
    assert len(notes) == 1
    assert str(copy) in notes[0]
    assert_same(copy, whole)
    assert run_again(copy) == ([], [])


@pytest.mark.parametrize("name", ["list", "not JSON", "no manifest", "no spectrum", "seed", "no settings"])
def test_the_command_that_is_named_mends_it(whole, copy, name, capsys):
    EDITS[name](copy)
    if name in ("seed", "no settings"):
        with pytest.raises(DamagedError, match=r"config\.json is not that of the run; to mend it: python -m "):
            train.main([f"--run={copy}"])
        return
    train.main([f"--run={copy}"])
    assert len(runs.lines_but_progress(capsys.readouterr().err)) == 1
    assert_same(copy, whole)


def test_metrics_of_another_run_are_refused(copy, tmp_path):
    other = runs.run_all([runs.tiny(*SHORT, "--config.seed=1")], tmp_path / "other")[0]
    shutil.copy(other / "metrics.jsonl", copy / "metrics.jsonl")
    with pytest.raises(DamagedError, match=r"metrics\.jsonl is altered"):
        load_run(copy)


def test_what_is_intact_is_not_trained_again(whole, copy, monkeypatch):
    (copy / "metrics.jsonl").unlink()
    (copy / "eval.jsonl").unlink()
    taken = []
    original = loop.train_runs
    monkeypatch.setattr(loop, "train_runs", lambda *a: (taken.append(a[-2:]), original(*a))[1])
    run_again(copy)
    # From each checkpoint to the evaluation in between, and no further.
    assert taken == [(0, 5), (10, 15)]
    assert_same(copy, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"), [("append_line", 1), ("append_line", 3), ("seal", 2), ("write_manifest", 2)]
)
def test_mending_that_is_killed_goes_on(whole, copy, monkeypatch, name, number):
    (copy / "metrics.jsonl").unlink()
    run_until_killed([runs.tiny(*SHORT)], copy.parents[1], monkeypatch, run_folder, name, number)
    run_again(copy)
    assert_same(copy, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number"),
    [("append_line", 2), ("write_manifest", 1), ("write_manifest", 3), ("seal", 4), ("cut_back", 1), ("keep_lines", 1)],
)
@pytest.mark.parametrize("before", [True, False])
def test_killed_between_two_files_a_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch, name, number, before):
    chosen = [runs.tiny(*SHORT)]
    if name in ("cut_back", "keep_lines"):  # which a run that is continued does first
        run_until_killed(chosen, tmp_path, monkeypatch, run_folder, "append_line", 4)
    run_until_killed(chosen, tmp_path, monkeypatch, run_folder, name, number, before)
    assert_same(runs.run_all(chosen, tmp_path)[0], whole)


def test_with_no_checkpoint_left_it_is_trained_anew_only_when_told(whole, copy):
    shutil.rmtree(copy / "checkpoints")
    assert run_again(copy) == ([], [])  # nothing that a report reads is gone
    (copy / "spectra" / "10-hessian.npz").unlink()
    _, (line,) = run_again(copy)
    assert line == (
        f"{copy}: spectra/10-hessian.npz is gone, and no checkpoint that could mend it is intact, so that its training "
        f"is lost; to train it anew: python -m hessflat train --run={copy} --anew=1"
    )
    assert (copy / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    with pytest.raises(DamagedError, match="its training is lost"):
        train.main([f"--run={copy}"])
    train.main([f"--run={copy}", "--anew=1"])
    assert_same(copy, whole)
    assert (copy / "damaged" / "metrics.jsonl").exists()


def test_nothing_is_printed_of_the_other_leaves_of_a_damaged_checkpoint(copy, monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: printed.append(str(one.exc_value)))
    first = runs.leaf_files(copy / "checkpoints" / "10")[0]
    for _ in range(10):
        first.write_bytes(first.read_bytes()[:9])
        with pytest.raises(InputError):
            restored(runs.tiny(*SHORT), copy, 10)
    time.sleep(0.1)
    assert printed == []


def test_a_damaged_checkpoint_is_named_and_made_again(whole, copy, capsys):
    for path in runs.leaf_files(copy / "checkpoints" / "10"):
        path.write_bytes(bytes(len(path.read_bytes())))
    with pytest.raises(InputError, match=rf"10 is damaged .*python -m hessflat train --run={copy}") as error:
        measure.main([f"--run={copy}", "--steps=10"])
    assert "\n" not in str(error.value)
    train.main([f"--run={copy}"])
    captured = capsys.readouterr()
    assert "checkpoints/10 is damaged; measured again from step 0" in captured.err
    assert_same(copy, whole)
    measure.main([f"--run={copy}", "--steps=10"])
    shutil.rmtree(copy / "checkpoints" / "10")
    train.main([f"--run={copy}"])
    assert_same(copy, whole)


def test_a_checkpoint_that_keeps_others_from_being_opened_is_named_and_made_again(whole, copy):
    edit("checkpoints/10/_CHECKPOINT_METADATA", lambda text: text.replace("commit_time", "commIt_time"))(copy)
    with pytest.raises(DamagedError, match=rf"checkpoints/10 is damaged .*to mend it: .*hessflat train --run={copy}"):
        runs.final_state(copy)
    train.main([f"--run={copy}"])
    assert_same(copy, whole)


@pytest.mark.long
def test_one_damaged_run_is_missing_from_a_report_that_has_the_others(tmp_path):
    from hessflat.cli import experiment

    one = experiment.load("g_mlp")
    jobs = experiment.make_jobs(one, "smoke", tmp_path)
    loop.run_all(jobs[:2], progress.silent())
    (jobs[0].folder / "metrics.jsonl").write_text("")
    stored = collect(one, "smoke", tmp_path)
    assert [run.folder for run in stored.runs] == [jobs[1].folder]
    assert stored.missing == len(jobs) - 1
    (line,) = stored.damaged
    words = f"{jobs[0].folder} is damaged: metrics.jsonl is altered; to mend it: python -m hessflat train --run="
    assert line.startswith(words)


@pytest.mark.parametrize("name", ["metrics.jsonl", "spectra", "checkpoints", "."])
def test_what_is_removed_under_a_run_is_seen(tmp_path, monkeypatch, name):
    chosen = runs.tiny(*SHORT)
    original = loop.evaluate

    def evaluate(folder, state, step):
        if step == 15 and name == ".":
            folder.rename(tmp_path / "elsewhere")
        elif step == 15:
            (shutil.rmtree if (folder / name).is_dir() else type(folder).unlink)(folder / name)
        return original(folder, state, step) if folder.exists() else {"step": step}

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", evaluate)
        job = make_jobs([chosen], tmp_path)[0]
        (line,) = loop.run_all([job], progress.silent())
    assert "while its run was under way" in line
    assert "\n" not in line
    if name != ".":
        assert run_folder.read_manifest(job.folder)["status"] == "failed"
    else:
        shutil.rmtree(job.folder, ignore_errors=True)
        (tmp_path / "elsewhere").rename(job.folder)
    runs.run_all([chosen], tmp_path)
    assert load_run(job.folder).status == "done"


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(8, 1), (8, 4), (1, 8)])
def test_a_checkpoint_is_restored_onto_whatever_devices_there_are(tmp_path, before, after):
    options = ["--config.train.epochs=1", "--config.train.batch_size=64", "--config.data.train_size=128", ALONE]
    first, second = (runs.tiny(*options, f"--config.devices={number}") for number in (before, after))
    folder = runs.run_all([first], tmp_path)[0]
    assert runs.run_all([second], tmp_path) == [folder]
    states = [restored(chosen, folder, 2) for chosen in (first, second)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(states[1])} == {after}


@pytest.mark.long
def test_a_run_killed_on_eight_devices_goes_on_on_four(tmp_path, monkeypatch):
    options = ["--config.train.batch_size=0", ALONE]
    eight, four = (runs.tiny(*options, f"--config.devices={number}") for number in (8, 4))
    run_until_killed([eight], tmp_path, monkeypatch, loop, "record", 3)
    folder = runs.run_all([four], tmp_path)[0]
    manifest = run_folder.read_manifest(folder)
    assert manifest["status"] == "done"
    assert [(one["from_step"], one["devices"]) for one in manifest["placement"]] == [(0, 8), (1, 4)]
    assert not list((folder / "checkpoints").glob("damaged*"))
    assert [line["step"] for line in runs.metrics(folder)] == [0, 1, 2, 5]


@pytest.mark.long
def test_a_run_whose_parameters_are_spread_goes_on_where_they_are_whole(tmp_path, monkeypatch):
    """And it has the numbers of one device, but for rounding; its folder has the same name."""
    options = ["--config.train.batch_size=0", "--config.model.mlp.hidden=16", ALONE]
    spread, one = (runs.tiny(*options, *more) for more in (["--config.devices=8", "--config.fsdp=true"], []))
    run_until_killed([spread], tmp_path / "a", monkeypatch, loop, "record", 3)
    state = restored(spread, runs.run_all([spread], tmp_path / "b")[0], 5)
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim > 1]
    assert all(leaf.size == 8 * leaf.addressable_shards[0].data.size for leaf in kernels)
    (folder,), (alone,) = (runs.run_all([one], tmp_path / name) for name in "ac")
    assert folder.name == alone.name
    placement = run_folder.read_manifest(folder)["placement"]
    assert [(step["devices"], step.get("fsdp", False)) for step in placement] == [(8, True), (1, False)]
    for line, other in zip(runs.metrics(folder), runs.metrics(alone), strict=True):
        assert {name: pytest.approx(value, rel=1e-4, abs=1e-5) for name, value in other.items()} == line


def test_make_runs_nothing_that_the_name_of_a_run_holds(tmp_path):
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to("/bin/echo")
    (venv / ".installed").touch()
    name = f"runs/a b`touch {tmp_path}/one`$(shell touch {tmp_path}/two)$$(touch {tmp_path}/three)"
    for target in ("measure", "train"):
        command = ["make", "-s", target, f"VENV={venv}", f"RUN={name}"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
        assert said.startswith(f"-m hessflat {target} --run=runs/a b`touch")
    assert not {path.name for path in tmp_path.iterdir()} & {"one", "two", "three"}


def test_of_many_damaged_runs_the_first_are_named_and_the_others_counted():
    stored = StoredExperiment(load("g_mlp"), "smoke", [], 1000, [f"runs/{i} is damaged" for i in range(1000)])
    lines = notices(stored)
    assert lines[:10] == [f"runs/{i} is damaged" for i in range(10)]
    assert lines[10:] == ["990 more are damaged", stored.missing_text]
