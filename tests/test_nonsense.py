"""Settings and files that make no sense are refused in one line, before anything runs or is unpacked."""

import io
import os
import subprocess
import sys
import tarfile

import pytest
import runs
from test_analysis.fabricated_runs import write_run

from hessflat.analysis.experiment import Experiment, StoredExperiment
from hessflat.analysis.results import load_run
from hessflat.data import published
from hessflat.report.build import build_report
from hessflat.runs import cost_model
from hessflat.runs.jobs import compiled, make_jobs, named_run
from hessflat.utils.errors import InputError


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("data.input_scale=1e-300", "config.data.input_scale must be above 0 and finite, and of a size"),
        ("optim.sgd.momentum=0.99999999", "config.optim.sgd.momentum must be at least 0 and below 1, got 0.99999999"),
        ("train.label_smoothing=0.99999999", "must be at least 0 and below 1"),
        ("measure.spectra=every 3 steps to 2 steps", "M no less than N"),
        ("measure.spectra=every 2 epochs to 1.5 epochs", "M no less than N"),
        ("experiment=" + 300 * "a", "200 bytes at most"),
        ("measure.line_points=100000000000000000", "config.measure.line_points must be from 2 to 100000"),
    ],
)
def test_settings_are_refused(setting, line):
    with pytest.raises(InputError) as error:
        runs.tiny(f"--config.{setting}")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("after", ["(-1,)", "(0, 5)", "(5, 5)"])
def test_a_rate_decays_after_epochs_that_there_are(after):
    with pytest.raises(InputError, match="must be increasing epochs, the first at least 1"):
        runs.tiny("--config.schedule.name=step_decay", f"--config.schedule.step_decay.after={after}")


@pytest.mark.parametrize("name", ["@", "@5", "runs/a\0b"])
def test_a_run_must_be_named(tmp_path, name):
    (job,) = make_jobs([runs.tiny(f"--config.train.init_from={name}")], tmp_path)
    with pytest.raises(InputError, match=r"config\.train\.init_from (must be RUN or RUN@STEP|holds a null character)"):
        named_run(job, "train.init_from")


def test_networks_that_no_machine_holds_are_refused():
    with pytest.raises(InputError, match="at most 1,000,000,000,000 parameters, got"):
        cost_model.run_cost(runs.tiny(f"--config.model.mlp.hidden=({10**17},)"))
    with pytest.raises(InputError, match=r"the network with its optimiser needs .* make config\.model narrower"):
        compiled(runs.tiny(f"--config.model.mlp.hidden=({10**10},)"))


def test_a_batch_of_one_example_is_refused_under_batch_norm():
    one = ["--config.data.train_size=33", "--config.train.batch_size=32"]
    compiled(runs.tiny(*one))
    with pytest.raises(InputError, match=r"must leave no batch of one example.*got 32 of 33 examples"):
        compiled(runs.tiny(*one, "--config.model.name=preresnet", "--config.model.preresnet.width=2"))


def test_an_archive_that_unpacks_to_much_is_left_alone(tmp_path, monkeypatch):
    layout = published.Layout({"a": 32 * "0"}, lambda contents: {})
    path = tmp_path / "archive.tar.gz"

    def packed(names):
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 1000
                tar.addfile(member, io.BytesIO(bytes(1000)))
        return published.unpack(path, layout)

    assert packed(["a"]) == {"a": bytes(1000)}
    monkeypatch.setattr(published, "LARGEST_UNPACKED", 999)
    assert packed(["a"]) == {}
    monkeypatch.setattr(published, "LARGEST_UNPACKED", 10**6)
    monkeypatch.setattr(published, "MOST_MEMBERS", 3)
    assert packed(["a", "b", "c"]) != {}
    assert packed(["a", "b", "c", "d"]) == {}


def test_nothing_in_the_markdown_report_is_html(tmp_path):
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)><!-- --> 1 < 2"
    failed = [{"measure": "jacobian", "step": 0, "reason": evil}]
    run = load_run(write_run(tmp_path, reason=evil, status="diverged", command=f"``` {evil}", failed_measures=failed))
    experiment = Experiment("toy", "G", evil, "toy", lambda runs: [], lambda runs: [], (), notes=evil)
    build_report([StoredExperiment(experiment, "smoke", [run], 1, [evil])], tmp_path / "report")
    before, after = (tmp_path / "report" / "report.md").read_text().split("\n```\n", 1)
    assert "1 < 2" in before
    assert not any(html in before for html in ("<script", "</script", "<img", "<!"))
    assert after.count("```") == 1  # nothing ends the block of commands but its end


def test_a_report_that_cannot_be_written_is_refused_before_it_is_drawn():
    if not os.path.isdir("/proc/self"):
        pytest.skip("no folder that nobody may write")
    with pytest.raises(InputError, match=r"cannot write /proc/x: .*; free space or choose another folder"):
        build_report([], "/proc/x")


@pytest.mark.long
def test_training_in_double_precision_is_not_refused_by_types(tmp_path):
    command = [sys.executable, "-m", "hessflat", "train", "--config=g_mlp:smoke", f"--root={tmp_path}"]
    command += ["--config.train.epochs=1", "--config.measure.lanczos_steps=4", "--config.measure.jacobian=never"]
    done = subprocess.run(
        command, env={**os.environ, "JAX_ENABLE_X64": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
