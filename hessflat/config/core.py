"""Configurations: a schema of settings, locked ConfigDicts made from it, their validation, identity and sweeps."""

import hashlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from hessflat.config.validators import Setting, one_of, require, settings_of
from hessflat.utils.errors import InputError, nearest, require_known

SCALES = ("smoke", "small", "paper")

Schema = Mapping[str, "Setting | Schema"]
Overrides = dict[str, Any]


def choice(registry: Mapping[str, Callable], default: str, doc: str) -> Schema:
    """A block that picks one builder by `name` and holds the settings of each under the builder's own name.

    Only the chosen builder's settings belong to a configuration: changing another's is refused, see `validate`.
    """
    blocks = {name: settings_of(builder) for name, builder in registry.items()}
    return {"name": Setting(default, one_of(registry), doc)} | {n: block for n, block in blocks.items() if block}


def from_schema(schema: Schema) -> ConfigDict:
    """The locked configuration that holds every default of `schema`."""
    config = ConfigDict(
        {name: entry.default if isinstance(entry, Setting) else from_schema(entry) for name, entry in schema.items()},
        convert_dict=True,
    )
    return config.lock()


def flatten(schema: Schema, prefix: str = "") -> dict[str, Setting]:
    """The settings of `schema` by dotted name."""
    flat: dict[str, Setting] = {}
    for name, entry in schema.items():
        flat |= {prefix + name: entry} if isinstance(entry, Setting) else flatten(entry, f"{prefix}{name}.")
    return flat


def validate(config: ConfigDict, schema: Schema) -> None:
    """Refuse a value that breaks its rule, or a setting of a builder that was not chosen."""
    settings = flatten(schema)
    for name, setting in settings.items():
        value = get(config, name)
        if not _same_type(value, setting.default):
            raise InputError(f"config.{name} must be {_kind(setting.default)}, got {value!r}")
        require(f"config.{name}", value, setting.rule)
    for block, other, settings_of_other in _unchosen(config, schema):
        for name, setting in flatten(settings_of_other, f"{block}.{other}.").items():
            if get(config, name) != setting.default:
                own = ", ".join(chosen_settings(config[block])) or "no settings of its own"
                raise InputError(
                    f"config.{name} is a setting of {other!r}, but config.{block}.name is {config[block].name!r}, "
                    f"which has {own}; set config.{block}.name={other} or leave config.{name} at {setting.default!r}"
                )


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _same_type(value: Any, default: Any) -> bool:
    """Tuples are of one element type, that of the default's first element."""
    if not isinstance(default, tuple) or not isinstance(value, tuple):
        return type(value) is type(default)
    return all(type(element) is type(default[0]) for element in value)


def _kind(default: Any) -> str:
    return f"a tuple, each {_KINDS[type(default[0])]}" if isinstance(default, tuple) else _KINDS[type(default)]


def _unchosen(config: ConfigDict, schema: Schema) -> Iterable[tuple[str, str, Schema]]:
    """Block, builder and settings of every builder that a `choice` block did not choose."""
    for block, entry in schema.items():
        if isinstance(entry, Setting) or "name" not in entry:
            continue
        for name, settings in entry.items():
            if name != config[block].name and not isinstance(settings, Setting):
                yield block, name, settings


def chosen_settings(block: ConfigDict) -> dict[str, Any]:
    """The settings of the builder that a `choice` block names."""
    return dict(block[block.name]) if block.name in block else {}


def get(config: ConfigDict, name: str) -> Any:
    """A value by dotted name; an unknown name gets the nearest right one."""
    value: Any = config
    for part in name.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            raise InputError(f"unknown setting config.{name}; {nearest(name, flatten_values(config))}")
        value = value[part]
    return value


def flatten_values(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten_values(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat


def flatten_plain(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a configuration read from JSON, lists as the tuples they were."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            flat |= flatten_plain(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = tuple(value) if isinstance(value, list) else value
    return flat


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """A locked copy of `config` with values changed by dotted name; names and types must exist."""
    changed = config.copy_and_resolve_references()
    for name, value in overrides.items():
        old = get(changed, name)
        parent, _, leaf = name.rpartition(".")
        try:
            (get(changed, parent) if parent else changed)[leaf] = value
        except (TypeError, ValueError) as error:
            raise InputError(f"config.{name} must be {_kind(old)}, got {value!r}") from error
    return changed.lock()


def effective(config: ConfigDict, schema: Schema) -> dict[str, Any]:
    """The configuration as plain nested data, without the settings of builders that were not chosen."""
    plain = config.to_dict()
    for block, other, _ in _unchosen(config, schema):
        del plain[block][other]
    return plain


def canonical_json(plain: Mapping[str, Any]) -> str:
    """One text for one configuration, whatever the order of its keys."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(plain: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(canonical_json(plain).encode()).hexdigest()[:8]


def product(*grids: Sequence[Overrides] | Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Every combination: of the values of each setting in a mapping, and of the entries of several sweeps.

    `product({"optim.l2": (0.0, 1e-4), "seed": (0, 1)})` has four entries, the last setting running fastest.
    """
    return [
        {name: value for entry in entries for name, value in entry.items()}
        for entries in itertools.product(*(_entries(grid) for grid in grids))
    ]


def zip_(grid: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """The first values together, then the second ones, and so on; all of one length."""
    lengths = {name: len(values) for name, values in grid.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"zip_ needs value lists of one length, got {lengths}; use product for every combination")
    return [dict(zip(grid, values, strict=True)) for values in zip(*grid.values(), strict=True)]


def chain(*sweeps: Sequence[Overrides]) -> list[Overrides]:
    """One sweep after another."""
    return [entry for sweep in sweeps for entry in sweep]


def _entries(grid: Sequence[Overrides] | Mapping[str, Sequence[Any]]) -> Sequence[Overrides]:
    if not isinstance(grid, Mapping):
        return grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def load_module(path: str | Path, *needed: str) -> ModuleType:
    """The Python file at `path` as a module; it must define every name of `needed`."""
    path = Path(path)
    if path.suffix != ".py":
        raise InputError(f"expected a Python file such as configs/granziol2020/g_mlp.py, got {path}")
    if not path.is_file():
        found = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise InputError(f"no file {path}; {nearest(str(path), found) if found else 'run from the project folder'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in needed:
        if not hasattr(module, name):
            raise InputError(f"{path} must define {name}; see any file in {path.parent} for its form")
    return module


def find_module(folder: str, name: str) -> Path:
    """The file `folder/**/name.py`, whichever paper's folder it stands in.

    Raises:
        InputError: no such file, or several.
    """
    known: dict[str, list[Path]] = {}
    for path in sorted(Path(folder).rglob("*.py")):
        if not path.name.startswith("_"):
            known.setdefault(path.stem, []).append(path)
    if not known:
        raise InputError(f"no Python files in {Path(folder).absolute()}; run from the project's folder")
    if name not in known:
        raise InputError(f"no {name}.py in {folder}/; {nearest(name, known)}")
    if len(known[name]) > 1:
        raise InputError(f"{name} is the name of {' and of '.join(map(str, known[name]))}; rename one")
    return known[name][0]


def split_target(target: str) -> tuple[Path, str]:
    """`g_mlp:paper` -> (`configs/granziol2020/g_mlp.py`, `paper`); the scale is `small` where none is given.

    A path, such as `elsewhere/x.py:smoke`, stands for itself.
    """
    name, _, scale = target.partition(":")
    scale = scale or "small"
    require_known("scale", [scale], SCALES)
    return (Path(name) if name.endswith(".py") else find_module("configs", name)), scale


def from_command_line(target: str, arguments: Sequence[str]) -> ConfigDict:
    """The configuration of `name:scale` with `--config.name=value` arguments applied."""
    path, scale = split_target(target)
    return with_arguments(load_module(path, "get_config").get_config(scale), arguments)


def with_arguments(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """A locked copy with `--config.name=value` arguments applied, names and types checked."""
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if isinstance(get(config, name), ConfigDict):
            raise InputError(f"config.{name} is a group of settings; {nearest(name + '.', flatten_values(config))}")
        if not equals:
            raise InputError(f"{argument} has no value; write --config.{name}=VALUE")
    values = flags.FlagValues()
    program = ["hessflat", *arguments]
    copy = config.copy_and_resolve_references()
    # This declares one typed flag per setting, so that absl parses and refuses the values.
    config_flags.DEFINE_config_dict("config", copy, flag_values=values, sys_argv=program)
    try:
        values(program)
    except flags.Error as error:
        raise InputError(_plain_flag_error(str(error), config)) from error
    return values.config.lock()


def _plain_flag_error(message: str, config: ConfigDict) -> str:
    line = message.replace("flag --", "").split("\n")[0]
    name = line.partition("=")[0].removeprefix("config.")
    if name in flatten_values(config):
        value = line.partition("=")[2].partition(":")[0]
        return f"config.{name} must be {_kind(get(config, name))}, got {value}"
    return line
