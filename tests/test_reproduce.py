"""Every experiment in one command: the plan with its hours, what is skipped, what cannot be run."""

import csv

import jax
import pytest

from hessflat.cli import experiment, reproduce, sweep
from hessflat.launch import pool
from hessflat.report.claims import read_claims
from hessflat.runs import cost_model, schema
from hessflat.runs.cost_model import OVERHEAD, Throughput, data_shape, run_cost
from hessflat.runs.jobs import compiled, make_jobs
from hessflat.utils.errors import InputError

TWO = "g_loss_limit s_random_matrix"


def arguments(tmp_path, names=TWO, *others):
    return [f"--exp={names}", "--scale=smoke", f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'report'}", *others]


def test_operations_of_a_gradient_are_those_of_its_matrix_products():
    config = sweep.sweep_configs("g_logistic:paper")[0]
    found = run_cost(config, Throughput(1e9, 0.0))
    assert found.num_params == 7_850
    assert found.num_steps == 352_000
    # Outputs and the gradient of the weights, each 2 · 784 · 10 operations, in each of 1,000 epochs of 45,000 examples.
    training = 4 * 7_840 * 45_000 * 1_000 / 1e9
    assert training < found.total_seconds()
    config = sweep.sweep_configs("g_logistic_scaling:paper")[0]
    measured = ("measure.spectra", "measure.jacobian", "measure.performance", "measure.answers")
    without = schema.replace(config, dict.fromkeys(measured, "never"))
    assert run_cost(without, Throughput(1e9, 0.0)).total_seconds() == pytest.approx(training / 20, rel=0.05)
    # Small networks wait for their steps to be started.
    assert run_cost(without, Throughput(1e30, 1e-3)).total_seconds() == pytest.approx(17_600 * 1e-3 + OVERHEAD)


def test_a_plan_knows_the_sizes_that_a_run_has():
    config = sweep.sweep_configs("g_mlp:smoke")[0]
    found, trainer = run_cost(config, Throughput(1e9, 0.0)), compiled(config).trainer
    assert (found.num_params, found.num_steps) == (trainer.num_params, trainer.num_steps)
    cifar = sweep.sweep_configs("m_regularisers:paper")[0]
    assert data_shape(cifar) == (45_000, (32, 32, 3), 10, True, False)


def test_dry_lists_every_run_and_makes_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost_model, "device_throughput", lambda: Throughput(1e9, 1e-6))
    reproduce.main(arguments(tmp_path, TWO, "--dry=1"))
    assert not (tmp_path / "runs").exists()
    printed = capsys.readouterr().out
    with (tmp_path / "report" / "plan-smoke.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = [job for name in TWO.split() for job in experiment.make_jobs(experiment.load(name), "smoke", tmp_path)]
    assert [row["run"] for row in rows] == [job.folder.name for job in wanted]
    assert all(float(row["device_hours"]) > 0 and row["run"] in printed for row in rows)
    assert "python -m hessflat experiment s_random_matrix --scale=smoke" in printed


@pytest.mark.long
def test_the_probe_times_this_device():
    found = cost_model.device_throughput()
    assert 1e6 < found.flops_per_second < 1e16
    assert 1e-8 < found.seconds_per_step < 1e-1


@pytest.mark.long
def test_everything_in_one_report_and_again_nothing_is_trained(tmp_path, capsys, monkeypatch):
    reproduce.main(arguments(tmp_path))
    claims = read_claims(tmp_path / "report" / "claims.json")
    assert {claim["experiment"] for claim in claims} == set(TWO.split())
    first = capsys.readouterr()
    assert "1 of 2: g_loss_limit" in first.err
    folders = {path for path in (tmp_path / "runs").rglob("manifest.json")}
    before = {path: path.stat().st_mtime_ns for path in folders}
    reproduce.main(arguments(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in folders} == before
    assert "finished before" in capsys.readouterr().err


@pytest.mark.long
def test_an_experiment_that_cannot_be_run_does_not_stop_the_others(tmp_path, monkeypatch):
    run_all = pool.run_all

    def refusing(jobs, *others):
        if jobs[0].config.experiment == "g_loss_limit":
            raise InputError("data set 'mnist' is not prepared")
        return run_all(jobs, *others)

    monkeypatch.setattr(pool, "run_all", refusing)
    monkeypatch.setattr(jax, "clear_caches", lambda: None)
    with pytest.raises(InputError, match=r"1 of 2 experiments could not be run: g_loss_limit: data set 'mnist' is not"):
        reproduce.main(arguments(tmp_path))
    claims = read_claims(tmp_path / "report" / "claims.json")
    assert {claim["experiment"] for claim in claims} == {"s_random_matrix"}


def test_runs_of_two_experiments_stand_with_the_first(tmp_path):
    planned = reproduce.list_runs(
        [experiment.load(name) for name in ("s_decomposition", "s_spectrum")], "smoke", tmp_path
    )
    assert [len(jobs) for _, jobs in planned] == [
        len(make_jobs(sweep.sweep_configs("s_spectrum:smoke"), tmp_path)),
        0,
    ]


def record(verdict, claim="sharper", scale="small"):
    return {"experiment": "g_mlp", "claim": claim, "scale": scale, "verdict": verdict}


def test_other_verdicts_than_the_published_ones_are_listed():
    published = [record("holds"), record("fails", "gap"), record("undecided", scale="paper")]
    told = reproduce.beside([record("undecided"), record("fails", "gap"), record("holds", "new")], published)
    assert told.startswith(
        "1 of 2 verdicts agree with those of docs/results/report. 1 claims have no verdict there. Processors"
    )
    assert told.splitlines()[-1].split() == ["g_mlp", "sharper", "holds", "undecided"]
    assert reproduce.beside(published, published) == "3 of 3 verdicts agree with those of docs/results/report."


def test_published_verdicts_are_of_experiments_and_claims_that_there_are():
    claims = {(one.id, claim.id) for one in map(experiment.load, experiment.names()) for claim in one.claims}
    published = {(found["experiment"], found["claim"]) for found in reproduce.published()}
    assert published
    assert published <= claims


def test_settings_and_unknown_names_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"give --config\.seed=1 to python -m hessflat experiment"):
        reproduce.main(["--config.seed=1"])
    with pytest.raises(InputError, match="unknown experiment 'g_mpl'"):
        reproduce.main(["--exp=g_mpl"])
    with pytest.raises(InputError, match="--dry must be one of 0, 1, got 'yes'"):
        reproduce.main(["--dry=yes"])
