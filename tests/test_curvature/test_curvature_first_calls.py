"""First calls: how many programs a measurement compiles, that nothing is traced again, and what a first call takes.

Seconds are of processor time beside those of one product, on a small transformer and in a process of its own: cores are
shared, and other tests compile with other settings.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import compiled_by, criterion, examples, mlp_params, predict, traced_by

import hessflat
import hessflat.curvature as cv
from hessflat.utils.errors import InputError

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, time
import flax.linen as nn
import jax, jax.numpy as jnp, numpy as np
import hessflat.curvature as cv

class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        n, t, width = x.shape
        h = nn.LayerNorm()(x)
        q, k, v = (nn.DenseGeneral((4, width // 4), name=name)(h) for name in ("q", "k", "v"))
        scores = jnp.einsum("nthd,nshd->nhts", q, k) / np.sqrt(width // 4)
        scores = jnp.where(jnp.tril(jnp.ones((t, t), bool))[None, None], scores, -1e9)
        mixed = jnp.einsum("nhts,nshd->nthd", jax.nn.softmax(scores), v)
        x = x + nn.DenseGeneral(width, axis=(-2, -1), name="out")(mixed)
        return x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x))))

class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(256, 64)(tokens)
        x = x + self.param("positions", nn.initializers.normal(0.02), (tokens.shape[1], 64))[None]
        for _ in range(4):
            x = Block()(x)
        return nn.Dense(256)(nn.LayerNorm()(x))

model, key = Transformer(), jax.random.key(0)
tokens = np.random.default_rng(0).integers(0, 256, (8, 33)).astype(np.int32)
data = {"x": tokens[:, :-1], "y": tokens[:, 1:]}
params = jax.jit(model.init)(key, data["x"])["params"]

def loss(params, batch):
    scores = jax.nn.log_softmax(model.apply({"params": params}, batch["x"]))
    return -jnp.mean(jnp.take_along_axis(scores, batch["y"][..., None], -1))

def first(call):
    "Seconds of processor time of a call where nothing is compiled, and of the same call again."
    jax.clear_caches()
    op = cv.hessian(loss, params, data)  # looks at the loss
    seconds = []
    for _ in range(2):
        began = time.process_time()
        jax.block_until_ready(call(op))
        seconds.append(time.process_time() - began)
    return seconds

def leaves(result):
    return [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]

vector = jnp.asarray(np.random.default_rng(1).normal(size=cv.hessian(loss, params, data).size), jnp.float32)
print(json.dumps({
    "parameters": vector.size,
    "product": first(lambda op: op(vector)),
    "check": first(lambda op: leaves(cv.check(op, key))),
    "plan": first(lambda op: leaves(cv.plan(op))),
    "random_direction": first(lambda op: leaves(cv.random_direction(key, params))),
}))
"""


@pytest.fixture(scope="module")
def seconds():
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, "-c", SCRIPT]
    environment = clean | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.long
@pytest.mark.exact
@pytest.mark.parametrize("name", ["check", "plan", "random_direction"])
def test_a_first_call_compiles_at_most_three_times_what_a_product_does(seconds, name):
    assert 200_000 < seconds["parameters"] < 300_000
    compiling = {name: first - again for name, (first, again) in list(seconds.items())[1:]}
    print(f"{name}: {compiling[name] / compiling['product']:.2f} times the compilation of a product")
    assert compiling[name] <= 3 * compiling["product"]


KEY = jax.random.key(0)
MEASUREMENTS = {
    "spectrum": lambda op: cv.spectrum(op, KEY, num_steps=24),
    "sharpness": lambda op: cv.sharpness(op, KEY),
    "moments": lambda op: cv.moments(op, KEY),
    "trace": lambda op: cv.trace(op, KEY),
}


def perceptron():
    """A loss that no other test has, its parameters, and its data in batches of which the last is short."""

    def loss(params, batch):
        return criterion(predict(params, batch), batch)

    return loss, mlp_params(7, 6, 3), cv.Batches(examples(26, 7, 3), batch_size=10)


def transformer():
    """One layer of attention over tokens, some of which are masked."""
    rng = np.random.default_rng(0)
    shapes = {"embed": (11, 8), "query": (8, 8), "key": (8, 8), "value": (8, 8), "up": (8, 16), "down": (16, 11)}
    params = {name: jax.device_put(np.float32(0.3 * rng.normal(size=shape))) for name, shape in shapes.items()}
    tokens = rng.integers(11, size=(6, 9))
    data = {"x": tokens[:, :-1], "y": tokens[:, 1:], "mask": np.float32(rng.random((6, 8)) < 0.8)}

    def loss(params, batch):
        x = params["embed"][batch["x"]]
        query, key, value = (x @ params[name] for name in ("query", "key", "value"))
        scores = jnp.where(jnp.tril(jnp.ones((8, 8), bool))[None], jnp.einsum("ntd,nsd->nts", query, key), -1e9)
        x = x + jnp.einsum("nts,nsd->ntd", jax.nn.softmax(scores), value)
        scores = jax.nn.log_softmax(jax.nn.gelu(x @ params["up"]) @ params["down"])
        each = -jnp.take_along_axis(scores, batch["y"][..., None], -1)[..., 0]
        return jnp.sum(batch["mask"] * each) / jnp.sum(batch["mask"])

    return loss, params, cv.Batches(data, weights="mask")


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("problem", [perceptron, transformer])
def test_a_measurement_compiles_few_programs_and_other_parameters_none(name, problem):
    loss, params, data = problem()
    jax.clear_caches()
    op = cv.hessian(loss, params, data)
    _, programs = compiled_by(lambda: MEASUREMENTS[name](op))
    assert 1 <= len(programs) <= 5, programs
    moved = jax.tree.map(lambda x: jax.device_put(np.asarray(x) + np.float32(0.1)), params)
    again, traced = traced_by(lambda: MEASUREMENTS[name](cv.hessian(loss, moved, data)))
    assert traced == []
    same, programs = compiled_by(lambda: MEASUREMENTS[name](cv.hessian(loss, moved, data)))
    assert programs == []
    assert number_of(again) == number_of(same) != number_of(MEASUREMENTS[name](op))


def number_of(result):
    return (result.largest if hasattr(result, "largest") else getattr(result, "trace", result)).value


CACHED = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
import hessflat
import hessflat.curvature as cv

events = []
jax.monitoring.register_event_listener(lambda name, **more: events.append(name.rpartition("/")[2]))
jax.jit(lambda x: x + 1)(1.0)  # JAX has looked for a cache by now
if sys.argv[1] != "none":
    hessflat.compile_cache(sys.argv[1])
op = cv.hessian(lambda w, batch: jnp.mean(jnp.cos(batch @ w)), jnp.ones(40), jnp.ones((30, 40)))
value = cv.sharpness(op, jax.random.key(0)).value
print(json.dumps([value, *(events.count(f"cache_{what}") for what in ("hits", "misses"))]))
"""


@pytest.mark.slow
def test_a_folder_of_compiled_programs_serves_the_next_process(tmp_path):
    folder = tmp_path / "new" / "programs"

    def run(argument):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
        command, environment = [sys.executable, "-c", CACHED, argument], clean | {"PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, capture_output=True, text=True, env=environment | {"JAX_PLATFORMS": "cpu"})
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    plain, first, second = run("none"), run(str(folder)), run(str(folder))
    assert plain[1:] == [0, 0]
    assert first[1] == 0
    assert first[2] >= 3
    assert second[1:] == [first[2], 0]
    assert plain[0] == first[0] == second[0]
    assert len(list(folder.iterdir())) >= first[2]


def test_what_is_no_folder_for_compiled_programs_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (3, "", "a\0b", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="folder"):
            hessflat.compile_cache(folder)
