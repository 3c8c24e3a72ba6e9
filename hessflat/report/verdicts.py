"""What is reported on, and the verdict of each of its claims as a record for `claims.json`."""

from collections.abc import Iterable
from typing import Any

from hessflat.analysis.experiment import Claim, Evidence, StoredExperiment
from hessflat.utils.errors import InputError

VERDICTS = ("holds", "fails", "undecided", "not run")
Record = dict[str, Any]


def judge(entry: StoredExperiment) -> list[Record]:
    """One record per claim, in the order of the experiment."""
    return [_record(entry, claim, _evidence(entry, claim)) for claim in entry.experiment.claims]


def tally(records: Iterable[Record]) -> str:
    """`8 hold, 2 fail, 5 not run`: how many claims have each verdict."""
    found = [record["verdict"] for record in records]
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail")}
    told = []
    for verdict in VERDICTS:
        count = found.count(verdict)
        if count:
            told.append(f"{count} {verbs.get(verdict, (verdict, verdict))[count > 1]}")
    return ", ".join(told) or "none"


def by_paper(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records grouped by paper, papers in the order they first appear in."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["paper"], []).append(record)
    return groups


def _evidence(entry: StoredExperiment, claim: Claim) -> Evidence:
    if not entry.runs:
        return Evidence("", "", 0, "not run", entry.missing_text or "no runs")
    try:
        evidence = claim.decide(entry.runs)
    except InputError as error:
        # A measurement that is missing must not keep the other claims from being reported.
        return Evidence("", "", 0, "undecided", " ".join(str(error).split()))
    return evidence._replace(explanation="; ".join(filter(None, (evidence.explanation, entry.missing_text))))


def _record(entry: StoredExperiment, claim: Claim, evidence: Evidence) -> Record:
    return {
        "experiment": entry.experiment.id,
        "claim": claim.id,
        "paper": claim.paper,
        "where": claim.where,
        "statement": claim.statement,
        "paper_value": claim.paper_value,
        "value": evidence.value,
        "spread": evidence.spread,
        "seeds": evidence.seeds,
        "rule": claim.rule,
        "verdict": evidence.verdict,
        "scale": entry.scale,
        "runs": [run.path for run in entry.runs],
        "explanation": evidence.explanation,
    }
