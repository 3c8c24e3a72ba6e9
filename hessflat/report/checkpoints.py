"""The page of a folder of checkpoints that was measured: curves, spectra, a table, and what could not be measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from hessflat import plot
from hessflat.analysis.experiment import Table
from hessflat.analysis.names import number
from hessflat.curvature import EigenPairs, spectrum_from_arrays
from hessflat.plot.style import STYLE, TEXT_WIDTH, ordered_colours
from hessflat.report.page import render
from hessflat.report.sections import as_csv
from hessflat.utils.files import write_atomically

# What is drawn over the steps, in panels: the quantities of one kind, and whether on a log axis.
PANELS = (
    (("loss",), True),
    (("gradient_norm",), True),
    (("lambda_max",), True),
    (("trace",), False),
    (("tail_exponent",), False),
    (("num_outliers",), False),
)
_SPECTRA = 4  # at most, evenly over the steps
_ERRORS = {"lambda_max": "lambda_max_residual", "trace": "trace_standard_error", "tail_exponent": "tail_exponent_se"}

_INTRODUCTION = (
    "λ_max has its residual as error: some eigenvalue lies within it. Trace and exponent have standard errors. The "
    "tail is a density λ^−α, fitted to the largest `tail size` of the `num eigenvalues` positive eigenvalues that "
    "were found. It is ruled out where p is below 0.1. Outliers are the eigenvalues above the largest ratio of "
    "neighbours, which is given. The ratio is taken among the upper half of these eigenvalues, and among 20 at least."
)


def write(out: Path, lines: Sequence[Mapping[str, Any]], problems: Sequence[tuple[str, str]], title: str) -> Path:
    """Write `index.html` and `measurements.csv` into a folder that holds `spectra/`, and return the page's path.

    Args:
        out: the folder.
        lines: what was measured at each checkpoint, in the order of steps.
        problems: names and reasons of checkpoints that could not be measured.
        title: of the page.
    """
    figures = [(_curves(lines), "Measurements against the training step, with errors as bands.")] if lines else []
    if spectra := _spectra(out, lines):
        figures.append(spectra)
    if lines:
        write_atomically(out / "measurements.csv", as_csv(_columns(lines)))
    variables = {"counted": _counted(lines, problems), "problems": problems, "figures": figures}
    numbers = table(lines) if lines else None
    write_atomically(out / "index.html", render("checkpoints.html", title=title, numbers=numbers, **variables))
    return out / "index.html"


def table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each checkpoint: its step, its name and its numbers with their errors."""
    names = [name for name in _columns(lines) if name not in ("step", "name", *_ERRORS.values())]
    rows = []
    for line in lines:
        cells = []
        for name in names:
            value, error = line.get(name), line.get(_ERRORS.get(name, ""))
            text = "–" if value is None else number(value)
            cells.append(text if error is None or value is None else f"{text} ± {number(error, 2)}")
        rows.append((str(line["step"]), str(line["name"]), *cells))
    header = ("step", "checkpoint", *(name.replace("_", " ") for name in names))
    return Table(_INTRODUCTION, header, tuple(rows))


def _counted(lines: Sequence[Any], problems: Sequence[Any]) -> str:
    lost = f", {len(problems)} could not be measured" if problems else ""
    return f"{len(lines)} checkpoint{'s' * (len(lines) != 1)} measured{lost}."


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The numbers of every line by name; those of its bookkeeping are left out."""
    ours = ("digest", "arrays")
    names = dict.fromkeys(name for line in lines for name in line if name not in ours)
    return {name: [line.get(name) for line in lines] for name in names}


def _curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    known = _columns(lines)
    shown = [(names, log) for names, log in PANELS if any(value is not None for value in known.get(names[0], ()))]
    history = [{_renamed(name): value for name, value in line.items()} for line in lines]
    rows, columns = -(-len(shown) // 3), min(len(shown), 3)
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(TEXT_WIDTH * max(columns, 2) / 3, 2.0 * rows), layout="constrained")
        for place, (names, log) in enumerate(shown):
            axes = drawn.add_subplot(rows, columns, place + 1)
            positive = all(value is None or value > 0 for name in names for value in known[name])
            plot.tracked(history, names, ax=axes, log=log and positive)
    return plot.as_svg(drawn)


def _renamed(name: str) -> str:
    return "tail_exponent_standard_error" if name == "tail_exponent_se" else name


def _spectra(out: Path, lines: Sequence[Mapping[str, Any]]) -> tuple[bytes, str] | None:
    """Densities and eigenvalues by rank at a few steps, as SVG with its caption."""
    there = [line for line in lines if line.get("arrays")]
    if not there:
        return None
    chosen = [there[index] for index in sorted({round(i) for i in np.linspace(0, len(there) - 1, _SPECTRA)})]
    stored = [(line, read_arrays(out, line)) for line in chosen]
    densities = [(line, arrays) for line, arrays in stored if "nodes" in arrays]
    # On a logarithmic axis there are positive ones alone.
    ranks = [(line, arrays) for line, arrays in stored if (arrays.get("eigenvalues", np.zeros(0)) > 0).any()]
    panels = [group for group in (densities, ranks) if group]
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(TEXT_WIDTH * len(panels) / 2, 2.4), layout="constrained")
        for place, group in enumerate(panels):
            axes = drawn.add_subplot(1, len(panels), place + 1)
            for (_, arrays), colour in zip(group, ordered_colours(len(group)), strict=True):
                if group is densities:
                    plot.density(spectrum_from_arrays(_of_spectrum(arrays)), axes, colour=colour)
                else:
                    plot.ranks(_pairs(arrays), axes, negative=False, colour=colour)
            if group is densities:
                low, high = zip(*(_range(arrays) for _, arrays in group), strict=True)
                axes.set_xlim(min(low), max(high))
            handles = list(axes.lines)[-len(group) :] if group is densities else axes.containers
            axes.legend(handles, [f"step {line['step']}" for line, _ in group])
    words = [words for words, group in (("spectral densities", densities), ("eigenvalues by rank", ranks)) if group]
    return plot.as_svg(drawn), f"At a few steps, from dark to light: {' and '.join(words)}."


def read_arrays(out: Path, line: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a measured checkpoint."""
    with np.load(out / "spectra" / f"{line['step']}.npz") as stored:
        return dict(stored)


def _of_spectrum(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if name not in ("eigenvalues", "residuals_of_eigenvalues")}


def _range(arrays: Mapping[str, np.ndarray]) -> tuple[float, float]:
    low, high = float(arrays["nodes"].min()), float(arrays["nodes"].max())
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin


def _pairs(arrays: Mapping[str, np.ndarray]) -> EigenPairs:
    values, residuals = arrays["eigenvalues"], arrays["residuals_of_eigenvalues"]
    there = np.ones(len(values), bool)
    return EigenPairs(values, None, residuals, there, 0, 0.0, "", ())
