"""Prepare data sets, once, before runs.

    python -m hessflat data prepare mnist cifar10 [--from FOLDER] [--cache DIR]
    python -m hessflat data list

The second shows what is there.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app
from hessflat.data import cache, prepared_names
from hessflat.data.prepare import prepare
from hessflat.utils import progress
from hessflat.utils.errors import InputError

WORDS = ("prepare", "list")


def main(argv: Sequence[str]) -> int:
    """The exit status: 0, or 2 if a data set could not be prepared (the others are prepared all the same)."""
    if argv and app.asks_for_help(argv[:1]):
        raise app.HelpAsked({"from": "", "cache": ""})
    parser = argparse.ArgumentParser(prog="python -m hessflat data", description="Prepare data sets for runs.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="put data sets of the TFDS catalogue into the cache")
    preparing.add_argument("names", nargs="+", metavar="NAME", help="a name of the TFDS catalogue, such as mnist")
    preparing.add_argument("--from", dest="files", default="", metavar="FOLDER", help="original files; no network")
    listing = commands.add_parser("list", help="name the data sets in the cache")
    for command in (preparing, listing):
        command.add_argument("--cache", default="", metavar="DIR", help="default: $HESSFLAT_DATA, else ~/.cache")
    options = parser.parse_args(argv)
    folder = Path(options.cache).expanduser() if options.cache else cache.folder()
    if options.command == "list":
        print("\n".join(prepared_names(folder)) or f"no data set is prepared in {folder}")
        return 0
    files = Path(options.files).expanduser() if options.files else None
    status = 0
    for name in options.names:
        try:
            # On a terminal `prepare` shows bars of its own.
            with contextlib.nullcontext() if sys.stderr.isatty() else progress.counting(1, f"preparing {name}"):
                prepare(name, files, folder)
        except InputError as error:
            print(error, file=sys.stderr)
            status = 2
    return status
