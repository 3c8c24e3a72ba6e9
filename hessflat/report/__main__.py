"""Redraw every figure, table and verdict from what is stored: `python -m hessflat.report --root=runs --out=report`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat import arguments, entry
from hessflat.experiment import report_all
from hessflat.report.build import print_summary


def main(argv: Sequence[str]) -> None:
    """Nothing is trained; claims whose runs are missing say which command makes them."""
    own, _ = arguments.parse(argv, {"root": "runs", "out": "report"})
    print_summary(report_all(Path(own["root"]), Path(own["out"])))
    print(f"report: {Path(own['out']) / 'index.html'}")


if __name__ == "__main__":
    entry.run(main)
