"""When a run ends before its last step."""

import pytest

from hessflat import config
from hessflat.runs import schema
from hessflat.training.stopping import reason_to_stop, steps_to_look


def settings(**overrides):
    changed = {f"stop.{name}": value for name, value in overrides.items()}
    return schema.freeze(config.override(schema.base_config("smoke"), changed))


def looks(*losses, accuracy=0.5):
    return [{"step": i, "train_loss": loss, "train_accuracy": accuracy} for i, loss in enumerate(losses)]


def test_looks_are_taken_only_where_something_depends_on_them():
    assert steps_to_look(settings(), 1000) == []
    assert steps_to_look(settings(train_accuracy=0.99), 250) == [100, 200]
    assert steps_to_look(settings(train_loss=0.1, every=50), 120) == [50, 100]


@pytest.mark.parametrize(("accuracy", "stops"), [(0.9899, False), (0.99, True), (1.0, True)])
def test_training_accuracy(accuracy, stops):
    assert bool(reason_to_stop(settings(train_accuracy=0.99), looks(1.0, accuracy=accuracy))) is stops


def test_mean_of_the_last_losses():
    rule = settings(train_loss=0.1, losses=3)
    assert reason_to_stop(rule, looks(0.0, 0.0)) is None  # not three yet
    assert reason_to_stop(rule, looks(0.2, 0.1, 0.01)) is None  # mean 0.103
    assert reason_to_stop(rule, looks(9.0, 0.15, 0.1, 0.01)) == "mean of the last 3 training losses, 0.08667, below 0.1"


def test_without_looks_or_rules_a_run_goes_on():
    assert reason_to_stop(settings(train_accuracy=0.5), []) is None
    assert reason_to_stop(settings(), looks(0.0, accuracy=1.0)) is None
