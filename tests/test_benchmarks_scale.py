"""Benchmarks of precision, scaling and plans at their smallest, and the pages made of what is stored."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from benchmarks import plans, precision, tables
from benchmarks.own import placement
from benchmarks.problems import SMOKE, make
from benchmarks.results import RESULTS, read_all
from benchmarks.scaling import document as scaling_document
from benchmarks.scaling import run as scaling
from benchmarks.scaling.workloads import LAYOUTS, STRONG, TASKS, WEAK, scaled
from hessflat.utils.errors import InputError


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def as_bfloat16(x):
    return np.asarray(x, ml_dtypes.bfloat16).astype(np.float64)


def as_tensorfloat32(x):
    """To the nearest with ten bits behind the leading one, by NumPy's own decomposition."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)


@pytest.mark.parametrize(("level", "narrow"), [("bfloat16", as_bfloat16), ("tensorfloat32", as_tensorfloat32)])
def test_inputs_of_products_are_rounded_to_the_nearest(level, narrow):
    a, b = numbers(7, 50), numbers(50, 5, seed=1)
    found = precision.emulated(lambda a, b: jnp.tanh(a @ b), level)(a, b)
    np.testing.assert_allclose(found, np.tanh(narrow(a) @ narrow(b)), atol=2e-6)
    assert np.abs(np.asarray(found) - np.tanh(a.astype(np.float64) @ b)).max() > 1e-4


def test_three_passes_of_bfloat16_are_those_of_two_pieces():
    a, b = numbers(7, 50), numbers(50, 5, seed=1)
    high = [as_bfloat16(x) for x in (a, b)]
    low = [as_bfloat16(x - h.astype(np.float32)) for x, h in zip((a, b), high, strict=True)]
    expected = high[0] @ high[1] + high[0] @ low[1] + low[0] @ high[1]
    found = precision.emulated(jnp.matmul, "bfloat16_3x")(a, b)
    np.testing.assert_allclose(found, expected, atol=5e-6)
    np.testing.assert_allclose(found, a.astype(np.float64) @ b, atol=3e-4)


def test_products_in_loops_are_not_passed_over():
    def looped(a):
        return jax.lax.scan(lambda x, _: (x @ a, None), a, None, length=2)[0]

    with pytest.raises(InputError, match="a product inside 'scan' is not rounded"):
        precision.emulated(looped, "bfloat16")(numbers(3, 3))


@pytest.mark.slow
def test_errors_fall_with_the_precision():
    problem = SMOKE["dense"]
    with jax.numpy_rank_promotion("allow"):
        found = precision.measure(problem, make(problem), "gauss_newton", 8)
    exact = found["float64"]["lambda_max"]
    errors = [abs(found[level]["lambda_max"] / exact - 1) for level in ("bfloat16", "tensorfloat32", "bfloat16_3x")]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.05
    assert errors[-1] < 1e-4


def test_the_page_of_precision_is_what_is_stored():
    assert precision.DOCUMENT.read_text() == precision.render(json.loads(precision.STORED.read_text()))


def test_the_page_of_plans_is_what_is_stored():
    assert plans.DOCUMENT.read_text() == plans.render(read_all(plans.FOLDER))


def test_the_page_of_scaling_is_what_is_stored():
    stored = read_all(RESULTS / "scaling")
    assert scaling_document.DOCUMENT.read_text() == scaling_document.render(stored)


@pytest.mark.long
def test_scaling_over_devices_and_processes(tmp_path, capsys):
    path = tmp_path / "scaling.json"
    scaling.main(["--layouts=1x1,1x2,2x1", "--repeats=1", "--scale=smoke", f"--out={path}"])
    found = json.loads(path.read_text())
    rows = {row["layout"]: row for row in found["rows"]}
    assert {row["status"] for row in rows.values()} == {"ok"}
    for name, row in rows.items():
        assert all(len(row["seconds"][f"{task} {kind}"]) == 1 for task in TASKS for kind in (STRONG, WEAK))
        exchanged = {task: row["facts"][f"{task} {STRONG}"]["exchanges"] for task in TASKS}
        size = 16 * 8 + 8 * 10
        if name == "1x1":
            assert not any(exchanged.values())
        else:
            # One sum of the gradient with its biases, one of the product; rows or coefficients beside it in Lanczos.
            assert sum(times * num_bytes for _, times, num_bytes in exchanged["product"]) == 4 * size
            assert sum(times * num_bytes for _, times, num_bytes in exchanged["lanczos"]) >= 4 * size
            halves = [rows[layout]["facts"][f"product {STRONG}"]["flops"] for layout in (name, "1x1")]
            assert 0.5 <= halves[0] / halves[1] < 0.6
    text = capsys.readouterr().out
    assert "processes × devices" in text
    assert "2 × 1" in text
    assert tables.as_markdown(scaling_document.table(found, "product")).count("\n") == 4


def test_examples_of_layouts():
    assert [scaled(64, WEAK, layout.devices) for layout in LAYOUTS.values()] == [8, 16, 32, 64, 16, 32, 64]
    assert {scaled(64, STRONG, layout.devices) for layout in LAYOUTS.values()} == {64}
    with pytest.raises(InputError, match="must hold 1x1"):
        scaling.main(["--layouts=1x2"])


def test_chips_by_what_jax_calls_them():
    kinds = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h200", "TPU v5 lite": "v5e", "cpu": None}
    assert {kind: placement.chip_of(kind) for kind in kinds} == kinds
    assert placement.topology_of(jax.devices()[0]) is None


def test_a_table_of_plans_beside_what_was_measured():
    parts = {"plan_step": [0.01], "measured_step": [0.02], "plan_added_bytes": [2e9], "measured_added_bytes": [3e9]}
    results = {"rows": [{"workload": "device4", "contender": "hessflat device", "parts": parts}]}
    (_, row) = tables.plans(results)
    assert row[1:] == ["2.00 GB", "3.00 GB", "10 ms", "20 ms", "2.00"]
