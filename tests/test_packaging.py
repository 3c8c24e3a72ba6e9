"""What a wheel holds, and commands in a folder without the project."""

import ast
import os
import re
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
    said = capsys.readouterr().out
    assert "python -m hessflat experiment g_mlp --scale=smoke" in said
    # The docstrings of the copies say it as a clone has it.
    assert "make sweep CONFIG=g_mlp:small is here: python -m hessflat sweep g_mlp:small" in said
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
    assert "run from the project's folder, or make one: python -m hessflat init" in done.stderr


def strings(path):
    """Every text of a Python file, docstrings too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_message_names_a_target_or_a_variable_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    targets = "|".join(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = "|".join({*re.findall(r"^([A-Z]+) *\?=", makefile, re.MULTILINE)} - {"PYTHON"})
    named = re.compile(rf"\bmake ({targets})\b|(?<![A-Z_$])({variables})=")
    for path in (ROOT / "hessflat").rglob("*"):
        texts = strings(path) if path.suffix == ".py" else [path.read_text()] if path.suffix == ".html" else []
        found = [text for text in texts if named.search(text)]
        assert not found or path == Path(init.__file__), (path, found)  # which translates docstrings of what it copies


def test_every_command_that_a_message_names_is_one():
    """With flags that it has: what stands in front of `=` is a key of a dictionary of flags in the command's module."""
    found = 0
    for path in (ROOT / "hessflat").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                name, *words = [one for argument in node.args for one in strings_of(argument)]
                flags = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--")]
                module = (ROOT / "hessflat" / "cli" / f"{name}.py").read_text()
                shared = (ROOT / "hessflat" / "cli" / "experiment.py").read_text()
                assert name in app.COMMANDS
                assert all(f'"{flag}": ' in module + shared for flag in flags), (path, name, words)
                found += 1
    assert found > 10


def strings_of(node):
    """The constant texts of an expression, of an f-string what stands before its first value."""
    parts = node.values[:1] if isinstance(node, ast.JoinedStr) else [node]
    return [part.value for part in parts if isinstance(part, ast.Constant)]
