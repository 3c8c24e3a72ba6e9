"""Configuration files by their id, and the `--config.name=value` arguments that change what they hold."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict, config_flags

from hessflat.config.core import flatten, get, kind
from hessflat.utils.errors import InputError, nearest, require_known

SCALES = ("smoke", "small", "paper")


def from_command_line(target: str, arguments: Sequence[str] = ()) -> ConfigDict:
    """What `get_config` of `name:scale` returns, with `--config.name=value` arguments applied."""
    path, scale = split_target(target)
    return with_arguments(load_module(path, "get_config").get_config(scale), arguments)


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


def load_module(path: str | Path, *needed: str) -> ModuleType:
    """The Python file at `path` as a module; it must define every name of `needed`."""
    path = Path(path)
    if path.suffix != ".py":
        raise InputError(f"expected a Python file such as configs/granziol2020/g_mlp.py, got {path}")
    if not path.is_file():
        others = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise InputError(f"no file {path}; {nearest(str(path), others) if others else 'run from the project folder'}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in needed:
        if not hasattr(module, name):
            raise InputError(f"{path} must define {name}; see any file in {path.parent} for its form")
    return module


def with_arguments(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """What a command line makes of `config`: `changed`, where each argument is of a builder that is chosen.

    Raises:
        InputError: also a setting of a builder that is not the chosen one.
    """
    result = changed(config, arguments)
    for argument in arguments:
        _require_chosen(argument.removeprefix("--config.").partition("=")[0], result)
    return result


def changed(config: ConfigDict, arguments: Sequence[str]) -> ConfigDict:
    """A locked copy with `--config.name=value` arguments applied.

    Raises:
        InputError: an unknown name, or a value of another type.
    """
    for argument in arguments:
        name, equals, _ = argument.removeprefix("--config.").partition("=")
        if isinstance(get(config, name), ConfigDict):
            raise InputError(f"config.{name} is a group of settings; {nearest(name + '.', flatten(config))}")
        if not equals:
            raise InputError(f"{argument} has no value; write --config.{name}=VALUE")
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


def _require_chosen(name: str, config: ConfigDict) -> None:
    """Refuse `optim.adam.b1` where `optim.name` is another than `adam`."""
    *above, _ = name.split(".")
    if len(above) < 2:
        return
    block, builder = get(config, ".".join(above[:-1])), above[-1]
    if "name" in block and block.name != builder:
        own = ", ".join(block[block.name]) if block.name in block else "no settings of its own"
        raise InputError(
            f"config.{name} is a setting of {builder!r}, but config.{above[0]}.name is {block.name!r}, "
            f"which has {own}; "
            f"set config.{above[0]}.name={builder} too, or leave config.{name} out"
        )


def _without_flags(message: str, config: ConfigDict) -> str:
    line = message.replace("flag --", "").split("\n")[0]
    name = line.partition("=")[0].removeprefix("config.")
    if name in flatten(config):
        return f"config.{name} must be {kind(get(config, name))}, got {line.partition('=')[2].partition(':')[0]}"
    return line
