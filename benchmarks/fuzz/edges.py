"""Random calls of what is measured at edges of stability: along updates, in subspaces, in tails of spectra."""

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
import scipy.stats

import hessflat.curvature as cv
from benchmarks.fuzz import operators
from benchmarks.fuzz.judging import KEYS, TAIL, Numbers, call_of, far, first, operator_argument
from benchmarks.fuzz.operators import loss_of, shares
from benchmarks.fuzz.outcomes import EITHER, REFUSE, RETURN, Call
from benchmarks.fuzz.problems import Problem, doubled, flat, shaped, truth
from benchmarks.fuzz.spoiled import Argument, Lazy, drawn, made


def edges(numbers: Numbers) -> Call:
    """The recursion of an optimiser on a parabola contracts just below its edge, and not just above it."""
    name = numbers.choice(("gradient_descent", "heavy_ball", "nesterov", "adam", "sam"))
    rate, mean = 10 ** numbers.uniform(-3, 0.5), numbers.uniform(0.05, 0.95)
    radius, norm = 10 ** numbers.uniform(-3, 0), 10 ** numbers.uniform(-2, 1)
    arguments = {"gradient_descent": (rate,), "sam": (rate, radius, norm)}.get(name, (rate, mean))

    def radius_at(curvature: float) -> float:
        """The spectral radius of a step of (w, z); of SAM, how far a step goes, relative to twice the way down."""
        if name == "sam":
            return rate * curvature * (1 + radius * curvature / norm) / 2
        step: Any = {
            "gradient_descent": [[1 - rate * curvature, 0], [0, 0]],
            "heavy_ball": [[1 - rate * curvature, -rate * mean], [curvature, mean]],
            "nesterov": [[1 - rate * (1 + mean) * curvature, -rate * mean**2], [curvature, mean]],
            "adam": [[1 - rate * (1 - mean) * curvature, -rate * mean], [(1 - mean) * curvature, mean]],
        }[name]
        return float(np.abs(np.linalg.eigvals(step)).max())

    def judge(result: Any) -> str:
        edge = float(result)
        stable, not_stable = radius_at(0.999 * edge) < 1, radius_at(1.001 * edge) > 1
        return "" if stable and not_stable else f"{edge:g} is no edge: {stable} below, {not_stable} above"

    said = ", ".join(f"{x:.3g}" for x in arguments)
    return Call(f"edges.{name}({said})", lambda: getattr(cv.edges, name)(*arguments), judge)


def _update(one: Problem, numbers: Numbers) -> tuple[Any, np.ndarray]:
    """A vector of random numbers as a tree like the parameters, and in float64."""
    vector = np.random.default_rng(numbers.randrange(10**6)).standard_normal(flat(one.params).size).astype(np.float32)
    return shaped(one.params, vector), vector.astype(np.float64)


def directional_sharpness(numbers: Numbers) -> Call:
    kind = numbers.choice(("hessian", "hessian", "gauss_newton"))
    one, variant = operators.choose_problem(numbers, lambda one: one.name not in ("integers", "scalar"))
    found, known = operators.draw_matrix(numbers, kind, one, variant), truth(one.name, variant)
    updates, u = _update(one, numbers)
    table = {
        "op": operator_argument(found),
        "updates": Argument((updates,), "vector"),
        "learning_rate": Argument((1.0, 0.1, np.float32(0.5)), "number"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        product, square, rate = found.matrix @ u, u @ u, float(values["learning_rate"])
        value = u @ product / square
        slope = float(shares(one) @ known.gradients @ u)
        residual = np.linalg.norm(product - value * u) / math.sqrt(square)
        wrong = first(
            far(result.value, value, 2 * found.rounding, "value"),
            far(result.residual, residual, 2 * found.rounding, "residual"),
        )
        rounding = (1e-9 if one.x64 else 1e-3) * float(
            np.linalg.norm(known.gradients, axis=1).max() * np.linalg.norm(u)
        )
        if wrong or not math.isfinite(rate) or abs(slope) < 10 * rounding:
            return wrong
        if kind != "hessian" or slope > 0:
            return "" if math.isnan(result.critical) else f"no descent has critical {result.critical}"
        right = u @ product / (-rate * slope)
        allowed = 2 * found.rounding * square / (-rate * slope) + 2 * abs(right) * rounding / -slope
        return far(result.critical, right, allowed, "critical")

    return call_of("directional_sharpness", numbers, table, judge, found.said, x64=one.x64)


def critical_sharpness(numbers: Numbers) -> Call:
    """On parabolas, whose loss comes back where the closed form says."""
    one, variant = operators.choose_problem(numbers, lambda one: one.name == "linear")
    found, known = operators.draw_matrix(numbers, "hessian", one, variant), truth(one.name, variant)
    gradient, rate = shares(one) @ known.gradients, numbers.choice((1e-3, 0.01, 0.1, 1.0))
    _, noise = _update(one, numbers)
    size = numbers.choice((0, 0.1)) * np.linalg.norm(gradient) / np.linalg.norm(noise)
    u = (-rate * (gradient + size * noise)).astype(np.float32)
    table = {
        "op": operator_argument(found),
        "updates": Argument((shaped(one.params, u),), "vector"),
        "learning_rate": Argument((rate,), "number"),
        "start": Argument((1.0, 1.0, 0.2, np.float32(3.0)), "number"),
        "rtol": Argument((0.05, 0.01), "number"),
        "passes": Argument((24, np.int64(30)), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        along, plain = float(u @ known.hessian @ u), all(values[name] in table[name].valid for name in list(table)[2:])
        if not plain:
            return ""
        true = along / float(-rate * (gradient @ u))
        allowed = (0.01 + float(values["rtol"])) * true
        inside = result.lower * (1 - 1e-3) <= true <= result.upper * (1 + 1e-3)
        return first(
            far(result.value, true, allowed, "λ_c"),
            "" if inside else f"{true:g} is not from {result.lower:g} to {result.upper:g}",
            far(result.step * result.value, 2, 1e-5, "η_c λ_c"),
        )

    return call_of("critical_sharpness", numbers, table, judge, found.said)


def sharpness_gradient(numbers: Numbers) -> Call:
    """∇(u'Hu) beside the third derivatives of the loss in float64."""
    smooth = ("tanh", "linear", "logistic", "vector", "nested", "mask", "float64", "matrix", "state", "stack", "tokens")
    one, variant = operators.choose_problem(numbers, lambda one: one.name in smooth)
    found = operators.draw_matrix(numbers, "hessian", one, variant)
    vector, v = _update(one, numbers)
    updates, step = _update(one, numbers)
    table = {
        "op": operator_argument(found),
        "vector": Argument((vector,), "vector"),
        "updates": Argument((None, updates), "vector or none"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        u = v / np.linalg.norm(v)
        third = _third(one, u)
        size = float(np.linalg.norm(third))
        rounding = 4 * found.rounding + (1e-9 if one.x64 else 1e-4) * size
        wrong = first(
            far(result.value, u @ found.matrix @ u, 4 * found.rounding, "value"),
            far(flat(result.gradient), third, rounding, "gradient"),
            far(result.norm, size, 3 * rounding, "norm"),
        )
        if wrong or values["updates"] is None:
            return wrong
        return far(result.change, third @ step, 3 * rounding * np.linalg.norm(step), "change")

    return call_of("sharpness_gradient", numbers, table, judge, found.said, x64=one.x64)


def _third(one: Problem, u: np.ndarray) -> np.ndarray:
    """The gradient of u'Hu."""
    with jax.enable_x64(True):
        batch, state = doubled(one.batch), () if one.state is None else (doubled(one.state),)
        loss = lambda x: loss_of(one.exact)(shaped(one.params, x), batch, *state)  # noqa: E731
        form = lambda x: u @ jax.jvp(jax.grad(loss), (x,), (jnp.asarray(u),))[1]  # noqa: E731
        return np.asarray(jax.grad(form)(jnp.asarray(flat(one.params))))


def gradient_noise_scale(numbers: Numbers) -> Call:
    one, variant = operators.choose_problem(
        numbers, lambda one: not one.statistics_batch and one.weights is None and one.name not in ("integers", "cast")
    )
    found, known = operators.draw_matrix(numbers, "hessian", one, variant), truth(one.name, variant)
    table = {
        "op": operator_argument(found),
        "key": KEYS,
        "batch_size": Argument((1, 7, np.int64(15), one.number - 1), "count"),
        "num_batches": Argument((20, 2, 60), "count"),
    }

    def judge(result: Any, values: dict[str, Any]) -> str:
        size, count, number = int(values["batch_size"]), int(values["num_batches"]), one.number
        gradients = known.gradients.reshape(number, -1, found.size).mean(axis=1)
        mean = gradients.mean(axis=0)
        squares, norm = ((gradients - mean) ** 2).sum(axis=1), float(mean @ mean)
        # Of a mini-batch g_B − g is a mean over it, and over the others (B − N) / B times theirs.
        factor = size * (number - 1) / (number - size) * min(1, (number - size) / size) ** 2
        allowed = factor * squares.max() * math.sqrt(TAIL / (2 * count))
        lengths = float(np.linalg.norm(gradients, axis=1).max())
        rounding = (1e-8 if one.x64 else 1e-4) * number * lengths**2
        return first(
            far(result.squared_norm, norm, (1e-8 if one.x64 else 1e-4) * lengths**2, "‖g‖²"),
            far(result.trace, squares.mean(), allowed + rounding, "tr Σ"),
            far(result.value, result.trace / result.squared_norm, 1e-5 * result.value, "ratio"),
        )

    return call_of("gradient_noise_scale", numbers, table, judge, found.said, x64=one.x64)


def subspaces(numbers: Numbers) -> Call:
    """Eigenspaces of random matrices, by the angles of SciPy."""
    name = numbers.choice(("subspace_overlap", "subspace_share"))
    draw, k = np.random.default_rng(numbers.randrange(10**6)), numbers.choice((1, 2, 3))
    bases = [np.linalg.qr(draw.standard_normal((9, 9)))[0] for _ in range(2)]
    bases[1] = np.linalg.qr(bases[0] + numbers.choice((0, 0.1, 3)) * bases[1])[0]
    vector = draw.standard_normal(9).astype(np.float32)
    pairs = [_pairs(basis[:, : k + 1 + numbers.randrange(2)]) for basis in bases]
    no_pairs = _pairs(bases[0][:, :k])
    spoil = numbers.choice(("nothing", "nothing", "too few", "vector"))
    first_pairs = no_pairs if spoil == "too few" else pairs[0]
    other: Any = pairs[1] if name == "subspace_overlap" else {"a": vector[:6].reshape(2, 3), "b": vector[6:]}
    if spoil == "vector":
        other = pairs[1]._replace(vectors={"a": np.ones((k + 1, 2), np.float32)})
        other = other if name == "subspace_overlap" else {"a": np.zeros((2, 3)), "b": np.zeros(3)}
    given = (first_pairs, other, k) if name == "subspace_overlap" else (other, first_pairs, k)

    def judge(result: Any) -> str:
        basis = bases[0][:, :k]
        if name == "subspace_overlap":
            right = float(np.mean(np.cos(scipy.linalg.subspace_angles(basis, bases[1][:, :k])) ** 2))
        else:
            right = float(np.sum((basis.T @ vector) ** 2) / np.sum(vector.astype(np.float64) ** 2))
        return first(far(result.value, right, result.error + 1e-5, "share"), far(result.error, 0, 1e-5, "error"))

    call = Call(f"{name}(k={k}, {spoil})", lambda: getattr(cv, name)(*given), judge)
    return call if spoil == "nothing" else call._replace(must=REFUSE)


def _pairs(basis: np.ndarray) -> Any:
    """Pairs as `eigenpairs` gives them, of a tree of two arrays."""
    rows, count = basis.T.astype(np.float32), basis.shape[1]
    vectors = {"a": rows[:, :6].reshape(count, 2, 3), "b": rows[:, 6:]}
    residuals = np.full(count, 1e-7)
    return cv.EigenPairs(np.arange(count, 0, -1.0), vectors, residuals, residuals < 1, count, 0.0, "highest")


def tails(numbers: Numbers) -> Call:
    """Tails of numbers that follow a power law, beside their sums and SciPy's test."""
    name = numbers.choice(("power_law", "outliers"))
    draw = np.random.default_rng(numbers.randrange(10**6))
    values = 0.3 * (draw.pareto(numbers.uniform(0.5, 3), numbers.choice((30, 200))) + 1)
    valid = (values, np.concatenate([values, [0.0, -1]]), list(values), values.astype(np.float32))
    table = {"values": Argument(valid, "values")}
    if name == "power_law":
        table |= {"minimum": Argument((None, 0.31, np.float64(0.3)), "number or none"),
                  "num_samples": Argument((0, 5, np.int64(3)), "count or zero")}  # fmt: skip
    given, must, words = drawn(numbers, table, 0.3)

    def judge(result: Any) -> str:
        ascending = np.sort(np.asarray(given["values"], np.float64))
        ascending = ascending[ascending > 0]
        if name == "outliers":
            ratios = [b / a for a, b in itertools.pairwise(ascending)]
            place = ratios.index(max(ratios)) + 1
            return first(far(result.number, ascending.size - place, 0, "number"),
                         far(result.ratio, max(ratios), 1e-9 * max(ratios), "ratio"),
                         far(result.smallest, ascending[place], 0, "smallest"))  # fmt: skip
        tail = ascending[ascending >= result.minimum]
        exponent, error = _law(tail)
        distance = _distance(tail)
        wrong = first(
            far(result.num_tail, tail.size, 0, "values of the tail"),
            far(result.exponent, exponent, 1e-7 * exponent, "exponent"),
            far(result.distance, distance, 1e-7, "distance"),
        )
        if given["minimum"] is None:
            others = [_distance(ascending[i:]) for i in range(0, ascending.size - 10, 7)]
            least = min(others)
            far_off = ascending.size <= 100 and distance > least + 1e-7
            return first(wrong, f"a tail has the distance {least:g}, not {distance:g}" if far_off else "")
        smallest = ascending[ascending >= float(given["minimum"])].min()
        return first(wrong, far(result.minimum, smallest, 0, "minimum"),
                     far(result.standard_error, error, 1e-7 * error, "error"))  # fmt: skip

    call = Call(f"{name}({words})", lambda: getattr(cv, name)(**given), judge, must)
    return call


def _law(tail: np.ndarray) -> tuple[float, float]:
    """The exponent of a tail, and its standard error."""
    exponent = 1 + tail.size / float(np.log(tail / tail.min()).sum())
    return exponent, (exponent - 1) / math.sqrt(tail.size)


def _distance(tail: np.ndarray) -> float:
    """Kolmogorov's and Smirnov's distance of a tail from its law."""
    exponent, _ = _law(tail)
    return float(scipy.stats.kstest(tail, scipy.stats.pareto(exponent - 1, scale=tail.min()).cdf).statistic)


def preconditioner(numbers: Numbers) -> Call:
    """P of an optimiser of Optax, by what its last update is."""
    one, _ = operators.choose_problem(numbers, lambda one: one.name in ("tanh", "linear", "vector", "nested", "stack"))
    name = numbers.choice(("adam", "rmsprop", "sgd"))
    rate, b1, b2, eps = 0.5, numbers.choice((0.5, 0.9)), numbers.choice((0.9, 0.99)), numbers.choice((1e-3, 1e-8))
    optimiser: Any = {
        "adam": partial(optax.adam, rate, b1, b2, eps),
        "rmsprop": partial(optax.rmsprop, rate, b2, eps),
        "sgd": partial(optax.sgd, rate, b1),
    }[name]()
    seed, updates = numbers.randrange(10**6), numbers.choice((1, 3))

    def state_and_step() -> tuple[Any, Any, Any]:
        draw, state = np.random.default_rng(seed), optimiser.init(one.params)
        step = gradient = None
        for _ in range(updates):
            gradient = jax.tree.map(lambda x: jnp.asarray(draw.standard_normal(np.shape(x)), jnp.float32), one.params)
            step, state = optimiser.update(gradient, state)
        return state, step, gradient

    table = {
        "opt_state": Argument((Lazy(lambda: state_and_step()[0]),), "array"),
        "params": Argument((one.params,), "params"),
        "b1": Argument((b1,), "number"),
        "b2": Argument((b2,), "number"),
        "eps": Argument((eps,), "number"),
    }
    values, must, words = drawn(numbers, table | {"b1": table["b1"]._replace(kind="array"),
                                                  "b2": table["b2"]._replace(kind="array"),
                                                  "eps": table["eps"]._replace(kind="array")})  # fmt: skip
    if name == "sgd" and must == REFUSE:  # of which params say the shapes alone
        must = EITHER
    bad = numbers.random() < 0.2
    if bad:
        values["opt_state"], must = numbers.choice((3, "adam", object(), optax.lion(0.1).init(one.params))), REFUSE

    def judge(result: Any) -> str:
        state, step, gradient = state_and_step()
        if name == "sgd":
            size = flat(one.params).size if must == RETURN else flat(result).size
            return far(flat(result), np.ones(size), 0, "P")
        moved = state[0].mu if name == "adam" else gradient
        right = -rate * flat(moved) / flat(step)
        return far(flat(result), right, 1e-4 * np.abs(right), "P")

    return Call(f"preconditioner({name} of {one.name!r}, {updates} updates; {'no state' if bad else words})",
                lambda: cv.preconditioner(**made(values)), judge, must)  # fmt: skip


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "edges": (edges, 40),
    "directional_sharpness": (directional_sharpness, 60),
    "critical_sharpness": (critical_sharpness, 40),
    "sharpness_gradient": (sharpness_gradient, 40),
    "gradient_noise_scale": (gradient_noise_scale, 50),
    "subspaces": (subspaces, 40),
    "tails": (tails, 50),
    "preconditioner": (preconditioner, 40),
}
