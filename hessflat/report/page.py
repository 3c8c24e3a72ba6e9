"""The report as one HTML file with its styles, its script and its figures in it; their numbers are files beside it."""

import base64
import gzip
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hessflat.analysis.experiment import Claim, StoredExperiment, Table
from hessflat.analysis.names import PAPERS, paper_name
from hessflat.config import SCALES
from hessflat.report.claims import Record
from hessflat.report.opening import QUESTION, Opening
from hessflat.report.sections import (
    CORRELATIONS,
    POWER,
    VERDICTS,
    RenderedFigure,
    Section,
    commands,
    counted,
    facts,
    left_out,
    notices,
    power_table,
    run_table,
    shared_and_varied,
    summary,
    tally,
)

_SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?", "cannot decide": "?", "not applicable": "–", "not run": "–"}
# Of the drawing of an effect, in its own units.
_WIDTH, _MARGIN = 340, 8


class Forest(NamedTuple):
    """Where an effect, its interval, the paper's effect and none at all lie, in units of the drawing, and in words."""

    ours: float
    low: float
    high: float
    theirs: float | None
    none: float
    words: str


class Choice(NamedTuple):
    """A value that claims can be filtered by: of the attribute, in words, and how many claims have it."""

    value: str
    words: str
    claims: int


class ShownClaim(NamedTuple):
    """A claim as the page shows it."""

    record: Record
    anchor: str
    seeds: str
    figures: str
    forest: Forest | None


class Numbered(NamedTuple):
    """A figure with its number on the page."""

    number: int
    figure: RenderedFigure


class Part(NamedTuple):
    """An experiment at one scale as the page shows it."""

    section: Section
    claims: Sequence[ShownClaim]
    figures: Sequence[Numbered]
    absent: Sequence[str]
    facts: Sequence[tuple[str, str]]
    commands: str
    shared: str
    runs: Table | None


class Paper(NamedTuple):
    """The experiments of a paper."""

    key: str
    name: str
    tally: str
    parts: Sequence[Part]


def page(sections: Sequence[Section], opening: Opening, others: Sequence[str] = ()) -> str:
    """The HTML of the report: question, answer and picture, then the claims paper by paper with their figures.

    All text that comes from runs or papers is escaped. `others` are stored runs that no section shows.
    """
    records = counted(sections)
    return render(
        "report.html",
        title=f"Report: {QUESTION}",
        question=QUESTION,
        opening=opening,
        summary=summary(records),
        left_out=left_out(others),
        filters=_filters([record for section in sections for record in section.records]),
        papers=_papers(sections),
        correlations=CORRELATIONS,
        power=POWER,
        powers=power_table(records),
    )


def render(template: str, **variables: Any) -> str:
    """A page of a template of this package."""
    return _environment().get_template(template).render(variables)


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("hessflat.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"uri": uri, "packed": packed, "size": _size, "unbroken": _unbroken, "sentence": _sentence}
    made.globals["signs"] = _SIGNS
    return made


def uri(svg: bytes) -> Markup:
    """A figure as the address of an image: as such, not inline, since element names of two figures could meet."""
    return Markup("data:image/svg+xml;base64," + base64.b64encode(svg).decode())


def packed(svg: bytes) -> Markup:
    """A figure as the text that the page's script unpacks, a seventh of the size."""
    return Markup(base64.b64encode(gzip.compress(svg, mtime=0)).decode())


def _size(svg: bytes) -> tuple[int, int]:
    """Width and height of a figure, in points."""
    (size,) = re.findall(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    return round(float(size[0])), round(float(size[1]))


def _unbroken(text: str) -> Markup:
    """Escaped text in which neither a number such as 5e-4 nor an interval is broken across lines."""
    return Markup(
        re.sub(r"\[[^\[\]]{,40}\]|[\d.]+(?:e-\d+| %)", r'<span class="number">\g<0></span>', str(escape(text)))
    )


def _sentence(text: str) -> str:
    # Only letters of words: a symbol such as λ keeps its case.
    first = text[0].upper() if text[:2].isascii() else text[0]
    return f"{first}{text[1:]}."


def _filters(records: Sequence[Record]) -> dict[str, list[Choice]]:
    """What claims can be filtered by, each with the values that there are."""
    known: dict[str, tuple[Iterable[str], Callable[[str], str]]] = {
        "paper": (PAPERS, paper_name),
        "verdict": (VERDICTS, str),
        "scale": (SCALES, str),
    }
    filters = {}
    for name, (order, words) in known.items():
        counts = Counter(record[name] for record in records)
        values = [*(value for value in order if counts[value]), *sorted(counts.keys() - set(order))]
        filters[name] = [Choice(value, words(value), counts[value]) for value in values]
    return filters


def _papers(sections: Sequence[Section]) -> list[Paper]:
    """The sections by the paper of their experiment."""
    papers, numbered = [], 0
    there = {section.stored.experiment.paper: None for section in sections}
    for key in sorted(there, key=lambda paper: list(PAPERS).index(paper) if paper in PAPERS else len(PAPERS)):
        own = [section for section in sections if section.stored.experiment.paper == key]
        parts = []
        for section in own:
            parts.append(_part(section, numbered))
            numbered += len(section.figures)
        papers.append(Paper(key, paper_name(key), tally(counted(own)), parts))
    return papers


def _part(section: Section, numbered: int) -> Part:
    """The section, whose figures' numbers follow those that are `numbered`."""
    stored, runs = section.stored, section.stored.runs
    figures = [Numbered(number, drawn) for number, drawn in enumerate(section.figures, numbered + 1)]
    shared, varied = shared_and_varied(runs) if runs else ("", [])
    return Part(
        section,
        [
            ShownClaim(record, _anchor(stored, record), _seeds(record["seeds"]), _named(figures), forest(record, claim))
            for record, claim in zip(section.records, stored.experiment.claims, strict=True)
        ],
        figures,
        _absent(stored),
        [
            ("configuration", stored.experiment.config),
            ("scale", stored.scale),
            *([("variant", stored.variant)] if stored.variant else []),
            *facts(runs),
            *((f"varies: {name}", values) for name, values in varied if name != "seed"),
        ],
        "\n".join(commands(runs)),
        shared,
        run_table(runs) if runs else None,
    )


def forest(record: Record, claim: Claim) -> Forest | None:
    """The effect of a claim beside that of its paper, ratios on a log axis; None where there is no size or interval."""
    effect = record["effect"]
    if effect is None or any(effect[name] is None for name in ("estimate", "low", "high")):
        return None
    is_ratio = effect["scale"] == "ratio"
    given = {"ours": effect["estimate"], "low": effect["low"], "high": effect["high"], "none": 1.0 if is_ratio else 0.0}
    if claim.paper_effect is not None:
        given["theirs"] = claim.paper_effect
    if is_ratio and min(given.values()) <= 0:
        return None
    places = {name: math.log(value) if is_ratio else value for name, value in given.items()}
    least, most = min(places.values()), max(places.values())
    unit = (_WIDTH - 2 * _MARGIN) / ((most - least) or 1.0)
    x = {name: round(_MARGIN + (place - least) * unit, 1) for name, place in places.items()}
    words = f"Effect with its 95 % interval{', and that of the paper' * ('theirs' in x)}; the dashed line is no effect."
    return Forest(x["ours"], x["low"], x["high"], x.get("theirs"), x["none"], words)


def _anchor(stored: StoredExperiment, record: Record) -> str:
    return f"{stored.slug}-{record['claim']}".replace(" ", "-")


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _named(figures: Sequence[Numbered]) -> str:
    """`Figure 3`, `Figures 3–5`."""
    if not figures:
        return ""
    first, last = figures[0].number, figures[-1].number
    return f"Figure {first}" if first == last else f"Figures {first}–{last}"


def _absent(stored: StoredExperiment) -> list[str]:
    """What is missing (runs, measures), for the start of a section."""
    return [*([] if stored.runs else ["no runs yet"]), *notices(stored)]
