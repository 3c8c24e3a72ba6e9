"""The spectra of all diagonal blocks of a curvature matrix, and how far apart they are.

A recurrence needs products with its own block alone, so that no product serves two blocks. What makes all blocks cheap
is that one linearisation serves them all, that each product goes out from, and back to, the leaves of its block only,
and that the recurrence of a block ends where its quadrature no longer moves.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.krylov.lanczos import Tridiagonals, lanczos, step_callback
from hessflat.curvature.krylov.quadrature import Spectrum, gauss_rule, quadrature
from hessflat.curvature.operators.blocks import Names, blocks
from hessflat.curvature.operators.operator import Operator, require_operator
from hessflat.curvature.operators.shared import with_one_linearization
from hessflat.curvature.operators.terms import loop_for
from hessflat.curvature.records import record
from hessflat.curvature.stochtrace.estimates import Estimate, RitzValue, cost_since
from hessflat.utils.errors import InputError, shown

# The part of the steps with which the quadrature of all of them is compared.
_EARLIER = 0.75
# From so many products with a block on, all blocks share one linearisation.
_MANY_PRODUCTS = 12
# Standard deviations of the smoothing beyond the last node.
_TAIL = 5


@record(
    lambda self: f"the spectra of {len(self.spectra)} blocks, λ_max ± its residual",
    {
        "λ_max": lambda self: ", ".join(
            f"{name} {top.value:.3g} ± {top.residual:.0e}" for name, top in self.sharpness.items()
        )
    },
)
class BlockSpectra(NamedTuple):
    """The spectrum of each diagonal block, by its name."""

    spectra: dict[str, Spectrum]  # by the name of the block
    # Wasserstein distance, in eigenvalues, to the quadrature of three quarters of m steps, by the name of the block
    quadrature_errors: dict[str, float]
    num_products: int
    seconds: float
    precision: str

    @property
    def sizes(self) -> dict[str, int]:
        """The parameters of each block."""
        return {name: spectrum.size for name, spectrum in self.spectra.items()}

    @property
    def sharpness(self) -> dict[str, RitzValue]:
        """The largest eigenvalue of each block with its residual, as `Spectrum.largest`."""
        return {name: spectrum.largest for name, spectrum in self.spectra.items()}

    @property
    def traces(self) -> dict[str, Estimate]:
        """The trace of each block with its standard error."""
        return {name: spectrum.trace for name, spectrum in self.spectra.items()}


@record(
    lambda self: f"Jensen-Shannon distances between the spectra of {len(self.names)} blocks",
    {"mean over pairs": "mean ± standard_error"},
)
class Heterogeneity(NamedTuple):
    """Jensen-Shannon distances between the spectral densities of n blocks, in [0, 1]."""

    names: tuple[str, ...]  # of the n blocks
    distances: np.ndarray  # [n, n] symmetric, zero on the diagonal
    standard_errors: np.ndarray  # [n, n] by the jackknife over probes; nan for a single probe
    mean: float  # over pairs
    standard_error: float  # of the mean, by the jackknife over probes
    width: float  # of the smoothing, in eigenvalues


def block_spectra(
    op: Operator,
    key: Array,
    by: int | str | Sequence[str] | Mapping[str, Names] | Callable[[str], str | None] | None = None,
    stacked: Names = (),
    num_steps: int = 100,
    num_probes: int = 3,
    tolerance: float = 1e-2,
    **options: Any,
) -> BlockSpectra:
    """The spectra of the diagonal blocks of `op` by stochastic Lanczos quadrature, each from products of its own.

    The recurrence of a block ends after at most `num_steps` steps. It ends before if two things hold for its first
    probe. The quadrature differs from that of three quarters of the steps by at most `tolerance` |λ|_max in Wasserstein
    distance, which bounds the change of the mean of any function with slopes of at most 1. And the extreme Ritz value
    has a residual of at most as much. The other probes take as many steps.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        op: an operator of one of the curvature matrices, or of several.
        key: a JAX random key; the probes of a block depend on its place.
        by: the blocks, as in `cv.blocks`: None for one a layer, a number of keys, patterns, {name: patterns}, or a
            function of a path.
        stacked: the leaves whose first axis is a stack of layers, as in `cv.blocks`.
        num_steps: the maximum number of steps of a probe.
        num_probes: probes of each block; with one there are no standard errors.
        tolerance: relative to the largest |λ| of a block; by default the width by which densities are
            smoothed. 0 takes all steps.
        **options: the other arguments of `cv.lanczos`, but for `folder`, `checkpoint` and `until`.

    Raises:
        InputError: as `cv.blocks` and `cv.lanczos`.

    >>> import jax, jax.numpy as jnp, hessflat.curvature as cv
    >>> def loss(w, batch):
    ...     return jnp.mean(batch["x"] ** 2 * (w["a"] ** 2 + 3 * w["b"] ** 2).sum())
    >>> H = cv.hessian(loss, {"a": jnp.zeros(4), "b": jnp.zeros(4)}, {"x": jnp.ones(5)})
    >>> {name: round(top.value, 3) for name, top in cv.block_spectra(H, jax.random.key(0)).sharpness.items()}
    {'a': 2.0, 'b': 6.0}
    """
    began = time.perf_counter()
    require_operator(op)
    numerics.require_key(key)
    num_steps, num_probes = (
        numerics.require_count("num_steps", num_steps),
        numerics.require_draws("num_probes", num_probes),
    )
    tolerance = numerics.require_number("tolerance", tolerance)
    if refused := sorted({"folder", "checkpoint", "until"} & set(options)):
        raise InputError(f"block_spectra takes no {refused[0]}; measure one of cv.blocks(op, by) with cv.spectrum")
    op = op.as_it_is_now()
    parts = blocks(op, by, stacked)
    if loop_for(op, options.get("loop")) == "scan" and num_steps * num_probes >= _MANY_PRODUCTS:
        parts = with_one_linearization(op, parts)
    show, on_steps = options.pop("show_progress", True), options.pop("on_steps", None)
    results: dict[str, Tridiagonals] = {}
    total = num_steps * num_probes * len(parts)
    with step_callback(total, "Lanczos steps", show, on_steps) as on_steps:
        for number, (name, block) in enumerate(parts.items()):
            until = partial(_settled, tolerance=tolerance) if tolerance > 0 else None
            own = jax.random.fold_in(key, number)
            results[name] = lanczos(block, own, num_steps, num_probes, on_steps=on_steps, until=until, **options)
    spectra = {name: quadrature(result, parts[name].size, parts[name].dtype) for name, result in results.items()}
    errors = {name: float(np.mean(_changes(result))) for name, result in results.items()}
    cost = cost_since(began, sum(result.num_products for result in results.values()), op)
    return BlockSpectra(spectra, errors, *cost)


def heterogeneity(
    spectra: Mapping[str, Spectrum] | BlockSpectra, width: float | None = None, num_points: int = 1024
) -> Heterogeneity:
    """How different the spectra of blocks are: the Jensen-Shannon distance of each pair (Zhang et al. 2024).

    The distance is the square root of the Jensen-Shannon divergence in bits, between densities that are smoothed by
    Gaussians of one width and lie on one grid. Eigenvalues are not rescaled, so that blocks differ by their scale too.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        spectra: by the names of blocks, with the same number of probes in each.
        width: the standard deviation of the smoothing, in eigenvalues; by default 1 % of the range of all of them.
        num_points: of the grid.

    Raises:
        InputError: fewer than two spectra, different numbers of probes, a width that is not above 0.
    """
    spectra = spectra.spectra if isinstance(spectra, BlockSpectra) else spectra
    if not isinstance(spectra, Mapping) or len(spectra) < 2:
        raise InputError(f"distances take the spectra of two blocks at least, by name, got {shown(spectra)}")
    counts = {len(spectrum.nodes) for spectrum in spectra.values()}
    if len(counts) > 1:
        raise InputError(f"all spectra must have the same number of probes, got {sorted(counts)}")
    num_points = numerics.require_count("num_points", num_points, 2)
    ends = [(s.smallest.value, s.largest.value) for s in spectra.values()]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if width is None:
        width = 0.01 * (high - low) or 1.0
    width = numerics.require_number("width", width, above=0)
    grid = np.linspace(low - _TAIL * width, high + _TAIL * width, num_points)
    each = np.stack([spectrum.densities_by_probe(grid, width) for spectrum in spectra.values()])  # [n, k, g]
    shares = each / each.sum(axis=-1, keepdims=True)
    distances = _distances(shares.mean(axis=1))
    pairs = np.triu_indices(len(shares), 1)
    (count,) = counts
    if count == 1:
        errors, error = np.full_like(distances, np.nan), np.nan
        np.fill_diagonal(errors, 0)
    else:
        without = np.stack([_distances(np.delete(shares, probe, axis=1).mean(axis=1)) for probe in range(count)])
        errors = _jackknife(without)
        error = float(_jackknife(without[:, *pairs].mean(axis=1)))
    return Heterogeneity(tuple(spectra), distances, errors, float(distances[pairs].mean()), error, width)


def _settled(alphas: np.ndarray, betas: np.ndarray, tolerance: float) -> bool:
    """Whether a recurrence with these coefficients has said what its block is."""
    nodes, _, residuals = gauss_rule(alphas, betas)
    largest = float(np.abs(nodes).max())
    extreme = residuals[np.argmax(np.abs(nodes))]
    return bool(extreme <= tolerance * largest and _change(alphas, betas) <= tolerance * largest)


def _changes(result: Tridiagonals) -> list[float]:
    return [_change(result.alphas[k, :n], result.betas[k, :n]) for k, n in enumerate(result.num_valid)]


def _change(alphas: np.ndarray, betas: np.ndarray) -> float:
    """The Wasserstein distance between the quadrature of all steps and that of three quarters of them.

    It is 0 where the Krylov space was exhausted.
    """
    earlier = max(1, int(_EARLIER * len(alphas)))
    (nodes, weights, _), (before, shares, _) = gauss_rule(alphas, betas), gauss_rule(alphas[:earlier], betas[:earlier])
    places = np.concatenate([nodes, before])
    order = np.argsort(places, kind="stable")
    between = np.abs(np.cumsum(np.concatenate([weights, -shares])[order])[:-1])
    return float(between @ np.diff(places[order]))


def _distances(shares: np.ndarray) -> np.ndarray:
    """[..., n, n] The Jensen-Shannon distances of distributions [n, g]."""
    middle = (shares[:, None] + shares[None]) / 2
    # Rounding below 0 is 0.
    divergence = np.maximum(_entropies(middle) - (_entropies(shares)[:, None] + _entropies(shares)[None]) / 2, 0)
    np.fill_diagonal(divergence, 0)
    result: np.ndarray = np.sqrt(divergence)
    return result


def _entropies(shares: np.ndarray) -> np.ndarray:
    """[...] The entropies, in bits, of distributions [..., g]."""
    result: np.ndarray = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=-1)
    return result


def _jackknife(without: np.ndarray) -> np.ndarray:
    """The standard error of a function of k probes, from its values without each of them, [k, ...]."""
    count = len(without)
    result: np.ndarray = np.sqrt((count - 1) / count * np.sum((without - without.mean(axis=0)) ** 2, axis=0))
    return result
