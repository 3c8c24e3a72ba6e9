"""Where numbers go step by step: a file of lines, TensorBoard, Weights & Biases; what each needs is imported by it."""

import importlib
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hessflat.utils.errors import InputError


class Writer(NamedTuple):
    """Where numbers go: `write(step, numbers)`, at steps that never decrease, and `close()` at the end.

    Of `jsonl`, `tensorboard` and `wandb` here, `write` takes scalars of any kind by name, and leaves out those that are
    not finite, and with them a step without any other. After a scan it takes all steps at once: steps [T], and arrays
    [T].
    """

    write: Callable[[Any, Mapping[str, Any]], None]  # `write(step, numbers)`
    close: Callable[[], None]  # `close()`, once


def jsonl(path: str | Path) -> Writer:
    """A line of JSON a step, `{"step": 20, "lambda_max": 3.1, ...}`, after those that the file has.

    Args:
        path: of the file, which is made where it is not there.

    Raises:
        InputError: a path that cannot be written to.
    """
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by the writer)
    except OSError as error:
        raise InputError(f"{path} cannot be written to ({error.strerror}); give the path of a file") from error

    def write(step: int, numbers: Mapping[str, float]) -> None:
        file.write(json.dumps({"step": step, **numbers}) + "\n")
        file.flush()

    return Writer(_of_each_step(write), file.close)


def tensorboard(folder: str | Path) -> Writer:
    """Scalars in `folder`, on the disk after each step.

    Args:
        folder: which is made where it is not there.

    Raises:
        InputError: without tensorboardX.
    """
    _require("TensorBoard", "tensorboardX")
    Path(folder).mkdir(parents=True, exist_ok=True)
    write, close = event_file(Path(folder))
    return Writer(_of_each_step(write), close)


def wandb(run: Any = None, **settings: Any) -> Writer:
    """Scalars of `run`, or of a new run of Weights & Biases with `settings`, such as `project="..."`.

    Args:
        run: what `wandb.init` returned; None begins a new run.
        **settings: of a new run, arguments of `wandb.init`.

    Raises:
        InputError: without wandb, where no run is given.
    """
    if run is None:
        _require("Weights & Biases", "wandb")
        import wandb

        run = wandb.init(**settings)
    return Writer(_of_each_step(lambda step, numbers: run.log(dict(numbers), step=step)), run.finish)


def event_file(folder: Path, hides_from: int = 0) -> Writer:
    """A file of TensorBoard's events, which hides those of older files from a step on.

    Args:
        folder: which is there.
        hides_from: that step.
    """
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import RecordWriter

    # Not its SummaryWriter: a full disk ends the thread that this writes from, and then it waits for ever. The time
    # sorts the files of a run that is continued; TensorBoard reads them in the order of their names.
    file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))

    def add(**content: Any) -> None:
        file.write(event_pb2.Event(wall_time=time.time(), **content).SerializeToString())

    def write(step: int, numbers: Mapping[str, float]) -> None:
        values = [summary_pb2.Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        add(step=step, summary=summary_pb2.Summary(value=values))
        file.flush()

    add(file_version="brain.Event:2")
    add(step=hides_from, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))
    return Writer(write, file.close)


def _of_each_step(write: Callable[[int, Mapping[str, float]], None]) -> Callable[[Any, Mapping[str, Any]], None]:
    """`write` for scalars of any kind, of one step or of several."""

    def write_all(steps: Any, numbers: Mapping[str, Any]) -> None:
        columns = {name: np.atleast_1d(np.asarray(values, np.float64)) for name, values in numbers.items()}
        for row, step in enumerate(np.atleast_1d(np.asarray(steps))):
            finite = {name: float(column[row]) for name, column in columns.items() if math.isfinite(column[row])}
            if finite:
                write(int(step), finite)

    return write_all


def _require(what: str, module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{what} needs {module}, which cannot be imported; run: pip install {module}") from error
