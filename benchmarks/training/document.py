"""Write docs/benchmarks-training.md from every stored run: `python -m benchmarks.training.document`."""

from typing import Any

from benchmarks.process import ROOT
from benchmarks.results import read_all
from benchmarks.training import report
from benchmarks.training.run import RESULTS
from hessflat.utils.files import write_atomically

DOCUMENT = ROOT / "docs" / "benchmarks-training.md"

_HEAD = """\
# Benchmarks of training

This page says how many images a second hessflat trains on, beside a loop written by hand in JAX and the same networks
in PyTorch. `python -m benchmarks.training.document` writes it from the files in the folder `training` of
`benchmarks/results/`. Curvature has [a page of its own](benchmarks.md).

## How to run it

```bash
pip install -e '.[bench]'
make bench-train
```

The run leaves PyTorch out if it is not installed. `make bench-train ARGS="--only=mlp --repeats=3"` chooses workloads
and how often, and `ARGS=--scale=smoke` a size that is mostly compilation. The docstring of `benchmarks/training/run.py`
has all options. On a GPU `ARGS=--gpu` adds precisions and a vectorised sweep, and ends within ten minutes.

## How it measures

- Each contender is a process of its own, started once for each network and idle when it is not its turn. Every repeat
  runs each of them once, in turn, in an order that moves on by one. Times are medians over repeats. Those of a step are
  means over as many steps as take a second.
- Batches have 128 examples of noise, 28 × 28 or 32 × 32 × 3; what they show does not change how long a step takes.
  Training is momentum SGD with cross-entropy, batch norm in train mode with running statistics, and float32 without
  TF32.
- Before anything is timed, contenders start from the same weights and take one step on the same batch: the number of
  parameters, the loss before and after, and the norm of the gradient must agree to 1e-4. † marks a contender that does
  not; it is not ranked.
- The first step is that of a new process without a compile cache, from nothing to updated weights. Imports are not
  counted. The second step is in neither time.
- *JAX by hand* is `jax.value_and_grad` and `optax.sgd` in one jitted step that overwrites its state. A Python loop over
  a NumPy permutation calls it, and the batch is gathered on the device. *PyTorch* is `torch.optim.SGD` and a loop over
  a permutation of tensors in memory, with convolutions in the faster of two memory layouts.
- The share of the input pipeline is the time that a step with augmentation and mixup takes longer than one without.
- Going on from a checkpoint means opening, reading and checking the whole state of a run, momentum included, and
  putting it on the device. A run that was killed waits for the first time in a process, and for compilation.
- TFLOP/s count the operations of a gradient as XLA does before its own rewriting. The table also has what a product of
  large matrices reaches in that precision.
"""

_NOTHING = "\nNo run is stored yet.\n"


def main() -> None:
    write_atomically(DOCUMENT, render(read_all(RESULTS)))


def render(stored: list[dict[str, Any]]) -> str:
    """The whole page."""
    return _HEAD + ("".join(map(_run, stored)) or _NOTHING)


def _run(results: dict[str, Any]) -> str:
    about = results["machine"]
    on = about["processor"] if about["device"].lower() == "cpu" else f"{about['device']}, {about['processor']}"
    memory = f", {about['memory_bytes'] / 1e9:.0f} GB" if about["memory_bytes"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    # Judged anew, so that the page follows the goals as they are.
    met = [goal["met"] for goal in report.judged(results) if goal["met"] is not None]
    head = f"\n## {on}, {about['cores']} cores{memory}\n\n{versions}. Goals met: {sum(met)} of {len(met)}.\n\n"
    return head + report.markdown(results) + "\n"


if __name__ == "__main__":
    main()
