"""When rules were fixed, and which verdicts are pilots: of runs from before that, or from seeds that were tuned on.

The registry of rules, `experiments/rules.json`, has a line for each claim: a digest of its rule, and the time at which
the rule came to be as it is. A rule that changes has another digest, and needs a line of its own time.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from hessflat.analysis.experiment import Claim, Experiment
from hessflat.analysis.results import Needs, Run
from hessflat.utils.errors import InputError


class FixedRule(NamedTuple):
    """The digest of a rule, and since when it is so (ISO 8601, with its offset)."""

    digest: str
    fixed_at: str


Rules = Mapping[str, FixedRule]


def needs_of(experiment: Experiment, claim: Claim) -> Needs:
    """Which runs may decide a claim."""
    return claim.needs or experiment.needs


def digest_of(experiment: Experiment, claim: Claim) -> str:
    """The digest of what a rule says it does: its sentence, with its margins, and which runs may decide."""
    definition = json.dumps([claim.rule, needs_of(experiment, claim)], ensure_ascii=False)
    return hashlib.sha256(definition.encode()).hexdigest()[:16]


def key_of(experiment: Experiment, claim: Claim) -> str:
    """What the registry calls a claim: `g_mlp/accuracy`."""
    return f"{experiment.id}/{claim.id}"


def read_rules(path: Path) -> Rules:
    """The registry; empty where there is none.

    Raises:
        InputError: it is not as it was written.
    """
    if not path.exists():
        return {}
    try:
        rules = {name: FixedRule(*line) for name, line in json.loads(path.read_text()).items()}
        if any(datetime.fromisoformat(rule.fixed_at).tzinfo is None for rule in rules.values()):
            raise ValueError("a time has no offset")
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a registry of rules ({error}); restore it") from error
    return rules


def fixed_at(rules: Rules, experiment: Experiment, claim: Claim) -> str:
    """Since when the rule of a claim is what it is; empty where the registry does not have it."""
    rule = rules.get(key_of(experiment, claim))
    return rule.fixed_at if rule and rule.digest == digest_of(experiment, claim) else ""


def pilot(experiment: Experiment, scale: str, runs: Sequence[Run], fixed: str) -> str:
    """Why a verdict of these runs is a pilot; empty where the rule was fixed before them, on other seeds.

    `fixed` is that of `fixed_at`.
    """
    tuned = [one for one in experiment.tuned if one.scale == scale and {run.seed for run in runs} & set(one.seeds)]
    if tuned:
        return "; ".join(f"{one.what} tuned on seeds {', '.join(map(str, one.seeds))}" for one in tuned)
    if not fixed:
        return "its rule is in no registry"
    began = [run.manifest.get("started") for run in runs]
    before = sum(one is None or datetime.fromisoformat(one) < datetime.fromisoformat(fixed) for one in began)
    return f"{before} of {len(runs)} runs began before the rule was fixed, {fixed[:10]}" if before else ""
