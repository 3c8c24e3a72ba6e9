"""The tracker beside dense matrices: values, residuals and errors, as they are in a loop, a program and a scan."""

import json
import sys
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessflat.curvature as cv
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (64, 6))
DATA = {"x": X, "y": jnp.tanh(X[:, :2] @ jnp.array([[1.0, -0.5], [0.3, 2.0]]))}


def predict(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def loss(params, batch):
    return jnp.mean((predict(params, batch) - batch["y"]) ** 2)


def start():
    keys = jax.random.split(jax.random.key(2))
    return {"in": jax.random.normal(keys[0], (6, 5)), "out": jax.random.normal(keys[1], (5, 2))}


OPTIMISER = optax.sgd(0.1, momentum=0.9)


def train_step(params, opt_state):
    updates, opt_state = OPTIMISER.update(jax.grad(loss)(params, DATA), opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def dense(params, data=DATA):
    """Eigenvalues by JAX's own Hessian and NumPy, ascending."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.linalg.eigvalsh(np.asarray(jax.hessian(lambda p: loss(unravel(p), data))(flat), np.float64))


def trained(tracker, num_steps, **options):
    """Parameters and metrics at every step that is due."""
    params, step_compiled = start(), jax.jit(train_step)
    opt_state, state = OPTIMISER.init(params), tracker.init(params, KEY)
    found = {}
    for step in range(num_steps):
        state, metrics = tracker.update(state, params, step, **options)
        if metrics:
            found[step] = params, metrics
        params, opt_state = step_compiled(params, opt_state)
    return found


@pytest.mark.slow
def test_values_of_a_training_are_those_of_dense_matrices():
    found = trained(cv.tracker(cv.hessian(loss, start(), DATA), every=5, k=2), 100)
    assert list(found) == list(range(0, 100, 5))
    errors = []
    for params, metrics in found.values():
        eigenvalues = dense(params)
        for name, right in (("lambda_max", eigenvalues[-1]), ("lambda_2", eigenvalues[-2])):
            nearest = np.abs(eigenvalues - float(metrics[name])).min()
            assert nearest <= float(metrics[f"{name}_residual"]) + 1e-5 * eigenvalues[-1]
            errors.append(abs(float(metrics[name]) / right - 1))
    assert np.median(errors) < 2e-3
    assert np.max(errors[2:]) < 0.02


@pytest.mark.slow
def test_a_scan_measures_what_a_loop_does():
    tracker = cv.tracker(cv.hessian(loss, start(), DATA), every=4, quantities=("lambda_max", "trace"))

    def body(carry, step):
        params, opt_state, state = carry
        state, metrics = tracker.update(state, params, step, data=DATA)
        return (*train_step(params, opt_state), state), metrics

    params = start()
    carry = params, OPTIMISER.init(params), tracker.init(params, KEY)
    scanned = jax.jit(lambda carry: jax.lax.scan(body, carry, jnp.arange(11)))(carry)[1]
    loop = trained(tracker, 11)
    assert set(scanned) == set(loop[0][1])
    for name, values in scanned.items():
        assert [step for step in range(11) if np.isfinite(values[step])] == [0, 4, 8]
        for step, (_, metrics) in loop.items():
            np.testing.assert_allclose(values[step], metrics[name], rtol=2e-3, atol=1e-4)


def diagonal(vector, numbers):
    return vector * numbers


def follow(tracker, series, size):
    """λ_max of diagonal matrices, by the state of their map."""
    state, values = tracker.init(jnp.zeros(size), KEY), []
    for numbers in series:
        state, metrics = tracker.update(state, jnp.zeros(size), 0, model_state=(numbers,))
        values.append(float(metrics["lambda_max"]))
    return np.array(values)


def test_an_eigenvalue_that_overtakes_is_found():
    size, bulk = 400, np.minimum(np.random.default_rng(0).exponential(0.05, 400), 0.4)
    tracker = cv.tracker(cv.from_matvec(diagonal, jnp.zeros(size), jnp.asarray(bulk, jnp.float32)))

    def series(overtaking):
        for value in overtaking:
            bulk[:2] = 1, value
            yield jnp.asarray(bulk, jnp.float32)

    crossing = 0.5 * 1.02 ** np.arange(70)
    errors = follow(tracker, series(crossing), size) / np.maximum(crossing, 1) - 1
    assert np.median(np.abs(errors)) < 2e-3
    assert np.abs(errors).max() < 0.02
    # Out of the bulk at once, by so little that a residual does not tell: the next thorough measurement is the tenth.
    appearing = np.where(np.arange(22) < 11, 0.3, 1.05)
    errors = follow(tracker, series(appearing), size) / np.maximum(appearing, 1) - 1
    assert np.abs(errors[[*range(11), 20, 21]]).max() < 0.01


def test_a_state_that_was_stored_goes_on_alike():
    tracker = cv.tracker(cv.hessian(loss, start(), DATA), every=1, quantities=("lambda_max", "trace"), examples=32)
    params = start()
    state, _ = tracker.update(tracker.init(params, KEY), params, 0)
    moved = jax.tree.map(lambda x: 1.01 * x, params)
    leaves, structure = jax.tree.flatten(state._replace(key=jax.random.key_data(state.key)))
    stored = jax.tree.unflatten(structure, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
    stored = stored._replace(key=jax.random.wrap_key_data(stored.key))
    assert jax.tree.map(float, tracker.update(stored, moved, 1)[1]) == jax.tree.map(
        float, tracker.update(state, moved, 1)[1]
    )


@pytest.mark.slow
def test_the_trace_is_unbiased_with_an_honest_error():
    size, count = 12, 6
    rng = np.random.default_rng(0)
    first = rng.normal(size=(size, size))
    drift = 0.05 * rng.normal(size=(count, size, size)).cumsum(axis=0)
    series = jnp.asarray([m + m.T for m in first + drift], jnp.float32)
    op = cv.from_matvec(lambda v, matrix: matrix @ v, jnp.zeros(size), series[0])
    tracker = cv.tracker(op, every=1, quantities="trace")

    def estimates(key):
        def body(state, matrix):
            state, metrics = tracker.update(state, jnp.zeros(size), jnp.zeros((), int), model_state=(matrix,))
            return state, (metrics["trace"], metrics["trace_standard_error"])

        return jax.lax.scan(body, tracker.init(jnp.zeros(size), key), series)[1]

    repeats = 2000
    values, errors = jax.jit(jax.vmap(estimates))(jax.random.split(KEY, repeats))
    off = np.asarray(values, np.float64) - np.trace(np.asarray(series), axis1=1, axis2=2)
    spread = off.std(axis=0)
    assert (np.abs(off.mean(axis=0)) < 4 * spread / np.sqrt(repeats)).all()
    np.testing.assert_allclose(np.sqrt(np.mean(np.asarray(errors, np.float64) ** 2, axis=0)), spread, rtol=0.1)
    assert spread[-1] < 0.5 * spread[0]


def logistic(w, batch):
    return jnp.mean(jnp.logaddexp(0.0, -batch["y"] * (batch["x"] @ w)))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_a_part_of_the_examples_tells_its_error(weighted):
    keys = jax.random.split(jax.random.key(3), 3)
    x = jax.random.normal(keys[0], (512, 8)) * jnp.arange(1.0, 9.0)[None]
    data = {"x": x, "y": jnp.sign(x[:, 0] + jax.random.normal(keys[1], (512,)))}
    weights = 0.5 + jax.random.uniform(keys[2], (512,))
    function = logistic
    if weighted:
        function = lambda w, b: jnp.sum(b["m"] * jnp.logaddexp(0.0, -b["y"] * (b["x"] @ w))) / b["m"].sum()  # noqa: E731
        data = cv.Batches({**data, "m": weights}, weights="m")
    op = cv.hessian(function, jnp.full(8, 0.1), data)
    right = float(cv.eigvalsh(op)[-1])
    tracker = cv.tracker(op, examples=64, rtol=0.001)
    state, found = tracker.init(jnp.full(8, 0.1), KEY), []
    for step in range(0, 2000, 20):
        state, metrics = tracker.update(state, jnp.full(8, 0.1), step)
        found.append([float(metrics[f"lambda_max{end}"]) for end in ("", "_standard_error", "_bias")])
    values, errors, biases = np.array(found).T
    off = values - right
    assert np.mean(np.abs(off - biases) <= 2 * errors) > 0.85
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), off.std(), rtol=0.35)
    assert 0 < biases.mean() < 3 * off.std()


def test_a_part_with_little_weight_tells_that_it_knows_no_error():
    keys = jax.random.split(jax.random.key(3), 2)
    x = jax.random.normal(keys[0], (64, 3))
    weights = jnp.zeros(64).at[jnp.arange(0, 64, 6)].set(1.0)

    def weighted(w, batch):
        return jnp.sum(batch["m"] * (batch["x"] @ w) ** 2) / jnp.sum(batch["m"])

    op = cv.hessian(weighted, jnp.zeros(3), cv.Batches({"x": x, "m": weights}, weights="m"))
    right = float(cv.eigvalsh(op)[-1])
    tracker = cv.tracker(op, every=1, examples=8)
    state, scores, unknown = tracker.init(jnp.zeros(3), KEY), [], 0
    for step in range(40):
        state, metrics = tracker.update(state, jnp.zeros(3), step)
        off, error, bias = (float(metrics[f"lambda_max{end}"]) for end in ("", "_standard_error", "_bias"))
        if np.isfinite(error):
            scores.append((off - bias - right) / error)
        elif np.isfinite(off):
            unknown += 1
    assert unknown > 2
    assert np.median(np.abs(scores)) < 3


@pytest.mark.slow
def test_the_preconditioned_matrix_is_that_of_the_optimiser():
    adam = optax.adam(1e-2)
    op = cv.hessian(loss, start(), DATA)
    P = partial(cv.preconditioner, b1=0.9, b2=0.999, eps=1e-8)
    tracker = cv.tracker(op, 3, "preconditioned_lambda_max", num_steps=20, rtol=1e-3, preconditioner=P)

    @jax.jit
    def step(carry, number):
        params, opt_state, state = carry
        state, metrics = tracker.update(state, params, number, opt_state, data=DATA)
        updates, following = adam.update(jax.grad(loss)(params, DATA), opt_state, params)
        return (optax.apply_updates(params, updates), following, state), metrics

    params = start()
    carry = params, adam.init(params), tracker.init(params, KEY)
    for number in range(7):
        before = carry
        carry, metrics = step(carry, jnp.asarray(number))
        if number == 0:
            assert np.isnan(metrics["preconditioned_lambda_max"])  # no gradient yet, and so no P
    params, opt_state, _ = before
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    matrix = np.asarray(jax.hessian(lambda p: loss(unravel(p), DATA))(flat), np.float64)
    nu = np.asarray(jax.flatten_util.ravel_pytree(opt_state[0].nu)[0], np.float64)
    root = 1 / np.sqrt((1 - 0.9**6) * (np.sqrt(nu / (1 - 0.999**6)) + 1e-8))
    right = np.linalg.eigvalsh(root[:, None] * matrix * root)[-1]
    assert float(metrics["preconditioned_lambda_max"]) == pytest.approx(right, rel=2e-3)


def test_an_unknown_optimiser_is_one_line():
    lion = optax.lion(1e-3)
    params = start()
    tracker = cv.tracker(
        cv.hessian(loss, params, DATA), quantities="preconditioned_lambda_max", preconditioner=cv.preconditioner
    )
    with pytest.raises(InputError, match="whose P is not known"):
        tracker.update(tracker.init(params, KEY), params, 0, lion.init(params))


def test_a_block_of_the_parameters_is_followed_while_the_others_move():
    params = start()
    tracker = cv.tracker(cv.restrict(cv.hessian(loss, params, DATA), "out"), rtol=0)
    moved = jax.tree.map(lambda x: 0.9 * x, params)
    _, metrics = tracker.update(tracker.init(params, KEY), moved, 0)
    block = jax.hessian(lambda out: loss({**moved, "out": out}, DATA))(moved["out"]).reshape(10, 10)
    assert float(metrics["lambda_max"]) == pytest.approx(np.linalg.eigvalsh(np.asarray(block))[-1], rel=1e-3)


def test_state_of_the_functions_and_data_are_those_of_the_update():
    def scaled(params, batch, state):
        return state["scale"] * loss(params, batch)

    params, other = start(), {"x": X[::-1] * 1.1, "y": DATA["y"]}
    tracker = cv.tracker(cv.hessian(scaled, params, cv.Batches(DATA, 24), state={"scale": jnp.ones(())}), rtol=0)
    state = tracker.init(params, KEY)
    _, metrics = tracker.update(state, params, 0, model_state={"scale": jnp.asarray(3.0)}, data=other)
    assert float(metrics["lambda_max"]) == pytest.approx(3 * dense(params, other)[-1], rel=1e-3)
    with pytest.raises(InputError, match="data must have the structure"):
        tracker.update(state, params, 0, data={"x": X[:32], "y": DATA["y"][:32]})
    with pytest.raises(InputError, match="params must have the structure"):
        tracker.update(state, params["in"], 0)


@pytest.mark.long
def test_parameters_and_examples_on_a_mesh():
    mesh = jax.make_mesh((2, 2), ("data", "model"), (AxisType.Auto,) * 2, devices=jax.devices()[:4])
    place = lambda x, *axes: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))  # noqa: E731
    params = {
        "in": place(jnp.pad(start()["in"], ((0, 0), (0, 1))), None, "model"),
        "out": jnp.pad(start()["out"], ((0, 1), (0, 0))),
    }
    params["out"] = place(params["out"], "model")
    data = jax.tree.map(lambda x: place(x, "data"), DATA)
    tracker = cv.tracker(cv.hessian(loss, params, data), every=1, quantities=("lambda_max", "trace"), examples=32)
    whole = cv.tracker(cv.hessian(loss, params, data), every=1)
    state, all_state = tracker.init(params, KEY), whole.init(params, KEY)
    for step in range(2):
        params = jax.tree.map(lambda x: 0.95 * x, params)
        state, part = tracker.update(state, params, step)
        all_state, metrics = whole.update(all_state, params, step)
    assert float(metrics["lambda_max"]) == pytest.approx(dense(jax.device_get(params))[-1], rel=5e-3)
    error = float(part["lambda_max_standard_error"] + part["lambda_max_bias"])
    assert abs(float(part["lambda_max"] - metrics["lambda_max"])) < 4 * error
    assert np.isfinite(float(part["trace"]))


@pytest.mark.parametrize("first", [False, True])
def test_what_is_not_finite_is_nan_once(first):
    params = start()
    tracker = cv.tracker(cv.hessian(loss, params, DATA), 1, ("lambda_max", "trace"), trace_probes=40)
    state = tracker.init(params, KEY)
    if not first:
        state, _ = tracker.update(state, params, 0)
    state, lost = tracker.update(state, jax.tree.map(lambda x: x * jnp.nan, params), 1)
    assert np.isnan(lost["lambda_max"])
    assert np.isnan(lost["trace"])
    state, found = tracker.update(state, params, 2)
    assert float(found["lambda_max"]) == pytest.approx(dense(params)[-1], rel=2e-3)
    assert abs(float(found["trace"]) - dense(params).sum()) < 4 * float(found["trace_standard_error"])
    assert float(tracker.update(state, params, 3)[1]["trace_standard_error"]) < float(found["trace_standard_error"])


def test_a_state_may_be_donated_from_the_first_step_on():
    params = start()
    tracker = cv.tracker(cv.hessian(loss, params, DATA), 1, ("lambda_max", "trace", "critical_sharpness"))
    updates = jax.tree.map(lambda g: -0.1 * g, jax.grad(loss)(params, DATA))
    step = jax.jit(lambda s, p, i: tracker.update(s, p, i, data=DATA, updates=updates), donate_argnums=0)
    state = tracker.init(params, KEY)
    for number in range(2):
        state, metrics = step(state, params, jnp.asarray(number))
    assert np.isfinite(float(metrics["trace"]))


def test_a_residual_covers_rounding_relative_to_eigenvalues_of_any_sign():
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    matrix = jnp.asarray(turned @ np.diag([-1e5, -2.0, 0.1]) @ turned.T, jnp.float32)
    op = cv.from_matvec(lambda v, m: m @ v, jnp.zeros(3), matrix)
    tracker = cv.tracker(op, every=1, k=3, rtol=0)
    _, metrics = tracker.update(tracker.init(jnp.zeros(3), KEY), jnp.zeros(3), 0)
    right = np.linalg.eigvalsh(np.asarray(matrix, np.float64))[::-1]
    for name, value in zip(("lambda_max", "lambda_2", "lambda_3"), right, strict=True):
        assert abs(float(metrics[name]) - value) <= 2 * float(metrics[f"{name}_residual"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantities": "sharpnes"}, "unknown quantity 'sharpnes'"),
        ({"quantities": ()}, "quantities must name at least one"),
        ({"quantities": "preconditioned_lambda_max"}, "belong together"),
        ({"examples": 30}, "must be a multiple of 4, 5, 6, 7 or 8"),
        ({"examples": 64}, "fewer than the 64"),
        ({"every": 0}, "every must be a whole number"),
        ({"k": 3, "num_steps": 3}, "k must be below num_steps"),
        ({"trace_memory": 1.0}, "trace_memory must be from 0 to below 1"),
        ({"trace_probes": 1}, "trace_probes"),
    ],
)
def test_options_are_refused_in_one_line(options, message):
    if options.get("examples") == 30:
        options = {"examples": 31}
    with pytest.raises(InputError, match=message):
        cv.tracker(cv.hessian(loss, start(), DATA), **options)


def test_a_state_of_another_tracker_is_refused():
    op, params = cv.hessian(loss, start(), DATA), start()
    trackers = [
        cv.tracker(op, **own) for own in ({}, {"k": 2}, {"quantities": ("lambda_max", "trace")}, {"examples": 32})
    ]
    states = [tracker.update(tracker.init(params, KEY), params, 0)[0] for tracker in trackers]
    for i, tracker in enumerate(trackers):
        for j, state in enumerate([*states, None, tuple(states[i])]):
            if i == j:
                tracker.update(state, params, 20)
                continue
            with pytest.raises(
                InputError, match="state must be what init or update of a tracker with the same options"
            ):
                tracker.update(state, params, 20)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model_state": {"mean": jnp.ones(2)}}, "no function of the operator takes a state"),
        ({"params": jax.tree.map(lambda x: x.astype(jnp.bfloat16), start())}, "of the operator's type, float32"),
        ({"updates": start()["in"]}, "updates must have the structure of params"),
        ({"learning_rate": 0}, "learning_rate must be above 0, got 0"),
        ({"learning_rate": lambda step: 0.1}, "learning_rate must be above 0"),
        ({"learning_rate": jnp.ones(2)}, r"learning_rate must be one number, got shape \(2,\)"),
    ],
)
def test_what_an_update_cannot_use_is_refused_in_one_line(given, message):
    tracker = cv.tracker(cv.hessian(loss, start(), DATA), 1, "critical_sharpness")
    with pytest.raises(InputError, match=message):
        tracker.update(tracker.init(start(), KEY), **({"params": start(), "step": 0, "updates": start()} | given))


def test_examples_for_a_known_map_are_refused():
    tracker = cv.tracker(cv.from_matvec(lambda v: 2 * v, jnp.zeros(3)))
    with pytest.raises(InputError, match="takes no examples; leave data out"):
        tracker.update(tracker.init(jnp.zeros(3), KEY), jnp.zeros(3), 0, data=DATA)


def test_operators_that_cannot_follow_are_refused():
    op = cv.hessian(loss, start(), DATA)
    covariance = cv.gradient_covariance(lambda w, b: (predict(w, b) ** 2).sum(axis=1), start(), DATA)
    for other, message in ((cv.linearize(op), "before its linearisation"), (covariance, "track cv.fisher")):
        with pytest.raises(InputError, match=message):
            cv.tracker(other)


def test_logs_hold_what_is_finite(tmp_path, monkeypatch):
    log = cv.logs.jsonl(tmp_path / "curvature.jsonl")
    log.write(20, {"lambda_max": jnp.asarray(2.5), "lambda_max_residual": jnp.asarray(jnp.nan)})
    log.write(40, {})
    log.write(np.arange(3), {"trace": jnp.array([1.0, jnp.nan, 3.0])})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "curvature.jsonl").read_text().splitlines()]
    assert lines == [{"step": 20, "lambda_max": 2.5}, {"step": 0, "trace": 1.0}, {"step": 2, "trace": 3.0}]
    got = []
    run = types.SimpleNamespace(log=lambda numbers, step: got.append((step, numbers)), finish=lambda: None)
    cv.logs.wandb(run).write(jnp.asarray(7), {"trace": np.float32(2)})
    assert got == [(7, {"trace": 2.0})]
    for name, module in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=f"run: pip install {module}"):
            getattr(cv.logs, name)(*([tmp_path] if name == "tensorboard" else []))


def test_tensorboard_shows_what_was_measured(tmp_path):
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="the extra dev has it")
    log = cv.logs.tensorboard(tmp_path / "events")
    log.write(3, {"lambda_max": jnp.asarray(0.5)})
    log.close()
    (path,) = (tmp_path / "events").iterdir()
    content, shown = path.read_bytes(), {}
    while content:
        length = int.from_bytes(content[:8], "little")  # then 4 bytes of checksum, the event, 4 bytes of checksum
        event = event_pb2.Event.FromString(content[12 : 12 + length])
        shown |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
        content = content[16 + length :]
    assert shown == {(3, "lambda_max"): 0.5}


@pytest.mark.slow
def test_the_critical_sharpness_of_gradient_descent_is_that_along_the_gradient():
    curvatures = jnp.array([4.0, 1.0, 0.5])

    def bowl(w, batch):
        return 0.5 * jnp.sum(curvatures * w**2) + 0 * jnp.mean(batch)

    op = cv.hessian(bowl, jnp.ones(3), jnp.ones(4))
    tracker, rate = cv.tracker(op, 1, ("lambda_max", "critical_sharpness")), 0.1
    state, w = tracker.init(jnp.ones(3), KEY), jnp.ones(3)
    for step in range(4):
        g = curvatures * w
        state, metrics = tracker.update(state, w, step, updates=-rate * g, learning_rate=rate)
        right = float((g * curvatures * g).sum() / (g * g).sum())
        assert float(metrics["critical_sharpness"]) == pytest.approx(right, rel=1e-3)
        assert float(metrics["critical_sharpness_lower"]) <= right <= float(metrics["critical_sharpness_upper"])
        w = w - rate * g
    with pytest.raises(InputError, match="belong together"):
        tracker.update(state, w, 4)
