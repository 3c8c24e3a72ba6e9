"""Everything in the report folder, from finished runs: claims, page, Markdown, figures and their numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hessflat.analysis.experiment import StoredExperiment
from hessflat.report.markdown import markdown
from hessflat.report.page import page
from hessflat.report.section import correlations, make_section
from hessflat.report.verdicts import Record
from hessflat.utils.errors import InputError
from hessflat.utils.files import write_atomically


def build(
    entries: Sequence[StoredExperiment | tuple[Any, ...]], out: Path, tell: Callable[[str], None] = lambda slug: None
) -> list[Record]:
    """Write `out/{claims.json, index.html, report.md, figures/}` and return the claim records.

    `tell` hears of each entry when it is drawn.

    The same runs give the same bytes. Each file is replaced whole, the page last, so that a reader never meets half
    of one and the page never shows what its figures do not have yet.
    """
    listed = [StoredExperiment(*entry) for entry in entries]
    slugs = [entry.slug for entry in listed]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise InputError(f"{twice[0]} is listed twice; give all runs of an experiment at one scale in one entry")
    sections = []
    for entry in listed:
        sections.append(make_section(entry))
        tell(entry.slug)
    tables = correlations(sections)
    records = [record for section in sections for record in section.records]
    out = Path(out)
    for section in sections:
        for plate in section.plates:
            for ending in ("svg", "png", "csv"):
                write_atomically(out / "figures" / f"{plate.stem}.{ending}", getattr(plate, ending))
    write_atomically(out / "claims.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "report.md", markdown(sections, tables))
    write_atomically(out / "index.html", page(sections, tables))
    return records
