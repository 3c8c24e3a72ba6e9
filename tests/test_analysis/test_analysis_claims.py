import json
import re

import numpy as np
import pytest
from fabricated_runs import write_run

from hessflat.analysis import claims
from hessflat.analysis.claims import (
    Best,
    agrees,
    all_hold,
    best_setting,
    compare,
    exceeds,
    falls_below,
    in_every_run,
    increases,
    reaches_bound,
    unchanged,
)
from hessflat.analysis.evidence import magnitude
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.results import load_run
from hessflat.utils.errors import InputError


@pytest.fixture
def make(tmp_path):
    """A function (values per setting, one per seed) -> runs whose metric `m` ends there."""

    def write(values, metric="m", extra=None):
        runs = []
        for l2, per_seed in values.items():
            for seed, value in enumerate(per_seed):
                final = {metric: value, **(extra or {})}
                runs.append(load_run(write_run(tmp_path, l2, seed, epochs=(0, 5), spectra=False, final=final)))
        return runs

    return write


@pytest.mark.parametrize(
    ("before", "after", "expect", "verdict"),
    [
        ([10.0, 11.0, 12.0], [13.0, 14.4, 15.5], "larger", "holds"),
        ([10.0, 11.0, 12.0], [13.0, 14.4, 15.5], "smaller", "fails"),
        ([13.0, 14.4, 15.5], [10.0, 11.0, 12.0], "larger", "fails"),
        ([10.0, 11.0, 12.0], [9.0, 12.0, 12.5], "larger", "undecided"),
        ([10.0], [20.0], "larger", "undecided"),
        ([10.0, 11.0], [10.0, 11.0], "larger", "undecided"),
    ],
)
@pytest.mark.parametrize("scale", ["ratio", "difference"])
def test_a_comparison_follows_the_interval(make, before, after, expect, verdict, scale):
    evidence = compare(make({0.0: before, 5e-4: after}), "m", high=5e-4, expect=expect, scale=scale)
    assert (evidence.verdict, evidence.seeds) == (verdict, len(before))
    assert "L2 0 → 5e-4" in evidence.value


def test_pairing_by_seed_decides_what_the_means_cannot(make):
    # Seeds differ by far more than the effect, which every seed shows.
    evidence = compare(make({0.0: [1.0, 10.0, 100.0], 5e-4: [1.1, 11.2, 109.0]}), "m", high=5e-4)
    assert evidence.verdict == "holds"
    assert evidence.value == "37 → 40.43 (ratio 1.1) at L2 0 → 5e-4"
    # By hand: log-ratios 0.09531, 0.11333, 0.08618; t(0.975, 2) = 4.3027; half width 0.03429.
    assert evidence.spread == "95 % interval [1.07, 1.14], 3 seeds"


def test_accuracies_read_in_per_cent_and_points(make):
    runs = make({0.0: [0.92, 0.93], 5e-4: [0.94, 0.95001]}, "test_accuracy")
    evidence = compare(runs, "test_accuracy", high=5e-4, scale="difference")
    assert evidence.value.startswith("92.50 % → 94.50 % (+2 points)")
    assert evidence.verdict == "holds"


@pytest.mark.parametrize(("bound", "verdict"), [(0.0, "holds"), (0.2, "holds"), (1.0, "undecided")])
@pytest.mark.parametrize("scale", ["ratio", "difference"])
def test_error_bounds_widen_the_interval(make, bound, verdict, scale):
    runs = make({0.0: [10.0, 11.0, 12.0], 5e-4: [10.5, 11.55, 12.61]}, extra={"m_bound": bound})
    assert compare(runs, "m", high=5e-4, scale=scale).verdict == verdict


def test_best_picks_by_validation_and_never_the_lower_setting(make):
    runs = make({0.0: [0.99, 0.99], 1e-4: [0.9, 0.9], 5e-4: [0.8, 0.95], 1e-3: [0.9, 0.9]}, "validation_accuracy")
    assert best_setting(runs, "optim.l2", Best(), without=0.0) == 1e-4  # a tie goes to the smallest
    assert best_setting(runs, "optim.l2", Best(largest=False), without=0.0) == 5e-4
    assert "L2 0 → 1e-4" in compare(runs, "validation_accuracy").value


def test_diverged_runs_do_not_decide_and_are_named(make, tmp_path):
    runs = make({0.0: [1.0, 1.1, 1.2], 5e-4: [2.0, 2.2]})
    lost = load_run(write_run(tmp_path, 5e-4, 2, status="diverged", epochs=(0,), final={"m": 1e9}, spectra=False))
    evidence = compare([*runs, lost], "m", high=5e-4)
    assert (evidence.verdict, evidence.seeds) == ("holds", 2)
    assert re.search(r"left out: toy-l2=0\.0005-seed=2-\w+ \(diverged\)", evidence.explanation)


def test_a_setting_that_only_diverged_is_undecided(make, tmp_path):
    runs = make({0.0: [1.0, 1.1]})
    lost = load_run(write_run(tmp_path, 5e-4, 0, status="diverged", epochs=(0,), spectra=False))
    assert compare([*runs, lost], "m", high=5e-4).verdict == "undecided"


def test_a_setting_without_runs_is_not_run(make):
    runs = make({0.0: [1.0, 1.1]})
    for evidence in (compare(runs, "m", high=5e-4), compare(runs, "m"), increases(runs, "m"), compare([], "m")):
        assert (evidence.verdict, evidence.seeds) == ("not run", 0)
    assert reaches_bound([], "m", "b").verdict == agrees([], "m", "b").verdict == "not run"


@pytest.mark.parametrize(
    ("values", "expect", "verdict"),
    [
        ({0.0: [1, 2, 3], 1e-4: [2, 3, 4], 5e-4: [5, 6, 7]}, "increases", "holds"),
        ({0.0: [1, 2, 3], 1e-4: [2, 3, 4], 5e-4: [5, 6, 7]}, "decreases", "fails"),
        ({0.0: [1, 9, 3], 1e-4: [2, 3, 4], 5e-4: [5, 1, 1]}, "increases", "undecided"),
        ({0.0: [1], 1e-4: [2], 5e-4: [5]}, "increases", "undecided"),
        ({0.0: [1, 1], 1e-4: [1, 1]}, "increases", "undecided"),
    ],
)
def test_order_follows_kendalls_tau(make, values, expect, verdict):
    assert increases(make(values), "m", expect=expect).verdict == verdict


def test_order_says_the_means(make):
    evidence = increases(make({0.0: [1, 2], 1e-4: [2, 4], 5e-4: [5, 6]}), "m")
    assert evidence.value == "1.5 → 3 → 5.5 at L2 0, 1e-4, 5e-4 (Kendall τ 1)"
    assert "are in increasing order" in evidence.explanation


def test_a_bound_is_reached_or_missed(make):
    extra = {"zero_mass_bound": 0.9}
    above = make({0.0: [0.95, 0.96, 0.955]}, "hessian.zero_mass", extra)
    assert reaches_bound(above, "hessian.zero_mass", "zero_mass_bound").verdict == "holds"
    # At initialisation the fabricated mass is near 0.84 and the bound 0.815.
    assert reaches_bound(above, "hessian.zero_mass", "zero_mass_bound", when="always").verdict == "holds"


def test_a_bound_that_anything_reaches_decides_nothing(make):
    runs = make({0.0: [0.95, 0.96]}, "hessian.zero_mass", {"zero_mass_bound": 0.0})
    evidence = reaches_bound(runs, "hessian.zero_mass", "zero_mass_bound")
    assert evidence.verdict == "undecided"
    assert "decides nothing" in evidence.explanation


def test_a_missed_bound_fails_unless_tolerated(make):
    below = make({0.0: [0.85, 0.86, 0.855]}, "hessian.zero_mass", {"zero_mass_bound": 0.9})
    assert reaches_bound(below, "hessian.zero_mass", "zero_mass_bound").verdict == "fails"
    assert reaches_bound(below, "hessian.zero_mass", "zero_mass_bound", tolerance=0.1).verdict == "holds"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([1.0, 1.01, 1.02], "holds"), ([1.2, 1.21, 1.22], "fails"), ([0.95, 1.1, 1.0], "undecided"), ([1.0], "undecided")],
)
def test_agreement_is_within_limits(make, values, verdict):
    assert agrees(make({0.0: values}, extra={"other": 1.0}), "m", "other", within=0.1).verdict == verdict


@pytest.mark.parametrize(
    ("gain", "expect", "verdict"),
    [
        (0.05, "larger", "holds"),
        (0.05, "smaller", "fails"),
        (-0.05, "larger", "fails"),  # the flatter one, without L2, is the better one
        (-0.05, "smaller", "holds"),
        (0.0, "larger", "undecided"),
        (0.0, "smaller", "undecided"),
    ],
)
def test_which_solution_is_better_is_decided_first(make, gain, expect, verdict):
    runs = make({0.0: [10.0, 11.0], 5e-4: [20.0, 22.2]}, "hessian.lambda_max", {"validation_accuracy": 0.9})
    for run in runs:
        run.metrics[-1]["test_accuracy"] = 0.9 + (run.setting("optim.l2") > 0) * gain + 0.001 * run.seed
        run.metrics[-1]["test_loss"] = 1 - run.metrics[-1]["test_accuracy"]
    evidence = claims.of_the_better(runs, "hessian.lambda_max", expect)
    assert evidence.verdict == verdict
    assert "ratio 2" in evidence.value
    by_loss = claims.of_the_better(runs, "hessian.lambda_max", expect, quality="test_loss", better="smaller")
    assert by_loss.verdict == verdict


@pytest.mark.parametrize(
    ("values", "limit", "expect", "verdict"),
    [
        ([1.0, 1.1, 0.9], 0.5, "larger", "holds"),
        ([1.0, 1.1, 0.9], 0.5, "smaller", "fails"),
        ([1.0, 1.1, 0.9], 1.05, "larger", "undecided"),
        ([1.0], 0.5, "larger", "undecided"),
    ],
)
def test_a_statistic_exceeds_a_limit_or_falls_below_it(make, values, limit, expect, verdict):
    runs = make({0.0: values})
    rule = {"larger": exceeds, "smaller": falls_below}[expect]
    evidence = rule(runs, lambda run: run.final("m"), limit, "the loss")
    assert (evidence.verdict, evidence.seeds) == (verdict, len(values))
    assert evidence.value.startswith("the loss ")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 10.0, 100.0], [1.1, 11.2, 109.0], "holds"),
        ([1.0, 10.0, 100.0], [0.5, 5.1, 49.0], "fails"),
        ([1.0, 10.0, 100.0], [1.0, 14.0, 100.0], "undecided"),
        ([1.0], [1.0], "undecided"),
    ],
)
def test_a_number_is_the_same_within_a_factor(make, before, after, verdict):
    evidence = unchanged(make({0.0: before, 5e-4: after}), lambda run: run.final("m"), "optim.l2", 0.0, 5e-4, 1.25, "m")
    assert (evidence.verdict, evidence.seeds) == (verdict, len(before))
    assert unchanged(make({0.1: before}), lambda run: 1.0, "optim.l2", 0.1, 0.2, 1.25, "m").verdict == "not run"


def test_a_theorem_must_hold_in_every_run(make):
    runs = make({0.0: [1.0, 5.0, -30.0]})
    for limit, verdict in ((5.0, "holds"), (4.9, "fails")):
        assert in_every_run(runs, lambda run: run.final("m"), limit, "it").verdict == verdict


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "fails"), "fails"),
        (("undecided", "fails"), "fails"),
        (("holds", "undecided"), "undecided"),
        (("holds", "not run"), "not run"),
    ],
)
def test_all_parts_must_hold(verdicts, together):
    assert all_hold(*(Evidence("a", "b", 3, verdict) for verdict in verdicts)).verdict == together


def test_bad_questions_are_refused_in_one_line(make, tmp_path):
    runs = make({0.0: [1.0, -1.0], 5e-4: [1.0, 2.0]})
    twin = write_run(tmp_path / "other", 0.0, 0, epochs=(0, 5), spectra=False, final={"m": 1.0})
    for question, message in [
        (lambda: compare(runs, "m", high=5e-4), "needs positive values"),
        (lambda: compare(runs, "unknown", high=5e-4), "was not measured"),
        (lambda: compare(runs, "m", by="optim.rate", high=5e-4), "no setting"),
        (lambda: compare([*runs, load_run(twin)], "m", high=5e-4), "share optim.l2 and seed"),
    ]:
        with pytest.raises(InputError, match=message) as caught:
            question()
        assert "\n" not in str(caught.value)


def test_evidence_is_plain_json(make):
    evidence = compare(make({0.0: [1.0, 1.1], 5e-4: [2.0, 2.3]}), "m", high=5e-4)
    plain = {name: value for name, value in evidence._asdict().items() if name != "effect"}
    assert json.loads(json.dumps(plain)) == plain
    assert json.loads(json.dumps(evidence.effect)) == [list(evidence.effect.interval), "ratio"]


@pytest.mark.parametrize(
    ("ratios", "paper", "size"),
    [
        ([2.9, 3.0, 3.1], 3.0, "agrees"),
        ([2.9, 3.0, 3.1], 30.0, "differs"),
        ([2.9, 3.0, 3.1], 1 / 3, "differs"),
        ([1.0, 3.0, 9.0], 3.0, "open"),
        ([3.0], 3.0, "open"),
    ],
)
def test_the_size_of_a_ratio_is_compared_with_the_papers(make, ratios, paper, size):
    runs = make({0.0: [1.0] * len(ratios), 5e-4: ratios})
    evidence = compare(runs, "m", high=5e-4)
    found, text = magnitude(evidence.effect, evidence.seeds, paper)
    assert found == size
    assert f"{paper:.3g} in the paper" in text
    assert magnitude(evidence.effect, evidence.seeds, None) is None


@pytest.mark.parametrize(("paper", "size"), [(0.05, "agrees"), (0.2, "differs"), (-0.05, "differs"), (0.026, "open")])
def test_the_size_of_a_difference_is_compared_with_the_papers(make, paper, size):
    evidence = compare(make({0.0: [0.5, 0.5, 0.5], 5e-4: [0.548, 0.55, 0.552]}), "m", high=5e-4, scale="difference")
    assert magnitude(evidence.effect, evidence.seeds, paper)[0] == size


def test_the_effect_of_an_order_is_that_from_the_first_to_the_last(make):
    evidence = increases(make({0.0: [1, 2], 1e-4: [9, 9], 5e-4: [3, 6]}), "m")
    assert np.exp(evidence.effect.interval.mean) == pytest.approx(3)
    assert evidence.effect.scale == "ratio"
