"""Several commands on one sweep: each run is run once, nobody fails because another is at work, and one may die."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import runs

from hessflat.cli import sweep
from hessflat.launch import pool
from hessflat.runs import loop, run_folder
from hessflat.runs.jobs import make_jobs
from hessflat.utils import progress
from hessflat.utils.errors import Stopped
from hessflat.utils.progress import Reporter, silent

LITTLE = [
    "--config.measure.spectra=never", "--config.measure.jacobian=never", "--config.measure.performance=every 10 epochs",
    "--config.model.mlp.hidden=(5,)",
]  # fmt: skip
# Runs whose weights others begin with, written where the commands find it.
SWEEP = """
from hessflat.cli import app

def get_config(scale):
    return app.from_command_line(f"g_mlp:{scale}")

def get_sweep(scale):
    first = [{"seed": seed} for seed in range(2)]
    return [*({**one, "train.init_from": "optim.lr=0.01", "optim.lr": 0.03} for one in first),
            *({**one, "optim.lr": 0.01} for one in first)]
"""


@pytest.fixture
def jobs(tmp_path):
    settings = [*LITTLE, "--config.train.epochs=20"]
    return make_jobs(sweep.sweep_configs("g_mlp:smoke", settings), tmp_path / "runs")


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_another_holds_is_left_to_it_and_waited_for(jobs, workers):
    held, other = jobs[0].folder, jobs[1].folder
    held.mkdir(parents=True)
    said, finished = [], threading.Event()
    reporter = silent()._replace(advance=lambda work, doing: said.append(doing))

    def work():
        pool.run_all(jobs, reporter, workers)
        finished.set()

    with run_folder.locked(held):
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        deadline = time.monotonic() + 120
        while "waiting for 1 run of other processes" not in said:
            assert time.monotonic() < deadline, "it never waited"
            assert not finished.is_set(), "it ended without the run that another holds"
            time.sleep(0.05)
        assert run_folder.read_manifest(other)["status"] == "done"
        assert not (held / "manifest.json").exists()
    assert finished.wait(120), "it never took over what was left"
    assert run_folder.is_finished(held)


@pytest.mark.long
@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_is_a_moment_late_tries_again(jobs, monkeypatch, workers):
    monkeypatch.setattr(pool, "_is_held", lambda chunk: False)  # as where another takes it just then
    held, other = jobs[0].folder, jobs[1].folder
    held.mkdir(parents=True)
    finished = threading.Event()
    thread = threading.Thread(target=lambda: (pool.run_all(jobs, silent(), workers), finished.set()), daemon=True)
    with run_folder.locked(held):
        thread.start()
        deadline = time.monotonic() + 120
        while run_folder.read_manifest(other).get("status") != "done":
            assert time.monotonic() < deadline, "it never ran the other"
            time.sleep(0.05)
        assert not finished.wait(1.0), "it ended without the run that another holds"
        assert not (held / "manifest.json").exists()
    assert finished.wait(120), "it never took over what was left"
    assert run_folder.is_finished(held)


@pytest.mark.slow
def test_one_that_waits_can_be_stopped(jobs, monkeypatch):
    jobs[0].folder.mkdir(parents=True)
    waited = []
    reporter = Reporter(lambda work, doing: waited.append(doing), *silent()[1:])
    monkeypatch.setattr(progress, "asked_to_stop", lambda: "waiting for 1 run of other processes" in waited)
    with run_folder.locked(jobs[0].folder), pytest.raises(Stopped):
        pool.run_all(jobs, reporter, "1")


def test_refused_settings_leave_the_folders_that_another_holds(tmp_path):
    jobs = make_jobs([runs.tiny("--config.train.batch_size=5000")], tmp_path)
    jobs[0].folder.mkdir(parents=True)

    def refuse(*_):
        raise loop.InputError("no")

    with run_folder.locked(jobs[0].folder), pytest.raises(loop.InputError, match="no"), pool.reserved(jobs):
        refuse()
    assert (jobs[0].folder / "config.json").exists()


def test_two_that_begin_at_once_make_one_folder(tmp_path, monkeypatch):
    job = make_jobs([runs.tiny()], tmp_path)[0]
    reserve = run_folder.reserve

    def slow(folder, settings):
        reserve(folder, settings)  # another was quicker
        (folder / "manifest.json").write_text("{}")
        reserve(folder, settings)

    monkeypatch.setattr(run_folder, "reserve", slow)
    monkeypatch.setattr(run_folder, "read_manifest", lambda folder: {})
    with pool.reserved([job]):
        assert run_folder.read_config(job.folder)["seed"] == job.config.seed


def started(path, root, *arguments):
    command = [sys.executable, "-m", "hessflat", "sweep", f"--config={path}:smoke", f"--root={root}", *LITTLE]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "ways",
    [((), (), ()), (("--share=1/2", "--unclaimed"), ("--share=2/2",), ())],
    ids=["plain", "shares"],
)
def test_three_commands_share_a_sweep_of_which_one_is_killed(tmp_path, ways):
    path = tmp_path / "two_waves.py"
    path.write_text(SWEEP)
    long = "--config.train.epochs=1500"
    alone, together = tmp_path / "alone", tmp_path / "together"
    by_one = started(path, alone, long)
    said = by_one.communicate(timeout=300)[1]
    assert by_one.returncode == 0, said
    commands = [started(path, together, long, *way) for way in ways]
    deadline = time.monotonic() + 300
    while not list(together.glob("*/*/metrics.jsonl")):
        assert time.monotonic() < deadline, "nothing ever began"
        time.sleep(0.01)
    victim = commands.pop(0)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    said = [command.communicate(timeout=300)[1] for command in commands]
    assert [command.returncode for command in commands] == [0, 0], said
    jobs = make_jobs(sweep.sweep_configs(f"{path}:smoke", [*LITTLE, long]), together)
    assert len(jobs) == 4
    for job in jobs:
        assert run_folder.read_manifest(job.folder)["status"] == "done"
        straight = alone / job.folder.relative_to(together)
        assert (job.folder / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
    # Nobody began what somebody had begun, but for the one run that the killed one may have left.
    assert sum(len(run_folder.read_manifest(job.folder)["placement"]) for job in jobs) <= 5
