"""Configurations: bad input is one line that names the nearest right answer; sweeps and identities."""

import dataclasses
import json
import pickle

import pytest

from hessflat import config
from hessflat.cli import app, sweep
from hessflat.runs import schema
from hessflat.utils.errors import InputError

G_MLP = "g_mlp:smoke"


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--config.optim.lrr=3", "did you mean 'optim.lr'?"),
        ("--config.optim.lr=abc", "config.optim.lr must be a number, got abc"),
        (
            "--config.optim.lr=-1",
            "config.optim.lr must be above 0 and finite, and of a size that single precision holds, got -1.0",
        ),
        (
            "--config.optim.lr=nan",
            "config.optim.lr must be above 0 and finite, and of a size that single precision holds, got nan",
        ),
        ("--config.optim.lr", "has no value"),
        ("--config.seed=1.5", "config.seed must be a whole number, got 1.5"),
        ("--config.optim.sgd.nesterov=no", "config.optim.sgd.nesterov must be true or false, got no"),
        ("--config.optim.adam.b1=0.5", "is a setting of 'adam', but config.optim.name is 'sgd'"),
        ("--config.optim.name=sdg", "config.optim.name must be one of sgd, adam, adamw, got 'sdg'"),
        ("--config.model.mlp.hidden=(3,'a')", "config.model.mlp.hidden must be a tuple, each a whole number"),
        ("--config.model.mlp.hidden=(3,0)", "each at least 1"),
        ("--config.model=3", "is a group of settings"),
        ("--config.measure.operators=('hesian',)", "one of hessian, gauss_newton"),
        ("--config.train.label_smoothing=1.0", "at least 0 and below 1"),
    ],
)
def test_bad_setting_is_one_line(argument, line):
    with pytest.raises(InputError) as error:
        schema.freeze(app.from_command_line(G_MLP, [argument]))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("g_mpl:small", "did you mean 'g_mlp'?"),
        ("g_mlp:smal", "did you mean 'small'?"),
        ("hessflat/utils/errors.py:small", "must define get_config"),
    ],
)
def test_bad_target_is_one_line(target, line):
    with pytest.raises(InputError, match=line.replace("?", r"\?")):
        app.from_command_line(target, [])


def test_override_leaves_the_original_alone_and_keeps_types():
    base = schema.base_config("small")
    changed = config.override(base, {"optim.lr": 0.5, "model.mlp.hidden": (7,)})
    assert (base.optim.lr, changed.optim.lr) == (0.03, 0.5)
    assert changed.model.mlp.hidden == (7,)
    with pytest.raises(InputError, match=r"config\.train\.epochs must be a whole number, got 'ten'"):
        config.override(base, {"train.epochs": "ten"})


def test_sweep_combinators():
    assert config.product({"a": (1, 2), "b": (3, 4)}) == [
        {"a": 1, "b": 3},
        {"a": 1, "b": 4},
        {"a": 2, "b": 3},
        {"a": 2, "b": 4},
    ]
    assert config.product(config.zip_({"a": (1, 2), "b": (3, 4)}), {"seed": (0,)}) == [
        {"a": 1, "b": 3, "seed": 0},
        {"a": 2, "b": 4, "seed": 0},
    ]
    assert config.chain([{"a": 1}], config.product({"b": (2,)})) == [{"a": 1}, {"b": 2}]
    with pytest.raises(InputError, match="one length"):
        config.zip_({"a": (1,), "b": (2, 3)})


def test_identity_ignores_what_was_not_chosen_and_survives_json():
    base = schema.base_config("small")
    frozen = schema.freeze(base)
    plain = config.plain(frozen)
    assert "mlp" not in plain["model"]
    same = [{"seed": 0}, {"model.mlp.hidden": (7,)}, {"optim.adam.b1": 0.5}]
    assert {schema.freeze(config.override(base, overrides)) for overrides in same} == {frozen}
    assert schema.identity(frozen) != schema.identity(schema.replace(frozen, {"seed": 1}))
    assert schema.from_plain(json.loads(json.dumps(plain))) == frozen
    assert config.thaw(frozen) == base


def test_a_zero_is_one_run_whatever_its_sign():
    base = schema.freeze(schema.base_config("smoke"))
    one, other = (schema.replace(base, {"data.validation_fraction": zero}) for zero in (0.0, -0.0))
    assert schema.identity(one) == schema.identity(other) != schema.identity(base)
    assert config.canonical_json(config.plain(one)) == config.canonical_json(config.plain(other))


def test_a_frozen_configuration_is_a_key_and_travels_between_processes():
    frozen = schema.replace(schema.freeze(schema.base_config("small")), {"model.name": "mlp", "optim.lr": 0.5})
    assert dict(frozen.model.settings)["hidden"] == (100,)
    assert {frozen: 1}[pickle.loads(pickle.dumps(frozen))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.seed = 3


def test_a_builders_setting_is_refused_on_the_command_line_alone():
    """A configuration that inherits settings of another network is none the worse."""
    setting = "--config.model.vgg.width=3"
    with pytest.raises(InputError, match=r"is a setting of 'vgg', but config\.model\.name is 'mlp'"):
        app.from_command_line(G_MLP, [setting])
    assert app.from_command_line(G_MLP, [setting, "--config.model.name=vgg"]).model.vgg.width == 3


def test_every_setting_says_what_it_means():
    for name, setting in config.flatten(config.schema(schema.RunConfig)).items():
        assert setting.rule.holds(setting.default), name
        assert len(setting.doc) > 5, name


def test_setting_that_a_sweep_varies_is_refused():
    with pytest.raises(InputError, match=r"config\.seed is what the sweep of configs/granziol2020/g_mlp\.py varies"):
        sweep.sweep_configs(G_MLP, ["--config.seed=7"])
