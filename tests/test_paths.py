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
import hessflat.curvature
from benchmarks import paths
print(json.dumps(paths.measure(paths.lanczos_of_ten_steps)))
"""


def test_a_lanczos_of_ten_steps_enters_ten_files_and_twelve_calls():
    result = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True, cwd=ROOT)
    files, functions, chain = json.loads(result.stdout)
    assert len(files) <= 10, files
    assert len(chain) <= 12, chain
    assert functions <= 110  # so that files are not fewer for being harder to read


@pytest.mark.slow
def test_a_smoke_run_of_g_mlp_goes_eighteen_calls_deep():
    result = subprocess.run(
        [sys.executable, "-c", COUNT.replace("lanczos_of_ten_steps", "smoke_run")],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    files, _, chain = json.loads(result.stdout.splitlines()[-1])
    assert len(files) <= 52, files
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
    assert counted.chain == ("utils/errors.py:require_known", "utils/errors.py:nearest")
