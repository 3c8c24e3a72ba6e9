"""What every command does around its work: one line for bad input, and compiled code kept between commands."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jaxlib
from absl import flags, logging

from hessflat.utils.errors import InputError, require_known

COMMANDS = ("train", "sweep", "measure", "experiment", "reproduce", "report", "data", "settings", "doctor")


def run(arguments: Sequence[str]) -> None:
    """Run the command named first with the arguments after it; an `InputError` becomes one line and exit status 2."""
    logging.set_verbosity(logging.ERROR)  # orbax warns about what is meant
    try:
        name, *rest = arguments or ["--help"]
        if name in ("-h", "--help"):
            print(f"usage: python -m hessflat COMMAND --name=value\ncommands: {', '.join(COMMANDS)}")
            return
        require_known("command", [name], COMMANDS)
        keep_compiled_code()
        sys.exit(importlib.import_module(f"hessflat.cli.{name}").main(rest))
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last checkpoint", file=sys.stderr, flush=True)
        # Nothing is waited for: worker processes end with this one, and their folders stay whole.
        os._exit(130)


def keep_compiled_code() -> None:
    """Keep what XLA compiles in `$HESSFLAT_CACHE` (`0` switches it off), a folder for each version and platform."""
    folder = os.environ.get("HESSFLAT_CACHE") or str(Path.home() / ".cache" / "hessflat" / "compiled")
    if folder == "0":
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(folder) / f"jaxlib-{jaxlib.__version__}"))
    # Small programs are worth keeping too: a sweep's first minute is mostly compilation.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def parse_flags(argv: Sequence[str], defaults: Mapping[str, str | None]) -> tuple[dict[str, str], list[str]]:
    """The values of a command's own flags by name, and the `--config.name=value` arguments as they are.

    Args:
        argv: what stands after the command.
        defaults: the command's flags; None marks one that must be given.

    Raises:
        InputError: an unknown flag, with the nearest right one, a flag that is given twice, one that is missing.
    """
    names = [argument.partition("=")[0] for argument in argv]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice; leave one out")
    values = flags.FlagValues()
    for name, default in defaults.items():
        flags.DEFINE_string(name, default, "", flag_values=values)
    try:
        rest = values(["hessflat", *(argument for argument in argv if not argument.startswith("--config."))])[1:]
    except flags.Error as error:
        raise InputError(str(error)) from error
    if rest:
        raise InputError(f"arguments are written --name=value, got {rest[0]!r}")
    own = {name: values[name].value or "" for name in defaults}
    for name, default in defaults.items():
        if default is None and not own[name]:
            raise InputError(f"--{name}=… is missing; it must be given")
    return own, [argument for argument in argv if argument.startswith("--config.")]
