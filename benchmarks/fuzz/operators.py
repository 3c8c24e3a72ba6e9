"""Operators drawn at random, each with its matrix in float64."""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.fuzz.problems import NAMES, VARIANTS, Functions, Problem, Truth, problem, truth


class Drawn(NamedTuple):
    """An operator to be made, and what is known of it."""

    said: str
    make: Callable[[], Any]
    matrix: np.ndarray  # [P, P] float64
    scale: float  # to which rounding is relative: the norm of the largest term
    problem: Problem
    variant: int
    x64: bool
    examples: bool = True  # whether it is one mean over examples, of which mini-batches can be taken
    each: np.ndarray | None = None  # [N, P, P] of which it is the mean, where examples count alike

    @property
    def size(self) -> int:
        """P."""
        return len(self.matrix)

    @property
    def rounding(self) -> float:
        """What products may be off by, for a vector of unit length."""
        return (1e-10 if self.x64 else 5e-5) * self.scale


def choose_problem(numbers: random.Random, only: Callable[[Problem], bool] = lambda one: True) -> tuple[Problem, int]:
    """A problem and its variant; the first ones of the list oftener."""
    while True:
        name = NAMES[min(int(numbers.expovariate(1 / 6)), len(NAMES) - 1)]
        variant = numbers.randrange(VARIANTS)
        if only(one := problem(name, variant)):
            return one, variant


def arrays_of(one: Problem, numbers: random.Random) -> dict[str, Any]:
    """The data in a form that people have them in."""
    form = numbers.choice(("numpy", "numpy", "jax", "read only", "big-endian", "fortran", "double"))
    batch: dict[str, Any] = dict(one.batch)
    if one.x64 or form == "numpy":
        return batch
    if form == "jax":
        return {name: jnp.asarray(array) for name, array in batch.items()}
    if form == "read only":
        for name in batch:
            batch[name] = batch[name].copy()
            batch[name].flags.writeable = False
    elif form == "big-endian":
        batch = {name: a.astype(a.dtype.newbyteorder(">")) if a.dtype.itemsize > 1 else a for name, a in batch.items()}
    elif form == "fortran":
        batch = {name: np.asfortranarray(array) for name, array in batch.items()}
    else:
        batch = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in batch.items()}
    return batch


def data_of(one: Problem, numbers: random.Random) -> Any:
    """Arrays, or `Batches` of them with a size that means the same matrix."""
    arrays = arrays_of(one, numbers)
    if one.statistics_batch:
        return cv.Batches(arrays, numbers.choice((None, one.statistics_batch)), one.statistics_batch)
    if one.weights is None:
        sizes: Sequence[Any] = (None, None, 7, np.int64(7), one.number, 10**9)
        size = numbers.choice(sizes)
        return arrays if size is None and numbers.random() < 0.5 else cv.Batches(arrays, size)
    weights = numbers.choice((one.weights, one.batch[one.weights], jnp.asarray(one.batch[one.weights])))
    return cv.Batches(arrays, numbers.choice((None, 7, 10**9)), weights=weights)


@functools.cache
def loss_of(functions: Functions) -> Callable[..., Any]:
    """One loss for each problem, so that it is compiled once."""

    def loss(params: Any, batch: Any, *state: Any) -> Any:
        return functions.criterion(functions.predict(params, batch, *state), batch, *state)

    return loss


@functools.cache
def losses_of(functions: Functions) -> Callable[..., Any]:
    """The losses of each example."""

    def losses(params: Any, batch: Any, *state: Any) -> Any:
        return functions.losses(functions.predict(params, batch, *state), batch, *state)

    return losses


def shares(one: Problem) -> np.ndarray:
    """[L] the share of every single loss in the mean over the data."""
    weights = (
        one.batch[one.weights] if one.weights else np.ones(one.batch["y"].shape[: 2 if "token" in one.name else 1])
    )
    weights = weights.astype(np.float64).ravel()
    return weights / weights.sum()


def per_of(one: Problem) -> dict[str, Any]:
    """What tells a Fisher matrix which labels belong together."""
    if one.likelihood == "gaussian":
        return {"per": "example"}
    return {"per": "token"} if "token" in one.name else {}


def fisher_matrix(one: Problem, known: Truth) -> np.ndarray:
    """Σ share g gᵀ over single losses."""
    return np.einsum("l,lp,lq->pq", shares(one), known.gradients, known.gradients)


def model_fisher_matrix(one: Problem, known: Truth) -> np.ndarray:
    """Σ share Jᵀ F J over labels, F the Fisher matrix of a label's outputs."""
    outputs, jacobian = known.outputs, known.jacobian.reshape(-1, known.jacobian.shape[-1])
    if one.likelihood == "bernoulli":
        p = 1 / (1 + np.exp(-outputs))
        return np.einsum("n,n,np,nq->pq", shares(one), p * (1 - p), jacobian, jacobian)
    classes = outputs.shape[-1]
    rows: Any = jacobian.reshape(-1, classes, jacobian.shape[-1])
    if one.likelihood == "gaussian":
        return np.einsum("n,ncp,ncq->pq", shares(one), rows, rows)
    logits = outputs.reshape(-1, classes)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    inner = np.einsum("nc,cd->ncd", p, np.eye(classes)) - np.einsum("nc,nd->ncd", p, p)
    return np.einsum("n,ncp,ncd,ndq->pq", shares(one), rows, inner, rows)


def _state(one: Problem) -> dict[str, Any]:
    return {} if one.state is None else {"state": one.state}


MATRICES = ("hessian", "gauss_newton", "residual", "fisher", "model_fisher", "gradient_covariance")


def draw_matrix(numbers: random.Random, kind: str, one: Problem, variant: int) -> Drawn:
    """One of the curvature matrices of a problem."""
    known, data, functions = truth(one.name, variant), data_of(one, numbers), one.functions
    loss, losses = loss_of(functions), losses_of(functions)
    make: Callable[[], Any]
    each: Any = None
    if kind == "hessian":
        make, matrix = (lambda: cv.hessian(loss, one.params, data, **_state(one))), known.hessian
        each = known.each
    elif kind in ("gauss_newton", "residual"):
        build = getattr(cv, kind)
        make = lambda: build(functions.predict, functions.criterion, one.params, data, **_state(one))  # noqa: E731
        matrix = known.gauss_newton if kind == "gauss_newton" else known.hessian - known.gauss_newton
    elif kind == "model_fisher":
        options = {"likelihood": one.likelihood} | per_of(one) | _state(one)
        make = lambda: cv.model_fisher(functions.predict, one.params, data, **options)  # noqa: E731
        matrix = model_fisher_matrix(one, known)
    else:
        build, options = getattr(cv, kind), ({} if one.likelihood == "gaussian" else per_of(one)) | _state(one)
        make, matrix = (lambda: build(losses, one.params, data, **options)), fisher_matrix(one, known)
        each = np.einsum("lp,lq->lpq", known.gradients, known.gradients)
        if kind == "gradient_covariance":
            mean = shares(one) @ known.gradients
            each, matrix = None, matrix - np.outer(mean, mean)
    scale = max(float(np.linalg.norm(a, 2)) for a in (known.hessian, known.gauss_newton, matrix))
    if one.weights or one.statistics_batch or "token" in one.name:
        each = None
    said = f"{kind} of {one.name!r}:{variant}"
    return Drawn(said, make, matrix, scale, one, variant, one.x64, each=each)


def can_be(kind: str, one: Problem) -> bool:
    """Whether a problem has this matrix."""
    if kind == "model_fisher":
        return one.likelihood is not None
    if kind == "gradient_covariance" and one.name == "integers":
        return False  # its mean gradient is taken before anything can be left out
    return kind not in ("fisher", "gradient_covariance") or not one.statistics_batch


def _known_map(numbers: random.Random) -> Drawn:
    variant, size = numbers.randrange(VARIANTS), numbers.choice((6, 20))
    random_numbers = np.random.default_rng([variant, size])
    values = (
        random_numbers.standard_normal(size),
        np.concatenate([[5.0, 5, 5, 4], np.arange(size - 4) / size]),
        np.array([3.0, -3, 2, *np.zeros(size - 3)]) * 1e-12,
    )[variant]
    basis, _ = np.linalg.qr(random_numbers.standard_normal((size, size)))
    matrix = np.asarray((basis * values) @ basis.T, np.float32).astype(np.float64)
    matrix = (matrix + matrix.T) / 2
    array = np.asarray(matrix, np.float32)
    matrix, params = array.astype(np.float64), np.zeros(size, np.float32)
    make = lambda: cv.from_matvec(_times, params, array)  # noqa: E731
    return Drawn(f"from_matvec {size}:{variant}", make, matrix, float(np.linalg.norm(matrix, 2)), problem("linear", 0),
                 0, False, False)  # fmt: skip


def _times(vector: Any, matrix: Any) -> Any:
    return matrix @ vector


def draw_operator(
    numbers: random.Random, *, examples: bool = False, only: Callable[[Problem], bool] = lambda one: True
) -> Drawn:
    """An operator of any kind; with `examples`, one mean over a data set."""
    if not examples and numbers.random() < 0.12:
        return _known_map(numbers)
    kind = numbers.choice(("hessian", "hessian", "gauss_newton", *MATRICES))
    one, variant = choose_problem(numbers, lambda one: can_be(kind, one) and only(one))
    drawn = draw_matrix(numbers, kind, one, variant)
    change = numbers.choice(("none",) * 5 + ("scale", "shift", "sum", "restrict", "linearize"))
    if one.name == "integers":
        change = "restrict"
    if examples and change in ("linearize", "restrict", "sum"):
        change = "none"
    if change in ("scale", "shift"):
        number = numbers.choice((2, -1.5, np.float64(3.0), np.float32(0.5), 0.25, 0))
        if change == "scale":
            each = None if drawn.each is None else float(number) * drawn.each
            scale = max(abs(float(number)), 1e-3) * drawn.scale
            return drawn._replace(said=f"{number} * {drawn.said}", make=lambda: number * drawn.make(), scale=scale,
                                  matrix=float(number) * drawn.matrix, each=each)  # fmt: skip
        each = None if drawn.each is None else drawn.each + float(number) * np.eye(drawn.size)
        return drawn._replace(said=f"{drawn.said} + {number}", make=lambda: drawn.make() + number,
                              matrix=drawn.matrix + float(number) * np.eye(drawn.size), each=each,
                              scale=drawn.scale + abs(float(number)))  # fmt: skip
    if change == "sum":
        other = draw_matrix(numbers, "gauss_newton", one, variant)
        return drawn._replace(said=f"{drawn.said} - G / 2", make=lambda: drawn.make() - other.make() / 2,
                              matrix=drawn.matrix - other.matrix / 2, examples=False, each=None)  # fmt: skip
    if change == "linearize":
        return drawn._replace(said=f"linearized {drawn.said}", make=lambda: cv.linearize(drawn.make()), examples=False,
                              each=None)  # fmt: skip
    if change == "restrict" and one.layers:
        names = numbers.choice(one.layers)
        chosen = places(one, names)
        return drawn._replace(said=f"{names} of {drawn.said}", make=lambda: cv.restrict(drawn.make(), names),
                              matrix=drawn.matrix[np.ix_(chosen, chosen)], examples=False, each=None)  # fmt: skip
    return drawn


def places(one: Problem, pattern: str) -> np.ndarray:
    """The positions in the flat vector of the leaves of a pattern, `head/*`, or of one layer of a stack, `layers/1`."""
    kept, end = [], 0
    for path, leaf in jax.tree.leaves_with_path(one.params):
        keys = [str(getattr(key, "key", getattr(key, "idx", ""))) for key in path]
        parts, numbers = pattern.split("/"), np.arange(end, end + np.size(leaf))
        end += np.size(leaf)
        if len(parts) == len(keys) + 1 and parts[: len(keys)] == keys:
            kept += list(numbers.reshape(np.shape(leaf))[int(parts[-1])].ravel())
        elif (parts[0] in ("*", keys[0]) and len(parts) <= len(keys)) and all(
            part in ("*", key) for part, key in zip(parts, keys, strict=False)
        ):
            kept += list(numbers) if len(parts) == len(keys) or parts[-1] == "*" else []
    return np.array(kept)
