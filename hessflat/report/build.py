"""Everything in the report folder, from finished runs: claims, page, Markdown, figures and their numbers."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hessflat.errors import InputError
from hessflat.report.markdown import markdown
from hessflat.report.page import page
from hessflat.report.section import make_section
from hessflat.report.terminal import print_summary
from hessflat.report.verdicts import Entry, Record

__all__ = ["Entry", "build", "print_summary"]


def build(entries: Sequence[Entry | tuple[Any, ...]], out: Path) -> list[Record]:
    """Write `out/{claims.json, index.html, report.md, figures/}` and return the claim records.

    The same runs give the same bytes. Each file is replaced whole, the page last, so that a reader never meets half
    of one and the page never shows what its figures do not have yet.
    """
    listed = [Entry(*entry) for entry in entries]
    slugs = [entry.slug for entry in listed]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise InputError(f"{twice[0]} is listed twice; give all runs of an experiment at one scale in one entry")
    sections = [make_section(entry) for entry in listed]
    records = [record for section in sections for record in section.records]
    out = Path(out)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for section in sections:
            for plate in section.plates:
                for ending in ("svg", "png", "csv"):
                    _replace(out / "figures" / f"{plate.stem}.{ending}", getattr(plate, ending))
        _replace(out / "claims.json", (json.dumps(records, indent=1, ensure_ascii=False) + "\n").encode())
        _replace(out / "report.md", markdown(sections).encode())
        _replace(out / "index.html", page(sections).encode())
    except OSError as error:
        raise InputError(f"cannot write the report into {out} ({error.strerror}); choose another folder") from error
    return records


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename: whoever reads sees the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
