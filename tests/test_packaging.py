"""What a wheel holds, and commands in a folder without the project."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hessflat.cli import app, experiment, init
from hessflat.utils.errors import InputError

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_the_package_and_the_folders_of_the_project():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        path.parent.relative_to(ROOT) for name in ("hessflat", *init.FOLDERS) for path in ROOT.glob(f"{name}/**/*.*")
    }
    names = {".".join(folder.parts) for folder in folders if "__pycache__" not in folder.parts}
    project = {f"hessflat.project.{name}" if name.split(".")[0] in init.FOLDERS else name for name in names}
    assert set(stated) == project | {f"hessflat.project.{name}" for name in init.FOLDERS}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without the project, for a package that holds it."""
    packaged = tmp_path / "site-packages" / "hessflat" / "project"
    packaged.mkdir(parents=True)
    for name in init.FOLDERS:
        (packaged / name).symlink_to(ROOT / name)
    monkeypatch.setattr(app, "__file__", str(packaged.parent / "cli" / "app.py"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return packaged


def test_commands_find_the_project_in_the_package(elsewhere):
    assert app.home() == elsewhere
    assert "g_mlp" in experiment.names()
    assert app.split_target("g_mlp:smoke") == (elsewhere / "configs" / "granziol2020" / "g_mlp.py", "smoke")


def test_init_copies_what_commands_then_take(elsewhere, capsys):
    init.main([])
    assert app.home() == Path()
    assert (
        Path("configs/granziol2020/g_mlp.py").read_bytes()
        == (ROOT / "configs" / "granziol2020" / "g_mlp.py").read_bytes()
    )
    assert Path("experiments/rules.json").is_file()
    assert "hessflat experiment" in capsys.readouterr().out
    with pytest.raises(InputError, match="configs is there already; give another folder as --out=FOLDER"):
        init.main([])


def test_init_copies_from_the_clone_where_the_package_is_in_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init.main([])
    for name in init.FOLDERS:
        own, copied = ({path.relative_to(root) for path in (root / name).rglob("*.py")} for root in (ROOT, tmp_path))
        assert copied == own


def test_where_there_is_no_project_the_line_says_how_to_make_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hessflat", "experiment", "g_mlp"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "run from the project's folder, or make one: hessflat init" in done.stderr
