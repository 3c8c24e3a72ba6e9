"""What a run can be told: when to stop, where to start, what to measure when, in which mode of batch norm."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from test_runner import run_until_killed

import hessflat.curvature as cv
from hessflat.measures import loss_limit
from hessflat.measures.eval_state import curvature_data, curvature_operator
from hessflat.runs import checkpoints, loop, run_folder
from hessflat.runs.jobs import compiled, make_jobs
from hessflat.utils.errors import InputError

NEVER = [f"--config.measure.{name}=never" for name in ("spectra", "jacobian")]
RESNET = [
    "--config.model.name=preresnet", "--config.model.preresnet.width=2",
    "--config.model.preresnet.depth=11",
    "--config.train.epochs=1", "--config.data.train_size=64", "--config.train.batch_size=32",
    "--config.measure.trace_probes=2",
]  # fmt: skip


def manifest(folder):
    return run_folder.read_manifest(folder)


@pytest.mark.slow
def test_it_ends_when_the_training_accuracy_is_reached_and_is_measured_there(tmp_path):
    stopping = ["--config.stop.train_accuracy=0.5", "--config.stop.eval_every=3", "--config.train.epochs=40"]
    (folder,) = runs.run_all([runs.tiny(*stopping, *NEVER)], tmp_path)
    found = manifest(folder)
    evals = run_folder.read_lines(folder / "eval.jsonl")
    assert found["status"] == "done"
    assert found["steps"] == evals[-1]["step"] < 400
    assert found["reason"].startswith("training accuracy")
    assert evals[-1]["train_accuracy"] >= 0.5 > max(one["train_accuracy"] for one in evals[:-1])
    assert runs.metrics(folder)[-1]["step"] == found["steps"]
    assert runs.metrics(folder)[-1]["train_accuracy"] == evals[-1]["train_accuracy"]


EDGES = ["--config.measure.spectrum_edges=end"]
SINE = [
    "--config.data.name=sine", "--config.data.validation_fraction=0.0", "--config.data.scaling=raw",
    "--config.model.name=coordinate_network",
    "--config.model.coordinate_network.hidden=(8, 8)", "--config.data.train_size=0", "--config.data.test_fraction=0.0",
    "--config.train.batch_size=0", "--config.train.epochs=20",
]  # fmt: skip


@pytest.mark.slow
def test_a_regression_is_trained_and_measured_by_its_squared_error(tmp_path):
    chosen = runs.tiny(
        *SINE,
        "--config.train.loss=squared_error",
        "--config.measure.full_spectrum=end",
        "--config.measure.lanczos_steps=60",
    )
    (folder,) = runs.run_all([chosen], tmp_path)
    first, last = runs.metrics(folder)[0], runs.metrics(folder)[-1]
    assert last["train_loss"] < first["train_loss"]
    assert not [name for name in last if "accuracy" in name or "softmax" in name]
    shared, state = compiled(chosen), runs.final_state(folder)
    train = shared.splits["train"]

    def loss(flat):
        outputs, _ = shared.trainer.model.apply(unravel(flat), {}, train["inputs"], False)
        return jnp.mean((outputs - jnp.sin(jnp.pi * train["inputs"])) ** 2)

    flat, unravel = jax.flatten_util.ravel_pytree(state.params)
    assert last["train_loss"] == pytest.approx(float(loss(flat)), rel=1e-5)
    values = np.linalg.eigvalsh(jax.jit(jax.hessian(loss))(flat))
    assert last["hessian.exact.lambda_max"] == pytest.approx(values[-1], rel=1e-4)
    assert last["hessian.lambda_max"] == pytest.approx(values[-1], rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "--config.train.loss=cross_entropy",
            "config.train.loss must be 'squared_error' or 'exponential' for data",
        ),
        ("--config.train.label_smoothing=0.1", "config.train.label_smoothing must be 0.0 for data set 'sine'"),
        ("--config.stop.train_accuracy=0.9", "config.stop.train_accuracy must be 0.0 for data set 'sine'"),
    ],
)
def test_what_needs_classes_is_refused_for_real_targets(tmp_path, setting, message):
    loss = [] if "loss" in setting else ["--config.train.loss=squared_error"]
    with pytest.raises(InputError, match=message):
        runs.run_all([runs.tiny(*SINE, *loss, setting)], tmp_path)


def test_what_needs_real_targets_is_refused_for_classes(tmp_path):
    with pytest.raises(InputError, match=r"config\.train\.loss must be 'cross_entropy' or 'squared_error'"):
        runs.run_all([runs.tiny("--config.train.loss=exponential")], tmp_path)


@pytest.mark.long
@pytest.mark.exact
def test_a_killed_run_stops_where_it_would_have(tmp_path, monkeypatch):
    chosen = runs.tiny(
        "--config.stop.train_loss=1.0", "--config.stop.window=4", "--config.stop.eval_every=5",
        "--config.train.epochs=40", "--config.checkpoint.minutes=1e-9", *NEVER,
    )  # fmt: skip
    (straight,) = runs.run_all([chosen], tmp_path / "straight")
    assert manifest(straight)["steps"] < 400
    number = len(run_folder.read_lines(straight / "eval.jsonl"))
    for killed_at in (number - 1, number):
        root = tmp_path / str(killed_at)
        run_until_killed([chosen], root, monkeypatch, loop, "evaluate", killed_at)
        (folder,) = runs.run_all([chosen], root)
        assert manifest(folder)["steps"] == manifest(straight)["steps"]
        for name in ("eval.jsonl", "metrics.jsonl"):
            assert (folder / name).read_bytes() == (straight / name).read_bytes()


def test_as_many_steps_as_another_run_took(tmp_path):
    stopping = ["--config.stop.train_accuracy=0.5", "--config.stop.eval_every=3", "--config.train.epochs=40", *NEVER]
    smoothed = runs.tiny(
        "--config.train.label_smoothing=0.5", "--config.train.epochs=40", *NEVER, "--config.stop.eval_every=3",
        "--config.stop.match_steps_of=train.label_smoothing=0,stop.train_accuracy=0.5",
    )  # fmt: skip
    # The follower comes first in the list, and is run after the one it follows.
    follower, followed = runs.run_all([smoothed, runs.tiny(*stopping)], tmp_path)
    assert manifest(follower)["steps"] == manifest(followed)["steps"] < 400
    named = runs.tiny(f"--config.stop.match_steps_of={followed}", "--config.train.epochs=40", "--config.seed=3", *NEVER)
    assert manifest(runs.run_all([named], tmp_path)[0])["steps"] == manifest(followed)["steps"]
    missing = runs.tiny("--config.stop.match_steps_of=runs/nowhere", "--config.seed=4", *NEVER)
    with pytest.raises(InputError, match=r"stop.match_steps_of: runs/nowhere is not there; it must be a finished run"):
        runs.run_all([missing], tmp_path)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(tmp_path):
    (first,) = runs.run_all([runs.tiny(*NEVER)], tmp_path)
    spectra = "--config.measure.spectra=start"
    second = runs.tiny(f"--config.train.init_from={first}", *NEVER, "--config.train.epochs=1", "--config.seed=9")
    (continued,) = runs.run_all([second], tmp_path)
    assert runs.metrics(continued)[0]["train_loss"] == runs.metrics(first)[-1]["train_loss"]
    (earlier,) = runs.run_all([runs.tiny(spectra)], tmp_path / "kept")
    middle = runs.tiny(f"--config.train.init_from={earlier}@0", *NEVER, "--config.train.epochs=1", "--config.seed=9")
    (again,) = runs.run_all([middle], tmp_path)
    assert runs.metrics(again)[0]["train_loss"] == runs.metrics(earlier)[0]["train_loss"]
    for text, line in (
        (f"{first}@7", "no checkpoint of step 7"),
        (f"{tmp_path}@7", "is not a run folder"),
        (str(tmp_path), "is not there; it must be a finished run"),
    ):
        with pytest.raises(InputError, match=line):
            runs.run_all([runs.tiny(f"--config.train.init_from={text}", *NEVER)], tmp_path)
    wider = runs.tiny(f"--config.train.init_from={first}", "--config.model.mlp.hidden=(6,)", *NEVER)
    with pytest.raises(InputError, match=r"is of another model: Dense_0/bias is float32\[5\] there and float32\[6\]"):
        runs.run_all([wider], tmp_path)


@pytest.mark.exact
def test_measuring_does_not_change_training(tmp_path):
    much = ["--config.measure.performance=every 3 steps", "--config.measure.sharpness=every 7 steps"]
    (measured,) = runs.run_all([runs.tiny(*much)], tmp_path / "measured")
    (plain,) = runs.run_all([runs.tiny(*NEVER, "--config.measure.performance=end")], tmp_path / "plain")
    assert [line["step"] for line in runs.metrics(plain)] == [50]
    a, b = runs.final_state(measured), runs.final_state(plain)
    for name in a.params:
        for part in a.params[name]:
            np.testing.assert_array_equal(a.params[name][part], b.params[name][part])


def test_each_measurement_has_its_own_timetable(tmp_path):
    timetables = {
        "performance": "every 2 epochs",
        "spectra": "never",
        "jacobian": "at 0.5",
        "sharpness": "every 15 steps",
    }
    (folder,) = runs.run_all([runs.tiny(*(f"--config.measure.{n}={t}" for n, t in timetables.items()))], tmp_path)
    found = {
        name: [line["step"] for line in runs.metrics(folder) if key in line]
        for name, key in (
            ("performance", "train_loss"),
            ("jacobian", "jacobian.max"),
            ("sharpness", "hessian.lambda_max"),
        )
    }
    assert found == {"performance": [0, 20, 40, 50], "jacobian": [25, 50], "sharpness": [0, 15, 30, 45, 50]}
    assert [path.name for path in (folder / "spectra").iterdir()] == ["50-answers.npz"]


@pytest.mark.long
@pytest.mark.exact
def test_sharpness_is_right_warm_started_and_the_same_after_a_kill(tmp_path, monkeypatch):
    chosen = runs.tiny(
        "--config.measure.sharpness=every 5 steps", "--config.measure.full_spectrum=every 25 steps", *NEVER,
        "--config.checkpoint.minutes=1e-9",
    )  # fmt: skip
    started = []
    eigenpairs = cv.eigenpairs
    with monkeypatch.context() as patch:
        patch.setattr(
            cv, "eigenpairs", lambda *a, **k: (started.append(k["start"] is not None), eigenpairs(*a, **k))[1]
        )
        (straight,) = runs.run_all([chosen], tmp_path / "straight")
    assert started == [False, False, *[True] * (2 * 10)]
    for line in runs.metrics(straight):
        if "hessian.exact.lambda_max" in line:
            exact = line["hessian.exact.lambda_max"]
            assert abs(line["hessian.lambda_max"] - exact) <= line["hessian.lambda_max_bound"] <= 1.1e-3 * exact
    run_until_killed([chosen], tmp_path / "killed", monkeypatch, loop, "record", 7)
    (killed,) = runs.run_all([chosen], tmp_path / "killed")
    assert (killed / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("float64", "noise"), [(False, 1e-6), (True, 1e-14)])
def test_the_exact_hessian_is_the_sum_of_its_parts(tmp_path, float64, noise):
    asked = ["--config.measure.full_spectrum=start", f"--config.measure.exact_float64={float64}"]
    parts = "--config.measure.exact_operators=('hessian','gauss_newton','residual')"
    (folder,) = runs.run_all([runs.tiny(*asked, parts, *NEVER)], tmp_path)
    for line in (runs.metrics(folder)[0], runs.metrics(folder)[-1]):
        h, g, r = (line[f"{name}.exact.trace"] for name in ("hessian", "gauss_newton", "residual"))
        assert h == pytest.approx(g + r, rel=100 * noise)
        assert line["gauss_newton.exact.lambda_min"] > -noise * line["gauss_newton.exact.lambda_max"]
        assert line["residual.exact.lambda_min"] <= line["hessian.exact.lambda_min"] < 0
    stored = runs.spectra(folder)
    assert set(stored) - {"50-answers.npz"} == {
        f"{step}-{name}-exact.npz" for step in (0, 50) for name in ("hessian", "gauss_newton", "residual")
    }


@pytest.mark.slow
def test_curvature_at_scaled_weights_is_that_of_a_dense_float64_hessian(tmp_path):
    asked = [
        "--config.measure.loss_limit=end",
        "--config.measure.scales=(1.0,5.0)",
        "--config.measure.trace_probes=400",
    ]
    chosen = runs.tiny(*asked, *NEVER, "--config.data.train_size=60", "--config.train.batch_size=0")
    (folder,) = runs.run_all([chosen], tmp_path)
    with jax.enable_x64(True):
        params, loss = float64_loss(chosen, folder)
        last = {"last": {**params, "Dense_1": jax.tree.map(lambda x: 5 * x, params["Dense_1"])}}
        for way, scaled in (last | {"all": jax.tree.map(lambda x: 5**0.5 * x, params)}).items():
            values = dense_eigenvalues(loss, scaled)
            found = runs.spectra(folder)[f"5-loss_limit-{way}.npz"]
            assert found["scale"].tolist() == [1, 5]
            assert found["loss"][1] == pytest.approx(float(loss(scaled)), rel=1e-12)
            assert found["lambda_max"][1] == pytest.approx(values[-1], rel=1e-3)
            assert found["trace"][1] == pytest.approx(values.sum(), rel=0.2)
            assert found["frobenius"][1] == pytest.approx(np.linalg.norm(values), rel=0.2)


@pytest.mark.slow
def test_extremes_are_the_ends_of_a_dense_float64_hessian(tmp_path):
    asked = [
        "--config.measure.spectrum_edges=end",
        "--config.measure.largest=12",
        "--config.measure.smallest_share=0.05",
    ]
    asked += ["--config.measure.operators=('hessian',)", "--config.data.train_size=60", "--config.train.batch_size=0"]
    chosen = runs.tiny(*asked, *NEVER, "--config.measure.rtol=1e-2")
    (folder,) = runs.run_all([chosen], tmp_path)
    with jax.enable_x64(True):
        params, loss = float64_loss(chosen, folder)
        values = dense_eigenvalues(loss, params)
    found, line = runs.spectra(folder)["5-hessian-extremes.npz"], runs.metrics(folder)[-1]
    assert found["num_params"] == len(values) == 385
    assert (len(found["largest"]), len(found["smallest"])) == (12, 20)
    rounding = 1e-6 * values[-1]
    assert (np.abs(found["largest"] - values[::-1][:12]) <= found["largest_residuals"] + rounding).all()
    assert (np.abs(found["smallest"] - values[:20]) <= found["smallest_residuals"] + rounding).all()
    assert line["hessian.extremes.unconverged"] == 0
    assert line["hessian.extremes.lambda_min"] == found["smallest"][0] < 0
    # Rank of R in a network with one hidden layer: 9 times 5 hidden units.
    assert (values < -rounding).sum() <= 45


@pytest.mark.slow
def test_extremes_that_have_not_converged_are_counted_and_their_residuals_say_how_far_they_are(tmp_path):
    asked = [
        "--config.measure.spectrum_edges=end",
        "--config.measure.largest=12",
        "--config.measure.smallest_share=0.05",
    ]
    asked += ["--config.measure.operators=('hessian',)", "--config.measure.edge_products=40"]
    (folder,) = runs.run_all([runs.tiny(*asked, *NEVER)], tmp_path)
    found, line = runs.spectra(folder)["50-hessian-extremes.npz"], runs.metrics(folder)[-1]
    assert line["hessian.extremes.unconverged"] > 0
    assert line["hessian.extremes.products"] == 40
    assert found["smallest_residuals"].max() > 1e-3 * found["largest"][0]
    with pytest.raises(InputError, match="edge_products must be at least 144, for 140 eigenvalues, got 40"):
        runs.run_all([runs.tiny(*asked, *NEVER, "--config.measure.largest=120")], tmp_path)


def float64_loss(chosen, folder):
    """The parameters at the end of a run without batch norm, and its training loss as a function of them."""
    shared, params = compiled(chosen), runs.final_state(folder).params
    x, labels = (shared.splits["train"][name] for name in ("inputs", "labels"))

    def loss(params):
        log_p = jax.nn.log_softmax(shared.trainer.model.apply(params, {}, x.astype(jnp.float64), False)[0])
        return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], 1))

    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params), loss


def dense_eigenvalues(loss, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.linalg.eigvalsh(jax.jit(jax.hessian(lambda flat: loss(unravel(flat))))(flat))


def test_scales_at_which_the_loss_is_too_small_are_left_out(tmp_path, monkeypatch):
    # The package names the function like its module.
    monkeypatch.setattr(loss_limit, "SMALLEST_LOSS", 1e9)
    (folder,) = runs.run_all([runs.tiny("--config.measure.loss_limit=end", *NEVER)], tmp_path)
    assert runs.spectra(folder)["50-loss_limit-last.npz"]["trace"].shape == (0,)


@pytest.fixture(scope="module")
def normalised(tmp_path_factory):
    """A finished run of a network with batch norm."""
    only = [*NEVER, "--config.measure.performance=end", "--config.measure.sharpness=end"]
    only += ["--config.measure.operators=('hessian',)"]
    return runs.run_all([runs.tiny(*RESNET, *only)], tmp_path_factory.mktemp("runs"))[0]


@pytest.mark.long
def test_batch_norm_is_measured_in_both_modes(normalised):
    (line,) = runs.metrics(normalised)
    assert line["hessian.lambda_max"] != pytest.approx(line["hessian_eval.lambda_max"], rel=0.01)
    assert manifest(normalised)["batch_norm_mode"] == "train and eval"
    assert manifest(normalised)["batch_stats_size"] == "all measured examples"


# Channels that are constant in a group amplify rounding, which must be the same in both products.
@pytest.mark.long
@pytest.mark.exact
@pytest.mark.parametrize(
    ("mode", "shared", "chunk"), [("eval", 0, 0), ("train", 0, 0), ("train", 16, 0), ("train", 16, 40)]
)
def test_the_measured_matrix_is_the_one_that_is_named(normalised, mode, shared, chunk):
    """Its product beside that of the network's own loss, as a mean over the groups that share statistics."""
    chosen = checkpoints.stored_config(normalised)
    common = compiled(chosen)
    position = checkpoints.new_position(chosen, runs.final_state(normalised))
    state = loop.make_eval_state(chosen, common, position, lambda: position.state.params)
    protocol = dataclasses.replace(state.protocol, batch_stats_size=shared, batch_size=chunk)
    op = curvature_operator(state._replace(protocol=protocol), "hessian", mode)
    data = curvature_data(state)
    groups = [slice(i, i + shared) for i in range(0, 64, shared)] if shared else [slice(None)]

    def loss(params, group):
        inputs, targets = data["inputs"][group], data["targets"][group]
        logits = common.trainer.model.apply(params, position.state.batch_stats, inputs, mode == "train")[0]
        return -(targets * jax.nn.log_softmax(logits)).sum(1).mean()

    @jax.jit
    def product(params, vector, group):
        return jax.jvp(jax.grad(lambda p: loss(p, group)), (params,), (vector,))[1]

    rng = np.random.default_rng(0)
    vector = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), np.float32), state.params)
    each = [product(state.params, vector, np.arange(64)[group]) for group in groups]
    wanted, found = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *each), op(vector))
    )
    assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)


def test_averaged_weights_are_what_is_measured(tmp_path):
    averaging = [
        "--config.train.average_from=2",
        "--config.schedule.name=iterate_averaging",
        "--config.optim.name=adamw",
    ]
    chosen = runs.tiny(*averaging, *NEVER)
    (folder,) = runs.run_all([chosen], tmp_path)
    state = runs.final_state(folder)
    norm = np.sqrt(sum(float((leaf**2).sum()) for layer in state.average.values() for leaf in layer.values()))
    assert runs.metrics(folder)[-1]["weight_norm"] == pytest.approx(norm, rel=1e-5)


def test_settings_that_go_with_others_are_refused_in_one_line(tmp_path):
    for setting, line in (
        ("--config.measure.spectra=now and then", "must be never, start, end, growth"),
        ("--config.train.augment=2", "must be from 0 to 1"),
        ("--config.schedule.name=iterate_averaging", "needs config.train.average_from"),
    ):
        with pytest.raises(InputError, match=line):
            runs.run_all([runs.tiny(setting)], tmp_path)
    assert make_jobs([runs.tiny()], tmp_path)[0].folder.exists() is False
