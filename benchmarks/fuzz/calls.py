"""Random calls of every public function of the library, each compared with NumPy in float64.

The module is long because every function has a draw and a comparison of its own, each of which can be read by itself.
"""

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.fuzz import blockwise, edges, linear_algebra, operators
from benchmarks.fuzz.judging import (
    FLAG,
    KEYS,
    LOOPS,
    PROBES,
    Numbers,
    call_of,
    dense_of,
    estimate,
    far,
    first,
    function_of,
    near_some,
    operator_argument,
    random_part,
    spectrum_wrong,
)
from benchmarks.fuzz.operators import Drawn, draw_matrix, draw_operator, loss_of, losses_of
from benchmarks.fuzz.outcomes import EITHER, REFUSE, RETURN, Call
from benchmarks.fuzz.problems import Problem, Truth, doubled, flat, same_form, shaped, truth
from benchmarks.fuzz.spoiled import NAN, Argument, drawn, gives_nan, made
from hessflat.curvature import trees


def operator_call(kind: str) -> Callable[[Numbers], Call]:
    """`hessian`, `fisher` and the others: products with vectors and with all unit vectors."""

    def run(numbers: Numbers) -> Call:
        one, variant = operators.choose_problem(numbers, lambda one: operators.can_be(kind, one))
        found = draw_matrix(numbers, kind, one, variant)
        functions = one.functions
        data = operators.data_of(one, numbers)
        predict = Argument((functions.predict,), "function")
        if kind == "hessian":
            table = {"loss": Argument((loss_of(functions),), "function")}
        elif kind in ("gauss_newton", "residual"):
            table = {"predict": predict, "criterion": Argument((functions.criterion,), "function")}
        elif kind == "model_fisher":
            table = {"predict": predict, "likelihood": Argument((one.likelihood,), "choice")}
            table |= {name: Argument((value,), "choice") for name, value in operators.per_of(one).items()}
        else:
            table = {"losses": Argument((losses_of(functions),), "function")}
        table |= {"params": Argument((one.params,), "params"), "data": Argument((data,), "data")}
        if one.state is not None:
            table["state"] = Argument((one.state,), "array")
        if kind in ("fisher", "gradient_covariance") and "token" in one.name:
            table["per"] = Argument(("token",), "choice")
        values, must, words = drawn(numbers, table)
        if one.name == "integers" and must != REFUSE:
            must = REFUSE
        flat_vector = np.random.default_rng(numbers.randrange(10**6)).standard_normal(found.size).astype(np.float32)
        tree = shaped(one.params, flat_vector)
        vector, way = numbers.choice(((flat_vector, "flat"), (tree, "tree"), (jnp.asarray(flat_vector), "flat")))

        def make() -> Any:
            with jax.enable_x64(one.x64):
                op = getattr(cv, kind)(**made(values))
                product = op @ vector if numbers.random() < 0.2 else op(vector)
                return product, op.to_dense() if found.size < 24 else None, op.size

        def judge(result: Any) -> str:
            product, dense, size = result
            if way == "tree" and not same_form(product, one.params):
                return "the product has another structure than the vector"
            product = flat(product) if way == "tree" else np.asarray(product, np.float64)
            length = np.linalg.norm(flat_vector)
            return first(
                far(size, found.size, 0, "size"),
                far(product, found.matrix @ flat_vector.astype(np.float64), found.rounding * length, "product"),
                "" if dense is None else far(dense, found.matrix, found.rounding, "matrix"),
            )

        return Call(f"{kind}({one.name!r}:{variant}, {way}; {words})", make, judge, must)

    return run


def products(numbers: Numbers) -> Call:
    """Products of operators that are added, scaled, restricted."""
    one = draw_operator(numbers)
    vector = np.random.default_rng(numbers.randrange(10**6)).standard_normal(one.size).astype(np.float32)
    table = {"vector": Argument((vector, jnp.asarray(vector), vector.astype(np.float64)), "vector")}
    values, must, words = drawn(numbers, table)

    def make() -> Any:
        with jax.enable_x64(one.x64):
            return one.make()(values["vector"])

    def judge(result: Any) -> str:
        return far(flat(result), one.matrix @ vector, one.rounding * np.linalg.norm(vector), "product")

    return Call(f"{one.said} @ v; {words}", make, judge, must)


_NO_NUMBERS: Sequence[Any] = ("2", None, [], NAN, float("inf"), 1j, object(), np.ones(3), {}, (), jnp.ones(2))


def algebra(numbers: Numbers) -> Call:
    """Operators with numbers and with things that are no numbers."""
    one = draw_operator(numbers)
    number, must = numbers.choice(
        [(2, RETURN), (0.5, RETURN), (np.float32(2), RETURN), (np.int64(3), RETURN), (jnp.float32(2), RETURN),
         (np.array(2.0), EITHER), (True, EITHER), *((bad, REFUSE) for bad in _NO_NUMBERS)]
    )  # fmt: skip
    sign = numbers.choice("+-*/")
    action = {"+": lambda op: op + number, "-": lambda op: op - number, "*": lambda op: number * op,
              "/": lambda op: op / number}[sign]  # fmt: skip
    vector = np.random.default_rng(0).standard_normal(one.size).astype(np.float32)

    def make() -> Any:
        with jax.enable_x64(one.x64):
            return np.asarray(action(one.make())(vector), np.float64)

    def judge(result: Any) -> str:
        n, plain = float(number), one.matrix @ vector
        right = {"+": plain + n * vector, "-": plain - n * vector, "*": n * plain, "/": plain / n}[sign]
        return far(result, right, 2 * (one.rounding + 1e-6 * abs(n)) * max(n, 1) * np.linalg.norm(vector), "product")

    return Call(f"{one.said} {sign} {number!r}", make, judge, must)


def from_matvec(numbers: Numbers) -> Call:
    """Known maps, also ones that are no maps."""
    size = 7
    matrix = np.random.default_rng(3).standard_normal((size, size)).astype(np.float32)
    matrix = matrix + matrix.T
    table = {
        "matvec": Argument((operators._times,), "function"),
        "params": Argument((np.zeros(size, np.float32), jnp.zeros(size, jnp.bfloat16)), "params"),
    }
    values, must, words = drawn(numbers, table)
    vector = np.arange(size, dtype=np.float32)

    def make() -> Any:
        return cv.from_matvec(values["matvec"], values["params"], matrix)(vector)

    return Call(f"from_matvec({words})", make, lambda r: far(r, matrix @ vector, 1e-4, "product"), must)


def linearize(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    return call_of(
        "linearize", numbers, {"op": operator_argument(one)}, lambda op, _: dense_of(op, one), one.said, x64=one.x64
    )


def restrict(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: bool(one.layers))
    kind = numbers.choice([kind for kind in operators.MATRICES if operators.can_be(kind, one) and kind != "residual"])
    found, names = draw_matrix(numbers, kind, one, variant), numbers.choice(one.layers)
    chosen = operators.places(one, names)
    table = {
        "op": operator_argument(found),
        "names": Argument((names, [names], (names,)), "names"),
        "stacked": Argument(((),), "names"),
    }
    part = found._replace(matrix=found.matrix[np.ix_(chosen, chosen)])
    values, must, words = drawn(numbers, table)
    if callable(values["stacked"]) or (isinstance(values["stacked"], list) and not values["stacked"]):
        must = EITHER

    def make() -> Any:
        with jax.enable_x64(one.x64):
            return cv.restrict(**made(values))

    if kind == "gradient_covariance" and one.name == "integers":
        must = REFUSE
    return Call(f"restrict({found.said}, {names}; {words})", make, lambda op: dense_of(op, part), must)


def blocks(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: len(jax.tree.leaves(one.params)) > 1)
    found = draw_matrix(numbers, "hessian", one, variant)
    by = (None, 1, 2, np.int64(1), "*", {"all": "*"}, lambda path: path, lambda path: path[0])
    table = {"op": operator_argument(found), "by": Argument(by, "by")}

    def judge(result: Any, values: dict[str, Any]) -> str:
        sizes = sum(op.size for op in result.values())
        with jax.enable_x64(one.x64):
            traces = sum(float(jnp.trace(op.to_dense())) for op in result.values())
        return first(
            far(sizes, found.size, 0, "sizes of all blocks"),
            far(traces, np.trace(found.matrix), found.size * found.rounding, "traces of all blocks"),
        )

    made_call = call_of("blocks", numbers, table, judge, found.said, x64=one.x64)
    return made_call._replace(must=EITHER) if one.name == "integers" and made_call.must != REFUSE else made_call


def trace(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    method = numbers.choice(("hutchinson", "hutch++", "xtrace"))
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "num_products": Argument((30, 10, 12, np.int64(30), 200), "count"),
        "method": Argument((method,), "choice"),
        "probe": Argument((None, "gaussian" if method != "hutchinson" else "rademacher"), "array"),
        "loop": LOOPS,
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        count, true = int(values["num_products"]), float(np.trace(one.matrix))
        rounding = one.size * one.rounding
        if count >= one.size:
            return first(far(result.value, true, rounding, "trace"), far(result.num_products, one.size, 0, "products"))
        if method == "hutchinson":
            return estimate(result, true, random_part(one.matrix, count), rounding, count, "trace")
        return far(result.value, true, 10 * result.standard_error + rounding, "trace")

    return call_of("trace", numbers, table, judge, one.said, x64=one.x64)


def moments(numbers: Numbers) -> Call:
    one, name = draw_operator(numbers), numbers.choice(("moments", "frobenius"))
    table = {"op": operator_argument(one), "key": KEYS, "num_probes": Argument((10, 4, 30, np.int32(10), 1), "count"),
             "probe": PROBES, "loop": LOOPS}  # fmt: skip

    def judge(result: Any, values: dict[str, Any]) -> str:
        return first(*moments_wrong(result, one.matrix, int(values["num_probes"]), one.rounding, name == "frobenius"))

    return call_of(name, numbers, table, judge, one.said, x64=one.x64)


def moments_wrong(found: Any, matrix: np.ndarray, count: int, rounding: float, alone: bool = False) -> list[str]:
    """Of `Moments`, or of a Frobenius norm alone."""
    size, norm = len(matrix), float(np.linalg.norm(matrix))
    square = matrix @ matrix
    root = found if alone else found.frobenius
    largest = np.linalg.norm(matrix, 2)
    slack = 2 * float(largest) * size * rounding + 1e-30
    wrong = [far(root.value**2, norm**2, random_part(square, count) + slack, "squared norm")]
    if alone:
        return wrong
    return [
        *wrong,
        estimate(found.trace, float(np.trace(matrix)), random_part(matrix, count), size * rounding, count, "trace"),
        far(found.mean_eigenvalue.value * size, found.trace.value, size * rounding, "mean times P"),
        estimate(
            found.second_moment, norm**2 / size, random_part(square, count) / size, slack / size, count, "second moment"
        ),
    ]


def eigenpairs(numbers: Numbers) -> Call:
    one, name = draw_operator(numbers), "eigenpairs"
    which = numbers.choice(("largest", "smallest", "magnitude", "both"))
    ks = ((1, 2, 3, np.int64(2), 5) if which != "both" else (1, 2, (1, 2), (2, 1))) if one.size > 6 else (1,)
    vector = np.random.default_rng(5).standard_normal(one.size).astype(np.float32)
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "k": Argument(ks, "count"),
        "which": Argument((which,), "choice"),
        "rtol": Argument((1e-3, 1e-3, 1e-5, 0.1), "number"),
        "max_steps": Argument((200, 200, 60, 12, np.int64(300)), "count or none"),
        "start": Argument((None, None, vector), "vector or none"),
        "num_vectors": Argument((None, None, 40), "count or none"),
        "loop": LOOPS,
        "show_progress": FLAG,
        "on_steps": Argument((None, lambda steps: None), "callback or none"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        eigenvalues = np.linalg.eigvalsh(one.matrix)
        k = values["k"] if isinstance(values["k"], tuple) else (int(values["k"]),) * 2
        expected = {
            "largest": eigenvalues[::-1][: k[0]],
            "smallest": eigenvalues[: k[0]],
            "magnitude": eigenvalues[np.argsort(-np.abs(eigenvalues))][: k[0]],
            "both": np.concatenate([eigenvalues[::-1][: k[0]], eigenvalues[: k[1]]]) if sum(k) <= one.size else None,
        }[which]
        found, rounding = result.values, 4 * one.rounding
        wrong = [near_some(found, result.residuals, eigenvalues, rounding, "Ritz value")]
        if expected is not None:
            wrong.append(far(len(found), len(expected), 0, "number of pairs"))
            if not wrong[-1]:
                # A better one is looked for beyond the tolerance.
                rtol = min(float(values["rtol"]), 1.0)
                allowed = np.maximum(3 * result.residuals, rtol * np.abs(found)) + rounding
                allowed = np.where(result.converged, allowed, np.inf)
                ours = np.abs(found) if which == "magnitude" else found
                wrong.append(far(ours, np.abs(expected) if which == "magnitude" else expected, allowed, "eigenvalue"))
        vectors = np.concatenate(
            [np.asarray(leaf, np.float64).reshape(len(found), -1) for leaf in jax.tree.leaves(result.vectors)], axis=1
        )
        lengths = np.linalg.norm(vectors @ one.matrix - found[:, None] * vectors, axis=1)
        wrong += [
            far(np.linalg.norm(vectors, axis=1), np.ones(len(found)), 1e-4, "length of a vector"),
            far(lengths, np.zeros(len(found)), 3 * result.residuals + rounding, "residual"),
            far(vectors @ vectors.T, np.eye(len(found)), 2e-2, "orthogonality of vectors"),
        ]
        budget = int(values["max_steps"] or 500) + 4 * len(found) + 4
        return first(*wrong, "" if result.num_products <= budget else f"{result.num_products} products of {budget}")

    return call_of(name, numbers, table, judge, one.said, x64=one.x64)


def sharpness(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    vector = np.random.default_rng(6).standard_normal(one.size).astype(np.float32)
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "rtol": Argument((1e-3, 1e-4, 0.01, np.float32(1e-3)), "number"),
        "max_steps": Argument((200, np.int64(100), 400), "count or none"),
        "start": Argument((None, vector, jnp.asarray(vector)), "vector or none"),
        "loop": LOOPS,
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        largest = np.linalg.eigvalsh(one.matrix)[-1]
        if values["max_steps"] is not None and int(values["max_steps"]) < one.size + 4:
            return ""
        rtol = min(float(values["rtol"]), 1.0)
        return far(result.value, largest, 3 * result.residual + one.rounding + 3 * rtol * abs(largest), "λ_max")

    return call_of("sharpness", numbers, table, judge, one.said, x64=one.x64)


def tracker(numbers: Numbers) -> Call:
    """A first measurement, which begins at random: near each value there is an eigenvalue."""
    one = draw_operator(numbers)
    while "linearized" in one.said or "gradient_covariance" in one.said:
        one = draw_operator(numbers)
    table = {
        "op": operator_argument(one),
        "every": Argument((1, 20, np.int64(5)), "count"),
        "k": Argument((1, 1, min(one.size, 2)), "count"),
        "num_steps": Argument((None, 6, np.int16(9)), "count or none"),
        "rtol": Argument((0.02, 0, np.float32(1e-3)), "number"),
        "trace_probes": Argument((2, 3), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        term = values["op"].terms[0]
        params = term.params if term.rest is None else trees.merge(term.params, term.rest)
        with jax.enable_x64(one.x64):
            _, metrics = result.update(result.init(params, jax.random.key(1)), params, 0)
        value, residual = float(metrics["lambda_max"]), float(metrics["lambda_max_residual"])
        nearest = np.abs(np.linalg.eigvalsh(one.matrix) - value).min()
        return "" if nearest <= 2 * residual + one.rounding else f"λ_max is {nearest:g} from the next eigenvalue"

    return call_of("tracker", numbers, table, judge, one.said, x64=one.x64)


def logs(numbers: Numbers) -> Call:
    """Lines of JSON hold what is finite."""
    kind = numbers.choice((float, np.float32, jnp.asarray))
    values = [numbers.choice((1.5, NAN, -2.0, float("inf"))) for _ in range(3)]

    def write() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lines.jsonl"
            log = cv.logs.jsonl(path)
            log.write(kind(3), dict(zip("abc", map(kind, values), strict=True)))
            log.close()
            return path.read_text()

    finite = {name: value for name, value in zip("abc", values, strict=True) if math.isfinite(value)}
    right = [{"step": 3, **finite}] if finite else []

    def judge(text: Any) -> str:
        return "" if [json.loads(line) for line in text.splitlines()] == right else f"{text!r} is not {right}"

    return Call(f"logs.jsonl({values})", write, judge, RETURN)


def _recurrence(one: Drawn) -> dict[str, Argument]:
    return {
        "op": operator_argument(one),
        "key": KEYS,
        "num_steps": Argument((12, 12, 24, 100, np.int64(12), 1), "count"),
        "num_probes": Argument((1, 2, 2, np.int8(2), 10), "count"),
        "probe": PROBES,
        "loop": LOOPS,
        "show_progress": FLAG,
        "on_steps": Argument((None, lambda steps: None), "callback or none"),
        "folder": Argument((None,), "folder or none"),
        "together": Argument((None, False, True), "flag or none"),
    }


def lanczos(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    storage, again = numbers.choice(
        (("device", "full"), ("device", "full"), ("host", "full"), ("half", "full"), ("device", "selective"),
         ("device", "none"))
    )  # fmt: skip
    table = _recurrence(one) | {
        "storage": Argument((storage,), "choice"),
        "reorthogonalise": Argument((again,), "choice"),
        "return_basis": FLAG,
    }
    rounding = one.rounding if storage != "half" else 1e-2 * one.scale

    def judge(result: Any, values: dict[str, Any]) -> str:
        eigenvalues, wrong = np.linalg.eigvalsh(one.matrix), []
        for probe, valid in enumerate(result.num_valid):
            a, b = (np.asarray(x[probe], np.float64) for x in (result.alphas, result.betas))
            matrix = np.diag(a[:valid]) + np.diag(b[: valid - 1], 1) + np.diag(b[: valid - 1], -1)
            ritz, vectors = np.linalg.eigh(matrix)
            bars = np.abs(b[valid - 1] * vectors[-1])
            wrong.append(near_some(ritz, bars, eigenvalues, 6 * rounding, "Ritz value"))
            if result.basis is not None and again == "full":
                rows = np.asarray(result.basis[probe], np.float64)[:valid]
                wrong.append(far(rows @ one.matrix @ rows.T, matrix, 6 * rounding, "Q A Qᵀ"))
        steps = min(int(values["num_steps"]), one.size)
        return first(*wrong, far(result.alphas.shape, (int(values["num_probes"]), steps), 0, "shape"))

    return call_of("lanczos", numbers, table, judge, one.said, x64=one.x64)


def spectrum(numbers: Numbers) -> Call:
    one = draw_operator(numbers)

    def judge(result: Any, values: dict[str, Any]) -> str:
        return first(
            *spectrum_wrong(result, one.matrix, int(values["num_steps"]), int(values["num_probes"]), one.rounding)
        )

    return call_of("spectrum", numbers, _recurrence(one), judge, one.said, x64=one.x64)


def log_determinant(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    eigenvalues = np.linalg.eigvalsh(one.matrix)
    enough = float(2 * one.scale - min(eigenvalues[0], 0))
    table = {
        "op": operator_argument(one),
        "key": KEYS,
        "damping": Argument((enough, 5 * enough, np.float32(enough)), "number"),
        "num_steps": Argument((50, 20, np.int64(50)), "count"),
        "num_probes": Argument((4, 10), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        damping = float(values["damping"])
        f = function_of(one.matrix, lambda x: np.log(x + damping))
        allowed = 2 * random_part(f - np.trace(f) / one.size * np.eye(one.size), int(values["num_probes"]))
        allowed += 20 * one.size * one.rounding / damping
        return far(result.value, np.trace(f), allowed, "log det") if int(values["num_steps"]) >= 12 else ""

    call = call_of("log_determinant", numbers, table, judge, one.said, x64=one.x64)
    # A negative damping may be one that leaves a positive matrix.
    return call


def exact(numbers: Numbers) -> Call:
    one, name = draw_operator(numbers), numbers.choice(("eigvalsh", "exact_spectrum"))
    table = {"op": operator_argument(one), "float64": Argument((False, False, True), "flag")}

    def judge(result: Any, values: dict[str, Any]) -> str:
        found, eigenvalues = result if name == "eigvalsh" else result.values, np.linalg.eigvalsh(one.matrix)
        double = bool(values["float64"]) and not one.said.startswith("from_matvec")
        allowed = 1e-7 * one.scale if double and one.problem.name != "state" else one.rounding
        wrong = far(found, eigenvalues, 2 * allowed, "eigenvalue")
        if name == "eigvalsh" or wrong:
            return wrong
        return first(
            far(result.trace, np.trace(one.matrix), one.size * one.rounding, "trace"),
            far(result.frobenius, np.linalg.norm(one.matrix), one.size * one.rounding, "norm"),
            "" if 0 <= result.rank <= one.size else f"rank {result.rank}",
        )

    call = call_of(name, numbers, table, judge, one.said, x64=one.x64)
    if one.problem.name in ("cast", "state") or one.said.startswith("linearized"):
        return call._replace(must=EITHER) if call.must != REFUSE else call
    return call


def check(numbers: Numbers) -> Call:
    one = draw_operator(numbers, only=lambda one: one.weights is None)
    table = {"op": operator_argument(one), "key": KEYS, "tolerance": Argument((None, None, 1e-2), "number or none"),
             "derivatives": Argument((True, True, False), "flag")}  # fmt: skip
    call = call_of("check", numbers, table, lambda r, _: far(r.asymmetry, 0, 1e-2, "asymmetry"), one.said, x64=one.x64)
    odd = "from_matvec" in one.said and ":2" in one.said
    return call._replace(must=EITHER) if call.must != REFUSE and odd else call


def plan(numbers: Numbers) -> Call:
    one = draw_operator(numbers)
    table = {
        "op": operator_argument(one),
        "num_steps": Argument((100, 10, np.int64(10)), "count"),
        "num_probes": Argument((1, 3), "count"),
        "storage": Argument(("device", "half", "host"), "choice"),
        "reorthogonalise": Argument(("full", "selective", "none"), "choice"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        steps = min(int(values["num_steps"]), one.size)
        return first(
            far(result.size, one.size, 0, "size"),
            far(result.num_products, steps * int(values["num_probes"]), 0, "products"),
            "" if str(result) and result.fits else "does not fit",
        )

    call = call_of("plan", numbers, table, judge, one.said, x64=one.x64)
    both = "storage" in call.said and "selective" in call.said
    return call._replace(must=EITHER) if both and call.must != REFUSE else call


def minibatch(numbers: Numbers) -> Call:
    name = numbers.choice(("minibatch_products", "minibatch_sharpness"))
    one = draw_operator(numbers, examples=True, only=lambda one: not one.statistics_batch and one.name != "integers")
    number = one.problem.number
    vector = np.random.default_rng(7).standard_normal(one.size).astype(np.float32)
    table = {"op": operator_argument(one), "key": KEYS, "batch_size": Argument((1, number, number - 1, 7), "count"),
             "num_batches": Argument((3, 2, np.int64(3)), "count")}  # fmt: skip
    if name == "minibatch_products":
        table["vector"] = Argument((vector, vector, jnp.asarray(vector)), "vector or none")
    else:
        table |= {"rtol": Argument((1e-3, 1e-2), "number"), "max_steps": Argument((200, 60), "count or none")}

    def judge(result: Any, values: dict[str, Any]) -> str:
        size, whole = int(values["batch_size"]), None
        if size == number:
            whole = one.matrix[None]
        elif one.each is not None and size == 1:
            whole = one.each
        elif one.each is not None and size == number - 1:
            whole = (number * one.matrix[None] - one.each) / (number - 1)
        slack = 10 * one.rounding if whole is None else 10 * max(one.rounding, 5e-5 * np.abs(whole).max())
        if name == "minibatch_sharpness":
            full = far(
                result.full, np.linalg.eigvalsh(one.matrix)[-1], 3 * result.full_residual + slack, "λ_max of all"
            )
            if whole is None or full:
                return full
            tops = np.linalg.eigvalsh(whole)[:, -1]
            return first(
                near_some(
                    result.values, result.residuals, np.linalg.eigvalsh(whole).ravel(), slack, "λ_max of a batch"
                ),
                near_some(result.values, result.residuals, tops, slack, "largest of a batch"),
                far(result.mean, result.values.mean(), 1e-5 * np.abs(result.values).max() + 1e-30, "mean"),
            )
        if values["vector"] is None:
            return ""
        v = vector.astype(np.float64)
        product, square = one.matrix @ v, v @ v
        wrong = far(result.full_rayleigh, v @ product / square, slack, "full Rayleigh quotient")
        if whole is None or wrong:
            return wrong
        quotients = np.einsum("p,npq,q->n", v, whole, v) / square
        apart = np.sum((whole @ v - product) ** 2, axis=1) / np.sum(product**2)
        relative = slack * float(np.linalg.norm(v)) / max(float(np.linalg.norm(product)), 1e-30)
        return first(
            near_some(result.rayleigh, np.zeros(1), quotients, slack, "Rayleigh quotient"),
            near_some(np.sqrt(result.samples), np.zeros(1), np.sqrt(apart), 4 * relative, "relative error"),
        )

    call = call_of(name, numbers, table, judge, one.said, x64=one.x64)
    zero = np.linalg.norm(one.matrix) < 1e-9 or "residual" in one.said
    # A mini-batch may hold nothing but examples without weight.
    unweighted = one.problem.weights is not None
    return call._replace(must=EITHER) if call.must != REFUSE and (zero or unweighted) else call


def jacobian_norms(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(
        numbers, lambda one: one.likelihood not in (None, "bernoulli") and one.name != "linear"
    )
    count = numbers.choice((one.number, 5))
    inputs = one.batch["x"][:count].astype(np.float64 if one.x64 else np.float32)
    table = {
        "predict": Argument((predict_of(one),), "function"),
        "params": Argument((one.params,), "params"),
        "inputs": Argument((inputs, jnp.asarray(inputs)), "params"),
        "softmax": FLAG,
        "batch_size": Argument((None, None, 7, np.int64(23)), "count or none"),
        "method": Argument(("auto", "exact", "iterative"), "choice"),
        "rtol": Argument((1e-4, 1e-2), "number"),
    }
    if one.state is not None:
        table["state"] = Argument((one.state,), "array")

    def judge(result: Any, values: dict[str, Any]) -> str:
        norms, largest = true_norms(one, variant, inputs, bool(values["softmax"]))
        rounding = (1e-9 if one.x64 else 1e-4) * largest
        return first(
            far(result.values, norms, 3 * result.bounds + rounding, "norm"),
            far(result.max, norms.max(), 3 * result.bounds.max() + rounding, "max"),
        )

    said = f"{one.name!r}:{variant}"
    return call_of("jacobian_norms", numbers, table, judge, said, x64=one.x64)


_PREDICTIONS: dict[Any, Callable[..., Any]] = {}


def predict_of(one: Problem) -> Callable[..., Any]:
    """`predict(params, inputs)` of a problem, one function for each."""
    function = one.functions.predict
    return _PREDICTIONS.setdefault(function, lambda params, inputs, *state: function(params, {"x": inputs}, *state))


def true_norms(one: Problem, variant: int, inputs: np.ndarray, softmax: bool) -> tuple[np.ndarray, float]:
    """[n] the norms, and the largest of a Jacobian of the outputs themselves."""

    def outputs(x: Any) -> Any:
        state = () if one.state is None else (doubled(one.state),)
        found = one.exact.predict(doubled(one.params), {"x": x[None]}, *state)[0]
        return found, found

    def norms(x: Any) -> Any:
        (jacobian, found) = jax.jacrev(outputs, has_aux=True)(x)
        flat_one = jacobian.reshape(found.size, -1)
        if softmax:
            p = jax.nn.softmax(found).reshape(-1, found.shape[-1])
            inner = jnp.einsum("tc,cd->tcd", p, jnp.eye(p.shape[1])) - jnp.einsum("tc,td->tcd", p, p)
            soft = jnp.einsum("tcd,tdp->tcp", inner, flat_one.reshape(*p.shape, -1)).reshape(found.size, -1)
            return jnp.linalg.norm(soft, 2), jnp.linalg.norm(flat_one, 2)
        return jnp.linalg.norm(flat_one, 2), jnp.linalg.norm(flat_one, 2)

    with jax.enable_x64(True):
        found, plain = jax.vmap(norms)(np.asarray(inputs, np.float64))
    return np.asarray(found), float(np.asarray(plain).max())


def landscape(numbers: Numbers) -> Call:
    name = numbers.choice(("line", "along", "plane"))
    one, variant = operators.choose_problem(numbers, lambda one: one.name not in ("integers", "own rule"))
    draw = np.random.default_rng(numbers.randrange(100))

    def like() -> Any:
        normal = lambda x: jnp.asarray(draw.standard_normal(np.shape(x)), jnp.asarray(x).dtype)  # noqa: E731
        return jax.tree.map(normal, one.params)

    with jax.enable_x64(one.x64):
        u, v = like(), like()
    loss = loss_of(one.functions)
    positions = Argument(([0.0, 0.5, 1.0], np.linspace(-1, 2, 4), (0, 1), np.array([0.25], np.float32)), "positions")
    common = {"function": Argument((loss,), "function"), "data": Argument((operators.data_of(one, numbers),), "data")}
    if one.state is not None:
        common["state"] = Argument((one.state,), "array")
    tables: dict[str, dict[str, Argument]] = {
        "line": {"a": Argument((one.params,), "params"), "b": Argument((u,), "params"), "alphas": positions},
        "along": {"origin": Argument((one.params,), "params"), "direction": Argument((u,), "params"),
                  "distances": positions},
        "plane": {"origin": Argument((one.params,), "params"), "u": Argument((u,), "params"),
                  "v": Argument((v,), "params"), "alphas": positions, "betas": positions},
    }  # fmt: skip

    def judge(result: Any, values: dict[str, Any]) -> str:
        origin, first_way, second_way = flat(one.params), flat(u), flat(v)
        alphas = np.asarray(result.alphas, np.float64)
        if name == "line":
            points, distance = [(1 - a) * origin + a * first_way for a in alphas], np.linalg.norm(first_way - origin)
        elif name == "along":
            points, distance = [origin + a * first_way for a in alphas], np.linalg.norm(first_way)
        else:
            points = [origin + a * first_way + b * second_way for a in alphas for b in result.betas]
            distance = np.linalg.norm(first_way)
        true = true_losses(one, points)
        if values["function"] is gives_nan:  # it may: a landscape has places where it is not finite
            return ""
        ours = np.asarray(result.values, np.float64).ravel()
        # Points of a line are rounded to the type of its ends.
        type_error = 0.05 if one.narrow or one.name in ("cast", "softplus") else (1e-9 if one.x64 else 1e-4)
        return first(
            far(ours, true, type_error * (1 + np.abs(true)), "value"),
            far(result.distances[0] if name == "plane" else result.distance, distance, 1e-5 * distance, "distance"),
        )

    call = call_of(name, numbers, common | tables[name], judge, f"{one.name!r}:{variant}", x64=one.x64)
    loose = f"function={gives_nan!r}"[:40] in call.said or (one.name == "scalar" and call.must != REFUSE)
    return call._replace(must=EITHER) if loose else call


def true_losses(one: Problem, points: list[np.ndarray]) -> np.ndarray:
    """[k] the loss over all the data at flat points."""
    with jax.enable_x64(True):
        batch, state = doubled(one.batch), () if one.state is None else (doubled(one.state),)
        size = one.statistics_batch or one.number
        cuts = [jax.tree.map(lambda a, i=i: a[i : i + size], batch) for i in range(0, one.number, size)]
        loss = loss_of(one.exact)
        return np.array([np.mean([float(loss(shaped(one.params, p), cut, *state)) for cut in cuts]) for p in points])


def random_direction(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers")
    with_matrix = any(np.ndim(leaf) > 1 for leaf in jax.tree.leaves(one.params))
    normalise = numbers.choice(("filter", "layer", "unit")) if with_matrix else "unit"
    table = {"key": KEYS, "params": Argument((one.params,), "params"),
             "normalise": Argument((normalise,), "choice"),
             "output_axis": Argument((None, None, -1), "axis or none")}  # fmt: skip

    def judge(result: Any, values: dict[str, Any]) -> str:
        error = 0.02 if one.narrow else 1e-4
        wrong = far(result.norm, np.linalg.norm(flat(result.vector)), error * (1 + result.norm), "norm")
        if normalise == "unit":
            return first(wrong, far(result.norm, 1, error, "norm"))
        axis = -1 if values["output_axis"] is None else values["output_axis"]
        if callable(axis):
            return wrong
        for w, d in zip(jax.tree.leaves(one.params), jax.tree.leaves(result.vector), strict=True):
            w, d = np.asarray(w, np.float64), np.asarray(d, np.float64)
            if w.ndim < 2:
                wrong = first(wrong, far(np.abs(d).max(), 0, 0, "bias"))
                continue
            rest = None if normalise == "layer" else tuple(i for i in range(w.ndim) if i != int(axis) % w.ndim)
            ours, theirs = (np.sqrt((x**2).sum(axis=rest)) for x in (d, w))
            wrong = first(wrong, far(ours, theirs, error * (1 + np.max(theirs)), "length of a filter"))
        return wrong

    call = call_of("random_direction", numbers, table, judge, f"{one.name!r}:{variant}", x64=one.x64)
    # An axis says nothing where no array has filters.
    loose = "output_axis" in call.said and normalise != "filter"
    return call._replace(must=EITHER) if loose else call


def decompose(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers")
    known: Truth = truth(one.name, variant)
    table = {
        "predict": Argument((one.functions.predict,), "function"),
        "criterion": Argument((one.functions.criterion,), "function"),
        "params": Argument((one.params,), "params"),
        "data": Argument((operators.data_of(one, numbers),), "data"),
        "key": KEYS,
        "num_steps": Argument((12, 0, 12), "count or zero"),
        "num_probes": Argument((2,), "count"),
        "trace_probes": Argument((6, 0), "count or zero"),
        "exact": Argument((False, True), "flag"),
        "show_progress": FLAG,
    }
    if one.state is not None:
        table["state"] = Argument((one.state,), "array")

    def judge(result: Any, values: dict[str, Any]) -> str:
        wrong: list[str] = []
        matrices = (known.hessian, known.gauss_newton, known.hessian - known.gauss_newton)
        rounding = (1e-10 if one.x64 else 5e-5) * max(float(np.linalg.norm(m, 2)) for m in matrices)
        for part, matrix in zip((result.hessian, result.gauss_newton, result.residual), matrices, strict=True):
            if part.spectrum is not None:
                wrong += spectrum_wrong(
                    part.spectrum, matrix, int(values["num_steps"]), int(values["num_probes"]), rounding
                )
            if part.moments is not None:
                wrong += moments_wrong(part.moments, matrix, int(values["trace_probes"]), rounding)
            if part.exact is not None:
                wrong.append(far(part.exact.values, np.linalg.eigvalsh(matrix), 2 * rounding, "eigenvalue"))
        return first(*wrong)

    return call_of("decompose", numbers, table, judge, f"{one.name!r}:{variant}", x64=one.x64)


def functionals(numbers: Numbers) -> Call:
    name = numbers.choice(
        ("zero_mass", "effective_rank", "participation_ratio", "effective_dimension", "log_determinant")
    )
    values = np.random.default_rng(numbers.randrange(50)).standard_normal(12) ** 2
    values[:3] = 0
    table = {
        "values": Argument(
            (values, values.astype(np.float32), list(values), jnp.asarray(values, jnp.float32)), "values"
        )
    }
    if name in ("effective_dimension", "log_determinant"):
        table["damping"] = Argument((0.1, np.float32(1.0), 2), "number")
    given, must, words = drawn(numbers, table)

    def judge(result: Any) -> str:
        x = np.asarray(given["values"], np.float64)
        damping = float(given.get("damping", 0))
        right = {
            "zero_mass": lambda: 0.25,
            "effective_rank": lambda: 9,
            "participation_ratio": lambda: x.sum() ** 2 / (x**2).sum(),
            "effective_dimension": lambda: (x / (x + damping)).sum(),
            "log_determinant": lambda: np.log(x + damping).sum(),
        }[name]()
        return far(result, right, 1e-9 * (1 + abs(right)), name)

    damping = given.get("damping")
    if must == REFUSE and isinstance(damping, float) and damping == -1.0:
        must = EITHER
    return Call(f"functionals.{name}({words})", lambda: getattr(cv.functionals, name)(**given), judge, must)


def stored(numbers: Numbers) -> Call:
    """A spectrum as arrays and back, also with arrays that are no spectrum."""
    nodes = np.sort(np.random.default_rng(2).standard_normal((2, 4)), axis=1)
    spectrum_there = cv.Spectrum(nodes, np.full((2, 4), 0.25), np.zeros((2, 4)), np.full(2, 4), np.zeros(2), 30, 8, 1.0,
                                 "highest", "float32")  # fmt: skip
    arrays: Any = cv.spectrum_to_arrays(spectrum_there)
    if numbers.random() < 0.4:
        trace = spectrum_there.trace.value
        return Call("spectrum_from_arrays(spectrum_to_arrays)", lambda: cv.spectrum_from_arrays(arrays),
                    lambda r: far([*r.nodes.ravel(), r.trace.value], [*nodes.ravel(), trace], 0))  # fmt: skip
    name = numbers.choice(list(arrays))
    spoiled: list[Any] = [None, "text", np.zeros(0), np.full((2, 4), NAN), np.array(["a"]), 3, [], np.ones((7, 7)),
                          object(), np.array([None, 1]), -1]  # fmt: skip
    value = numbers.choice(spoiled)
    bad: Any = arrays | {name: value} if numbers.random() < 0.7 else {k: v for k, v in arrays.items() if k != name}
    bad = numbers.choice((bad, bad, bad, bad, 3, None, [], "text"))

    def use() -> Any:
        loaded = cv.spectrum_from_arrays(bad)
        return loaded.trace, loaded.largest, loaded.zero_mass("hessian"), loaded.noise_floor

    return Call(f"spectrum_from_arrays({name}={value!r} of {type(bad).__name__})".replace("\n", " "), use,
                lambda r: "", EITHER)  # fmt: skip


def batches(numbers: Numbers) -> Call:
    """`Batches` in every form, by the Hessian that they give."""
    one, variant = operators.choose_problem(numbers, lambda one: not one.weights and not one.statistics_batch
                                            and one.name != "integers")  # fmt: skip
    found = draw_matrix(numbers, "hessian", one, variant)
    table = {
        "arrays": Argument((operators.arrays_of(one, numbers),), "data"),
        "batch_size": Argument((None, 7, 23, np.int64(7), 10**9, jnp.int32(7)), "count or none"),
        "statistics_batch": Argument((None,), "count or none"),
        "weights": Argument((None, np.ones(one.number), jnp.full(one.number, 2.0)), "array"),
    }
    values, must, words = drawn(numbers, table)
    spoiled = numbers.random()
    if spoiled < 0.3 and must == RETURN:
        each = np.ones(one.number)
        no_weights: Sequence[Any] = (
            *("nowhere", -each, 0 * each, np.ones(3), NAN * each, 3, np.array(["a"] * one.number), {}, [], 1j * each),
            *(1j * np.ones((one.number, 2)), {"a": each, "b": each}),
        )
        values["weights"], must = numbers.choice(no_weights), REFUSE
        words = f"weights={values['weights']!r}"[:100]
    if "statistics_batch" in words and must == EITHER:
        # It changes what the loss is, where the data have more examples than that.
        found = found._replace(matrix=np.full_like(found.matrix, NAN))

    def make() -> Any:
        with jax.enable_x64(one.x64):
            return cv.hessian(loss_of(one.functions), one.params, cv.Batches(**values), one.state).to_dense()

    def judge(result: Any) -> str:
        if np.isnan(found.matrix).all():
            return ""
        return far(result, found.matrix, found.rounding, "matrix")

    return Call(f"Batches({one.name!r}:{variant}; {' '.join(words.split())})", make, judge, must)


def spread(numbers: Numbers) -> Call:
    """Examples over all devices of the process, whose number need not divide them, by the Hessian that they give."""
    one, variant = operators.choose_problem(numbers, lambda one: one.name != "integers")
    found = draw_matrix(numbers, "hessian", one, variant)
    table = {"data": Argument((operators.data_of(one, numbers),), "data")}
    values, must, words = drawn(numbers, table)

    def make() -> Any:
        mesh = jax.make_mesh((len(jax.devices()),), ("x",), (jax.sharding.AxisType.Auto,))
        with jax.enable_x64(one.x64):
            return cv.hessian(loss_of(one.functions), one.params, cv.spread(**values, mesh=mesh), one.state).to_dense()

    def judge(result: Any) -> str:
        return far(result, found.matrix, found.rounding, "matrix")

    return Call(f"spread({one.name!r}:{variant}; {' '.join(words.split())})", make, judge, must)


def sampled_fisher(numbers: Numbers) -> Call:
    """A likelihood of the user's own: with many labels, near the exact one."""
    one, variant = operators.choose_problem(numbers, lambda one: one.name in ("tanh", "logistic", "bfloat16"))
    known, data = truth(one.name, variant), operators.data_of(one, numbers)
    pair = (_sample, _log_likelihood)
    table = {
        "predict": Argument((one.functions.predict,), "function"),
        "params": Argument((one.params,), "params"),
        "data": Argument((data,), "data"),
        "likelihood": Argument((pair,), "choice"),
        "key": KEYS,
        "num_samples": Argument((400,), "count"),
    }

    def judge(op: Any, values: dict[str, Any]) -> str:
        count = int(values["num_samples"])
        matrix = operators.model_fisher_matrix(one, known)
        # Of each entry, a mean of `count` bounded draws for each example.
        reach = float((np.abs(known.jacobian).max(axis=(1, 2)) ** 2).max())
        return far(op.to_dense(), matrix, 8 * reach / math.sqrt(count * one.number), "matrix") if op.size < 40 else ""

    return call_of("model_fisher", numbers, table, judge, f"sampled {one.name!r}:{variant}")


def _sample(key: Any, outputs: Any) -> Any:
    return jax.random.categorical(key, outputs)


def _log_likelihood(outputs: Any, label: Any) -> Any:
    return jax.nn.log_softmax(outputs)[label]


# Public functions by the kinds that call them, with the number of cases of a whole run.
KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    **{name: (operator_call(name), 70) for name in ("hessian", "gauss_newton", "residual", "fisher", "model_fisher")},
    "gradient_covariance": (operator_call("gradient_covariance"), 50),
    "model_fisher of drawn labels": (sampled_fisher, 30),
    "Batches": (batches, 100),
    "spread": (spread, 40),
    "from_matvec": (from_matvec, 50),
    "linearize": (linearize, 50),
    "restrict": (restrict, 70),
    "blocks": (blocks, 50),
    "products": (products, 70),
    "sums and multiples": (algebra, 70),
    "trace": (trace, 90),
    "moments": (moments, 70),
    "eigenpairs": (eigenpairs, 120),
    "sharpness": (sharpness, 80),
    "tracker": (tracker, 60),
    "logs": (logs, 20),
    "lanczos": (lanczos, 90),
    "spectrum": (spectrum, 80),
    "spectrum_from_arrays": (stored, 40),
    "log_determinant": (log_determinant, 60),
    "eigvalsh": (exact, 70),
    "functionals": (functionals, 60),
    "check": (check, 60),
    "plan": (plan, 30),
    "minibatch": (minibatch, 70),
    "jacobian_norms": (jacobian_norms, 80),
    "landscape": (landscape, 70),
    "random_direction": (random_direction, 60),
    "decompose": (decompose, 60),
    **linear_algebra.KINDS,
    **blockwise.KINDS,
    **edges.KINDS,
}
