"""The diagonal preconditioner P of an optimiser, read from its Optax state: it moves by −η P⁻¹ times a mean of g.

States are known by their names and fields, so that Optax need not be there.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import numerics
from hessflat.utils.errors import InputError, shown

# What holds another state, and the field that it is in.
_WRAPPERS = {
    "ApplyIfFiniteState": "inner_state",
    "ConditionallyTransformState": "inner_state",
    "InjectHyperparamsState": "inner_state",
    "InjectStatefulHyperparamsState": "inner_state",
    "MaskedState": "inner_state",
    "MultiStepsState": "inner_opt_state",
}
# What leaves the metric as it is: momentum, schedules, decay of weights, clipping, noise.
_IDENTITIES = {
    *("AddNoiseState", "EmaState", "EmptyState", "ScaleByScheduleState", "SnapshotState", "TraceState"),
    *("WeightDecaySchedule", "WrappedScheduleState", "ZeroNansState"),
}
_RMS = {"ScaleByRmsState", "ScaleByRmsWithCountState", "ScaleByRStdDevState", "ScaleByRStdDevWithCountState"}


class _SecondMoment(NamedTuple):
    """A state that divides gradients by the root of a second moment, with the settings that its state holds."""

    state: Any
    settings: Mapping[str, Any]


def preconditioner(
    opt_state: Any,
    params: Any,
    *,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
    eps_root: float = 0.0,
    eps_in_sqrt: bool = True,
) -> Any:
    """P as a tree like `params`, of an Optax state after t updates: ones where nothing is adaptive.

    Adam and AdamW: P = (1 − β1ᵗ) (√(ν / (1 − β2ᵗ) + ε_root) + ε), the metric of Cohen et al. (2022, *Adaptive gradient
    methods at the edge of stability*, section 2), in which the correction of the first moment counts as well. RMSProp:
    P = √(ν + ε), or √ν + ε with `eps_in_sqrt=False`, with ν / (1 − β2ᵗ) where the state counts, and ν − μ² where it is
    centred. SGD, momentum and Nesterov: P = 1. The edge that belongs to each is in `edges`.

    States are looked for in `chain`, `named_chain`, `masked`, `partition`, `inject_hyperparams`, `MultiSteps` and
    `apply_if_finite`; a leaf that no second moment is for, as one outside a mask, has P = 1. P is that of the last
    update; the next one has the next gradient in it too. It may be called under `jit`, where P is nan before the first
    update.

    A state does not show clipping, signs and trust ratios (LAMB), nor the rates of the groups of `partition`, which
    must be the same. Nor does it show what has Adam's state without being Adam: of NAdam this is P for a large t, with
    another edge; AdaMax, RAdam and ADOPT have another P.

    It may be called inside `jax.jit`.

    Args:
        opt_state: a tree, what `optimiser.init` and `optimiser.update` give.
        params: pytree of floating arrays, the parameters that it is for.
        b1: β1 of Adam; needed where the state does not hold it, as `inject_hyperparams` does, whose numbers go first.
        b2: β2 of Adam, or the decay of RMSProp that corrects its bias; needed likewise.
        eps: ε; needed likewise.
        eps_root: ε_root of Adam.
        eps_in_sqrt: of RMSProp, as Optax has it.

    Raises:
        InputError: a state whose P is not known, as of Lion or Muon; one before its first update; settings that are
            needed or out of range; parameters of another structure.

    >>> import jax.numpy as jnp, optax
    >>> import hessflat.curvature as cv
    >>> params, optimiser = jnp.zeros(2), optax.adam(1e-3)
    >>> _, state = optimiser.update(jnp.array([4.0, 1.0]), optimiser.init(params))
    >>> P = cv.preconditioner(state, params, b1=0.9, b2=0.999, eps=1e-8)
    >>> [round(float(p), 4) for p in P]  # (1 − 0.9) |g|
    [0.4, 0.1]
    """
    params = numerics.as_arrays("params", params, shapes=True)
    given = {name: _in_range(name, value, 1.0) for name, value in (("b1", b1), ("b2", b2))}
    given |= {name: _in_range(name, value) for name, value in (("eps", eps), ("eps_root", eps_root))}
    given["eps_in_sqrt"] = numerics.require_flag("eps_in_sqrt", eps_in_sqrt)
    leaves, structure = jax.tree.flatten(params)
    found: list[Any] = [None] * len(leaves)
    for moment in _second_moments(opt_state, {}):
        settings = {name: value for name, value in (given | dict(moment.settings)).items() if value is not None}
        for i, own in enumerate(_of_leaves(moment.state, settings, structure)):
            if own is not None and found[i] is not None:
                raise InputError("an array of params has two second moments in the state, and no single P")
            found[i] = found[i] if own is None else own
    wide = [jnp.promote_types(p.dtype, jnp.float32) for p in leaves]
    each = [jnp.ones(p.shape, t) if own is None else own for own, p, t in zip(found, leaves, wide, strict=True)]
    result = jax.tree.unflatten(structure, each)
    numerics.require_like("the second moment of the state", result, params)
    return result


def _in_range(name: str, value: Any, below: float = math.inf) -> Any:
    """A setting from 0 to below a number; of one that is None or traced nothing is known."""
    if value is None or numerics.any_traced(value):
        return value
    number = numerics.number_of(value)
    if not 0 <= number < below:
        says = "finite and at least 0" if below == math.inf else f"at least 0 and below {below:g}"
        raise InputError(f"{name} must be one number, {says}, got {shown(value)}")
    return number


def _second_moments(state: Any, settings: Mapping[str, Any]) -> Iterator[_SecondMoment]:
    """Those anywhere in a state, with the hyperparameters that are injected around them."""
    name, fields = type(state).__name__, getattr(state, "_fields", ())
    if "hyperparams" in fields:
        settings = {**settings, **state.hyperparams}
    if name in _WRAPPERS and _WRAPPERS[name] in fields:
        yield from _second_moments(getattr(state, _WRAPPERS[name]), settings)
    elif name == "PartitionState" and "inner_states" in fields:
        yield from _second_moments(dict(state.inner_states), settings)
    elif name == "ScaleByAdamState" or name in _RMS:
        yield _SecondMoment(state, settings)
    elif isinstance(state, Mapping):
        for inner in state.values():
            yield from _second_moments(inner, settings)
    elif isinstance(state, tuple | list) and not fields:
        for inner in state:
            yield from _second_moments(inner, settings)
    elif state is not None and name not in _IDENTITIES:
        raise InputError(
            f"the state of the optimiser holds {name}, whose P is not known; P is known for SGD, momentum, Nesterov, "
            "RMSProp, Adam and AdamW of Optax; for others, such as Lion and Muon, take cv.directional_sharpness along "
            "the update"
        )


def _of_leaves(state: Any, settings: Mapping[str, Any], structure: Any) -> list[Array | None]:
    """P of each leaf of the parameters; None where the state has none for it."""
    of_leaf = partial(_adam if type(state).__name__ == "ScaleByAdamState" else _rms, state, settings)
    moments = [getattr(state, name, None) for name in ("nu", "mu")]
    if type(state).__name__ not in ("ScaleByRStdDevState", "ScaleByRStdDevWithCountState"):
        moments[1] = None
    split = [[None] * structure.num_leaves if tree is None else _nodes(tree, structure) for tree in moments]
    # A leaf outside a mask is a node without leaves, and one of NNX a variable around an array.
    second, first = ([next(iter(jax.tree.leaves(node)), None) for node in nodes] for nodes in split)
    return [None if nu is None else of_leaf(numerics.widened(nu), mu) for nu, mu in zip(second, first, strict=True)]


def _nodes(tree: Any, structure: Any) -> list[Any]:
    """What a tree of the state has at each leaf of the parameters."""
    try:
        nodes: list[Any] = structure.flatten_up_to(tree)
        return nodes
    except (ValueError, TypeError, KeyError):
        # `nnx.Optimizer` has variables of its own kind at the paths of the parameters.
        paths = [
            path for path, _ in jax.tree.leaves_with_path(jax.tree.unflatten(structure, range(structure.num_leaves)))
        ]
        own = dict(jax.tree.leaves_with_path(tree))
        if own.keys() != set(paths):
            raise InputError(
                "the state belongs to other parameters: its second moment does not have the structure of params"
            ) from None
        return [own[path] for path in paths]


def _adam(state: Any, settings: Mapping[str, Any], nu: Array, _: Any) -> Array:
    b1, b2, eps = (_setting(settings, name) for name in ("b1", "b2", "eps"))
    count = _count(state)
    second = jnp.sqrt(nu / (1 - b2**count) + settings["eps_root"]) + eps
    result: Array = (1 - b1**count) * second
    return result


def _rms(state: Any, settings: Mapping[str, Any], nu: Array, mu: Any) -> Array:
    eps = _setting(settings, "eps")
    if "count" in state._fields:  # `count` is a method of every tuple
        share = 1 - (settings["decay"] if "decay" in settings else _setting(settings, "b2")) ** _count(state)
    else:
        share = jnp.where(_has_gradient(state), 1.0, jnp.nan)
    variance = nu / share - (0.0 if mu is None else jnp.square(numerics.widened(mu) / share))
    return jnp.sqrt(variance + eps) if settings["eps_in_sqrt"] else jnp.sqrt(variance) + eps


def _has_gradient(state: Any) -> Array:
    """Whether a state without a count has seen a gradient: its second moment begins at zero by default."""
    found = jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(state.nu)]).any()
    if not numerics.any_traced(found) and not found:
        raise InputError("the state has seen no gradient yet, or zeros alone, and so has no P; take it after an update")
    return found


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    if name not in settings:
        advice = {"b1": "b1=0.9 of Adam", "b2": "b2=0.999 of Adam", "eps": "eps=1e-8"}[name]
        raise InputError(f"the state does not hold {name}: say that of your optimiser, as {advice}")
    return settings[name]


def _count(state: Any) -> Array:
    """Updates so far; a whole number, so that a power has the precision of its base."""
    (count,) = jax.tree.leaves(state.count)
    if not numerics.any_traced(count) and int(count) == 0:
        raise InputError("the state has seen no gradient yet, and so has no P; take it after the first update")
    return jnp.asarray(count)
