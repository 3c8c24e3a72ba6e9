"""The report as Markdown; the figures are files next to it."""

import re
from collections.abc import Sequence

from hessflat.analysis.experiment import Table
from hessflat.analysis.names import paper_name
from hessflat.analysis.tables import as_markdown
from hessflat.report.claims import Record
from hessflat.report.sections import (
    CORRELATIONS,
    POWER,
    RenderedFigure,
    Section,
    by_paper,
    commands,
    counted,
    facts,
    left_out,
    notices,
    power_table,
    shared_and_varied,
    summary,
)


def markdown(
    sections: Sequence[Section], opening: Sequence[RenderedFigure], tables: Sequence[Table], others: Sequence[str] = ()
) -> str:
    """The text of the report: figures and tables of correlations, one table of verdicts for each paper, one section for
    each experiment.
    """
    records = counted(sections)
    parts = ["# Claims and what the runs say", summary(records), *left_out(others)]
    if tables:
        parts += [f"## {CORRELATIONS}", *map(_figure, opening), *map(as_markdown, tables)]
    for paper, group in by_paper(records).items():
        parts += [f"## {paper_name(paper)}", _summary(group)]
    parts += [f"## {POWER}", as_markdown(power_table(records))]
    for section in sections:
        parts += _section(section)
    return "\n\n".join(part if part.startswith("```") else _escaped(part) for part in parts) + "\n"


def _escaped(text: str) -> str:
    """Text in which nothing is HTML: what a name or a claim holds is shown as it stands."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _summary(records: Sequence[Record]) -> str:
    rows = tuple(
        (
            f"{record['verdict']}{', pilot' if record['pilot'] else ''}",
            record["statement"],
            record["where"],
            record["paper_value"],
            record["value"] or "–",
            record["size"] or "–",
            f"{record['experiment']}, {record['scale']}",
            str(record["seeds"]),
        )
        for record in records
    )
    header = ("verdict", "claim", "where", "paper", "here", "size", "experiment", "seeds")
    return as_markdown(Table("", header, rows)).strip()


def _section(section: Section) -> list[str]:
    stored = section.stored
    variant = f", variant {stored.variant}" if stored.variant else ""
    parts = [f"## {stored.experiment.id} ({stored.scale} scale{variant})", stored.experiment.question]
    if stored.experiment.notes:
        parts.append(stored.experiment.notes)
    if absent := [f"- {line}" for line in (*notices(stored), *section.problems)]:
        parts.append("\n".join(absent))
    parts += [_claim(record) for record in section.records]
    parts += map(_figure, section.figures)
    parts += [as_markdown(table) for table in section.tables]
    if stored.runs:
        varied = [f"- varies: {name}: {values}" for name, values in shared_and_varied(stored.runs)[1] if name != "seed"]
        lines = [
            f"- configuration: {stored.experiment.config}",
            *(f"- {name}: {value}" for name, value in facts(stored.runs)),
        ]
        parts.append("\n".join(lines + varied))
        made_by = "\n".join(commands(stored.runs)).replace("`" * 3, "'" * 3)
        parts.append(f"```\n{made_by}\n```")
    return parts


def _figure(figure: RenderedFigure) -> str:
    return f"![{figure.stem}](figures/{figure.stem}.png)\n\n{figure.caption}"


def _claim(record: Record) -> str:
    lines = [f"**{record['verdict']}**: {record['statement']} ({record['paper']}, {record['where']})", ""]
    if record["reason"]:
        lines.append(f"- why: {record['reason']}")
    lines += [f"- paper: {record['paper_value']}"]
    if record["value"]:
        lines.append(f"- here: {record['value']}; {record['spread']}")
    if record["size"]:
        lines.append(f"- size {record['size']}: {record['size_compared']}")
    lines.append(f"- rule: {record['rule']}")
    if record["pilot"]:
        lines.append(f"- pilot: {record['pilot']}")
    if record["explanation"]:
        lines.append(f"- {record['explanation']}")
    return "\n".join(lines)
