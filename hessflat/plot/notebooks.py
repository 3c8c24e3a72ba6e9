"""The picture of a record that a notebook shows below its table."""

from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from hessflat.curvature import EigenPairs, ExactSpectrum, JacobianNorms, Line, Plane, Spectrum
from hessflat.plot.curves import jacobian_norms
from hessflat.plot.landscapes import line, plane
from hessflat.plot.spectra import spectrum
from hessflat.plot.style import COLUMN, as_png
from hessflat.utils.errors import InputError

_DRAWN_BY: dict[type, Callable[..., Any]] = {
    Spectrum: spectrum,
    ExactSpectrum: spectrum,
    EigenPairs: spectrum,
    Line: line,
    Plane: plane,
    JacobianNorms: jacobian_norms,
}
_DOTS_PER_INCH = 110


def picture(record: Any) -> bytes | None:
    """The record as a PNG image; None for what has no picture.

    Args:
        record: what a measurement returned.
    """
    draw = _DRAWN_BY.get(type(record))
    if draw is None or len(getattr(record, "values", [0, 0])) < 2:
        return None
    figure = Figure(figsize=COLUMN, layout="constrained")
    try:
        draw(record, figure.add_subplot())
    except InputError:  # such as a plane of several values, of which one has to be named
        return None
    return as_png(figure, _DOTS_PER_INCH)
