"""What the first call of a measurement takes on a small transformer, beside that of one product.

In processor time, and in a process of its own: cores are shared, and other tests compile with other settings.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
@pytest.mark.parametrize("name", ["check", "plan", "random_direction"])
def test_a_first_call_compiles_at_most_twice_what_a_product_does(seconds, name):
    assert 200_000 < seconds["parameters"] < 300_000
    compiling = {name: first - again for name, (first, again) in list(seconds.items())[1:]}
    print(f"{name}: {compiling[name] / compiling['product']:.2f} times the compilation of a product")
    assert compiling[name] <= 2 * compiling["product"]
