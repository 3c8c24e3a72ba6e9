"""The style of all figures, the palette, letters of panels, and figures as files.

Equal figures give equal bytes.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from hessflat.utils.errors import InputError, require_known, shown

# Okabe and Ito's palette, distinct with all common forms of colour blindness; yellow is too faint on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#8A8A8A"
# Settings are ordered, so their colours are too: viridis without its faint yellow end.
_ORDERED = "viridis"

# The width of a paper's text block, in inches.
TEXT_WIDTH = 7.0
# That of a column, and what looks well beside it.
COLUMN = (3.4, 2.4)

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
    # TrueType outlines: venues refuse the Type 3 fonts of the default.
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
}


# In an SVG: paths, where things stand, by how much they are moved; and digits that are too small to be seen.
_PLACES = re.compile(rb'(?<= d=")[^"]*|(?<= [xy]=")[^"]*|(?<="translate\()[^)]*')
_DIGITS = re.compile(rb"(\.\d\d)\d+")


def axes(ax: Axes | None = None, size: tuple[float, float] = COLUMN, **kind: Any) -> Axes:
    """The axes to draw into: those given, or those of a new figure, which notebooks show; `kind` as of `add_subplot`.

    Raises:
        InputError: something that is no axes.
    """
    if isinstance(ax, Axes):
        return ax
    if ax is not None:
        raise InputError(f"ax must be one Matplotlib axes, or None for a new figure, got {shown(ax)}")
    with matplotlib.rc_context(STYLE):
        made: Axes = pyplot.figure(figsize=size, layout="constrained").add_subplot(**kind)
    return made


def panels(rows: int = 1, columns: int = 1, height: float = 2.2, **sharing: Any) -> list[Axes]:
    """The axes of a new figure of the width of a text block, row by row.

    Args:
        rows: the number of rows of panels.
        columns: the number of panels in a row.
        height: of each row, in inches.
        **sharing: `sharex` and `sharey`, as of Matplotlib's `Figure.subplots`.
    """
    with matplotlib.rc_context(STYLE):
        figure = pyplot.figure(figsize=(TEXT_WIDTH, height * rows), layout="constrained")
        return list(figure.subplots(rows, columns, squeeze=False, **sharing).flat)


def ordered_colours(count: int) -> list[str]:
    """Colours for `count` increasing values of a setting, the smallest the darkest."""
    colours = matplotlib.colormaps[_ORDERED]
    return [matplotlib.colors.to_hex(colours(0.85 * i / max(count - 1, 1))) for i in range(count)]


def letter(panels: Sequence[Axes]) -> None:
    """Write (a), (b), ... at the upper left of the panels, outside the axes."""
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


def save(ax: Axes | Figure, path: str | Path, dots_per_inch: int = 300) -> Path:
    """Write the figure of `ax` to a file of the kind that its name ends in, such as `.pdf`, `.svg` or `.png`.

    Args:
        ax: axes, or a figure.
        path: of the file, which is overwritten.
        dots_per_inch: of files of pixels.

    Raises:
        InputError: an ending that Matplotlib does not write.
    """
    figure, path = ax.figure.figure if isinstance(ax, Axes) else ax, Path(path)
    known = figure.canvas.get_supported_filetypes()
    require_known("ending of a figure", [path.suffix.removeprefix(".")], known)
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, dpi=dots_per_inch)
    return path


def fix_layout(figure: Figure) -> None:
    """Compute the layout once. It is the slow part, and all files of a figure then agree."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        with matplotlib.rc_context(STYLE):
            engine.execute(figure)
        figure.set_layout_engine("none")


def as_svg(figure: Figure) -> bytes:
    """The figure as SVG bytes, without date and creator. Places are to a hundredth of a point.

    Args:
        figure: a Matplotlib figure.
    """
    drawn = _written(figure, FigureCanvasSVG(figure).print_svg, {"Date": None, "Creator": None})
    return _PLACES.sub(lambda places: _DIGITS.sub(rb"\1", places[0]), drawn)


def as_png(figure: Figure, dots_per_inch: int = 160, colours: int = 256) -> bytes:
    """The figure as PNG bytes with a palette, a third of the size or less.

    Args:
        figure: a Matplotlib figure.
        dots_per_inch: how many pixels an inch has.
        colours: how many the palette has, at most 256.
    """
    figure.set_dpi(dots_per_inch)
    drawn = Image.open(io.BytesIO(_written(figure, FigureCanvasAgg(figure).print_png, {"Software": None})))
    buffer = io.BytesIO()
    _with_palette(drawn.convert("RGB"), colours).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _with_palette(drawn: Image.Image, colours: int) -> Image.Image:
    """The image with a palette: half of it are its commonest colours, as of paper, grids and bands, which stay exact;
    the others leave no colour far from its own, however few pixels have it. Median cut loses thin lines.
    """
    packed = np.asarray(drawn).astype(int) @ (256**2, 256, 1)
    values, places, counts = np.unique(packed, return_inverse=True, return_counts=True)
    there = values[:, None] // (256**2, 256, 1) % 256
    common = there[np.argsort(-counts, kind="stable")[: colours // 2]]
    cover = drawn.quantize(colours - len(common), method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette = np.concatenate([common, np.reshape(cover.getpalette("RGB") or [], (-1, 3))])[:colours]
    nearest = ((there[:, None] - palette) ** 2).sum(axis=2).argmin(axis=1)
    few = Image.fromarray(nearest[places.reshape(packed.shape)].astype(np.uint8))
    few.putpalette(palette.ravel().tolist())
    return few


def _written(figure: Figure, write: Callable[..., None], metadata: dict[str, None]) -> bytes:
    # The canvas draws once; `savefig` draws a second time for a layout that is already there.
    fix_layout(figure)
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        write(buffer, metadata=metadata)
    return buffer.getvalue()
