"""The training program: one compilation for a sweep, and the same numbers however its steps are run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessflat import config, schema
from hessflat.training import program as programs
from hessflat.training.program import Hyper, hyper_of, make_program


def settings(**overrides):
    base = {"model.name": "mlp", "model.mlp.hidden": (6,), "train.epochs": 3, "train.batch_size": 4}
    return config.override(schema.base_config("smoke"), base | overrides)


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
    program = make_program(settings(), 3, train["inputs"])
    assert (program.steps_per_epoch, program.num_steps) == (3, 9)
    hyper = hyper_of(settings())
    assert_same_bits(run(program, hyper, train, 9), run(program, hyper, train, 1, 2, 5, 6, 9))


def test_each_epoch_takes_every_example_once_with_a_smaller_last_batch(train):
    """Without momentum and at a tiny rate, an epoch's update is the sum of its batches' mean gradients."""
    seen = []

    def recording(logits, labels, smoothing):
        seen.append(logits.shape[0])
        return programs_cross_entropy(logits, labels, smoothing)

    programs_cross_entropy = programs.cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "cross_entropy", recording)
        program = make_program(settings(), 3, train["inputs"])
        run(program, hyper_of(settings()), train, 3)
    assert set(seen) == {4, 2}


def test_host_loop_agrees_with_the_compiled_one(train, monkeypatch):
    compiled = make_program(settings(), 3, train["inputs"])
    monkeypatch.setattr(programs, "_choose", lambda *args: "host")
    host = make_program(settings(), 3, train["inputs"])
    assert (compiled.loop, host.loop) == ("scan", "host")
    hyper = hyper_of(settings())
    a, b = run(compiled, hyper, train, 9), run(host, hyper, train, 4, 9)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


def test_runs_together_agree_with_runs_in_turn(train):
    configs = [settings(**{"optim.l2": l2, "seed": seed}) for l2 in (0.0, 0.1) for seed in (0, 1)]
    program = make_program(configs[0], 3, train["inputs"])
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

    cross_entropy = programs.cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "cross_entropy", counting)
        program = make_program(settings(**{"train.batch_size": 5}), 3, train["inputs"])
        traces.clear()
        ends = []
        for lr in (0.1, 0.01, 0.001):
            for l2 in (0.0, 1e-3, 1e-1):
                hyper = Hyper(jnp.float32(lr), jnp.float32(l2), jnp.float32(0.1), jnp.uint32(7))
                ends.append(np.asarray(run(program, hyper, train, 2, 6).params["Dense_0"]["kernel"]))
    assert len(traces) == 1
    assert len({end.tobytes() for end in ends}) == 9


def test_seed_draws_weights_and_order(train):
    program = make_program(settings(), 3, train["inputs"])
    a, b = (program.init(hyper_of(settings(seed=seed))) for seed in (0, 1))
    assert not np.array_equal(a.params["Dense_0"]["kernel"], b.params["Dense_0"]["kernel"])
    again = program.init(hyper_of(settings(seed=0)))
    assert_same_bits(a, again)


def test_convolutions_are_driven_from_the_host_on_a_cpu():
    def convolve(x):
        return jax.lax.scan(lambda c, _: (jax.lax.conv(c, jnp.ones((1, 1, 1, 1)), (1, 1), "SAME"), None), x, None, 2)[0]

    from hessflat.fold import choose_loop

    assert choose_loop(convolve, jnp.ones((1, 1, 4, 4))) == "host"
    assert choose_loop(jnp.sin, jnp.ones(3)) == "scan"
