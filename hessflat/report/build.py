"""Build the report folder from stored runs (claims, page, Markdown, figures), and print a summary."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hessflat.analysis.experiment import StoredExperiment
from hessflat.report.claims import Record, claims_as_json
from hessflat.report.markdown import markdown
from hessflat.report.opening import Opening, make_opening
from hessflat.report.page import page
from hessflat.report.sections import (
    RenderedFigure,
    Section,
    as_csv,
    counted,
    make_section,
    notices,
    power_table,
    powers,
    sizes,
    tally,
)
from hessflat.utils.errors import InputError
from hessflat.utils.files import full_disk_named, sweep, write_atomically

TERMINAL_WIDTH = 100
_COLOURS = {
    "holds": "green",
    "fails": "red",
    "undecided": "yellow",
    "cannot decide": "yellow",
    "not applicable": "dim",
    "not run": "dim",
}


def build_report(
    stored: Sequence[StoredExperiment],
    out: Path,
    on_drawn: Callable[[str], None] = lambda slug: None,
    make: Callable[[StoredExperiment], Section] = make_section,
    others: Sequence[str] = (),
    opens: Callable[[Sequence[Section]], Opening] = make_opening,
) -> list[Section]:
    """Write `out/{claims.json, power.csv, index.html, report.md, figures/}` and return the sections.

    Equal runs give equal bytes. Each file is replaced atomically, the page last, so that the page never refers to
    figures that do not exist yet. `on_drawn` is called with the slug of each experiment after its section is drawn;
    `make` decides and draws one, `opens` what the report begins with. `others` are stored runs that are in none of
    `stored`, which the report names.

    Raises:
        InputError: an experiment is listed twice at one scale, or `out` cannot be written.
    """
    slugs = [one.slug for one in stored]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise InputError(f"{twice[0]} is listed twice; give all runs of an experiment at one scale in one entry")
    out = Path(out)
    with full_disk_named(out):  # before all is drawn
        (out / "figures").mkdir(parents=True, exist_ok=True)
    sections = []
    for one in stored:
        sections.append(make(one))
        on_drawn(one.slug)
    opening = opens([section for section in sections if not section.stored.variant])
    records = [record for section in sections for record in section.records]
    for place in (out, out / "figures"):
        sweep(place)
    pictures = opening.picture or ()
    for figure in [*pictures, *opening.figures, *(figure for section in sections for figure in section.figures)]:
        write_figure(figure, out)
    write_atomically(out / "claims.json", claims_as_json(records))
    table = power_table(counted(sections))
    columns = dict(zip(table.header, zip(*table.rows, strict=True), strict=True)) if table.rows else {}
    write_atomically(out / "power.csv", as_csv(columns))
    write_atomically(out / "report.md", markdown(sections, opening.figures, opening.tables, others))
    write_atomically(out / "index.html", page(sections, opening, others))
    return sections


def write_figure(figure: RenderedFigure, out: Path) -> Path:
    """Write the figure with its data to `out/figures/`; the path of the one for a screen."""
    for ending in ("svg", "csv", "png"):
        path = out / "figures" / f"{figure.stem}.{ending}"
        write_atomically(path, getattr(figure, ending))
    return path


def print_summary(sections: Sequence[Section], file: TextIO | None = None) -> None:
    """Print the verdict, statement, published and measured value of every claim, and the commands for missing runs.

    Columns are aligned at a width of 100 characters, in a terminal and in a pipe.
    """
    console = Console(file=file, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = TERMINAL_WIDTH
    for section in sections:
        if section.records:
            one = section.stored
            variant = f", variant {one.variant}" if one.variant else ""
            title = f"{one.experiment.id}, {one.scale} scale{variant} ({one.experiment.paper})"
            console.print(_verdict_table(title, section.records))
            console.print()
    # Of a variant by itself, its own.
    everything = counted(sections) or [record for section in sections for record in section.records]
    console.print(Text(f"{len(everything)} claims: {tally(everything)}"))
    if pilots := sum(bool(record["pilot"]) for record in everything):
        console.print(Text(f"{pilots} of these verdicts are pilots; the report says of each why."))
    if compared := sizes(everything):
        console.print(Text(f"Effects whose size a paper gives: {compared}."))
    console.print(Text(powers(everything)))
    for section in sections:
        for line in notices(section.stored):
            # Never wrapped, so that it can be copied.
            console.print(Text(line), soft_wrap=True)


def _verdict_table(title: str, records: Sequence[Record]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("verdict", no_wrap=True, width=14)
    table.add_column("claim", ratio=3, overflow="fold")
    table.add_column("paper", ratio=3, overflow="fold")
    table.add_column("here", ratio=4, overflow="fold")
    table.add_column("seeds", justify="right", no_wrap=True, width=5)
    for record in records:
        verdict = record["verdict"]
        table.add_row(
            Text(verdict, style=_COLOURS[verdict]),
            Text(record["claim"]),
            Text(record["paper_value"]),
            Text(record["value"] or record["reason"] or "–"),
            Text(str(record["seeds"])),
        )
    return table
