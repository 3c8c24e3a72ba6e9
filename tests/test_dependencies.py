"""Runs that need another: named by its folder or by settings, in what order, refused when, and killed on the way."""

from pathlib import Path

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from test_runner import run_until_killed

from hessflat.cli import measure
from hessflat.launch import pool
from hessflat.measures.eval_state import EvalState
from hessflat.measures.linear_interpolation import barrier, linear_interpolation
from hessflat.runs import loop, run_folder, schema
from hessflat.runs.jobs import Job, compiled, levels, make_jobs, named_run
from hessflat.utils.errors import InputError
from hessflat.utils.progress import silent

pytestmark = pytest.mark.exact

LITTLE = [
    "--config.measure.spectra=never", "--config.measure.jacobian=never", "--config.measure.performance=every 5 steps",
    "--config.train.steps=20",
]  # fmt: skip
FIRST = "train.batch_size=256"
ON_A_LINE = ["--config.measure.linear_interpolation=end", "--config.measure.line_points=4"]


def first(*more):
    return runs.tiny(*LITTLE, f"--config.{FIRST}", *more, keep="end")


def second(*more, name=FIRST):
    return runs.tiny(*LITTLE, "--config.train.batch_size=32", f"--config.train.init_from={name}", *more, keep="end")


def job_of(chosen, root="runs"):
    return make_jobs([chosen], Path(root))[0]


def test_settings_name_a_run_of_the_same_sweep_and_seed():
    part_i, part_ii = job_of(first("--config.seed=3")), job_of(second("--config.seed=3"))
    assert named_run(part_ii, "train.init_from") == (part_i.folder, "")
    assert named_run(part_i, "train.init_from") is None
    assert named_run(job_of(second("--config.seed=3", name=f"{FIRST}@20")), "train.init_from") == (part_i.folder, "20")
    assert named_run(job_of(second(name="/a@b/RUN@20")), "train.init_from") == (Path("/a@b/RUN"), "20")
    # A tuple's commas are no ends of settings, and the run that is named may name one, too.
    wider = job_of(first("--config.model.mlp.hidden=(5, 6)"))
    text = f"model.mlp.hidden=(5, 6), {FIRST}"
    assert named_run(job_of(second(name=text)), "train.init_from") == (wider.folder, "")
    third = job_of(second("--config.optim.lr=0.1", name=f"optim.lr=0.03,train.init_from={FIRST}"))
    assert named_run(third, "train.init_from") == (job_of(second()).folder, "")


def test_what_others_need_goes_first():
    part_i, part_ii, alone = job_of(first()), job_of(second()), job_of(first("--config.seed=5"))
    third = job_of(second("--config.optim.lr=0.1", name=f"optim.lr=0.03,train.init_from={FIRST}"))
    follower = job_of(first("--config.seed=2", f"--config.stop.match_steps_of={part_ii.folder}"))
    assert levels([third, follower, part_ii, alone, part_i]) == [[alone, part_i], [part_ii], [third, follower]]
    assert levels([part_ii]) == [[part_ii]]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (second(), "smoke-mlp-digits.* is not there; it must be a finished run, so run it first, or in the same sweep"),
        (second(name="train.batch_size=32"), "train.init_from: this run itself has train.batch_size=32; name"),
        (second(name="seed=many"), "config.seed must be a whole number, got many"),
        (second(name=f"{FIRST},sed=3"), "unknown setting config.sed; did you mean 'seed'"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(tmp_path, chosen, message):
    with pytest.raises(InputError, match=message) as caught:
        runs.run_all([chosen], tmp_path)
    assert "\n" not in str(caught.value)


def test_runs_that_need_each_other_are_one_line(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    circle = [Job(second(name=str(other)), folder) for folder, other in zip(folders, folders[::-1], strict=True)]
    with pytest.raises(InputError, match="needs itself to be finished") as caught:
        levels([*circle, job_of(first())])
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Part I and Part II, which comes first in the list."""
    return runs.run_all([second(*ON_A_LINE), first(*ON_A_LINE)], tmp_path_factory.mktemp("parts"))[::-1]


@pytest.mark.slow
def test_losses_on_the_line_are_those_of_the_weights_there(parts):
    ends = [runs.final_state(folder).params for folder in parts]
    shared = compiled(second(*ON_A_LINE))
    found = runs.spectra(parts[1])["20-line.npz"]
    np.testing.assert_allclose(found["alphas"], [-1, 0, 1, 2])
    (a, unravel), (b, _) = (jax.flatten_util.ravel_pytree(end) for end in ends)
    assert found["distance"] == pytest.approx(float(jnp.linalg.norm(b - a)), rel=1e-6)
    for split in ("train", "test"):
        x, labels = (shared.splits[split][key] for key in ("inputs", "labels"))
        for i, alpha in enumerate((-1, 0, 1, 2)):
            logits = shared.trainer.model.apply(unravel(a + alpha * (b - a)), {}, x, False)[0]
            log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            assert found[f"{split}_loss"][i] == pytest.approx(-float(log_p.mean()), rel=1e-5)
            right = float((logits.argmax(1) == labels).mean())
            assert found[f"{split}_accuracy"][i] == pytest.approx(right, abs=1.5 / len(labels))
    last = [runs.metrics(folder)[-1] for folder in parts]
    assert found["train_loss"][[1, 2]].tolist() == [record["train_loss"] for record in last]
    assert runs.metrics(parts[1])[0]["train_loss"] == last[0]["train_loss"]
    assert last[1]["line.length"] == found["distance"]
    assert last[1]["line.train_barrier"] == 0.0  # with no points between
    # The first part starts from its own initial weights.
    began = runs.spectra(parts[0])["20-line.npz"]["test_loss"][1]
    assert began == runs.metrics(parts[0])[0]["test_loss"]


@pytest.mark.slow
def test_the_line_is_measured_again_with_more_points(parts, capsys):
    more = ["--config.measure.line_points=31", "--config.measure.line_from=-2.0", "--config.measure.line_to=1.0"]
    measure.main([f"--run={parts[1]}", "--steps=last", *more])
    again = Path(capsys.readouterr().out.strip())
    found, own = runs.spectra(again)["20-line.npz"], runs.spectra(parts[1])["20-line.npz"]
    assert found["alphas"].shape == (31,)
    np.testing.assert_array_equal(found["train_loss"][[10, 20, 30]], own["train_loss"][[0, 1, 2]])
    assert runs.metrics(again)[-1]["line.train_barrier"] == barrier(found["alphas"], found["train_loss"])


def test_a_barrier_is_what_exceeds_the_chord():
    alphas = np.array([-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    assert barrier(alphas, 3 - alphas) == 0
    assert barrier(alphas, alphas**2) == 0
    assert barrier(alphas, 1 + 2 * alphas + 4 * alphas * (1 - alphas)) == pytest.approx(1.0)


def test_with_batch_norm_a_line_is_refused():
    normed = EvalState(*[None] * len(EvalState._fields))._replace(batch_stats={"mean": np.zeros(2)})
    with pytest.raises(InputError, match=r"config\.measure\.linear_interpolation is for models without batch norm"):
        linear_interpolation(normed)


@pytest.mark.long
def test_a_killed_second_part_ends_with_the_same_bits(parts, tmp_path, monkeypatch):
    chosen = [
        second("--config.checkpoint.minutes=1e-9", *ON_A_LINE),
        first("--config.checkpoint.minutes=1e-9", *ON_A_LINE),
    ]
    straight = runs.run_all(chosen, tmp_path / "straight")
    # The first part has five measurements; the second is killed before its first, and after its third.
    for number, before in ((6, True), (8, False)):
        root = tmp_path / str(number)
        run_until_killed(chosen, root, monkeypatch, loop, "record", number, before)
        for one, other in zip(runs.run_all(chosen, root), straight, strict=True):
            assert run_folder.read_manifest(one)["status"] == "done"
            assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
            jax.tree.map(np.testing.assert_array_equal, runs.final_state(one), runs.final_state(other))
            a, b = (runs.spectra(folder)["20-line.npz"] for folder in (one, other))
            np.testing.assert_array_equal(a["train_loss"], b["train_loss"])


@pytest.mark.slow
def test_an_unfinished_run_is_started_from_at_a_step_alone(tmp_path, monkeypatch):
    chosen = first("--config.checkpoint.minutes=1e-9")
    run_until_killed([chosen], tmp_path, monkeypatch, loop, "record", 4)
    with pytest.raises(InputError, match="is running; it must be a finished run"):
        runs.run_all([second("--config.checkpoint.minutes=1e-9")], tmp_path)
    (folder,) = runs.run_all([second("--config.checkpoint.minutes=1e-9", name=f"{FIRST}@10")], tmp_path)
    earlier = runs.metrics(make_jobs([chosen], tmp_path)[0].folder)[2]
    assert (earlier["step"], earlier["train_loss"]) == (10, runs.metrics(folder)[0]["train_loss"])


@pytest.mark.slow
@pytest.mark.long
def test_parts_of_several_seeds_in_processes_side_by_side(tmp_path):
    chosen = [schema.replace(part, {"seed": seed}) for part in (second(), first()) for seed in (0, 1)]
    jobs = make_jobs(chosen, tmp_path)
    said = pool.run_all(jobs, silent(), "2")
    assert said == "4 runs, " + "; then ".join(["1 training program compiled, at most once in each of 2 processes"] * 2)
    for after, before in zip(jobs[:2], jobs[2:], strict=True):
        assert runs.metrics(after.folder)[0]["train_loss"] == pytest.approx(
            runs.metrics(before.folder)[-1]["train_loss"], rel=1e-6
        )
