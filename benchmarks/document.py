"""Write docs/benchmarks.md from every stored run: `python -m benchmarks.document`."""

from pathlib import Path
from typing import Any

from benchmarks import goals, tables
from benchmarks.contenders import ENTRIES
from benchmarks.results import RESULTS, read_all
from hessflat.utils.files import write_atomically

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_HEAD = """\
# Benchmarks

This page compares hessflat with its peers: the same networks, weights and data, everything in one run.
`python -m benchmarks.document` writes it from the files in `benchmarks/results/`.

## How to run it

```bash
pip install -e '.[bench]'
make bench                # a quarter of an hour
make bench ARGS=--long    # convolutional networks
```

The run leaves out peers that are not installed. hessflat and what is written by hand in JAX need nothing but hessflat.
`--only=W1,W2` chooses workloads, `--peers=` contenders, `--repeats=` how often, and `--scale=smoke` a size that takes
some minutes. `python -m benchmarks.run --help` tells all arguments. On a machine with a GPU `make bench-gpu` adds what
only an accelerator can say, and ends within ten minutes.

## How it measures

- Each contender is a process of its own, started once for each workload and idle when it is not its turn. Every repeat
  runs each of them once, in turn, in an order that moves on by one. Times are medians over repeats.
- NumPy makes weights and data once, with weights trained by a few steps of SGD. They are then brought into each
  framework's layout. Before anything is timed, the loss, the gradient, a product with a fixed vector and the result are
  compared. † marks a contender that is off, or that did less work; it is not ranked.
- Each contender chooses its batch before that, by a few products of each size from all examples down to a sixteenth of
  them; in PyTorch also whether memory is mapped anew for large arrays (glibc's default) or kept. The choice stands
  beside its name. hessflat is called as it is by default, with all examples at once.
- A run goes from arrays on the device to numbers on the host. What a library computes once and keeps is inside it. The
  first call, compilation included, is that of a new process without a compile cache. Imports are not counted.
- *Gradients per product* is the time of a run over products and over one full-data gradient, in the same framework and
  process. In JAX on a CPU that gradient is XLA's, while hessflat first rewrites its products of convolutions. Ratios of
  hessflat below one say that XLA's gradient is slow.
- Goals on seconds say what the ratio to the best peer is the product of: how many products were taken, how many
  gradients each took, and how long a gradient takes in each framework. λ_max takes hessflat more products than its
  residual needs: they look for a larger eigenvalue that was missed.
- Memory is the peak of the process after its first call, or, on an accelerator, that of the device.
- Everything is in float32, with TF32 off and one probe.

| contender | framework | how |
| --- | --- | --- |
"""

_NOTHING = "\nNo run is stored yet.\n"


def main() -> None:
    write_atomically(DOCUMENT, render(read_all(RESULTS)))


def render(stored: list[dict[str, Any]]) -> str:
    """The whole page."""
    lines = [f"| {entry.name} | {entry.framework} | {entry.note} |" for entry in ENTRIES if entry.note]
    return _HEAD + "\n".join(lines) + "\n" + ("".join(map(_run, stored)) or _NOTHING)


def _run(results: dict[str, Any]) -> str:
    # Judged anew, so that the page follows the goals as they are.
    results = results | {"goals": [goal._asdict() for goal in goals.judge(results)]}
    met = [goal["met"] for goal in results["goals"] if goal["met"] is not None]
    about = results["machine"]
    on = about["processor"] if about["device"].lower() == "cpu" else f"{about['device']}, {about['processor']}"
    memory = f", {about['memory_bytes'] / 1e9:.0f} GB" if about["memory_bytes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    head = f"\n## {on}, {about['cores']} cores{memory}\n\n{versions}. Goals met: {sum(met)} of {len(met)}.\n\n"
    return head + tables.markdown(results) + "\n"


if __name__ == "__main__":
    main()
