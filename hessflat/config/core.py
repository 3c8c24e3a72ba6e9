"""Settings: what each may be, the frozen dataclasses that declare them, the ConfigDicts from which these are made.

    @dataclass(frozen=True)
    class OptimConfig:
        name: Annotated[str, builders(OPTIMISERS), "the optimiser"] = "sgd"
        settings: Settings = ()
        lr: Annotated[float, positive, "initial learning rate"] = 0.03

    def mlp(num_classes, *, hidden: Annotated[tuple[int, ...], each(positive), "width of each layer"] = (100,)): ...

A dataclass like this is a block of settings: each has a default, which fixes its type, a rule and a meaning. `name`
picks one of several builders, whose keyword-only arguments are settings too; `settings` holds those of the one that is
picked. A configuration file sets them in a `ConfigDict` that holds the settings of every builder, as
`optim.sgd.momentum`. `freeze` checks it and makes the dataclass, which is hashable, so that it is a key by itself.
"""

import dataclasses
import difflib
import functools
import hashlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from hessflat.utils.errors import InputError, nearest, shown

Schema = Mapping[str, "Setting | Schema"]
Settings = tuple[tuple[str, Any], ...]  # of the builder that a block names: names with their values
Overrides = dict[str, Any]  # values by dotted name
Block = TypeVar("Block")

SCALES = ("smoke", "small", "medium", "paper")  # of a configuration file: `get_config(scale)`


class Rule(NamedTuple):
    """A predicate and the words for it: `says` completes "must be ...", `known` are the names that are allowed."""

    holds: Callable[[Any], bool]
    says: str
    known: tuple[Any, ...] = ()


class Setting(NamedTuple):
    """One leaf of a configuration: its default (which fixes its type), its rule and one line of meaning."""

    default: Any
    rule: Rule
    doc: str


def at_least(low: float) -> Rule:
    return Rule(lambda value: math.isfinite(value) and value >= low, f"at least {low:g}")


def between(low: float, high: float) -> Rule:
    """Both ends included."""
    return Rule(lambda value: low <= value <= high, f"from {low:g} to {high:g}")


def below(low: float, high: float) -> Rule:
    """The lower end included, the upper one not, in single precision neither: 0.99999999 is 1 there."""
    return Rule(
        lambda value: low <= value < high and float(np.float32(value)) < high, f"at least {low:g} and below {high:g}"
    )


def one_of(names: Iterable[Any]) -> Rule:
    known = tuple(names)
    return Rule(lambda value: value in known, f"one of {', '.join(map(str, known))}", known)


def some_of(names: Iterable[str]) -> Rule:
    """A text with names in it; see `listed`."""
    known = tuple(names)
    says = f"one of {', '.join(known)}, several with commas between, or empty"
    return Rule(lambda text: all(name in known for name in listed(text)), says, known)


def listed(text: str) -> list[str]:
    """The names in a text that has commas between them, each once."""
    return [name for name in dict.fromkeys(part.strip() for part in text.split(",")) if name]


def whole(low: int, high: int) -> Rule:
    """Whole numbers, both ends included."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def single(rule: Rule) -> Rule:
    """The rule for a number that is used in single precision: neither rounded to 0 nor to infinity."""
    return Rule(
        lambda value: rule.holds(value) and (value == 0 or 1.2e-38 <= abs(value) <= 3.4e38),
        f"{rule.says}, and of a size that single precision holds",
    )


def each(rule: Rule) -> Rule:
    """The rule for every element of a tuple."""
    return Rule(lambda values: all(rule.holds(value) for value in values), f"a tuple, each {rule.says}", rule.known)


anything = Rule(lambda value: True, "anything of its type")
finite = Rule(math.isfinite, "finite")
positive = Rule(lambda value: math.isfinite(value) and value > 0, "above 0 and finite")


@functools.cache
def builder_settings(builder: Callable) -> Mapping[str, Setting]:
    """The keyword-only arguments of `builder` as settings, from their `Annotated[type, rule, meaning]`."""
    hints = typing.get_type_hints(builder, include_extras=True)
    settings = {}
    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        rule, doc = hints[name].__metadata__
        settings[name] = Setting(parameter.default, rule, doc)
    return settings


def require_settings(owner: str, prefix: str, values: Mapping[str, Any], known: Mapping[str, Setting]) -> None:
    """Refuse values by name that `owner` has no settings for, or that break the rules of these."""
    for name, value in values.items():
        if name not in known:
            raise InputError(f"unknown setting of {owner} {name!r}; {nearest(name, known)}")
        require(f"{prefix}.{name}", value, known[name].rule)


def require(name: str, value: Any, rule: Rule) -> None:
    """Refuse a `value` that breaks its `rule`, in one line, with the nearest name where it must be one."""
    if not rule.holds(value):
        given = listed(value) if isinstance(value, str) else value if isinstance(value, tuple) else ()
        known = list(map(str, rule.known))
        close = [near for one in given for near in difflib.get_close_matches(str(one), known, 1, 0.5) if near != one]
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(f"{name} must be {rule.says}, got {shown(value)}{hint}")


class Builders(NamedTuple):
    """What the `name` of a block picks from, and which names are allowed."""

    registry: Mapping[str, Callable]
    rule: Rule


def builders(registry: Mapping[str, Callable], rule: Rule | None = None) -> Builders:
    """The builders of a registry. `rule` says which names are allowed; those of the registry where it is None."""
    return Builders(registry, rule or one_of(registry))


def make_block(name: str, settings: Mapping[str, Setting], module: str, *bases: type) -> Any:
    """A dataclass as one writes it by hand, of settings that are registered elsewhere; `module` is where it stands.

    Settings that a base declares are those of the base.
    """
    own = {key: setting for key, setting in settings.items() if not any(hasattr(base, key) for base in bases)}
    fields = [(key, Annotated[type(one.default), one.rule, one.doc], one.default) for key, one in own.items()]
    made = dataclasses.make_dataclass(name, fields, bases=bases, frozen=True)
    made.__module__ = module  # so that it can be pickled
    return made


def schema(cls: type) -> Schema:
    """The settings that a dataclass declares, those of every builder under the builder's name."""
    entries: dict[str, Setting | Schema] = {}
    for name, inner, rule, doc, default in _entries(typing.cast(Any, cls)):
        if inner is not None:
            entries[name] = schema(inner)
            continue
        if isinstance(rule, Builders):
            entries |= {key: own for key, builder in rule.registry.items() if (own := builder_settings(builder))}
            rule = rule.rule
        entries[name] = Setting(default, rule, doc)
    return entries


def config_dict(cls: type) -> ConfigDict:
    """The locked ConfigDict that holds every default of a dataclass."""

    def nested(entries: Schema) -> dict[str, Any]:
        return {name: own.default if isinstance(own, Setting) else nested(own) for name, own in entries.items()}

    return ConfigDict(nested(schema(cls)), convert_dict=True).lock()


def freeze(config: ConfigDict, cls: type[Block], prefix: str = "config") -> Block:
    """The dataclass that holds the values of `config`; settings of builders that it does not name are left out.

    Raises:
        InputError: a value of another type than its default, or one that breaks its rule.
    """
    values: dict[str, Any] = {}
    for name, inner, rule, doc, default in _entries(typing.cast(Any, cls)):
        if inner is not None:
            values[name] = freeze(config[name], inner, f"{prefix}.{name}")
            continue
        allowed = rule.rule if isinstance(rule, Builders) else rule
        values[name] = _checked(f"{prefix}.{name}", config[name], Setting(default, allowed, doc))
        if isinstance(rule, Builders) and values[name] in rule.registry:
            own, at = builder_settings(rule.registry[values[name]]), f"{prefix}.{values[name]}"
            chosen = config[values[name]] if own else {}
            values["settings"] = tuple((key, _checked(f"{at}.{key}", chosen[key], own[key])) for key in own)
    return cls(**values)


def thaw(block: Any) -> ConfigDict:
    """The ConfigDict that `freeze` makes `block` of; settings of builders that it does not name have their defaults."""
    return override(config_dict(type(block)), flatten(plain(block)))


def plain(block: Any) -> dict[str, Any]:
    """A frozen configuration as nested plain data, the settings of a builder under its name."""
    nested: dict[str, Any] = {}
    for name, inner, *_ in _entries(typing.cast(Any, type(block))):
        nested[name] = getattr(block, name) if inner is None else plain(getattr(block, name))
    if settings := getattr(block, "settings", ()):
        nested[block.name] = dict(settings)
    return nested


def from_plain(nested: Mapping[str, Any], cls: type[Block]) -> Block:
    """The frozen configuration that `plain` wrote, also after a way through JSON, which makes lists of tuples."""
    return freeze(override(config_dict(cls), flatten(nested)), cls)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted name, lists as tuples."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping | ConfigDict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A locked copy of `config` with values changed by dotted name; names and types must exist."""
    changed = config.copy_and_resolve_references()
    for name, value in overrides.items():
        old = get(changed, name)
        if isinstance(old, ConfigDict):
            raise InputError(_group(name, changed))
        parent, _, leaf = name.rpartition(".")
        block = get(changed, parent) if parent else changed
        try:
            block[leaf] = value
            # ConfigDict takes True for a whole number, and any element of a tuple.
            fits = old == () or _same_type(block[leaf], old)
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise InputError(f"config.{name} must be {kind(old)}, got {shown(value)}")
    return changed.lock()


def changed(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """A locked copy with `--config.name=value` arguments applied.

    Raises:
        InputError: an unknown name, or a value of another type.
    """
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if isinstance(get(config, name), ConfigDict):
            raise InputError(_group(name, config))
        if not equals:
            raise InputError(f"{argument} has no value; write --config.{name}=VALUE")
    if not arguments:
        return override(config, {})
    values = flags.FlagValues()
    program = ["hessflat", *arguments]
    # One typed flag for each setting, so that absl parses the values and refuses those of another type.
    config_flags.DEFINE_config_dict(
        "config", config.copy_and_resolve_references(), flag_values=values, sys_argv=program
    )
    try:
        values(program)
    except flags.Error as error:
        raise InputError(_without_flags(str(error), config)) from error
    return values.config.lock()


def _group(name: str, config: ConfigDict) -> str:
    return f"config.{name} is a group of settings; {nearest(name + '.', flatten(config))}"


# What other projects call settings.
MEANINGS = {
    "learning_rate": "optim.lr",
    "step_size": "optim.lr",
    "weight_decay": "optim.l2",
    "wd": "optim.l2",
    "optimizer": "optim.name",
    "optimiser": "optim.name",
    "rho": "optim.sam_radius",
    "bs": "train.batch_size",
    "num_epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "criterion": "train.loss",
    "smoothing": "train.label_smoothing",
    "dataset": "data.name",
    "arch": "model.name",
    "network": "model.name",
    "scheduler": "schedule.name",
}


def get(config: ConfigDict, name: str) -> Any:
    """A value by dotted name; an unknown name gets the nearest right one."""
    if not isinstance(name, str):
        raise InputError(f"the name of a setting must be a text such as 'optim.lr', got {shown(name)}")
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            meant = MEANINGS.get(name.rpartition(".")[2].lower())
            hint = f"did you mean {meant!r}?" if meant in flatten(config) else nearest(name, flatten(config))
            raise InputError(f"unknown setting config.{name}; {hint}")
        value = value[part]
    return value


def canonical_json(nested: Mapping[str, Any]) -> str:
    """One text for one configuration, whatever the order of its keys."""
    return json.dumps(nested, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(nested: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(canonical_json(nested).encode()).hexdigest()[:8]


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def kind(default: Any) -> str:
    """What a value must be, in words, to be of the type of `default`; tuples have one element type."""
    if isinstance(default, tuple):
        return f"a tuple, each {_KINDS[type(default[0])]}" if default else "a tuple"
    return _KINDS[type(default)]


@functools.cache
def _entries(cls: Any) -> list[tuple[str, type | None, Any, str, Any]]:
    """Name, inner block or None, rule, meaning and default of each field but `settings`."""
    entries: list[tuple[str, type | None, Any, str, Any]] = []
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(typing.cast(Any, cls)):
        if dataclasses.is_dataclass(field.default_factory):
            entries.append((field.name, typing.cast(type, field.default_factory), None, "", None))
        elif field.name != "settings":
            rule, doc = hints[field.name].__metadata__
            entries.append((field.name, None, rule, doc, field.default))
    return entries


def _checked(name: str, value: Any, setting: Setting) -> Any:
    if not _same_type(value, setting.default):
        raise InputError(f"{name} must be {kind(setting.default)}, got {shown(value)}")
    require(name, value, setting.rule)
    # −0.0 is equal to 0.0, and another text in the digest of a run.
    return value + 0.0 if isinstance(value, float) else value


def _same_type(value: Any, default: Any) -> bool:
    """Tuples are of one element type, that of the default's first element."""
    if not isinstance(default, tuple) or not isinstance(value, tuple):
        return type(value) is type(default)
    return all(type(element) is type(default[0]) for element in value)


def _without_flags(message: str, config: ConfigDict) -> str:
    line = message.replace("flag --", "").split("\n")[0]
    name = line.partition("=")[0].removeprefix("config.")
    if name in flatten(config):
        return f"config.{name} must be {kind(get(config, name))}, got {line.partition('=')[2].partition(':')[0]}"
    return line
