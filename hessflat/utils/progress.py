"""One line that says what is running and how long it will take: live in a terminal, every ten seconds in a log.

The live line is drawn by rich, which is imported where it is drawn; without rich a terminal gets the lines of a log.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TextIO

from hessflat.utils import processes
from hessflat.utils.errors import Stopped

# What a scheduler sends before it takes a machine away.
STOPPING = (signal.SIGTERM, signal.SIGUSR1)
_asked_to_stop = threading.Event()

# Whether a line is due is asked that often, so that at most ten seconds are between two.
SECONDS_BETWEEN_LOG_LINES = 9.0
SECONDS_BETWEEN_LOOKS = 0.5


class Reporter(NamedTuple):
    """How work reports what it does.

    `advance(work, doing)` adds finished work, in the unit of the total, and says what runs; `skip(work)` takes off
    what was finished before, so that it does not count as having taken no time; `note` prints a line.
    """

    advance: Callable[[float, str], None]
    skip: Callable[[float], None]
    note: Callable[[str], None]


class _Screen(NamedTuple):
    """Where a report goes: `show(done, total, elapsed, doing)` and `note(line)`."""

    show: Callable[[float, float, float, str], None]
    note: Callable[[str], None]


def stop_when_asked() -> None:
    """From now on a signal of `STOPPING` ends nothing by itself: work looks at `asked_to_stop`, saves and stops."""
    for number in STOPPING:
        signal.signal(number, lambda number, frame: _asked_to_stop.set())


def asked_to_stop() -> bool:
    """Whether a signal has asked this process to stop, or one that runs the same program: all of them stop together."""
    return processes.any_of(_asked_to_stop.is_set())


def stop_if_asked() -> None:
    """End here, where what there is is saved, if a signal has asked for it.

    Raises:
        Stopped: one has.
    """
    if asked_to_stop():
        raise Stopped


def silent() -> Reporter:
    """A reporter that shows nothing."""
    return Reporter(lambda work, doing: None, lambda work: None, lambda line: None)


@contextlib.contextmanager
def reporting(
    total: float, stream: TextIO | None = None, terminal: bool | None = None, doing: str = "starting"
) -> Iterator[Reporter]:
    """A reporter of `total` units of work, any unit; time left is what the finished share took, scaled.

    Of several processes the writer alone reports. A log has a line at least every ten seconds, also while one program
    is compiled or one measurement made.

    Args:
        total: work in all.
        stream: where it is shown; None is standard error.
        terminal: whether to draw a live line; None asks the stream.
        doing: what runs first.
    """
    if not processes.is_writer():
        yield silent()
        return
    stream = stream or sys.stderr
    started = time.monotonic()
    done = 0.0
    lock = threading.Lock()  # messages of worker processes arrive in a thread of their own
    with _screen(total, stream, stream.isatty() if terminal is None else terminal) as screen:

        def advance(work: float, what: str) -> None:
            nonlocal done, doing
            with lock:
                done, doing = done + work, what
                screen.show(done, total, time.monotonic() - started, doing)

        def show_again() -> None:
            with lock:
                screen.show(done, total, time.monotonic() - started, doing)

        def skip(work: float) -> None:
            nonlocal total
            with lock:
                total -= work

        with _repeated(show_again):
            yield Reporter(advance, skip, screen.note)


@contextlib.contextmanager
def counting(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """A function that adds finished steps of `total` to a bar with the time left."""
    with reporting(total, doing=doing) as reporter:
        yield lambda steps: reporter.advance(steps, doing)


@contextlib.contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call `action` in a thread of its own, for as long as the context lasts."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _screen(total: float, stream: TextIO, terminal: bool) -> contextlib.AbstractContextManager[_Screen]:
    if terminal:
        with contextlib.suppress(ImportError):
            import rich.progress  # noqa: F401  a library without it has no bar

            return _live_line(total, stream)
    return contextlib.nullcontext(_log_lines(stream))


@contextlib.contextmanager
def _live_line(total: float, stream: TextIO) -> Iterator[_Screen]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]:>12}"),
        TextColumn("{task.description}"),
    )
    console = Console(file=stream, highlight=False, force_terminal=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=total, left="")

        def show(done: float, total: float, elapsed: float, doing: str) -> None:
            bar.update(task, total=total, completed=done, description=doing, left=_time_left(elapsed, done, total))

        yield _Screen(show, lambda line: bar.console.print(line, soft_wrap=True, markup=False))


def _log_lines(stream: TextIO) -> _Screen:
    """A line where the last is older than `SECONDS_BETWEEN_LOG_LINES`."""
    last_line = time.monotonic()

    def show(done: float, total: float, elapsed: float, doing: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line > SECONDS_BETWEEN_LOG_LINES:
            last_line = time.monotonic()
            share = done / max(total, done, 1e-12)
            note(f"{share:4.0%}  {clock(elapsed)}  {_time_left(elapsed, done, total)}  {doing}")

    def note(line: str) -> None:
        print(line, file=stream, flush=True)

    return _Screen(show, note)


def _time_left(elapsed: float, done: float, total: float) -> str:
    # Before some share is done the estimate is that of the compiler.
    if done <= 0 or done < 0.05 * total:
        return ""
    return f"{clock(elapsed * max(total - done, 0.0) / done)} left"
