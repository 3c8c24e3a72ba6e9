"""Metric writers: where the numbers of a run go besides `metrics.jsonl` and `eval.jsonl`, which stay the record.

A writer is given each number of a line under the line's name, those of `eval.jsonl` with `eval.` before it. Numbers
that are not finite, texts and lists are in the files alone. A writer that raises is left out for the rest of the run,
in one line, and the run goes on. A run that is continued goes on in the same place.

To add one: a function `(folder, settings, start) -> Writer` and its entry in `WRITERS`, below it.
"""

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hessflat.config import listed
from hessflat.utils.errors import InputError, in_one_line
from hessflat.utils.logs import Writer, event_file


class Registered(NamedTuple):
    """A writer and the module that it imports, which the extra of the writer's name installs; "" where it needs none.

    `open(folder, settings, start)` takes the run's folder, its settings, nested, and the step that it goes on from,
    None at its beginning. What was written of later steps by an earlier process is written again.
    """

    open: Callable[[Path, Mapping[str, Any], int | None], Writer]
    module: str = ""


Mirror = Callable[[Mapping[str, Any], str], None]  # takes a line and what stands before its names


def tensorboard(folder: Path, settings: Mapping[str, Any], start: int | None) -> Writer:
    """Scalars in `folder/tensorboard/`, on the disk after each line; what is written again hides what was there."""
    (folder / "tensorboard").mkdir(exist_ok=True)
    return event_file(folder / "tensorboard", 0 if start is None else start + 1)


def wandb(folder: Path, settings: Mapping[str, Any], start: int | None) -> Writer:
    """A run of Weights & Biases whose id is the folder's name, in the group of its experiment.

    Its project is `$WANDB_PROJECT`, or hessflat. W&B passes over what is written again; a run gives the same numbers.
    """
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or "hessflat",
        group=settings["experiment"],
        id=folder.name,
        name=folder.name,
        config=dict(settings),
        dir=str(folder),
        resume="allow",
        reinit="create_new",  # runs that train together are open side by side
        settings=wandb.Settings(console="off"),
    )
    return Writer(lambda step, numbers: run.log(dict(numbers), step=step), run.finish)


WRITERS: Mapping[str, Registered] = {
    "tensorboard": Registered(tensorboard, "tensorboardX"),
    "wandb": Registered(wandb, "wandb"),
}


def require_installed(names: str) -> None:
    """Refuse a writer whose module cannot be imported; `names` are known ones, with commas between."""
    for name in listed(names):
        module = WRITERS[name].module
        try:
            if module:
                importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"config.writers: {name!r} needs {module}, which cannot be imported ({error}); "
                f"run: pip install 'hessflat[{name}]', or leave it out"
            ) from error


@contextlib.contextmanager
def opened(
    names: str, folder: Path, settings: Mapping[str, Any], start: int | None, note: Callable[[str], None]
) -> Iterator[Mirror]:
    """A function that gives the numbers of a line to every writer in `names`; `note` takes a line on one that fails."""
    writers: dict[str, Writer] = {}

    def attempt(name: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # a writer raises whatever its package raises
            note(f"{folder.name}: writer {name!r} failed ({in_one_line(error)}); the run goes on without it")
            if name in writers:
                with contextlib.suppress(Exception):
                    writers.pop(name).close()

    def mirror(line: Mapping[str, Any], before: str) -> None:
        numbers = {
            before + key: value
            for key, value in line.items()
            if key != "step" and isinstance(value, int | float) and math.isfinite(value)
        }
        for name, writer in list(writers.items()):
            attempt(name, partial(writer.write, line["step"], numbers))

    for name in listed(names):
        if writer := attempt(name, partial(WRITERS[name].open, folder, settings, start)):
            writers[name] = writer
    try:
        yield mirror
    finally:
        for name in list(writers):
            attempt(name, writers.pop(name).close)
