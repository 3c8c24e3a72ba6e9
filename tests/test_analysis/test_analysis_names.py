"""How metrics, settings and numbers are written."""

import math

import pytest

from hessflat.analysis.names import axis_name, metric_name, number, quantity, setting_name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (5e-4, "5e-4"),
        (2.3e-7, "2.3e-7"),
        (0.0132, "0.0132"),
        (15.84, "15.84"),
        (1e-3, "1e-3"),
        (-1e-4, "-1e-4"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_names():
    assert number(math.nan) == "–"
    assert number("relu") == "relu"
    assert metric_name("hessian.lambda_max") == "λ_max(H)"
    assert metric_name("hessian.exact.trace") == "Tr H, exact"
    assert metric_name("gauss_newton.zero_mass") == "zero mass of G"
    assert axis_name("gauss_newton.lambda_max") == r"$\lambda_{\max}(G)$"
    assert metric_name("my_metric") == "my metric"
    assert (setting_name("optim.l2"), setting_name("a.batch_size")) == ("L2", "batch size")
    assert quantity("test_accuracy", 0.9408) == "94.08 %"
