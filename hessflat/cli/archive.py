"""Pack finished runs for keeping: `python -m hessflat archive --root=runs --out=results`.

Metrics are rounded to six digits and arrays to four, except for experiments that need all digits. `--unpack=FOLDER`
writes the runs of all archives in a folder below `--root`. None of these runs may be there yet.
"""

from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app, experiment
from hessflat.runs.archive import archives_in, finished_below, pack, unpack
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
    known = experiment.names()
    for name, folders in groups.items():
        path, one = Path(own["out"]) / name, folders[0].parent.name
        pack(folders, path, one in known and experiment.load(one).all_digits)
        print(f"{path}: {len(folders)} runs, {path.stat().st_size / 1e6:.2f} MB", flush=True)
