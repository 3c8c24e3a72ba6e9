"""Plans for accelerators that are not there, printed as JSON by a process of their own: `topology_cases.py NAME...`.

A compiler for GPUs has to be there before JAX starts, and nothing else is to look for a GPU.
"""

import json
import re
import sys

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

import hessflat.curvature as cv
from benchmarks import large_models
from benchmarks.in_jax import functions_of
from benchmarks.problems import FULL
from hessflat.curvature.diagnostics.targets import target
from hessflat.curvature.diagnostics.topology_plan import lowered_block
from hessflat.utils.errors import InputError

HIDDEN = 512


def perceptron_loss(params, batch):
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(jnp.tanh(batch["x"] @ params["a"]) @ params["b"]) * batch["y"], axis=1))


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def perceptron(topology, examples=8_000, steps=50, **settings):
    params = {"a": shape(784, HIDDEN), "b": shape(HIDDEN, 10)}
    # Products as they are, so that their operations can be counted by hand.
    op = cv.linearize(
        cv.hessian(perceptron_loss, params, {"x": shape(examples, 784), "y": shape(examples, 10)}), engine="plain"
    )
    return cv.plan(op, steps, topology=topology, **settings)


def wide_resnet(topology):
    problem, examples = FULL["wide"], 1_000
    _, loss = functions_of(problem)
    params = {name: shape(*sides) for name, sides in problem.shapes.items()}
    statistics = {f"{name}_{what}": shape(size) for name, size in problem.norms.items() for what in ("mean", "var")}
    batch = {"x": shape(examples, *problem.input_shape), "y": jax.ShapeDtypeStruct((examples,), jnp.int32)}
    return cv.plan(cv.hessian(loss, params, batch, statistics), 100, topology=topology)


def sharded(width, num_chips, steps):
    model = large_models.spread(large_models.perceptron(width, examples=64 * num_chips), num_chips)
    return cv.plan(cv.hessian(model.loss, model.params, model.batch), steps, topology=f"h100:{num_chips}")


def block_of_steps():
    """The program of a block of 10 of 50 Lanczos steps on one H100, as far as the basis and the host are concerned."""
    place = SingleDeviceSharding(target("h100:1").devices[0])
    shapes = {"a": shape(784, HIDDEN), "b": shape(HIDDEN, 10)}, {"x": shape(8_000, 784), "y": shape(8_000, 10)}
    op = cv.hessian(perceptron_loss, *jax.tree.map(lambda leaf: leaf.update(sharding=place), shapes))
    compiled = lowered_block(op, 50, "cuda").compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    made = re.findall(r"= f32\[([\d,]+)\]\S* ([a-z\-]+)\(", text)
    return {
        "basis_bytes": 50 * op.size * 4,
        "in_place_bytes": memory.alias_size_in_bytes,
        "new_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "copied": [sides for sides, opcode in made if opcode.startswith("copy") and sides.endswith(f",{op.size}")],
        "loops": text.count(" while("),
        "host": [word for word in ("infeed", "outfeed", " send(", " recv(", "callback") if word in text],
    }


CASES = {
    "one": lambda: perceptron("h100:1"),
    "eight": lambda: perceptron("h100:8"),
    "host": lambda: perceptron("h100:8", storage="host"),
    "nodes": lambda: perceptron("h200:64", reorthogonalise="none"),
    "block": block_of_steps,
    "uneven": lambda: perceptron("h100:8", examples=8_001),
    "wide_resnet": lambda: wide_resnet("h100:8"),
    "half_a_billion": lambda: sharded(3_360, 8, 100),
    "six_billion": lambda: sharded(11_648, 64, 50),
    "tpu": lambda: perceptron("v5e:2x4"),
    "full_tpu": lambda: perceptron("v5e:1x1", examples=8_000_000),
}


def found(name):
    try:
        plan = CASES[name]()
    except InputError as error:
        return {"error": str(error)}
    if isinstance(plan, dict):
        return plan
    return plan._asdict() | {"memory_bytes": plan.memory_bytes, "text": str(plan)}


if __name__ == "__main__":
    print(json.dumps({name: found(name) for name in sys.argv[1:]}))
