"""The kit that damages runs: it finds what is wrong where something is, and nothing where nothing is."""

import re

import pytest

from benchmarks.cases import Outcome
from benchmarks.chaos import __main__ as chaos
from benchmarks.chaos.workshop import SAME
from hessflat.analysis import results
from hessflat.runs import run_folder
from hessflat.utils.errors import InputError


def counts(printed):
    """The numbers of the last row: tried, same bits, named, wrong, left out."""
    (row,) = re.findall(r"^all +(.*)$", printed, re.MULTILINE)
    return [int(number) for number in row.split()]


@pytest.mark.slow
def test_a_reader_that_ignores_digests_is_found_out(monkeypatch, capsys):
    def careless(folder):
        return run_folder.read_object(folder / "manifest.json"), run_folder.read_object(folder / "config.json")

    only = [f"--only={','.join(f'bits-files:{number}' for number in range(2, 27, 5))}", "--minutes=5"]
    chaos.main(only)
    assert counts(capsys.readouterr().out) == [5, 0, 5, 0, 0]
    monkeypatch.setattr(results, "read_whole", careless)
    with pytest.raises(SystemExit) as ended:
        chaos.main(only)
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    tried, _, _, wrong, _ = counts(printed)
    assert tried == 5
    assert wrong > 0
    assert printed.count("wrong: 0:bits-files:") == wrong


def test_an_error_of_another_kind_is_wrong(monkeypatch, capsys):
    def fails(case):
        raise ValueError("two\nlines")

    monkeypatch.setitem(chaos.KINDS, "edits", chaos.KINDS["edits"]._replace(run=fails))
    with pytest.raises(SystemExit):
        chaos.main(["--only=edits:3"])
    assert "wrong: 0:edits:3: ValueError: two lines" in capsys.readouterr().out


def test_a_case_draws_the_same_numbers_again_and_what_is_late_is_counted(monkeypatch, capsys):
    drawn = []

    def draws(case):
        drawn.append((case.number, case.numbers.random()))
        return Outcome(SAME, times=3)

    monkeypatch.setitem(chaos.KINDS, "edits", chaos.KINDS["edits"]._replace(run=draws))
    chaos.main(["--only=edits", "--share=0.1"])
    first = sorted(drawn)
    assert counts(capsys.readouterr().out) == [12, 12, 0, 0, 0]
    drawn.clear()
    chaos.main(["--only=edits:2"])
    assert drawn == [first[2]]
    drawn.clear()
    chaos.main(["--only=edits:2", "--seed=1"])
    assert drawn[0][1] != first[2][1]
    capsys.readouterr()
    chaos.main(["--only=edits:2", "--minutes=1e-9"])
    printed = capsys.readouterr().out
    assert counts(printed) == [0, 0, 0, 0, 1]
    assert "left out: for want of time" in printed


def test_wrong_arguments_are_refused():
    for wrong in ("--only=edit", "--seed=-1", "--minutes=0", "--config.seed=1"):
        with pytest.raises(InputError):
            chaos.main([wrong])


def test_every_kind_is_tried_at_every_share():
    assert {kind for kind, _ in chaos.chosen_cases(",".join(chaos.KINDS), 0.001)} == set(chaos.KINDS)
    whole = chaos.chosen_cases(",".join(chaos.KINDS), 1)
    assert len(whole) == sum(kind.cases for kind in chaos.KINDS.values())


@pytest.mark.long
def test_nothing_is_wrong(capsys):
    chaos.main(["--minutes=5", "--share=0.1"])
    tried, _, _, wrong, _ = counts(capsys.readouterr().out)
    assert tried > 20
    assert wrong == 0
