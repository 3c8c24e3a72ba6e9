"""Matrices of correlations as grids of colours with their numbers."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.plot.style import STYLE, axes
from hessflat.utils.errors import InputError, shown

_LIGHT_GREY, _DARK_GREY = "#C4C4C4", "#606060"
_INCHES_A_CELL = 0.36
_PALE = 0.4


def correlation(
    matrix: Any,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    ax: Axes | None = None,
    label: str = "correlation",
    found: Any = None,
    known: Any = None,
) -> Axes:
    """Correlations between −1 (blue) and 1 (red), each with its number; nan is left white.

    Args:
        matrix: [r, c] correlations.
        rows: r names.
        columns: c names; by default those of the rows.
        ax: the axes to draw into; None makes a figure.
        label: of the scale of colours.
        found: [r, c] booleans: those whose interval excludes 0, which are bold with a star; the others are pale.
        known: [r, c] booleans: those that have an interval; the others are grey.

    Raises:
        InputError: a matrix of another shape than its names, or with values outside −1 to 1.
    """
    matrix = np.asarray(matrix, float)
    columns = rows if columns is None else columns
    if matrix.shape != (len(rows), len(columns)):
        raise InputError(f"{len(rows)} × {len(columns)} names need a matrix of that shape, got {matrix.shape}")
    if np.nanmax(np.abs(matrix), initial=0) > 1 + 1e-6:
        raise InputError(f"correlations must be between -1 and 1, got {shown(float(np.nanmax(np.abs(matrix))))}")
    is_found = np.zeros(matrix.shape, bool) if found is None else np.asarray(found, bool)
    strength = None if found is None else paleness(is_found)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax, (1.6 + _INCHES_A_CELL * 1.4 * len(columns), 0.9 + _INCHES_A_CELL * 0.75 * len(rows)))
        image = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", alpha=strength)
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            value, star = matrix[row, column], bool(is_found[row, column])
            text = f"{value:+.2f}{'*' if star else ''}"
            is_dark = abs(value) > 0.65 and (star or found is None)
            is_known = known is None or bool(known[row, column])
            ax.text(column, row, text, **_lettering(is_dark, star, is_known))
        ax.grid(False)  # which new axes have
        ax.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
        ax.set_yticks(range(len(rows)), rows)
        ax.tick_params(length=0, labelsize=6)
        ax.xaxis.tick_top()
        ax.spines[:].set_visible(False)
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.6, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def paleness(is_found: np.ndarray) -> np.ndarray:
    """[r, c] The opacity of cells, less where nothing is found."""
    return np.where(is_found, 1.0, _PALE)


def _lettering(is_dark: bool, star: bool, is_known: bool) -> dict[str, Any]:
    if not is_known:
        colour = _LIGHT_GREY if is_dark else _DARK_GREY
    else:
        colour = "white" if is_dark else "black"
    weight = "bold" if star else "normal"
    return {"ha": "center", "va": "center", "fontsize": 6.5, "color": colour, "fontweight": weight}
