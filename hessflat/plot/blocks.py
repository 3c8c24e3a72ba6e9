"""Blocks of parameters side by side: their spectra as ridges, or one number of each with its error."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from hessflat.curvature import BlockSpectra, Estimate, ExactSpectrum, RitzValue, Spectrum
from hessflat.plot.spectra import plain_ticks
from hessflat.plot.style import PALETTE, STYLE, axes
from hessflat.utils.errors import InputError, shown

_INCHES_A_BLOCK = 0.3
# Heights of ridges are the logarithm of a density over this many decades.
_DECADES = 5
# The axis is linear within this share of the largest |λ| of all blocks.
_LINEAR = 1e-4
# The standard deviation of the bumps, in decades of the axis.
_WIDTH = 0.07


def blocks(records: Mapping[str, Any] | BlockSpectra, ax: Axes | None = None, label: str = "") -> Axes:
    """One row for each block, in their order.

    Spectra (`Spectrum` or `ExactSpectrum`) are ridges: the density of eigenvalues on one axis, linear near zero and
    logarithmic beyond, the height the logarithm of the density over five decades. Estimates and eigenvalues
    (`Estimate`, `RitzValue`) are points with their errors, on a log axis where all are positive.

    Args:
        records: a record for each block by its name, or what `cv.block_spectra` returns.
        ax: the axes to draw into; None makes a figure.
        label: of the horizontal axis.

    Raises:
        InputError: no blocks, or records of several kinds.
    """
    if isinstance(records, BlockSpectra):
        records = records.spectra
    if not isinstance(records, Mapping) or not records:
        raise InputError(f"blocks must be a mapping from names to records, got {shown(records)}")
    values = list(records.values())
    with matplotlib.rc_context(STYLE):
        if all(isinstance(value, Spectrum | ExactSpectrum) for value in values):
            draw, words = _ridges, "eigenvalue $\\lambda$"
        elif all(isinstance(value, Estimate | RitzValue) for value in values):
            draw, words = _points, "value"
        else:
            raise InputError(
                "blocks are drawn of spectra, or of estimates with errors, all of one kind, got "
                f"{', '.join(sorted({type(value).__name__ for value in values}))}"
            )
        ax = axes(ax, (3.4, 0.7 + _INCHES_A_BLOCK * len(values)))
        draw(ax, values)
        ax.set_yticks(range(len(values)), list(records))
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(label or words)
    return ax


def _ridges(ax: Axes, values: list[Any]) -> None:
    scale = max(max(abs(end) for end in _ends(value)) for value in values) or 1.0
    linear = _LINEAR * scale

    def along(value: Any) -> Any:
        """Places on the axis: decades beyond `linear`."""
        return np.arcsinh(np.asarray(value) / linear) / math.log(10)

    low = min(min(_ends(value)[0] for value in values), 0.0)
    grid = np.linspace(along(low) - 4 * _WIDTH, along(scale) + 4 * _WIDTH, 801)
    for row, value in enumerate(values):
        nodes, weights = _masses(value)
        bumps = np.exp(-0.5 * ((grid[:, None] - along(nodes)[None]) / _WIDTH) ** 2)
        density = bumps @ weights
        heights = np.clip(1 + np.log10(np.maximum(density / density.max(), 1e-300)) / _DECADES, 0, 1)
        top = row - 0.85 * heights
        ax.fill_between(grid, row, top, color=PALETTE[0], alpha=0.8, linewidth=0, zorder=2 + row)
        ax.plot(grid, top, color="white", linewidth=0.6, zorder=2.5 + row)
        largest = f"$\\lambda_{{\\max}}$ {_ends(value)[1]:.3g}"
        ax.annotate(largest, (1, row), (3, 1), ("axes fraction", "data"), "offset points", fontsize=7)
    ax.set_ylim(len(values) - 0.8, -1.0)
    ax.set_xlim(grid[0], grid[-1])
    ticks = _decades(low, scale, linear)
    ax.set_xticks([float(along(tick)) for tick in ticks])
    ax.set_xticklabels([_power(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.spines["left"].set_visible(False)
    ax.grid(False, axis="y")


def _points(ax: Axes, values: list[Any]) -> None:
    centres = np.array([value.value for value in values])
    errors = np.array([value.residual if isinstance(value, RitzValue) else value.standard_error for value in values])
    places, bars = np.arange(len(values)), np.nan_to_num(errors)
    ax.errorbar(centres, places, xerr=bars, fmt="o", markersize=3.5, color=PALETTE[0], capsize=2, elinewidth=0.8)
    if (centres > 0).all():
        ax.set_xscale("log")
        plain_ticks(ax.xaxis, powers=True)
    ax.set_ylim(len(values) - 0.4, -0.6)


def _ends(record: Any) -> tuple[float, float]:
    if isinstance(record, Spectrum):
        return record.smallest.value, record.largest.value
    return float(record.values[0]), float(record.values[-1])


def _masses(record: Any) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and the share of each."""
    if isinstance(record, Spectrum):
        used = record.weights.ravel() > 0
        return record.nodes.ravel()[used], record.weights.ravel()[used] / len(record.nodes)
    places, counts = np.unique(np.round(record.values / (np.abs(record.values).max() or 1.0), 7), return_counts=True)
    return places * np.abs(record.values).max(), counts / record.size


def _decades(low: float, high: float, linear: float) -> list[float]:
    """Ticks at zero and at powers of ten on both sides, none so close to zero that labels would meet."""
    ticks = [0.0]
    for sign, end in ((1, high), (-1, -low)):
        powers = range(math.ceil(math.log10(6 * linear)), math.floor(math.log10(max(end, linear))) + 1)
        ticks += [sign * 10.0**power for power in powers]
    return sorted(ticks)


def _power(tick: float) -> str:
    if not tick:
        return "0"
    return rf"${'-' * (tick < 0)}10^{{{round(math.log10(abs(tick)))}}}$"
