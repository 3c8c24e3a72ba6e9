"""When a run ends before its last step: looks at the whole training split, and what they decide."""

from collections.abc import Mapping, Sequence

from hessflat.training.config import TrainingConfig

Look = Mapping[str, float]


def steps_to_look(config: TrainingConfig, last: int) -> list[int]:
    """The steps at which the training split is looked at; none where nothing depends on it."""
    if not (config.stop.train_accuracy or config.stop.train_loss):
        return []
    return list(range(config.stop.every, last + 1, config.stop.every))


def reason_to_stop(config: TrainingConfig, looks: Sequence[Look]) -> str | None:
    """What `looks`, each with `train_loss` and `train_accuracy`, have reached; None to go on.

    The rules are those of *On progressive sharpening, flat minima and generalisation*: 99 % of the training examples
    right (B.1), or the mean of the last ten losses over all of them below a threshold (B.2).
    """
    wanted = config.stop
    if not looks:
        return None
    if wanted.train_accuracy and looks[-1]["train_accuracy"] >= wanted.train_accuracy:
        return f"training accuracy {looks[-1]['train_accuracy']:.4g} reached {wanted.train_accuracy:g}"
    last = [look["train_loss"] for look in looks[-wanted.losses :]]
    if wanted.train_loss and len(last) == wanted.losses and sum(last) / len(last) < wanted.train_loss:
        return f"mean of the last {len(last)} training losses, {sum(last) / len(last):.4g}, below {wanted.train_loss:g}"
    return None
