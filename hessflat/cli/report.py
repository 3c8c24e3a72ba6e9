"""Redraw every figure, table and verdict from what is stored: `python -m hessflat report --root=runs --out=report`.

`--from=FOLDER` takes the runs from the archives in a folder, as `archive` writes them.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app
from hessflat.cli.experiment import report_all
from hessflat.report.build import print_summary
from hessflat.runs.archive import unpacked
from hessflat.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Nothing is trained; claims whose runs are missing say which command makes them."""
    own, settings = app.parse_flags(argv, {"root": "runs", "out": "report", "from": ""})
    if settings:
        raise InputError(f"a report takes no settings, got {settings[0]}; it shows what is stored")
    with unpacked(Path(own["from"])) if own["from"] else contextlib.nullcontext(Path(own["root"])) as root:
        print_summary(report_all(root, Path(own["out"])))
    print(f"report: {Path(own['out']) / 'index.html'}")
