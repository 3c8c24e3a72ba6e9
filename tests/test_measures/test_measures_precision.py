"""The precision of a measurement is a setting, and the results name it."""

import jax
import numpy as np
import pytest
import runs

from hessflat import measures
from hessflat.curvature import numerics
from hessflat.measures.measurement import Measure, Measurement
from hessflat.runs import run_folder, schema
from hessflat.utils import compat
from hessflat.utils.errors import InputError

LITTLE = ("--config.train.steps=2", "--config.measure.spectra=end", "--config.measure.lanczos_steps=5")


@pytest.mark.long
def test_products_are_asked_for_in_the_precision_of_the_settings(tmp_path, monkeypatch):
    """Whatever JAX's own setting is; on a CPU the numbers are the same to the bit, and the names say so."""
    asked = []

    def compute(state):
        asked.append(compat.setting("jax_default_matmul_precision"))
        return Measurement({}, {})

    monkeypatch.setitem(measures.MEASURES, "loss_limit", Measure(compute, lambda settings, size: 1.0, "it is asked"))
    chosen = [
        runs.tiny(*LITTLE, "--config.measure.loss_limit=end", *more)
        for more in ((), ("--config.measure.precision=default",))
    ]
    with jax.default_matmul_precision("high"):
        one, other = runs.run_all(chosen, tmp_path)
    assert asked == ["highest", "default"]
    manifests = [run_folder.read_manifest(folder) for folder in (one, other)]
    assert [manifest["matmul_precision"] for manifest in manifests] == ["highest", "highest"]
    assert runs.metrics(one)[-1]["hessian.lambda_max"] == runs.metrics(other)[-1]["hessian.lambda_max"]
    for name, arrays in runs.spectra(one).items():
        if "precision" in arrays:
            assert str(arrays["precision"]) == str(runs.spectra(other)[name]["precision"]) == "highest"


def test_a_run_with_the_default_is_the_run_it_was():
    chosen = runs.tiny()
    assert chosen.measure.precision == "highest"
    values = schema.plain(chosen)
    before = {**values, "measure": {k: v for k, v in values["measure"].items() if k != "precision"}}
    assert schema.identity(schema.from_plain(before)) == schema.identity(chosen)
    assert schema.identity(schema.replace(chosen, {"measure.precision": "high"})) != schema.identity(chosen)


def test_unknown_precisions_are_refused():
    with pytest.raises(
        InputError, match=r"config\.measure\.precision must be one of highest, high, default, got 'hihg'"
    ):
        runs.tiny("--config.measure.precision=hihg")


@pytest.mark.parametrize(
    ("platform", "level", "name"),
    [
        ("cuda", "highest", "highest"),
        ("cuda", "high", "tensorfloat32"),
        ("gpu", "default", "tensorfloat32"),
        ("tpu", "high", "bfloat16_3x"),
        ("tpu", "default", "bfloat16"),
        ("cpu", "default", "highest"),
    ],
)
def test_a_result_names_what_the_platform_does(platform, level, name):
    assert numerics.precision_on(platform, level) == name
    with jax.default_matmul_precision(level):
        assert numerics.precision_on(platform) == name
    assert numerics.epsilon(np.float32, name) >= 2.0**-23
