"""The Hessian and its two terms, H = G + R, measured together (Sagun et al. 2017, eq. 4)."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics, vectors
from hessflat.curvature.exact.dense import ExactSpectrum, require_dense, solve_dense
from hessflat.curvature.krylov import basis
from hessflat.curvature.krylov.lanczos import Tridiagonals, block_length, step_callback
from hessflat.curvature.krylov.quadrature import Spectrum, quadrature
from hessflat.curvature.krylov.recurrence import State, initial_state, lanczos_step
from hessflat.curvature.operators import operator
from hessflat.curvature.operators.linearize import linearize
from hessflat.curvature.operators.matrices import (
    gauss_newton,
    gauss_newton_product,
    hessian_product,
    residual_product,
)
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.records import plus_minus, record
from hessflat.curvature.stochtrace import estimates
from hessflat.curvature.stochtrace.estimates import Moments, moments_from_samples, quadratic
from hessflat.curvature.vectors import Layout, Vector
from hessflat.utils import hardware
from hessflat.utils.convolution import Loop


@record("one of the three matrices", {"λ_max": "spectrum.largest", "trace": "moments.trace"})
class Part(NamedTuple):
    """The results for one of the three matrices; None where not requested."""

    spectrum: Spectrum | None
    moments: Moments | None
    exact: ExactSpectrum | None


def _of_part(part: str, name: str, self: Any) -> Any:
    """`λ_max` or `trace` of one of the three matrices; None where it was not requested."""
    measured: Part = getattr(self, part)
    if name == "trace":
        return next((one.trace for one in (measured.moments, measured.exact, measured.spectrum) if one), None)
    if measured.spectrum is not None:
        return measured.spectrum.largest
    return None if measured.exact is None else plus_minus(measured.exact.values[-1], measured.exact.noise_floor)


@record(
    "the Hessian H and its terms, Gauss-Newton G and residual R = H − G",
    {
        f"{name}({symbol})": partial(_of_part, part, name)
        for part, symbol in (("hessian", "H"), ("gauss_newton", "G"), ("residual", "R"))
        for name in ("λ_max", "trace")
    },
)
class Decomposition(NamedTuple):
    """The results for the Hessian and its two terms, from the same probes."""

    hessian: Part  # of H, with `spectrum`, `moments` and `exact`, each None where it was not asked for
    gauss_newton: Part  # of G
    residual: Part  # of H − G
    num_products: int  # with one of the three matrices
    seconds: float
    precision: str


def decompose(
    predict: Callable[..., Any],
    criterion: Callable[..., Any],
    params: Any,
    data: Any,
    key: Array,
    num_steps: int = 100,
    num_probes: int = 1,
    trace_probes: int = 20,
    exact: bool = False,
    state: Any = None,
    show_progress: bool = True,
    on_steps: Callable[[int], None] | None = None,
) -> Decomposition:
    """Spectra, moments and optionally all eigenvalues of H, G and R = H − G (Sagun et al. 2017, eq. 4).

    The matrices share one linearisation, and their recurrences run side by side in one compiled loop. Moments and dense
    matrices take two products instead of three, because H = G + R.

    Args:
        predict: `predict(params, batch)` -> outputs, as in `gauss_newton`.
        criterion: `criterion(outputs, batch)` -> the mean loss of the batch.
        params: pytree of floating arrays with P numbers in all.
        data: pytree of arrays [N, ...], `Batches`, or a `Stream`, which is read once a step for all three matrices, and
            twice for a probe of the moments or a column of the exact matrices.
        key: a JAX random key.
        num_steps: m, the number of Lanczos steps for each probe and matrix; 0 omits spectra. The three bases take 3 m P
            numbers.
        num_probes: the number of probes of the quadrature.
        trace_probes: the number of probes of the moments; 0 omits them.
        exact: compute all eigenvalues, for P up to 20,000.
        state: a third argument of both functions, if given.
        show_progress: show a progress bar on a terminal.
        on_steps: called with the number of further Lanczos steps (of all three matrices), instead of the bar.

    Raises:
        InputError: as `gauss_newton`, `lanczos`, `moments` and `exact_spectrum`.
    """
    began = time.perf_counter()
    G = gauss_newton(predict, criterion, params, data, state)
    operator.require_operator(G)
    numerics.require_key(key)
    exact, show_progress = numerics.require_flag("exact", exact), numerics.require_flag("show_progress", show_progress)
    num_steps = numerics.require_count("num_steps", num_steps, least=0)
    num_probes = numerics.require_draws("num_probes", num_probes)
    trace_probes = numerics.require_draws("trace_probes", trace_probes, least=0)
    R = dataclasses.replace(G, terms=tuple(dataclasses.replace(term, product=residual_product) for term in G.terms))
    quadrature_key, moments_key = jax.random.split(key)
    spectra: tuple[Any, ...] = (None, None, None)
    if num_steps:
        total = min(num_steps, G.size) * num_probes
        with step_callback(total, "Lanczos steps", show_progress, on_steps) as on_steps:
            results = _tridiagonals(G, quadrature_key, num_steps, num_probes, on_steps)
        spectra = tuple(quadrature(result, G.size, G.dtype) for result in results)
    measured = _moments(G, R, moments_key, trace_probes) if trace_probes else (None, None, None)
    dense = _exact(G, R) if exact else (None, None, None)
    num_products = sum(s.num_products for s in spectra if s) + (2 * trace_probes) + (2 * G.size if exact else 0)
    h, g, r = (Part(*columns) for columns in zip(spectra, measured, dense, strict=True))
    return Decomposition(h, g, r, num_products, time.perf_counter() - began, numerics.precision_name(G))


def joint_product(functions: tuple[Callable[..., Any], ...], params: Any, batch: Any, vectors: Any) -> Any:
    """(H u, G v, R w) for `vectors` (u, v, w); all three are taken at the first of `params`."""
    predict, criterion = functions

    def loss(p: Any, batch: Any) -> Array:
        result: Array = criterion(predict(p, batch), batch)
        return result

    return (
        hessian_product((loss,), params[0], batch, vectors[0]),
        gauss_newton_product(functions, params[0], batch, vectors[1]),
        residual_product(functions, params[0], batch, vectors[2]),
    )


def _tridiagonals(
    G: Operator, key: Array, num_steps: int, num_probes: int, on_steps: Callable[[int], None]
) -> list[Tridiagonals]:
    """The tridiagonal matrices of H, G and R, from the same probes."""
    began = time.perf_counter()
    terms = [dataclasses.replace(term, product=joint_product, params=(term.params,) * 3) for term in G.terms]
    joint = dataclasses.replace(G, terms=tuple(terms))
    num_steps, layout = min(num_steps, G.size), operator.layout_of(G)
    basis.require_memory(layout, 3 * num_steps, "device", hardware.platform(joint))
    joint, length, each = linearize(joint), block_length(num_steps), []
    run = _run if joint.in_memory else _steps_from_python
    with numerics.matmul_precision():
        for number in range(num_probes):
            vector = vectors.draw(layout, key, "rademacher", number)
            thrice = jax.tree.map(lambda x: jnp.stack([x] * 3), vector)
            state = jax.vmap(lambda v: initial_state(layout, v, num_steps, True))(thrice)
            for first in range(0, num_steps, length):
                state = run(joint, layout, state, first, length)
                on_steps(length)
            loss = basis.orthogonality_loss(layout, state.blocks, state.num_valid)
            each.append((state.alphas, state.betas, state.num_valid, loss))
    seconds = time.perf_counter() - began
    # [matrix, probe, ...] of every field.
    fields = [np.stack([np.asarray(x) for x in column], axis=1) for column in zip(*each, strict=True)]
    return [
        Tridiagonals(alphas, betas, valid, loss, None, int(valid.sum()), seconds, numerics.precision_name(G))
        for alphas, betas, valid, loss in zip(*fields, strict=True)
    ]


def _steps(joint: Operator, layout: Layout, state: State, first: int, num_steps: int) -> State:
    def body(state: State, step: Array) -> tuple[State, None]:
        return _step_each(layout, state, step, _products(joint, layout, state)), None

    return jax.lax.scan(body, state, first + jnp.arange(num_steps))[0]


def _steps_from_python(joint: Operator, layout: Layout, state: State, first: int, num_steps: int) -> State:
    """`_steps` over a stream, which is read once a step for all three matrices."""
    for step in first + jnp.arange(num_steps):
        state = _step_each_compiled(layout, state, step, _products(joint, layout, state, "python"))
    return state


def _products(joint: Operator, layout: Layout, state: State, loop: Loop = "scan") -> Vector:
    """The products of the three matrices, each with its own vector, along a first axis."""
    trees = tuple(vectors.to_tree(layout, jax.tree.map(lambda x, i=i: x[i], state.vector)) for i in range(3))
    products = operator.tree_matvec(joint, trees, loop)
    each = [vectors.from_tree(layout, vectors.placed(layout, product)) for product in products]
    return jax.tree.map(lambda *x: jnp.stack(x), *each)


def _step_each(layout: Layout, state: State, step: Array, products: Vector) -> State:
    one: Any = lambda state, product: lanczos_step(layout, state, step, product, "full")  # noqa: E731
    result: State = jax.vmap(one)(state, products)
    return result


_step_each_compiled = jax.jit(_step_each, static_argnums=0, donate_argnums=1)
_run = jax.jit(_steps, static_argnums=(1, 4), donate_argnums=2)


def _moments(G: Operator, R: Operator, key: Array, num_probes: int) -> tuple[Moments, Moments, Moments]:
    began = time.perf_counter()
    layout, G, R = operator.layout_of(G), linearize(G), linearize(R)
    samples_of = _samples_compiled if G.in_memory else partial(_samples, loop="python")
    with numerics.matmul_precision():
        drawn = (vectors.draw(layout, key, "rademacher", k) for k in range(num_probes))
        samples = np.array([samples_of(G, R, layout, vector) for vector in drawn], np.float64)
    cost = estimates.cost_since(began, num_probes, G)
    return tuple(moments_from_samples(samples[:, k], G.size, G.dtype, cost) for k in range(3))  # type: ignore[return-value]


def _samples(G: Operator, R: Operator, layout: Layout, vector: Vector, loop: Loop = "scan") -> Array:
    g, r = operator.matvec(G, layout, vector, loop), operator.matvec(R, layout, vector, loop)
    return jnp.stack([quadratic(vector, product) for product in (jax.tree.map(jnp.add, g, r), g, r)])


_samples_compiled = jax.jit(_samples, static_argnums=2)


def _exact(G: Operator, R: Operator) -> tuple[ExactSpectrum, ExactSpectrum, ExactSpectrum]:
    require_dense(G, copies=3)
    began = time.perf_counter()
    g, r = np.array(G.to_dense(), np.float64), np.array(R.to_dense(), np.float64)
    return tuple(solve_dense(matrix, G, began) for matrix in (g + r, g, r))  # type: ignore[return-value]
