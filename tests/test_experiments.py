"""Every configuration and every experiment at scale smoke, end to end, and reports redrawn without training."""

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest

from hessflat import config
from hessflat.analysis.results import load_run
from hessflat.cli import app, experiment, report, sweep
from hessflat.cli.app import load_module
from hessflat.config import SCALES
from hessflat.launch import pool
from hessflat.report.claims import read_claims
from hessflat.report.sections import VERDICTS
from hessflat.runs import loop, run_folder, schema
from hessflat.runs.jobs import due_at, make_jobs
from hessflat.utils.errors import InputError
from hessflat.utils.files import file_digest
from hessflat.utils.progress import silent

CONFIGS = sorted(Path("configs").rglob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("scale", SCALES)
def test_every_config_is_valid_at_every_scale_that_it_has(path, scale):
    if scale not in app.scales_of(load_module(path)):
        known = ", ".join(app.scales_of(load_module(path)))
        with pytest.raises(InputError, match=f"scale of {path.stem} must be one of {known}, got '{scale}'"):
            sweep.sweep_configs(f"{path}:{scale}")
        return
    for chosen in sweep.sweep_configs(f"{path}:{scale}"):
        assert chosen.scale == scale


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_how_to_run_it(path):
    module = load_module(path, "get_config", "get_sweep")
    assert f"make sweep CONFIG={path.stem}:" in module.__doc__


# The others share much with these, and need not all be compiled in every test run.
SOME = ("g_logistic", "g_mlp", "s_spectrum")


def reported(names, folder):
    """Experiments at scale smoke, in one folder, with their report."""
    arguments = [f"--root={folder / 'runs'}", f"--out={folder / 'report'}"]
    experiment.main([f"--exp={' '.join(names)}", "--scale=smoke", *arguments])
    return folder


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    return reported(SOME, tmp_path_factory.mktemp("some"))


@pytest.mark.slow
def test_experiments_end_in_verdicts(some):
    claims = judged(some, SOME)
    assert {"g_logistic", "g_mlp"} <= {claim["experiment"] for claim in claims if claim["verdict"] == "undecided"}


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in experiment.names() if name not in SOME])
def test_every_experiment_ends_in_verdicts(name, tmp_path):
    judged(reported([name], tmp_path), [name])


@pytest.mark.parametrize("name", experiment.names())
def test_every_rule_says_itself_what_it_does_and_the_same_whatever_the_runs(name):
    stored = read_claims(Path(__file__).parents[1] / "docs" / "results" / "report" / "claims.json")
    rules = {claim.id: claim.rule for claim in experiment.load(name).claims}
    assert all(rules.values())
    for record in stored:
        if record["experiment"] == name:
            assert record["rule"] == rules[record["claim"]]


def judged(folder, names):
    """The claims of a report, which are those of the experiments."""
    claims = read_claims(folder / "report" / "claims.json")
    for name in names:
        own = [claim for claim in claims if claim["experiment"] == name]
        assert {claim["claim"] for claim in own} == {claim.id for claim in experiment.load(name).claims}
        for claim in own:
            assert claim["scale"] == "smoke"
            assert claim["verdict"] in VERDICTS
            # One seed decides nothing.
            assert claim["seeds"] > 1 or claim["verdict"] not in ("holds", "fails")
    return claims


@pytest.mark.slow
def test_exact_and_estimated_spectra_agree(some):
    for path in (some / "runs" / "g_logistic").glob("*/metrics.jsonl"):
        last = json.loads(path.read_text().splitlines()[-1])
        assert last["hessian.lambda_max"] == pytest.approx(last["hessian.exact.lambda_max"], rel=0.02)
        assert abs(last["hessian.trace"] - last["hessian.exact.trace"]) < 4 * last["hessian.trace_se"]
        assert abs(last["hessian.frobenius"] - last["hessian.exact.frobenius"]) < 4 * last["hessian.frobenius_se"]
        assert last["gauss_newton.lambda_max"] == pytest.approx(last["hessian.lambda_max"], rel=1e-4)


@pytest.mark.slow
def test_report_is_redrawn_without_training(some, monkeypatch):
    before = {path.name: path.read_bytes() for path in (some / "report").rglob("*") if path.is_file()}

    def forbidden(*args):
        raise AssertionError("a report must not train")

    monkeypatch.setattr(loop, "run_all", forbidden)
    monkeypatch.setattr(pool, "run_all", forbidden)
    report.main([f"--root={some / 'runs'}", f"--out={some / 'again'}"])
    after = {path.name: path.read_bytes() for path in (some / "again").rglob("*") if path.is_file()}
    assert before == after


def test_runs_that_were_stored_before_there_was_a_setting_are_like_later_ones(some, monkeypatch):
    def stored_without(folder):
        run = load_run(folder)
        measure = {name: value for name, value in run.config["measure"].items() if name != "block_steps"}
        return run._replace(config=run.config | {"measure": measure}) if run.setting("optim.l2") else run

    monkeypatch.setattr(experiment, "load_run", stored_without)
    stored = experiment.collect(experiment.load("g_mlp"), "smoke", some / "runs")
    assert len(stored.runs) == 2
    first, second = (config.flatten(run.config) for run in stored.runs)
    assert {name for name in first | second if first.get(name) != second.get(name)} == {"optim.l2"}


def test_a_variant_stands_beside_its_experiment_and_counts_in_no_total(some, tmp_path, capsys):
    shutil.copytree(some / "runs", tmp_path / "runs")
    places = [f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'report'}"]
    changes = ["--config.optim.l2=1e-3", "--seeds=3,4"]
    experiment.main(["g_mlp", "--scale=smoke", *places, *changes])
    assert "g_mlp, smoke scale, variant --config.optim.l2=1e-3" in capsys.readouterr().out.replace("\n", " ")
    claims = read_claims(tmp_path / "report" / "claims.json")
    variant = "--config.optim.l2=1e-3 --seeds=3,4"
    of_variant = [claim for claim in claims if claim["variant"]]
    assert {(claim["experiment"], claim["variant"]) for claim in of_variant} == {("g_mlp", variant)}
    assert len({run for claim in of_variant for run in claim["runs"]}) == 2
    own = [{**claim, "variant": ""} for claim in judged(some, SOME)]
    assert [claim["verdict"] for claim in claims if not claim["variant"]] == [claim["verdict"] for claim in own]
    page = (tmp_path / "report" / "report.md").read_text()
    assert page.splitlines()[2].startswith(f"{len(own)} claims:")
    # Without the note of the variant its runs are named as those that nothing shows.
    shutil.rmtree(tmp_path / "runs" / "g_mlp" / "variants")
    report.main(places)
    assert (
        "2 stored runs belong to no experiment or variant that is shown: g_mlp/smoke-"
        in (tmp_path / "report" / "report.md").read_text()
    )


def test_what_changes_no_run_is_no_variant(some):
    asked = experiment.load("g_mlp")
    assert experiment.is_variant(asked, "smoke", some / "runs", "--seeds=2")
    assert not experiment.is_variant(asked, "smoke", some / "runs", "--seeds=1 --config.optim.l2=0,5e-4")
    assert experiment.stored_variants(asked, "smoke", some / "runs") == []


def test_unknown_experiment_and_scale_are_one_line(tmp_path):
    with pytest.raises(InputError, match=r"unknown experiment 'g_mpl'; did you mean 'g_mlp'\?"):
        experiment.main(["--exp=g_mpl"])
    with pytest.raises(InputError, match="scale must be one of smoke, small, medium, paper, got 'tiny'"):
        experiment.main(["--exp=g_mlp", "--scale=tiny"])
    with pytest.raises(InputError, match="no runs of any experiment"):
        report.main([f"--root={tmp_path}"])


@pytest.mark.long
def test_processes_side_by_side_agree_with_one_and_continue_to_the_same_bits(tmp_path):
    little = {"train.epochs": 1, "model.mlp.hidden": (5,), "measure.lanczos_steps": 4, "measure.jacobian": "never"}
    chosen = [schema.replace(c, little) for c in sweep.sweep_configs("g_mlp:smoke")]
    alone, together, continued = tmp_path / "alone", tmp_path / "together", tmp_path / "continued"
    pool.run_all(make_jobs(chosen, alone), silent(), "1")
    said = pool.run_all(make_jobs(chosen, together), silent(), "2")
    assert said == "2 runs, 1 training program compiled, at most once in each of 2 processes"
    first, second = (job.folder.relative_to(together) for job in make_jobs(chosen, together))
    (continued / first).parent.mkdir(parents=True)
    shutil.copytree(together / first, continued / first)
    pool.run_all(make_jobs(chosen, continued), silent(), "2")
    assert (continued / second / "metrics.jsonl").read_bytes() == (together / second / "metrics.jsonl").read_bytes()
    for folder in (first, second):
        for a, b in zip(run_folder.read_lines(alone / folder / "metrics.jsonl"),
                        run_folder.read_lines(together / folder / "metrics.jsonl"), strict=True):  # fmt: skip
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
            assert a["hessian.lambda_max"] == pytest.approx(b["hessian.lambda_max"], rel=1e-4)


def test_a_process_takes_what_it_has_compiled_then_what_no_other_has():
    a, again, mixup, b = (pool.Chunk([], *key) for key in ((0, "vgg"), (0, "vgg"), (1, "vgg"), (2, "resnet")))
    assert pool.best_for([], [], [a, again, mixup, b]) == 0
    assert pool.best_for([], [a], [again, mixup, b]) == 2
    assert pool.best_for([a], [b], [mixup, again]) == 1
    assert pool.best_for([a, again], [], [b, mixup]) == 1
    assert pool.best_for([b], [a], [again, mixup]) == 1


@pytest.mark.slow
def test_what_stops_a_run_in_a_process_is_told_in_one_line(tmp_path):
    chosen = [schema.replace(c, {"train.epochs": 1}) for c in sweep.sweep_configs("g_mlp:smoke")]
    jobs = make_jobs(chosen, tmp_path)
    run_folder.reserve(jobs[1].folder, schema.plain(chosen[1]))
    digests = {"config.json": file_digest(jobs[1].folder / "config.json")}
    run_folder.write_manifest(jobs[1].folder, status="stopped", data_checksum="another", digests=digests)
    with pytest.raises(InputError, match="was run on other data; restore the data, or move the folder away"):
        pool.run_all(jobs, silent(), "2")
    deadline = time.monotonic() + 30
    for process in multiprocessing.active_children():
        # A thread of the pool may be the one that reaps the process; its exit code is there a moment later.
        while process.exitcode is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.exitcode is not None, "a process goes on with a run that nobody waits for"


@pytest.mark.slow
def test_experiments_that_share_runs_run_them_once(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pool, "run_all", lambda jobs, *_: seen.extend(job.folder for job in jobs))
    with pytest.raises(InputError, match="no runs of any experiment"):
        experiment.main(["--exp=s_spectrum s_decomposition", "--scale=smoke", f"--root={tmp_path}"])
    assert len(seen) == len(set(seen)) == 1


def test_when_runs_are_measured():
    base = schema.base_config("small")

    def epochs(**settings):
        chosen = schema.freeze(config.override(base, {name.replace("__", "."): v for name, v in settings.items()}))
        return list(due_at(chosen, 1, chosen.train.epochs))

    assert epochs(train__epochs=1) == [0, 1]
    assert epochs(train__epochs=50) == [0, 1, 2, 5, 10, 20, 50]
    assert epochs(train__epochs=1000)[-3:] == [200, 500, 1000]
    others = {"measure__spectra": "end", "measure__jacobian": "never"}
    assert epochs(train__epochs=30, measure__performance="every 20 epochs", **others) == [0, 20, 30]
    assert epochs(train__epochs=30, measure__performance="end", **others) == [30]
