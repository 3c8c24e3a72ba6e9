"""Runs of one machine, in this process or side by side in processes of their own, beside other commands on them.

A network without convolutions keeps one core busy, so a sweep of such runs takes as many processes as there are cores;
where there are several GPUs, each run has one of them. Threads would not do: XLA's CPU client can wait for itself when
two of them solve small eigenproblems at once.

Any number of commands may work on the same runs, on this machine and on others that see the folder. Each takes what
nobody holds and goes on to the next, waits where what is left is held by others, and takes over what a process leaves
unfinished when it ends. So all of them end when every run is finished.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import jax
from absl import logging
from threadpoolctl import threadpool_limits

from hessflat.launch import places
from hessflat.launch.places import Place
from hessflat.runs import loop, run_folder
from hessflat.runs.jobs import Job, chunks, compiled, group_by_trainer, levels, reserved
from hessflat.training.config import ModelConfig
from hessflat.utils import compat, hardware, progress
from hessflat.utils.errors import DamagedError, InputError, InUseError, Stopped
from hessflat.utils.progress import Reporter

SECONDS_BETWEEN_LOOKS = 0.5


class Chunk(NamedTuple):
    """Runs that train together."""

    jobs: list[Job]
    trainer: int  # a number of its own for each trainer
    network: ModelConfig  # whose measures are compiled once a process


def run_all(
    jobs: Sequence[Job], reporter: Reporter, workers: str = "auto", anew: bool = False, gpus: Sequence[str] = ()
) -> str:
    """`loop.run_all` over processes. Returns a line on what was compiled.

    Args:
        jobs: configurations with their folders.
        reporter: what is told of how far it is.
        workers: the number of processes, or `auto`.
        anew: train a damaged run from its beginning where nothing of it is left to mend it from.
        gpus: that processes of their own have, see `places`; none where this process keeps what there is.

    Raises:
        DamagedError: at the end, the runs that could not be mended.
    """
    processes = _number(workers)
    lost: list[str] = []
    with reserved(jobs):
        compilations = [_run_wave(wave, reporter, processes, anew, gpus, lost) for wave in levels(jobs)]
    if lost:
        raise DamagedError("; ".join(lost))
    return ", ".join([f"{len(jobs)} runs", *(["; then ".join(compilations)] if compilations else [])])


def _run_wave(
    jobs: Sequence[Job], reporter: Reporter, processes: int | None, anew: bool, gpus: Sequence[str], lost: list[str]
) -> str:
    """Runs that need no other of them finished; adds a line to `lost` for each that cannot be mended."""
    done: list[Chunk] = []
    unfinished: list[Chunk] = []
    groups = group_by_trainer(jobs)
    for number, group in enumerate(groups):
        for together in chunks(group):
            chunk = Chunk(together, number, together[0].config.model)
            (done if all(run_folder.is_finished(job.folder) for job in together) else unfinished).append(chunk)
    lost += _run_here(done, reporter, anew)
    # Not the number of unfinished ones: how many cores a run has decides how its sums are rounded, so the same command
    # must give every run the same share, first time or continued.
    most = len(done) + len(unfinished)
    each = max(1, *(job.config.devices for job in jobs))  # GPUs of a run
    if not unfinished:
        count = 1
    elif gpus:
        count = min(most, max(1, len(gpus) // each), processes or most)
    else:
        count = min(most, processes or _affordable(groups))
    if count > 1 or (gpus and unfinished):
        shares = places.deal(count, hardware.cores(), gpus, each)
        lost += _run_in_processes(unfinished, reporter, shares, anew)
    else:
        lost += _run_here(unfinished, reporter, anew)
    trainers = len({chunk.trainer for chunk in unfinished})
    each_process = f", at most once in each of {count} processes" if count > 1 else ""
    return f"{trainers} training program{'' if trainers == 1 else 's'} compiled{each_process}"


def _number(workers: str) -> int | None:
    if workers == "auto":
        return None
    if not workers.isdecimal() or int(workers) < 1:
        raise InputError(f"--workers must be auto or a whole number of at least 1, got {workers!r}")
    return int(workers)


def _affordable(groups: Sequence[Sequence[Job]]) -> int:
    """Convolutions spread over the cores by themselves, an accelerator is one queue, a smoke run is over too soon."""
    if jax.default_backend() != "cpu" or groups[0][0].config.scale == "smoke":
        return 1
    if any(compiled(group[0].config).trainer.loop == "python" for group in groups):
        return 1
    return len(hardware.cores())


def _is_held(chunk: Chunk) -> bool:
    return any(run_folder.is_live(job.folder) for job in chunk.jobs)


def _wait_for_others(left: Sequence[Chunk], reporter: Reporter) -> None:
    number = sum(len(chunk.jobs) for chunk in left)
    reporter.advance(0.0, f"waiting for {number} run{'' if number == 1 else 's'} of other processes")
    time.sleep(SECONDS_BETWEEN_LOOKS)


def _run_here(chunks: Sequence[Chunk], reporter: Reporter, anew: bool) -> list[str]:
    """Run them in this process, one after another; see `loop.run_all`."""
    lost: list[str] = []
    left = list(chunks)
    while left:
        free = next((chunk for chunk in left if not _is_held(chunk)), None)
        if free is None:
            progress.stop_if_asked()
            _wait_for_others(left, reporter)
            continue
        left.remove(free)
        try:
            lost += loop.run_all(free.jobs, reporter, anew)
        except InUseError:  # another process was quicker
            left.append(free)
    return lost


def _run_in_processes(chunks: Sequence[Chunk], reporter: Reporter, shares: Sequence[Place], anew: bool) -> list[str]:
    """Run them in a process for each place."""
    context = multiprocessing.get_context("spawn")
    messages: Any = context.SimpleQueue()
    settings = {name: compat.setting(name) for name in _CARRIED}
    listener = threading.Thread(target=_listen, args=(messages, reporter), daemon=True)
    listener.start()
    others = set(multiprocessing.active_children())

    def ask_to_stop() -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # which they take as a signal to save and stop

    initial = [(messages, place, settings) for place in shares[: len(chunks)]]
    pools = [ProcessPoolExecutor(1, context, _start, arguments) for arguments in initial]
    try:
        lost = _share_out(chunks, pools, reporter, anew, ask_to_stop)
    except BaseException as error:
        # Runs that are under way can be continued; waiting for their end would keep the user from the reason.
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise InputError(
                f"one of {len(shares)} processes was killed, perhaps for memory; the same command continues, "
                "with --workers=1 one run at a time"
            ) from error
        raise
    for pool in pools:
        pool.shutdown()
    messages.put(None)
    listener.join()
    return lost


def _share_out(
    chunks: Sequence[Chunk],
    pools: Sequence[ProcessPoolExecutor],
    reporter: Reporter,
    anew: bool,
    stop: Callable[[], None],
) -> list[str]:
    """Give each process that waits what it is the best one for, until all is run; see `loop.run_all`.

    Raises:
        Stopped: a signal came; `stop` has asked the processes to stop, and what they ran is saved.
    """
    lost: list[str] = []
    stopping = passed_on = False
    left = list(chunks)
    had: list[list[Chunk]] = [[] for _ in pools]
    running: dict[Future, tuple[int, Chunk]] = {}
    while left or running:
        for number in sorted(set(range(len(pools))) - {number for number, _ in running.values()}):
            if free := [chunk for chunk in left if not _is_held(chunk)]:
                others = [chunk for other in had if other is not had[number] for chunk in other]
                chunk = free[best_for(had[number], others, free)]
                left.remove(chunk)
                had[number].append(chunk)
                running[pools[number].submit(_run_chunk, chunk.jobs, anew)] = number, chunk
        if not running:
            _wait_for_others(left, reporter)
        # Not for ever, for a signal that asks to stop has to be passed on.
        for future in wait(running, timeout=SECONDS_BETWEEN_LOOKS, return_when=FIRST_COMPLETED).done:
            number, chunk = running.pop(future)
            try:
                lost += future.result()
            except InUseError:  # another command was quicker
                had[number].remove(chunk)
                left.append(chunk)
            except Stopped:
                stopping = True
            except BrokenProcessPool:  # one that was about to start takes the signal for its end
                if not progress.asked_to_stop():
                    raise
        if stopping or progress.asked_to_stop():
            left = []
            if not passed_on:
                stopping = passed_on = True
                stop()
    if stopping:
        raise Stopped
    return lost


def best_for(own: Sequence[Chunk], others: Sequence[Chunk], left: Sequence[Chunk]) -> int:
    """Which of `left` a process that has run `own` takes: what it has compiled already, else what no other has."""

    def foreign(index: int) -> tuple[bool, ...]:
        chunk = left[index]
        return (
            chunk.trainer not in {one.trainer for one in own},
            chunk.network not in {one.network for one in own},
            chunk.network in {one.network for one in others},
            chunk.trainer in {one.trainer for one in others},
        )

    return min(range(len(left)), key=foreign)


def _listen(messages: Any, reporter: Reporter) -> None:
    while (message := messages.get()) is not None:
        name, arguments = message
        getattr(reporter, name)(*arguments)


# Settings of JAX that decide speed or numbers, which a new process does not inherit.
_CARRIED = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_default_matmul_precision",
    "jax_enable_x64",
)
_messages: Any = None


def _start(messages: Any, place: Place, settings: dict[str, Any]) -> None:
    """What each process does first: keep to its place, for XLA's threads would fight over all cores."""
    global _messages  # the one thing that a process of the pool is born with
    _messages = messages
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress.stop_when_asked()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its processes
    places.take(place)
    # NumPy's BLAS started a thread for every core when it was imported.
    threadpool_limits(len(place.cores))
    logging.set_verbosity(logging.FATAL)  # as in the process that started this one
    for name, value in settings.items():
        jax.config.update(name, value)


def _end_with_parent() -> None:
    """A command that is killed must not leave processes behind that hold its runs."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by a pool"
    parent.join()
    os._exit(1)


def _run_chunk(jobs: Sequence[Job], anew: bool) -> list[str]:
    def tell(name: str) -> Callable[..., None]:
        return lambda *arguments: _messages.put((name, arguments))

    reporter = Reporter(*(tell(name) for name in Reporter._fields))
    return loop.run_all(jobs, reporter, anew)
