"""A measure that fails is recorded as missing, with its reason; training, the other measures and the report go on."""

import re
from types import SimpleNamespace

import pytest
import runs
from test_analysis.fabricated_runs import write_run

from hessflat import measures
from hessflat.analysis.experiment import Experiment, StoredExperiment
from hessflat.analysis.results import load_run
from hessflat.cli import measure
from hessflat.report.build import build_report, print_summary
from hessflat.runs import run_folder
from hessflat.utils import progress
from hessflat.utils.errors import InputError, SettingError

NEVER = "--config.measure.spectra=never"

# What a measure that never looks at its state is given.
STATE = SimpleNamespace(protocol=measures.Protocol(), has_tokens=False)


def failing(monkeypatch, name, error, at=None):
    """Let a measure raise, at the steps at which a call of that number comes, or always; gives the calls."""
    original, calls = measures.MEASURES[name], []

    def compute(state, **settings):
        calls.append(state)
        if at is None or len(calls) in at:
            raise error
        return original.compute(state, **settings)

    patched = {**measures.MEASURES, name: original._replace(compute=compute)}
    monkeypatch.setattr(measures, "MEASURES", patched)
    monkeypatch.setattr(measures, "_taken", lambda builder, settings: {})
    return calls


@pytest.mark.slow
def test_a_measure_that_fails_is_missing_and_the_rest_is_there(tmp_path, monkeypatch, capsys):
    (whole,) = runs.run_all([runs.tiny(NEVER)], tmp_path / "whole")
    failing(monkeypatch, "jacobian", InputError("the Jacobian is not\nfinite"), at={2})
    notes = []
    reporter = progress.silent()._replace(note=notes.append)
    (folder,) = runs.run_all([runs.tiny(NEVER)], tmp_path / "runs", reporter)
    assert notes == ["g_mlp l2=0 seed=0: jacobian is missing at step 10: the Jacobian is not finite; training goes on"]
    manifest = run_folder.read_manifest(folder)
    assert manifest["status"] == "done"
    assert manifest["failed_measures"] == [{"measure": "jacobian", "step": 10, "reason": "the Jacobian is not finite"}]
    for line, other in zip(runs.metrics(folder), runs.metrics(whole), strict=True):
        lacking = {name for name in other if "jacobian" in name} if line["step"] == 10 else set()
        assert line == {name: value for name, value in other.items() if name not in lacking}


def test_an_error_of_a_program_is_recorded_by_its_type_and_an_interrupt_never(monkeypatch):
    settings = SimpleNamespace()
    with monkeypatch.context() as patch:
        failing(patch, "jacobian", KeyError("no such name"))
        found = measures.measure(STATE, ["jacobian"], settings)
        reason = found.failed["jacobian"]
        assert re.fullmatch(rf"KeyError: 'no such name' \({re.escape(__file__)}, line \d+\)", reason)
        assert found == measures.Measurement({}, {}, failed={"jacobian": reason})
    for error in (KeyboardInterrupt(), SettingError("config.measure.x must be 1, got 2")):
        with monkeypatch.context() as patch:
            failing(patch, "jacobian", error)
            with pytest.raises(type(error)):
                measures.measure(STATE, ["jacobian"], settings)


def test_what_cannot_be_written_counts_as_failed(monkeypatch):
    original = measures.MEASURES["jacobian"]
    odd = original._replace(compute=lambda state: measures.Measurement({"x": object()}, {}))
    monkeypatch.setattr(measures, "MEASURES", {"jacobian": odd})
    found = measures.measure(STATE, ["jacobian"], SimpleNamespace())
    assert found.failed["jacobian"].startswith("TypeError: Object of type object is not JSON serializable")


def test_measuring_again_repeats_what_failed(tmp_path, monkeypatch, capsys):
    (folder,) = runs.run_all([runs.tiny(NEVER, "--config.train.epochs=1")], tmp_path)
    arguments = [f"--run={folder}", "--steps=last", "--config.measure.rtol=0.01"]
    with monkeypatch.context() as patch:
        failing(patch, "jacobian", FloatingPointError("overflow"))
        measure.main(arguments)
    captured = capsys.readouterr()
    assert "jacobian is missing at step 10: FloatingPointError: overflow" in captured.err
    (out,) = (folder / "measurements").iterdir()
    assert "jacobian.max" not in runs.metrics(out)[-1]
    measure.main(arguments)
    assert "jacobian.max" in runs.metrics(out)[-1]
    assert [line["step"] for line in runs.metrics(out)] == [10]
    assert run_folder.read_manifest(out)["failed_measures"] == []


def test_the_report_counts_and_names_what_failed(tmp_path, capsys):
    failed = [{"measure": "jacobian", "step": step, "reason": "overflow"} for step in (10, 20)]
    run = load_run(write_run(tmp_path, failed_measures=failed))
    experiment = Experiment("toy", "G", "?", "toy", lambda runs: [], lambda runs: [], ())
    stored = [StoredExperiment(experiment, "smoke", [run])]
    sections = build_report(stored, tmp_path / "report")
    where = f"{run.path} at step 10, {run.path} at step 20"
    line = f"jacobian failed 2 times (overflow): {where}; python -m hessflat measure --run=RUN"
    for name in ("index.html", "report.md"):
        assert line in (tmp_path / "report" / name).read_text()
    print_summary(sections)
    assert line in capsys.readouterr().out


def test_a_setting_that_cannot_be_followed_still_ends_the_run(tmp_path):
    with pytest.raises(InputError, match=r"config\.measure\.batch_norm needs a model with batch norm"):
        runs.run_all([runs.tiny(NEVER, "--config.measure.batch_norm=start")], tmp_path)
