"""Pack finished runs for keeping: `python -m hessflat archive --root=runs --out=results`.

Metrics are rounded to six digits and arrays to four, except for experiments that need all digits. `--unpack=FOLDER`
writes the runs of all archives in a folder below `--root`. None of these runs may be there yet.

An archive that holds other runs is not overwritten. What is not finished is left out, and counted.
"""

from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app, experiment
from hessflat.runs.archive import archives_in, contents, finished_below, pack, unpack
from hessflat.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """One archive for each experiment and scale; `report --from=results` draws from them."""
    own, settings = app.parse_flags(argv, {"root": "runs", "out": "results", "exp": "", "unpack": ""})
    if settings:
        raise InputError(f"an archive takes no settings, got {settings[0]}; it holds what is stored")
    root, named = Path(own["root"]), own["exp"].replace(",", " ").split()
    if own["unpack"]:
        for path in archives_in(Path(own["unpack"])):
            print(f"{root}: {len(unpack(path, root))} runs of {path.name}", flush=True)
        return
    groups = {
        name: folders for name, folders in finished_below(root).items() if not named or folders[0].parent.name in named
    }
    if not groups:
        raise InputError(f"no finished run{' of ' + own['exp'] if named else ''} in {root}")
    paths = {name: Path(own["out"]) / name for name in groups}
    for name, folders in groups.items():
        _require_none_lost(paths[name], folders, root)
    known = experiment.names()
    for name, folders in groups.items():
        path, one = paths[name], folders[0].parent.name
        pack(folders, path, one in known and experiment.load(one).all_digits)
        print(f"{path}: {len(folders)} runs, {path.stat().st_size / 1e6:.2f} MB", flush=True)
    packed = {folder for folders in groups.values() for folder in folders}
    rest = [path.parent for path in root.glob("*/*/config.json") if path.parent not in packed]
    if left := sum(not named or folder.parent.name in named for folder in rest):
        print(f"left out: {left} runs that are not finished", flush=True)


def _require_none_lost(path: Path, folders: Sequence[Path], root: Path) -> None:
    """Refuse to write an archive in place of one that has runs which are not among `folders`.

    Raises:
        InputError: there is such a run.
        DamagedError: what is there is no archive.
    """
    if path.exists() and (lost := contents(path).keys() - {f"{one.parent.name}/{one.name}" for one in folders}):
        raise InputError(
            f"{path} holds {len(lost)} runs that are not among the finished ones of {root}, such as {min(lost)}; "
            "choose another --out, or move it away"
        )
