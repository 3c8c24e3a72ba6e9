"""Quantities over training with their thresholds, and the distribution of Jacobian norms."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.curvature import JacobianNorms
from hessflat.plot.spectra import plain_ticks, require_finite
from hessflat.plot.style import PALETTE, STYLE, axes
from hessflat.utils.errors import InputError, nearest, shown

# What an error of a number is called in a line of measurements: `lambda_max` and `lambda_max_residual`.
ERRORS = ("_standard_error", "_residual", "_error", "_se", "_bound")
_SYMBOLS = {"lambda_max": r"$\lambda_{\max}$", "lambda_min": r"$\lambda_{\min}$", "num_outliers": "number of outliers"}


def tracked(
    history: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    names: str | Sequence[str] | None = None,
    thresholds: Mapping[str, float | str] | None = None,
    ax: Axes | None = None,
    x: str = "step",
    log: bool = False,
    label: str = "",
) -> Axes:
    """Quantities against the step, each with its error as a band, and thresholds as dashed lines with their names.

    Args:
        history: one mapping for each measured step, such as a line of `metrics.jsonl`: `x` and numbers by name. The
            error of a number is at its name with `_standard_error`, `_residual`, `_error`, `_se` or `_bound`. Numbers
            that are missing, None or nan are gaps. Or a mapping from names to arrays over all steps, as of a scan.
        names: which are drawn; None draws all that are no errors.
        thresholds: for each name in the picture a number, or the name of the quantity that it is at every step.
        ax: the axes to draw into; None makes a figure.
        x: the name of what is on the horizontal axis.
        log: whether the vertical axis is logarithmic.
        label: of the vertical axis; by default the name of a single quantity.

    Raises:
        InputError: nothing to draw, a name that no step has, or numbers that are none.
    """
    if isinstance(history, Mapping):
        shapes = {name: np.shape(values) for name, values in history.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 1 for shape in shapes.values()):
            raise InputError(
                f"a history of arrays must hold one number for each step at every name, got {shown(shapes)}"
            )
        history = [dict(zip(history, row, strict=True)) for row in zip(*history.values(), strict=True)]
    if not isinstance(history, Sequence) or not history or not all(isinstance(line, Mapping) for line in history):
        raise InputError(f"history must be a list of mappings, one for each measured step, got {shown(history)}")
    known = list(dict.fromkeys(name for line in history for name in line))
    one = isinstance(names, str) or not isinstance(names, Iterable | None)
    chosen: list[Any] = [names] if one else list(names or _quantities(known, x))
    lines = _thresholds(thresholds or {})
    needed = [x, *chosen, *(value for value in lines.values() if isinstance(value, str))]
    for name in needed:
        if name not in known:
            raise InputError(f"no step has {shown(name)}; {nearest(name, known)}")
    places = column(history, x)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        for index, name in enumerate(chosen):
            _curve(ax, history, places, name, PALETTE[index % len(PALETTE)], log)
        for index, (name, value) in enumerate(lines.items()):
            style: dict[str, Any] = {"color": "black", "linewidth": 0.8, "linestyle": ("--", ":", "-.")[index % 3]}
            if isinstance(value, str):
                ax.plot(places, column(history, value), label=name, **style)
            else:
                ax.axhline(value, label=name, **style)
        if log:
            ax.set_yscale("log")
            plain_ticks(ax.yaxis)
        ax.set_xlabel(in_words(x))
        ax.set_ylabel(label or (in_words(chosen[0]) if len(chosen) == 1 else "value"))
        if len(chosen) + len(lines) > 1:
            ax.legend()
    return ax


def _thresholds(given: Any) -> dict[str, float | str]:
    if not isinstance(given, Mapping):
        raise InputError(f"thresholds must be a mapping from names to numbers or to quantities, got {shown(given)}")
    for name, value in given.items():
        try:
            float(0 if isinstance(value, str) else value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the threshold {name!r} must be a number or the name of a quantity, got {shown(value)}"
            ) from error
    return dict(given)


def jacobian_norms(record: JacobianNorms, ax: Axes | None = None, colour: str = PALETTE[0]) -> Axes:
    """The distribution of the spectral norms over examples, with their mean and their maximum.

    The horizontal axis is logarithmic where norms span more than a decade. Frobenius norms are drawn as an outline, if
    they are known.

    Args:
        record: what `cv.jacobian_norms` returns.
        ax: the axes to draw into; None makes a figure.
        colour: of the bars.

    Raises:
        InputError: another record, or norms that are not finite.
    """
    if not isinstance(record, JacobianNorms):
        raise InputError(f"Jacobian norms are drawn of what cv.jacobian_norms returns, got {shown(record)}")
    norms = {"$\\|J\\|_2$": record.values}
    if record.frobenius is not None and not np.allclose(record.frobenius, record.values):
        norms["$\\|J\\|_F$"] = record.frobenius
    everything = np.concatenate(list(norms.values()))
    require_finite("norms", everything)
    low, high = float(everything.min()), float(everything.max())
    is_log = low > 0 and high > 10 * low
    count = min(max(int(2 * len(record.values) ** (1 / 3)), 8), 60)
    edges = np.geomspace(low, high, count + 1) if is_log else np.linspace(low, high or 1.0, count + 1)
    with matplotlib.rc_context(STYLE):
        ax = axes(ax)
        for index, (name, values) in enumerate(norms.items()):
            counts, _ = np.histogram(values, edges)
            share = counts / len(values)
            if index:
                ax.stairs(share, edges, color=PALETTE[1], linewidth=1.0, label=name)
            else:
                ax.stairs(share, edges, fill=True, color=colour, alpha=0.75, label=name)
        for value, name, line in ((record.mean, "mean", "-"), (record.max, "max", "--")):
            ax.axvline(value, color="black", linewidth=0.8, linestyle=line, label=f"{name} {value:.3g}")
        if is_log:
            ax.set_xscale("log")
            plain_ticks(ax.xaxis)
        ax.set_xlabel("norm of the input-output Jacobian")
        ax.set_ylabel("share of examples")
        ax.grid(False, axis="x")
        ax.legend()
    return ax


def column(history: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """[n] What every step has at a name; nan where it has nothing.

    Raises:
        InputError: something that is no number.
    """
    values = [line.get(name) for line in history]
    try:
        return np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise InputError(f"{name!r} must be a number at every step, got {shown(values)}") from error


def in_words(name: str) -> str:
    """`lambda_max` -> λ_max as mathtext; other names without their underscores."""
    return _SYMBOLS.get(name, name.replace("_", " "))


def _quantities(known: Sequence[str], x: str) -> list[str]:
    errors = {f"{name}{ending}" for name in known for ending in ERRORS}
    return [name for name in known if name not in (x, "num_products") and name not in errors]


def _curve(
    ax: Axes, history: Sequence[Mapping[str, Any]], places: np.ndarray, name: str, colour: str, log: bool
) -> None:
    values = column(history, name)
    there = np.isfinite(values)
    line = "-" if there.sum() > 40 else "-o"
    ax.plot(places[there], values[there], line, markersize=2.5, color=colour, label=in_words(name))
    known = {key for line in history for key in line}
    error = next((column(history, name + ending) for ending in ERRORS if name + ending in known), None)
    if error is None:
        return
    low = values - error
    if log:
        low = np.where(low > 0, low, values)
    there &= np.isfinite(error)
    ax.fill_between(places[there], low[there], (values + error)[there], color=colour, alpha=0.2, linewidth=0)
