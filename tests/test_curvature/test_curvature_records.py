"""Records print as three lines with values ± errors, and show a table in notebooks."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessflat.curvature as cv
from hessflat.curvature import records

COST = (1_200, 1.5, "highest")
# Not what a measurement ends with, or an operator, data or a function.
OTHERS = {"Batches", "Nystrom", "Operator", "Stream", "Tracker", "TrackerState"}


def test_every_class_of_records_has_a_text_and_a_table():
    public = {name: getattr(cv, name) for name in cv.__all__}  # names are loaded when they are asked for
    classes = {name: part for name, part in public.items() if inspect.isclass(part) and name not in OTHERS}
    assert len(classes) > 15
    assert [name for name, part in classes.items() if not hasattr(part, "_repr_html_")] == []


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (30.6312, 0.41, "30.63 ± 0.41"),
        (8.72921, 0.0003, "8.72921 ± 0.00030"),
        (8.72921, 3e-9, "8.72921 ± 3.0e-09"),
        (3.21e-7, 4e-9, "3.21e-07 ± 4.0e-09"),
        (1234567.0, 1200.0, "1.2346e+06 ± 1.2e+03"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (5.0, 0.0, "5 ± 0"),
        (30.6312, float("nan"), "30.63 ± unknown"),
        (1 / 3, None, "0.333333"),
        (2.0, 30.0, "2 ± 30"),
        (float("nan"), 0.1, "nan ± 0.1"),
        (float("-inf"), 0.1, "-inf ± 0.1"),
    ],
)
def test_a_value_is_written_as_far_as_its_error_tells(value, error, text):
    assert records.plus_minus(value, error) == text


def test_a_record_is_three_lines():
    estimate = cv.Estimate(30.6312, 0.41, *COST)
    title, values, cost = str(estimate).split("\n")
    assert "standard error" in title
    assert values == "value 30.63 ± 0.41"
    assert cost == "1,200 products, 1.5 s, highest precision"
    assert repr(estimate) == str(estimate)
    assert "<td" in estimate._repr_html_()
    assert "30.63 ± 0.41" in estimate._repr_html_()
    many = cv.MinibatchProducts(0.5, 0.1, np.ones(9), np.arange(9.0), 2.0, *COST)
    assert "0, 1, 2, … (9 in all)" in str(many)


@pytest.mark.slow
def test_measurements_of_an_operator_print():
    def predict(params, batch):
        return batch["x"] @ params

    def criterion(outputs, batch):
        return jnp.mean((outputs - batch["y"]) ** 2)

    x = jax.random.normal(jax.random.key(0), (20, 4))
    data, key = {"x": x, "y": x.sum(axis=1)}, jax.random.key(1)
    exact = float(np.linalg.eigvalsh(2 * np.asarray(x.T @ x) / 20)[-1])
    found = cv.decompose(predict, criterion, jnp.ones(4), data, key, num_steps=4, trace_probes=4, exact=True)
    for part in (found, found.hessian, found.hessian.exact, found.hessian.spectrum, found.hessian.moments):
        assert 2 <= len(str(part).split("\n")) <= 3
    assert f"λ_max(H) {exact:.3f}"[:13] in str(found)
    assert str(found.hessian.exact).startswith("all 4 eigenvalues, dense, of rank 4\nλ_max")
    assert "trace" in str(found.hessian.spectrum)
    assert len(str(cv.check(cv.gauss_newton(predict, criterion, jnp.ones(4), data), key)).split("\n")) == 3
    values = {"loss": np.array([1.0, np.nan]), "pair": (np.zeros(2), np.ones(2))}
    shown = str(cv.Line(np.array([0.0, 1.0]), values, 3.0, 2, 0.1, "highest"))
    assert "values loss from 1 to 1; pair 0 from 0 to 0; 1 from 1 to 1" in shown


def test_examples_of_the_texts():
    assert doctest.testmod(records).failed == 0
