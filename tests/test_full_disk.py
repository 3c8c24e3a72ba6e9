"""Disks that are full, folders that cannot be written, too few file descriptors: one line, and nothing is lost."""

import os
import subprocess
import sys

import orbax.checkpoint as ocp
import pytest
import runs

from hessflat.analysis.results import load_run
from hessflat.runs import run_folder
from hessflat.utils.errors import InputError

OPTIONS = (
    "--config.train.epochs=1",
    "--config.model.mlp.hidden=(5,)",
    "--config.measure.lanczos_steps=4",
    "--config.measure.jacobian=never",
)
COMMAND = [sys.executable, "-m", "hessflat", "train", "--config=g_mlp:smoke", *OPTIONS]


def said(*arguments, **settings):
    """The exit status of the command and the lines that it prints to standard error."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, **settings)
    return done.returncode, runs.lines_but_progress(done.stderr)


@pytest.mark.slow
def test_a_disk_that_is_full_inside_a_checkpoint_is_one_line_and_the_same_command_goes_on(tmp_path, monkeypatch):
    (straight,) = runs.run_all([runs.tiny(*OPTIONS)], tmp_path / "straight")
    original, calls = ocp.CheckpointManager.save, []

    def save(self, step, **arguments):
        calls.append(step)
        if len(calls) == 2:
            raise ValueError("RESOURCE_EXHAUSTED: Error writing x: No space left on device [OS error 28: ENOSPC]\n[y]")
        return original(self, step, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", save)
        with pytest.raises(
            InputError, match=r"cannot write checkpoint .*/10: No space left on device; mend that"
        ) as error:
            runs.run_all([runs.tiny(*OPTIONS)], tmp_path)
    assert "\n" not in str(error.value)
    (folder,) = runs.run_all([runs.tiny(*OPTIONS)], tmp_path)
    assert run_folder.read_manifest(folder)["resumed_from"] == [0]
    assert load_run(folder).metrics == load_run(straight).metrics


@pytest.mark.long
def test_small_file_systems_are_one_line_and_with_more_room_it_goes_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        for options in ("remount,size=52k", "remount,ro"):
            subprocess.run(["mount", "-o", options, str(disk)], check=True)
            status, lines = said(f"--root={disk}")
            assert status == 2
            assert len(lines) == 1
            assert lines[0].startswith("error: cannot write ")
            assert ("No space left" in lines[0]) == ("size" in options)
            assert ("Read-only file system" in lines[0]) == ("ro" in options.split(","))
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
        assert said(f"--root={disk}")[0] == 0
        (folder,) = disk.glob("g_mlp/*")
        assert load_run(folder).status == "done"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("limit", [12, 16, 20])
def test_too_few_file_descriptors_are_one_line(tmp_path, limit):
    command = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *COMMAND, f"--root={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2)  # some systems need fewer
    lines = runs.lines_but_progress(done.stderr)
    assert len(lines) == (1 if done.returncode else 0)
    assert not lines or "Too many open files" in lines[0]
    assert said(f"--root={tmp_path}")[0] == 0


@pytest.mark.long
def test_the_traceback_is_shown_when_it_is_asked_for():
    wrong = "--config.optim.lrr=1"
    status, lines = said(wrong)
    assert (status, len(lines)) == (2, 1)
    status, debugged = said(wrong, env={**os.environ, "HESSFLAT_DEBUG": "1"})
    assert status == 2
    assert debugged[0].startswith("Traceback")
    assert debugged[-1] == lines[0]
