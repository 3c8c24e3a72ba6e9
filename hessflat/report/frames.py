"""Stored runs as pandas data frames: `hessflat.load("runs")`."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hessflat.analysis.results import Run, load_run
from hessflat.config import flatten
from hessflat.report.claims import read_claims
from hessflat.runs.archive import ENDING, unpack, unpacked
from hessflat.utils.errors import InputError

if TYPE_CHECKING:
    import pandas


class Frames(NamedTuple):
    """Stored runs as tables. Each has a column `run`, a run's path `<experiment>/<name>`.

    Attributes:
        runs: one row a run: its status, whether it learnt and fitted, its number of parameters and steps, and every
            setting under its dotted name.
        steps: one row for each measured step of a run, with every metric.
        spectra: one row for each number of `spectra/<step>-<operator>.npz`: its array, its place in the array in
            row-major order, its value. Texts, such as the precision, are left out.
        claims: one row for each claim of a report that rests on one of the runs, as in its `claims.json`; empty where
            there is no report.
    """

    runs: "pandas.DataFrame"
    steps: "pandas.DataFrame"
    spectra: "pandas.DataFrame"
    claims: "pandas.DataFrame"


def load(folder: str | Path, report: str | Path = "report") -> Frames:
    """The runs below a folder as data frames; needs pandas.

    Args:
        folder: of one run, of an experiment's runs, of all runs, or of archives, as `archive` writes them; or one
            archive.
        report: the folder of a report; one that is not there has no claims.

    Raises:
        InputError: no runs, a run that is damaged, or no pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("data frames need pandas; pip install 'hessflat[frames]'") from error
    folder = Path(folder)
    with _out_of_archives(folder) as root:
        runs = [load_run(path.parent) for path in sorted(root.rglob("manifest.json"))]
        if not runs:
            raise InputError(f"no runs in {folder}; give a folder that a command wrote runs to, such as runs")
        spectra = [row for run in runs for row in _numbers_of(run)]
    steps = [{"run": _name(run)} | line for run in runs for line in run.metrics]
    named = {_name(run) for run in runs}
    return Frames(
        pandas.DataFrame([_facts(run) for run in runs]),
        pandas.DataFrame(steps),
        pandas.DataFrame(spectra, columns=["run", "step", "operator", "array", "index", "value"]),
        pandas.DataFrame([claim for claim in _claims(Path(report)) if named & set(map(_short, claim["runs"]))]),
    )


@contextlib.contextmanager
def _out_of_archives(folder: Path) -> Iterator[Path]:
    """The folder, or one with the runs of the archives in it, or of the archive that it is."""
    if folder.name.endswith(ENDING):
        with tempfile.TemporaryDirectory() as place:
            unpack(folder, Path(place) / "runs")
            yield Path(place) / "runs"
    elif any(folder.glob(f"*{ENDING}")):
        with unpacked(folder) as root:
            yield root
    else:
        yield folder


def _name(run: Run) -> str:
    return _short(run.path)


def _short(path: str) -> str:
    """`runs/g_mlp/small-…` without its first folder."""
    return "/".join(path.split("/")[-2:])


def _facts(run: Run) -> dict[str, Any]:
    facts = {"run": _name(run), "status": run.status, "learnt": run.learnt, "fitted": run.fitted}
    stored = {name: run.manifest.get(name) for name in ("num_params", "steps")}
    return facts | stored | flatten(run.config)


def _numbers_of(run: Run) -> list[dict[str, Any]]:
    rows = []
    for path in sorted((run.folder / "spectra").glob("*.npz")):
        step, _, operator = path.stem.partition("-")
        for array, values in run.spectrum(operator, int(step)).items():
            if np.issubdtype(values.dtype, np.number):
                place = {"run": _name(run), "step": int(step), "operator": operator, "array": array}
                rows += [place | {"index": i, "value": value} for i, value in enumerate(values.ravel().tolist())]
    return rows


def _claims(report: Path) -> list[dict[str, Any]]:
    path = report / "claims.json"
    return read_claims(path) if path.exists() else []
