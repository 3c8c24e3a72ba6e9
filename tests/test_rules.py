"""The registry of rules: it has every rule as it is now, since a time that its history bears out.

`python tests/test_rules.py` brings experiments/rules.json up to the rules that there are.
"""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hessflat.analysis.experiment import Claim, Evidence, Experiment, StoredExperiment, Tuned
from hessflat.analysis.provenance import FixedRule, digest_of, fixed_at, key_of, pilot, read_rules
from hessflat.analysis.results import Run
from hessflat.cli import experiment
from hessflat.report.sections import judge
from hessflat.utils.errors import InputError

ROOT = Path(__file__).parents[1]
REGISTRY = ROOT / "experiments" / "rules.json"


def current():
    """{key: digest} of every rule there is."""
    every = [experiment.load(name) for name in experiment.names()]
    return {key_of(one, claim): digest_of(one, claim) for one in every for claim in one.claims}


def test_every_rule_is_registered_as_it_is():
    assert {key: rule.digest for key, rule in read_rules(REGISTRY).items()} == current(), (
        "a rule changed: python tests/test_rules.py registers it as of now"
    )


def test_no_rule_is_dated_before_its_line_was_written():
    """Each line was written, by its commit, within an hour of when it says that its rule was fixed."""

    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    try:
        blamed = git("blame", "--line-porcelain", "experiments/rules.json")
        is_shallow = git("rev-parse", "--is-shallow-repository").strip() == "true"
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no history to compare with")
    if is_shallow or len(set(re.findall(r"^([0-9a-f]{40}) ", blamed, re.MULTILINE))) == 1:
        pytest.skip("a history of one commit does not say when its lines were written")
    written = [int(seconds) for seconds in re.findall(r"^author-time (\d+)$", blamed, re.MULTILINE)]
    lines = re.findall(r"^\t(.*)$", blamed, re.MULTILINE)
    dated = [re.search(r'"(\d{4}-[^"]+)"', line) for line in lines]
    assert sum(found is not None for found in dated) == len(read_rules(REGISTRY))
    for found, seconds, line in zip(dated, written, lines, strict=True):
        if found:
            said = datetime.fromisoformat(found[1])
            assert datetime.fromtimestamp(seconds, UTC) - said < timedelta(hours=1), line


def claim(margin):
    """A claim whose rule has a margin."""
    return Claim(
        id="a",
        paper="G",
        where="",
        statement="s",
        paper_value="",
        decide=lambda runs: Evidence("1", "", 2, "undecided", rule=f"above {margin}"),
    )


def toy(margin, tuned=()):
    return Experiment("toy", "G", "?", "c", lambda runs: [], lambda runs: [], (claim(margin),), tuned=tuned)


def begun(*days, seeds=(0, 1)):
    manifests = [{"status": "done", "started": f"2026-01-{day:02}T00:00:00+00:00"} for day in days]
    return [Run(Path(f"runs/toy/{i}"), {"seed": seeds[i]}, one, []) for i, one in enumerate(manifests)]


def test_a_margin_that_changes_is_another_rule():
    one = toy(1)
    rules = {key_of(one, one.claims[0]): FixedRule(digest_of(one, one.claims[0]), "2026-01-10T00:00:00+00:00")}
    assert fixed_at(rules, one, one.claims[0]) == "2026-01-10T00:00:00+00:00"
    assert fixed_at(rules, toy(2), toy(2).claims[0]) == ""


@pytest.mark.parametrize(
    ("days", "tuned", "why"),
    [
        ((11, 12), (), ""),
        ((9, 12), (), "1 of 2 runs began before the rule was fixed, 2026-01-10"),
        ((11, 12), (Tuned("small", (1,), "the rate"),), "the rate tuned on seeds 1"),
        ((11, 12), (Tuned("paper", (1,), "the rate"), Tuned("small", (7,), "it")), ""),
    ],
)
def test_verdicts_of_earlier_runs_and_of_seeds_tuned_on_are_pilots(days, tuned, why):
    asked = toy(1, tuned)
    rules = {key_of(asked, asked.claims[0]): FixedRule(digest_of(asked, asked.claims[0]), "2026-01-10T00:00:00+00:00")}
    (record,) = judge(StoredExperiment(asked, "small", begun(*days), rules=rules))
    assert (record["pilot"], record["fixed_at"]) == (why, "2026-01-10T00:00:00+00:00")


def test_a_rule_that_is_not_registered_makes_pilots():
    assert pilot(toy(1), "small", begun(11), "") == "its rule is in no registry"


@pytest.mark.parametrize("text", ["{", '{"a": 3}', '{"a": ["d", "2026-01-01"]}', '{"a": ["d"]}'])
def test_a_damaged_registry_is_named_in_one_line(tmp_path, text):
    (tmp_path / "rules.json").write_text(text)
    with pytest.raises(InputError, match="is not a registry of rules") as caught:
        read_rules(tmp_path / "rules.json")
    assert "\n" not in str(caught.value)
    assert read_rules(tmp_path / "none.json") == {}


def register():
    """Write the registry: rules that are as they were keep their time, others are fixed now."""
    old, now = read_rules(REGISTRY), datetime.now(UTC).isoformat(timespec="seconds")
    new = {
        key: list(old[key]) if key in old and old[key].digest == digest else [digest, now]
        for key, digest in sorted(current().items())
    }
    lines = ",\n".join(f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(line)}" for key, line in new.items())
    REGISTRY.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    register()
    sys.stdout.write("experiments/rules.json\n")
