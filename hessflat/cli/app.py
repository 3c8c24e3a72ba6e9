"""What every command does around its work: one line for bad input, and compiled code kept between commands."""

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jaxlib
from absl import logging

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
