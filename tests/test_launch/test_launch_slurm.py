"""Job arrays: what is asked of SLURM, and, where it is installed, a sweep on a SLURM of one node."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import one_node
import pytest
import runs

from hessflat.cli import experiment, launching, reproduce, sweep
from hessflat.launch import slurm
from hessflat.launch.slurm import Submitted, Task
from hessflat.runs import run_folder
from hessflat.runs.jobs import make_jobs
from hessflat.utils.errors import InputError

LITTLE = [
    "--config.measure.spectra=never", "--config.measure.jacobian=never",
    "--config.measure.performance=every 100 epochs", "--config.model.mlp.hidden=(5,)", "--config.train.epochs=4000",
]  # fmt: skip
SWEEP = """
from hessflat.cli import app

def get_config(scale):
    return app.from_command_line(f"g_mlp:{scale}")

def get_sweep(scale):
    return [{"seed": seed} for seed in range(4)]
"""


@pytest.mark.parametrize(
    ("seconds", "minutes"), [((1.0,), 30), ((60.0, 1800.0), 120), ((1801.0,), 121), ((10.0**7,), 24 * 60)]
)
def test_time_limits_are_four_times_the_cost_between_half_an_hour_and_a_day(seconds, minutes):
    assert slurm.minutes([Task([], one) for one in seconds]) == minutes


def test_options_of_sbatch():
    assert slurm.options(["--slurm.gres=gpu:1", "--slurm.cpus-per-task=4", "--slurm.exclusive"]) == {
        "gres": "gpu:1",
        "cpus_per_task": "4",
        "exclusive": True,
    }
    for arguments, problem in (
        (["--slurm.array=0-3"], "is set by the launcher"),
        (["--slurm.open-mode=append"], "is set by the launcher"),
        (["--slurm.mem=1G", "--slurm.mem=2G"], "is given twice"),
        (["--slurm.=3"], "has no name"),
    ):
        with pytest.raises(InputError, match=f"{re.escape(arguments[-1])} {problem}; leave it out"):
            slurm.options(arguments)


def test_what_submitit_is_asked_for():
    asked = slurm._parameters("g_mlp", 30, {"array_parallelism": "8", "setup": "module load cuda", "time": "2:00:00"})
    assert asked == {
        "job_name": "g_mlp",
        "time": 30,
        "stderr_to_stdout": True,
        "array_parallelism": 8,
        "setup": ["module load cuda"],
        "additional_parameters": {"signal": "USR1@120", "requeue": True, "time": "2:00:00"},
    }
    with pytest.raises(InputError, match="array_parallelism must be a whole number of at least 1, got 'many'"):
        slurm._parameters("g_mlp", 30, {"array_parallelism": "many"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm.gres=gpu:1"], "--slurm.gres=gpu:1 is for --launch=slurm; add that, or leave it out"),
        (["--launch=clouds"], "--launch must be one of local, slurm, got 'clouds'"),
        (["--launch=slurm", "--tasks=0"], "--tasks must be a whole number of at least 1, got '0'"),
        (["--launch=slurm", "--anew"], "--anew is for --launch=local"),
    ],
)
def test_what_cannot_be_submitted_is_one_line(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        sweep.main(["--config=g_mlp:smoke", f"--root={tmp_path / 'runs'}", *arguments])
    assert not (tmp_path / "runs").exists()


def test_submitit_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"--launch=slurm needs submitit; run: pip install 'hessflat\[slurm\]'"):
        sweep.main(["--config=g_mlp:smoke", f"--root={tmp_path / 'runs'}", "--launch=slurm"])
    assert not list(tmp_path.glob("runs/*"))


def test_an_array_for_each_wave_of_what_is_left(tmp_path, monkeypatch, capsys):
    size = "train.batch_size=256"
    first = [runs.tiny(f"--config.{size}", f"--config.seed={seed}") for seed in range(3)]
    second = [runs.tiny(f"--config.train.init_from={size}", f"--config.seed={seed}") for seed in range(3)]
    jobs = make_jobs([*second, *first], tmp_path)
    sent = []

    def submit(function, waves, folder, name, sbatch):
        sent.extend((function, waves, folder, name, sbatch))
        return [Submitted(str(7 + number), len(tasks), "half an hour") for number, tasks in enumerate(waves)]

    monkeypatch.setattr(slurm, "submit", submit)
    run_folder.reserve(jobs[3].folder, {})
    with run_folder.locked(jobs[3].folder):
        (jobs[3].folder / "config.json").unlink()
        launching.submit(jobs, tmp_path, "name", {"tasks": "2", "anew": "0"}, ["--slurm.mem=1G"])
    function, (one, two), folder, name, sbatch = sent
    assert (function, folder, name, sbatch) == (launching.run_task, tmp_path / "slurm", "name", {"mem": "1G"})
    # Two runs of the first wave, for another process is at the third; the second wave in two tasks with what it needs.
    assert [[job.folder for job in task.jobs] for task in one] == [[job.folder] for job in jobs[4:]]
    folders = [{job.folder for job in task.jobs} for task in two]
    assert sorted(map(len, folders)) == [2, 4]
    assert folders[0] | folders[1] == {job.folder for job in jobs}
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "array 8: 2 tasks of at most half an hour, after array 7"
    assert said[2] == "5 runs submitted, 1 finished or under way; see --status"


@pytest.mark.parametrize(
    ("command", "arguments", "name"),
    [(experiment, ["--exp=s_decomposition s_spectrum"], "s_decomposition-s_spectrum"),
     (reproduce, ["--exp=s_decomposition s_spectrum"], "reproduce-smoke")],
)  # fmt: skip
def test_experiments_go_there_too_each_run_once_and_say_how_far_they_are(
    tmp_path, monkeypatch, capsys, command, arguments, name
):
    arguments = [*arguments, "--scale=smoke", f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'report'}"]
    command.main([*arguments, "--status"])
    assert re.search(r"^s_decomposition +1 +0 +0 +1( +0){4} +–$", capsys.readouterr().out, re.MULTILINE)
    assert not list(tmp_path.iterdir())
    sent = []
    monkeypatch.setattr(slurm, "submit", lambda *all_of_it: sent.append(all_of_it) or [Submitted("7", 1, "an hour")])
    command.main([*arguments, "--launch=slurm", "--slurm.partition=gpu"])
    ((_, [[task]], folder, said, sbatch),) = sent
    assert (len(task.jobs), folder, said, sbatch) == (1, tmp_path / "runs" / "slurm", name, {"partition": "gpu"})
    assert "1 run submitted, 0 finished or under way" in capsys.readouterr().out
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("number", "status", "requeued"),
    [(signal.SIGUSR1, 75, True), (signal.SIGTERM, 75, False), (None, 0, False), ("wrong", 2, False)],
)
def test_a_task_is_put_back_where_its_time_is_up_and_not_where_the_input_is_wrong(
    monkeypatch, number, status, requeued, capsys
):
    asked = []
    kept = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGUSR1)}

    def work(jobs, workers, anew):
        if number == "wrong":
            raise InputError("no such data")
        if number is not None:
            os.kill(os.getpid(), number)
            launching.progress.stop_if_asked()

    monkeypatch.setattr(launching, "run", work)
    monkeypatch.setattr(launching.progress, "_asked_to_stop", threading.Event())
    monkeypatch.setattr(slurm, "requeue", lambda: asked.append(True))
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(launching.app, "keep_compiled_code", lambda: None)
    ended = 0
    try:
        launching.run_task([])
    except SystemExit as ending:
        ended = ending.code
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    assert (ended, bool(asked)) == (status, requeued)


def test_requeueing_that_fails_is_one_line(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", "")
    slurm.requeue()
    assert re.fullmatch(r"not put back into the queue \(.*scontrol.*\); submit again\n", capsys.readouterr().err)


def until(condition, otherwise, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.3)


@pytest.mark.long
@pytest.mark.skipif(bool(one_node.WITHOUT), reason=f"no {one_node.WITHOUT} here; .ci/install-slurm installs it")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a SLURM")
def test_a_sweep_on_a_slurm_of_one_node(tmp_path):
    """Four runs on two processors: one task is cancelled, one put back by SLURM, one warned that its time is up."""
    path, root, beside = tmp_path / "four.py", tmp_path / "runs", tmp_path / "beside"
    path.write_text(SWEEP)
    arguments = [f"--config={path}:smoke", *LITTLE]
    jobs = make_jobs(sweep.sweep_configs(f"{path}:smoke", LITTLE), root)

    def hessflat(environment, *more):
        command = [sys.executable, "-m", "hessflat", "sweep", *arguments, *more]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    # Tasks find the code as this process does.
    code = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    with one_node.cluster(tmp_path / "slurm") as environment:
        environment["PYTHONPATH"] = code

        def logs():
            return "\n".join(log.read_text() for log in sorted((root / "slurm").glob("*.out")))

        def queued():
            return one_node.asked(environment, "squeue", "-h", "-r", "-o", "%i %T").splitlines()

        def begun(number):
            lines = jobs[number].folder / "metrics.jsonl"
            return lines.exists() and len(lines.read_text().splitlines()) > 1

        def everything_ended():
            # Who is put back waits for two minutes, but for this.
            for line in queued():
                one_node.asked(environment, "scontrol", "update", f"JobId={line.split()[0]}", "StartTime=now")
            return not queued()

        refused = hessflat(environment, f"--root={root}", "--launch=slurm", "--slurm.nonsense=1")
        assert refused.returncode == 2
        assert re.fullmatch(r"error: SLURM refused the runs: .*option '--nonsense=1'.*\n", refused.stderr)
        assert not list(root.glob("*/*"))
        submitted = hessflat(environment, f"--root={root}", "--launch=slurm", "--slurm.partition=main")
        assert submitted.returncode == 0, submitted.stderr
        array = re.match(r"array (\d+): 4 tasks of at most 30 minutes\n4 runs submitted", submitted.stdout)[1]
        until(lambda: begun(0) and begun(1), logs)
        one_node.asked(environment, "scancel", f"{array}_0")
        one_node.asked(environment, "scontrol", "requeue", f"{array}_1")
        until(lambda: begun(2), logs)
        one_node.asked(environment, "scancel", "--signal=USR1", f"{array}_2")
        status = hessflat(environment, f"--root={root}", "--status")
        assert re.search(r"^g_mlp +4( +\d)+ +(–|\d+:\d\d)$", status.stdout, re.MULTILINE), status.stdout
        until(everything_ended, logs)
        states = [run_folder.read_manifest(job.folder)["status"] for job in jobs]
        assert states == ["stopped", "done", "done", "done"], logs()
        again = hessflat(environment, f"--root={root}", "--launch=slurm")
        assert "1 run submitted, 3 finished or under way" in again.stdout
        until(everything_ended, logs)
        completed = (tmp_path / "slurm" / "completed.txt").read_text()
    manifests = [run_folder.read_manifest(job.folder) for job in jobs]
    assert [manifest["status"] for manifest in manifests] == ["done"] * 4, logs()
    assert [len(manifest["resumed_from"]) for manifest in manifests] == [1, 1, 1, 0]
    statuses = re.findall(r" ExitCode=(\d+):", completed)
    assert "2" not in statuses
    assert statuses.count("0") >= 5
    plain = hessflat(os.environ | {"PYTHONPATH": code}, f"--root={beside}")
    assert plain.returncode == 0, plain.stderr
    for job in jobs:
        other = beside / job.folder.relative_to(root)
        assert (job.folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
