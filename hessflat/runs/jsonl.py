"""Metrics of a run as one JSON object a line: appended, flushed to disk, and cut back when a run resumes."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hessflat.utils.errors import InputError
from hessflat.utils.files import full_disk_named, write_atomically


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line and wait until it is on the disk. Values that are not finite are written as null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    with full_disk_named(path), path.open("a") as file:
        file.write(json.dumps(finite, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete line; a last line that a killed process left unfinished is left out."""
    if not path.exists():
        return []
    records = []
    try:
        for line in path.read_text().split("\n")[:-1]:
            record = json.loads(line)
            record["step"]  # every line says which step it is of
            records.append(record)
    except (ValueError, TypeError, KeyError) as error:
        number = len(records) + 1
        raise InputError(f"{path}, line {number}, is damaged ({error}); move its folder away and run again") from error
    return records


def truncate(path: Path, last_step: int) -> None:
    """Drop what was logged after `last_step`, the step that a run resumes from."""
    if path.exists():
        kept = [record for record in read(path) if record["step"] <= last_step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
