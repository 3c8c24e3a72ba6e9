"""What `make setup` installs for a platform, as make would do it."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLATFORMS = ("cpu", "cuda12", "cuda13", "tpu")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def make(*arguments):
    return subprocess.run(["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True)


def setup(venv, *arguments):
    """The commands of `make setup` for a virtual environment in a folder."""
    return make("-n", "setup", f"VENV={venv}", *arguments).stdout


@needs_make
@pytest.mark.parametrize("platform", PLATFORMS)
def test_each_platform_installs_its_extra(tmp_path, platform):
    extras = re.search(r"-c constraints.txt .*-e '\.\[(.*)\]'", setup(tmp_path, f"PLATFORM={platform}"), re.DOTALL)[1]
    assert extras.split(",") == ["dev"] + [platform] * (platform != "cpu")
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


@needs_make
def test_the_platform_is_remembered_and_another_is_made_anew(tmp_path):
    assert "installing for cpu" in setup(tmp_path)
    (tmp_path / ".installed").write_text("cuda13\n")
    assert "installing" not in setup(tmp_path)
    again = setup(tmp_path, "-W", "constraints.txt")  # as if it were newer
    assert "-e '.[dev,cuda13]'" in again
    assert "--clear" not in again
    assert "--clear" in setup(tmp_path, "PLATFORM=tpu")


@needs_make
def test_a_platform_that_there_is_not_is_one_line(tmp_path):
    ended = make("setup", f"VENV={tmp_path}", "PLATFORM=cuda11")
    assert ended.returncode == 2
    assert ended.stdout == "error: PLATFORM must be cpu, cuda12, cuda13 or tpu, got cuda11\n"
    assert not list(tmp_path.iterdir())


def test_what_a_platform_needs_is_pinned_for_every_python():
    pins = (ROOT / "constraints.txt").read_text()
    for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt"):
        of_jax = re.findall(r"^jax==(.*)$", pins, re.MULTILINE)
        assert re.findall(rf"^{name}==(.*)$", pins, re.MULTILINE) == of_jax
    assert len(re.findall(r"^libtpu==", pins, re.MULTILINE)) == 2
