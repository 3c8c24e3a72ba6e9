"""When a run ends before its last step: evaluations of the whole training split, and what they decide."""

from collections.abc import Mapping, Sequence

from hessflat.training.config import TrainingConfig


def steps_to_evaluate(config: TrainingConfig, last: int) -> list[int]:
    """The steps after which the training split is evaluated; none where no rule needs it."""
    if not (config.stop.train_accuracy or config.stop.train_loss):
        return []
    return list(range(config.stop.eval_every, last + 1, config.stop.eval_every))


def reason_to_stop(config: TrainingConfig, evals: Sequence[Mapping[str, float]]) -> str | None:
    """The rule that `evals`, each with `train_loss` and `train_accuracy`, fulfil; None to go on.

    The rules are those of *On progressive sharpening, flat minima and generalisation*: 99 % of the training examples
    right (B.1), or the mean of the last ten losses over all of them below a threshold (B.2).
    """
    rule = config.stop
    if not evals:
        return None
    if rule.train_accuracy and evals[-1]["train_accuracy"] >= rule.train_accuracy:
        return f"training accuracy {evals[-1]['train_accuracy']:.4g} reached {rule.train_accuracy:g}"
    last = [one["train_loss"] for one in evals[-rule.window :]]
    if rule.train_loss and len(last) == rule.window and sum(last) / len(last) < rule.train_loss:
        return f"mean of the last {len(last)} training losses, {sum(last) / len(last):.4g}, below {rule.train_loss:g}"
    return None
