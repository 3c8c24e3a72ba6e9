"""What opens the report: the question, an answer that follows from the claims and correlations, and one picture."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hessflat.analysis.correlation import (
    SHARPNESS,
    Correlation,
    Grid,
    as_table,
    experiment_grid,
    regulariser_grids,
)
from hessflat.analysis.experiment import Table
from hessflat.analysis.names import PAPERS, metric_name
from hessflat.config import SCALES
from hessflat.report import figures
from hessflat.report.claims import Record
from hessflat.report.sections import VERDICTS, RenderedFigure, Section, rendered, tally

QUESTION = "Do flat minima generalise?"


class Picture(NamedTuple):
    """One picture, for wide screens and for narrow ones."""

    wide: RenderedFigure
    narrow: RenderedFigure


class Opening(NamedTuple):
    """What opens the report, with the figures and tables of correlations that its answer rests on."""

    answer: Sequence[str]
    picture: Picture | None
    figures: Sequence[RenderedFigure]
    tables: Sequence[Table]


def make_opening(sections: Sequence[Section]) -> Opening:
    """The answer and the picture of sections, and Kendall's tau of each measure with the generalisation gap."""
    stored = [section.stored for section in sections]
    records = [record for section in sections for record in section.records]
    by_regulariser = [grids for grids in regulariser_grids(stored) if grids[0].columns]
    drawings = [figures.correlation_grid(grids[0]) for grids in by_regulariser]
    grids = [*(grid for together in by_regulariser for grid in together), experiment_grid(stored)]
    # The answer is that of the scale with most runs.
    main = max((together[0] for together in by_regulariser), key=_num_runs, default=None)
    return Opening(
        answer(records, main),
        picture(records, main) if records else None,
        [rendered(one.name, one) for one in drawings],
        [as_table(grid) for grid in grids if grid.columns],
    )


def _num_runs(grid: Grid) -> int:
    return max(cell.runs for column in grid.columns.values() for cell in column.values() if cell)


def answer(records: Sequence[Record], grid: Grid | None) -> list[str]:
    """At most three paragraphs: whether sharpness follows the gap, what that depends on, and how many claims hold."""
    sentences = []
    pooled = grid.columns.get("pooled") if grid else None
    if grid and pooled and (sharpness := pooled[SHARPNESS]):
        sentences = [_whether(sharpness), _depends(grid, pooled)]
    return [*sentences, f"The {len(records)} claims of the papers and our own: {tally(records)}."]


def _whether(sharpness: Correlation) -> str:
    name, numbers = metric_name(SHARPNESS), _numbers(sharpness)
    runs = f"over {sharpness.runs} runs that fit their training data"
    if not sharpness.is_found:
        return (
            f"Flatness alone does not tell: {runs}, {name} and the generalisation gap have a Kendall τ of {numbers}, "
            "which is not distinguishable from 0."
        )
    word, size = ("yes", "larger") if sharpness.tau > 0 else ("no", "smaller")
    return f"On the whole, {word}: {runs}, the larger {name}, the {size} the generalisation gap (Kendall τ {numbers})."


def _depends(grid: Grid, pooled: dict[str, Correlation | None]) -> str:
    """Under which regularisers sharpness follows or opposes the gap, and which measure follows it most."""
    by_regulariser = {name: column[SHARPNESS] for name, column in grid.columns.items() if name != "pooled"}
    found = {name: cell for name, cell in by_regulariser.items() if cell and cell.is_found}
    parts = [
        f"{verb} the gap as {_listed(own)} varies"
        for verb, sign in (("opposes", -1), ("follows", 1))
        if (own := [f"{name} ({_numbers(cell)})" for name, cell in found.items() if cell.tau * sign > 0])
    ]
    first = f"Sharpness {' and '.join(parts)}" if parts else "No regulariser alone decides it"
    most = _num_runs(grid)
    complete = {name: cell for name, cell in pooled.items() if cell and cell.runs == most}
    follow = [name for name, cell in complete.items() if cell.is_found and cell.tau > 0]
    if not follow:
        return f"{first}. None of the {len(complete)} measures that all these runs have follows the gap."
    best = max(follow, key=lambda name: complete[name].tau)
    return (
        f"{first}. {len(follow)} of the {len(complete)} measures that all these runs have follow the gap; "
        f"{metric_name(best)} follows it most, {_numbers(complete[best])}."
    )


def _numbers(cell: Correlation) -> str:
    return f"{cell.tau:+.2f} [{cell.low:+.2f}, {cell.high:+.2f}]" if not math.isnan(cell.low) else f"{cell.tau:+.2f}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def picture(records: Sequence[Record], grid: Grid | None) -> Picture:
    """How many claims have each verdict, by paper and scale, beside the correlations of the grid."""
    papers = dict.fromkeys([*PAPERS, *(record["paper"] for record in records)])
    counts = {}
    for paper in papers:
        for scale in reversed(SCALES):
            own = Counter(one["verdict"] for one in records if (one["paper"], one["scale"]) == (paper, scale))
            if own:
                counts[paper, scale] = {verdict: own[verdict] for verdict in VERDICTS if own[verdict]}
    wide, narrow = (figures.overview(counts, grid, is_wide) for is_wide in (True, False))
    return Picture(rendered(wide.name, wide), rendered(narrow.name, narrow))
