"""The names of metrics and settings in sentences and on axes, and the text of their values."""

import math
import re
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

PAPERS = {
    "G": "Flatness is a False Friend (Granziol 2020, G)",
    "S": "Empirical Analysis of the Hessian of Over-Parametrized Neural Networks (Sagun et al. 2017, S)",
    "M": "On progressive sharpening, flat minima and generalisation (MacDonald et al. 2023, M)",
    "hessflat": "Beyond the papers",
}
# What follows from measured numbers (`results.read_metric`): (in a sentence, on an axis), as `Measure.names`.
_DERIVED: Mapping[str, str | tuple[str, str]] = {
    "train_error": "training error",
    "validation_error": "validation error",
    "test_error": "test error",
    "<operator>.norm_scaled_lambda_max": (
        "λ_max(<operator>)·‖w‖²",
        r"$\lambda_{\max}(<operator>)\,\|w\|^2$",
    ),
    "<operator>.eval_over_train_lambda_max": (
        "λ_max(<operator>), eval over train mode",
        r"$\lambda_{\max}(<operator>)$, eval over train mode",
    ),
    "<operator>.eval_over_train_second_moment": (
        "Σλ²/P of <operator>, eval over train mode",
        r"$\Sigma\lambda^2/P$ of $<operator>$, eval over train mode",
    ),
    "epoch": "epoch",
}
_SETTINGS = {
    "optim.l2": "L2",
    "optim.lr": "learning rate",
    "optim.name": "optimiser",
    "model.name": "model",
    "data.name": "data set",
    "data.blobs.num_classes": "number of blobs",
    "data.blobs.spread": "standard deviation of a blob",
    "measure.lanczos_steps": "number of Lanczos steps",
    "model.mlp.hidden": "hidden units",
    "optim.sam_radius": "radius of SAM",
    "train.batch_size": "batch",
    "train.label_smoothing": "label smoothing",
    "train.augment": "augmentation",
    "model.mlp.batch_norm": "batch norm",
}


class _Pattern(NamedTuple):
    """A key of `Measure.names` as a regular expression, with the two texts for it."""

    metric: re.Pattern[str]
    sentence: str
    axis: str


def _registered() -> ModuleType:
    """What measures say of their numbers, imported when a metric is first named: reading runs needs no JAX."""
    from hessflat import measures

    return measures


@cache
def _patterns() -> list[_Pattern]:
    """The names that measures give to their numbers, and those of what follows from them."""
    parts = {"<operator>": f"(?P<operator>{'|'.join(_registered().OPERATORS)})", "<layer>": "(?P<layer>.+)"}
    patterns = []
    for names in (*(measure.names for measure in _registered().MEASURES.values()), _DERIVED):
        for key, name in names.items():
            sentence, axis = (name, name) if isinstance(name, str) else name
            expression = "".join(parts.get(part) or re.escape(part) for part in re.split("(<operator>|<layer>)", key))
            patterns.append(_Pattern(re.compile(expression), sentence, axis))
    return patterns


@cache
def _names(metric: str) -> tuple[str, str]:
    for pattern in _patterns():
        if match := pattern.metric.fullmatch(metric):
            sentence, axis = pattern.sentence, pattern.axis
            if operator := match.groupdict().get("operator"):
                sentence, axis = (text.replace("<operator>", operator_symbol(operator)) for text in (sentence, axis))
            if layer := match.groupdict().get("layer"):
                sentence, axis = sentence.replace("<layer>", layer), axis.replace("<layer>", layer.replace("_", " "))
            return sentence, axis
    first, _, rest = metric.partition(".")
    if first.endswith("_eval"):
        sentence, axis = _names(f"{first.removesuffix('_eval')}.{rest}")
        return f"{sentence}, batch norm in eval mode", f"{axis}, batch norm in eval mode"
    plain = metric.replace("_", " ")
    return plain, plain


def operator_symbol(operator: str) -> str:
    """The symbol of an operator: `gauss_newton` -> `G`."""
    return _registered().OPERATORS[operator].symbol


def operator_title(operator: str) -> str:
    """The name of an operator: `gauss_newton` -> `Gauss-Newton matrix`."""
    return _registered().OPERATORS[operator].title


def metric_name(metric: str) -> str:
    """The name of a metric in a sentence: `hessian.lambda_max` -> `λ_max(H)`; an unknown metric keeps its key."""
    return _names(metric)[0]


def axis_name(metric: str) -> str:
    """The label of a metric on an axis, in Matplotlib's mathtext, with its unit."""
    return _names(metric)[1]


def setting_name(setting: str) -> str:
    """The name of a setting: `optim.l2` -> `L2`; an unknown setting is named by the last part of its dotted name."""
    return _SETTINGS.get(setting, setting.rpartition(".")[2].replace("_", " "))


def paper_name(key: str) -> str:
    """The title, author and year of a paper: `G` -> ...; an unknown key is returned unchanged."""
    return PAPERS.get(key, key)


def is_fraction(metric: str) -> bool:
    """Whether the metric is a fraction (an accuracy or an error), which is written in per cent."""
    return metric.endswith(("_accuracy", "_error"))


def number(value: Any, digits: int = 4) -> str:
    """The text of a value in at most `digits` significant digits: `5e-4` where that is shorter, a dash for NaN.

    Text is returned unchanged; the entries of a tuple are joined: `30-30`.
    """
    if isinstance(value, tuple):
        return "-".join(number(one, digits) for one in value)
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "–"
    plain = _short_exponent(f"{value:.{digits}g}")
    powers = _short_exponent(f"{value:.{digits - 1}e}")
    return powers if abs(value) < 1 and len(powers) < len(plain) else plain


def _short_exponent(text: str) -> str:
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"


def quantity(metric: str, value: float) -> str:
    """The text of a metric's value with its unit: `94.08 %`, `15.84`."""
    if is_fraction(metric) and not math.isnan(value):
        return f"{100 * value:.2f} %"
    return number(value)


def plain(value: Any) -> str:
    """The text of a JSON value of a manifest: `jax 0.10.2, numpy 2.4.6` for an object, empty for null."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(plain(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
