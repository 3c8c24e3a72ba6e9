"""Signals that ask to stop; runs that nothing runs any more; what killed or refused commands leave behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
import runs
from test_analysis.fabricated_runs import write_run

from hessflat.analysis.results import load_run
from hessflat.launch import pool
from hessflat.report.build import build_report
from hessflat.runs import checkpoints, loop, run_folder
from hessflat.runs.jobs import make_jobs
from hessflat.utils import files, progress
from hessflat.utils.errors import InputError, Stopped

SHORT = ("--config.measure.spectra=never", "--config.measure.jacobian=never")
LONG = [
    "--config.train.epochs=2000",
    "--config.model.mlp.hidden=(5,)",
    "--config.measure.lanczos_steps=4",
    "--config.measure.performance=every 10 epochs",
    "--config.measure.spectra=end",
    "--config.measure.jacobian=never",
]


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 9])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_to_the_same_bits(tmp_path, monkeypatch, number):
    chosen = [runs.tiny(*SHORT)]
    monkeypatch.setattr(loop, "SECONDS_PER_BLOCK", 1e-9)  # blocks of one step
    (straight,) = runs.run_all(chosen, tmp_path / "straight")
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(progress, "asked_to_stop", lambda: calls.append(1) or len(calls) > number)
        with pytest.raises(Stopped):
            runs.run_all(chosen, tmp_path)
    (folder,) = tmp_path.glob("g_mlp/*")
    assert run_folder.read_manifest(folder)["status"] == "stopped"
    with checkpoints.reading(folder / "checkpoints") as manager:
        (saved,) = checkpoints.steps(manager)[-1:]
    assert 0 < saved < 50
    runs.run_all(chosen, tmp_path)
    assert run_folder.read_manifest(folder)["resumed_from"] == [saved]
    assert (folder / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def started(command, root, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "hessflat", command, "--config=g_mlp:smoke", f"--root={root}", *LONG, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def said_at_the_end(process):
    return runs.lines_but_progress(process.communicate(timeout=120)[1])


def wait_for_lines(root, process, number):
    deadline = time.monotonic() + 200
    while len([path for path in root.glob("*/*/metrics.jsonl") if len(path.read_text().splitlines()) > 1]) < number:
        assert time.monotonic() < deadline, "it never measured anything"
        assert process.poll() is None, "it ended too early"
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_training_with_status_75_and_one_line(tmp_path, number):
    process = started("train", tmp_path)
    wait_for_lines(tmp_path, process, 1)
    process.send_signal(number)
    lines = said_at_the_end(process)
    assert process.returncode == 75
    assert lines == ["stopped by a signal, saved; the same command continues"]
    (folder,) = tmp_path.glob("*/*")
    assert load_run(folder).status == "stopped"
    with checkpoints.reading(folder / "checkpoints") as manager:
        assert checkpoints.steps(manager)[-1] > 0


@pytest.mark.long
def test_a_signal_reaches_every_process_of_a_sweep(tmp_path):
    process = started("sweep", tmp_path, "--workers=2")
    wait_for_lines(tmp_path, process, 2)
    process.terminate()
    lines = said_at_the_end(process)
    assert process.returncode == 75
    assert lines == ["stopped by a signal, saved; the same command continues"]
    found = [run_folder.read_manifest(folder)["status"] for folder in tmp_path.glob("*/*")
             if (folder / "manifest.json").exists()]  # fmt: skip
    assert found == ["stopped", "stopped"]
    assert not any(run_folder.is_live(folder) for folder in tmp_path.glob("*/*"))


def test_a_run_is_running_only_while_a_process_holds_it(tmp_path):
    folder = write_run(tmp_path, status="running")
    assert load_run(folder).status == "stopped"
    with run_folder.locked(folder):
        assert load_run(folder).status == "running"
    assert load_run(folder).status == "stopped"


def test_what_killed_reports_left_half_written_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "figures").mkdir()
    left = [tmp_path / f".index.html.{ended.pid}", tmp_path / "figures" / f".a.png.{ended.pid}"]
    stays = [tmp_path / f".report.md.{os.getppid()}", tmp_path / ".hidden.txt"]
    for path in (*left, *stays):
        path.write_text("half")
    build_report([], tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in stays)
    files.sweep(tmp_path / "nowhere")


@pytest.mark.parametrize("run", [loop.run_all, pool.run_all])
def test_refused_settings_leave_no_folders(tmp_path, run):
    for setting in ("--config.train.batch_size=5000", "--config.measure.batch_norm=start"):
        jobs = make_jobs([runs.tiny(*SHORT, setting)], tmp_path)
        with pytest.raises(InputError):
            run(jobs, progress.silent())
        assert list(tmp_path.iterdir()) == []
    started_before = runs.run_all([runs.tiny(*SHORT, "--config.train.epochs=1")], tmp_path)[0]
    with pytest.raises(InputError):
        run(make_jobs([runs.tiny(*SHORT, "--config.train.batch_size=5000")], tmp_path), progress.silent())
    assert list(tmp_path.glob("*/*")) == [started_before]
