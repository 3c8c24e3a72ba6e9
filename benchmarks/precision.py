"""What faster precisions of matrix products do to a spectrum, and what vendors state that they save.

    python -m benchmarks.precision [--scale=full|smoke] [--out=FILE]

A CPU rounds no inputs, so the effect is measured with the rounding made by hand: every product of matrices and every
convolution of a curvature product has its inputs rounded as an accelerator would, to the nearest, and adds in float32.
Sums over a vector and re-orthogonalisation stay in float32, as they do in the library. The same probe in float64 is
the reference. The cost is not measured here: it is the ratio of the speeds that vendors state (`targets.CHIPS`).
`make bench-gpu` measures both on a card.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import hessflat.curvature as cv
from benchmarks import in_jax, problems, tables
from benchmarks.command import run_as_command
from benchmarks.problems import SCALES, Arrays, Problem
from hessflat.cli import app
from hessflat.curvature.diagnostics.targets import CHIPS
from hessflat.utils import compat
from hessflat.utils.convolution import CALLS, equations_of
from hessflat.utils.errors import InputError, require_known
from hessflat.utils.files import write_atomically

HERE = Path(__file__).parent
STORED, DOCUMENT = HERE / "results" / "precision" / "cpu.json", HERE.parent / "docs" / "precision.md"

_PRODUCTS = ("dot_general", "conv_general_dilated")
# Problem, what it is called, examples, Lanczos steps.
NETWORKS = {
    "full": (
        ("dense", "MLP 784-100-10, 2,000 examples", 2_000, 60),
        ("small", "MLP 100-30-30-10, 1,000 examples", 1_000, 60),
        ("conv", "VGG-like network of 0.5M parameters, 60 images", 60, 30),
    ),
    "smoke": (("dense", "MLP 20-8-4", 60, 8), ("conv", "a small VGG", 24, 4)),
}
MATRICES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}


def rounded(x: Array, bits: int) -> Array:
    """`x` with `bits` of mantissa and the exponents of float32."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits)


def pieces(x: Array, count: int) -> list[Array]:
    """`x` as a sum of numbers of bfloat16: the nearest, that of what is left, and so on."""
    parts = []
    for _ in range(count):
        parts.append(rounded(x, 7))
        x = x - parts[-1]
    return parts


def _in_pieces(count: int, a: Array, b: Array, product: Callable[[Array, Array], Array]) -> Array:
    """Of all pairs of pieces the products of those that are large enough to count."""
    left, right = pieces(a, count), pieces(b, count)
    terms = [product(left[i], right[j]) for i in range(count) for j in range(count) if i + j < count]
    return sum(terms[1:], terms[0])


# What each precision does to the inputs of a product, and with how many products.
LEVELS: dict[str, Callable[..., Array]] = {
    "bfloat16": lambda a, b, product: product(rounded(a, 7), rounded(b, 7)),
    "tensorfloat32": lambda a, b, product: product(rounded(a, 10), rounded(b, 10)),
    "bfloat16_3x": partial(_in_pieces, 2),
    "highest": lambda a, b, product: product(a, b),
}


def emulated(function: Callable[..., Any], level: str) -> Callable[..., Any]:
    """`function` of arrays with the inputs of its products of matrices and convolutions rounded.

    Raises:
        InputError: a product inside a loop or a branch, which is not looked into.
    """

    def run(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _evaluated(level, closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shape), outputs)

    return run


def _evaluated(level: str, jaxpr: Any, constants: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *args], strict=True))
    read = lambda v: v.val if isinstance(v, compat.Literal) else values[v]  # noqa: E731
    for equation in jaxpr.eqns:
        name, inputs = equation.primitive.name, [read(v) for v in equation.invars]
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            outputs = _evaluated(level, inner.jaxpr, inner.consts, inputs)
        elif name in _PRODUCTS:
            once = lambda a, b, equation=equation: compat.bind(equation, [a, b])[0]  # noqa: E731
            outputs = [LEVELS[level](*inputs, once)]
        elif any(inner.primitive.name in _PRODUCTS for inner in equations_of([equation])):
            raise InputError(f"a product inside {name!r} is not rounded; give a network without it")
        else:
            outputs = compat.bind(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def operator(problem: Problem, arrays: Arrays, matrix: str, level: str) -> cv.Operator:
    """The curvature matrix with products in a precision."""
    predict, loss = in_jax.functions_of(problem)
    batch, statistics = {"x": jnp.asarray(arrays.x), "y": jnp.asarray(arrays.y)}, arrays.statistics or None
    by_hand = {
        "hessian": partial(in_jax.hessian_product, loss),
        "gauss_newton": partial(in_jax.gauss_newton_product, predict),
    }[matrix]

    def matvec(vector: Any, params: Any, batch: Any, statistics: Any) -> Any:
        return emulated(by_hand, level)(params, batch, statistics, vector)

    params = jax.tree.map(jnp.asarray, {name: arrays.params[name] for name in problem.shapes})
    return cv.from_matvec(matvec, params, params, batch, statistics)


def measure(problem: Problem, arrays: Arrays, matrix: str, steps: int) -> dict[str, dict[str, float]]:
    """λ_max and the mass at zero of each precision, and of the same probe in float64."""
    key, found = jax.random.key(0), {}
    with jax.enable_x64(True):
        wide = arrays._replace(
            x=arrays.x.astype(np.float64), params={name: p.astype(np.float64) for name, p in arrays.params.items()}
        )
        exact = cv.spectrum(operator(problem, wide, matrix, "highest"), key, steps, show_progress=False)
    found["float64"] = _numbers(exact, matrix)
    for level in LEVELS:
        spectrum = cv.spectrum(operator(problem, arrays, matrix, level), key, steps, show_progress=False)
        # The noise floor, within which eigenvalues count as zero, is that of the precision.
        found[level] = _numbers(dataclasses.replace(spectrum, precision=level), matrix)
    return found


def _numbers(spectrum: cv.Spectrum, matrix: Any) -> dict[str, float]:
    return {
        "lambda_max": spectrum.largest.value,
        "zero_mass": spectrum.zero_mass(matrix).weight.value,
        "noise_floor": spectrum.noise_floor,
    }


def main(argv: Sequence[str]) -> None:
    given, _ = app.parse_flags(argv, {"scale": "full", "out": str(STORED)})
    require_known("scale", [given["scale"]], list(SCALES))
    rows = []
    for name, title, examples, steps in NETWORKS[given["scale"]]:
        problem = SCALES[given["scale"]][name]
        arrays = problems.make(problem)
        arrays = arrays.take(examples)
        for matrix in MATRICES:
            found = measure(problem, arrays, matrix, steps)
            rows.append({"network": title, "matrix": matrix, "steps": steps, "found": found})
            print(f"{title}, {matrix}: {json.dumps(found)}", file=sys.stderr, flush=True)
    path = Path(given["out"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"scale": given["scale"], "jax": jax.__version__, "rows": rows}, indent=1) + "\n")
    print(tables.lined_up(effects(rows)))
    if path == STORED:
        write_atomically(DOCUMENT, render(json.loads(path.read_text())))


def effects(rows: Sequence[dict[str, Any]]) -> tables.Table:
    table = [
        ["", "matrix", "products in", "λ_max off by", "mass at zero off by", "mass in float64", "noise floor / λ_max"]
    ]
    for row in rows:
        exact = row["found"]["float64"]
        for level in LEVELS:
            mine = row["found"][level]
            off = abs(mine["lambda_max"] / exact["lambda_max"] - 1)
            mass = abs(mine["zero_mass"] - exact["zero_mass"])
            floor = mine["noise_floor"] / mine["lambda_max"]
            cells = [f"{off:.1e}", f"{mass:.1e}", f"{exact['zero_mass']:.3f}", f"{floor:.1e}"]
            table.append([row["network"], MATRICES[row["matrix"]], level, *cells])
    return table


def worst(rows: Sequence[dict[str, Any]]) -> tables.Table:
    """Of each matrix and precision, the largest errors over the networks."""
    cells = effects(rows)[1:]
    table = [["matrix", "products in", "λ_max off by at most", "mass at zero off by at most"]]
    for matrix in MATRICES.values():
        for level in LEVELS:
            own = [cell for cell in cells if cell[1:3] == [matrix, level]]
            table.append([matrix, level, *(max((cell[i] for cell in own), key=float) for i in (3, 4))])
    return table


def costs() -> tables.Table:
    """The speeds that vendors state, as multiples of that of the highest precision."""
    table = [["`measure.precision`", "on", "products in", "operations a second", "times those of `highest`"]]
    names = {"cuda": ("highest", "tensorfloat32", "tensorfloat32"), "tpu": ("highest", "bfloat16_3x", "bfloat16")}
    for chip in CHIPS.values():
        for asked, level in zip(("highest", "high", "default"), names[chip.platform], strict=True):
            rate = chip.flops[level]
            ratio = rate / chip.flops["highest"]
            table.append([f"`{asked}`", chip.title, level, f"{rate / 1e12:.3g} TFLOP/s", f"{ratio:.2g}"])
    return table


def render(stored: dict[str, Any]) -> str:
    """The whole page."""
    rows = stored["rows"]
    parts = {"effects": effects(rows), "worst": worst(rows), "costs": costs()}
    return _PAGE.format(jax=stored["jax"], **{name: tables.as_markdown(table) for name, table in parts.items()})


_PAGE = """\
# Precision of matrix products

`--config.measure.precision=` is `highest` (the default), `high` or `default`. These are JAX's names for what an
accelerator makes of products of float32 matrices. On a GPU the last two are TF32. On a TPU `high` is three passes of
bfloat16 and `default` is one. On a CPU all three are `highest`. The setting holds for everything that a run measures,
whatever `jax_default_matmul_precision` says. Training has its own, `train.precision`. `manifest.json` and every stored
spectrum name the precision of their products (`matmul_precision`, `precision`), and the noise floor follows from it. In
the library the precision is JAX's setting, `jax.default_matmul_precision`, or `highest` where that is not set.

Inner products of vectors, sums and re-orthogonalisation are in float32 whatever the setting. The memory bounds them, so
fewer bits would lose orthogonality and save nothing.

`python -m benchmarks.precision` writes this page.

## What it costs: stated

Speeds are those of the vendors' data sheets, as in `hessflat/curvature/diagnostics/targets.py`. TPUs take six passes of
bfloat16 for `highest`. These are the speeds of products alone, of large matrices. The memory may bound a whole step:
`make plan TOPOLOGY=…` says.

{costs}

## What it does to the numbers: measured, with emulated rounding

These numbers are from a CPU. The inputs of every product and convolution are rounded by hand, to the nearest, and
sums are in float32. Errors are against the same probe with the same number of steps in float64. A real tensor core
may cut off instead of rounding, and adds in another order. `highest` is what a CPU and a GPU compute; six passes of
bfloat16 come close. JAX {jax}.

{worst}

The mass at zero counts what lies within the noise floor. The floor grows with the rounding, so it covers more small
eigenvalues, of which a Gauss-Newton matrix has many. For λ_max alone the faster levels may do.

{effects}
"""


if __name__ == "__main__":
    run_as_command(main)
