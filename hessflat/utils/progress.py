"""One line that says what is running and how long it will take: live in a terminal, now and then in a log."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LOG_LINES = 10.0


class Reporter(NamedTuple):
    """How work tells what it does.

    `advance(work, doing)` adds finished work, in the unit of the total, and says what runs; `skip(work)` takes off
    what was finished before, so that it does not count as having taken no time; `note` prints a line.
    """

    advance: Callable[[float, str], None]
    skip: Callable[[float], None]
    note: Callable[[str], None]


def silent() -> Reporter:
    """A reporter that shows nothing."""
    return Reporter(lambda work, doing: None, lambda work: None, lambda line: None)


@contextlib.contextmanager
def reporting(total: float, console: Console | None = None) -> Iterator[Reporter]:
    """A reporter of `total` units of work, any unit; time left is what the finished share took, scaled."""
    console = console or Console(stderr=True, highlight=False)
    started = time.monotonic()
    done = 0.0
    last_line = started
    lock = threading.Lock()  # what worker processes tell arrives in a thread of its own

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]:>12}"),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=total, left="")

        def advance(work: float, doing: str) -> None:
            nonlocal done, last_line
            with lock:
                done += work
                elapsed = time.monotonic() - started
                left = _time_left(elapsed, done, total)
                bar.update(task, completed=done, description=doing, left=left)
                if not console.is_terminal and time.monotonic() - last_line > SECONDS_BETWEEN_LOG_LINES:
                    last_line = time.monotonic()
                    share = done / max(total, done, 1e-12)
                    console.print(f"{share:4.0%}  {clock(elapsed)}  {left}  {doing}", soft_wrap=True)

        def skip(work: float) -> None:
            nonlocal total
            with lock:
                total -= work
                bar.update(task, total=total)

        yield Reporter(advance, skip, lambda line: bar.console.print(line, soft_wrap=True, markup=False))


@contextlib.contextmanager
def counting(total: int, doing: str, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A function that adds finished steps of `total`: a bar with the time left, on a terminal, if `shown`."""
    console = Console(stderr=True, highlight=False)
    if not shown or not console.is_terminal:
        yield lambda steps: None
        return
    with reporting(total, console) as reporter:
        yield lambda steps: reporter.advance(steps, doing)


def _time_left(elapsed: float, done: float, total: float) -> str:
    # Before some share is done the estimate is that of the compiler.
    if done <= 0 or done < 0.05 * total:
        return ""
    return f"{clock(elapsed * max(total - done, 0.0) / done)} left"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
