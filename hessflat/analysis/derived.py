"""Metrics that follow from what was measured, so that they can be read of every run, and of those stored long ago."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Derived(NamedTuple):
    """A metric as a function of others."""

    inputs: tuple[str, ...]
    function: Callable[..., float]


def derived(name: str) -> Derived | None:
    """How a metric follows from others, None where it does not.

    `<split>_error` is 1 − accuracy. `<operator>.norm_scaled_lambda_max` is λ_max ‖w‖², which multiplying all weights by
    one factor leaves as it is where the loss does not see that factor; its bound is that of λ_max, scaled alike.
    `<operator>.eval_over_train_<quantity>` is that quantity in batch norm's eval mode over that in train mode.
    """
    if name.endswith("_error"):
        return Derived((f"{name.removesuffix('_error')}_accuracy",), lambda accuracy: 1 - accuracy)
    operator, _, quantity = name.rpartition(".norm_scaled_")
    if operator and quantity in ("lambda_max", "lambda_max_bound"):
        return Derived((f"{operator}.{quantity}", "weight_norm"), lambda value, norm: value * norm**2)
    operator, _, quantity = name.rpartition(".eval_over_train_")
    if operator:
        return Derived((f"{operator}_eval.{quantity}", f"{operator}.{quantity}"), lambda ours, theirs: ours / theirs)
    return None


def value_of(line: Mapping[str, Any], name: str) -> Any:
    """A metric of a line of `metrics.jsonl`, measured or derived; KeyError where it is neither."""
    if name in line:
        return line[name]
    found = derived(name)
    if found is None:
        raise KeyError(name)
    inputs = [line[needed] for needed in found.inputs]
    return None if None in inputs else found.function(*inputs)
