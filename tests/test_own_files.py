"""What a user's own file raises or returns is one line that names the place; a fault of the package keeps its trace."""

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hessflat.analysis.experiment import Claim, Evidence, Experiment, StoredExperiment
from hessflat.cli import app, experiment, measure, sweep, train
from hessflat.report import sections
from hessflat.utils.errors import InputError, in_one_line, place_of

CONFIG = """
from hessflat.config import override
from hessflat.runs.schema import base_config

def get_config(scale):
    return base_config(scale)

def get_sweep(scale):
    return [{"seed": 0}]
"""
BODY, ENTRIES = "return base_config(scale)", 'return [{"seed": 0}]'
LISTS = "get_sweep of {} must list the settings of one run or more, got"
EXPERIMENT = """
from hessflat.analysis.experiment import Claim, Evidence, Experiment

def decide(runs):
    return Evidence("", "", 0, "undecided", rule="as it is")

def draw(runs):
    return []

EXPERIMENT = Experiment("mine", "hessflat", "?", "mine", draw, draw, ())
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a configuration and an experiment of the user's, both called `mine`."""
    for name, text in (("configs", CONFIG), ("experiments", EXPERIMENT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HESSFLAT_CACHE", "0")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def ended(capsys, *arguments):
    """The status with which a command ends, and what it writes to standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ending, app.guarded(stoppable=False):
        {"train": train, "sweep": sweep, "experiment": experiment, "measure": measure}[arguments[0]].main(arguments[1:])
    return ending.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def get_config", "1 / 0\ndef get_config", "ZeroDivisionError: division by zero ({}, line 5)"),
        ("return base", "return base(", "SyntaxError: '(' was never closed ({}, line 6)"),
        (BODY, "return {}['lr']", "KeyError: 'lr' ({}, line 6)"),
        (BODY, "open('no.json')", "FileNotFoundError: [Errno 2] No such file or directory: 'no.json' ({}, line 6)"),
        (BODY, "return [][0]", "IndexError: list index out of range ({}, line 6)"),
        ("def get_config", "raise SystemExit(0)\ndef get_config", "SystemExit: 0 ({}, line 5)"),
        ("return [", "return undefined[", "NameError: name 'undefined' is not defined ({}, line 9)"),
    ],
)  # fmt: skip
def test_what_a_configuration_raises_is_one_line_with_its_place(place, capsys, monkeypatch, old, new, says):
    path = place / "configs" / "mine.py"
    path.write_text(CONFIG.replace(old, new, 1))
    status, told = ended(capsys, "sweep", "--config=mine:smoke", "--list")
    assert (status, told) == (1, f"error: {says.format(path)}; HESSFLAT_DEBUG=1 shows how it came to that\n")
    monkeypatch.setenv("HESSFLAT_DEBUG", "1")
    status, told = ended(capsys, "sweep", "--config=mine:smoke", "--list")
    assert status == 1
    assert told.startswith("Traceback")
    assert told.count("error: ") >= 1


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("get_config(scale)", "get_config()", "get_config of {} must be a function of one argument, the scale, got"),
        (BODY, "return None", "get_config of {} must return a ConfigDict, as base_config does, got"),
        (BODY, "return {'seed': 0}", "get_config of {} must return a ConfigDict"),
        ("get_sweep(scale)", "get_sweep(scale, seed)", "get_sweep of {} must be a function of one argument, the scale"),
        (ENTRIES, "return []", LISTS + " []"),
        (ENTRIES, "return None", LISTS + " None"),
        (ENTRIES, "return {'seed': 0}", LISTS + " {{"),
        (ENTRIES, "return ['seed']", LISTS + " ['seed']"),
        (BODY, "return override(base_config(scale), {'optim.lrr': 1.0})",
         "unknown setting config.optim.lrr; did you mean 'optim.lr'? ({}, line 6)"),
    ],
)  # fmt: skip
def test_what_a_configuration_returns_is_told_with_its_file(place, capsys, old, new, says):
    path = place / "configs" / "mine.py"
    path.write_text(CONFIG.replace(old, new, 1))
    status, told = ended(capsys, "sweep", "--config=mine:smoke", "--list")
    assert status == 2
    assert says.format(path) in told.replace("of configs/mine.py", f"of {path}")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "status", "says"),
    [
        ("def draw", "missing()\ndef draw", 1, "NameError: name 'missing' is not defined ({}, line 7)"),
        ("import Claim", "import Clam", 1, "ImportError: cannot import name 'Clam' from 'hessflat."),
        ("EXPERIMENT = Experiment(", "EXPERIMENT = dict(id=", 1, "SyntaxError: positional argument follows"),
        ("EXPERIMENT = ", "EXPERIMENT = 3 # ", 2, "EXPERIMENT of experiments/mine.py must be an Experiment, got 3"),
        ("draw, draw, ()", "draw, draw", 1, "missing 1 required positional argument: 'claims' ({}, line 10)"),
    ],
)  # fmt: skip
def test_what_an_experiment_raises_at_its_import_is_one_line(place, capsys, old, new, status, says):
    path = place / "experiments" / "mine.py"
    path.write_text(EXPERIMENT.replace(old, new, 1))
    ending, told = ended(capsys, "experiment", "--exp=mine", "--scale=smoke")
    assert ending == status
    assert says.format(path) in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("made", [None, True, 3, "holds"])
def test_a_rule_that_returns_no_evidence_is_named(made):
    claim = Claim(id="own", paper="", where="", statement="", paper_value="", decide=lambda runs: made)
    with pytest.raises(InputError, match=f"decide of the claim 'own' must return Evidence, got {made!r}"):
        claim.evidence(())
    with pytest.raises(InputError, match="must return Evidence"):
        _ = claim.rule


@pytest.mark.parametrize("made", [None, 3, [3], sections.Drawing("", "", Figure(), {})])
def test_what_draws_no_drawings_is_a_line_of_the_report(made, monkeypatch):
    monkeypatch.setattr(sections, "meeting", lambda runs, needs: ["a run"])
    monkeypatch.setattr(sections, "not_needed", lambda runs, needs: "")
    stored = StoredExperiment(Experiment("mine", "", "", "", lambda runs: made, lambda runs: [], ()), "smoke", [])
    problems = []
    assert sections._attempt(stored, stored.experiment.draw, sections.Drawing, problems) == []
    (line,) = problems
    assert line.startswith("mine must return a list, each a Drawing, got ")


def test_the_place_is_that_of_the_users_line_and_no_fault_of_the_package_has_one():
    def caught(work):
        try:
            work()
        except Exception as error:
            return error

    line = caught.__code__.co_firstlineno
    # A library's error is that of the line that called it; `int` has no file at all.
    assert place_of(caught(lambda: int("a"))) == f"{Path(__file__)}, line {line + 8}"
    assert place_of(caught(lambda: Evidence())) == f"{Path(__file__)}, line {line + 9}"
    # The package raised it itself.
    fault = caught(lambda: sections.as_csv({"a": [1], "b": []}))
    assert place_of(fault) == ""
    assert in_one_line(fault) == f"ValueError: {fault}"
    # What the package refuses is that of the line that asked for it, and words of their own stay as they are.
    refused = caught(lambda: app.parse_flags(["--what=1"], {}))
    assert place_of(refused) == f"{Path(__file__)}, line {line + 15}"
    assert in_one_line(refused) == str(refused)


def test_a_fault_of_the_package_and_ctrl_c_are_not_hidden(monkeypatch, capsys):
    with pytest.raises(ValueError, match="columns of unequal length"), app.guarded(stoppable=False):
        sections.as_csv({"a": [1], "b": []})
    left = []
    monkeypatch.setattr(app.os, "_exit", left.append)
    with app.guarded(stoppable=False):
        raise KeyboardInterrupt
    assert left == [130]
    assert "stopped" in capsys.readouterr().err
