"""Lines on standard error with the time left, and the budget that a run must end within."""

import sys
import time
from collections.abc import Sequence
from typing import Protocol

from benchmarks.process import ContenderError

_GRACE = 60.0  # seconds beyond the budget for what has been begun


class Work(Protocol):
    """What progress asks of a workload."""

    @property
    def id(self) -> str: ...
    @property
    def cost(self) -> float: ...
    @property
    def most_repeats(self) -> int: ...


class Progress:
    """The time left is that of finished workloads scaled by their costs."""

    def __init__(self, workloads: Sequence[Work], deadline: float) -> None:
        self.deadline = deadline
        self.costs = {w.id: w.cost * (2 + min(w.most_repeats, 5)) for w in workloads}
        self.total, self.done, self.current = sum(self.costs.values()), 0.0, 0.0
        self.began = time.monotonic()

    def begin(self, workload: Work) -> None:
        self.current = 0.0

    def advance(self, workload: Work, share: float) -> None:
        self.current = self.costs[workload.id] * (0.4 + 0.6 * share)

    def end(self, workload: Work) -> None:
        self.done += self.costs[workload.id]
        self.current = 0.0

    def deadline_of(self, workload: Work) -> float:
        """Of what is left until the deadline, this workload's share by cost."""
        now = time.monotonic()
        return now + (self.deadline - now) * self.costs[workload.id] / max(self.total - self.done, 1e-9)

    def patience(self, limit: float) -> float:
        """Seconds that a call may take now, at most `limit`."""
        left = self.deadline + _GRACE - time.monotonic()
        if left <= 0:
            raise ContenderError("left out for want of time")
        return min(limit, left)

    def say(self, line: str) -> None:
        done, elapsed = self.done + self.current, time.monotonic() - self.began
        left = "" if done == 0 else f", about {_duration(elapsed / done * (self.total - done))} left"
        print(f"[{_duration(elapsed)}{left}] {line}", file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
