"""Jacobians with batch norm in train and in eval mode: *On progressive sharpening*, appendix A.1, theorem A.1.

A batch of inputs X is one matrix, and its outputs f(X) are another. In train mode every output depends on every input,
through the statistics; in eval mode these are constants, here those of the same X, as in the theorem. The theorem
bounds entries of J_T − J_V by O(1/N). That says less of norms: for the layer alone

    J_T − J_V = −(1/N) (1 1ᵀ + x̂ x̂ᵀ) / s   in every channel, s² = variance + ε,

has entries of order 1/N, but rank 2 and the norm 1/s, however many examples there are.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax import Array

import hessflat.curvature as cv
from hessflat import models
from hessflat.config import at_least
from hessflat.curvature import numerics
from hessflat.measures.eval_state import OPERATORS, EvalState, as_float64
from hessflat.measures.measurement import Measure, Measurement, SampleSizes
from hessflat.training.optimisation import make_targets
from hessflat.training.step import update_batch_stats
from hessflat.utils.errors import SettingError

# Features of the layer alone: random directions of the inputs, whose variances are of order 1.
CHANNELS = 16
# Examples whose Jacobians in eval mode are taken at a time, fewer being filled up: one compiled program serves any N.
CHUNK = 100
# Examples of the largest norms whose blocks are taken, beside those that do not depend on N.
LARGEST = 2

Predict = Callable[[Any, Array, Any], Array]  # (params, inputs, batch_stats) -> outputs


def batch_norm(
    state: EvalState,
    *,
    sample_sizes: SampleSizes = (10, 100),
    blocks: Annotated[int, at_least(2), "first examples of which measure.batch_norm takes Jacobians in train mode"] = 4,
) -> Measurement:
    """Arrays `batch_norm-layer` and `batch_norm-network`, a row for every N of `measure.sample_sizes`.

    N random training examples, the first of a larger N being those of a smaller one, by `measure.seed`. The layer alone
    has 16 random directions of these inputs as channels; the network has its logits. In float64. The network's rows
    also have λ_max of `measure.operators` in either mode, in float32.
    """
    if not state.has_batch_norm:
        raise SettingError("config.measure.batch_norm needs a model with batch norm; set it to 'never'")
    train = state.splits["train"]
    largest = max(sample_sizes)
    if largest > len(train["labels"]):
        available = len(train["labels"])
        raise SettingError(
            f"config.measure.sample_sizes must be at most {available}, the training split, got {largest}"
        )
    keys = jax.random.split(jax.random.key(state.protocol.seed), 3)
    order = jax.random.permutation(keys[0], len(train["labels"]))[:largest]
    inputs, labels = train["inputs"][order], train["labels"][order]
    targets = make_targets(labels, state.num_classes, state.label_smoothing)
    flat = inputs.reshape(largest, -1)
    features = flat @ jax.random.normal(keys[1], (flat.shape[1], CHANNELS)) / np.sqrt(flat.shape[1])

    alone = models.batch_norm_layer()
    layer = state._replace(model=alone)
    layer = layer._replace(params=_layer_params(alone, features), batch_stats=alone.init(keys[1], features[:1])[1])
    rows: dict[str, list[dict[str, float]]] = {"layer": [], "network": []}
    for number in sorted(sample_sizes):
        rows["layer"].append(_compare_modes(layer, features[:number], blocks, keys[2])[0])
        row, batch_stats = _compare_modes(state, inputs[:number], blocks, keys[2])
        batch = {"inputs": inputs[:number], "targets": targets[:number]}
        rows["network"].append(row | _sharpness(state, batch, batch_stats, keys[2]))
    return Measurement({}, {f"batch_norm-{name}": _columns(table) for name, table in rows.items()})


def compare_jacobians(
    in_train: Predict, in_eval: Predict, params: Any, batch_stats: Any, inputs: Array, blocks: int, key: Array
) -> dict[str, float]:
    """How the Jacobian of outputs [N, C] with respect to inputs [N, ...] differs between two functions of them.

    `in_eval` treats examples one by one. Blocks (i, j) are ∂f(X)_i/∂x_j, [C, D]. Of J_T rows are taken for the first
    `blocks` examples i, which do not depend on N, and for two of the largest norms in eval mode, which do; the norms of
    the whole of J_T − J_V and of J_T come from Lanczos iteration without forming them. Returns

    - `largest_entry`: of |J_T − J_V| in the rows of the first examples, over all N examples j;
    - `diagonal`, `off_diagonal`: the largest ‖block‖₂ of J_T − J_V with i = j, and with i ≠ j among the first examples;
    - `row`: the largest norm of a single row of J_T − J_V of the first examples, over all j;
    - `operator`: ‖J_T − J_V‖₂, of the whole, to 1 %;
    - `largest_diagonal`: the largest ‖block (i, i)‖₂ of J_T − J_V over the examples of the largest norms;
    - `train_block`, `eval_block`: max ‖block (i, i)‖₂ of J_T and of J_V over the same;
    - `train_operator`, `eval_operator`: ‖J_T‖₂, to 0.1 %, and ‖J_V‖₂ = max_i ‖∂f(x_i)/∂x_i‖₂ of the whole;
    - `outputs`: the largest difference between the two outputs, which is rounding where statistics are those of X.
    """
    number, arrays = len(inputs), (params, batch_stats, inputs)
    with numerics.matmul_precision():
        norms = np.concatenate([_norms(rows) for rows in _eval_rows(in_eval, params, batch_stats, inputs)])
        first, top = np.arange(min(blocks, number)), np.argsort(-norms, kind="stable")[:LARGEST]
        chosen = np.concatenate([first, top])
        fixed = np.concatenate(list(_eval_rows(in_eval, params, batch_stats, inputs[chosen])))
        parts = [
            _difference_rows(in_train, *arrays, jnp.asarray(example), jnp.asarray(of_eval), jnp.asarray(chosen))
            for example, of_eval in zip(chosen, fixed, strict=True)
        ]
        outputs = _outputs_apart(in_train, in_eval, *arrays)
    pieces = np.array([np.asarray(piece).swapaxes(0, 1) for piece, _, _ in parts])  # [i, j, C, D]
    between = _norms(pieces.reshape(-1, *pieces.shape[2:])).reshape(len(chosen), len(chosen))
    among_first, largest = between[: len(first), : len(first)], slice(len(first), None)
    start = np.asarray(jax.random.normal(key, (number, pieces.shape[2]), inputs.dtype))
    # Most of ‖J_T‖₂ is in one example, too: neighbours with norms within a per cent would take long to tell apart.
    near = 0.1 * start / np.linalg.norm(start)
    near[top[0]] += np.linalg.svd(fixed[len(first)])[0][:, 0]
    return {
        "largest_entry": max(float(entry) for _, entry, _ in parts[: len(first)]),
        "diagonal": float(np.diag(among_first).max()),
        "off_diagonal": float(among_first[~np.eye(len(first), dtype=bool)].max()),
        "row": max(float(row) for _, _, row in parts[: len(first)]),
        "operator": _norm(partial(_gram, in_train, in_eval, *arrays), start, 1e-2, 10),
        "largest_diagonal": float(np.diag(between)[largest].max()),
        "train_block": float(_norms((pieces[np.arange(len(chosen)), np.arange(len(chosen))] + fixed)[largest]).max()),
        "eval_block": float(norms.max()),
        "train_operator": _norm(partial(_gram, in_train, None, *arrays), near, 1e-3, 20),
        "eval_operator": float(norms.max()),
        "outputs": float(outputs),
    }


def _compare_modes(state: EvalState, inputs: Array, blocks: int, key: Array) -> tuple[dict[str, float], Any]:
    """What `compare_jacobians` returns, with N, and the batch statistics of these inputs, in float32."""
    in_train, in_eval = (state.functions(mode).logits for mode in ("train", "eval"))
    with jax.enable_x64(True):
        params, zeros, inputs = as_float64((state.params, state.batch_stats, inputs))
        batch_stats = _batch_stats(state.model, params, zeros, inputs)
        row = compare_jacobians(in_train, in_eval, params, batch_stats, inputs, blocks, key)
    return {"examples": len(inputs)} | row, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), batch_stats)


@partial(jax.jit, static_argnums=0)
def _batch_stats(model: models.Model, params: Any, batch_stats: Any, inputs: Array) -> Any:
    """Those of all of `inputs` together, which train mode would use."""
    return update_batch_stats(model, len(inputs), params, batch_stats, inputs)


def _sharpness(state: EvalState, batch: Mapping[str, Array], batch_stats: Any, key: Array) -> dict[str, float]:
    """λ_max of each operator on the batch, in train mode and in eval mode with the statistics of this batch."""
    values = {}
    for mode in ("train", "eval"):
        functions = state.functions(mode)
        for name in state.protocol.operators:
            data = cv.Batches(batch, statistics_batch=len(batch["targets"]) if mode == "train" else None)
            op = OPERATORS[name].build(functions, state.params, data, batch_stats)
            values[f"{name}_{mode}"] = cv.sharpness(op, key, rtol=state.protocol.rtol).value
    return values


def _layer_params(layer: models.Model, features: Array) -> Any:
    return layer.init(jax.random.key(0), features[:1])[0]


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _norms(blocks: np.ndarray) -> np.ndarray:
    """Spectral norms [n] of blocks [n, C, D]."""
    grams = np.einsum("ncd,nkd->nck", blocks, blocks, optimize=True)
    return np.sqrt(np.maximum(np.linalg.eigvalsh(grams)[:, -1], 0))


def _eval_rows(in_eval: Predict, params: Any, batch_stats: Any, inputs: Array) -> Iterator[np.ndarray]:
    """Jacobians of examples, [n, C, D], a chunk at a time."""
    for start in range(0, len(inputs), CHUNK):
        count = min(CHUNK, len(inputs) - start)
        piece = jnp.take(inputs, start + jnp.arange(CHUNK) % count, axis=0)
        yield np.asarray(_rows_in_eval(in_eval, params, batch_stats, piece))[:count]


@partial(jax.jit, static_argnums=(0, 1))
def _outputs_apart(in_train: Predict, in_eval: Predict, params: Any, batch_stats: Any, inputs: Array) -> Array:
    return jnp.abs(in_train(params, inputs, batch_stats) - in_eval(params, inputs, batch_stats)).max()


@partial(jax.jit, static_argnums=0)
def _rows_in_eval(in_eval: Predict, params: Any, batch_stats: Any, inputs: Array) -> Array:
    outputs, pull = jax.vjp(lambda x: in_eval(params, x, batch_stats), inputs)
    # Examples do not meet: a product of all of them at once holds a row of each.
    rows = [pull(jnp.zeros_like(outputs).at[:, c].set(1))[0] for c in range(outputs.shape[1])]
    return jnp.stack(rows, 1).reshape(len(inputs), outputs.shape[1], -1)


@partial(jax.jit, static_argnums=0)
def _difference_rows(
    in_train: Predict, params: Any, batch_stats: Any, inputs: Array, example: Array, own: Array, chosen: Array
) -> tuple[Array, Array, Array]:
    """Rows of J_T − J_V of one example, whose J_V has the rows `own` [C, D].

    Returns their blocks [C, m, D] of the `chosen` examples, their largest entry over all examples, and the largest norm
    of such a row.
    """
    outputs, pull = jax.vjp(lambda x: in_train(params, x, batch_stats)[example], inputs)

    def row(given: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        cotangent, of_eval = given
        difference = pull(cotangent)[0].reshape(len(inputs), -1).at[example].add(-of_eval)
        return difference[chosen], jnp.abs(difference).max(), jnp.linalg.norm(difference)

    blocks, entries, norms = jax.lax.map(row, (jnp.eye(outputs.size, dtype=outputs.dtype), own))
    return blocks, entries.max(), norms.max()


@partial(jax.jit, static_argnums=(0, 1))
def _gram(
    in_train: Predict, in_eval: Predict | None, params: Any, batch_stats: Any, inputs: Array, vector: Array
) -> Array:
    """A Aᵀ u of outputs u [N C], with A = J_T − J_V, or J_T alone."""

    def function(x: Array) -> Array:
        outputs = in_train(params, x, batch_stats)
        return outputs if in_eval is None else outputs - in_eval(params, x, batch_stats)

    outputs, push = jax.linearize(function, inputs)
    return push(jax.linear_transpose(push, inputs)(vector.reshape(outputs.shape))[0]).reshape(-1)


def _norm(gram: Callable[[np.ndarray], Array], start: np.ndarray, rtol: float, num_vectors: int) -> float:
    """‖A‖₂ from products with A Aᵀ, by Lanczos iteration from `start`, restarted at so many vectors."""

    def product(vector: np.ndarray) -> np.ndarray:
        with numerics.matmul_precision():
            return np.asarray(gram(vector.reshape(-1)))

    operator = scipy.sparse.linalg.LinearOperator((start.size, start.size), matvec=product, dtype=start.dtype)
    # Relative errors of A Aᵀ are twice those of A.
    values = scipy.sparse.linalg.eigsh(
        operator, 1, which="LA", v0=start.reshape(-1), ncv=num_vectors, tol=2 * rtol, return_eigenvectors=False
    )
    return float(np.sqrt(max(values[0], 0)))


MEASURE = Measure(
    batch_norm,
    # Rows of Jacobians, and two norms by iteration, in float64.
    cost=lambda settings, num_params: 4 * len(settings.sample_sizes) * (10 * settings.blocks + 60),
    doc="Jacobians with batch norm in train and eval mode are compared",
)
