"""The trainer: one compilation for a sweep, and the same numbers however its steps are run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat import config
from hessflat.runs import schema
from hessflat.training.optimisation import LOSSES
from hessflat.training.step import train_step
from hessflat.training.trainer import (
    init_state,
    make_hyperparams,
    make_setup,
    make_trainer,
    step_of_epoch,
    train_runs,
)
from hessflat.utils import hardware
from hessflat.utils.errors import InputError


def settings(**overrides):
    base = {"model.name": "mlp", "model.mlp.hidden": (6,), "train.epochs": 3, "train.batch_size": 4}
    return schema.freeze(config.override(schema.base_config("smoke"), base | overrides))


@pytest.fixture(scope="module")
def train():
    rng = np.random.default_rng(0)
    return {
        "inputs": jax.device_put(rng.normal(size=(10, 5)).astype(np.float32)),
        "labels": jax.device_put(rng.integers(0, 3, 10).astype(np.int32)),
    }


def run(trainer, hyperparams, train, *stops):
    state = trainer.init(hyperparams)
    for start, stop in zip((0, *stops), stops, strict=False):
        state = trainer.train_steps(state, hyperparams, train, start, stop)
    return state


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.exact
def test_blocks_of_steps_do_not_change_the_bits(train):
    trainer = make_trainer(settings(), 3, train)
    assert (trainer.steps_per_epoch, trainer.num_steps) == (3, 9)
    hyperparams = make_hyperparams(settings())
    assert_same_bits(run(trainer, hyperparams, train, 9), run(trainer, hyperparams, train, 1, 2, 5, 6, 9))


def test_each_epoch_takes_every_example_once_with_a_smaller_last_batch(train):
    """Without momentum and at a tiny rate, an epoch's update is the sum of its batches' mean gradients."""
    seen = []

    def recording(logits, targets):
        seen.append(logits.shape[0])
        return cross_entropy(logits, targets)

    cross_entropy = LOSSES["cross_entropy"].function
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", LOSSES["cross_entropy"]._replace(function=recording))
        trainer = make_trainer(settings(), 3, train)
        run(trainer, make_hyperparams(settings()), train, 3)
    assert set(seen) == {4, 2}


def test_the_loop_in_python_agrees_with_the_compiled_one(train):
    compiled = make_trainer(settings(), 3, train)
    python = make_trainer(settings(), 3, train, loop="python")
    assert (compiled.loop, python.loop) == ("scan", "python")
    hyperparams = make_hyperparams(settings())
    a, b = run(compiled, hyperparams, train, 9), run(python, hyperparams, train, 4, 9)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_runs_together_agree_with_runs_in_turn(train):
    configs = [settings(**{"optim.l2": l2, "seed": seed}) for l2 in (0.0, 0.1) for seed in (0, 1)]
    trainer = make_trainer(configs[0], 3, train)
    all_hyperparams = [make_hyperparams(c) for c in configs]
    together = train_runs(trainer, [trainer.init(h) for h in all_hyperparams], all_hyperparams, train, 0, 9)
    for hyperparams, state in zip(all_hyperparams, together, strict=True):
        in_turn = run(trainer, hyperparams, train, 9)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), state, in_turn)


def test_nine_runs_of_a_sweep_cost_one_compilation(train):
    traces = []

    def counting(*args):
        traces.append(args)
        return cross_entropy(*args)

    cross_entropy = LOSSES["cross_entropy"].function
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "cross_entropy", LOSSES["cross_entropy"]._replace(function=counting))
        trainer = make_trainer(settings(**{"train.batch_size": 5}), 3, train)
        ends = []
        for lr in (0.1, 0.01, 0.001):
            for l2 in (0.0, 1e-3, 1e-1):
                hyperparams = make_hyperparams(
                    settings(**{"optim.lr": lr, "optim.l2": l2, "train.label_smoothing": 0.1, "seed": 7})
                )
                ends.append(np.asarray(run(trainer, hyperparams, train, 2, 6).params["Dense_0"]["kernel"]))
    assert len(traces) == 1
    assert len({end.tobytes() for end in ends}) == 9


def test_seed_draws_weights_and_order(train):
    trainer = make_trainer(settings(), 3, train)
    a, b = (trainer.init(make_hyperparams(settings(seed=seed))) for seed in (0, 1))
    assert not np.array_equal(a.params["Dense_0"]["kernel"], b.params["Dense_0"]["kernel"])
    again = trainer.init(make_hyperparams(settings(seed=0)))
    assert_same_bits(a, again)


def test_convolutions_are_driven_from_the_host_on_a_cpu():
    def convolve(x):
        return jax.lax.scan(lambda c, _: (jax.lax.conv(c, jnp.ones((1, 1, 1, 1)), (1, 1), "SAME"), None), x, None, 2)[0]

    from hessflat.utils.convolution import choose_loop

    assert choose_loop(convolve, jnp.ones((1, 1, 4, 4))) == "python"
    assert choose_loop(jnp.sin, jnp.ones(3)) == "scan"


def images(number=24, size=8, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "inputs": jax.device_put(rng.normal(size=(number, size, size, channels)).astype(np.float32)),
        "labels": jax.device_put(rng.integers(0, 3, number).astype(np.int32)),
    }


EVERYTHING = {"train.mixup": 0.5, "train.augment": 0.7, "optim.sam_radius": 0.1, "train.average_from": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.mixup", "train.augment", "optim.sam_radius"])
def test_switched_off_by_a_number_is_left_out(name):
    """A program that has the code, given 0 for it, takes the steps of the program that does not, but for rounding."""
    train, off, on = images(), settings(), settings(**{name: 0.5})
    with_code, without = (make_trainer(chosen, 3, train) for chosen in (on, off))
    states = [run(trainer, make_hyperparams(off), train, 9) for trainer in (with_code, without)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), *states)
    changed, plain = (run(trainer, make_hyperparams(on), train, 9) for trainer in (with_code, without))
    assert not np.array_equal(changed.params["Dense_0"]["kernel"], plain.params["Dense_0"]["kernel"])


@pytest.mark.exact
@pytest.mark.slow
def test_what_is_drawn_does_not_depend_on_where_a_run_was_interrupted():
    train, chosen = images(), settings(**EVERYTHING)
    trainer, hyperparams = make_trainer(chosen, 3, train), make_hyperparams(chosen)
    assert_same_bits(run(trainer, hyperparams, train, 18), run(trainer, hyperparams, train, 1, 5, 13, 18))


NORMALISED = {
    "model.name": "preresnet",
    "model.preresnet.width": 2,
    "model.preresnet.depth": 11,
    "model.mlp.hidden": (100,),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "extra"),
    [(2, EVERYTHING), (8, EVERYTHING), (2, NORMALISED), (8, {"train.batch_size": 12})],
    ids=["everything on 2", "everything on 8", "batch norm on 2", "12 examples on 8"],
)
def test_a_run_is_the_same_on_several_devices(devices, extra):
    """Draws to the bit, sums to rounding; batch norm takes its statistics over the whole batch."""
    train, ends = images(32), []
    for number in (1, devices):
        chosen = settings(**{"train.batch_size": 16} | extra, devices=number)
        ends.append(run(make_trainer(chosen, 3, train), make_hyperparams(chosen), train, 6))
    assert len(jax.tree.leaves(ends[1].params)[0].sharding.device_set) == devices
    for a, b in zip(*(jax.tree.leaves(end) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_is_the_same_where_each_device_holds_its_own_examples():
    """36 examples, which 8 devices do not divide, in batches that mix them."""
    chosen = settings(**{"train.batch_size": 8}, devices=8)
    train, hyperparams, ends = images(36), make_hyperparams(chosen), []
    for held in (train, hardware.hold_examples(jax.tree.map(np.asarray, train), hardware.make_mesh(8))):
        ends.append(run(make_trainer(chosen, 3, held), hyperparams, held, 9))
    for a, b in zip(*(jax.tree.leaves(end) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.exact
def test_a_batch_that_does_not_divide_is_shared_out():
    """36 examples on 8 devices take at most 1.3 times the operations of 32 on each."""
    flops, wide = [], {"model.mlp.hidden": (100,)}
    for size in (32, 36):
        train = images(size)
        setup = make_setup(
            settings(**{"train.batch_size": size} | wide, devices=8), 3, train["inputs"].shape, train_step
        )
        hyperparams = make_hyperparams(settings(**wide))
        arguments = hardware.replicate((init_state(setup, hyperparams), hyperparams, train), setup.mesh)
        step = jax.jit(partial(step_of_epoch, setup, size))
        flops.append(step.lower(*arguments, jnp.arange(size), 0).compile().cost_analysis()["flops"])
    assert flops[1] <= 1.3 * flops[0]


def test_too_many_devices_are_refused():
    with pytest.raises(InputError, match=r"config.devices must be at most 8, the devices there are, got 9"):
        make_trainer(settings(devices=9), 3, images())


def test_ghost_batches_have_the_mean_gradient_of_the_batch():
    train = images()
    whole, ghost = settings(**{"train.batch_size": 0}), settings(**{"train.batch_size": 0, "train.ghost_batch_size": 6})
    ends = [run(make_trainer(one, 3, train), make_hyperparams(one), train, 3) for one in (whole, ghost)]
    assert make_trainer(whole, 3, train).steps_per_epoch == 1
    for a, b in zip(*(jax.tree.leaves(end.params) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="ghost_batch_size must divide every batch of the run, which have 24 examples"):
        make_trainer(settings(**{"train.batch_size": 0, "train.ghost_batch_size": 7}), 3, train)


def test_the_average_is_the_mean_of_the_iterates(train):
    chosen = settings(**{"train.average_from": 1, "schedule.name": "iterate_averaging"})
    trainer, hyperparams = make_trainer(chosen, 3, train), make_hyperparams(chosen)
    state, iterates = trainer.init(hyperparams), []
    for step in range(9):
        state = trainer.train_steps(state, hyperparams, train, step, step + 1)
        if step >= 3:
            iterates.append(np.asarray(state.params["Dense_0"]["kernel"], np.float64))
    params, _ = trainer.eval_params(state, train)
    np.testing.assert_allclose(params["Dense_0"]["kernel"], np.mean(iterates, axis=0), rtol=1e-5, atol=1e-7)
    before = trainer.train_steps(trainer.init(hyperparams), hyperparams, train, 0, 3)
    assert_same_bits(trainer.eval_params(before, train)[0], before.params)
    with pytest.raises(InputError, match="average_from must be below 3"):
        make_trainer(settings(**{"train.average_from": 3}), 3, train)


@pytest.mark.slow
def test_statistics_of_averaged_weights_are_those_of_the_training_split():
    """Mean and variance of what enters the first normalisation, over whole batches, computed from the convolution."""
    train = images(24)
    network = {"model.name": "resnet", "model.resnet.depth": 10, "model.resnet.width": 4}
    network |= {"model.mlp.hidden": (100,), "train.batch_size": 12}
    chosen = settings(**network, **{"train.average_from": 1})
    trainer = make_trainer(chosen, 3, train)
    state = run(trainer, make_hyperparams(chosen), train, 6)
    params, batch_stats = trainer.eval_params(state, train)
    kernel = next(leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params) if leaf.shape == (3, 3, 1, 4))
    entering = jax.lax.conv_general_dilated(
        train["inputs"], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    batches = np.asarray(entering, np.float64).reshape(2, -1, 4)
    wanted = {"mean": batches.mean(1).mean(0), "var": batches.var(1).mean(0)}
    found = [(path[-1].key, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(batch_stats) if leaf.size == 4]
    for kind, value in wanted.items():
        assert any(np.allclose(leaf, value, rtol=1e-3, atol=1e-5) for name, leaf in found if name == kind)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "tensorfloat32", "float32"])
def test_every_precision_trains(train, precision):
    chosen = settings(**{"train.precision": precision})
    end = run(make_trainer(chosen, 3, train), make_hyperparams(chosen), train, 9)
    reference = run(make_trainer(settings(), 3, train), make_hyperparams(settings()), train, 9)
    for a, b in zip(jax.tree.leaves(end.params), jax.tree.leaves(reference.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=0.02 if precision == "bfloat16" else 1e-6)


def test_augmentation_of_what_is_no_image_is_refused(train):
    with pytest.raises(InputError, match=r"config.train.augment is for images"):
        make_trainer(settings(**{"train.augment": 0.5}), 3, train)


def test_a_step_of_ones_own_takes_the_place_of_train_step(train):
    """Signs of gradients: after each step every weight has moved by the learning rate, or not at all."""

    def sign_step(state, batch, hyperparams, *, gradient, optimiser, average_from):
        grads, batch_stats = gradient(state.params, state.batch_stats, batch)
        params = jax.tree.map(lambda w, g: w - hyperparams.learning_rate * jnp.sign(g), state.params, grads)
        return state.replace(step=state.step + 1, params=params, batch_stats=batch_stats)

    chosen = settings(**{"optim.lr": 0.25})
    for loop in ("scan", "python"):
        trainer = make_trainer(chosen, 3, train, step=sign_step, loop=loop)
        hyperparams = make_hyperparams(chosen)
        start = trainer.init(hyperparams)
        end = trainer.train_steps(start, hyperparams, train, 0, 3)
        assert int(end.step) == 3
        moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.asarray((a - b) / 0.25), end.params, start.params))
        assert any(np.any(np.abs(leaf) > 0.5) for leaf in moved)
        for leaf in moved:
            np.testing.assert_allclose(leaf, np.round(leaf), atol=1e-5)
            assert np.abs(leaf).max() < 3.01
