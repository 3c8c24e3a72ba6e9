"""When a run ends before its last step."""

import pytest

from hessflat import config
from hessflat.runs import schema
from hessflat.runs.loop import reason_to_stop, steps_to_evaluate


def settings(**overrides):
    changed = {f"stop.{name}": value for name, value in overrides.items()}
    return schema.freeze(config.override(schema.base_config("smoke"), changed))


def evals(*losses, accuracy=0.5):
    return [{"step": i, "train_loss": loss, "train_accuracy": accuracy} for i, loss in enumerate(losses)]


def test_the_training_split_is_evaluated_only_where_something_depends_on_them():
    assert steps_to_evaluate(settings(), 1000) == []
    assert steps_to_evaluate(settings(train_accuracy=0.99), 250) == [100, 200]
    assert steps_to_evaluate(settings(train_loss=0.1, eval_every=50), 120) == [50, 100]


@pytest.mark.parametrize(("accuracy", "stops"), [(0.9899, False), (0.99, True), (1.0, True)])
def test_training_accuracy(accuracy, stops):
    assert bool(reason_to_stop(settings(train_accuracy=0.99), evals(1.0, accuracy=accuracy))) is stops


def test_mean_of_the_last_losses():
    rule = settings(train_loss=0.1, window=3)
    assert reason_to_stop(rule, evals(0.0, 0.0)) is None  # not three yet
    assert reason_to_stop(rule, evals(0.2, 0.1, 0.01)) is None  # mean 0.103
    assert reason_to_stop(rule, evals(9.0, 0.15, 0.1, 0.01)) == "mean of the last 3 training losses, 0.08667, below 0.1"


def test_without_evals_or_rules_a_run_goes_on():
    assert reason_to_stop(settings(train_accuracy=0.5), []) is None
    assert reason_to_stop(settings(), evals(0.0, accuracy=1.0)) is None
