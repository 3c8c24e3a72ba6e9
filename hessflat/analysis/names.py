"""How metrics and settings are called in sentences and on axes, and how their numbers are written."""

import math
from typing import Any

PAPERS = {
    "G": "Flatness is a False Friend (Granziol 2020, G)",
    "S": "Empirical Analysis of the Hessian of Over-Parametrized Neural Networks (Sagun et al. 2017, S)",
    "M": "On progressive sharpening, flat minima and generalisation (MacDonald et al. 2023, M)",
    "hessflat": "Beyond the papers",
}
OPERATORS = {"hessian": "H", "gauss_newton": "G", "residual": "R"}
OPERATOR_NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix", "residual": "residual H − G"}

# Suffix of a curvature metric -> (in a sentence, on an axis); {} is the operator's letter.
_CURVATURE = {
    "lambda_max": ("λ_max({})", r"$\lambda_{{\max}}({})$"),
    "lambda_min": ("λ_min({})", r"$\lambda_{{\min}}({})$"),
    "trace": ("Tr {}", r"$\mathrm{{Tr}}\,{}$"),
    "mean_eigenvalue": ("mean eigenvalue of {}", r"mean eigenvalue of ${}$"),
    "frobenius": ("‖{}‖_F", r"$\|{}\|_F$"),
    "second_moment": ("Σλ²/P of {}", r"$\Sigma\lambda^2/P$ of ${}$"),
    "norm_scaled_lambda_max": ("λ_max({})·‖w‖²", r"$\lambda_{{\max}}({})\,\|w\|^2$"),
    "adaptive_lambda_max": ("λ_max(|w| {} |w|)", r"$\lambda_{{\max}}(|w|\,{}\,|w|)$"),
    "filter_lambda_max": ("filter-normalised λ_max({})", r"filter-normalised $\lambda_{{\max}}({})$"),
    "eval_over_train_lambda_max": ("λ_max({}), eval over train mode", r"$\lambda_{{\max}}({})$, eval over train mode"),
    "zero_mass": ("zero mass of {}", r"zero mass of ${}$"),
    "zero_value": ("Ritz value nearest zero of {}", r"Ritz value nearest zero of ${}$"),
    "noise_floor": ("float32 noise floor of {}", r"float32 noise floor of ${}$"),
}
_METRICS = {
    "train_loss": ("training loss (nats)", "training loss (nats)"),
    "validation_loss": ("validation loss (nats)", "validation loss (nats)"),
    "test_loss": ("test loss (nats)", "test loss (nats)"),
    "train_accuracy": ("training accuracy", "training accuracy"),
    "validation_accuracy": ("validation accuracy", "validation accuracy"),
    "test_accuracy": ("test accuracy", "test accuracy"),
    "train_error": ("training error", "training error"),
    "validation_error": ("validation error", "validation error"),
    "test_error": ("test error", "test error"),
    "gap_loss": ("generalisation gap (nats)", "generalisation gap (nats)"),
    "smoothed_train_loss": ("training loss (nats)", "training loss (nats)"),
    "smoothed_gap_loss": ("generalisation gap (nats)", "generalisation gap (nats)"),
    "gap_accuracy": ("accuracy gap", "accuracy gap"),
    "weight_norm": ("‖w‖₂", r"$\|w\|_2$"),
    "rank_bound": ("rank bound", "rank bound"),
    "zero_mass_bound": ("zero-mass bound", "zero-mass bound"),
    "jacobian.max": ("max ‖∂f/∂x‖₂", r"$\max_i\,\|\partial f/\partial x_i\|_2$"),
    "jacobian.mean": ("mean ‖∂f/∂x‖₂", r"mean $\|\partial f/\partial x_i\|_2$"),
    "softmax_jacobian.max": (
        "max ‖∂σ(f)/∂x‖₂",
        r"$\max_i\,\|\partial\,\sigma(f)/\partial x_i\|_2$",
    ),
    "softmax_jacobian.mean": (
        "mean ‖∂σ(f)/∂x‖₂",
        r"mean $\|\partial\,\sigma(f)/\partial x_i\|_2$",
    ),
    "outputs.frobenius": ("‖F(X)‖_F", r"$\|F(X)\|_F$"),
    "outputs.loss": ("loss of the measured targets (nats)", "loss of the measured targets (nats)"),
    "outputs.excess_loss": ("loss less label entropy (nats)", "loss less label entropy (nats)"),
    "layers.lambda_max": ("λ_max(G), few examples", r"$\lambda_{\max}(G)$, few examples"),
    "layers.after_first": ("max ‖Jf_L ⋯ Jf_2‖₂", r"$\max_i\,\|Jf_L \cdots Jf_2\|_2$"),
    "layers.input_output": ("max ‖Jf_L ⋯ Jf_1‖₂", r"$\max_i\,\|Jf_L \cdots Jf_1\|_2$"),
    "layers.product": ("max Π_{l≥2} ‖Jf_l‖₂", r"$\max_i\,\prod_{l\geq 2}\|Jf_l\|_2$"),
    "line.train_barrier": ("barrier in training loss (nats)", "barrier in training loss (nats)"),
    "line.test_barrier": ("barrier in test loss (nats)", "barrier in test loss (nats)"),
    "line.length": ("‖w − w₀‖₂", r"$\|w - w_0\|_2$"),
    "epoch": ("epoch", "epoch"),
}
# Norms by layer -> (in a sentence, on an axis); {} is the layer's name.
_OF_LAYERS = {
    "features": ("‖f(X)‖₂ into {}", r"$\|f(X)\|_2$ into {}"),
    "kernel": ("‖W‖_F of {}", r"$\|W\|_F$ of {}"),
}
_SETTINGS = {
    "optim.l2": "L2",
    "optim.lr": "learning rate",
    "optim.name": "optimiser",
    "model.name": "model",
    "data.name": "data set",
    "model.mlp.hidden": "hidden units",
    "optim.sam_radius": "radius of SAM",
    "train.batch_size": "batch",
    "train.label_smoothing": "label smoothing",
    "train.augment": "augmentation",
    "model.mlp.batch_norm": "batch norm",
}


def _names(metric: str) -> tuple[str, str]:
    if metric in _METRICS:
        return _METRICS[metric]
    operator, _, quantity = metric.partition(".")
    if operator in _OF_LAYERS:
        sentence, axis = _OF_LAYERS[operator]
        layer = quantity.removesuffix(".norm")
        return sentence.format(layer), axis.format(layer.replace("_", " "))
    if operator.endswith("_eval"):
        sentence, axis = _names(f"{operator.removesuffix('_eval')}.{quantity}")
        return f"{sentence}, batch norm in eval mode", f"{axis}, batch norm in eval mode"
    exact = quantity.startswith("exact.")
    # The ends of a spectrum by Lanczos are told by their residuals, as other estimates are.
    quantity = quantity.removeprefix("exact.").removeprefix("extremes.")
    if operator in OPERATORS and quantity in _CURVATURE:
        sentence, axis = (name.format(OPERATORS[operator]) for name in _CURVATURE[quantity])
        return (f"{sentence}, exact", f"{axis}, exact") if exact else (sentence, axis)
    plain = metric.replace("_", " ")
    return plain, plain


def metric_name(metric: str) -> str:
    """A metric as a sentence calls it: `hessian.lambda_max` -> `λ_max(H)`; unknown ones keep their key."""
    return _names(metric)[0]


def axis_name(metric: str) -> str:
    """A metric as an axis calls it, in Matplotlib's mathtext and with its unit where it has one."""
    return _names(metric)[1]


def setting_name(setting: str) -> str:
    """`optim.l2` -> `L2`; an unknown setting is called by its last part."""
    return _SETTINGS.get(setting, setting.rpartition(".")[2].replace("_", " "))


def paper_name(key: str) -> str:
    """`G` -> the paper's title, author and year; an unknown key stays."""
    return PAPERS.get(key, key)


def is_fraction(metric: str) -> bool:
    """Accuracies and errors are fractions and read as per cent."""
    return metric.endswith(("_accuracy", "_error"))


def number(value: Any, digits: int = 4) -> str:
    """At most `digits` significant digits; `5e-4` where that is shorter; NaN is a dash, text stays, tuples: `30-30`."""
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
    """A metric's value with its unit: `94.08 %`, `15.84`."""
    if is_fraction(metric) and not math.isnan(value):
        return f"{100 * value:.2f} %"
    return number(value)


def plain(value: Any) -> str:
    """A manifest's value as a reader wants it: `jax 0.10.2, numpy 2.4.6` for an object, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(plain(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
