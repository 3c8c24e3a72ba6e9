"""The training program: one compilation for a sweep, and the same numbers however its steps are run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat import config
from hessflat.runs import schema
from hessflat.training import program as programs
from hessflat.training.losses import LOSSES
from hessflat.training.program import hyper_of, make_program
from hessflat.utils.errors import InputError


def settings(**overrides):
    base = {"model.name": "mlp", "model.mlp.hidden": (6,), "train.epochs": 3, "train.batch_size": 4}
    return schema.freeze(config.override(schema.base_config("smoke"), base | overrides))


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.array(rng.normal(size=(10, 5)).astype(np.float32)),
        "labels": jnp.array(rng.integers(0, 3, 10).astype(np.int32)),
    }


def run(program, hyper, train, *stops):
    state = program.init(hyper)
    for start, stop in zip((0, *stops), stops, strict=False):
        state = program.advance(state, hyper, train, start, stop)
    return state


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_blocks_of_steps_do_not_change_the_bits(train):
    program = make_program(settings(), 3, train)
    assert (program.steps_per_epoch, program.num_steps) == (3, 9)
    hyper = hyper_of(settings())
    assert_same_bits(run(program, hyper, train, 9), run(program, hyper, train, 1, 2, 5, 6, 9))


def test_each_epoch_takes_every_example_once_with_a_smaller_last_batch(train):
    """Without momentum and at a tiny rate, an epoch's update is the sum of its batches' mean gradients."""
    seen = []

    def recording(logits, targets):
        seen.append(logits.shape[0])
        return cross_entropy(logits, targets)

    cross_entropy = LOSSES["cross_entropy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", recording)
        program = make_program(settings(), 3, train)
        run(program, hyper_of(settings()), train, 3)
    assert set(seen) == {4, 2}


def test_host_loop_agrees_with_the_compiled_one(train, monkeypatch):
    compiled = make_program(settings(), 3, train)
    monkeypatch.setattr(programs, "_choose", lambda *args: "python")
    host = make_program(settings(), 3, train)
    assert (compiled.loop, host.loop) == ("scan", "python")
    hyper = hyper_of(settings())
    a, b = run(compiled, hyper, train, 9), run(host, hyper, train, 4, 9)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_runs_together_agree_with_runs_in_turn(train):
    configs = [settings(**{"optim.l2": l2, "seed": seed}) for l2 in (0.0, 0.1) for seed in (0, 1)]
    program = make_program(configs[0], 3, train)
    hypers = [hyper_of(c) for c in configs]
    together = program.advance_all([program.init(h) for h in hypers], hypers, train, 0, 9)
    for hyper, state in zip(hypers, together, strict=True):
        in_turn = run(program, hyper, train, 9)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), state, in_turn)


def test_nine_runs_of_a_sweep_cost_one_compilation(train):
    traces = []

    def counting(*args):
        traces.append(args)
        return cross_entropy(*args)

    cross_entropy = LOSSES["cross_entropy"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", counting)
        program = make_program(settings(**{"train.batch_size": 5}), 3, train)
        traces.clear()
        ends = []
        for lr in (0.1, 0.01, 0.001):
            for l2 in (0.0, 1e-3, 1e-1):
                hyper = hyper_of(settings(**{"optim.lr": lr, "optim.l2": l2, "train.label_smoothing": 0.1, "seed": 7}))
                ends.append(np.asarray(run(program, hyper, train, 2, 6).params["Dense_0"]["kernel"]))
    assert len(traces) == 1
    assert len({end.tobytes() for end in ends}) == 9


def test_seed_draws_weights_and_order(train):
    program = make_program(settings(), 3, train)
    a, b = (program.init(hyper_of(settings(seed=seed))) for seed in (0, 1))
    assert not np.array_equal(a.params["Dense_0"]["kernel"], b.params["Dense_0"]["kernel"])
    again = program.init(hyper_of(settings(seed=0)))
    assert_same_bits(a, again)


def test_convolutions_are_driven_from_the_host_on_a_cpu():
    def convolve(x):
        return jax.lax.scan(lambda c, _: (jax.lax.conv(c, jnp.ones((1, 1, 1, 1)), (1, 1), "SAME"), None), x, None, 2)[0]

    from hessflat.utils.loops import choose_loop

    assert choose_loop(convolve, jnp.ones((1, 1, 4, 4))) == "python"
    assert choose_loop(jnp.sin, jnp.ones(3)) == "scan"


def images(number=24, size=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "inputs": jnp.array(rng.normal(size=(number, size, size, channels)).astype(np.float32)),
        "labels": jnp.array(rng.integers(0, 3, number).astype(np.int32)),
    }


EVERYTHING = {"train.mixup": 0.5, "train.augment": 0.7, "optim.sam_radius": 0.1, "train.average_from": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.mixup", "train.augment", "optim.sam_radius"])
def test_switched_off_by_a_number_is_left_out_to_the_bit(name):
    """A program that has the code, given 0 for it, takes the steps of the program that does not."""
    train, off, on = images(), settings(), settings(**{name: 0.5})
    with_code, without = (make_program(chosen, 3, train) for chosen in (on, off))
    assert_same_bits(run(with_code, hyper_of(off), train, 9), run(without, hyper_of(off), train, 9))
    changed, plain = (run(program, hyper_of(on), train, 9) for program in (with_code, without))
    assert not np.array_equal(changed.params["Dense_0"]["kernel"], plain.params["Dense_0"]["kernel"])


@pytest.mark.slow
def test_what_is_drawn_does_not_depend_on_where_a_run_was_interrupted():
    train, chosen = images(), settings(**EVERYTHING)
    program, hyper = make_program(chosen, 3, train), hyper_of(chosen)
    assert_same_bits(run(program, hyper, train, 18), run(program, hyper, train, 1, 5, 13, 18))


NORMALISED = {
    "model.name": "preresnet",
    "model.preresnet.width": 2,
    "model.preresnet.depth": 11,
    "model.mlp.hidden": (100,),
}


@pytest.mark.parametrize(
    ("devices", "extra"),
    [
        (2, EVERYTHING),
        pytest.param(8, EVERYTHING, marks=pytest.mark.slow),
        pytest.param(2, NORMALISED, marks=pytest.mark.slow),
    ],
    ids=["everything on 2", "everything on 8", "batch norm on 2"],
)
def test_a_run_is_the_same_on_several_devices(devices, extra):
    """Draws to the bit, sums to rounding; batch norm takes its statistics over the whole batch."""
    train, ends = images(32), []
    for number in (1, devices):
        chosen = settings(**extra, **{"train.batch_size": 16}, devices=number)
        ends.append(run(make_program(chosen, 3, train), hyper_of(chosen), train, 6))
    assert len(jax.tree.leaves(ends[1].params)[0].sharding.device_set) == devices
    for a, b in zip(*(jax.tree.leaves(end) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_too_many_devices_are_refused():
    with pytest.raises(InputError, match=r"config.devices must be at most 8, the devices there are, got 9"):
        make_program(settings(devices=9), 3, images())


def test_ghost_batches_have_the_mean_gradient_of_the_batch():
    train = images()
    whole, ghost = settings(**{"train.batch_size": 0}), settings(**{"train.batch_size": 0, "train.ghost_batch_size": 6})
    ends = [run(make_program(one, 3, train), hyper_of(one), train, 3) for one in (whole, ghost)]
    assert make_program(whole, 3, train).steps_per_epoch == 1
    for a, b in zip(*(jax.tree.leaves(end.params) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="ghost_batch_size must divide every batch of the run, which have 24 examples"):
        make_program(settings(**{"train.batch_size": 0, "train.ghost_batch_size": 7}), 3, train)


def test_the_average_is_the_mean_of_the_iterates(train):
    chosen = settings(**{"train.average_from": 1, "schedule.name": "iterate_averaging"})
    program, hyper = make_program(chosen, 3, train), hyper_of(chosen)
    state, iterates = program.init(hyper), []
    for step in range(9):
        state = program.advance(state, hyper, train, step, step + 1)
        if step >= 3:
            iterates.append(np.asarray(state.params["Dense_0"]["kernel"], np.float64))
    params, _ = program.evaluated(state, train)
    np.testing.assert_allclose(params["Dense_0"]["kernel"], np.mean(iterates, axis=0), rtol=1e-5, atol=1e-7)
    before = program.advance(program.init(hyper), hyper, train, 0, 3)
    assert_same_bits(program.evaluated(before, train)[0], before.params)
    with pytest.raises(InputError, match="average_from must be below 3"):
        make_program(settings(**{"train.average_from": 3}), 3, train)


@pytest.mark.slow
def test_statistics_of_averaged_weights_are_those_of_the_training_split():
    """Mean and variance of what enters the first normalisation, over whole batches, computed from the convolution."""
    train = images(24)
    network = {"model.name": "resnet", "model.resnet.depth": 10, "model.resnet.width": 4}
    network |= {"model.mlp.hidden": (100,), "train.batch_size": 12}
    chosen = settings(**network, **{"train.average_from": 1})
    program = make_program(chosen, 3, train)
    state = run(program, hyper_of(chosen), train, 6)
    params, statistics = program.evaluated(state, train)
    kernel = next(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if leaf.shape == (3, 3, 1, 4))
    entering = jax.lax.conv_general_dilated(
        train["inputs"], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batches = np.asarray(entering, np.float64).reshape(2, -1, 4)
    wanted = {"mean": batches.mean(1).mean(0), "var": batches.var(1).mean(0)}
    found = [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(statistics) if leaf.size == 4]
    for kind, value in wanted.items():
        assert any(np.allclose(leaf, value, rtol=1e-3, atol=1e-5) for name, leaf in found if name == kind)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "tensorfloat32", "float32"])
def test_every_precision_trains(train, precision):
    chosen = settings(**{"train.precision": precision})
    end = run(make_program(chosen, 3, train), hyper_of(chosen), train, 9)
    reference = run(make_program(settings(), 3, train), hyper_of(settings()), train, 9)
    for a, b in zip(jax.tree.leaves(end.params), jax.tree.leaves(reference.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.02 if precision == "bfloat16" else 1e-6)


def test_augmentation_of_what_is_no_image_is_refused(train):
    with pytest.raises(InputError, match=r"config.train.augment is for images"):
        make_program(settings(**{"train.augment": 0.5}), 3, train)
