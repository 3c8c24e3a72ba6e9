"""The report as one self-contained HTML file: styles and figures are embedded, without scripts or network access."""

import base64
import html
import re
from collections.abc import Sequence

from hessflat.analysis.experiment import StoredExperiment, Table
from hessflat.analysis.names import paper_name
from hessflat.analysis.tables import as_html
from hessflat.report.sections import (
    CORRELATIONS,
    POWER,
    Record,
    RenderedFigure,
    Section,
    by_paper,
    commands,
    facts,
    notices,
    power_table,
    run_table,
    shared_and_varied,
    summary,
)

_SIGNS = {"holds": "✓", "fails": "✗", "undecided": "?", "cannot decide": "?", "not applicable": "–", "not run": "–"}

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5c656e; --line: #d9dee3; --paper: #ffffff; --card: #f6f7f9;
  --holds: #0a6b3d; --fails: #b00020; --undecided: #8a5a00; --notrun: #5c656e; --link: #0b57a4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a2abb4; --line: #3a4149; --paper: #16191c;
  --card: #1f2428; --holds: #5fd39a; --fails: #ff8a94; --undecided: #f0b95a; --notrun: #a2abb4; --link: #7fb8f5; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1040px; margin: 0 auto; padding: 24px 20px 80px; }
h1 { font-size: 26px; margin: 8px 0; } h2 { font-size: 21px; margin: 44px 0 6px; padding-top: 14px;
  border-top: 1px solid var(--line); } h3 { font-size: 16px; margin: 26px 0 6px; }
a { color: var(--link); } p { margin: 6px 0; max-width: 80ch; } .soft { color: var(--soft); }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; font-variant-numeric: tabular-nums; }
.caption { color: var(--soft); font-size: 13.5px; max-width: none; margin: 14px 0 -6px; }
th, td { text-align: left; vertical-align: top; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
table.verdicts { table-layout: fixed; min-width: 760px; }
col:nth-child(1) { width: 124px; } col:nth-child(2) { width: 34%; } col:nth-child(3) { width: 20%; }
col:nth-child(5) { width: 74px; }
.number { white-space: nowrap; }
.verdict { white-space: nowrap; font-weight: 600; }
.holds { color: var(--holds); } .fails { color: var(--fails); } .undecided { color: var(--undecided); }
.cannotdecide, .notapplicable, .notrun { color: var(--notrun); }
figure { margin: 18px 0; padding: 12px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); }
figure img { width: 100%; height: auto; display: block; background: #ffffff; border-radius: 4px; padding: 6px; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 8px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: 8px 10px; overflow-x: auto;
  font: 12.5px/1.45 ui-monospace, Menlo, Consolas, monospace; margin: 6px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 13.5px; margin: 8px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--link); }
.claim { border-left: 3px solid currentColor; padding: 2px 0 2px 12px; margin: 12px 0; }
.claim > * { color: var(--ink); } .claim > .verdict { color: inherit; }
.claim .soft { color: var(--soft); font-size: 13.5px; }
.claim:target { background: var(--card); }
"""


def page(sections: Sequence[Section], opening: Sequence[RenderedFigure], tables: Sequence[Table]) -> str:
    """The HTML of the report: figures and tables of correlations, one table of verdicts for each paper, one section for
    each experiment.

    All text that comes from runs or papers is escaped.
    """
    records = [record for section in sections for record in section.records]
    parts = [
        "<h1>Claims and what the runs say</h1>",
        f'<p class="soft">{_text(summary(records))} A claim holds or '
        "fails only where a test over seeds decides it, at 5 % for all claims of its experiment together; each row "
        "leads to its claim, figures, numbers, configuration and command.</p>",
        "\n".join([f"<h3>{CORRELATIONS}</h3>", *map(_figure, opening), *map(as_html, tables)]) if tables else "",
        *(_summary(paper, group) for paper, group in by_paper(records).items()),
        f"<h3>{POWER}</h3>\n{as_html(power_table(records))}",
        *(_section(section) for section in sections),
    ]
    return document("Report: claims and figures", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A page with its title and style, of parts that are HTML."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        "</body>\n</html>\n"
    )


def figure(svg: bytes, caption: str, more: str = "") -> str:
    """A figure as an image rather than inline, since the element names of one SVG could meet those of the next."""
    image, text = base64.b64encode(svg).decode(), _text(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{image}">\n'
        f"<figcaption>{text}{more}</figcaption></figure>"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _value(text: str) -> str:
    """Escaped text in which a number such as 5e-4 is never broken across lines."""
    return re.sub(r"[\d.]+e-\d+", r'<span class="number">\g<0></span>', _text(text))


def _verdict(verdict: str) -> str:
    return f'<span class="verdict {verdict.replace(" ", "")}">{_SIGNS[verdict]}&nbsp;{_text(verdict)}</span>'


def _size(record: Record) -> str:
    return f'<br><span class="soft">size {_text(record["size"])}</span>' if record["size"] else ""


def _pilot(record: Record) -> str:
    return '<br><span class="soft">pilot</span>' if record["pilot"] else ""


def _anchor(record: Record) -> str:
    return _text(f"{record['experiment']}-{record['scale']}-{record['claim']}".replace(" ", "-"))


def _links(record: Record) -> str:
    """Links from a verdict to its figures, tables, configuration and command."""
    slug = f"{record['experiment']}-{record['scale']}"
    parts = {"figures": "figures", "numbers": "numbers", "configuration and command": "provenance"}
    return " · ".join(f'<a href="#{_text(slug)}-{part}">{words}</a>' for words, part in parts.items())


def _summary(paper: str, records: Sequence[Record]) -> str:
    rows = "\n".join(
        f"<tr><td>{_verdict(record['verdict'])}{_pilot(record)}{_size(record)}</td>"
        f'<td><a href="#{_anchor(record)}">{_text(record["statement"])}</a>'
        f'<br><span class="soft">{_text(record["experiment"])}, {_text(record["where"])}: {_links(record)}</span></td>'
        f"<td>{_text(record['paper_value'])}</td><td>{_value(record['value']) or '–'}</td>"
        f"<td>{_text(record['scale'])},<br>{_text(_seeds(record['seeds']))}</td></tr>"
        for record in records
    )
    return (
        f'<h3>{_text(paper_name(paper))}</h3>\n<div class="scroll"><table class="verdicts">'
        "<colgroup><col><col><col><col><col></colgroup><thead><tr><th>verdict</th><th>claim</th>"
        f"<th>paper</th><th>here</th><th>scale</th></tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _sentence(text: str) -> str:
    # Only letters of words: a symbol such as λ keeps its case.
    first = text[0].upper() if text[:2].isascii() else text[0]
    return _text(f"{first}{text[1:]}.")


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _section(section: Section) -> str:
    stored = section.stored
    parts = [
        f'<h2 id="{_text(stored.slug)}">{_text(stored.experiment.id)} <span class="soft">({_text(stored.scale)} scale)'
        f"</span></h2>\n<p>{_text(stored.experiment.question)}</p>",
        f"<p>{_text(stored.experiment.notes)}</p>" if stored.experiment.notes else "",
        _absent(stored),
        *(f'<p class="fails">{_text(line)}</p>' for line in section.problems),
        *(_claim(record) for record in section.records),
        _part(stored, "figures", *map(_figure, section.figures)),
        _part(stored, "numbers", *(as_html(table) for table in section.tables)),
        _part(stored, "provenance", _provenance(stored)),
    ]
    return "\n".join(part for part in parts if part)


def _part(stored: StoredExperiment, part: str, *contents: str) -> str:
    """A part of a section with an anchor that verdicts link to."""
    return "\n".join([f'<div id="{_text(stored.slug)}-{part}">', *contents, "</div>"])


def _absent(stored: StoredExperiment) -> str:
    """What is missing (runs, measures), for the start of a section."""
    lines = [*([] if stored.runs else ["no runs yet"]), *notices(stored)]
    return "\n".join(f'<p class="undecided">{_text(line)}</p>' for line in lines)


def _claim(record: Record) -> str:
    here = " · ".join(_value(record[key]) for key in ("value", "spread") if record[key])
    lines = [
        f'<div class="claim {record["verdict"].replace(" ", "")}" id="{_anchor(record)}">',
        f"{_verdict(record['verdict'])} <span>{_text(record['statement'])}</span>",
        f"<p>Why: {_value(record['reason'])}.</p>" if record["reason"] else "",
        f"<p>{here}</p>" if here else "",
        f"<p>Size {_text(record['size'])}: {_text(record['size_compared'])}</p>" if record["size"] else "",
        f'<p class="soft">{_text(record["paper"])}, {_text(record["where"])}: {_text(record["paper_value"])}</p>',
        f'<p class="soft">{_sentence(record["explanation"])}</p>' if record["explanation"] else "",
        f'<p class="soft">Pilot: {_text(record["pilot"])}</p>' if record["pilot"] else "",
        f'<p class="soft">Rule: {_text(record["rule"])}</p></div>',
    ]
    return "\n".join(line for line in lines if line)


def _figure(drawn: RenderedFigure) -> str:
    link = f' <a href="figures/{_text(drawn.stem)}.csv">Numbers (CSV)</a>'
    return figure(drawn.svg, drawn.caption, link)


def _provenance(stored: StoredExperiment) -> str:
    runs = stored.runs
    if not runs:
        return f'<p class="soft">Configuration: {_text(stored.experiment.config)}</p>'
    shared, varied = shared_and_varied(runs)
    facts_shown = [("configuration", stored.experiment.config), ("scale", stored.scale), *facts(runs)]
    facts_shown += [(f"varies: {name}", values) for name, values in varied if name != "seed"]
    listed = "\n".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts_shown)
    made_by = commands(runs)
    command_text = _text("\n".join(made_by))
    words = (
        "the command that made these runs" if len(made_by) == 1 else f"the {len(made_by)} commands that made these runs"
    )
    command_block = f"<pre>{command_text}</pre>"
    if len(made_by) > 3:
        command_block = f"<details><summary>{words}</summary>{command_block}</details>"
    return (
        f"<h3>Where the numbers come from</h3>\n<dl>\n{listed}\n</dl>\n{command_block}\n"
        f"<details><summary>settings shared by all runs</summary><pre>{_text(shared)}</pre></details>\n"
        f"<details><summary>{len(runs)} run folders</summary>{as_html(run_table(runs))}</details>"
    )
