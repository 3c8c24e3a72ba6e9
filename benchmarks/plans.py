"""Plans of four networks on up to 256 chips, compiled for them here: docs/plans.md.

    python -m benchmarks.plans [--chip=h100|h200|v5e|v6e] [--only=W1,ResNet-18] [--chips=1,8,64,256] [--out=FILE]

Networks are of shapes alone. Results are stored beside those of other chips, and the page is made of all of them.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from benchmarks import large_models, tables
from benchmarks.command import run_as_command
from benchmarks.in_jax import functions_of
from benchmarks.problems import FULL
from benchmarks.results import RESULTS, read_all
from hessflat.cli import app
from hessflat.curvature.diagnostics.targets import CHIPS, parse
from hessflat.utils import hardware
from hessflat.utils.errors import InputError, require_known
from hessflat.utils.files import write_atomically

FOLDER, DOCUMENT = RESULTS / "plans", Path(__file__).parents[1] / "docs" / "plans.md"
STEPS = 100
# The grids of TPUs.
_GRIDS = {1: "1x1", 8: "2x4", 64: "8x8", 256: "16x16"}


class Case(NamedTuple):
    """A network, and how it lies on a number of chips."""

    about: str
    operator: Callable[[int], cv.Operator]


def _network(problem_name: str, examples: int, each: int | None) -> Callable[[int], cv.Operator]:
    """The Hessian of one of the benchmark's networks, `each` examples a chip in a pass; parameters on every chip."""
    problem = FULL[problem_name]
    _, loss = functions_of(problem)
    shape = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32)  # noqa: E731
    params = {name: shape(*sides) for name, sides in problem.shapes.items()}
    statistics = {f"{name}_{what}": shape(size) for name, size in problem.norms.items() for what in ("mean", "var")}
    batch = {"x": shape(examples, *problem.input_shape), "y": jax.ShapeDtypeStruct((examples,), jnp.int32)}
    size = lambda chips: None if each is None else each * chips  # noqa: E731
    return lambda chips: cv.hessian(loss, params, cv.Batches(batch, size(chips)), statistics or None)


def _transformer(chips: int) -> cv.Operator:
    """One sequence a chip in a pass; parameters spread over all chips."""
    model = large_models.transformer(examples=256, num_chips=chips)
    return cv.hessian(model.loss, model.params, cv.Batches(model.batch, chips))


CASES: Mapping[str, Case] = {
    "W1": Case("MLP 784-100-10, 10,240 examples at once", _network("dense", 10_240, None)),
    "ResNet-18": Case("49,152 images of 32 × 32, 192 on each chip in a pass", _network("residual", 49_152, 192)),
    "WideResNet-28x10": Case("49,152 images of 32 × 32, 192 on each chip in a pass", _network("wide", 49_152, 192)),
    "transformer": Case("256 sequences of 1,024 tokens, one on each chip in a pass, parameters spread", _transformer),
}


def main(argv: Sequence[str]) -> None:
    given, _ = app.parse_flags(
        argv, {"chip": "h100", "only": ",".join(CASES), "chips": ",".join(map(str, _GRIDS)), "out": ""}
    )
    names, counts = given["only"].split(","), given["chips"].split(",")
    require_known("network", names, list(CASES))
    require_known("chip", [given["chip"]], list(CHIPS))
    jax.config.update("jax_platforms", "cpu")
    path = Path(given["out"]) if given["out"] else FOLDER / f"{given['chip']}.json"
    stored = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = {(row["network"], row["num_chips"]): row for row in stored["rows"]}
    for name in names:
        for count in map(int, counts):
            rows[name, count] = found = measure(name, count, given["chip"])
            print(f"{name} on {count}: {found.get('error') or found['step_seconds']}", file=sys.stderr, flush=True)
    order = sorted(rows, key=lambda key: (list(CASES).index(key[0]), key[1]))
    found = {"chip": given["chip"], "jax": jax.__version__, "rows": [rows[key] for key in order]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_json(found))
    print(tables.lined_up(table(found)))
    if path.parent == FOLDER:
        write_atomically(DOCUMENT, render(read_all(FOLDER)))


def as_json(found: Mapping[str, Any]) -> str:
    """What is stored, a plan a line."""
    start = json.dumps({**found, "rows": []}).removesuffix("]}")
    return start + "\n" + ",\n".join(map(json.dumps, found["rows"])) + "\n]}\n"


def measure(name: str, count: int, chip: str) -> dict[str, Any]:
    """The plan of one network, or why there is none."""
    topology = f"{chip}:{count if CHIPS[chip].platform == 'cuda' else _GRIDS.get(count, count)}"
    parse(topology)
    began = time.perf_counter()
    row: dict[str, Any] = {"network": name, "num_chips": count, "topology": topology}
    try:
        plan: Any = cv.plan(CASES[name].operator(count), STEPS, topology=topology)
    except InputError as error:
        return row | {"error": str(error)}
    values = plan._asdict() | {
        "text": str(plan),
        "memory_bytes": plan.memory_bytes,
        "collective_bytes": plan.collective_bytes,
    }
    return row | values | {"seconds_here": time.perf_counter() - began}


def table(found: dict[str, Any]) -> tables.Table:
    """A row for each network and number of chips."""
    heading = ["", "chips", "memory of a chip", "of it basis", "exchanges a step", "operations", "memory", "network"]
    cells = [[*heading, "latency", "a step", f"{STEPS} steps", "fits"]]
    for row in found["rows"]:
        start = [row["network"], str(row["num_chips"])]
        if "error" in row:
            # The compiler for TPUs makes no program that a chip cannot hold, and says what it would take.
            needed = re.search(r"\((\d+)\.\d+G\) exceeds", row["error"])
            shown = [f"over {needed[1]} GiB", *[""] * 8, "no"] if needed else [row["error"], *[""] * 9]
            cells.append([*start, *shown])
            continue
        seconds = [row[f"{name}_seconds"] for name in ("compute", "memory", "network", "latency", "step")]
        cells.append(
            [
                *start,
                hardware.text(row["memory_bytes"]),
                hardware.text(row["basis_bytes"]),
                hardware.text(row["collective_bytes"]),
                *map(_time, seconds),
                _time(row["seconds"]),
                "yes" if row["fits"] else "no",
            ]
        )
    return cells


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def chips() -> tables.Table:
    """What the model assumes of each chip."""
    cells = [["", "memory", "its bandwidth", "operations a second, by precision", "to neighbours", "to other nodes"]]
    cells[0] += ["a kernel", "an exchange"]
    for chip in CHIPS.values():
        rates = ", ".join(f"{name} {rate / 1e12:.3g} T" for name, rate in chip.flops.items())
        outer = f"{chip.outer_rate / 1e9:.3g} GB/s" if chip.node else ""
        row = dataclasses.asdict(chip)
        latencies = [f"{1e6 * row[name]:.2g} µs" for name in ("kernel_seconds", "collective_seconds")]
        speeds = [f"{chip.memory_rate / 1e12:.3g} TB/s", rates, f"{chip.network_rate / 1e9:.3g} GB/s", outer]
        cells.append([chip.title, hardware.text(chip.memory_bytes), *speeds, *latencies])
    return cells


def render(stored: list[dict[str, Any]]) -> str:
    """The whole page."""
    parts = []
    for found in stored:
        title = CHIPS[found["chip"]].title
        parts.append(f"\n## {title}\n\nJAX {found['jax']}.\n\n{tables.as_markdown(table(found))}\n")
    networks = "\n".join(f"- {name}: {case.about}." for name, case in CASES.items())
    rows = [row for found in stored for row in found["rows"]]
    examples = [row["text"] for row in rows if (row["network"], row["topology"]) == ("W1", "h100:8")]
    fields = {"steps": STEPS, "networks": networks, "chips": tables.as_markdown(chips())}
    return _PAGE.format(example=(examples or ["no plan is stored yet"])[0], **fields) + "".join(parts)


_PAGE = """\
# Plans without the machine

`cv.plan(op, …, topology="h100:8")` compiles the library's own block of Lanczos steps for accelerators that need not be
there, and says what a chip holds, what chips exchange, and how long a step takes by a model:

```python
import jax
import jax.numpy as jnp

import hessflat.curvature as cv


def loss(params, batch):
    logits = jnp.tanh(batch["x"] @ params["first"]) @ params["last"]
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * batch["y"], axis=1))


shape = jax.ShapeDtypeStruct
params = {{"first": shape((784, 100), jnp.float32), "last": shape((100, 10), jnp.float32)}}
data = {{"x": shape((10_240, 784), jnp.float32), "y": shape((10_240, 10), jnp.float32)}}
op = cv.hessian(loss, params, data)
print(op.size, cv.plan(op, num_steps=100).fits)  # on this machine
# 79400 True
```

`print(cv.plan(op, num_steps=100, topology="h100:8"))` then says something like this, which is W1 below:

```text
{example}
```

Every constructor of an operator takes shapes in place of arrays. Such an operator is for plans alone. Without
shardings, examples are spread over all chips and all else is on each chip. With shardings over a mesh of as many
devices, such as a `jax.sharding.AbstractMesh`, arrays lie as these say. `make plan CONFIG=g_wrn:paper TOPOLOGY=h100:64`
plans what a configuration measures. Its data need not be there either.

The compiler for H100s and H200s comes with `make compilers` (130 MB, no card and no CUDA needed), or with
`pip install --no-deps jax-cuda13-plugin jax-cuda13-pjrt` of JAX's own version; then set `JAX_PLATFORMS=cpu` where there
is no card, or JAX says at every start that it found none. `make compilers TPU=1` adds libtpu, which compiles for TPUs.
One process at a time can use it. Large networks take it minutes, fewer with `JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1`,
as for the larger networks in the table below. It makes no program of more memory than a chip has, and then the error
line says what would have been needed.

## What is compiled, and what is a model

XLA settles memory and exchanges: arguments and temporary arrays of one chip, and the collectives in the program with
their bytes. cuDNN is not there, so convolutions are as XLA has them before cuDNN chooses an algorithm, and their
temporary arrays are indications. Operations and bytes moved are counted in the same program: those of products of
matrices and convolutions, and what every kernel reads and writes.

Time comes from a model. A kernel takes the longer of two times: its operations at the chip's speed, and its bytes at
the memory's speed. An exchange takes its bytes at the speed of its slowest link, (n − 1)/n of them, twice for a sum.
Each has a latency, and nothing overlaps. Speeds are those of the vendors' data sheets, and latencies are assumed
(`hessflat/curvature/diagnostics/targets.py` has the sources). A real step takes longer if its kernels do not reach
those speeds, and shorter if exchanges are hidden. `make bench-gpu` puts the plan for a card beside what is measured on
it.

{chips}

## Networks

`python -m benchmarks.plans` writes this page. Each plan is for {steps} Lanczos steps of the Hessian in float32 at
`highest`, with one probe. The columns before the last two split a step by what it is made of. A step is at most their
sum, because kernels that are bound by operations and others by the memory take turns.

{networks}
"""


if __name__ == "__main__":
    run_as_command(main)
