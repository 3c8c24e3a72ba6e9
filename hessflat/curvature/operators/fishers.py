"""Fisher matrices: of the labels that the data have, and of those that the model would draw.

Both are means of g gᵀ, with g the gradient of one negative log-likelihood. Whether that is the likelihood of an example
or of one of its tokens is said by `per`, and not guessed from the shape of an array.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.operators.matrices import checked, gauss_newton_product, operator_on_outputs, single_term
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.operators.terms import Batches, user_function
from hessflat.curvature.operators.weights import Weighted, weighted_mean
from hessflat.utils import hardware, processes
from hessflat.utils.errors import InputError, shown

Likelihood = Literal["softmax", "bernoulli", "gaussian"]
Sampled = tuple[Callable[..., Any], Callable[..., Any]]
Per = Literal["example", "token"]


def fisher(losses: Callable[..., Any], params: Any, data: Any, state: Any = None, per: Per | None = None) -> Operator:
    """The empirical Fisher (1/N) Σ g_i g_iᵀ, with g_i the gradient of example i's loss.

    It uses the labels of the data, and is neither the Hessian nor the Fisher of the model (Kunstner, Balles and Hennig
    2019, *Limitations of the empirical Fisher approximation*), which `model_fisher` is.

    Args:
        losses: `losses(params, batch)` -> per-example losses [n], or [n, ...] with one for each token.
        params: pytree of floating arrays at which gradients are taken, or a flat array [P].
        data: the examples of the mean: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        state: a third argument of `losses`, if given.
        per: needed where there is more than one loss for each example. "token" takes g of every single loss, and the
            mean over all of them; "example" takes g of their sum over an example, and the mean over examples.

    Raises:
        InputError: as `hessian`; losses without a leading axis of examples; no `per` where it is needed.
    """
    params, batches, extra = checked(params, data, state, losses)
    losses = user_function(losses)
    like = batches.like
    result = numerics.output_shapes("losses(params, batch)", losses, params, like.unweighted, *extra)
    shape = getattr(result, "shape", ())
    if shape[:1] != (like.num_examples,):
        came = f"shape {shape}" if hasattr(result, "shape") else "a tree"
        raise InputError(f"losses(params, batch) must have shape ({like.num_examples},) or more axes, got {came}")
    narrow = numerics.is_narrow_program(losses, params, like.unweighted, *extra)
    if _per("losses(params, batch)", shape, like.arrays, per) == "example" and len(shape) > 1:
        losses = SummedLosses(losses)
    return single_term(
        gauss_newton_product, (losses, half_mean_square), ("each", "weighted mean"), params, batches, extra, narrow
    )


def model_fisher(
    predict: Callable[..., Any],
    params: Any,
    data: Any,
    likelihood: Likelihood | Sampled = "softmax",
    key: Array | None = None,
    num_samples: int = 1,
    state: Any = None,
    per: Per | None = None,
) -> Operator:
    """The Fisher of the model, (1/N) Σ_i E_{y ~ p(y|f_i)} [g_i(y) g_i(y)ᵀ], with g_i(y) = −∇ log p(y | f(w, x_i)).

    Amari (1998, *Natural gradient works efficiently in learning*); Martens (2020, *New insights and perspectives on the
    natural gradient method*).

    A likelihood that is named is exact, (1/N) Σ J_iᵀ F_i J_i with F_i the Fisher of the outputs, and equal to the
    `gauss_newton` of its negative log-likelihood with any labels. For another likelihood the expectation is the mean
    over `num_samples` labels, drawn once for each example from `key`. The matrix is therefore the same at every product
    and for every batch size.

    Args:
        predict: `predict(params, batch)` -> outputs, an array [n, ...].
        params: pytree of floating arrays, or a flat array [P], at which the curvature is taken.
        data: the examples of the mean: `Batches`, a `Stream`, or a pytree of arrays [N, ...].
        likelihood: "softmax" for logits [n, ..., C] of one class among C, F_i = diag p − p pᵀ; "bernoulli" for one
            logit [n, ...] of each label that is 0 or 1, F_i = p (1 − p); "gaussian" for means [n, ...] of unit
            variance, F_i = 1; or `(sample, log_likelihood)` for one example: `sample(key, outputs)` -> a label, and
            `log_likelihood(outputs, label)` -> log p, a scalar.
        key: for drawing labels.
        num_samples: the number of labels for each example.
        state: a third argument of `predict`, if given.
        per: needed where an example has more than one label. "example": its likelihood is the product over its labels,
            and the mean is over examples. "token": the mean is over all labels.

    Raises:
        InputError: as `gauss_newton`; outputs that are not those of the likelihood; no `per` or no key where one is
            needed; statistics over batches with drawn labels.
    """
    if isinstance(likelihood, str):
        numerics.require_option("likelihood", likelihood, _NEGATIVE_LOG_LIKELIHOODS)
        checked_params, batches, extra = checked(params, data, state, predict)
        predict, like = user_function(predict), batches.like
        outputs = numerics.output_shapes("predict(params, batch)", predict, checked_params, like.unweighted, *extra)
        shape = _shape_of_labels(likelihood, outputs, like.num_examples)
        criterion = LabelFreeCriterion(likelihood, _per("predict(params, batch)", shape, like.arrays, per))
        return operator_on_outputs(gauss_newton_product, predict, criterion, params, data, state, "weighted mean")
    if not isinstance(likelihood, tuple) or len(likelihood) != 2:
        known = "'softmax', 'bernoulli', 'gaussian' or (sample, log_likelihood)"
        raise InputError(f"likelihood must be {known}, got {shown(likelihood)}")
    num_samples = numerics.require_draws("num_samples", num_samples)
    if key is None:
        raise InputError("a likelihood given by (sample, log_likelihood) needs a key to draw labels from")
    numerics.require_key(key)
    sample, log_likelihood = likelihood
    params, batches, extra = checked(params, data, state, predict)
    if numerics.any_shapes((params, batches, extra)):
        raise InputError("labels are drawn from arrays: give arrays, or a likelihood by its name, where shapes will do")
    if not batches.in_memory:
        raise InputError("labels are drawn for examples in memory: give cv.Batches, or a likelihood by its name")
    if batches.statistics_batch is not None:
        raise InputError("labels are drawn for one example at a time: give data without statistics_batch")
    _require_sampled(user_function(predict), sample, log_likelihood, params, batches, extra, key, num_samples)
    losses = SampledLosses(predict, log_likelihood)
    with numerics.matmul_precision():
        labels = _draw_labels(predict, sample, params, batches, extra, key, num_samples)
    pairs: Any = (batches.unweighted, labels)
    if isinstance(batches.arrays, Weighted):
        if batches.arrays.weights.ndim > 1:
            raise InputError("labels are drawn for whole examples: give weights [N], one for each of them")
        pairs = batches.arrays._replace(arrays=pairs)
    narrow = numerics.is_narrow_program(user_function(predict), params, batches.unweighted, *extra)
    drawn = dataclasses.replace(batches, arrays=pairs)
    return single_term(
        gauss_newton_product, (losses, half_mean_square), ("each", "weighted mean"), params, drawn, extra, narrow
    )


def half_mean_square(losses: Array, batch: Any, *state: Any) -> Array:
    """Its second derivative is the identity over n, so the Gauss-Newton matrix becomes the mean of g gᵀ."""
    return 0.5 * weighted_mean(losses**2, batch)


# Of each label, without terms that depend on it: what is left has the second derivative that any label gives.
_NEGATIVE_LOG_LIKELIHOODS: Mapping[str, Callable[[Array], Array]] = {
    "softmax": lambda logits: -jax.nn.log_softmax(logits)[..., 0],
    "bernoulli": jax.nn.softplus,
    "gaussian": lambda means: means**2 / 2,
}


@dataclasses.dataclass(frozen=True)
class LabelFreeCriterion:
    """The mean negative log-likelihood, without terms that depend on labels; equal where likelihood and mean are."""

    likelihood: Likelihood
    per: Per

    def __call__(self, outputs: Array, batch: Any, *state: Any) -> Array:
        values = _NEGATIVE_LOG_LIKELIHOODS[self.likelihood](outputs)
        if self.per == "example":
            values = values.reshape(len(values), -1).sum(axis=1)
        return weighted_mean(values, batch)


@dataclasses.dataclass(frozen=True)
class SummedLosses:
    """The losses of each example, summed over its tokens: [n, ...] -> [n]. Equal where `losses` is the same."""

    losses: Callable[..., Any]

    def __call__(self, params: Any, batch: Any, *state: Any) -> Array:
        losses = self.losses(params, batch, *state)
        result: Array = losses.reshape(len(losses), -1).sum(axis=1)
        return result


def _per(what: str, shape: tuple[int, ...], arrays: Any, per: Per | None) -> Per:
    """What the mean is over, of quantities of that `shape`, one for each label.

    Raises:
        InputError: more than one label for each example and nothing that says what is meant; weights of another shape.
    """
    if per is not None:
        numerics.require_option("value of per", per, ("example", "token"))
    weights = arrays.weights.shape if isinstance(arrays, Weighted) else shape[:1]
    if len(weights) > 1:
        if weights != shape[: len(weights)] or per == "example":
            raise InputError(
                f"weights of shape {weights} are for single tokens, but {what} has {shape}; they must agree, and per "
                "must be 'token'"
            )
        return "token"
    if per is None and any(n > 1 for n in shape[1:]):
        raise InputError(
            f"{what} has {shape[1:]} labels for each example; say per='token' for the mean over all of them, or "
            "per='example' for the likelihood of an example, their product"
        )
    return per or "example"


def _shape_of_labels(likelihood: Likelihood, outputs: Any, number: int) -> tuple[int, ...]:
    """The leading axes of `outputs`, without that of classes."""
    shape = getattr(outputs, "shape", None)
    if shape is None or shape[:1] != (number,):
        came = "a tree" if shape is None else f"shape {shape}"
        raise InputError(f"predict(params, batch) must be one array [{number}, ...] for a likelihood, got {came}")
    if likelihood != "softmax":
        return tuple(shape)
    if len(shape) < 2 or shape[-1] < 2:
        raise InputError(
            f"a softmax needs logits [n, ..., C] of at least two classes, got shape {shape}; for one logit of a label "
            "that is 0 or 1 take likelihood='bernoulli'"
        )
    return tuple(shape[:-1])


@dataclasses.dataclass(frozen=True)
class SampledLosses:
    """−log p of the drawn labels, [n, num_samples]; equal where the functions are the same."""

    predict: Callable[..., Any]
    log_likelihood: Callable[..., Any]

    def __call__(self, params: Any, batch: Any, *state: Any) -> Array:
        data, labels = batch
        outputs = self.predict(params, data, *state)
        one = numerics.mapped(self.log_likelihood, in_axes=(None, 0))
        result: Array = -numerics.mapped(one)(outputs, labels)
        return result


def _require_sampled(
    predict: Callable[..., Any],
    sample: Callable[..., Any],
    log_likelihood: Callable[..., Any],
    params: Any,
    batches: Batches,
    extra: tuple[Any, ...],
    key: Array,
    num_samples: int,
) -> None:
    """Refuse functions that do not go together, and labels that do not fit into memory."""
    outputs = numerics.output_shapes("predict(params, batch)", predict, params, batches.unweighted, *extra)
    numerics.require_floating("predict(params, batch)", outputs)
    if any(leaf.shape[:1] != (batches.num_examples,) for leaf in jax.tree.leaves(outputs)):
        raise InputError(f"predict(params, batch) must have a leading axis of the {batches.num_examples} examples")
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), outputs)
    label = numerics.output_shapes("sample(key, outputs)", sample, key, one)
    value = numerics.output_shapes("log_likelihood(outputs, label)", log_likelihood, one, label)
    if getattr(value, "shape", None) != ():
        raise InputError("log_likelihood(outputs, label) must be a scalar for each example")
    with processes.failing_together(processes.spans(batches)):
        hardware.require_bytes(
            batches.num_examples * num_samples * (hardware.num_bytes(label) + 4),
            f"{num_samples:,} labels for each of {batches.num_examples:,} examples",
            "take a smaller num_samples",
        )


def _draw_labels(
    predict: Callable[..., Any],
    sample: Callable[..., Any],
    params: Any,
    batches: Batches,
    extra: tuple[Any, ...],
    key: Array,
    num_samples: int,
) -> Any:
    """[N, num_samples, ...], from a key for each example: the cut of the data does not matter."""

    def for_one(key: Array, outputs: Any) -> Any:
        return numerics.mapped(sample, in_axes=(0, None))(jax.random.split(key, num_samples), outputs)

    @jax.jit
    def for_batch(params: Any, batch: Any, extra: Any, start: Array) -> Any:
        outputs = predict(params, batch, *extra)
        numbers = start + jnp.arange(jax.tree.leaves(outputs)[0].shape[0])
        return numerics.mapped(for_one)(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), outputs)

    batches = dataclasses.replace(batches, arrays=batches.unweighted)
    parts = [for_batch(params, batches.take(start, size), extra, np.int32(start)) for start, size in batches.cuts]
    return jax.tree.map(lambda *part: jnp.concatenate(part), *parts)
