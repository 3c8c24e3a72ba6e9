"""What is derived from the measures' modules: their settings, their costs, the names of their numbers."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from hessflat import measures
from hessflat.analysis.names import axis_name, metric_name
from hessflat.measures import MEASURES, OPERATORS, Measure
from hessflat.runs import schema


def test_every_module_that_defines_a_measure_is_registered():
    folder = Path(measures.__file__).parent
    modules = [path.stem for path in folder.glob("*.py") if re.search(r"^MEASURES? = ", path.read_text(), re.MULTILINE)]
    defining = [getattr(import_module(f"hessflat.measures.{name}"), "MEASURES", [name]) for name in modules]
    assert {name for names in defining for name in names} == set(MEASURES)
    for name, measure in MEASURES.items():
        assert measure.compute.__name__ == name
        assert inspect.getdoc(measure.compute)


def test_settings_are_timetables_then_the_protocol_then_what_single_measures_take():
    settings = measures.measure_settings()
    assert list(settings)[: len(MEASURES)] == list(MEASURES)
    assert {name for name, setting in settings.items() if setting.default == "growth"} == {
        "performance", "spectra", "jacobian",
    }  # fmt: skip
    config = schema.base_config("small").measure
    assert {name: config[name] for name in settings} == {name: own.default for name, own in settings.items()}


def test_a_setting_that_two_measures_define_differently_is_refused(monkeypatch):
    def other(state, *, probes=7):
        return None

    other.__annotations__ = {"probes": MEASURES["spectra"].compute.__annotations__["probes"]}
    clashing = {**MEASURES, "other": Measure(other, cost=lambda settings, num_params: 1, doc="nothing happens")}
    monkeypatch.setattr(measures, "MEASURES", clashing)
    with pytest.raises(TypeError, match=r"two measures define the setting measure\.probes, and not alike"):
        measures.measure_settings()


def test_costs_follow_the_settings_and_the_number_of_parameters():
    def products(changes, num_params=1_000):
        config = schema.replace(schema.freeze(schema.base_config("small")), changes).measure
        return {name: measure.cost(config, num_params) for name, measure in MEASURES.items()}

    default = products({})
    # Two operators, of each two Lanczos runs of a hundred steps and twenty single products.
    assert default["spectra"] == 2 * (2 * 100 + 20)
    assert default["full_spectrum"] == 2 * 1_000
    assert all(cost > 0 for cost in default.values())
    assert products({"measure.probes": 4})["spectra"] == 2 * (4 * 100 + 20)
    assert products({}, 3_000)["full_spectrum"] == 2 * 3_000
    assert products({"measure.edge_products": 50, "measure.operators": ("hessian",)})["spectrum_edges"] == 50


def test_names_are_those_that_the_measures_give():
    assert metric_name("features.Dense_1.norm") == "‖f(X)‖₂ into Dense_1"
    assert axis_name("kernel.Conv_0.norm") == r"$\|W\|_F$ of Conv 0"
    assert metric_name("residual.exact.trace") == "Tr R, exact"
    assert metric_name("gauss_newton_eval.lambda_max") == "λ_max(G), batch norm in eval mode"
    for measure in MEASURES.values():
        for key, name in measure.names.items():
            metric = key.replace("<operator>", "hessian").replace("<layer>", "Dense_0")
            texts = (name, name) if isinstance(name, str) else name
            symbol = OPERATORS["hessian"].symbol
            assert metric_name(metric) == texts[0].replace("<operator>", symbol).replace("<layer>", "Dense_0")
            assert axis_name(metric) == texts[1].replace("<operator>", symbol).replace("<layer>", "Dense 0")
