"""How records of measurements are shown: three lines of text, and in a notebook a table with a picture.

A record names what is worth a line (`record`); its values, their errors and its cost are found by the names that all
records share. Pictures come from `hessflat.plot`, which is imported when a notebook first asks for one.
"""

import base64
import html
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

Record = TypeVar("Record", bound=type)
# What is shown of a record: the name of an attribute, dotted or "values ± residuals", or a function of the record.
Shown = str | Callable[[Any], Any]

# Entries of an array that are written out.
_ENTRIES = 3

# What is counted in the last line, and how it is called.
_COSTS = {"num_products": "products", "num_evaluations": "passes over the data"}


def record(heading: Shown, quantities: Mapping[str, Shown]) -> Callable[[Record], Record]:
    """A decorator of a class of records, by which `str`, `repr` and notebooks show what is worth reading.

    A class that has a `__str__` of its own keeps it, and without quantities notebooks show it too.

    Args:
        heading: what the record is, a text or a function of the record that gives it.
        quantities: for each name where its value is. Of `"values ± residuals"` the second attribute holds the errors;
            an `Estimate` or `RitzValue` has its own. What is None is left out.
    """

    def decorate(cls: Record) -> Record:
        shown_by = {"__repr__": _repr, "_repr_html_": as_html, "_quantities": dict(quantities)}
        shown_by["_heading"] = staticmethod(heading) if callable(heading) else heading
        if "__str__" not in vars(cls):
            shown_by["__str__"] = as_text
        for name, value in shown_by.items():
            setattr(cls, name, value)
        return cls

    return decorate


def as_text(self: Any) -> str:
    """Three lines: what it is, its values ± errors, its cost."""
    parts = (_heading(self), ", ".join(f"{name} {text}" for name, text in rows(self).items()), cost(self))
    return "\n".join(part for part in parts if part)


def as_html(self: Any) -> str:
    """A table of the values with their errors, and below it the picture of the record where there is one."""
    if not type(self)._quantities:
        return f"<pre>{html.escape(str(self))}</pre>"
    lines = "".join(
        f'<tr><td style="text-align:left">{html.escape(name)}</td>'
        f'<td style="text-align:left">{html.escape(text)}</td></tr>'
        for name, text in rows(self).items()
    )
    foot = f"<div><small>{html.escape(cost(self))}</small></div>"
    return f"<div><b>{html.escape(_heading(self))}</b><table>{lines}</table>{foot}{_picture(self)}</div>"


def rows(self: Any) -> dict[str, str]:
    """The text of each quantity of a record with its error, by name; those that it lacks are left out."""
    found = {name: _text_at(self, where) for name, where in type(self)._quantities.items()}
    return {name: text for name, text in found.items() if text is not None}


def cost(self: Any) -> str:
    """`400 products, 1.3 s, highest precision`; empty for a record without a cost."""
    parts = [f"{getattr(self, name):,} {words}" for name, words in _COSTS.items() if hasattr(self, name)]
    if hasattr(self, "seconds"):
        parts.append(f"{self.seconds:.2g} s")
    if isinstance(getattr(self, "precision", None), str):
        parts.append(f"{self.precision} precision")
    return ", ".join(parts)


def plus_minus(value: float, error: float | None = None) -> str:
    """A value as far as its error tells: `8.7292 ± 0.0003`; without one in six digits, with an unknown one in four.

    >>> plus_minus(30.6312, 0.41), plus_minus(8.72921, 3e-9), plus_minus(1.5), plus_minus(30.6312, float("nan"))
    ('30.63 ± 0.41', '8.72921 ± 3.0e-09', '1.5', '30.63 ± unknown')
    """
    if error is None:
        return f"{value:.6g}"
    if not math.isfinite(error):
        return f"{value:.4g} ± unknown"
    if not (error > 0 and math.isfinite(value)):
        return f"{value:.6g} ± {error:g}"
    decimals = 1 - math.floor(math.log10(error))
    size = abs(value) or error
    if 0 <= decimals <= 6 and 1e-3 <= size < 1e6:
        return f"{value:.{decimals}f} ± {error:.{decimals}f}"
    digits = min(max(decimals + math.floor(math.log10(size)), 0) + 1, 6)
    return f"{value:.{digits}g} ± {error:.1e}"


def span(values: np.ndarray) -> str:
    """`from -1 to 2`, of the finite ones."""
    finite = values[np.isfinite(values)]
    return f"from {finite.min():.4g} to {finite.max():.4g}" if finite.size else "not finite"


def spans(tree: Any) -> str:
    """`span` of every array of a tree, with its name where there are several."""
    if isinstance(tree, np.ndarray):
        return span(tree)
    named = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return "; ".join(f"{name} {spans(part)}" for name, part in named)


def _repr(self: Any) -> str:
    return str(self)


def _heading(self: Any) -> str:
    heading = type(self)._heading
    return str(heading(self) if callable(heading) else heading)


def _text_at(self: Any, where: Shown) -> str | None:
    if callable(where):
        return _text(where(self))
    name, _, errors = where.partition(" ± ")
    value = _at(self, name)
    return None if value is None else _text(value, _at(self, errors) if errors else None)


def _at(self: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        if self is None:
            return None
        self = getattr(self, name)
    return self


def _text(value: Any, error: Any = None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    for name in ("standard_error", "residual"):
        if hasattr(value, name):
            return plus_minus(value.value, getattr(value, name))
    if isinstance(value, bool | int | np.integer):
        return f"{value:,}"
    if isinstance(value, tuple):
        return ", ".join(str(_text(one)) for one in value)
    if np.ndim(value) == 0:
        return plus_minus(float(value), None if error is None else float(error))
    return _of_array(np.asarray(value, float).ravel(), error)


def _of_array(values: np.ndarray, errors: Any) -> str:
    bars = [None] * values.size if errors is None else np.asarray(errors, float).ravel().tolist()
    texts = [plus_minus(value, bar) for value, bar in zip(values.tolist(), bars, strict=True)][:_ENTRIES]
    more = f", … ({values.size:,} in all)" if values.size > _ENTRIES else ""
    return ", ".join(texts) + more


def _picture(self: Any) -> str:
    """The record as an image within HTML; empty where none is drawn of its kind, or without Matplotlib."""
    try:
        drawn = importlib.import_module("hessflat.plot").picture(self)
    except ImportError:
        return ""
    if drawn is None:
        return ""
    return f'<img alt="{html.escape(_heading(self))}" src="data:image/png;base64,{base64.b64encode(drawn).decode()}">'
