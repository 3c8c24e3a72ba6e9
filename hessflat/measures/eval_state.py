"""What is measured: a trained state, the examples it is measured on, and the protocol that all measures share."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

import hessflat.curvature as cv
from hessflat.config import at_least, each, one_of, positive, whole
from hessflat.measures.operators import OPERATORS, Functions, model_functions
from hessflat.models import Model
from hessflat.training import sharding
from hessflat.training.losses import make_targets
from hessflat.utils.errors import InputError

Splits = Mapping[str, Mapping[str, jax.Array]]

BATCH_NORM_MODES = ("train", "eval")
IN_SPECTRA = tuple(name for name, operator in OPERATORS.items() if operator.in_spectra)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings that all measures of curvature share: of which operators, on which examples, how precisely."""

    operators: Annotated[tuple[str, ...], each(one_of(IN_SPECTRA)), "whose spectra and λ_max are measured"] = (
        "hessian",
        "gauss_newton",
    )
    modes: Annotated[tuple[str, ...], each(one_of(BATCH_NORM_MODES)), "of batch norm, in models that have it"] = (
        BATCH_NORM_MODES
    )
    batch_stats_size: Annotated[
        int, at_least(0), "examples that share batch statistics in train mode; 0 is all measured"
    ] = 0
    examples: Annotated[int, at_least(0), "first training examples, that curvature is measured on; 0 is all"] = 0
    batch_size: Annotated[int, at_least(0), "examples a product takes at once, to bound memory; 0 is all"] = 0
    rtol: Annotated[float, positive, "relative accuracy of λ_max by itself"] = 1e-3
    seed: Annotated[int, whole(0, 2**32 - 1), "of the probes"] = 0


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

    def functions(self, mode: str = "eval") -> Functions:
        """The functions of the model with batch norm in `mode`, the same objects each time."""
        return model_functions(self.model, self.loss, mode)

    @property
    def has_batch_norm(self) -> bool:
        return has_batch_norm(self.batch_stats)

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


def curvature_operator(state: EvalState, name: str, mode: str) -> cv.Operator:
    """An operator of `OPERATORS`, of the mean loss over the measured examples."""
    batches = curvature_batches(state, mode)
    return OPERATORS[name].build(state.functions(mode), state.params, batches, state.curvature_state)


def curvature_data(state: EvalState) -> dict[str, jax.Array]:
    """The clean training examples that curvature is measured on, with their smoothed targets."""
    count = state.protocol.examples or None
    available = len(state.splits["train"]["labels"])
    if count is not None and count > available:
        raise InputError(f"config.measure.examples must be at most {available}, the training split, got {count}")
    targets = make_targets(state.splits["train"]["labels"][:count], state.num_classes, state.label_smoothing)
    data = {"inputs": state.splits["train"]["inputs"][:count], "targets": targets}
    return sharding.shard_examples(data, sharding.make_mesh(state.devices))


def curvature_batches(state: EvalState, mode: str) -> cv.Batches:
    """The measured examples as products take them; in train mode, cut where batch statistics are shared."""
    data, size = curvature_data(state), chunk_size(state)
    if mode == "eval" or not state.has_batch_norm:
        return cv.Batches(data, size)
    number = len(data["targets"])
    shared = min(state.protocol.batch_stats_size or number, number)
    return cv.Batches(data, None if size is None else max(shared, size - size % shared), shared)


def chunk_size(state: EvalState) -> int | None:
    """Examples that one product takes at once; None is all of them."""
    return state.protocol.batch_size or None
