"""What is minimised and how: losses, optimisers and learning-rate schedules, by name.

To add one: a function, and its entry in the mapping below it.

A loss is a function of outputs and targets, both `[n, C]`, that gives `[n]`; of tokens, `[n, T, V]` and `[n, T]`.

An optimiser is a function `(learning_rate, l2, mask, *, settings)`. `learning_rate` is an optax schedule of the step,
`l2` a traced number, so a sweep over either compiles once; `mask` says which parameters `l2` is for. Gadam is `adamw`
with `train.average_from` and the schedule `iterate_averaging`.

A schedule is a function `(num_epochs, average_from, *, settings)` that gives factors of the initial rate as a function
of t, the number of finished epochs. `num_epochs` is T, the epochs of the run, `average_from` the epoch from which
iterates are averaged, 0 where none are.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hessflat.config import Rule, anything, at_least, below, between, positive
from hessflat.utils.errors import InputError

LossFunction = Callable[[jax.Array, jax.Array], jax.Array]


class Loss(NamedTuple):
    """A loss, the labels that it can be trained with, and what measures ask of it."""

    function: LossFunction  # of outputs [n, C] and targets [n, C], gives [n]
    classes: bool  # labels [n] are integers, made one-hot targets
    real_targets: bool  # labels [n, C] are floats
    logits: bool  # the softmax of the outputs is what the model says; a number added to all outputs changes nothing
    least: Callable[[jax.Array], jax.Array] | None  # of targets [n, C], what no outputs go below [n]; None: 0, unknown
    guess: Callable[[jax.Array], jax.Array] | None  # of targets [n, C], the best outputs [C] for all; None: unknown


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Softmax cross-entropy of logits and probabilities, both `[n, C]`, in nats: `[n]`."""
    return optax.softmax_cross_entropy(outputs, targets)


def entropy(targets: jax.Array) -> jax.Array:
    """Of probabilities `[n, C]`, in nats: `[n]`."""
    return -jnp.sum(jax.scipy.special.xlogy(targets, targets), axis=-1)


def squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of the squared differences, both `[n, C]`: `[n]`. Its mean is PyTorch's `MSELoss`."""
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def exponential(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over outputs of exp(−t f) for real targets t, both `[n, C]`: `[n]`.

    The loss of *Flatness is a False Friend*, §2, exp(f), is that of the target −1.
    """
    return jnp.mean(jnp.exp(-targets * outputs), axis=-1)


def log_frequencies(targets: jax.Array) -> jax.Array:
    """The logits `[C]` whose softmax is the mean of probabilities `[n, C]`."""
    return jnp.log(jnp.maximum(mean_target(targets), jnp.finfo(targets.dtype).tiny))


def mean_target(targets: jax.Array) -> jax.Array:
    """The mean of targets `[n, C]`: `[C]`."""
    return jnp.mean(targets, axis=0)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": Loss(cross_entropy, True, False, logits=True, least=entropy, guess=log_frequencies),
    "squared_error": Loss(squared_error, True, True, logits=False, least=None, guess=mean_target),
    "exponential": Loss(exponential, False, True, logits=False, least=None, guess=None),
}


@partial(jax.jit, static_argnums=(0, 2))
def loss_of_best_guess(name: str, labels: jax.Array, num_classes: int, weights: jax.Array | None = None) -> jax.Array:
    """The least mean of a loss of `LOSSES` over `labels` that outputs can have which are the same for all examples.

    It is what training is compared with: a network that has learnt nothing is no better. NaN where the loss does not
    say which outputs these are. Of tokens with `weights`, cross-entropy's is the unigram entropy.
    """
    loss = LOSSES[name]
    if loss.guess is None:
        return jnp.array(jnp.nan)
    if weights is None:
        targets = make_targets(labels, num_classes)
        return jnp.mean(loss.function(jnp.broadcast_to(loss.guess(targets), targets.shape), targets))
    # One target a word, however many there are of it.
    shares = jnp.bincount(labels.ravel(), weights.ravel(), length=num_classes) / weights.sum()
    words = make_targets(jnp.arange(num_classes), num_classes)
    guess = loss.guess(num_classes * shares[:, None] * words)
    return jnp.sum(shares * loss.function(jnp.broadcast_to(guess, words.shape), words))


def mean_over(losses: jax.Array, weights: jax.Array | None) -> jax.Array:
    """The mean of losses `[n]`, or Σ m ℓ / Σ m of those of tokens, both `[n, T]`."""
    return jnp.mean(losses) if weights is None else jnp.sum(weights * losses) / jnp.sum(weights)


def losses_by_targets() -> str:
    """The losses that are for one kind of labels alone, in words."""
    classes = [name for name, loss in LOSSES.items() if not loss.real_targets]
    real = [name for name, loss in LOSSES.items() if not loss.classes]
    return f"{', '.join(classes)}: classes alone; {', '.join(real)}: real targets alone"


def are_classes(labels: jax.Array) -> bool:
    """Whether labels are classes `[n]`, or tokens `[n, T]`; they are real targets `[n, C]` otherwise."""
    return jnp.issubdtype(labels.dtype, jnp.integer)


def make_targets(labels: jax.Array, num_classes: int, label_smoothing: jax.Array | float = 0.0) -> jax.Array:
    """(1 − α) one-hot + α / C of classes, α = `label_smoothing`, and real targets as they are: `[n, C]`.

    Of tokens `[n, T]` they are `[n, T, C]`.
    """
    if not are_classes(labels):
        return labels
    return optax.smooth_labels(jax.nn.one_hot(labels, num_classes), label_smoothing)


Mask = Callable[[Any], Any] | None

_FirstDecay = Annotated[float, below(0, 1), "decay of the first moment"]
_SecondDecay = Annotated[float, below(0, 1), "decay of the second moment"]
_Epsilon = Annotated[float, positive, "number added to the root of the second moment"]


def kernels(params: Any) -> Any:
    """Weight decay for kernels, but not for biases nor for the parameters of normalisation, which are vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


# None is every parameter, as the papers have it.
WEIGHT_DECAY_MASKS: Mapping[str, Mask] = {"all": None, "kernels": kernels}


def sgd(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    momentum: Annotated[float, below(0, 1), "ρ: z ← ρ z + gradient, w ← w − lr z"] = 0.9,
    nesterov: Annotated[bool, anything, "look ahead along the momentum"] = False,
) -> optax.GradientTransformation:
    """Momentum SGD as in *Flatness is a False Friend*, eq. 18; `l2 w` is added to the gradient."""
    return optax.chain(
        optax.add_decayed_weights(l2, mask), optax.sgd(learning_rate, momentum if momentum else None, nesterov)
    )


def adam(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    b1: _FirstDecay = 0.9,
    b2: _SecondDecay = 0.999,
    eps: _Epsilon = 1e-8,
) -> optax.GradientTransformation:
    """Adam; `l2 w` is added to the gradient."""
    return optax.chain(optax.add_decayed_weights(l2, mask), optax.adam(learning_rate, b1, b2, eps))


def adamw(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    b1: _FirstDecay = 0.9,
    b2: _SecondDecay = 0.999,
    eps: _Epsilon = 1e-8,
) -> optax.GradientTransformation:
    """Adam with decoupled decay: w ← w − lr (step + l2 w)."""
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=l2, mask=mask)


OPTIMISERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "adam": adam, "adamw": adamw}


Schedule = Callable[[jax.Array], jax.Array]

_increasing = Rule(
    lambda epochs: all(a < b for a, b in itertools.pairwise((0, *epochs))), "increasing epochs, the first at least 1"
)


def constant(num_epochs: int, average_from: int) -> Schedule:
    """The initial rate throughout."""
    return lambda epoch: jnp.ones_like(epoch, dtype=float)


def linear_decay(
    num_epochs: int,
    average_from: int,
    *,
    final_ratio: Annotated[float, between(0, 1), "last rate as a share of the first"] = 0.01,
    over: Annotated[int, at_least(0), "T, the epochs of the schedule; 0: those of the run"] = 0,
) -> Schedule:
    """*Flatness is a False Friend*, eq. 12: 1 until T/2, linear from there to `final_ratio` at 0.9 T, then that.

    The paper's figure 2 has T = 50 in a run of 1,000 epochs.
    """
    return lambda epoch: _linear(epoch / (over or num_epochs), final_ratio)


def iterate_averaging(
    num_epochs: int,
    average_from: int,
    *,
    final_ratio: Annotated[float, between(0, 1), "rate while iterates are averaged, as a share of the first"] = 0.5,
) -> Schedule:
    """*Flatness is a False Friend*, eq. 13: as `linear_decay` with T_avg, the start of averaging, for T; then constant.

    The paper writes t/T in the sloped part; t/T_avg is what makes the schedule continuous, and is taken here.
    """
    if not average_from:
        raise InputError(
            "config.schedule.name='iterate_averaging' needs config.train.average_from, the epoch where averaging "
            "starts; set it above 0, or use 'linear_decay'"
        )
    return lambda epoch: _linear(epoch / average_from, final_ratio)


def step_decay(
    num_epochs: int,
    average_from: int,
    *,
    after: Annotated[tuple[int, ...], _increasing, "epochs after which the rate is multiplied"] = (50, 80),
    factor: Annotated[float, positive, "factor of the rate after each of them"] = 0.1,
) -> Schedule:
    """*On progressive sharpening*, §6.3: divided by ten after epochs 50 and 80 of 90."""

    def multiplied(epoch: jax.Array) -> jax.Array:
        return factor ** sum((epoch >= end).astype(float) for end in after) * jnp.ones_like(epoch, float)

    return multiplied


def _linear(share: jax.Array, final_ratio: float) -> jax.Array:
    """1 until half of the time, linear from there to `final_ratio` at nine tenths, then that."""
    return jnp.clip(1 - (1 - final_ratio) * (share - 0.5) / 0.4, final_ratio, 1.0)


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear_decay": linear_decay,
    "iterate_averaging": iterate_averaging,
    "step_decay": step_decay,
}
