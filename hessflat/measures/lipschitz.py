"""The largest Jacobian norm of a sample beside the supremum: *On progressive sharpening*, theorems 4.4 to 4.6.

For data x = F(z), z uniform on a cube, that source `generator` draws. Everything is a function of z: the norm
ν(z) = ‖Jf(F(z))‖₂, and the cost ℓ(z) = ‖f(F(z)) − T(z)‖₂, a Lipschitz function of outputs and targets (√2), while the
squared error of training is none on the whole space. On the cube, which is convex, Lipschitz constants are suprema of
derivatives; on the sheet F(cube), which is curved, they may be larger, for the straight way is shorter than the sheet.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.config import at_least
from hessflat.curvature import numerics
from hessflat.data import generator as generators
from hessflat.data.generator import Generator
from hessflat.measures.eval_state import EvalState
from hessflat.measures.measurement import Measure, Measurement, SampleSizes, Scalars
from hessflat.utils import hardware
from hessflat.utils.errors import SettingError

# By how much of the supremum a sample may miss it.
MISSES = (0.02, 0.05, 0.1, 0.2, 0.4)
# Of samples of one size: 5 %, median, 95 %.
QUANTILES = (0.05, 0.5, 0.95)
# Points evaluated at a time, and how often the neighbourhood of the largest norm on the grid is looked at more closely.
CHUNK = 4096
REFINEMENTS = 12
_FINER = 9  # points a side of such a neighbourhood


def lipschitz(
    state: EvalState,
    *,
    sample_sizes: SampleSizes = (10, 100),
    draws: Annotated[int, at_least(1), "fresh examples that measure.lipschitz cuts samples from"] = 100_000,
    grid: Annotated[int, at_least(2), "points along a side of the cube on which measure.lipschitz takes suprema"] = 100,
) -> Measurement:
    """Scalars `lipschitz.*`, suprema over the cube and means; array `lipschitz`, a row for every N of samples.

    Scalars: `norm` = sup ν, on a grid of `measure.grid` points a side and around its largest value; on the grid
    `norm_slope` = sup ‖∇ν‖, `jacobian_slope` that of Jf∘F, `jacobian` that of Jf along the sheet, `generator` = sup
    ‖DF‖, `pair` = sup ‖D(F, T)‖, `cost_slope` = sup ‖∇ℓ‖. A derivative of matrices, D(Jf), is bounded by the norm of
    its stacked pieces. `cost`, `cost_smallest` and `cost_largest` are of ℓ over the fresh examples, `own_cost` and
    `own_norm` the mean of ℓ and the largest ν over the training examples.

    Array, from `measure.draws` fresh examples and as many again: `miss` [ε], the share of the first with
    ν ≤ (1 − ε) sup ν for ε of `misses`; the second are cut into samples of every size N: `missed` [N, ε] the share of
    samples that miss the supremum so, `samples` [N] how many there are, `largest` [N, 3] quantiles of max ν over sup ν,
    `gap` [N] the mean of 1 − max ν / sup ν, `deviation` [N, 3] quantiles of |mean ℓ − E ℓ|, E ℓ by all examples.
    """
    generator, sizes = _generator(state.data), sorted(sample_sizes)
    if max(sizes) > draws:
        raise SettingError(f"config.measure.draws must be at least {max(sizes)}, the largest sample size, got {draws}")
    # Of a grid: its points, and their coordinates before they are points; of draws: the latent ones and their kernels.
    latent, outputs = generator.latent, state.splits["train"]["labels"].shape[1]
    hardware.require_bytes(
        16 * latent * max(grid, _FINER) ** latent + 8 * draws * (latent + outputs**2),
        "measure.lipschitz with its grid and its draws",
        "lower config.measure.grid or config.measure.draws",
    )
    logits = state.functions().logits
    made = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), generator)

    def local(points: np.ndarray) -> dict[str, np.ndarray]:
        return local_values(_over(partial(_local_matrices, logits, state.params, made), points))

    with numerics.matmul_precision():
        points = _grid(generator.latent, grid)
        on_grid = local(points)
        suprema = {name: float(values.max()) for name, values in on_grid.items()}
        suprema["norm"] = _refined(local, points[on_grid["norm"].argmax()], grid)
        keys = jax.random.split(jax.random.key(state.protocol.seed))
        both = partial(_kernels_and_costs, logits, state.params, made)
        pools = [_over(both, np.asarray(_uniform(key, draws, generator.latent))) for key in keys]
        train = state.splits["train"]
        own_norms = _root_of_largest(np.asarray(_kernels(logits, state.params, train["inputs"]), np.float64))
        own_costs = jnp.linalg.norm(logits(state.params, train["inputs"]) - train["labels"], axis=1)
    norms = [_root_of_largest(pool["kernel"].astype(np.float64)) for pool in pools]
    suprema["norm"] = max(suprema["norm"], *(float(part.max()) for part in (*norms, own_norms)))
    costs = np.concatenate([pool["cost"] for pool in pools]).astype(np.float64)
    scalars: Scalars = {f"lipschitz.{name}": value for name, value in suprema.items()}
    scalars |= {
        "lipschitz.own_norm": float(own_norms.max()),
        "lipschitz.own_cost": float(own_costs.mean()),
        "lipschitz.cost": float(costs.mean()),
        "lipschitz.cost_smallest": float(costs.min()),
        "lipschitz.cost_largest": float(costs.max()),
    }
    relative = [part / suprema["norm"] for part in norms]
    limits = 1 - np.array(MISSES)
    rows = [_disjoint_samples(relative[1], pools[1]["cost"] - costs.mean(), size, limits) for size in sizes]
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    miss = np.mean(relative[0][:, None] <= limits[None], axis=0)
    arrays |= {"size": np.array(sizes), "misses": np.array(MISSES), "miss": miss, "draws": np.array(draws)}
    return Measurement(scalars, {"lipschitz": arrays})


def local_matrices(logits: Callable, params: Any, generator: Generator, point: Array) -> dict[str, Array]:
    """At one z [n], what `local_values` needs: small products of J = Jf(F(z)), of its derivatives A_a, and of DF."""

    def push(z: Array) -> Array:
        return generators.push_forward(generator, z[None], jnp)[0]

    def output(x: Array) -> Array:
        return logits(params, x[None])[0]

    def target(z: Array) -> Array:
        return generators.targets(generator, z[None], jnp)[0]

    def jacobian(z: Array) -> Array:
        return jax.jacrev(output)(push(z))

    matrix, change = jacobian(point), jnp.moveaxis(jax.jacfwd(jacobian)(point), -1, 0)  # [k, d] and [n, k, d]
    tangents, target_slope = jax.jacfwd(push)(point), jax.jacfwd(target)(point)  # [d, n] and [k, n]
    error, slope = output(push(point)) - target(point), matrix @ tangents - target_slope
    return {
        "kernel": matrix @ matrix.T,
        "turning": change @ matrix.T,
        "changes": jnp.einsum("akd,bld->akbl", change, change),
        "tangents": tangents.T @ tangents,
        "pair": tangents.T @ tangents + target_slope.T @ target_slope,
        "cost_slope": jnp.linalg.norm(slope.T @ error) / jnp.maximum(jnp.linalg.norm(error), 1e-30),
    }


def local_values(matrices: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """At many z [m], what `lipschitz` takes suprema of; all but `norm` bound derivatives.

    Eigenvalues of small matrices are left to NumPy: XLA's on a CPU may wait for each other for ever.
    """
    double = {name: value.astype(np.float64) for name, value in matrices.items()}
    values, vectors = np.linalg.eigh(double["kernel"])
    norm, left = np.sqrt(np.maximum(values[:, -1], 0)), vectors[:, :, -1]
    slopes = np.einsum("mk,makl,ml->ma", left, double["turning"], left) / np.where(norm > 0, norm, 1)[:, None]
    # From the sides of the cube to an orthonormal basis of the sheet's tangents.
    basis = np.linalg.inv(np.linalg.cholesky(double["tangents"]))
    along = np.einsum("mca,makbl,mdb->mckdl", basis, double["changes"], basis, optimize=True)
    return {
        "norm": norm,
        "norm_slope": np.linalg.norm(slopes, axis=1),
        "jacobian_slope": _root_of_largest(double["changes"]),
        "jacobian": _root_of_largest(along),
        "generator": _root_of_largest(double["tangents"]),
        "pair": _root_of_largest(double["pair"]),
        "cost_slope": double["cost_slope"],
    }


def _root_of_largest(squares: np.ndarray) -> np.ndarray:
    """Norms [m] of matrices A from A Aᵀ, [m, n, n] or, where rows have two indices, [m, n, k, n, k]."""
    side = int(np.sqrt(squares[0].size))
    return np.sqrt(np.maximum(np.linalg.eigvalsh(squares.reshape(-1, side, side))[:, -1], 0))


@partial(jax.jit, static_argnums=0)
def _local_matrices(logits: Callable, params: Any, generator: Generator, points: Array) -> dict[str, Array]:
    return jax.vmap(partial(local_matrices, logits, params, generator))(points)


@partial(jax.jit, static_argnums=0)
def _kernels(logits: Callable, params: Any, inputs: Array) -> Array:
    """J Jᵀ [m, k, k] of inputs [m, d]."""

    def kernel(x: Array) -> Array:
        matrix = jax.jacrev(lambda x: logits(params, x[None])[0])(x)
        return matrix @ matrix.T

    return jax.vmap(kernel)(inputs)


@partial(jax.jit, static_argnums=0)
def _kernels_and_costs(logits: Callable, params: Any, generator: Generator, points: Array) -> dict[str, Array]:
    inputs = generators.push_forward(generator, points, jnp)
    errors = logits(params, inputs) - generators.targets(generator, points, jnp)
    return {"kernel": _kernels(logits, params, inputs), "cost": jnp.linalg.norm(errors, axis=1)}


@partial(jax.jit, static_argnums=(1, 2))
def _uniform(key: Array, count: int, latent: int) -> Array:
    return jax.random.uniform(key, (count, latent))


def _over(function: Callable, points: np.ndarray) -> dict[str, np.ndarray]:
    """What `function` gives for points [m, n], in chunks of one size; the last is filled up with its first points."""
    pieces: list[dict[str, np.ndarray]] = []
    for start in range(0, len(points), CHUNK):
        piece = points[start : start + CHUNK]
        filled = jnp.asarray(np.resize(piece, (CHUNK, piece.shape[1])), jnp.float32)
        pieces.append({name: np.asarray(value)[: len(piece)] for name, value in function(filled).items()})
    return {name: np.concatenate([one[name] for one in pieces]) for name in pieces[0]}


def _grid(latent: int, side: int) -> np.ndarray:
    """The points of a grid that includes the faces of the cube, [side ** n, n]."""
    sides = np.meshgrid(*[np.linspace(0, 1, side)] * latent, indexing="ij")
    return np.stack([one.reshape(-1) for one in sides], axis=1)


def _refined(local: Callable[[np.ndarray], dict[str, np.ndarray]], centre: np.ndarray, side: int) -> float:
    """The supremum of ν near a point of the grid, on ever finer grids around the best point so far, within the cube."""
    half, best, offsets = 1 / (side - 1), 0.0, 2 * _grid(len(centre), _FINER) - 1
    for _ in range(REFINEMENTS):
        points = np.clip(centre + half * offsets, 0, 1)
        norms = local(points)["norm"]
        centre, best = points[norms.argmax()], max(best, float(norms.max()))
        half /= 3
    return best


def _disjoint_samples(relative: np.ndarray, deviations: np.ndarray, size: int, limits: np.ndarray) -> dict[str, Any]:
    """Disjoint samples of `size`: how far their largest norm falls short, and how far off their mean cost is."""
    count = len(relative) // size
    largest = relative[: count * size].reshape(count, size).max(1)
    off = np.abs(deviations[: count * size].reshape(count, size).mean(1))
    return {
        "samples": count,
        "missed": np.mean(largest[:, None] <= limits[None], axis=0),
        "largest": np.quantile(largest, QUANTILES),
        "gap": np.mean(1 - largest),
        "deviation": np.quantile(off, QUANTILES),
    }


def _generator(data: Mapping[str, Any]) -> Generator:
    if data.get("name") != "generator" or data.get("scaling") != "raw":
        got = f"{data.get('name')!r} scaled {data.get('scaling')!r}"
        raise SettingError(f"config.measure.lipschitz needs data.name=generator and data.scaling=raw, got {got}")
    return _drawn(*sorted(data["generator"].items()))


@cache
def _drawn(*settings: tuple[str, Any]) -> Generator:
    return generators.draw(dict(settings))


MEASURE = Measure(
    lipschitz,
    # Jacobians and their derivatives at many more points than there are examples.
    cost=lambda settings, num_params: 2_000,
    doc="Jacobian norms of samples are compared with their supremum",
)
