"""Redraw every figure, table and verdict from what is stored: `python -m hessflat report --root=runs --out=report`.

`--from=FOLDER` takes the runs from the archives in a folder, as `archive` writes them. `--serve` draws nothing: until
Ctrl-C it shows the runs that are under way, on a page of this machine that is updated every few seconds.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from hessflat.cli import app
from hessflat.cli.experiment import report_all
from hessflat.report import live
from hessflat.report.build import print_summary
from hessflat.runs.archive import unpacked
from hessflat.utils.errors import InputError, command


def main(argv: Sequence[str]) -> None:
    """Nothing is trained; claims whose runs are missing say which command makes them."""
    own, settings = app.parse_flags(argv, {"root": "runs", "out": "report", "from": "", "serve": "0", "port": "8000"})
    if settings:
        raise InputError(f"a report takes no settings, got {settings[0]}; it shows what is stored")
    if app.is_set(own, "serve"):
        serve(own)
        return
    with unpacked(Path(own["from"])) if own["from"] else contextlib.nullcontext(Path(own["root"])) as root:
        print_summary(report_all(root, Path(own["out"])))
    print(f"report: {Path(own['out']) / 'index.html'}")


def serve(own: Mapping[str, str]) -> None:
    """Serve the page of the runs below `--root` at `--port`, 0 for a free one, until Ctrl-C."""
    if own["from"]:
        raise InputError("archives hold finished runs alone; --serve is for those of --root, so leave --from out")
    if not Path(own["root"]).is_dir():
        raise InputError(f"no folder {own['root']}; name one that holds runs, or run: {command('experiment', 'g_mlp')}")
    if not own["port"].isdecimal():
        raise InputError(f"--port must be a number, 0 for any that is free, got {own['port']!r}")
    with live.serve(Path(own["root"]), Path(own["out"]), int(own["port"])) as server:
        print(f"runs of {own['root']}: http://{live.ADDRESS}:{server.server_port}/ until Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
