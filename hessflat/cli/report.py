"""Redraw every figure, table and verdict from what is stored: `python -m hessflat report --root=runs --out=report`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat.cli import app
from hessflat.cli.experiment import report_all
from hessflat.report.build import print_summary
from hessflat.utils.errors import InputError


def main(argv: Sequence[str]) -> None:
    """Nothing is trained; claims whose runs are missing say which command makes them."""
    own, settings = app.parse_flags(argv, {"root": "runs", "out": "report"})
    if settings:
        raise InputError(f"a report takes no settings, got {settings[0]}; it shows what is stored")
    print_summary(report_all(Path(own["root"]), Path(own["out"])))
    print(f"report: {Path(own['out']) / 'index.html'}")
