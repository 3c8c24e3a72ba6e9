"""Two versions in turn: what is printed, and what ends with an error."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import compare
from hessflat.utils.errors import InputError

ROOT = Path(__file__).parents[1]


def trees():
    listed = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.count("\n")


@pytest.mark.long
def test_a_version_beside_itself_gives_the_same_numbers(capsys):
    before = trees()
    arguments = ["--commit=HEAD", "--only=W1", "--scale=smoke", "--repeats=2"]
    for limit, status in (("1000", 0), ("0.001", 1)):
        with pytest.raises(SystemExit) as ended:
            compare.main([*arguments, f"--limit={limit}"])
        assert ended.value.code == status
    printed = capsys.readouterr().out
    assert printed.count("slower than HEAD") == 1
    assert "other numbers" not in printed
    assert trees() == before


def test_the_ratio_is_the_median_over_pairs():
    seconds = np.array([(1.0, 2.0), (3.0, 4.0), (9.0, 1.0)])
    one = compare.Compared("W1", (1.0, 4.0), seconds, 1e-9)
    assert one.ratio == 0.75
    (row,) = compare.table([one], "HEAD~1").rows
    assert row == ("W1", "3", "2", "0.750", "0.500 to 9.000", "0.250", "1e-09")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--commit=… is missing"),
        (["--commit=HEAD", "--only=W8a"], "W8a is not one call that is timed; compare W1"),
        (["--commit=nowhere", "--only=W1"], "--commit=nowhere cannot be checked out"),
        (["--commit=HEAD", "--limit=0"], "--limit must be a number above 0"),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, message):
    with pytest.raises(InputError, match=message):
        compare.main(arguments)
