"""One contender in a process of its own: it answers one line with one line of JSON.

    python -m benchmarks.training.child CONTENDER WORKLOAD SCALE FILE

Commands: "first" (network, weights and a first step, with compilation), "check" (numbers to compare), "parts" (what
else there is to know of it), "run" (seconds of a step).
"""

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.child import reply_stream, versions_of
from benchmarks.timing import seconds_of, seconds_per_call
from benchmarks.training import problem
from benchmarks.training.workloads import NETWORKS, WORKLOADS, entry_of

_SECONDS = {"full": 1.0, "smoke": 0.0}  # that a sample takes at least


class Child:
    """A contender and what is asked of it."""

    def __init__(self, name: str, workload_id: str, scale: str, file: str) -> None:
        workload = WORKLOADS[workload_id]
        network, self.entry, self.scale = NETWORKS[workload.network], entry_of(workload, name), scale
        module = importlib.import_module(f"benchmarks.training.{self.entry.module}")
        kind = getattr(module, self.entry.class_name)
        self.contender = kind(network, scale, problem.load(Path(file)), self.entry.overrides)
        self.steps = network.steps(scale, self.contender.device_kind())

    def hello(self) -> dict[str, Any]:
        versions = versions_of(("flax", "optax", *self.entry.packages))
        return {"device": self.contender.device_kind(), "steps": self.steps, "versions": versions}

    def first(self) -> dict[str, Any]:
        def first_step() -> None:
            self.contender.build()
            self.contender.advance(1)

        seconds = seconds_of(first_step)
        self.contender.advance(1)  # what a second step still sets up is in neither time
        return {"seconds": seconds, "loop": self.contender.loop}

    def check(self) -> dict[str, Any]:
        return self.contender.check()

    def parts(self) -> dict[str, Any]:
        return self.contender.parts()

    def run(self) -> dict[str, Any]:
        seconds = seconds_per_call(lambda: self.contender.advance(self.steps), _SECONDS[self.scale])
        return {"seconds": seconds / self.steps}


def main(arguments: list[str]) -> None:
    replies = reply_stream()
    child = None
    for line in sys.stdin:
        try:
            child = child or Child(*arguments)
            reply = getattr(child, line.strip())()
        except Exception as error:  # whatever a contender raises is a result, and the others go on
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
