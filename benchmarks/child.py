"""One contender in a process of its own: it answers one line of JSON with one line of JSON.

    python -m benchmarks.child CONTENDER WORKLOAD SCALE FILE [BATCH]

A product is one of BATCH examples at a time, by default of all. Commands: "search" (seconds of a product by the size of
a batch), "first" (the first run, with compilation, and the memory it took), "check" (numbers to compare), "run" (one
timed run and one timed gradient). It does nothing between commands, so that its threads are out of the others' way.
"""

import json
import os
import resource
import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from benchmarks import problems
from benchmarks.contenders import BY_NAME
from benchmarks.timing import seconds_of, seconds_per_call
from benchmarks.workloads import WORKLOADS, problem_of, timetable_steps

_TRIES = 3
_ENOUGH = 1.0  # seconds, after which a product is not timed again


class Child:
    """A contender and what is asked of it."""

    def __init__(self, name: str, workload_id: str, scale: str, file: str, batch: str = "0") -> None:
        self.entry, self.workload = BY_NAME[name], WORKLOADS[workload_id]
        self.problem, self.arrays = problem_of(self.workload, scale), problems.load(Path(file))
        self.steps = timetable_steps(self.workload, scale)
        kind = self.entry.load()
        self.reduced = kind.reduced(self.problem, self.workload) if scale == "full" else None
        examples, steps = self.reduced or (len(self.arrays.x), self.steps)
        self.examples, self.run_steps = examples, steps
        self.kind, self.batch = kind, int(batch)
        self.contender = self._contender(self.batch or examples)

    def _contender(self, batch: int) -> Any:
        arrays = self.arrays.take(self.examples)
        return self.kind(self.problem, arrays, self.workload, self.run_steps, batch)

    def hello(self) -> dict[str, Any]:
        return {
            "device": self.contender.device_kind(),
            "examples": self.examples,
            "steps": self.run_steps,
            "reduced": self.reduced is not None,
            "versions": versions_of(self.entry.packages),
        }

    def search(self) -> dict[str, Any]:
        """The least seconds of a few products, by the size of a batch; of one that there is no choice of, none."""
        sizes, found = self.kind.batch_sizes(self.examples), {}
        for size in sizes if len(sizes) > 1 else ():
            contender = self._contender(size)
            call = contender.prepared()
            call()
            seconds = [seconds_of(call)]
            while len(seconds) < _TRIES and sum(seconds) < _ENOUGH:
                seconds.append(seconds_of(call))
            found[size] = min(seconds)
            del call
            contender.release()
        return {"seconds": found}

    def first(self) -> dict[str, Any]:
        before = _peak_of_process()
        reply = self._timed()
        peak = self.contender.peak_bytes()
        memory = {"peak_bytes": _peak_of_process() if peak is None else peak, "before_bytes": before}
        return reply | memory | {"memory_of": "process" if peak is None else "device"}

    def check(self) -> dict[str, float]:
        """Numbers that all contenders share: the loss, the gradient and a product with a fixed vector."""
        contender = self.contender
        if self.reduced:
            contender = self.kind(self.problem, self.arrays, self.workload, self.steps, len(self.arrays.x))
        vector = np.random.default_rng(2).normal(size=self.problem.size).astype(np.float32)
        vector /= np.linalg.norm(vector)
        loss, gradient = contender.loss_and_gradient()
        product = contender.product(vector)
        self.contender.gradient()  # compiled here, so that the timed ones are not
        contender.release()
        return {
            "loss": loss,
            "gradient_norm": float(np.linalg.norm(gradient)),
            "gradient_along_v": float(gradient @ vector),
            "product_norm": float(np.linalg.norm(product)),
            "product_along_v": float(product @ vector),
        }

    def run(self) -> dict[str, Any]:
        reply = self._timed()
        reply["gradient"] = seconds_per_call(self.contender.gradient)
        self.contender.release()
        return reply

    def _timed(self) -> dict[str, Any]:
        found = []
        seconds = seconds_of(lambda: found.append(self.contender.run()))
        self.contender.release()
        return {"seconds": seconds} | found[0]._asdict()


def main(arguments: list[str]) -> None:
    replies = reply_stream()
    child = None

    def answer(command: str) -> dict[str, Any]:
        nonlocal child
        if command == "hello":
            child = Child(*arguments)
        return getattr(child, command)()

    for line in sys.stdin:
        try:
            reply = answer(line.strip())
        except Exception as error:  # whatever a contender raises is a result, and the others go on
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), file=replies, flush=True)


def reply_stream() -> TextIO:
    """Standard output for replies alone: what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def versions_of(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in ("hessflat", "jax", "jaxlib", "numpy", "scipy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
