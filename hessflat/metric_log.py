"""Metrics of a run as one JSON object a line: appended, flushed to disk, and cut back when a run resumes."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hessflat.files import write_atomically


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line and wait until it is on the disk. Values that are not finite are written as null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    with path.open("a") as file:
        file.write(json.dumps(finite, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[dict[str, Any]]:
    """Every complete line; a last line that a killed process left unfinished is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def truncate(path: Path, last_step: int) -> None:
    """Drop what was logged after `last_step`, the step that a run resumes from."""
    if path.exists():
        kept = [record for record in read(path) if record["step"] <= last_step]
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
