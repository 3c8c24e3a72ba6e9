"""Several processes that run one command together: the same numbers, one writer, one end."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import one_node
import pytest
import runs
from numpy.testing import assert_allclose

from hessflat.cli import app, measure
from hessflat.runs import run_folder, schema
from hessflat.utils import processes
from hessflat.utils.errors import InputError

HERE = Path(__file__).parent
SMALL = (
    "--config.model.mlp.hidden=(5,)",
    "--config.measure.lanczos_steps=4",
    "--config.measure.spectra=end",
    "--config.measure.jacobian=never",
    "--config.checkpoint.minutes=1e-4",
)
SHORT = (*SMALL, "--config.train.epochs=6", "--config.measure.performance=every 30 steps")
LONG = (*SMALL, "--config.train.epochs=200", "--config.measure.performance=every 20 epochs")


def started(number, script, *arguments, **environment):
    """`number` processes that meet on a free port, and each of which is `python script arguments`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number)}
    folders = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))  # configs, and what tests share
    common = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": folders}
    common |= several if number > 1 else {}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=common | {"JAX_PROCESS_ID": str(index)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(number)
    ]


def train(number, root, *arguments, **environment):
    return started(number, "child.py", "train", "--config=g_mlp:smoke", f"--root={root}", *arguments, **environment)


def ended(started, status=0, seconds=600):
    """What each process printed as lines on standard error, but for those on its progress."""
    deadline, said = time.monotonic() + seconds, []
    try:
        for process in started:
            _, errors = process.communicate(timeout=deadline - time.monotonic())
            said.append([line for line in runs.lines_but_progress(errors) if not line.startswith("[Gloo]")])
    finally:
        for process in started:
            process.kill()
    if status is not None:
        assert [process.returncode for process in started] == [status] * len(started), said
    return said


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def require_same(folder, other, rtol, rtol_of_bounds=None):
    ours, theirs = lines(folder), lines(other)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for one, two in zip(ours, theirs, strict=True):
        assert one.keys() == two.keys()
        for name, value in one.items():
            own = rtol_of_bounds if rtol_of_bounds and name.endswith("_bound") else rtol
            assert_allclose(value, two[name], own, 1e-7, err_msg=name)


def wait_for(condition, processes):
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), ended(processes, None)
        time.sleep(0.05)


def folder_of(root):
    (folder,) = root.glob("g_mlp/*")
    return folder


def checkpoints_of(root):
    return [int(path.name) for path in root.glob("g_mlp/*/checkpoints/*") if path.name.isdecimal()]


@pytest.mark.long
def test_two_processes_whose_clocks_differ_give_the_numbers_of_two_devices(tmp_path):
    said = ended(train(2, tmp_path / "two", *SHORT))
    assert said == [[], []]
    chosen = schema.freeze(app.from_command_line("g_mlp:smoke", [*SHORT, "--config.devices=2"]))
    (alone,) = runs.run_all([chosen], tmp_path / "one")
    folder = folder_of(tmp_path / "two")
    assert folder.name == alone.name
    require_same(folder, alone, 1e-6)
    manifest = run_folder.read_manifest(folder)
    assert manifest["placement"] == [{"from_step": 0, "devices": 2, "of": 2, "platform": "cpu", "processes": 2}]
    assert sorted(path.name for path in (folder / "spectra").iterdir()) == sorted(
        path.name for path in (alone / "spectra").iterdir()
    )


@pytest.mark.long
def test_parameters_that_no_process_has_whole_give_the_same_numbers(tmp_path):
    measured = (*SHORT, "--config.measure.sharpness=end", "--config.measure.norms=end")
    assert ended(train(2, tmp_path / "two", *measured, "--config.fsdp=True")) == [[], []]
    (alone,) = runs.run_all([runs.tiny(*measured, "--config.checkpoint.keep=end")], tmp_path / "one")
    folder = folder_of(tmp_path / "two")
    require_same(folder, alone, 1e-3)
    assert run_folder.read_manifest(folder)["placement"][0]["fsdp"] is True


@pytest.mark.long
def test_a_run_of_one_process_is_measured_by_two(tmp_path):
    (alone,) = runs.run_all([runs.tiny(*SMALL, "--config.train.epochs=1")], tmp_path)
    twin = shutil.copytree(alone, tmp_path / "twin")
    settings = ("--steps=last", "--config.measure.lanczos_steps=5")
    measure.main([f"--run={alone}", *settings])
    assert ended(started(2, "child.py", "measure", f"--run={twin}", *settings)) == [[], []]
    (ours,), (theirs,) = ((folder / "measurements").iterdir() for folder in (alone, twin))
    # A bound is that of rounding here, whose units in the last place add up otherwise over devices.
    require_same(ours, theirs, 1e-4, rtol_of_bounds=1.0)


@pytest.mark.long
@pytest.mark.parametrize("number", [2, 4])
def test_a_killed_process_ends_the_others_and_the_command_continues(tmp_path, number):
    ended(train(number, tmp_path / "straight", *SHORT))
    straight = folder_of(tmp_path / "straight")
    for victim in (number - 1, 0):
        root = tmp_path / f"killed-{victim}"
        running = train(number, root, *SHORT)
        wait_for(lambda root=root: max(checkpoints_of(root), default=0) > 0, running)
        running[victim].kill()
        began = time.monotonic()
        said = ended(running, None, 60)
        assert time.monotonic() - began < 30
        for index in set(range(number)) - {victim}:
            (line,) = said[index]
            assert re.match("error: another process has ended, .* continues from the last checkpoint$", line)
            assert running[index].returncode in (75, -signal.SIGABRT)  # by itself, or by JAX
        assert ended(train(number, root, *SHORT)) == [[]] * number
        assert (folder_of(root) / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()
        assert len(run_folder.read_manifest(folder_of(root))["resumed_from"]) == 1


@pytest.mark.long
def test_a_signal_to_one_stops_all_and_other_numbers_of_processes_go_on(tmp_path):
    seen = set()
    for number in (1, 2, 4, 1):
        before = max(checkpoints_of(tmp_path), default=-1)
        running = train(number, tmp_path, *LONG)
        wait_for(lambda before=before: max(checkpoints_of(tmp_path), default=-1) > before + 10, running)
        running[-1].send_signal(signal.SIGTERM)
        said = ended(running, 75)
        assert sorted(map(len, said)) == [0] * (number - 1) + [1]
        assert "stopped by a signal, saved" in said[0][0]
        assert run_folder.read_manifest(folder_of(tmp_path))["status"] == "stopped"
        stored = max(checkpoints_of(tmp_path))
        assert stored > before
        restored = []
        for readers in (1, 2, 4) if number != 2 else (1, 2):
            out = tmp_path / f"restored-{readers}"
            assert ended(started(readers, "restored.py", folder_of(tmp_path), out)) == [[]] * readers
            restored += [json.loads(Path(f"{out}-{index}.json").read_text()) for index in range(readers)]
        assert all(one == restored[0] for one in restored)
        assert str(stored) in restored[0]
        seen.add(restored[0][str(stored)])
    assert len(seen) == 4  # other states, else nothing was compared
    manifest = run_folder.read_manifest(folder_of(tmp_path))
    assert len(manifest["resumed_from"]) == 3
    assert [place.get("processes", 1) for place in manifest["placement"]] == [1, 2, 4, 1]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_one_process_ends_all_with_its_line(tmp_path, failing):
    said = ended(train(2, tmp_path, *SHORT, FAIL=str(failing)), 2)
    (line,) = said[failing]
    assert re.fullmatch(rf"error: no data in process {failing}; bring them \(\S+child\.py, line \d+\)", line)
    assert said[1 - failing] == []
    assert not list(tmp_path.glob("g_mlp/*/metrics.jsonl"))


@pytest.mark.long
def test_the_library_gives_the_numbers_of_one_process(tmp_path):
    # Of one device: two virtual ones may wait for each other for ever in programs that hold eigenvalue problems.
    ended(started(1, "library.py", tmp_path / "one"), seconds=900)
    ended(started(2, "library.py", tmp_path / "two"), seconds=900)
    one, *two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one-0", "two-0", "two-1"))
    assert len(one) > 40
    for name, expected in one.items():
        assert not isinstance(expected, str), (name, expected)
        for found in two:
            assert not isinstance(found[name], str), (name, found[name])
            size = max(map(abs, expected))
            assert_allclose(found[name], expected, rtol=1e-3, atol=1e-4 * size, err_msg=name)
        assert two[0][name] == two[1][name]


LAUNCHERS = [
    pytest.param(
        ["srun", "-n2"],
        id="srun",
        marks=pytest.mark.skipif(bool(one_node.WITHOUT), reason=f"no {one_node.WITHOUT} here; see .ci/install-slurm"),
    ),
    pytest.param(
        ["mpirun", "-n", "2", "--allow-run-as-root", "--oversubscribe"],
        id="mpirun",
        marks=pytest.mark.skipif(not shutil.which("mpirun"), reason="no mpirun here; Debian's openmpi-bin has it"),
    ),
]


@pytest.mark.long
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_tasks_of_a_launcher_are_one_run(tmp_path, launcher):
    """The numbers of one process with two devices, by what SLURM and Open MPI themselves tell their tasks."""
    folders = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent)))
    own = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": folders}
    command = [sys.executable, "-m", "hessflat", "train", "--config=g_mlp:smoke", f"--root={tmp_path / 'two'}", *SHORT]
    slurm = one_node.cluster(tmp_path / "slurm") if launcher[0] == "srun" else contextlib.nullcontext(dict(os.environ))
    with slurm as environment:
        done = subprocess.run(
            [*launcher, *command],
            env=environment | own,
            capture_output=True,
            text=True,
            timeout=400,
            cwd=HERE.parents[1],
        )
    assert done.returncode == 0, done.stderr
    chosen = schema.freeze(app.from_command_line("g_mlp:smoke", [*SHORT, "--config.devices=2"]))
    (alone,) = runs.run_all([chosen], tmp_path / "one")
    require_same(folder_of(tmp_path / "two"), alone, 1e-6)
    assert run_folder.read_manifest(folder_of(tmp_path / "two"))["placement"][0]["processes"] == 2


BY_HAND = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (BY_HAND, {"num_processes": 2, "process_id": 1, "cluster_detection_method": "deactivate"}),
        (BY_HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"},
         {"num_processes": 4, "process_id": 3, "local_device_ids": [1]}),
        (OPEN_MPI | {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_LOCAL_DEVICE_IDS": "0"},
         {"num_processes": 4, "process_id": 3}),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (BY_HAND | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, None),
        (SLURM, None),  # a login shell in an allocation, or its batch script
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "16"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, {}),
    ],
)  # fmt: skip
def test_several_processes_are_known_by_their_launcher(environment, expected):
    assert processes.found({"TPU_SKIP_MDS_QUERY": "1"} | environment) == expected


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (OPEN_MPI, "Open MPI started 4 processes, and .JAX_COORDINATOR_ADDRESS does not say where they meet; set it"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}, "JAX_NUM_PROCESSES"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES must be a whole number .* got ''"),
        (BY_HAND | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID must be a whole number .* got 'one'"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID must be .* got ''"),
    ],
)
def test_what_a_launcher_leaves_out_is_named(environment, line):
    with pytest.raises(InputError, match=line):
        processes.found(environment)
