"""Kendall's tau of measures with the generalisation gap, and its interval over settings."""

import itertools
import math

import numpy as np
import pytest
from fabricated_runs import write_run, write_sweep
from scipy import stats

from hessflat.analysis.correlation import (
    as_table,
    correlation,
    differing_only_in,
    experiment_grid,
    network_and_data,
    regulariser_grids,
)
from hessflat.analysis.experiment import Experiment, StoredExperiment
from hessflat.analysis.names import metric_name
from hessflat.analysis.results import load_run


def asking(*regularisers, paper="G"):
    nothing = lambda runs: []  # noqa: E731
    return Experiment("toy", paper, "?", "configs/toy.py", nothing, nothing, (), regularisers=regularisers)


def test_pairs_of_one_setting_do_not_count_and_three_settings_have_no_interval(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    result = correlation(runs, "hessian.lambda_max")
    signs = [
        np.sign(one.final("hessian.lambda_max") - other.final("hessian.lambda_max"))
        * np.sign(one.final("gap_loss") - other.final("gap_loss"))
        for one, other in itertools.combinations(runs, 2)
        if one.setting("optim.l2") != other.setting("optim.l2")
    ]
    assert len(signs) == 27
    # L2 sharpens these runs and closes their gap, without exception between settings.
    assert result.tau == pytest.approx(np.mean(signs)) == -1
    assert (result.runs, result.settings) == (9, 3)
    assert math.isnan(result.low)
    assert math.isnan(result.high)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize(("settings", "seeds"), [(4, 3), (4, 5), (5, 3), (9, 3), (36, 3)])
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_intervals_cover_and_settings_without_a_correlation_have_a_star_in_at_most_six_percent(
    tmp_path, settings, seeds, noise, rho
):
    """Effects of settings on measure and gap are normal, with a correlation; seeds differ by noise times as much."""
    generator, covered, starred, repeats = np.random.default_rng(1), 0, 0, 400
    run = load_run(write_run(tmp_path, spectra=False))
    configs = [{**run.config, "seed": seed, "train": {"x": x}} for x in range(settings) for seed in range(seeds)]
    true = 2 / np.pi * np.arcsin(rho / (1 + noise**2))
    for _ in range(repeats):
        effects = generator.multivariate_normal([0, 0], [[1, rho], [rho, 1]], settings)
        lines = np.repeat(effects, seeds, axis=0) + noise * generator.standard_normal((settings * seeds, 2))
        runs = [
            run._replace(config=config, metrics=[{"step": 1, "a": float(a), "gap_loss": float(b)}])
            for config, (a, b) in zip(configs, lines, strict=True)
        ]
        result = correlation(runs, "a")
        covered += not (result.low > true or result.high < true)
        starred += result.low > 0 or result.high < 0
    assert covered >= 0.93 * repeats
    assert starred <= 0.06 * repeats or rho > 0


def test_a_table_has_a_column_for_each_experiment_that_varies_a_regulariser(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    few = runs[:3]
    stored = [
        StoredExperiment(asking("optim.l2"), "small", runs),
        StoredExperiment(asking(), "paper", runs),
        StoredExperiment(asking("optim.l2"), "smoke", few),
    ]
    table = as_table(experiment_grid(stored))
    assert table.header == ("measure", "toy (L2), small")
    rows = dict(table.rows)
    result = correlation(runs, "hessian.lambda_max")
    assert rows["λ_max(H)"] == f"{result.tau:+.2f}, no interval"
    assert metric_name("hessian.adaptive_lambda_max") not in rows
    assert (rows["runs"], rows["settings"]) == ("9", "3")
    assert not experiment_grid(stored[1:]).columns


def test_a_cell_of_a_measure_that_some_runs_lack_says_how_many_have_it(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    lacking = {**runs[0].metrics[-1]}
    del lacking["hessian.lambda_max"]
    runs[0] = runs[0]._replace(metrics=[lacking])
    rows = dict(as_table(experiment_grid([StoredExperiment(asking("optim.l2"), "small", runs)])).rows)
    assert rows["λ_max(H)"] == "-1.00, no interval, 8 runs"
    assert rows["runs"] == "9"
    assert [name for name, cell in rows.items() if "8 runs" in cell and not name.startswith("λ_max(H)")] == []


def made_of(run, lines, apart=False, **settings):
    """A run for each line of numbers, with settings by `block__name`, and one of its own where they are `apart`."""
    made = []
    for index, line in enumerate(lines):
        config = {**run.config, "seed": index, "optim": {**run.config["optim"]}}
        if apart:
            config["train"] = {"x": index}
        for name, values in settings.items():
            block, _, last = name.partition("__")
            config[block] = {**config[block], last: values[index]}
        metrics = [{"step": 1, **dict(zip(("a", "gap_loss", "b"), map(float, line), strict=True))}]
        made.append(run._replace(folder=run.folder / str(index), config=config, metrics=metrics))
    return made


def test_partial_tau_is_kendalls_formula_and_finds_what_a_third_measure_explains(tmp_path):
    run = load_run(write_run(tmp_path, spectra=False))
    generator = np.random.default_rng(0)
    cause, noise = generator.standard_normal(60), generator.standard_normal((2, 60))
    lines = np.stack([cause + 0.3 * noise[0], cause + 0.3 * noise[1], cause], axis=1)
    runs = made_of(run, lines, apart=True)
    plain, partial = correlation(runs, "a"), correlation(runs, "a", given="b")
    ag, ab, bg = (stats.kendalltau(lines[:, i], lines[:, j]).statistic for i, j in ((0, 1), (0, 2), (2, 1)))
    assert plain.tau == pytest.approx(ag)
    assert partial.tau == pytest.approx((ag - ab * bg) / np.sqrt((1 - ab**2) * (1 - bg**2)))
    assert plain.low > 0.3 > partial.tau


def test_only_runs_that_are_alike_are_compared(tmp_path):
    """Within either network the measure rises with the gap; over both together it falls."""
    run = load_run(write_run(tmp_path, spectra=False))
    lines = [(x + 10 * (group == 0), x + 10 * (group == 1), 0) for group in (0, 1) for x in range(5)]
    runs = made_of(run, lines, apart=True, model__name=["mlp"] * 5 + ["vgg"] * 5)
    assert correlation(runs, "a").tau < 0
    assert correlation(runs, "a", stratum=network_and_data(runs)).tau == 1
    assert correlation(runs, "a", stratum=lambda run: run.seed) is None


def test_of_a_regulariser_runs_that_differ_in_it_alone_are_compared(tmp_path):
    run = load_run(write_run(tmp_path, spectra=False))
    # L2 at one rate, another rate beside it, and one that differs in both.
    l2, rates = (0.0, 1e-3, 0.0, 1e-3, 0.0, 1e-2), (0.1, 0.1, 0.1, 0.1, 0.2, 0.3)
    runs = made_of(run, [(i, i, 0) for i in range(6)], optim__l2=l2, optim__lr=rates)
    chosen, key = differing_only_in(runs, "optim.l2")
    assert [run.seed for run in chosen] == [0, 1, 2, 3]
    assert len({key(run) for run in chosen}) == 1
    chosen, key = differing_only_in(runs, "optim.lr")
    assert [run.seed for run in chosen] == [0, 2, 4]
    # A setting that there was not yet when earlier runs were made.
    later = {**runs[1].config, "data": {**runs[1].config["data"], "input_scale": 1.0}}
    chosen, key = differing_only_in([runs[0], runs[1]._replace(config=later)], "optim.l2")
    assert [run.seed for run in chosen] == [0, 1]


def test_the_report_opens_with_each_regulariser_and_all_together(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, spectra=False)]
    of_another = StoredExperiment(asking("optim.l2"), "paper", runs)
    stored = [
        StoredExperiment(asking("optim.l2", paper="M"), "small", runs),
        StoredExperiment(asking("optim.l2", "optim.lr", paper="M"), "small", runs),
    ]
    ((plain, given_fit, beside),) = [map(as_table, grids) for grids in regulariser_grids([*stored, of_another])]
    assert plain.header == given_fit.header == beside.header == ("measure", "L2", "pooled")
    assert dict((name, cells) for name, *cells in given_fit.rows).keys() == {
        name for name, *_ in plain.rows if name != metric_name("train_loss")
    }
    result = correlation(runs, "hessian.lambda_max")
    assert dict((name, cells) for name, *cells in plain.rows)["λ_max(H)"] == [f"{result.tau:+.2f}, no interval"] * 2
    assert dict((name, cells) for name, *cells in plain.rows)["runs"] == ["9", "9"]
    assert regulariser_grids([of_another]) == []
