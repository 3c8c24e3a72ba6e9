"""Write docs/benchmarks-scaling.md from every stored run: `python -m benchmarks.scaling.document`."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import tables
from benchmarks.results import RESULTS, read_all
from benchmarks.scaling.workloads import LAYOUTS, SIZES, STRONG, TASKS, TITLES, WEAK
from hessflat.utils import hardware
from hessflat.utils.files import write_atomically

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-scaling.md"

_HEAD = """\
# Scaling

This page says what more devices and more processes add to training, products and Lanczos.
`python -m benchmarks.scaling.document` writes it from what `make bench-scale` stored.

Devices are virtual: they are parts of one CPU and share its cores, and processes on one machine talk by gloo. So no
work gets faster. The page shows what is *added*: splitting, exchanges, waiting for one another. In the strong case (the
same examples on any number of devices) the best ratio is 1. In the weak case each device has as much as before, and the
best ratio is the number of devices. It is divided by what is expected, so 1 is best there too. The page does not show
how fast exchanges are between real devices: [plans.md](plans.md) has a model of that. The operations of each device and
the bytes of the exchanges, as XLA compiled them, do not depend on the machine.

- *ratio*: the seconds over those of one device in the same repeat, over what is expected. The table has the median over
  repeats, and the least, because the ratio includes whatever else the machine did at the time.
- *operations*: those of one device, as XLA counts them, over those of a program on one device, of all examples (strong)
  or of an eighth of them (weak). Loops are counted once.
- *exchanges*: in one training step, one product, or one Lanczos step.

Strong: {examples} examples in all. Weak: an eighth of them for each device.
"""

_NOTHING = "\nNo run is stored yet.\n"


def main() -> None:
    write_atomically(DOCUMENT, render(read_all(RESULTS / "scaling")))


def render(stored: list[dict[str, Any]]) -> str:
    """The whole page."""
    return _HEAD.replace("{examples}", f"{SIZES['full'].examples:,}") + ("".join(map(_run, stored)) or _NOTHING)


def _run(found: dict[str, Any]) -> str:
    about = found["machine"]
    head = f"\n## {about['processor']}, {about['cores']} cores\n"
    parts = [f"\n### {TITLES[task].capitalize()}\n\n{tables.as_markdown(table(found, task))}\n" for task in TASKS]
    return head + "".join(parts)


def text(found: dict[str, Any]) -> str:
    """The tables for a terminal."""
    return "\n\n".join(f"{TITLES[task]}\n{tables.lined_up(table(found, task))}" for task in TASKS)


def table(found: dict[str, Any], task: str) -> tables.Table:
    """A row for each layout."""
    rows = {row["layout"]: row for row in found["rows"]}
    heading = ["processes × devices", "strong: ratio", "operations", "exchanges", "weak: ratio", "operations"]
    cells = [heading]
    for name, row in rows.items():
        layout = LAYOUTS[name]
        title = f"{layout.processes} × {layout.each}"
        if row["status"] != "ok":
            cells.append([title, row["status"], "", "", "", ""])
            continue
        of = lambda kind, row=row: row["facts"][f"{task} {kind}"]  # noqa: E731
        alone = rows["1x1"]["facts"]
        shares = [f"{of(kind)['flops'] / alone[f'{task} {kind}']['flops']:.3f}" for kind in (STRONG, WEAK)]
        strong, weak = (_ratio(rows, name, task, kind) for kind in (STRONG, WEAK))
        cells.append([title, strong, shares[0], _exchanges(of(STRONG)["exchanges"]), weak, shares[1]])
    return cells


def _ratio(rows: dict[str, dict[str, Any]], name: str, task: str, kind: str) -> str:
    mine, alone = (np.array(rows[layout]["seconds"][f"{task} {kind}"]) for layout in (name, "1x1"))
    if not len(mine):
        return ""
    expected = 1 if kind == STRONG else LAYOUTS[name].devices
    ratios = mine / alone / expected
    return f"{np.median(ratios):.2f} ({ratios.min():.2f})"


def _exchanges(exchanges: list[tuple[str, float, float]]) -> str:
    counts: dict[str, tuple[float, float]] = {}
    for kind, times, num_bytes in exchanges:
        before = counts.get(kind, (0.0, 0.0))
        counts[kind] = (before[0] + times, before[1] + times * num_bytes)
    return ", ".join(f"{times:.3g} {kind}, {hardware.text(size)}" for kind, (times, size) in counts.items()) or "none"


if __name__ == "__main__":
    main()
