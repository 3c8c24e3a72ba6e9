"""What was drawn of the report before: its opening and its sections.

What is decided and drawn of runs stays the same until the runs, or the code, are others.
"""

import base64
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.results import Run
from hessflat.report.opening import Opening, Picture, make_opening
from hessflat.report.sections import RenderedFigure, Section, make_section
from hessflat.runs.run_folder import FINISHED
from hessflat.utils.files import write_atomically

Made = TypeVar("Made")

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
    return _kept(
        folder / f"{stored.slug}.json",
        _digest(_code(sources), _parts(stored)),
        lambda: make_section(stored),
        _section_written,
        functools.partial(_section_read, stored),
    )


def opening(sections: Sequence[Section], folder: Path | None, sources: tuple[Path, ...]) -> Opening:
    """`make_opening`, likewise."""
    if folder is None:
        return make_opening(sections)
    key = _digest(_code(sources), *(_parts(section.stored) for section in sections))
    return _kept(folder / "opening.json", key, lambda: make_opening(sections), _opening_written, _opening_read)


def _kept(
    path: Path,
    key: str,
    make: Callable[[], Made],
    written: Callable[[Made], dict[str, Any]],
    read: Callable[[Mapping[str, Any]], Made],
) -> Made:
    """What the file holds, where it is of this key; else what `make` makes, which the file then holds."""
    try:
        held = json.loads(path.read_bytes())
        if held["key"] == key:
            return read(held)
    except (OSError, ValueError, KeyError, TypeError):  # there is none, or none that was written whole
        pass
    made = make()
    write_atomically(path, json.dumps({"key": key, **written(made)}))
    return made


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _parts(stored: StoredExperiment) -> list[Any]:
    """All that a section follows from beside the code. Runs are there by their manifests, with digests of all files."""
    return [
        stored.slug,
        [_identity(run) for run in stored.runs],
        [_identity(run) for run in stored.pilots],
        [stored.missing, list(stored.damaged), stored.seeds],
        sorted((name, list(rule)) for name, rule in stored.rules.items()),
    ]


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


def _section_written(made: Section) -> dict[str, Any]:
    return {
        "records": list(made.records),
        "figures": [_figure_written(one) for one in made.figures],
        "tables": [list(table) for table in made.tables],
        "problems": list(made.problems),
    }


def _section_read(stored: StoredExperiment, held: Mapping[str, Any]) -> Section:
    figures, tables = map(_figure_read, held["figures"]), map(_table_read, held["tables"])
    return Section(stored, held["records"], list(figures), list(tables), held["problems"])


def _opening_written(made: Opening) -> dict[str, Any]:
    return {
        "answer": list(made.answer),
        "picture": made.picture and [_figure_written(one) for one in made.picture],
        "figures": [_figure_written(one) for one in made.figures],
        "tables": [list(table) for table in made.tables],
    }


def _opening_read(held: Mapping[str, Any]) -> Opening:
    figures, tables = map(_figure_read, held["figures"]), map(_table_read, held["tables"])
    picture = held["picture"] and Picture(*map(_figure_read, held["picture"]))
    return Opening(held["answer"], picture, list(figures), list(tables))


def _figure_written(one: RenderedFigure) -> list[str]:
    return [one.stem, one.caption, *(base64.b64encode(file).decode() for file in (one.svg, one.png, one.csv))]


def _figure_read(held: Sequence[str]) -> RenderedFigure:
    stem, caption, *files = held
    return RenderedFigure(stem, caption, *map(base64.b64decode, files))


def _table_read(held: Sequence[Any]) -> Table:
    def tuples(rows: Iterable[Iterable[str]]) -> tuple[tuple[str, ...], ...]:
        return tuple(map(tuple, rows))

    caption, header, rows = held
    return Table(caption, tuple(header), tuples(rows))
