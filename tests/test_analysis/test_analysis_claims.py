import json
import re

import numpy as np
import pytest
from fabricated_runs import write_run

from hessflat.analysis import claims
from hessflat.analysis.claims import LARGEST, SMALLEST, Best, best_setting, compare, increases, same_count, unchanged
from hessflat.analysis.decisions import Chance, verdict_of
from hessflat.analysis.evidence import all_hold, magnitude
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.limits import agrees, exceeds, falls_below, in_every_run, lies_within, on_one_side, reaches_bound
from hessflat.analysis.results import load_run
from hessflat.utils.errors import InputError


@pytest.fixture
def make(tmp_path):
    """A function (values per setting, one per seed) -> runs whose metric `m` ends there."""

    written = []

    def write(values, metric="m", extra=None):
        runs, root = [], tmp_path / str(len(written))
        written.append(root)
        for l2, per_seed in values.items():
            for seed, value in enumerate(per_seed):
                final = {metric: value, **(extra or {})}
                runs.append(load_run(write_run(root, l2, seed, epochs=(0, 5), spectra=False, final=final)))
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
        ([10.0, 11.0], [10.0, 11.0], "larger", "not applicable"),
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
    runs = make({0.0: [0.99, 0.99], 1e-4: [0.90, 0.91], 5e-4: [0.80, 0.81], 1e-3: [0.7, 0.71]}, "validation_accuracy")
    assert best_setting(runs, "optim.l2", Best(), without=0.0) == 1e-4
    assert best_setting(runs, "optim.l2", Best(largest=False), without=0.0) == 1e-3
    assert "L2 0 → 1e-4" in compare(runs, "validation_accuracy").value


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        ([0.90, 0.91, 0.92], 5e-4),  # as good
        ([0.91, 0.89, 0.92], 5e-4),  # worse on average by 0.0033, with a standard error of 0.0088
        ([0.89, 0.905, 0.91], 1e-4),  # by 0.0083, with one of 0.0017
    ],
)
def test_of_values_within_one_standard_error_of_the_best_it_is_the_largest(make, others, chosen):
    runs = make({0.0: [0.5] * 3, 1e-4: [0.90, 0.91, 0.92], 5e-4: others, 1e-3: [0.6] * 3}, "validation_accuracy")
    assert best_setting(runs, "optim.l2", Best(), without=0.0) == chosen


def test_one_image_among_few_does_not_choose(make):
    """With 270 validation digits one image more is within the error of so many examples, whatever seeds say."""
    runs = make({0.0: [0.5, 0.5], 1e-4: [0.90 + 1 / 270] * 2, 5e-4: [0.90] * 2}, "validation_accuracy")
    assert best_setting(runs, "optim.l2", Best(), without=0.0) == 1e-4
    for run in runs:
        run.manifest["examples"] = {"validation": 270}
    assert best_setting(runs, "optim.l2", Best(), without=0.0) == 5e-4


def test_an_interval_of_accuracies_counts_examples_in(make):
    runs = make({0.0: [0.90, 0.91], 5e-4: [0.92, 0.9301]}, "test_accuracy")
    assert compare(runs, "test_accuracy", high=5e-4, scale="difference").verdict == "holds"
    for run in runs:
        run.manifest["examples"] = {"test": 100}
    evidence = compare(runs, "test_accuracy", high=5e-4, scale="difference")
    # The least variance of a difference of 0.02 over 100 examples, and of one more: (0.03 - 0.02²) / 100 = 0.0172².
    assert evidence.verdict == "undecided"
    assert "the least error of 100 examples" in evidence.explanation


def test_diverged_runs_do_not_decide_and_are_named(make, tmp_path):
    runs = make({0.0: [1.0, 1.1, 1.2], 5e-4: [2.0, 2.21]})
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
    assert agrees([], "m", "b").explanation == "no run is of the kind that the claim is on"


def test_a_limit_of_0_needs_the_effect_to_find(make):
    runs = make({0.0: [1.0, 1.1, 1.2]})
    for own in ([], runs):
        with pytest.raises(InputError, match=r"m: with a limit of 0 give the effect .*, as least=0\.5"):
            exceeds(own, lambda run: run.final("m"), 0.0, "m,")
        assert exceeds(own, lambda run: run.final("m"), 0.0, "m", least=0.5).verdict == ("holds" if own else "not run")


def stored_answers(runs, right, labels=lambda run: 7):
    """The runs with the bits of the examples of `right(run)`, whose share is their test accuracy."""
    for run in runs:
        bits = right(run)
        run.metrics[-1]["test_accuracy"] = float(bits.mean())
        arrays = {"test": np.packbits(bits), "test_size": len(bits), "test_labels": labels(run)}
        np.savez(run.folder / "spectra" / f"{run.metrics[-1]['step']}-answers.npz", **arrays)
    return runs


@pytest.mark.parametrize(
    ("disagree", "labels", "verdict", "says"),
    [
        ("alike", lambda run: 7, "undecided", "which of 101 examples each seed gets right"),
        ("apart", lambda run: 7, "holds", "which of 101 examples each seed gets right"),
        ("alike", lambda run: run.seed, "undecided", "101 examples that each seed has of its own"),
    ],
)
def test_what_seeds_share_of_their_examples_counts(make, disagree, labels, verdict, says):
    """With L2 three or so of 101 more are right: the same ones in every seed, or others, or of other examples."""

    def right(run):
        bits = np.arange(101) >= 20
        if run.setting("optim.l2"):
            start = 0 if disagree == "alike" else 6 * run.seed
            bits[start : start + 3 + (run.seed == 2)] = True
        return bits

    runs = stored_answers(make({0.0: [0] * 3, 5e-4: [0] * 3}, "test_accuracy"), right, labels)
    evidence = compare(runs, "test_accuracy", high=5e-4, scale="difference")
    assert evidence.verdict == verdict
    assert says in evidence.explanation


@pytest.mark.parametrize(
    ("values", "expect", "verdict"),
    [
        ({0.0: [1, 2, 3], 1e-4: [2, 3, 4], 5e-4: [5, 6, 7]}, "increases", "holds"),
        ({0.0: [1, 2, 3], 1e-4: [2, 3, 4], 5e-4: [5, 6, 7]}, "decreases", "fails"),
        ({0.0: [1, 9, 3], 1e-4: [2, 3, 4], 5e-4: [5, 1, 1]}, "increases", "undecided"),
        ({0.0: [1], 1e-4: [2], 5e-4: [5]}, "increases", "undecided"),
        ({0.0: [1, 1], 1e-4: [1, 1]}, "increases", "cannot decide"),
        ({0.0: [1, 1, 1], 1e-4: [1, 1, 1], 5e-4: [1, 1, 1]}, "increases", "undecided"),
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
    assert evidence.verdict == "not applicable"
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
        (0.0, "larger", "not applicable"),  # they are equally good
        (0.0, "smaller", "not applicable"),
    ],
)
def test_which_solution_is_better_is_decided_first(make, gain, expect, verdict):
    runs = make({0.0: [10.0, 11.0], 5e-4: [20.0, 22.2]}, "hessian.lambda_max", {"validation_accuracy": 0.9})
    for run in runs:
        own_gain = (run.setting("optim.l2") > 0) * gain * (1 + 0.01 * run.seed)
        run.metrics[-1]["test_accuracy"] = 0.9 + own_gain + 0.001 * run.seed
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
    runs = make({0.0: [1.0, 3.0, 2.0]})
    for limit, verdict in ((10.0, "holds"), (2.9, "fails"), (3.1, "undecided")):
        assert in_every_run(runs, lambda run: run.final("m"), limit, "it").verdict == verdict
    assert in_every_run(runs[:1], lambda run: run.final("m"), 10.0, "it").verdict == "undecided"


CHANCES = {"holds": Chance(0.001, 0.999), "fails": Chance(0.999, 0.001), "undecided": Chance(0.3, 0.7)}


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "fails"), "fails"),
        (("undecided", "fails"), "fails"),
        (("holds", "undecided"), "undecided"),
        (("holds", "not run"), "not run"),
        (("fails", "not run"), "fails"),
        (("holds", "not applicable"), "holds"),
        (("not applicable", "not applicable"), "not applicable"),
    ],
)
def test_all_parts_must_hold(verdicts, together):
    parts = [Evidence("a", "b", 3, verdict, rule=verdict, chance=CHANCES.get(verdict)) for verdict in verdicts]
    whole = all_hold(*parts)
    assert whole.verdict == together
    assert whole.rule == "; and ".join(dict.fromkeys(verdicts))


def test_numbers_lie_within_limits_by_the_worst_of_a_seeds_runs(make):
    for values, verdict in (
        ({0.0: [0.98, 1.0, 1.02], 5e-4: [0.99, 1.01, 1.0]}, "holds"),
        ({0.0: [0.98, 1.0, 1.02], 5e-4: [1.4, 1.41, 1.42]}, "fails"),
        ({0.0: [0.98, 1.0, 1.02], 5e-4: [1.0, 1.2, 1.1]}, "undecided"),
    ):
        assert lies_within(make(values), lambda run: run.final("m"), 0.9, 1.1, "it").verdict == verdict


def test_runs_of_a_seed_that_differ_are_not_averaged(make):
    runs = make({0.0: [0.1, 0.11, 0.12], 5e-4: [0.9, 0.91, 0.92]})
    below = {of: falls_below(runs, lambda run: run.final("m"), 0.8, "it", of=of).verdict for of in ("worst", "mean")}
    assert below == {"worst": "fails", "mean": "holds"}


def test_positive_ratios_are_compared_on_the_scale_of_their_logarithms(make):
    runs = make({0.0: [0.002, 0.001, 0.012]})
    plain, logs = (falls_below(runs, lambda run: run.final("m"), 0.1, "it", scale) for scale in ("plain", "log"))
    # By hand: logarithms -6.2146, -6.9078, -4.4228; their mean -5.8484, standard error
    # 0.7403, times t(0.975, 2) = 4.3027: from -9.0339 to -2.6630.
    assert logs.spread == "95 % interval [1.19e-4, 0.0697], 3 seeds"
    assert (logs.verdict, plain.verdict) == ("holds", "holds")
    assert "-" in plain.spread.split("[")[1].split(",")[0]
    for seeds, verdict in ((3, "undecided"), (6, "holds")):
        zeros = make({1.0: [0.0, 1e-5] * (seeds // 2) + [0.0] * (seeds % 2)})
        assert falls_below(zeros, lambda run: run.final("m"), 0.1, "it", "log").verdict == verdict


@pytest.mark.parametrize(
    ("after", "verdict"),
    [([9, 9, 9, 9, 9], "holds"), ([14, 13, 14, 15, 14], "fails"), ([9, 12, 9, 10, 9], "undecided")],
)
def test_counts_are_the_same_within_one(make, after, verdict):
    runs = make({0.0: [9] * 5, 1e-4: [50] * 5, 5e-4: after})
    evidence = same_count(runs, lambda run: int(run.final("m")), "optim.l2", SMALLEST, LARGEST, 1, "values")
    assert evidence.verdict == verdict
    assert evidence.value.endswith("at L2 0 → 5e-4")


def test_few_signs_cannot_decide(make):
    for seeds, verdict in ((3, "cannot decide"), (6, "holds")):
        runs = make({0.0: [-1.0] * seeds})
        assert on_one_side(runs, lambda run: run.final("m"), "τ", "smaller").verdict == verdict


def last(run):
    return run.final("m")


RULES = {
    "compare": (lambda runs, margin: compare(runs, "m", high=margin), (1e-4, 5e-4)),
    "increases": (lambda runs, expect: increases(runs, "m", expect=expect), ("increases", "decreases")),
    "of_the_better": (lambda runs, expect: claims.of_the_better(runs, "m", expect), ("larger", "smaller")),
    "unchanged": (lambda runs, m: unchanged(runs, last, "optim.l2", SMALLEST, LARGEST, m, "m"), (1.25, 1.5)),
    "not smaller": (lambda runs, o: unchanged(runs, last, "optim.l2", 0.0, 5e-4, 2.0, "m", o), ("both", "not smaller")),
    "same_count": (lambda runs, m: same_count(runs, int, "optim.l2", SMALLEST, LARGEST, m, "m"), (1, 2)),
    "exceeds": (lambda runs, m: exceeds(runs, last, m, "m"), (0.5, 0.6)),
    "falls_below": (lambda runs, scale: falls_below(runs, last, 0.5, "m", scale), ("plain", "log")),
    "of": (lambda runs, of: falls_below(runs, last, 0.5, "m", of=of), ("worst", "mean")),
    "lies_within": (lambda runs, m: lies_within(runs, last, -m, m, "m"), (0.1, 0.2)),
    "on_one_side": (lambda runs, expect: on_one_side(runs, last, "m", expect), ("larger", "smaller")),
    "in_every_run": (lambda runs, m: in_every_run(runs, last, m, "m"), (1e-12, 1e-11)),
    "reaches_bound": (lambda runs, m: reaches_bound(runs, "m", "b", m), (0.0, 0.1)),
    "vacuous": (lambda runs, m: reaches_bound(runs, "m", "b", vacuous=m), (0.0, 0.1)),
    "agrees": (lambda runs, m: agrees(runs, "m", "b", m), (0.05, 0.1)),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_its_margin_in_its_own_sentence(name):
    rule, margins = RULES[name]
    first, second = (rule([], margin) for margin in margins)
    assert first.verdict == second.verdict == "not run"
    assert first.rule
    assert second.rule
    assert first.rule != second.rule


def test_a_rule_says_the_same_whatever_the_runs(make):
    runs = make({0.0: [0.2, 0.3], 5e-4: [0.4, 0.5]}, extra={"b": 0.25})
    for name, (rule, (margin, _)) in RULES.items():
        if name not in ("compare", "same_count"):
            assert rule(runs, margin).rule == rule([], margin).rule, name


def test_a_verdict_follows_from_the_chance_beside_it(make):
    for after in ([13.0, 14.4, 15.5], [9.0, 12.0, 12.5], [5.0, 5.5, 6.1]):
        evidence = compare(make({0.0: [10.0, 11.0, 12.0], 5e-4: after}), "m", high=5e-4)
        assert evidence.verdict == verdict_of(evidence.chance)


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
    plain = {name: value for name, value in evidence._asdict().items() if name not in ("effect", "chance")}
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
