"""Copy the configurations and experiments to a folder, to change them there: `hessflat init --out=.`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app
from hessflat.utils.errors import InputError, command

FOLDERS = ("configs", "experiments")


def main(argv: Sequence[str]) -> None:
    """In that folder commands use the copies. Nothing that is there is overwritten."""
    own, settings = app.parse_flags(argv, {"out": "."})
    if settings:
        raise InputError(f"init takes no settings, got {settings[0]}")
    out, home = Path(own["out"]), source()
    for name in FOLDERS:
        if (out / name).exists():
            raise InputError(f"{out / name} is there already; give another folder as --out=FOLDER")
        if not (home / name).is_dir():
            raise InputError(f"no {name} in {home.absolute()}; install hessflat from a wheel, or clone it")
    for name in FOLDERS:
        shutil.copytree(home / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        print(f"{out / name}: {len(list((out / name).rglob('*.py')))} files")
    print(f"change them, then: {command('experiment', 'g_mlp', '--scale=smoke')}")
    print(f"what they write as make sweep CONFIG=g_mlp:small is here: {command('sweep', 'g_mlp:small')}")


def source() -> Path:
    """The folder that is copied from: that of commands, or else the clone that this package is in."""
    home, clone = app.home(), Path(app.__file__).parents[2]
    return home if (home / FOLDERS[0]).is_dir() else clone
