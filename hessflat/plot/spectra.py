"""Spectra: a density with its band, Ritz values with their weights, eigenvalues by rank."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hessflat.curvature import EigenPairs, ExactSpectrum, Spectrum
from hessflat.plot.style import GREY, PALETTE, STYLE, axes
from hessflat.utils.errors import InputError, require_known, shown

KINDS = ("density", "stems", "ranks")

# What is further below the largest value of a density is not drawn.
_DECADES = 6

# Weights can be as small as float64 allows; further down a log axis shows nothing new.
WEIGHT_FLOOR = 1e-12

# Places of a density for each standard deviation of its bumps.
_PLACES = 4


def spectrum(record: Any, ax: Axes | None = None, kind: str = "density", **options: Any) -> Axes:
    """A spectrum as `density`, `stems` or `ranks`.

    Args:
        record: a `Spectrum`, an `ExactSpectrum`, or `EigenPairs` (whose kind is always "ranks").
        ax: the axes to draw into; None makes a figure.
        kind: "density", "stems" or "ranks".
        **options: those of the function of that name.

    Raises:
        InputError: another kind, or a record that it cannot show.
    """
    require_known("kind of picture", [kind], KINDS)
    if isinstance(record, EigenPairs):
        kind = "ranks"
    draw: dict[str, Callable[..., Axes]] = {"density": density, "stems": stems, "ranks": ranks}
    return draw[kind](record, ax, **options)


def density(
    record: Spectrum | ExactSpectrum,
    ax: Axes | None = None,
    exact: ExactSpectrum | None = None,
    width: float | None = None,
    colour: str = PALETTE[0],
    label: str = "",
) -> Axes:
    """The spectral density in eigenvalues per unit of λ, smoothed by Gaussians, on a log axis over six decades.

    The band is ± one standard error over probes, and is not there for a single probe. Ticks along the upper edge are
    eigenvalues that are known exactly.

    Args:
        record: what is drawn.
        ax: the axes to draw into; None makes a figure.
        exact: all eigenvalues of the same operator, whose density is drawn behind.
        width: the standard deviation of the Gaussians; by default 1 % of the range of eigenvalues.
        colour: of the curve.
        label: of the curve in a legend.

    Raises:
        InputError: a record without a density, or with eigenvalues that are not finite.
    """
    curve = smoothed(record, width)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        floor = curve.mean.max() * 10.0**-_DECADES
        if exact is not None:
            behind = smoothed(exact, curve.width, curve.grid)
            ax.fill_between(
                behind.grid, floor, np.maximum(behind.mean, floor), color="#D9D9D9", linewidth=0, zorder=0.5
            )
        if np.isfinite(curve.error).all():
            low, high = (np.maximum(curve.mean + sign * curve.error, floor) for sign in (-1, 1))
            ax.fill_between(curve.grid, low, high, color=colour, alpha=0.25, linewidth=0)
        ax.plot(curve.grid, np.maximum(curve.mean, np.finfo(float).tiny), color=colour, label=label or None)
        for known in (record, exact):
            if isinstance(known, ExactSpectrum):
                rug(ax, known.values)
        _log_density(ax, floor, curve.mean.max())
        ax.set_xlim(curve.grid[0], curve.grid[-1])
        ax.set_xlabel("eigenvalue $\\lambda$")
        ax.set_ylabel("density")
        if label:
            ax.legend()
    return ax


def stems(record: Spectrum, ax: Axes | None = None, probe: int = 0, colour: str = PALETTE[0]) -> Axes:
    """The Ritz values of one probe and their weights, without smoothing, on a log axis.

    Args:
        record: a `Spectrum`.
        ax: the axes to draw into; None makes a figure.
        probe: which of its probes.
        colour: of the stems.

    Raises:
        InputError: a record without Ritz values, a probe that it does not have.
    """
    if not isinstance(record, Spectrum):
        raise InputError(f"stems are drawn of a Spectrum, got {shown(record)}; take kind='density' or 'ranks'")
    if not 0 <= probe < len(record.nodes):
        raise InputError(f"probe must be one of 0 to {len(record.nodes) - 1}, got {shown(probe)}")
    valid = record.num_valid[probe]
    nodes, weights = record.nodes[probe, :valid], record.weights[probe, :valid]
    floor = 10.0 ** math.floor(math.log10(max(weights.min(), WEIGHT_FLOOR)) - 0.3)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        draw_stems(ax, nodes, weights, floor, colour)
        ax.set_yscale("log")
        ax.set_ylim(floor, 3.0)
        ax.set_xlabel("Ritz value")
        ax.set_ylabel("weight")
    return ax


def ranks(
    record: Spectrum | ExactSpectrum | EigenPairs,
    ax: Axes | None = None,
    negative: bool = True,
    colour: str = PALETTE[0],
) -> Axes:
    """Eigenvalues against their rank on log axes, the largest first; negative ones by magnitude, as rings.

    Errors are residuals. The ranks of a `Spectrum` are estimates: each Ritz value stands for as many eigenvalues as its
    weight says, a horizontal line. A dashed line is the noise floor, below which values cannot be told from zero.

    Args:
        record: what is drawn.
        ax: the axes to draw into; None makes a figure.
        negative: whether negative eigenvalues are drawn.
        colour: of the positive ones.

    Raises:
        InputError: a record without eigenvalues, or with some that are not finite.
    """
    found = _ranked(record)
    require_finite("eigenvalues", found.values)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        for sign, name, shade in ((1, "positive", colour), (-1, "negative, $|\\lambda|$", PALETTE[1])):
            chosen = _of_sign(found, sign)
            if not chosen.values.size or (sign < 0 and not negative):
                continue
            if chosen.widths is not None:
                ends = np.cumsum(chosen.widths) + 0.5
                starts = np.maximum(ends - chosen.widths, 1.0)
                ax.hlines(chosen.values, starts, np.maximum(ends, 1.1), color=shade, linewidth=1.6, label=name)
                continue
            ax.errorbar(
                np.arange(1, chosen.values.size + 1),
                chosen.values,
                yerr=chosen.errors,
                fmt="o",
                color=shade,
                markerfacecolor=shade if sign > 0 else "none",
                markersize=3 if chosen.values.size < 200 else 1.5,
                markeredgewidth=0.6,
                elinewidth=0.7,
                label=name,
            )
        ax.set_yscale("log")
        largest = np.abs(found.values).max() or 1.0
        smallest = np.abs(found.values[np.abs(found.values) > found.floor]).min(initial=largest)
        ax.set_ylim(max(smallest / 2, found.floor / 3, largest * 1e-12), 2 * largest)
        if ax.get_ylim()[0] < found.floor:
            ax.axhline(found.floor, color=GREY, linestyle="--", linewidth=0.7, label="noise floor")
        plain_ticks(ax.yaxis, powers=True)
        if len(found.values) > 30:
            ax.set_xscale("log")
            plain_ticks(ax.xaxis)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("rank")
        ax.set_ylabel("eigenvalue $\\lambda$")
        named = sorted(zip(*ax.get_legend_handles_labels(), strict=True), key=lambda one: one[1] == "noise floor")
        if len(named) > 1:
            ax.legend(*zip(*named, strict=True), loc="lower left")
    return ax


class Smoothed(NamedTuple):
    """A density on a grid with its standard error, and the width of its bumps."""

    grid: np.ndarray  # [g]
    mean: np.ndarray  # [g]
    error: np.ndarray  # [g], nan where it is not known
    width: float


def smoothed(record: Any, width: float | None = None, grid: np.ndarray | None = None) -> Smoothed:
    """The density of a record, smoothed over `width`, on a grid that resolves it.

    Raises:
        InputError: a record without a density.
    """
    if isinstance(record, Spectrum):
        low, high = record.smallest.value, record.largest.value
    elif isinstance(record, ExactSpectrum):
        low, high = float(record.values[0]), float(record.values[-1])
    else:
        raise InputError(f"a density is drawn of a Spectrum or an ExactSpectrum, got {shown(record)}")
    found = record.nodes[record.weights > 0] if isinstance(record, Spectrum) else record.values
    require_finite("eigenvalues", found)
    width = width or 0.01 * (high - low) or 1.0
    if grid is None:
        count = min(max(int(_PLACES * (high - low) / width), 200) + 1, 20_001)
        grid = np.linspace(low - 5 * width, high + 5 * width, count)
    if isinstance(record, Spectrum):
        measured = record.density(grid, width)
        return Smoothed(grid, measured.mean, measured.standard_error, width)
    counts, edges = np.histogram(record.values, np.linspace(low, high, 4_001) if high > low else 1)
    middles, shares = (edges[1:] + edges[:-1]) / 2, counts / record.size
    used = shares > 0
    offsets = (grid[:, None] - middles[None, used]) / width
    mean = np.exp(-0.5 * offsets**2) @ shares[used] / (width * math.sqrt(2 * math.pi))
    return Smoothed(grid, mean, np.zeros_like(mean), width)


def draw_stems(ax: Axes, nodes: np.ndarray, weights: np.ndarray, floor: float, colour: str = PALETTE[0]) -> None:
    """Draw Ritz values and their weights; what is below `floor` is drawn there."""
    heights = np.maximum(weights, floor)
    ax.vlines(nodes, floor, heights, color=colour, linewidth=0.7, label="stems")
    ax.plot(nodes, heights, "o", color=colour, markersize=2.4, linestyle="none", label="Ritz values")


def rug(ax: Axes, values: np.ndarray, ends: tuple[float, float] | None = None, colour: str = PALETTE[1]) -> None:
    """Draw a tick along the upper edge for every eigenvalue; those that the drawing cannot tell apart share one."""
    low, high = ends or (float(values.min()), float(values.max()))
    cells = np.unique(np.round((values - low) / (high - low or 1.0) * 1000).astype(int))
    ticks = low + cells / 1000 * (high - low)
    ax.plot(
        ticks,
        np.full(ticks.size, 0.97),
        "|",
        color=colour,
        markersize=4,
        markeredgewidth=0.5,
        transform=ax.get_xaxis_transform(),
        label="exact eigenvalues",
    )


def plain_ticks(axis: Any, powers: bool = False) -> None:
    """Ticks of a log axis as plain numbers, at 1, 2 and 5 within two decades; with `powers` as powers where beyond."""
    low, high = axis.get_view_interval()
    is_short = high < 100 * max(low, 1e-300)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_short else (1,), numticks=9 if is_short else 7))
    axis.set_minor_locator(NullLocator())
    if is_short or not powers:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def require_finite(what: str, values: np.ndarray) -> None:
    """Refuse numbers that cannot be drawn.

    Raises:
        InputError: some are not finite; the line says how many.
    """
    if lost := int(np.sum(~np.isfinite(values))):
        raise InputError(f"{what} must be finite to be drawn, got {lost} of {values.size} that are not")


class _Ranked(NamedTuple):
    """Values in the order in which they are drawn; how many eigenvalues each stands for, where that is an estimate."""

    values: np.ndarray
    errors: np.ndarray | None
    widths: np.ndarray | None
    floor: float


def _ranked(record: Any) -> _Ranked:
    if isinstance(record, EigenPairs):
        return _Ranked(record.values, record.residuals, None, 0.0)
    if isinstance(record, ExactSpectrum):
        return _Ranked(record.values, None, None, record.noise_floor)
    if isinstance(record, Spectrum):
        used = record.weights.ravel() > 0
        shares = record.weights.ravel()[used] * record.size / len(record.nodes)
        return _Ranked(record.nodes.ravel()[used], None, shares, record.noise_floor)
    raise InputError(f"ranks are drawn of a Spectrum, an ExactSpectrum or EigenPairs, got {shown(record)}")


def _of_sign(found: _Ranked, sign: int) -> _Ranked:
    order = np.argsort(-sign * found.values, kind="stable")
    order = order[sign * found.values[order] > found.floor]
    errors, widths = (None if part is None else part[order] for part in (found.errors, found.widths))
    return _Ranked(sign * found.values[order], errors, widths, found.floor)


def _log_density(ax: Axes, floor: float, top: float) -> None:
    if ax.get_yscale() == "log":  # further densities in the same axes
        low, high = ax.get_ylim()
        floor, top = min(low, floor), max(high / 3, top)
    ax.set_yscale("log")
    ax.set_ylim(floor, 3 * top)
    ax.yaxis.set_major_locator(LogLocator(numticks=6))
    ax.yaxis.set_minor_locator(NullLocator())
