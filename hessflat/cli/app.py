"""What every command does around its work: its flags, its configuration file, one line for bad input."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
import warnings
from asyncio.log import logger as asyncio_log
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jaxlib
from absl import flags, logging
from ml_collections import ConfigDict

from hessflat.config import SCALES, changed, get, one_of, require
from hessflat.utils import compiled, processes, progress
from hessflat.utils.errors import (
    InputError,
    Lost,
    Stopped,
    command,
    in_one_line,
    nearest,
    place_of,
    show_traceback,
    shown,
)

# Those that save what they have when a signal asks them to stop.
STOPPABLE = ("train", "sweep", "measure", "experiment", "reproduce", "demo")
# Those that several processes run together, all of them one run; see `utils.processes`.
TOGETHER = ("train", "measure")
COMMANDS = (
    "train",
    "sweep",
    "measure",
    "experiment",
    "reproduce",
    "demo",
    "report",
    "archive",
    "data",
    "settings",
    "init",
    "plan",
    "doctor",
    "completion",
)


HELP = ("-h", "--help")
GO_HOME = f"run from the project's folder, or make one: {command('init')}"


class HelpAsked(Exception):  # noqa: N818, for it is no error
    """A command line that asks for help, with the command's flags and their defaults."""

    def __init__(self, defaults: Mapping[str, str | None]) -> None:
        super().__init__("help is asked for")
        self.defaults = defaults


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether `--help` or `-h` is among the arguments."""
    return any(argument in HELP for argument in arguments)


def main() -> None:
    """The console script."""
    run(sys.argv[1:])


def run(arguments: Sequence[str]) -> None:
    """Run the command named first with the arguments after it, and end the process with the status that it returns."""
    name, *rest = arguments or ["--help"]
    if name in HELP:
        print(_commands())
        return
    with guarded(name in STOPPABLE):
        require("command", name, one_of(COMMANDS))
        module = importlib.import_module(f"hessflat.cli.{name}")
        # Configurations and experiments import one another by their folders' names.
        if (place := str(home().resolve())) not in sys.path:
            sys.path.insert(0, place)
        if name in TOGETHER and not asks_for_help(rest):
            processes.start()
        try:
            status = module.main(rest)
        except HelpAsked as asked:
            status = 0
            print(help_of(f"hessflat {name}", module, asked.defaults))
    sys.exit(status)


def _commands() -> str:
    """Every command in a line."""
    # Read, not imported: what all commands import takes seconds to load.
    files = {name: Path(__file__).with_name(f"{name}.py").read_text() for name in COMMANDS}
    docs = {name: ast.get_docstring(ast.parse(text)) or "" for name, text in files.items()}
    lines = [f"  {name:11} {doc.splitlines()[0].partition(': `')[0].rstrip('.')}" for name, doc in docs.items()]
    return "\n".join(["usage: hessflat COMMAND --name=value", *lines, "hessflat COMMAND --help describes one command."])


def help_of(command: str, module: ModuleType, defaults: Mapping[str, str | None]) -> str:
    """What a command does, an example, its flags and their defaults."""
    flags_of = [f"  --{flag}={'…   must be given' if value is None else value}" for flag, value in defaults.items()]
    parts = [
        f"usage: {command}" + " [--name=value …]" * bool(defaults),
        inspect.cleandoc(module.__doc__ or ""),
        inspect.getdoc(module.main) or "",
        "\n".join(["flags and their defaults:", *flags_of]) if defaults else "",
    ]
    return "\n\n".join(part for part in parts if part)


@contextlib.contextmanager
def guarded(stoppable: bool) -> Iterator[None]:
    """A context for all that a process does: after one line, it ends with 2 for an `InputError`.

    It ends with 1 for what a file of the user's raised, after a line that names the place, and for a fault of this
    package, after the traceback. With `$HESSFLAT_DEBUG` at 1 every traceback is shown. A signal that asks work that is
    `stoppable` to stop ends with status 75, and so does the end of another process that does the same work.
    """
    if os.environ.get("HESSFLAT_DEBUG") != "1":
        # What threads and tasks of orbax that had no part in an error say of it afterwards.
        sys.unraisablehook = lambda unraisable: None
        asyncio_log.disabled = True
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.set_verbosity(logging.FATAL)  # what orbax warns about is meant, and its errors are raised
    keep_compiled_code()
    if stoppable:
        progress.stop_when_asked()
    try:
        with processes.loss_named():
            yield
    except InputError as error:
        place = place_of(error)
        _end(error, f"error: {' '.join(str(error).split())}" + (f" ({place})" if place else ""), 2)
    except Stopped:
        if processes.is_writer():
            print("stopped by a signal, saved; the same command continues", file=sys.stderr, flush=True)
        sys.exit(os.EX_TEMPFAIL)
    except Lost as error:
        show_traceback()
        processes.say_lost(error)
        processes.leave(os.EX_TEMPFAIL)
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
        # Nothing is waited for: worker processes end with this one, and their folders stay whole.
        os._exit(130)
    except (Exception, SystemExit) as error:
        if place_of(error):
            _end(error, f"error: {in_one_line(error)}; HESSFLAT_DEBUG=1 shows how it came to that", 1)
        if isinstance(error, OSError):
            name = f"{error.filename}: " if error.filename else ""
            _end(error, f"error: {name}{error.strerror or error}; mend that, then run the same command again", 2)
        if processes.are_several() and not isinstance(error, SystemExit):
            traceback.print_exc()
            processes.leave(1)
        raise


def _end(error: BaseException, line: str, status: int) -> NoReturn:
    """Say what ended the work, in one process alone, and end."""
    show_traceback()
    if not processes.is_told_elsewhere(error):
        print(line, file=sys.stderr, flush=True)
    if processes.are_several() and not processes.is_common(error):
        processes.leave(status)
    sys.exit(status)


def keep_compiled_code() -> None:
    """Keep what XLA compiles, in a folder for each version; where nothing can be kept, say so."""
    folder = _chosen_cache()
    if folder is None:
        return
    if why := compiled.why_not_made(folder):
        print(f"note: nothing is kept in {folder}: {why}; set HESSFLAT_CACHE to another folder", file=sys.stderr)
        return
    compiled.compile_cache(folder / f"jaxlib-{jaxlib.__version__}")


def cache_folder() -> Path | None:
    """Where what can be made again is kept; None where nothing is or can be."""
    folder = _chosen_cache()
    return None if folder is None or compiled.why_not_made(folder) else folder


def _chosen_cache() -> Path | None:
    """`$HESSFLAT_CACHE`, of which `0` keeps nothing."""
    folder = os.environ.get("HESSFLAT_CACHE") or str(Path.home() / ".cache" / "hessflat" / "compiled")
    return None if folder == "0" else Path(folder).expanduser()


def parse_flags(argv: Sequence[str], defaults: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own flags by name, and the `--config.name=value` arguments as they are.

    Args:
        argv: what stands after the command.
        defaults: the command's flags; None marks one that must be given. Where there is one such flag, an argument
            without a name is its value: `hessflat experiment g_mlp`.

    Raises:
        HelpAsked: `--help` is among the arguments.
        InputError: an unknown flag, with the nearest right one, a flag that is given twice, one that is missing.
    """
    if asks_for_help(argv):
        raise HelpAsked(defaults)
    unnamed, required = [one for one in argv if not one.startswith("-")], [k for k, v in defaults.items() if v is None]
    if len(unnamed) == len(required) == 1:
        argv = [f"--{required[0]}={one}" if one in unnamed else one for one in argv]
    names = [argument.partition("=")[0] for argument in argv]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice; leave one out")
    values = flags.FlagValues()
    for name, default in defaults.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    given = [argument for argument in argv if not argument.startswith("--config.")]
    # One that is 0 or 1 may stand by itself, which is 1.
    given = [f"{one}=1" if defaults.get(one.removeprefix("--")) == "0" else one for one in given]
    try:
        rest = values(["hessflat", *given])[1:]
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest:
        raise InputError(f"arguments are written --name=value, got {rest[0]!r}")
    own = {name: values[name].value or "" for name in defaults}
    for name, default in defaults.items():
        if default is None and not own[name]:
            raise InputError(f"--{name}=… is missing; it must be given")
    return own, [argument for argument in argv if argument.startswith("--config.")]


def is_set(own: Mapping[str, str], name: str) -> bool:
    """Whether the flag of this name, 0 or 1, is 1."""
    require(f"--{name}", own[name], one_of(("0", "1")))
    return own[name] == "1"


def from_command_line(target: str, arguments: Sequence[str] = ()) -> ConfigDict:
    """What `get_config` of `name:scale` returns, with `--config.name=value` arguments applied.

    Raises:
        InputError: also a scale that the file does not have.
    """
    path, scale = split_target(target)
    module = load_module(path, "get_config")
    require(f"scale of {path.stem}", scale, one_of(scales_of(module)))
    made = made_by(module, "get_config", scale)
    if not isinstance(made, ConfigDict):
        raise InputError(f"get_config of {path} must return a ConfigDict, as base_config does, got {shown(made)}")
    return with_arguments(made, arguments)


def scales_of(module: ModuleType) -> tuple[str, ...]:
    """The scales that a configuration file has: its `SCALES`, or all but medium where it names none.

    Medium is for what takes an accelerator at the paper's scale.
    """
    return getattr(module, "SCALES", tuple(scale for scale in SCALES if scale != "medium"))


def made_by(module: ModuleType, name: str, scale: str) -> Any:
    """What the function `name` of a configuration file makes of a scale.

    Raises:
        InputError: no function that takes a scale.
    """
    function = getattr(module, name)
    try:
        inspect.signature(function).bind(scale)
    except TypeError as error:
        where = f"{name} of {module.__file__}"
        raise InputError(f"{where} must be a function of one argument, the scale, got {shown(function)}") from error
    return function(scale)


def home() -> Path:
    """The folder that has `configs/` and `experiments/`: this one, or else that of the package that is installed."""
    here, packaged = Path(), Path(__file__).parents[1] / "project"
    return packaged if packaged.is_dir() and not (here / "configs").is_dir() else here


def find_module(folder: str, name: str) -> Path:
    """The file `folder/**/name.py` of `home`, whichever paper's folder it stands in.

    Raises:
        InputError: no such file, or several.
    """
    known: dict[str, list[Path]] = {}
    for path in sorted((home() / folder).rglob("*.py")):
        if not path.name.startswith("_"):
            known.setdefault(path.stem, []).append(path)
    if not known:
        raise InputError(f"no Python files in {Path(folder).absolute()}; {GO_HOME}")
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
    require("scale", scale, one_of(SCALES))
    return (Path(name) if name.endswith(".py") else find_module("configs", name)), scale


def load_module(path: str | Path, *needed: str) -> ModuleType:
    """The Python file at `path` as a module; it must define every name of `needed`."""
    path = Path(path)
    if path.suffix != ".py":
        raise InputError(f"expected a Python file such as configs/granziol2020/g_mlp.py, got {path}")
    if not path.is_file():
        others = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise InputError(f"no file {path}; {nearest(str(path), others) if others else GO_HOME}")
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
        require_chosen(argument.removeprefix("--config.").partition("=")[0], [result])
    return result


def require_chosen(name: str, configs: Sequence[ConfigDict]) -> None:
    """Refuse `optim.adam.b1` where `optim.name` is another than `adam` in all of the configurations."""
    *above, _ = name.split(".")
    if len(above) < 2:
        return
    blocks, builder = [get(config, ".".join(above[:-1])) for config in configs], above[-1]
    block = blocks[0]
    if "name" in block and all(one.name != builder for one in blocks):
        own = ", ".join(block[block.name]) if block.name in block else "no settings of its own"
        raise InputError(
            f"config.{name} is a setting of {builder!r}, but config.{above[0]}.name is {block.name!r}, "
            f"which has {own}; "
            f"set config.{above[0]}.name={builder} too, or leave config.{name} out"
        )
