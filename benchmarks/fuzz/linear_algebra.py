"""Random calls of linear algebra with products: systems, diagonals, Gauss-Newton matrices, kernels."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.fuzz import operators
from benchmarks.fuzz.judging import (
    KEYS,
    LOOPS,
    TAIL,
    Numbers,
    call_of,
    dense_of,
    far,
    first,
    operator_argument,
)
from benchmarks.fuzz.operators import Drawn, draw_matrix, draw_operator
from benchmarks.fuzz.outcomes import EITHER, REFUSE, Call
from benchmarks.fuzz.problems import flat, shaped, truth
from benchmarks.fuzz.spoiled import Argument, Lazy, drawn, made


def solve(numbers: Numbers) -> Call:
    one, method = draw_operator(numbers), numbers.choice(("cg", "minres"))
    b = np.random.default_rng(numbers.randrange(10**6)).standard_normal(one.size).astype(np.float32)
    enough = float(one.scale - min(np.linalg.eigvalsh(one.matrix)[0], 0))
    table = {
        "op": operator_argument(one),
        "b": Argument((b, jnp.asarray(b)), "vector"),
        "damping": Argument((enough, 3 * enough, np.float32(enough)), "number"),
        "method": Argument((method,), "choice"),
        "rtol": Argument((1e-4, 1e-2, np.float32(1e-3)), "number"),
        "max_steps": Argument((1000, np.int64(100)), "count"),
        "loop": LOOPS,
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        damping, x, length = float(values["damping"]), flat(result.x), float(np.linalg.norm(b))
        if not math.isfinite(damping):
            return ""
        matrix = one.matrix + damping * np.eye(one.size)
        rounding = (one.rounding + (1e-10 if one.x64 else 1e-5) * damping) * float(np.linalg.norm(x))
        rest = float(np.linalg.norm(b - matrix @ x)) / length
        wrong = far(result.residual, rest, rounding / length + 1e-5, "residual")
        if wrong or damping < 0.9 * enough:
            return wrong
        error = (result.residual * length + rounding) / np.linalg.eigvalsh(matrix)[0]
        wrong = far(np.linalg.norm(x - np.linalg.solve(matrix, b)), 0, 2 * error, "distance from the solution")
        loose = int(values["max_steps"]) < 100 or float(values["rtol"]) < 1e-4
        return first(wrong, "" if result.converged or loose else f"not converged, {result.residual:g}")

    call = call_of("solve", numbers, table, judge, one.said, x64=one.x64)
    # Another damping may leave a matrix that is not positive definite, and another number of steps is always right.
    return call


def diagonal(numbers: Numbers) -> Call:
    one, method = draw_operator(numbers), numbers.choice(("exact", "hutchinson", "xdiag"))
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "num_products": Argument((100, 12, np.int64(30)), "count"),
        "method": Argument((method,), "choice"),
        "loop": LOOPS,
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        right, found, errors = np.diag(one.matrix), flat(result.values), flat(result.standard_errors)
        if method == "exact":
            return first(far(found, right, 2 * one.rounding, "diagonal"), far(errors, 0 * errors, 0, "error"))
        count = int(values["num_products"]) / (1 if method == "hutchinson" else 2)
        rest = np.linalg.norm(one.matrix - np.diag(right), axis=1)
        # Products of signs are signs, whose sums have Gaussian tails (Hoeffding).
        chance = rest * math.sqrt(2 * (TAIL + math.log(one.size)) / count)
        rounding = 2 * math.sqrt(one.size) * one.rounding
        if method == "hutchinson":
            truly = rest / math.sqrt(count)
            wrong = "" if count < 100 else far(errors, truly, truly + rounding, "error")
            return first(far(found, right, chance + rounding, "diagonal"), wrong)
        return far(found, right, chance + 10 * errors + rounding, "diagonal")

    call = call_of("diagonal", numbers, table, judge, one.said, x64=one.x64)
    return call._replace(must=EITHER) if method == "exact" and call.must == REFUSE and "op=" not in call.said else call


_HEADS: Mapping[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "matrix": (lambda params, batch: batch["x"], lambda params: params.T),
    "logistic": (lambda params, batch: _with_ones(batch["x"]), lambda params: _rows_of(params[0], params[1])),
    "tokens": (lambda params, batch: jnp.tanh(batch["x"]), lambda params: params["head"].T),
    "tanh": (
        lambda params, batch: _with_ones(
            jnp.tanh(batch["x"] @ params["dense_0"]["kernel"] + params["dense_0"]["bias"])
        ),
        lambda params: _rows_of(params["dense_1"]["kernel"], params["dense_1"]["bias"]),
    ),
}
_HEADS_OF = {"weighted tokens": "tokens", "mask": "tanh", "float64": "tanh", "bfloat16": "tanh"}


def _with_ones(hidden: Any) -> Any:
    return jnp.concatenate([hidden, jnp.ones((*hidden.shape[:-1], 1), hidden.dtype)], axis=-1)


def _rows_of(kernel: Any, bias: Any) -> Any:
    return jnp.concatenate([kernel.T, bias[:, None]], axis=1)


def softmax_gauss_newton(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: one.name in (*_HEADS, *_HEADS_OF))
    hidden, readout = _HEADS[_HEADS_OF.get(one.name, one.name)]
    found = draw_matrix(numbers, "gauss_newton", one, variant)
    table = {
        "hidden": Argument((hidden,), "function"),
        "readout": Argument((readout,), "function"),
        "params": Argument((one.params,), "params"),
        "data": Argument((operators.data_of(one, numbers),), "data"),
        "chunk_size": Argument((2048, 2, 4, np.int64(6)), "count"),
    }
    call = call_of("softmax_gauss_newton", numbers, table, lambda op, _: dense_of(op, found), f"{one.name!r}:{variant}",
                   x64=one.x64)  # fmt: skip
    return call


def kfac(numbers: Numbers) -> Call:
    """Of one layer: E[a aᵀ] ⊗ E[F], F the curvature of the criterion; of squares it is the whole matrix."""
    one, variant = operators.choose_problem(numbers, lambda one: one.name in ("linear", "logistic", "matrix"))
    found, known = draw_matrix(numbers, "gauss_newton", one, variant), truth(one.name, variant)
    kind, x = numbers.choice(("kfac", "kfac", "ekfac")), one.batch["x"].astype(np.float64)
    a = x if one.name == "matrix" else np.concatenate([x, np.ones((one.number, 1))], axis=1)
    inner = 2 * np.eye(known.outputs.shape[1])
    if one.name != "linear":
        p = np.exp(known.outputs) / np.exp(known.outputs).sum(axis=1, keepdims=True)
        inner = np.diag(p.mean(axis=0)) - p.T @ p / one.number
    matrix = np.kron(a.T @ a / one.number, inner)
    if kind == "ekfac":
        basis = np.kron(np.linalg.eigh(a.T @ a)[1], np.linalg.eigh(inner)[1])
        matrix = (basis * np.einsum("pi,pq,qi->i", basis, found.matrix, basis)) @ basis.T
    table = {
        "op": operator_argument(found),
        "kind": Argument((kind,), "choice"),
        "sharing": Argument(("expand", "reduce"), "choice"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        damping, rounding = 0.5 * found.scale, 1e-3 * found.scale
        inverse = np.linalg.inv(matrix + damping * np.eye(found.size))
        return first(
            far(result.operator().to_dense(), matrix, rounding, "matrix"),
            far(result.inverse(damping).to_dense(), inverse, 2 * rounding / damping**2, "inverse"),
        )

    return call_of("kfac", numbers, table, judge, found.said)


def ntk(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(
        numbers,
        lambda one: not (one.narrow or one.weights or one.statistics_batch) and one.name not in ("integers", "cast"),
    )
    known = truth(one.name, variant)
    jacobian = known.jacobian.reshape(-1, known.jacobian.shape[-1])
    table = {
        "predict": Argument((one.functions.predict,), "function"),
        "params": Argument((one.params,), "params"),
        "data": Argument((operators.data_of(one, numbers),), "data"),
    }
    if one.state is not None:
        table["state"] = Argument((one.state,), "array")

    def judge(result: Any, values: dict[str, Any]) -> str:
        kernel = jacobian @ jacobian.T
        size = float(np.linalg.norm(jacobian, axis=1).max()) ** 2
        return far(result.matrix, kernel, (1e-10 if one.x64 else 1e-5) * size, "kernel")

    return call_of("ntk", numbers, table, judge, f"{one.name!r}:{variant}", x64=one.x64)


def nystrom(numbers: Numbers) -> Call:
    """U diag(v) Uᵀ = A Ω (Ωᵀ A Ω)⁺ Ωᵀ A: what it leaves of A is positive, and of a rank that is smaller by r."""
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers")
    kinds = [kind for kind in ("gauss_newton", "fisher", "model_fisher") if operators.can_be(kind, one)]
    found = draw_matrix(numbers, numbers.choice(kinds), one, variant)
    table = {
        "op": operator_argument(found),
        "key": KEYS,
        "rank": Argument((min(5, found.size), found.size, np.int64(1)), "count"),
        "loop": LOOPS,
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        rows = np.concatenate([np.asarray(x, np.float64) for x in jax.tree.leaves(result.vectors)], axis=-1)
        rank = len(rows)
        if rank > int(values["rank"]) or len(result.values) != rank:
            return f"{rank} vectors and {len(result.values)} values of rank {values['rank']}"
        rounding = (1e-10 if one.x64 else 1e-4) * found.size
        left = np.linalg.eigvalsh(found.matrix - (rows.T * result.values) @ rows)
        slack = 10 * found.size * found.rounding
        return first(
            far(rows @ rows.T, np.eye(rank), rounding, "U Uᵀ"),
            far(result.values, np.sort(result.values)[::-1], 0, "order"),
            "" if left[0] >= -slack else f"what is left has an eigenvalue of {left[0]:.3g}, {slack:.2g} allowed",
            far(left[:rank], np.zeros(rank), slack, "what is left in as many directions"),
        )

    return call_of("nystrom", numbers, table, judge, found.said, x64=one.x64)


def preconditioned(numbers: Numbers) -> Call:
    """With P as a tree, and P^-1/2 as a function."""
    one, of = draw_operator(numbers), numbers.choice(("tree", "tree", "function"))
    scales = np.random.default_rng(numbers.randrange(10**6)).uniform(0.2, 4, one.size)
    scales = scales if one.x64 else scales.astype(np.float32).astype(np.float64)
    matrix = one.matrix / np.sqrt(np.outer(scales, scales))
    P = Argument((Lazy(lambda: shaped(one.make().params, scales.astype(np.float64 if one.x64 else np.float32))),),
                 "params")  # fmt: skip
    if of == "function":
        P = Argument((_divided_by_roots,), "function")
    table = {"op": operator_argument(one), "preconditioner": P}
    values, must, words = drawn(numbers, table)

    def make() -> Any:
        with jax.enable_x64(one.x64):
            full = made(values)
            arrays = (shaped(one.make().params, scales),) if full["preconditioner"] is _divided_by_roots else ()
            return cv.preconditioned(full["op"], full["preconditioner"], *arrays)

    def judge(op: Any) -> str:
        allowed = 2 * one.rounding / float(scales.min())
        with jax.enable_x64(one.x64):
            return far(op.to_dense(), matrix, allowed, "matrix")

    if one.said.startswith("linearized") or (of == "function" and one.problem.narrow and not _is_map(one)):
        must = REFUSE
    return Call(f"preconditioned({one.said}, a {of}; {words})", make, judge, must)


def _is_map(one: Drawn) -> bool:
    return one.said.startswith("from_matvec")


def _divided_by_roots(vector: Any, scales: Any) -> Any:
    return jax.tree.map(lambda v, p: v / jnp.sqrt(p), vector, scales)


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "solve": (solve, 70),
    "diagonal": (diagonal, 70),
    "softmax_gauss_newton": (softmax_gauss_newton, 50),
    "kfac": (kfac, 40),
    "ntk": (ntk, 40),
    "nystrom": (nystrom, 50),
    "preconditioned": (preconditioned, 60),
}
