"""The queue of a sweep: waves, shares by cost, how far each run is, the time left; and that looking changes nothing."""

import re
from pathlib import Path

import pytest
import runs

from hessflat.cli import launching, sweep
from hessflat.launch import queue
from hessflat.runs import run_folder
from hessflat.runs.cost_model import RunCost
from hessflat.runs.jobs import Job, make_jobs
from hessflat.runs.schema import plain
from hessflat.utils.errors import InputError
from hessflat.utils.files import file_digest

LITTLE = ("--config.measure.spectra=never", "--config.measure.jacobian=never", "--config.train.steps=20")
# Four runs that begin with another's weights, and these four others.
SIZE = "train.batch_size=256"
FIRST = [runs.tiny(*LITTLE, f"--config.{SIZE}", f"--config.seed={seed}") for seed in range(4)]
SECOND = [runs.tiny(*LITTLE, f"--config.train.init_from={SIZE}", f"--config.seed={seed}") for seed in range(4)]


def cost(seconds_per_step, steps=10):
    return RunCost(1, steps, seconds_per_step, 0.0, {}, {steps: frozenset()})


def test_waves_and_needs(tmp_path):
    jobs = make_jobs([*SECOND, *FIRST], tmp_path)
    entries = queue.entries(jobs)
    assert [entry.job for entry in entries] == jobs[4:] + jobs[:4]
    assert [entry.wave for entry in entries] == [1] * 4 + [2] * 4
    assert [entry.needs for entry in entries] == [()] * 4 + [(job.folder,) for job in jobs[4:]]
    assert {entry.state for entry in entries} == {queue.State("waiting")}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 11])
def test_shares_are_the_sweep_and_hold_what_they_need(tmp_path, count):
    jobs = make_jobs([*SECOND, *FIRST], tmp_path)
    shares = [queue.share(jobs, number, count) for number in range(1, count + 1)]
    assert {job.folder for share in shares for job in share} == {job.folder for job in jobs}
    independent = [queue.share(jobs[4:], number, count) for number in range(1, count + 1)]
    assert sorted(job.folder for share in independent for job in share) == sorted(job.folder for job in jobs[4:])
    for share in shares:
        folders = {job.folder for job in share}
        for job, needed in zip(jobs[:4], jobs[4:], strict=True):
            assert job.folder not in folders or needed.folder in folders


def test_parts_cost_about_the_same():
    costs = {Path(str(number)): float(number % 7 + 1) for number in range(40)}
    jobs = [Job(FIRST[0], folder) for folder in costs]
    parts = queue.split(jobs, costs, 6)
    loads = [sum(costs[job.folder] for job in part) for part in parts]
    assert sorted(job.folder for part in parts for job in part) == sorted(costs)
    assert max(loads) - min(loads) <= max(costs.values())


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "one/2", "1/2/3"])
def test_a_share_that_there_is_not_is_one_line(tmp_path, text):
    with pytest.raises(InputError, match=f"--share must be i/n, such as 3/16, with i from 1 to n, got '{text}'"):
        sweep.main(["--config=g_mlp:smoke", f"--root={tmp_path}", f"--share={text}"])


def made(root, number, status, **manifest):
    """The folder of a run that says this of itself."""
    job = make_jobs([FIRST[number]], root)[0]
    run_folder.write_config(job.folder, plain(job.config))
    digests = {"config.json": file_digest(job.folder / "config.json")}
    run_folder.write_manifest(job.folder, status=status, digests=digests, **manifest)
    return job.folder


def test_how_far_a_run_is(tmp_path):
    times = {"started": "2026-01-01T00:00:00+00:00", "finished": "2026-01-01T00:01:00+00:00"}
    done = made(tmp_path, 0, "done", steps=20, resumed_from=[], **times)
    assert queue.state_of(done) == queue.State("done", "", 20, 60.0)
    run_folder.write_manifest(done, runs_together=3)
    assert queue.state_of(done).seconds == 20.0
    run_folder.write_manifest(done, resumed_from=[10])
    assert queue.state_of(done).seconds is None
    failed = made(tmp_path, 1, "failed", reason="MemoryError: 8 GB")
    assert queue.state_of(failed) == queue.State("failed", "MemoryError: 8 GB")
    diverged = made(tmp_path, 2, "diverged", steps=5, reason="parameters are not finite after step 5")
    assert queue.state_of(diverged)[:3] == ("diverged", "parameters are not finite after step 5", 5)
    (diverged / "config.json").write_text("{}")
    assert queue.state_of(diverged).status == "damaged"
    going = made(tmp_path, 3, "running")
    (going / "metrics.jsonl").write_text('{"step": 0}\n{"step": 7}\n')
    assert queue.state_of(going) == queue.State("stopped", "its process is gone", 7)
    with run_folder.locked(going):
        assert queue.state_of(going) == queue.State("running", "", 7)
    (going / "manifest.json").write_text("{")
    assert queue.state_of(going).status == "damaged"
    assert queue.state_of(tmp_path / "nowhere") == queue.State("waiting")


def test_time_left_is_what_finished_runs_took_for_their_cost():
    def entry(status, seconds_per_step, **state):
        return queue.Entry(Job(FIRST[0], Path("run")), 1, (), cost(seconds_per_step), queue.State(status, **state))

    done = entry("done", 1.0, step=10, seconds=50.0)  # 10 of cost and the overhead took 50 s
    scale = 50.0 / (10.0 + 0.5)
    assert queue.seconds_left([done]) == 0.0
    assert queue.seconds_left([entry("waiting", 1.0)]) is None
    waiting, running = entry("waiting", 2.0), entry("running", 1.0, step=4)
    assert queue.seconds_left([done, waiting]) == pytest.approx(20.5 * scale)
    assert queue.seconds_left([done, waiting, running]) == pytest.approx((20.5 + 6.0) * scale)
    assert queue.seconds_left([done, waiting, running, running]) == pytest.approx((20.5 + 12.0) * scale / 2)
    assert queue.seconds_left([done, entry("diverged", 1.0, step=3)]) == 0.0
    early = entry("done", 1.0, step=5, seconds=50.0)  # a rule ended it half-way
    assert queue.seconds_left([early, waiting]) == pytest.approx(20.5 * 50.0 / 5.5)


def test_looking_writes_nothing_and_names_every_run(tmp_path, capsys):
    root = tmp_path / "runs"
    arguments = ["--config=g_mlp:smoke", f"--root={root}", *LITTLE]
    sweep.main([*arguments, "--list"])
    rows = capsys.readouterr().out.splitlines()[-2:]
    folders = [job.folder for job in make_jobs(sweep.sweep_configs("g_mlp:smoke", LITTLE), root)]
    assert [row.split()[0] for row in rows] == list(map(str, folders))
    assert [row.split()[1::2] for row in rows] == [["1", "waiting"]] * 2
    sweep.main([*arguments, "--status=1"])
    assert re.search(r"g_mlp +2 +0 +0 +2 +0 +0 +0 +0 +–$", capsys.readouterr().out, re.MULTILINE)
    assert not root.exists()


def test_status_names_failures_with_their_reasons(tmp_path):
    folders = [made(tmp_path, 0, "failed", reason="MemoryError: 8 GB"), made(tmp_path, 1, "done", steps=20)]
    jobs = make_jobs(FIRST, tmp_path)
    said = launching.status([("one", jobs[:2]), ("two", jobs[2:]), ("none", [])])
    assert f"{folders[0]}: failed (MemoryError: 8 GB)" in said.splitlines()
    rows = {line.split()[0]: line.split()[1:-1] for line in said.splitlines() if line[:3] in ("one", "two", "all")}
    assert rows == {
        "one": ["2", "1", "0", "0", "0", "1", "0", "0"],
        "two": ["2", "0", "0", "2", "0", "0", "0", "0"],
        "all": ["4", "1", "0", "2", "0", "1", "0", "0"],
    }
