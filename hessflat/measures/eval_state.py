"""What is measured: a trained state, the curvature matrices of its loss, and the protocol that all measures share.

To add a matrix: an entry in `OPERATORS`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.config import at_least, each, one_of, positive, whole
from hessflat.models import Model
from hessflat.training.optimisation import LOSSES, make_targets, mean_over
from hessflat.utils import hardware
from hessflat.utils.errors import SettingError

Splits = Mapping[str, Mapping[str, jax.Array]]
# A setting of the measures of flatness that evaluate the loss again and again.
FlatnessExamples = Annotated[
    int,
    at_least(0),
    "first measured examples that m_sharpness, geodesic_sharpness, pac_bayes and pair_slopes use; 0: all",
]


class Functions(NamedTuple):
    """Pure functions of one model, made once, so that what is compiled for a checkpoint serves the next one.

    A batch is `{"inputs": [n, ...], "targets": [n, C]}`; targets are real, or smoothed one-hot labels, for label
    smoothing is part of the measured loss. Weight decay, mixup and augmentation are not. `batch_stats` are the running
    averages of batch norm, which eval mode uses; train mode takes the statistics of the batch. Of tokens, targets are
    `[n, T, V]`, "weights" `[n, T]` stand beside them, the mean is Σ m ℓ / Σ m, and there is no dropout.
    """

    logits: Callable[..., jax.Array]  # (params, inputs, batch_stats)
    predict: Callable[..., jax.Array]  # (params, batch, batch_stats)
    losses: Callable[..., jax.Array]  # (logits, batch, batch_stats), of each example [n]
    criterion: Callable[..., jax.Array]  # (logits, batch, batch_stats), their mean
    loss: Callable[..., jax.Array]  # (params, batch, batch_stats)


@cache
def model_functions(model: Model, loss: str, mode: str = "eval") -> Functions:
    """The functions of a model with batch norm in `mode` and a loss by name, the same objects each time."""
    train, of_example = mode == "train", LOSSES[loss].function

    def logits(params: Any, inputs: jax.Array, batch_stats: Any = None) -> jax.Array:
        return model.apply(params, batch_stats or {}, inputs, train)[0]

    def predict(params: Any, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        return model.apply(params, batch_stats or {}, batch["inputs"], train)[0]

    def losses(outputs: jax.Array, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        return of_example(outputs, batch["targets"])

    def criterion(outputs: jax.Array, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        return mean_over(of_example(outputs, batch["targets"]), batch.get("weights"))

    def mean_loss(params: Any, batch: Mapping[str, jax.Array], batch_stats: Any = None) -> jax.Array:
        outputs, _ = model.apply(params, batch_stats or {}, batch["inputs"], train)
        return mean_over(of_example(outputs, batch["targets"]), batch.get("weights"))

    return Functions(logits, predict, losses, criterion, mean_loss)


@partial(jax.jit, static_argnums=0)
def evaluated(function: Callable[..., jax.Array], *args: Any) -> jax.Array:
    """One of `Functions`, compiled; a `jax.jit` of its own for each measurement would be kept as long as they are."""
    return function(*args)


class MeasuredOperator(NamedTuple):
    """A curvature matrix that can be measured.

    `build(functions, params, batches, batch_stats)` makes it. `symbol` stands in formulas, `title` in captions.
    `zero_mass` is the rule by which `Spectrum.zero_mass` counts. With `in_spectra` false every eigenvalue of it can be
    computed, but no spectrum is estimated by Lanczos quadrature.
    """

    build: Callable[[Functions, Any, cv.Batches, Any], cv.Operator]
    symbol: str
    title: str
    zero_mass: Literal["hessian", "gauss_newton"] = "hessian"
    in_spectra: bool = True


def _hessian(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.hessian(functions.loss, params, batches, batch_stats)


def _gauss_newton(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.gauss_newton(functions.predict, functions.criterion, params, batches, batch_stats)


def _residual(functions: Functions, params: Any, batches: cv.Batches, batch_stats: Any) -> cv.Operator:
    return cv.residual(functions.predict, functions.criterion, params, batches, batch_stats)


OPERATORS: Mapping[str, MeasuredOperator] = {
    "hessian": MeasuredOperator(_hessian, "H", "Hessian"),
    "gauss_newton": MeasuredOperator(_gauss_newton, "G", "Gauss-Newton matrix", "gauss_newton"),
    "residual": MeasuredOperator(_residual, "R", "residual H − G", in_spectra=False),
}

BATCH_NORM_MODES = ("train", "eval")
# As JAX names them, from the most exact to the fastest.
PRECISIONS = ("highest", "high", "default")
IN_SPECTRA = tuple(name for name, operator in OPERATORS.items() if operator.in_spectra)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings that all measures of curvature share: of which operators, on which examples, how precisely."""

    operators: Annotated[tuple[str, ...], each(one_of(IN_SPECTRA)), "matrices whose spectra and λ_max are measured"] = (
        "hessian",
        "gauss_newton",
    )
    modes: Annotated[tuple[str, ...], each(one_of(BATCH_NORM_MODES)), "modes of batch norm, in models that have it"] = (
        BATCH_NORM_MODES
    )
    batch_stats_size: Annotated[
        int, at_least(0), "examples that share batch statistics in train mode; 0: all measured"
    ] = 0
    examples: Annotated[int, at_least(0), "first training examples, on which curvature is measured; 0: all"] = 0
    batch_size: Annotated[int, at_least(0), "examples that a product takes at once, to bound memory; 0: all"] = 0
    precision: Annotated[
        str,
        one_of(PRECISIONS),
        "precision of products of float32 matrices in measurements; on a CPU all are the highest",
    ] = "highest"
    rtol: Annotated[float, positive, "relative accuracy of λ_max by itself"] = 1e-3
    seed: Annotated[int, whole(0, 2**32 - 1), "seed of the probes"] = 0


class EvalState(NamedTuple):
    """One trained state. `splits` are train, validation (may be absent) and test, each inputs and labels."""

    model: Model
    params: Any
    batch_stats: Any  # running averages of batch norm; an empty dict for a model without it
    splits: Splits
    num_classes: int
    loss: str
    label_smoothing: float
    protocol: Protocol
    starts: Mapping[str, jax.Array]  # where eigenvectors are searched from; zeros: anywhere
    devices: int  # that examples are spread over, as `config.devices`
    first_params: Callable[[], Any]  # makes the weights that the run started from, for the measures that compare
    data: Mapping[str, Any] = MappingProxyType({})  # the settings of the data set, for measures that draw more of it
    opt_state: Any = None  # of Optax
    # Settings of the optimiser, its `name`, `lr`, `sam_radius`, `schedule` and `batch_size`, and the `step`, an array.
    optimiser: Mapping[str, Any] = MappingProxyType({})

    def functions(self, mode: str = "eval") -> Functions:
        """The functions of the model with batch norm in `mode`, the same objects each time."""
        return model_functions(self.model, self.loss, mode)

    @property
    def has_batch_norm(self) -> bool:
        return has_batch_norm(self.batch_stats)

    @property
    def has_tokens(self) -> bool:
        """Whether inputs and labels are tokens, with weights beside them."""
        return "weights" in self.splits["train"]

    @property
    def curvature_state(self) -> Any:
        """The running averages of batch norm as `hessflat.curvature` takes them: None for a model without it."""
        return self.batch_stats if self.has_batch_norm else None


def has_batch_norm(batch_stats: Any) -> bool:
    """Whether there are running averages."""
    return bool(jax.tree.leaves(batch_stats))


def as_float64(tree: Any) -> Any:
    """Floating leaves in float64, within `jax.enable_x64(True)`."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def modes_by_suffix(protocol: Protocol, batch_stats: Any) -> dict[str, str]:
    """The modes of batch norm to measure in, by what they add to the names of numbers: `""` or `"_eval"`."""
    suffixes = {"train": "", "eval": "_eval"}
    if not has_batch_norm(batch_stats):
        return {"": "eval"}
    return {suffixes[mode]: mode for mode in protocol.modes}


def operators_by_key(names: Iterable[str], protocol: Protocol, batch_stats: Any) -> Mapping[str, tuple[str, str]]:
    """Operator and mode of batch norm, by the key that their numbers go under: `hessian`, `hessian_eval`."""
    modes = modes_by_suffix(protocol, batch_stats)
    return {f"{name}{suffix}": (name, mode) for name in names for suffix, mode in modes.items()}


def curvature_operator(state: EvalState, name: str, mode: str, spread: bool = True) -> cv.Operator:
    """An operator of `OPERATORS`, of the mean loss over the measured examples.

    With `spread` these are over all devices also where they do not divide; its matrix is then a sum of two.
    """
    batches = curvature_batches(state, mode)
    if spread:
        batches = cv.spread(batches)
    return OPERATORS[name].build(state.functions(mode), state.params, batches, state.curvature_state)


def curvature_data(state: EvalState) -> dict[str, jax.Array]:
    """The clean training examples that curvature is measured on, with their smoothed targets; of tokens, weights."""
    count = state.protocol.examples or None
    available = len(state.splits["train"]["labels"])
    if count is not None and count > available:
        raise SettingError(f"config.measure.examples must be at most {available}, the training split, got {count}")
    examples = hardware.first_examples(state.splits["train"], count or available)
    targets = make_targets(examples.pop("labels"), state.num_classes, state.label_smoothing)
    data = {**examples, "targets": targets}
    return hardware.shard_examples(data, hardware.make_mesh(state.devices))


def flatness_data(state: EvalState, examples: int) -> dict[str, jax.Array]:
    """The first `examples` of `curvature_data`, as many as there are of them; 0 is all."""
    return {name: array[: examples or None] for name, array in curvature_data(state).items()}


def flatness_share(settings: Any) -> float:
    """Of the measured examples, those of `flatness_data`, as far as the settings say: at most all."""
    measured, taken = settings.examples, settings.flatness_examples
    return min(taken / measured, 1) if measured and taken else 1


def curvature_batches(state: EvalState, mode: str) -> cv.Batches:
    """The measured examples as products take them; in train mode, cut where batch statistics are shared."""
    data, size = curvature_data(state), chunk_size(state)
    if mode == "eval" or not state.has_batch_norm:
        return cv.Batches(data, size, weights="weights" if state.has_tokens else None)
    number = len(data["targets"])
    shared = min(state.protocol.batch_stats_size or number, number)
    return cv.Batches(data, None if size is None else max(shared, size - size % shared), shared)


def chunk_size(state: EvalState) -> int | None:
    """Examples that one product takes at once; None is all of them."""
    return state.protocol.batch_size or None
