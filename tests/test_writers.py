"""Metric writers: they are given what `metrics.jsonl` and `eval.jsonl` hold, and a run does without those that fail."""

import importlib.machinery
import json
import math
import re
import struct
import sys
import tomllib
import types
from pathlib import Path

import pytest
import runs
from test_runner import run_until_killed

from hessflat.cli import experiment
from hessflat.launch import pool
from hessflat.runs import loop, run_folder, schema, writers
from hessflat.runs.jobs import make_jobs
from hessflat.utils.errors import InputError
from hessflat.utils.progress import silent

ROOT = Path(__file__).parents[1]
LITTLE = ("--config.measure.spectra=never", "--config.measure.jacobian=never")
STOPPING = ("--config.stop.train_accuracy=1.0", "--config.stop.eval_every=20")
TENSORBOARD = "--config.writers=tensorboard"


def written(folder):
    """What the files of a run hold for its writers: number by step and name."""
    found = {}
    for before, file in (("", "metrics.jsonl"), ("eval.", "eval.jsonl")):
        for line in run_folder.read_lines(folder / file):
            numbers = {(line["step"], before + name): value for name, value in line.items() if name != "step"}
            found |= {key: value for key, value in numbers.items() if isinstance(value, int | float)}
    return found


def events(folder):
    """The events in a TensorBoard folder, in the order in which TensorBoard reads them."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="the extra dev has it")
    for path in sorted((folder / "tensorboard").iterdir()):
        assert "tfevents" in path.name
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])  # then 4 bytes of checksum, the event, 4 bytes of checksum
            yield event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def shown(folder):
    """What TensorBoard shows: a new session hides its step and later ones of those before."""
    found, version = {}, None
    for event in events(folder):
        version = event.file_version or version
        if event.HasField("session_log"):
            assert version == "brain.Event:2"
            found = {key: value for key, value in found.items() if key[0] < event.step}
        for value in event.summary.value:
            assert (event.step, value.tag) not in found, "a point is shown twice"
            found[event.step, value.tag] = value.simple_value
    return found


def test_tensorboard_shows_what_the_files_hold(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra dev has it")
    (folder,) = runs.run_all([runs.tiny(*LITTLE, *STOPPING, TENSORBOARD)], tmp_path)
    expected = written(folder)
    assert {(0, "test_loss"), (50, "train_loss"), (40, "eval.train_loss")} <= expected.keys()
    assert shown(folder) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False], ids=["line-unwritten", "line-written"])
def test_a_killed_run_goes_on_in_the_same_tensorboard_folder(tmp_path, monkeypatch, before):
    pytest.importorskip("tensorboardX", reason="the extra dev has it")
    chosen = runs.tiny(*LITTLE, TENSORBOARD, "--config.checkpoint.minutes=1e-9")
    run_until_killed([chosen], tmp_path, monkeypatch, loop, "record", 4, before)
    (folder,) = runs.run_all([chosen], tmp_path)
    assert run_folder.read_manifest(folder)["resumed_from"]
    assert len(list((folder / "tensorboard").iterdir())) == 2
    assert shown(folder) == pytest.approx(written(folder), rel=1e-6)


@pytest.mark.long
def test_runs_in_processes_and_runs_that_train_together_have_writers(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra dev has it")
    chosen = [runs.tiny(*LITTLE, TENSORBOARD, f"--config.seed={seed}") for seed in (0, 1)]
    pool.run_all(make_jobs(chosen, tmp_path / "processes"), silent(), "2")
    runs.run_all([schema.replace(one, {"execution": "vectorised"}) for one in chosen], tmp_path / "together")
    folders = [path.parent for path in tmp_path.glob("*/g_mlp/*/manifest.json")]
    assert len(folders) == 4
    for folder in folders:
        assert shown(folder) == pytest.approx(written(folder), rel=1e-6)


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of W&B's; what it was given, by the id of the run."""
    given = {"settings": {}, "logged": {}, "finished": []}

    def init(**settings):
        own = settings["id"]
        given["settings"].setdefault(own, []).append(settings)

        def log(numbers, step):
            given["logged"].update({(own, step, name): value for name, value in numbers.items()})

        return types.SimpleNamespace(log=log, finish=lambda: given["finished"].append(own))

    module = types.ModuleType("wandb")
    module.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    return given


def test_a_run_is_one_run_of_wandb_however_often_it_is_continued(tmp_path, monkeypatch, wandb):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    chosen = runs.tiny(*LITTLE, "--config.writers=wandb", "--config.checkpoint.minutes=1e-9")
    run_until_killed([chosen], tmp_path, monkeypatch, loop, "record", 3)
    monkeypatch.setenv("WANDB_PROJECT", "flatness")
    (folder,) = runs.run_all([chosen], tmp_path)
    assert wandb["logged"] == {(folder.name, step, name): value for (step, name), value in written(folder).items()}
    assert wandb["finished"] == [folder.name] * 2
    first, second = wandb["settings"][folder.name]
    assert (first["project"], second["project"]) == ("hessflat", "flatness")
    assert (second["resume"], second["group"], second["dir"]) == ("allow", "g_mlp", str(folder))
    assert second["config"] == schema.plain(chosen)


@pytest.fixture
def failing(monkeypatch):
    """A registered writer that does as it is told; the names of its calls."""
    calls = []

    def make(fails_in):
        def called(name):
            calls.append(name)
            if f"{name} {calls.count(name)}" == fails_in:
                raise OSError(28, "No space left on device")

        def opener(folder, settings, start):
            called("open")
            return writers.Writer(lambda step, numbers: called("write"), lambda: called("close"))

        other = {"other": writers.Registered(opener)}
        monkeypatch.setattr(writers, "WRITERS", {**writers.WRITERS, **other})
        return calls

    return make


@pytest.fixture(scope="module")
def plainly(tmp_path_factory):
    """A run without writers."""
    return runs.run_all([runs.tiny(*LITTLE)], tmp_path_factory.mktemp("plainly"))[0]


@pytest.mark.parametrize(
    ("fails_in", "expected"),
    [
        ("open 1", ["open"]),
        ("write 2", ["open", "write", "write", "close"]),
        ("close 1", ["open", *["write"] * 4, "close"]),
    ],
)
def test_a_run_goes_on_without_a_writer_that_fails_and_says_so_once(tmp_path, failing, plainly, fails_in, expected):
    calls, notes = failing(fails_in), []
    # Past the rule of the setting, which knows the writers that there are.
    (job,) = make_jobs([runs.tiny(*LITTLE)], tmp_path)
    config = job.config.__class__(**{**vars(job.config), "writers": "other"})
    loop.run_all([job._replace(config=config)], silent()._replace(note=notes.append))
    assert calls == expected
    (note,) = notes
    why = rf"OSError: \[Errno 28\] No space left on device \({re.escape(__file__)}, line \d+\)"
    name = re.escape(job.folder.name)
    assert re.fullmatch(rf"{name}: writer 'other' failed \({why}\); the run goes on without it", note)
    assert (job.folder / "metrics.jsonl").read_bytes() == (plainly / "metrics.jsonl").read_bytes()
    assert run_folder.read_manifest(job.folder)["status"] == "done"


def test_tensorboard_on_a_full_disk_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="the extra dev has it")
    monkeypatch.setattr("hessflat.utils.logs.time.time_ns", lambda: 1)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1").symlink_to("/dev/full")
    notes = []
    with writers.opened("tensorboard", tmp_path, {}, None, notes.append) as mirror:
        mirror({"step": 1, "a": 1.0}, "")
        mirror({"step": 2, "a": 1.0}, "")
    (note,) = notes
    assert "writer 'tensorboard' failed (OSError: [Errno 28] No space left on device); the run goes on" in note


def test_numbers_alone_are_written(tmp_path, failing):
    got = []
    writer = writers.Writer(lambda step, numbers: got.append((step, numbers)), lambda: None)
    failing("")
    writers.WRITERS["other"] = writers.Registered(lambda folder, settings, start: writer)
    with writers.opened("other", tmp_path, {}, None, print) as mirror:
        mirror({"step": 3, "a": 1, "b": math.nan, "c": None, "ritz": [1.0, 2.0], "name": "text"}, "eval.")
    assert got == [(3, {"eval.a": 1})]


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_writer_that_is_not_installed_is_refused_before_anything_is_touched(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"pip install 'hessflat\[{name}\]'") as error:
        runs.run_all([runs.tiny(f"--config.writers={name}")], tmp_path)
    assert "\n" not in str(error.value)
    assert f"'{name}' needs {module}" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_writer_gets_the_nearest():
    with pytest.raises(InputError, match=r"one of tensorboard, wandb, several .*; did you mean 'tensorboard'\?"):
        runs.tiny("--config.writers=wandb,tensorbord")


def test_a_finished_run_is_the_same_run_with_other_writers(tmp_path, plainly, wandb):
    root = plainly.parents[1]
    before = {path: path.read_bytes() for path in plainly.rglob("*") if path.is_file()}
    assert runs.run_all([runs.tiny(*LITTLE, "--config.writers=wandb")], root) == [plainly]
    assert before == {path: path.read_bytes() for path in plainly.rglob("*") if path.is_file()}
    assert "writers" not in json.loads((plainly / "config.json").read_text())
    assert not wandb["settings"]


@pytest.mark.slow
def test_stored_runs_have_the_names_that_their_settings_give_them(stored_runs):
    stored = sorted(stored_runs.glob("*/*/config.json"))[::7]
    assert len(stored) > 50
    for path in stored:
        config = schema.from_plain(json.loads(path.read_text()))
        (job,) = make_jobs([config], path.parents[2])
        assert job.folder == path.parent


def test_an_experiment_takes_writers_which_make_no_variant():
    own = experiment.parse(["--exp=g_mlp", TENSORBOARD], {"exp": None})
    assert own.settings == [TENSORBOARD]
    made = experiment.make_jobs(own.experiments[0], "smoke", Path("runs"), own.settings)
    assert {job.config.writers for job in made} == {"tensorboard"}
    assert [job.folder for job in made] == [
        job.folder for job in experiment.make_jobs(own.experiments[0], "smoke", Path("runs"))
    ]
    assert experiment.variant_of(own.settings, "") == ""
    with pytest.raises(InputError, match=r"own settings here; give --config\.optim\.l2=1 to .*hessflat experiment"):
        experiment.parse(["--exp=g_mlp", TENSORBOARD, "--config.optim.l2=1"], {"exp": None})


def test_every_writer_that_needs_a_package_has_an_extra_that_brings_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name, writer in writers.WRITERS.items():
        if writer.module:
            (package,) = extras[name]
            assert package.startswith(writer.module)
