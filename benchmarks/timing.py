"""Seconds of short calls."""

import time
from collections.abc import Callable
from typing import Any


def seconds_of(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def seconds_per_call(call: Callable[[], Any], at_least: float = 0.1) -> float:
    """The mean over as many calls as take `at_least` seconds together, one at least. Calls wait for their result."""
    count, began = 0, time.perf_counter()
    while True:
        call()
        count += 1
        elapsed = time.perf_counter() - began
        if elapsed >= at_least:
            return elapsed / count
