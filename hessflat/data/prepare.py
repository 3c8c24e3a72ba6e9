"""Any image-classification data set of the TFDS catalogue into the cache, once, before runs."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from hessflat.data import cache as cache_of
from hessflat.data.catalogue import read_back, stock_builder, with_tensorflow, without_tensorflow
from hessflat.data.published import PUBLISHED, Published
from hessflat.data.sources import SOURCES
from hessflat.utils.errors import InputError

Report = Callable[[str], Any]


def prepare(
    name: str,
    files: Path | None = None,
    cache: Path | None = None,
    published: Mapping[str, Published] = PUBLISHED,
    report: Report = print,
) -> Path | None:
    """Put data set `name` into the cache; the path of its JSON file, None if it needs no preparation.

    With `files` the originals are read from that folder, without a network. A data set that is there and
    intact is left alone. Raises `InputError` in one line for whatever stands in the way.
    """
    cache = cache or cache_of.folder()
    if name in SOURCES:
        report(f"{name} needs no preparation")
        return None
    path = cache_of.find(name, cache)
    if path is not None and _intact(path, report):
        report(f"{name} is already prepared: {path.with_suffix('.npz')}")
        return path
    began = time.monotonic()
    stock = stock_builder(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".preparing-") as scratch, _progress() as progress:
            if name in published:
                builder = without_tensorflow(stock, name, files, cache, published[name].layouts, scratch, progress)
            else:
                builder = with_tensorflow(stock, name, files, cache, scratch)
            arrays, facts = read_back(builder, name, progress)
        path = cache_of.write(arrays, facts, cache)
    except OSError as error:
        raise cache_of.unwritable(error, cache) from error
    splits = " and ".join(f"{count} {split}" for split, count in facts["splits"].items())
    shape = "x".join(map(str, arrays["train_inputs"].shape[1:]))
    seconds = time.monotonic() - began
    report(f"{name}: {splits} images of {shape} in {path.with_suffix('.npz')} ({seconds:.1f} s)")
    return path


def _intact(path: Path, report: Report) -> bool:
    try:
        cache_of.read(path)
    except InputError as error:
        report(f"{str(error).split(';')[0]}; preparing it again")
        return False
    return True


def _progress() -> Progress:
    """Bars with the time left, on a terminal only, gone when done."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
