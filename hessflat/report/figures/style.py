"""One look for every figure, and its files: the same figure always gives the same bytes."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

# Okabe and Ito's palette, told apart by all common forms of colour blindness; yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#8A8A8A"
# What did not finish.
LOST = "#B00020"
# Settings are ordered, so their colours are too: viridis without its faint yellow end.
_ORDERED = "viridis"

# The width of a paper's text block, in inches.
TEXT_WIDTH = 7.0

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "figure.dpi": 100,
    # Text as outlines: it looks the same wherever the file is opened, whatever fonts are there.
    "svg.fonttype": "path",
    # Element names in an SVG are hashed with a salt that is random by default.
    "svg.hashsalt": "hessflat",
}


def new_figure(rows: int, columns: int, height: float, **sharing: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a text block, `height` inches per row, and its panels row by row."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(TEXT_WIDTH, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, **sharing)
    return figure, list(panels.flat)


def ordered_colours(count: int) -> list[str]:
    """Colours for `count` increasing values of a setting, dark first."""
    colours = matplotlib.colormaps[_ORDERED]
    return [matplotlib.colors.to_hex(colours(0.85 * i / max(count - 1, 1))) for i in range(count)]


def letter(panels: Sequence[Axes]) -> None:
    """(a), (b), ... at the upper left, outside the axes, as captions refer to them."""
    if len(panels) > 1:
        for index, panel in enumerate(panels):
            panel.annotate(
                f"({chr(ord('a') + index)})",
                (0, 1),
                xytext=(-2, 3),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                va="bottom",
                fontweight="bold",
                fontsize=8,
            )


def freeze(figure: Figure) -> None:
    """Place everything once: layout is the slow part, and the files written of one figure then agree."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        with matplotlib.rc_context(STYLE):
            engine.execute(figure)
        figure.set_layout_engine("none")


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG, without date or creator."""
    return _written(figure, FigureCanvasSVG(figure).print_svg, {"Date": None, "Creator": None})


def as_png(figure: Figure, dots_per_inch: int = 160) -> bytes:
    """The figure as PNG, without the name of the software."""
    figure.set_dpi(dots_per_inch)
    return _written(figure, FigureCanvasAgg(figure).print_png, {"Software": None})


def _written(figure: Figure, write: Callable[..., None], metadata: dict[str, None]) -> bytes:
    # The canvas draws once; `savefig` draws a second time for a layout that is already there.
    freeze(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        write(buffer, metadata=metadata)
    return buffer.getvalue()
