"""Losses on lines and planes through parameter space."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hessflat.curvature import Line, Plane
from hessflat.plot.style import GREY, PALETTE, STYLE, axes
from hessflat.utils.errors import InputError, nearest, shown

# Perceptually even, in colour and in grey, and readable with every form of colour blindness.
_MAP = "cividis"


def line(record: Line, ax: Axes | None = None, values: str | int | None = None, label: str = "value") -> Axes:
    """Values along a line against α, with the length of one unit of α in the label.

    Args:
        record: a `Line`.
        ax: the axes to draw into; None makes a figure.
        values: the name, or the position, of the values to draw where the function returned several; None draws all.
        label: of the vertical axis.

    Raises:
        InputError: another record, a name that it does not have.
    """
    if not isinstance(record, Line):
        raise InputError(f"a line is drawn of what cv.line or cv.along returns, got {shown(record)}")
    curves = _named(record.values)
    if values is not None:
        curves = {str(values): _chosen(curves, values)}
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        for place in (0, 1):
            if record.alphas.min() < place < record.alphas.max():
                ax.axvline(place, color=GREY, linewidth=0.6, linestyle=":", zorder=0.5)
        for index, (name, curve) in enumerate(curves.items()):
            many = len(record.alphas) > 40
            colour = PALETTE[index % len(PALETTE)]
            ax.plot(record.alphas, curve, "-" if many else "-o", markersize=2.5, color=colour, label=name)
        ax.set_xlabel(f"$\\alpha$ (one unit is {record.distance:.3g} long)")
        ax.set_ylabel(label if len(curves) > 1 or values is None else str(values))
        if len(curves) > 1:
            ax.legend()
    return ax


def plane(record: Plane, ax: Axes | None = None, values: str | int | None = None, label: str = "loss") -> Axes:
    """Values on a plane as filled contours with a scale of colours; a cross is the origin.

    Levels are even in log where values span more than a decade. Both axes have one scale of lengths in parameter space,
    unless the picture would be too narrow, and the label says how long a unit of each is.

    Args:
        record: a `Plane`.
        ax: the axes to draw into; None makes a figure.
        values: the name, or the position, of the values to draw, where the function returned several.
        label: of the values.

    Raises:
        InputError: another record, values that are not told apart or nowhere finite, a grid of a single row.
    """
    grid, is_log = _on_plane(record, values)
    lengths = record.distances
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        levels, colours = _levels(grid, is_log)
        x, y = np.meshgrid(record.alphas, record.betas, indexing="ij")
        filled = ax.contourf(x, y, grid, levels=levels, norm=colours, cmap=_MAP, extend="both")
        ax.contour(x, y, grid, levels=levels, colors="white", linewidths=0.35, alpha=0.7)
        ax.plot(0, 0, "+", color="white", markersize=7, markeredgewidth=1.2)
        ax.grid(False)
        wide = np.ptp(record.alphas) * lengths[0] / (np.ptp(record.betas) * lengths[1] or 1.0)
        if 0.4 < wide < 2.5:
            ax.set_aspect(lengths[1] / lengths[0])
        _label(ax, record)
        bar = ax.figure.colorbar(filled, ax=ax, pad=0.02, format=FuncFormatter(lambda value, _: f"{value:.2g}"))
        bar.set_label(label)
        bar.set_ticks(levels[:: max(len(levels) // 6, 1)].tolist())
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)  # type: ignore[operator]
    return ax


def surface(record: Plane, ax: Axes | None = None, values: str | int | None = None, label: str = "loss") -> Axes:
    """Values on a plane as a surface in three dimensions, with contours below.

    The vertical axis is the logarithm to base 10 where values span more than a decade.

    Args:
        record: a `Plane`.
        ax: the axes to draw into, with `projection="3d"`; None makes a figure.
        values: the name, or the position, of the values to draw, where the function returned several.
        label: of the values.

    Raises:
        InputError: as `plane`, and axes of two dimensions.
    """
    grid, is_log = _on_plane(record, values)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax, (3.4, 3.0), projection="3d")
        if ax.name != "3d":
            raise InputError("a surface is drawn in axes with projection='3d'; make them so, or take plot.plane")
        x, y = np.meshgrid(record.alphas, record.betas, indexing="ij")
        heights: Any = np.log10(grid) if is_log else grid
        floor = heights.min() - 0.35 * (heights.max() - heights.min() or 1.0)
        space: Any = ax
        space.contour(x, y, heights, 10, offset=floor, cmap=_MAP, linewidths=0.6)
        space.plot_surface(x, y, heights, cmap=_MAP, linewidth=0.15, edgecolor="#FFFFFF60", rstride=1, cstride=1)
        space.set_zlim(floor, heights.max())
        for axis in (space.xaxis, space.yaxis, space.zaxis):
            axis.pane.set_visible(False)
            axis.line.set_linewidth(0.6)
            axis.set_major_locator(MaxNLocator(5))
        space.grid(False)
        space.tick_params(pad=-3, labelsize=6)
        space.set_box_aspect((1, 1, 0.7), zoom=0.9)
        _label(ax, record, pad=-4)
        space.set_zlabel(rf"$\log_{{10}}$ {label}" if is_log else label, labelpad=-4)
        space.view_init(elev=28, azim=-55)
    return ax


def _label(ax: Axes, record: Plane, **pad: Any) -> None:
    labelled = {f"label{name}": value for name, value in pad.items()}
    for axis, symbol, length in zip(("x", "y"), (r"\alpha", r"\beta"), record.distances, strict=True):
        getattr(ax, f"set_{axis}label")(f"${symbol}$ (one unit is {length:.3g} long)", **labelled)


def _named(values: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of a tree of values by its path."""
    if isinstance(values, np.ndarray):
        return {prefix or "value": values}
    named = values.items() if isinstance(values, Mapping) else enumerate(values)
    found: dict[str, np.ndarray] = {}
    for name, part in named:
        found |= _named(part, f"{prefix}/{name}" if prefix else str(name))
    return found


def _chosen(curves: dict[str, np.ndarray], name: str | int) -> np.ndarray:
    if str(name) not in curves:
        raise InputError(f"no values {shown(name)} in what was measured; {nearest(name, curves)}")
    return curves[str(name)]


def _on_plane(record: Plane, values: str | int | None) -> tuple[np.ma.MaskedArray, bool]:
    """The values to draw, without those that are not finite, and whether on a log scale."""
    if not isinstance(record, Plane):
        raise InputError(f"a plane is drawn of what cv.plane returns, got {shown(record)}")
    found = _named(record.values)
    if values is None and len(found) > 1:
        raise InputError(f"the plane has several values, {', '.join(found)}; say values=... which")
    grid = _chosen(found, values) if values is not None else next(iter(found.values()))
    if min(grid.shape) < 2:
        raise InputError(f"a plane is drawn from 2 × 2 points on, got {grid.shape[0]} × {grid.shape[1]}; see plot.line")
    if not np.isfinite(grid).any():
        raise InputError("no value of the plane is finite; move its ends closer to the origin")
    masked = np.ma.masked_invalid(grid)
    return masked, bool(masked.min() > 0 and masked.max() > 10 * masked.min())


def _levels(grid: np.ma.MaskedArray, is_log: bool) -> tuple[np.ndarray, Any]:
    low, high = float(grid.min()), float(grid.max())
    # Levels between values that are alike to rounding would not rise.
    if high - low <= 100 * np.finfo(float).eps * max(abs(low), abs(high)):
        margin = max(0.5, 1e-3 * abs(low))
        low, high, is_log = low - margin, high + margin, False
    space = np.geomspace if is_log else np.linspace
    norm = (matplotlib.colors.LogNorm if is_log else matplotlib.colors.Normalize)(low, high)
    return space(low, high, 19), norm
