"""Sections of the report that were drawn before.

What is decided and drawn of runs stays the same until the runs, or the code, are others.
"""

import base64
import functools
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.results import Run
from hessflat.report.sections import RenderedFigure, Section, make_section
from hessflat.runs.run_folder import FINISHED
from hessflat.utils.files import write_atomically

# Of which a change may change what is drawn.
_LIBRARIES = ("jax", "matplotlib", "numpy", "pillow", "scipy")


def section(stored: StoredExperiment, folder: Path | None, sources: tuple[Path, ...]) -> Section:
    """`make_section`, from what is kept of it in the folder, where it was made of the same runs by the same code.

    Args:
        stored: the experiment.
        folder: where a file for each experiment and scale is; None keeps nothing.
        sources: the folders with the code of experiments.
    """
    if folder is None:
        return make_section(stored)
    path, key = folder / f"{stored.slug}.json", _key(stored, sources)
    try:
        kept = json.loads(path.read_bytes())
        if kept["key"] == key:
            return _read(stored, kept)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or none that was written whole
        pass
    made = make_section(stored)
    write_atomically(path, json.dumps({"key": key, **_written(made)}))
    return made


def _key(stored: StoredExperiment, sources: tuple[Path, ...]) -> str:
    """The digest of all that a section follows from: the code, and the runs by their manifests, which have digests of
    every file.
    """
    parts = [
        _code(sources),
        stored.slug,
        [_identity(run) for run in stored.runs],
        [_identity(run) for run in stored.pilots],
        [stored.missing, list(stored.damaged), stored.seeds],
        sorted((name, list(rule)) for name, rule in stored.rules.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(run: Run) -> list[Any]:
    # Of a run that goes on, the manifest does not know the last lines.
    return [run.path, run.manifest, None if run.status in FINISHED else run.metrics]


@functools.cache
def _code(sources: tuple[Path, ...]) -> str:
    """The digest of this package, of what experiments do, and of the versions of libraries."""
    digest = hashlib.sha256(platform.python_version().encode())
    for name in _LIBRARIES:
        digest.update(metadata.version(name).encode())
    for place in (Path(__file__).parents[1], *sources):
        for path in sorted(place.rglob("*.py")):
            digest.update(f"{path.relative_to(place)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _written(made: Section) -> dict[str, Any]:
    figures = [
        [one.stem, one.caption, *(base64.b64encode(file).decode() for file in (one.svg, one.png, one.csv))]
        for one in made.figures
    ]
    return {
        "records": list(made.records),
        "figures": figures,
        "tables": [list(table) for table in made.tables],
        "problems": list(made.problems),
    }


def _read(stored: StoredExperiment, kept: Mapping[str, Any]) -> Section:
    def tuples(rows: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
        return tuple(map(tuple, rows))

    return Section(
        stored,
        kept["records"],
        [RenderedFigure(stem, caption, *map(base64.b64decode, files)) for stem, caption, *files in kept["figures"]],
        [Table(caption, tuple(header), tuples(rows)) for caption, header, rows in kept["tables"]],
        kept["problems"],
    )
