"""The report as Markdown, with the figures as files next to it."""

from collections.abc import Sequence

from hessflat.analysis.experiment import Table
from hessflat.analysis.names import paper_name
from hessflat.analysis.tables import as_markdown
from hessflat.report.provenance import commands, facts, settings
from hessflat.report.section import CORRELATIONS, Section
from hessflat.report.verdicts import Record, by_paper, tally


def markdown(sections: Sequence[Section], tables: Sequence[Table]) -> str:
    """What follows the gap (`tables`), a verdict table per paper, then a section per experiment."""
    records = [record for section in sections for record in section.records]
    parts = ["# Claims and what the runs say", f"{len(records)} claims: {tally(records)}."]
    if tables:
        parts += [f"## {CORRELATIONS}", *map(as_markdown, tables)]
    for paper, group in by_paper(records).items():
        parts += [f"## {paper_name(paper)}", _summary(group)]
    for section in sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _summary(records: Sequence[Record]) -> str:
    rows = tuple(
        (
            record["verdict"],
            record["statement"],
            record["where"],
            record["paper_value"],
            record["value"] or "–",
            f"{record['experiment']}, {record['scale']}",
            str(record["seeds"]),
        )
        for record in records
    )
    header = ("verdict", "claim", "where", "paper", "here", "experiment", "seeds")
    return as_markdown(Table("", header, rows)).strip()


def _section(section: Section) -> list[str]:
    entry = section.entry
    parts = [f"## {entry.experiment.id} ({entry.scale} scale)", entry.experiment.question]
    if entry.experiment.notes:
        parts.append(entry.experiment.notes)
    absent = [f"- `{run.path}`: {run.status}" for run in entry.runs if run.status != "done"]
    absent += [f"- {entry.missing_text}"] if entry.missing else []
    absent += [f"- {line}" for line in section.trouble]
    if absent:
        parts.append("\n".join(absent))
    parts += [_claim(record) for record in section.records]
    for plate in section.plates:
        parts.append(f"![{plate.stem}](figures/{plate.stem}.png)\n\n{plate.caption}")
    parts += [as_markdown(table) for table in section.tables]
    if entry.runs:
        varied = [f"- varies: {name}: {values}" for name, values in settings(entry.runs)[1] if name != "seed"]
        told = [
            f"- configuration: {entry.experiment.config}",
            *(f"- {name}: {value}" for name, value in facts(entry.runs)),
        ]
        parts.append("\n".join(told + varied))
        parts.append("\n".join(["```", *commands(entry.runs), "```"]))
    return parts


def _claim(record: Record) -> str:
    lines = [f"**{record['verdict']}**: {record['statement']} ({record['paper']}, {record['where']})", ""]
    lines += [f"- paper: {record['paper_value']}"]
    if record["value"]:
        lines.append(f"- here: {record['value']}; {record['spread']}")
    lines.append(f"- rule: {record['rule']}")
    if record["explanation"]:
        lines.append(f"- {record['explanation']}")
    return "\n".join(lines)
