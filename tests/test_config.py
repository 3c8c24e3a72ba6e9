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


def settings_of(configs, *names):
    """The values of settings in each configuration."""
    flat = [config.flatten(config.plain(one)) for one in configs]
    return [tuple(one[name] for name in names) for one in flat]


def test_values_of_the_command_line_take_the_place_of_a_sweeps_own():
    assert settings_of(sweep.sweep_configs(G_MLP), "optim.l2") == [(0.0,), (5e-4,)]
    varied = sweep.sweep_configs(G_MLP, ["--config.optim.l2=0,1e-3", "--config.optim.lr=0.01, 0.02"])
    found = settings_of(varied, "optim.l2", "optim.lr")
    assert sorted(found) == [(0.0, 0.01), (0.0, 0.02), (1e-3, 0.01), (1e-3, 0.02)]


@pytest.mark.parametrize(
    ("setting", "name", "expected"),
    [
        ("optim.name=sgd,adam", "optim.name", ["sgd", "adam"]),
        ("measure.performance=start, at 0.1", "measure.performance", ["start, at 0.1"]),
        ("model.mlp.hidden=4,5", "model.mlp.hidden", [(4, 5)]),
        ("measure.modes=train", "measure.modes", [("train",)]),
    ],
)
def test_commas_separate_values_where_the_whole_is_none(setting, name, expected):
    found = sweep.sweep_configs(G_MLP, [f"--config.{setting}"])
    assert list(dict.fromkeys(value for (value,) in settings_of(found, name))) == expected


@pytest.mark.parametrize(
    ("settings", "seeds", "message"),
    [
        (["--config.seed=7"], "", r"every sweep varies config\.seed; give --seeds"),
        (["--config.optim.l2=0,x"], "", r"config\.optim\.l2 must be a number, got x"),
        (["--config.optim.l2=0,-1"], "", r"config\.optim\.l2 must be at least 0, and of a size"),
        (["--config.model.vgg.width=3"], "", r"is a setting of 'vgg', but config\.model\.name is 'mlp'"),
        ([], "few", r"seeds must be how many, such as 10, or which ones, such as 20,21,22, got 'few'"),
        ([], "0", r"seeds must be how many"),
        ([], "3,3", r"seeds must be how many"),
    ],
)
def test_what_no_sweep_can_be_varied_by_is_refused(settings, seeds, message):
    with pytest.raises(InputError, match=message):
        sweep.sweep_configs(G_MLP, settings, seeds)


def test_entries_with_lists_are_each_once_too():
    entries = [{"seed": 0, "model.mlp.hidden": [3, 2]}, {"seed": 0, "model.mlp.hidden": [4]}]
    assert config.varied([*entries, *entries], {"optim.lr": (0.1,)}) == [one | {"optim.lr": 0.1} for one in entries]


def test_seeds_are_how_many_or_which():
    """What goes with a seed, such as that of the split, goes with the new one."""
    entries = [
        {
            "seed": seed,
            "data.split_seed": seed,
            "optim.l2": l2,
            "measure.full_spectrum": "end" if seed == 3 else "never",
        }
        for seed in (3, 4)
        for l2 in (0.0, 0.1)
    ]
    assert config.reseeded(entries, "2") == entries
    assert config.reseeded(entries, "1") == entries[:2]
    more = config.reseeded(entries, "4")
    assert more[:4] == entries
    assert more[4:] == [
        {"seed": seed, "data.split_seed": seed, "optim.l2": l2, "measure.full_spectrum": "never"}
        for seed in (5, 6)
        for l2 in (0.0, 0.1)
    ]
    assert [entry["seed"] for entry in config.reseeded(entries, "4, 9")] == [4, 4, 9, 9]
