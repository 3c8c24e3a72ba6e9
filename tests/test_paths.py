"""One thing followed through the package stays short: few files, few calls deep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import hessflat.utils.errors as errors
from benchmarks import paths

ROOT = Path(__file__).parents[1]
COUNT = """
import json
from benchmarks import paths
paths.import_everything()
print(json.dumps(paths.measure(paths.{})))
"""


def count(path):
    """Files, functions and chain of one path of `benchmarks.paths`, in a process where nothing is compiled."""
    command = [sys.executable, "-c", COUNT.format(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_lanczos_of_ten_steps_enters_eleven_files_and_twelve_calls():
    files, functions, chain = count("lanczos_of_ten_steps")
    assert len(files) <= 11, files
    assert len(chain) <= 12, chain
    assert functions <= 175  # so that files are not fewer for being harder to read


@pytest.mark.long
def test_a_smoke_run_of_g_mlp_enters_forty_four_files_and_goes_eighteen_calls_deep():
    files, _, chain = count("smoke_run")
    assert len(files) <= 44, files  # one of them for what several processes agree upon
    assert len(chain) <= 18, chain


def test_what_is_counted():
    counted = paths.measure(lambda: [(lambda: paths.main.__doc__)() for _ in range(2)])
    assert counted == paths.Paths((), 0, ())  # nothing of the package, whatever else is called

    counted = paths.measure(lambda: errors.require_known("name", ["a"], (name for name in "ab")))
    assert counted == paths.Paths(("utils/errors.py",), 1, ("utils/errors.py:require_known",))

    def refused():
        with pytest.raises(errors.InputError):
            errors.require_known("name", ["c"], "ab")

    counted = paths.measure(refused)
    assert counted.chain[0] == "utils/errors.py:require_known"
    assert counted.chain[1] in ("utils/errors.py:nearest", "utils/errors.py:shown")
