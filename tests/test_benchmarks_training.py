"""The benchmark of training at its smallest scale: what it writes, what it judges, and the page made of it."""

import json

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from benchmarks import layouts
from benchmarks.training import document, problem, report, run
from benchmarks.training.workloads import (
    BY_HAND,
    CHANGED,
    NETWORKS,
    NUM_CLASSES,
    OURS,
    PLAIN,
    PYTORCH,
    WORKLOADS,
    chosen,
)
from hessflat import models
from hessflat.config import builder_settings
from hessflat.models import MODELS
from hessflat.utils import compat
from hessflat.utils.errors import InputError


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", compat.setting("jax_compilation_cache_dir"))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        run.main(["--only=mlp", "--repeats=2", "--scale=smoke", f"--out={path}"])
    return json.loads(path.read_text())


def with_seconds(stored, workload, **seconds):
    """A run at full scale of contenders that took so long."""
    row = stored["rows"][0] | {"workload": workload, "status": "ok"}
    return stored | {
        "scale": "full",
        "rows": [row | {"contender": name, "seconds": [value]} for name, value in seconds.items()],
    }


@pytest.mark.slow
def test_contenders_train_the_same_network(stored):
    rows = {row["contender"]: row for row in stored["rows"]}
    assert list(rows) == [OURS, BY_HAND, PYTORCH]
    for name in (OURS, BY_HAND):
        row = rows[name]
        assert (row["status"], row["message"], len(row["first"]), len(row["seconds"])) == ("ok", "", 1, 2)
        assert min(row["first"] + row["seconds"]) > 0
    ours, by_hand = (rows[name]["check"] for name in (OURS, BY_HAND))
    assert ours == pytest.approx(by_hand, rel=1e-5)
    assert ours["parameters"] == 784 * 8 + 8 + 8 * 10 + 10
    assert ours["loss_after_a_step"] < ours["loss"]
    assert rows[PYTORCH]["status"] in ("ok", "not installed")


@pytest.mark.parametrize("name", ["softmax", "mlp", "vgg", "resnet", "wide"])
def test_the_networks_in_pytorch_are_the_same(name, tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks.training import in_torch

    network, file = NETWORKS[name], tmp_path / "problem.npz"
    problem.main([str(file), name, "smoke"])
    made = problem.load(file)
    module = in_torch.NETWORKS[network.model](**network.settings_at("smoke"))
    in_torch.set_weights(module, made)
    assert sum(p.numel() for p in module.parameters()) == sum(array.size for array in made.params.values())
    model = models.build(network.model, NUM_CLASSES, **network.settings_at("smoke"))
    params, statistics = (unflatten_dict(tree, sep="/") for tree in (made.params, made.statistics))
    wanted, changed = jax.jit(lambda x: model.apply(params, statistics, x, True))(made.x[:8])
    found = module(torch.from_numpy(layouts.images_to_torch(made.x[:8]))).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    running = {in_torch.path_of(n, module): b for n, b in module.named_buffers() if n.endswith("running_mean")}
    for path, mean in running.items():
        np.testing.assert_allclose(mean, flatten_dict(changed, sep="/")[path], atol=1e-5)


@pytest.mark.slow
def test_tables_line_up(stored):
    assert [len(report.steady(stored)), len(report.first_steps(stored))] == [2, 2]
    lines = report.text(stored).splitlines()
    heading = next(i for i, line in enumerate(lines) if line.startswith("images/s"))
    assert NETWORKS["mlp"].title in lines[heading + 1]
    assert "At this scale sizes are not those of the titles, and times mean nothing." in lines


@pytest.mark.slow
def test_goals_are_judged_by_ratios(stored):
    run = with_seconds(stored, "mlp", **{OURS: 1.04, BY_HAND: 1.0, PYTORCH: 1.02})
    assert [(goal.met, goal.found) for goal in report.goals(run)] == [
        (True, "1.040 times its step, -1.0% of the limit"),
        (False, "1.020 times its step, +2.0% of the limit"),
    ]
    run = with_seconds(stored, "resnet", **{OURS: 1.04, BY_HAND: 0.5, PYTORCH: 1.0})
    assert [goal.met for goal in report.goals(run)] == [False, True]


@pytest.mark.slow
def test_what_only_an_accelerator_can_say(stored):
    pipeline = with_seconds(stored, "pipeline", **{PLAIN: 1.0, CHANGED: 1.02})
    assert report.goals(pipeline) == []
    pipeline["machine"] = pipeline["machine"] | {"device": "GPU"}
    assert [goal.met for goal in report.goals(pipeline)] == [True, True]
    host = [row | {"loop": "python"} for row in pipeline["rows"]]
    assert [goal.met for goal in report.goals(pipeline | {"rows": host})] == [True, False]
    sweep = with_seconds(stored, "sweep", **{"together": 1.0, "in turn": 4.0})
    sweep["machine"] = pipeline["machine"]
    assert [(goal.met, goal.found) for goal in report.goals(sweep)] == [(False, "0.250")]


@pytest.mark.long
def test_going_on_from_a_checkpoint_is_judged_by_its_first_time(tmp_path):
    path = tmp_path / "run.json"
    run.main(["--only=resume", "--repeats=1", "--scale=smoke", f"--out={path}"])
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["status"], row["message"]) == ("ok", "")
    found = json.loads(path.read_text()) | {"rows": [row | {"first": [1.5], "seconds": [0.25]}]}
    found["rows"][0]["parts"] = {"bytes": [9e7]}
    assert [(goal.met, goal.found) for goal in report.goals(found)] == [(True, "1.50 s")]
    assert report.resumed(found)[1] == ["ResNet-18", "1.50", "0.25", "90"]


@pytest.mark.slow
def test_a_contender_that_is_off_is_named_and_not_ranked(stored):
    check = {"parameters": 10.0, "loss": 1.0, "gradient_norm": 2.0, "loss_after_a_step": 0.9}
    rows = [{"contender": name, "check": check} for name in "abc"]
    assert report.disagreements(rows) == {}
    rows[1] = {"contender": "b", "check": check | {"parameters": 11.0}}
    rows[2] = {"contender": "c", "check": check | {"gradient_norm": 2.001}}
    assert list(report.disagreements(rows)) == ["b", "c"]
    run = with_seconds(stored, "mlp", **{OURS: 1.0, BY_HAND: 1.0, PYTORCH: 2.0})
    run["rows"][1] |= {"status": "disagrees", "message": "loss is 1.0e-02 off the others'"}
    assert report.goals(run)[0].met is None
    page = document.render([run])
    assert "128 †" in page
    assert "† mlp, JAX by hand: loss is 1.0e-02 off the others'." in page


@pytest.mark.slow
def test_precisions_are_shown_beside_the_matrix_rate(stored):
    run = with_seconds(stored, "precision-resnet", bfloat16=0.01)
    run["rows"][0]["parts"] = {"operations": [2e12], "matrix_rate": [8e14]}
    assert report.precision(run)[1] == ["ResNet-18", "bfloat16", "12,800", "200", "800", "25%"]


def test_workloads_are_models_with_known_settings():
    assert [workload.id for workload in chosen(["precision", "mlp"])] == ["precision-resnet", "precision-wide", "mlp"]
    for workload in WORKLOADS.values():
        network = NETWORKS[workload.network]
        assert set(network.settings_at("smoke")) <= set(builder_settings(MODELS[network.model]))


@pytest.mark.parametrize("argument", ["--only=lstm", "--repeats=0", "--scale=huge", "--config.a=1", "--peers=torch"])
def test_wrong_arguments_are_refused_in_one_line(argument):
    with pytest.raises(InputError):
        run.parse([argument])


def test_the_page_is_what_the_stored_runs_say():
    assert document.DOCUMENT.read_text() == document.render(document.read_all(document.RESULTS))
    assert "No run is stored yet." in document.render([])
