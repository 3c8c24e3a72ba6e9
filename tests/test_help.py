"""Every command says what it does, and names of settings are found by their meaning."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import command
from hessflat.cli import app
from hessflat.config import flatten, get
from hessflat.config.core import MEANINGS
from hessflat.runs.schema import base_config
from hessflat.utils.errors import InputError


@pytest.mark.parametrize("name", app.COMMANDS)
def test_a_command_says_what_it_does(name, capsys):
    with pytest.raises(SystemExit) as ended:
        app.run([name, "--help"])
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert f"hessflat {name}" in printed.splitlines()[0]
    assert len(printed.splitlines()) >= 3


@pytest.mark.parametrize(
    "module",
    [
        "run",
        "compare",
        "plans",
        "chaos.__main__",
        "fuzz.__main__",
        "soak",
        "precision",
        "large",
        "scaling.run",
        "training.run",
    ],
)
def test_a_benchmark_says_what_it_does(module, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmarks", "--help"])
    command.run_as_command(importlib.import_module(f"benchmarks.{module}").main)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"usage: python -m benchmarks.{module.removesuffix('.__main__')}")
    assert len(rest) >= 3


def test_help_shows_flags_their_defaults_and_what_must_be_given(capsys):
    with pytest.raises(SystemExit):
        app.run(["sweep", "--root=elsewhere", "-h"])
    printed = capsys.readouterr().out
    assert "  --config=…   must be given\n  --root=runs\n" in printed
    assert "`python -m hessflat sweep --config=g_mlp:small`" in printed


def test_what_must_be_given_needs_no_name():
    defaults = {"exp": None, "scale": "small"}
    assert app.parse_flags(["g_mlp", "--scale=smoke"], defaults) == app.parse_flags(
        ["--exp=g_mlp", "--scale=smoke"], defaults
    )
    for argv in (["g_mlp", "g_wrn"], ["g_mlp", "--exp=g_wrn"]):
        with pytest.raises(InputError):
            app.parse_flags(argv, defaults)


def test_without_a_command_every_command_has_a_line(capsys):
    app.run([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(app.COMMANDS)
    assert all(len(line.split()) > 3 for line in lines[1:-1])


def test_a_setting_is_found_by_what_others_call_it():
    config = base_config("smoke")
    assert set(MEANINGS.values()) <= set(flatten(config))
    with pytest.raises(InputError, match=r"did you mean 'optim\.lr'\?"):
        get(config, "optim.learning_rate")
    with pytest.raises(InputError, match=r"did you mean 'optim\.l2'\?"):
        get(config, "weight_decay")
    with pytest.raises(InputError, match=r"did you mean 'optim\.lr'\?"):
        get(config, "optim.lrr")


def test_a_python_without_the_libraries_is_told_in_one_line():
    command = [sys.executable, "-S", "-m", "hessflat", "train"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {sys.executable} has no ")
    assert result.stderr.count("\n") == 1
