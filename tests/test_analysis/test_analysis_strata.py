"""Kendall's tau within groups of runs that are alike, and what it decides."""

import pytest
from fabricated_runs import write_run

from hessflat.analysis.limits import falls_below
from hessflat.analysis.results import load_run
from hessflat.analysis.strata import (
    RunQuantity,
    final_metric,
    follows,
    follows_closer,
    in_each_group,
    not_lowered,
    setting_value,
)
from hessflat.utils.errors import InputError


@pytest.fixture
def runs(tmp_path):
    """Three seeds at six rates: at each, a falls with L2, but larger rates have larger L2; b is noise, c is L2."""
    run = load_run(write_run(tmp_path, spectra=False))
    made = []
    for seed in range(3):
        for rate, l2s in ((0.1 * i, (10.0 * i, 10 * i + 1, 10 * i + 2)) for i in range(1, 7)):
            for l2, b in zip(l2s, ((0, 1, 0), (1, 0, 0), (0, 0, 1))[seed], strict=True):
                config = {**run.config, "seed": seed, "optim": {"l2": l2, "lr": rate}}
                metrics = [{"step": 1, "a": 1000 * rate - l2 + 0.01 * seed, "b": float(b), "c": l2 + 0.01 * seed}]
                made.append(run._replace(folder=tmp_path / f"{seed}-{l2}", config=config, metrics=metrics))
    return made


def rate(run):
    return run.setting("optim.lr")


def test_groups_are_compared_within(runs):
    by_l2 = setting_value("optim.l2")
    assert follows(runs, final_metric("a"), by_l2, rate).value == "mean Kendall τ of a with L2 -1"
    together = follows(runs, final_metric("a"), by_l2, lambda run: None)
    assert together.verdict == "holds"
    assert together.value != "mean Kendall τ of a with L2 -1"


def test_two_measures_that_settings_move_are_permuted_by_setting(runs):
    """One stratum of three settings has six orders, however many seeds it has; six strata have enough."""
    a, c = final_metric("a"), final_metric("c")
    few = [run for run in runs if run.setting("optim.lr") == 0.1]
    assert follows(few, a, setting_value("optim.l2"), rate, "decreases").verdict == "holds"
    too_few = follows(few, a, c, rate, "decreases")
    assert too_few.verdict == "cannot decide"
    assert "so few settings and seeds cannot decide" in too_few.explanation
    assert follows(runs, a, c, rate, "decreases").verdict == "holds"


def test_an_order_in_every_seed_holds_its_opposite_fails_and_noise_is_undecided(runs):
    by = {
        (metric, expect): follows(runs, final_metric(metric), setting_value("optim.l2"), rate, expect)
        for metric in ("a", "b")
        for expect in ("increases", "decreases")
    }
    assert by["a", "decreases"].verdict == "holds"
    assert by["a", "increases"].verdict == "fails"
    assert by["b", "increases"].verdict == by["b", "decreases"].verdict == "undecided"
    assert by["a", "decreases"].value == "mean Kendall τ of a with L2 -1"
    assert by["a", "decreases"].seeds == 3


def test_one_number_is_followed_closer_than_another(runs):
    by_l2 = setting_value("optim.l2")
    assert follows_closer(runs, by_l2, final_metric("c"), final_metric("a"), rate).verdict == "holds"
    assert follows_closer(runs, by_l2, final_metric("a"), final_metric("c"), rate).verdict == "fails"
    assert follows_closer(runs, by_l2, final_metric("c"), final_metric("c"), rate).verdict == "undecided"


def test_a_rule_must_hold_in_every_group_and_says_which_is_which(runs):
    groups = {f"rate {rate}": [run for run in runs if run.setting("optim.lr") == rate] for rate in (0.1, 0.2)}

    def rule(group):
        return falls_below(group, lambda run: run.final("c"), 15.0, "c")

    evidence = in_each_group(groups, rule, "rate")
    assert evidence.verdict == "fails"
    assert evidence.value.startswith("rate 0.1: c ")
    assert in_each_group({"rate 0.1": groups["rate 0.1"]}, rule, "rate").verdict == "holds"
    nothing = in_each_group({}, rule, "rate")
    assert nothing.verdict == "not run"
    assert nothing.rule == evidence.rule == f"{rule(()).rule}; for every rate"


def test_a_quantity_is_not_lowered_but_for_a_factor(runs):
    by_l2 = setting_value("optim.l2")
    # Within a stratum L2 takes three neighbouring values: this falls to a third, or rises a little.
    for power, verdict in ((-1, "fails"), (0.1, "holds")):
        first = RunQuantity("it", lambda run, power=power: (1 + run.final("c") % 10) ** power * (1 + 0.01 * run.seed))
        assert not_lowered(runs, first, by_l2, rate, 1.25).verdict == verdict
    wide, narrow = (not_lowered([], final_metric("a"), by_l2, rate, factor).rule for factor in (1.25, 1.5))
    assert wide != narrow


def test_what_has_not_been_run_or_measured_is_said(runs):
    assert follows(runs[:1], final_metric("a"), setting_value("optim.l2"), rate).verdict == "not run"
    with pytest.raises(InputError, match="'d' was not measured"):
        follows(runs, final_metric("d"), setting_value("optim.l2"), rate)
