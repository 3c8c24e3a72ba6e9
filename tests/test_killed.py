"""Commands that are really killed, at several moments, and started again."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import runs

from hessflat.runs import run_folder

pytestmark = pytest.mark.exact

EVERY_TEN = [f"--config.measure.{name}=every 10 epochs" for name in ("performance", "spectra", "jacobian")]
TINY = ("--config.model.mlp.hidden=(5,)", "--config.measure.lanczos_steps=4")
COMMAND = [
    sys.executable,
    "-m",
    "hessflat",
    "train",
    "--config=g_mlp:smoke",
    "--config.model.mlp.hidden=(5,)",
    "--config.measure.lanczos_steps=4",
]


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory):
    """A folder for compiled programs: what a killed command has half written stays in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HESSFLAT_CACHE", str(tmp_path_factory.mktemp("compiled")))
        yield


def killed_when(condition, root, *arguments):
    """Start the command and send SIGKILL as soon as `condition(folder)` is true; says whether it was."""
    process = subprocess.Popen(
        [*COMMAND, f"--root={root}", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        while process.poll() is None:
            folders = list(root.glob("g_mlp/*"))
            if folders and condition(folders[0]):
                os.kill(process.pid, signal.SIGKILL)
                return True
            time.sleep(0.002)
        return False
    finally:
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "of_moments"),
    [
        ("end", slice(3, None, 3)),
        pytest.param("end", slice(None), marks=pytest.mark.long),
        pytest.param("measured", slice(None), marks=pytest.mark.long),
    ],
    ids=["end-two", "end", "measured"],
)
def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, keep, of_moments):
    arguments = [
        "--config.train.epochs=100",
        *(EVERY_TEN if keep == "measured" else EVERY_TEN[:2]),
        "--config.checkpoint.minutes=0.005",
        f"--config.checkpoint.keep={keep}",
    ]
    straight = tmp_path / "straight"
    subprocess.run([*COMMAND, f"--root={straight}", *arguments], check=True, capture_output=True)
    folder = next(straight.glob("g_mlp/*"))

    def lines(count):
        return lambda other: (other / "metrics.jsonl").exists() and len(runs.metrics(other)) >= count

    interrupted = tmp_path / "interrupted"
    moments = [
        lambda other: (other / "config.json").exists(),  # before anything is trained
        lambda other: any((other / "spectra").glob("0-*")),  # between a spectrum and its line
        lines(1),  # between a line and its checkpoint
        lambda other: any((other / "checkpoints").glob("*1*")),  # while a checkpoint is written
        lines(3),
        lambda other: any((other / "spectra").glob("500-*")),
        lines(8),
        lines(11),  # after the last line, before the run counts as done
    ][of_moments]
    kills = sum(killed_when(moment, interrupted, *arguments) for moment in moments)
    assert kills >= (6 if len(moments) == 8 else 2)  # the last moments may come too late
    subprocess.run([*COMMAND, f"--root={interrupted}", *arguments], check=True, capture_output=True)
    other = next(interrupted.glob("g_mlp/*"))

    manifest = json.loads((other / "manifest.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["resumed_from"]
    assert (other / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, runs.final_state(other), runs.final_state(folder))
    a, b = runs.spectra(other), runs.spectra(folder)
    assert a.keys() == b.keys()
    for name in a:
        for key in a[name]:
            np.testing.assert_array_equal(a[name][key], b[name][key], err_msg=f"{name} {key}")


@pytest.mark.long
def test_killed_sweep_leaves_no_processes_and_continues(tmp_path):
    root = tmp_path / "runs"
    command = [sys.executable, "-m", "hessflat", "sweep", "--config=g_mlp:smoke", "--workers=2"]
    command += [
        f"--root={root}",
        "--config.train.epochs=200",
        *EVERY_TEN,
        "--config.model.mlp.hidden=(5,)",
        "--config.measure.lanczos_steps=4",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len([path for path in root.glob("*/*/metrics.jsonl") if runs.metrics(path.parent)]) < 2:
        assert time.monotonic() < deadline, "the sweep never measured anything"
        assert process.poll() is None, "the sweep ended too early"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folders = [path.parent for path in root.glob("*/*/metrics.jsonl")]
    assert any(run_folder.read_manifest(folder)["status"] == "running" for folder in folders)
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert [run_folder.read_manifest(folder)["status"] for folder in folders] == ["done", "done"]
