"""Geodesic sharpness: the worst case in a ball of the quotient by the symmetries of the network."""

from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from hessflat.config import positive
from hessflat.curvature import numerics
from hessflat.curvature.perturbations import Move, worst_case
from hessflat.curvature.quotients import balanced, product_geodesic, rescaled
from hessflat.measures.eval_state import EvalState, FlatnessExamples, evaluated, flatness_data, flatness_share
from hessflat.measures.m_sharpness import BatchSize, Steps, require_batches
from hessflat.measures.measurement import Measure, Measurement
from hessflat.models import apply_by_layer
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

# What outputs may differ by, relative to the largest, where a symmetry is said to hold.
_TOLERANCE = 1e-4


def geodesic_sharpness(
    state: EvalState,
    *,
    flatness_examples: FlatnessExamples = 512,
    m: BatchSize = 128,
    m_steps: Steps = 5,
    rho_geodesic: Annotated[float, positive, "ρ of geodesic_sharpness, a length on the quotient"] = 0.5,
) -> Measurement:
    """The largest rise of the loss within the geodesic distance ρ; larger is sharper, batch norm in eval mode.

    da Silva, Dangel & Oore (2025, *Hide & Seek*): as `m_sharpness.worst_l2`, but the weights go along geodesics of the
    quotient by the group that leaves the function alone. Of two dense layers without biases or activations that is
    GL(h), W₁A and A⁻¹W₂, as of queries and keys of attention; else it is the rescaling of hidden units, which is looked
    for: those of a layer count where the outputs of two examples stay as they are when what leads to the units is
    multiplied by random factors and what leads from them divided. `geodesic_sharpness.symmetries` is the dimension of
    the group. With rescaling, weights go along w ⊙ exp(u), to all orders in u; to first order that is
    `m_sharpness.adaptive_worst_l2`. With GL(h) it is to second order, as of its authors.

    Raises:
        InputError: a network with neither symmetry, or a product whose rank is below h.
        InputError: more examples in a batch than are measured.
    """
    data = flatness_data(state, flatness_examples)
    require_batches(len(data["targets"]), m)
    product = _product(state)
    move: Move
    if product is None:
        params, move, symmetries = state.params, rescaled, _rescaled_units(state)
        if not symmetries:
            raise InputError(
                "geodesic sharpness needs a network with a symmetry, ReLU between layers or a product of two matrices, "
                "got none; set it to 'never'"
            )
    else:
        params, move, symmetries = product
    rise = worst_case(
        state.functions().loss,
        params,
        cv.Batches(data, m),
        rho_geodesic,
        jax.random.key(state.protocol.seed),
        num_steps=m_steps,
        state=state.curvature_state,
        move=move,
    )
    return Measurement(
        {
            "geodesic_sharpness.worst": rise.mean,
            "geodesic_sharpness.worst_se": rise.standard_error,
            "geodesic_sharpness.symmetries": symmetries,
        },
        {},
    )


def _product(state: EvalState) -> tuple[Any, Move, int] | None:
    """The balanced weights of a product of two matrices, its geodesic and h²; None for another network."""
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    if len(leaves) != 2 or any(leaf.ndim != 2 or len(path) != 2 for path, leaf in leaves):
        return None
    (first, kernel), (second, _) = ((path[0].key, path[1].key) for path, _ in leaves)
    pair = state.params[first][kernel], state.params[second][kernel]
    inputs = hardware.first_examples(state.splits["train"], 2)["inputs"]
    with numerics.matmul_precision():
        outputs = hardware.on_host(
            evaluated(state.functions().logits, state.params, inputs, state.batch_stats), np.float64
        )
    if pair[0].shape[1] != pair[1].shape[0] or not _alike(inputs.reshape(len(inputs), -1) @ pair[0] @ pair[1], outputs):
        return None
    factors = balanced(*map(hardware.on_host, pair))
    params = {
        name: {kernel: jnp.asarray(factor, pair[0].dtype)}
        for name, factor in zip((first, second), factors, strict=True)
    }
    return params, _along_product(first, second, kernel), pair[0].shape[1] ** 2


@cache
def _along_product(first: str, second: str, kernel: str) -> Move:
    """`product_geodesic` of these layers; made once, so that it is compiled once."""

    def move(params: Any, scales: Any, moved: Any) -> Any:
        del scales
        pairs = (tree[name][kernel] for tree in (params, moved) for name in (first, second))
        ends = product_geodesic(*pairs)
        return {name: {kernel: end} for name, end in zip((first, second), ends, strict=True)}

    return move


def _rescaled_units(state: EvalState) -> int:
    """How many hidden units are in layers whose rescaling leaves the outputs of two examples alone."""
    inputs = hardware.first_examples(state.splits["train"], 2)["inputs"]
    generator, units = np.random.default_rng(0), 0
    with numerics.matmul_precision():
        found, layers = apply_by_layer(state.model.apply, state.params, state.batch_stats, inputs)
        outputs = hardware.on_host(found, np.float64)
        for name, following in pairwise(layers):
            width = layers[name].outputs.shape[-1]
            factors = generator.uniform(0.5, 2.0, width)
            half = _with_layer(state.params, name, partial(_times_outputs, factors))
            whole = _with_layer(half, following, partial(_over_inputs, factors))
            if whole is None:
                continue
            by_half, by_whole = (
                evaluated(state.functions().logits, params, inputs, state.batch_stats) for params in (half, whole)
            )
            # A layer on which the outputs do not depend has no units that could be told from one another.
            if _alike(by_whole, outputs) and not _alike(by_half, outputs):
                units += width
    return units


def _with_layer(params: Any, name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Any:
    """The parameters with the arrays of one layer, by its path, changed; None where `change` gives None for all."""
    if params is None:
        return None
    first, _, rest = name.partition("/")
    if rest:
        inner = _with_layer(params[first], rest, change)
        return None if inner is None else {**params, first: inner}
    own = {key: change(hardware.on_host(leaf)) for key, leaf in params[first].items()}
    if all(leaf is None for leaf in own.values()):
        return None
    return {**params, first: {key: leaf if own[key] is None else own[key] for key, leaf in params[first].items()}}


def _times_outputs(factors: np.ndarray, leaf: np.ndarray) -> np.ndarray:
    return (leaf * factors).astype(leaf.dtype)


def _over_inputs(factors: np.ndarray, leaf: np.ndarray) -> np.ndarray | None:
    """A kernel over the factors of its inputs, of which each unit may have several; None for no kernel of theirs."""
    if leaf.ndim < 2 or leaf.shape[-2] % len(factors):
        return None
    return (leaf / np.tile(factors, leaf.shape[-2] // len(factors))[:, None]).astype(leaf.dtype)


def _alike(a: Any, b: np.ndarray) -> bool:
    return bool(np.abs(hardware.on_host(a, np.float64) - b).max() <= _TOLERANCE * np.abs(b).max())


MEASURE = Measure(
    geodesic_sharpness,
    # An ascent; a gradient is half a product.
    cost=lambda settings, num_params: (settings.m_steps / 2 + 1 / 6) * flatness_share(settings),
    doc="the worst case on the quotient by the network's symmetries is measured",
    names={
        "geodesic_sharpness.worst": "geodesic sharpness",
        "geodesic_sharpness.symmetries": "dimension of the symmetries of geodesic sharpness",
    },
)
