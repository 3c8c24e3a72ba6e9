"""The sections of the report as data: verdicts, figures, tables and provenance of one experiment at one scale."""

import csv
import io
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from hessflat.analysis.decisions import LEVEL, holm, verdict_of
from hessflat.analysis.evidence import exp_or_inf, magnitude, not_needed
from hessflat.analysis.experiment import Claim, Drawing, Effect, Evidence, StoredExperiment, Table
from hessflat.analysis.names import number, plain
from hessflat.analysis.power import ENOUGH, MOST_SEEDS, Power, power_of, stated_effects, with_stated
from hessflat.analysis.provenance import fixed_at, needs_of, pilot
from hessflat.analysis.reasons import reason_of
from hessflat.analysis.results import Needs, Run, meeting, one_line
from hessflat.plot.style import as_png, as_svg
from hessflat.report.claims import Record
from hessflat.utils.errors import InputError, command, shown

VERDICTS = ("holds", "fails", "undecided", "cannot decide", "not applicable", "not run")
CORRELATIONS = "Which measures follow the generalisation gap?"
POWER = "How likely is each claim to be decided?"
# Of a PNG, which stands in for the SVG where pages hold no SVG: dots an inch, colours.
_PIXELS = (100, 80)
_NAMED = 10  # of runs that are missing for one reason

# Keys of manifests that a reader needs, and what they are called.
_FACTS = {
    "num_params": "parameters",
    "data": "data",
    "device": "device",
    "matmul_precision": "matmul precision",
    "batch_norm_mode": "batch norm",
    "batch_stats_size": "batch-norm statistics batch",
    "data_checksum": "data checksum",
    "versions": "versions",
    "git_commit": "code",
}

Made = TypeVar("Made", Drawing, Table)


class RenderedFigure(NamedTuple):
    """A figure as files with the common name `stem`, and its caption."""

    stem: str
    caption: str
    svg: bytes
    png: bytes
    csv: bytes


class Section(NamedTuple):
    """The content of the report on one experiment at one scale."""

    stored: StoredExperiment
    records: Sequence[Record]
    figures: Sequence[RenderedFigure]
    tables: Sequence[Table]
    problems: Sequence[str]


def make_section(stored: StoredExperiment) -> Section:
    """The section of an experiment: its claims decided, its figures drawn, its tables made.

    An error of a figure or table becomes one line of `problems` and does not stop the report.
    """
    problems: list[str] = []
    drawings = _attempt(stored, stored.experiment.draw, Drawing, problems)
    tables = _attempt(stored, stored.experiment.tabulate, Table, problems)
    return Section(
        stored,
        judge(stored),
        [rendered(f"{stored.slug}-{drawing.name}", drawing) for drawing in drawings],
        tables,
        problems,
    )


def counted(sections: Iterable[Section]) -> list[Record]:
    """The claims that totals count: those of variants count in none."""
    return [record for section in sections if not section.stored.variant for record in section.records]


def left_out(folders: Sequence[str]) -> list[str]:
    """A line that names stored runs which no section shows; none where there are none."""
    if not folders:
        return []
    first = ", ".join(folders[:5]) + (f" and {len(folders) - 5} more" if len(folders) > 5 else "")
    return [f"{len(folders)} stored runs belong to no experiment or variant that is shown: {first}"]


def _attempt(
    stored: StoredExperiment, make: Callable[[Sequence[Run]], list[Made]], kind: type[Made], problems: list[str]
) -> list[Made]:
    """What `make` makes of the runs that the experiment needs, with a word in each caption on those left out."""
    needs = stored.experiment.needs
    runs, others = meeting(stored.runs, needs), not_needed(stored.runs, needs)
    if not runs:
        return []
    try:
        made = make(runs)
        if not isinstance(made, Sequence) or not all(isinstance(one, kind) for one in made):
            raise InputError(f"{stored.experiment.id} must return a list, each a {kind.__name__}, got {shown(made)}")
    except InputError as error:
        problems.append(one_line(error))
        return []
    # Both kinds of what is made have a caption.
    return [one._replace(caption=f"{one.caption} {others}.") if others else one for one in made]


def rendered(name: str, drawing: Drawing) -> RenderedFigure:
    """The drawing as files; what a file name should not have in `name` becomes a hyphen."""
    stem = re.sub(r"[^\w.=-]+", "-", name)
    svg, png = as_svg(drawing.figure), as_png(drawing.figure, *_PIXELS)
    return RenderedFigure(stem, drawing.caption, svg, png, as_csv(drawing.data))


def as_csv(data: Mapping[str, Sequence[Any]]) -> bytes:
    """Long-form columns of equal length as CSV; floats keep all digits."""
    lengths = {len(column) for column in data.values()}
    if len(lengths) > 1:
        raise ValueError(f"columns of unequal length: { {name: len(column) for name, column in data.items()} }")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(data)
    writer.writerows(zip(*data.values(), strict=True))
    return text.getvalue().encode()


def judge(stored: StoredExperiment) -> list[Record]:
    """One record for each claim, in the order of the experiment.

    The claims that could be decided are decided together (Holm 1979): in at most 5 % of cases is any decided wrongly.
    """
    every = [(claim, needs_of(stored.experiment, claim)) for claim in stored.experiment.claims]
    evidence = _judged(stored, every)
    family = _family(evidence)
    together = dict(zip(family, holm(list(family.values())), strict=True))
    trial = stored._replace(runs=stored.pilots) if stored.pilots else stored
    powers = _powers(trial, _judged(trial, every) if stored.pilots else evidence)
    return [
        _record(stored, claim, needs, one, together.get(place), len(family), powers[place])
        for place, ((claim, needs), one) in enumerate(zip(every, evidence, strict=True))
    ]


def _judged(stored: StoredExperiment, every: Sequence[tuple[Claim, Needs]]) -> list[Evidence]:
    """The evidence on each claim, whose tests aim at what the paper states."""
    evidence = [(claim, _evidence(stored, claim, needs)) for claim, needs in every]
    stated = stated_effects(evidence)
    return [
        one._replace(chance=with_stated(one.chance, stated, claim.paper_effect)) if one.chance else one
        for claim, one in evidence
    ]


def _family(evidence: Sequence[Evidence]) -> dict[int, float]:
    """The places, with their p, of the claims that are decided together."""
    return {
        place: one.chance.two_sided
        for place, one in enumerate(evidence)
        if one.chance and one.verdict != "cannot decide"
    }


def _powers(stored: StoredExperiment, evidence: Sequence[Evidence]) -> list[Power | None]:
    """The power of each claim at the seeds that are planned, as many more as those of these runs as for all."""
    family = max(1, len(_family(evidence)))
    more = stored.seeds / max(1, len({run.seed for run in stored.runs})) if stored.seeds else 1.0
    return [
        power_of(one.chance, max(2, round(more * one.seeds)), family) if one.chance and one.seeds > 1 else None
        for one in evidence
    ]


def summary(records: Sequence[Record]) -> str:
    """How many claims there are with each verdict, how many may be wrong by chance, and how many effects are as large
    as in the papers.
    """
    lines = [f"{len(records)} claims: {tally(records)}."]
    if tested := [record for record in records if record["p_holm"] is not None]:
        experiments = len({(record["experiment"], record["scale"]) for record in tested})
        lines.append(
            "The claims of an experiment are decided together (Holm), so chance is expected to give a false decision "
            f"in at most {number(LEVEL * experiments, 2)} of {experiments} experiments. If each of the {len(tested)} "
            f"claims were decided by itself, {number(LEVEL * len(tested), 2)} false decisions would be expected."
        )
    if pilots := sum(bool(record["pilot"]) for record in records):
        lines.append(
            f"{pilots} of {sum(record['seeds'] > 0 for record in records)} verdicts are pilots: their runs began "
            "before their rule was fixed, or something was tuned on their seeds."
        )
    if compared := sizes(records):
        lines.append(f"Effects whose size a paper gives: {compared}.")
    lines.append(powers(records))
    return " ".join(lines)


def powers(records: Sequence[Record]) -> str:
    """How many claims have enough power at the seeds that are planned."""
    known = [record["power"] for record in records if record["power"]]
    together, alone = (sum(power[level] >= ENOUGH for power in known) for level in ("together", "alone"))
    return (
        f"{together} of {len(records)} claims have a power of {ENOUGH:g} or more at the seeds that are planned; "
        f"{alone} have it if each claim is decided by itself. {len(records) - len(known)} claims have no pilots."
    )


def power_table(records: Sequence[Record]) -> Table:
    """A row for each claim: the effect that it should find, how far seeds differ, its power, and the seeds needed."""
    rows = tuple(_power_row(record) for record in records)
    caption = (
        "Power is the chance that a claim holds if the effect is there, at the seeds that are planned: alone, at a "
        f"level of 5 %, and together, at Holm's worst level. The column needed has the seeds for a power of {ENOUGH:g} "
        f"together, up to {MOST_SEEDS}. If a claim has several tests, effect and spread are those of the test with the "
        "least power. The standard deviation over seeds is that of the pilots: stored runs of other seeds than the "
        f"planned ones, or these runs where there are none. {powers(records)}"
    )
    header = (
        "experiment",
        "scale",
        "claim",
        "effect",
        "from",
        "spread",
        "tests",
        "seeds",
        "alone",
        "together",
        "needed",
    )
    return Table(caption, header, rows)


def _power_row(record: Record) -> tuple[str, ...]:
    named, power = (record["experiment"], record["scale"], record["claim"]), record["power"]
    if not power:
        return (*named, "no pilots", *["–"] * 7)
    needed = f"over {MOST_SEEDS}" if power["needed"] is None else str(power["needed"])
    levels = [f"{power[level]:.2f}" for level in ("alone", "together")]
    return (
        *named, power["aim"], power["origin"], power["spread"], str(power["tests"]), str(power["seeds"]), *levels,
        needed,
    )  # fmt: skip


def tally(records: Iterable[Record]) -> str:
    """The number of claims with each verdict: `8 hold, 2 fail, 5 not run`."""
    verdicts = [record["verdict"] for record in records]
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail")}
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    return (
        ", ".join(
            f"{count} {verbs.get(verdict, (verdict, verdict))[count > 1]}" for verdict, count in counts.items() if count
        )
        or "none"
    )


def sizes(records: Iterable[Record]) -> str:
    """How many effects are as large as in the papers: `2 agree, 9 differ, 5 open`; empty where none has one."""
    counts = Counter(record["size"] for record in records if record["size"])
    words = {"agrees": "agree", "differs": "differ", "open": "open"}
    return ", ".join(f"{counts[size]} {word}" for size, word in words.items() if counts[size])


def by_paper(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by paper; papers are in the order of their first record."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["paper"], []).append(record)
    return groups


def _evidence(stored: StoredExperiment, claim: Claim, needs: Needs) -> Evidence:
    """What the claim's rule says of the runs that it needs."""
    if not stored.runs:
        return Evidence("", "", 0, "not run", stored.missing_text or "no runs", rule=claim.rule)
    evidence = Evidence("", "", 0, "undecided", rule=claim.rule)
    if runs := meeting(stored.runs, needs):
        try:
            evidence = claim.evidence(runs)
        except InputError as error:
            # A measurement that is missing must not keep the other claims from being reported.
            return evidence._replace(explanation=one_line(error))
    parts = (evidence.explanation, not_needed(stored.runs, needs), stored.missing_text)
    return evidence._replace(explanation="; ".join(filter(None, parts)))


def _record(
    stored: StoredExperiment,
    claim: Claim,
    needs: Needs,
    evidence: Evidence,
    p_holm: float | None,
    family: int,
    power: Power | None,
) -> Record:
    verdict, explanation, p = evidence.verdict, evidence.explanation, None
    if evidence.chance:
        verdict, p = verdict_of(evidence.chance, p_holm), evidence.chance.two_sided
    if verdict != evidence.verdict:
        explanation += (
            f"; by itself it {evidence.verdict} (p = {number(p, 2)}), but not among the {family} claims of the "
            f"experiment (Holm: p = {number(p_holm, 2)})"
        )
    runs, fixed = meeting(stored.runs, needs), fixed_at(stored.rules, stored.experiment, claim)
    size, compared = magnitude(evidence.effect, evidence.seeds, claim.paper_effect) or ("", "")
    return {
        "experiment": stored.experiment.id,
        "claim": claim.id,
        "paper": claim.paper,
        "where": claim.where,
        "statement": claim.statement,
        "paper_value": claim.paper_value,
        "value": evidence.value,
        "spread": evidence.spread,
        "seeds": evidence.seeds,
        "rule": evidence.rule,
        "verdict": verdict,
        "verdict_alone": evidence.verdict,
        "reason": reason_of(evidence, verdict, power, family, p_holm),
        "fixed_at": fixed,
        "pilot": pilot(stored.experiment, stored.scale, runs, fixed) if evidence.seeds else "",
        "p": _rounded(p),
        "p_holm": _rounded(p_holm),
        "effect": _effect(evidence.effect),
        "size": size,
        "size_compared": compared,
        "power": _power(power),
        "scale": stored.scale,
        "variant": stored.variant,
        "needs": needs,
        "runs": [run.path for run in runs],
        "explanation": explanation,
    }


def _effect(effect: Effect | None) -> dict[str, Any] | None:
    """The ratio, or the difference, with the ends of its 95 % interval, to six digits."""
    if effect is None:
        return None
    ends = effect.interval if effect.scale == "difference" else map(exp_or_inf, effect.interval)
    numbers = {name: float(f"{end:.6g}") for name, end in zip(("estimate", "low", "high"), ends, strict=True)}
    return {"scale": effect.scale, **{name: end if math.isfinite(end) else None for name, end in numbers.items()}}


def _power(power: Power | None) -> dict[str, Any] | None:
    """The fields, chances to three digits."""
    if power is None:
        return None
    return power._asdict() | {"alone": _rounded(power.alone), "together": _rounded(power.together)}


def _rounded(p: float | None) -> float | None:
    return None if p is None else float(f"{p:.3g}")


def facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(name, value) pairs of the manifests; where runs differ, all values are given."""
    if not runs:
        return []
    seeds = sorted({run.seed for run in runs})
    pairs = [("seeds", ", ".join(map(str, seeds)))]
    for key, name in _FACTS.items():
        values = [value for value in dict.fromkeys(plain(run.manifest.get(key)) for run in runs) if value]
        if values:
            pairs.append((name, "; ".join(values)))
    return pairs


def commands(runs: Sequence[Run]) -> list[str]:
    """The commands that made the runs, each once."""
    each = [command for run in runs if (command := run.manifest.get("command"))]
    return list(dict.fromkeys(shlex.join(one) if isinstance(one, list) else str(one) for one in each))


def shared_and_varied(runs: Sequence[Run]) -> tuple[str, list[tuple[str, str]]]:
    """The JSON of the settings that all runs share, and (setting, its values) for each setting that varies."""
    flat = [_flatten(run.config) for run in runs]
    shared, varied = {}, []
    for name in dict.fromkeys(name for one in flat for name in one):
        values = list(dict.fromkeys(json.dumps(one.get(name)) for one in flat))
        if len(values) == 1:
            shared[name] = json.loads(values[0])
        else:
            ordered = sorted((json.loads(value) for value in values), key=lambda value: (str(type(value)), value))
            varied.append((name, ", ".join(number(v) if isinstance(v, float) else str(v) for v in ordered)))
    return json.dumps(shared, indent=1, ensure_ascii=False), varied


def notices(stored: StoredExperiment) -> list[str]:
    """What is missing, a line for each: runs that did not finish, runs that are damaged or not there,
    measures that failed. Of many that did not finish or are damaged, the first are named and the others counted.
    """
    lines = _first([f"{run.path}: {run.status}" for run in stored.runs if run.status != "done"], "did not finish")
    lines += _first(stored.damaged, "are damaged")
    if stored.missing:
        lines.append(stored.missing_text)
    failed: dict[tuple[str, str], list[str]] = {}
    for run in stored.runs:
        for one in run.manifest.get("failed_measures", []):
            failed.setdefault((one["measure"], one["reason"]), []).append(f"{run.path} at step {one['step']}")
    for (measure, reason), where in failed.items():
        lines.append(
            f"{measure} failed {len(where)} {'time' if len(where) == 1 else 'times'} ({reason}): "
            f"{', '.join(_first(where, 'times'))}; {command('measure', '--run=RUN')} measures again"
        )
    return lines


def _first(lines: Sequence[str], what: str) -> list[str]:
    shown = list(lines[:_NAMED])
    return [*shown, f"{len(lines) - _NAMED} more {what}"] if len(lines) > _NAMED else shown


def run_table(runs: Sequence[Run]) -> Table:
    """One row for each run with its status; unfinished runs come first, with the reason."""
    order = sorted(runs, key=lambda run: (run.status == "done", run.path))
    rows = tuple((run.path, str(run.seed), run.status, _end(run)) for run in order)
    return Table("Run folders and how each run ended.", ("folder", "seed", "status", "end"), rows)


def _end(run: Run) -> str:
    last = f"epoch {number(run.final_or_nan('epoch'))}" if run.metrics else "nothing measured"
    reason = plain(run.manifest.get("reason"))
    return f"{last}: {reason}" if reason else last


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
