"""Finished runs, read back from their folders: data in, no training and no JAX."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hessflat.errors import InputError


class Run(NamedTuple):
    """A run folder in memory. `metrics` holds one object per measured step, in the order of steps."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    metrics: list[dict[str, Any]]

    def setting(self, name: str) -> Any:
        """A setting by its dotted name, e.g. `optim.l2`."""
        value: Any = self.config
        for part in name.split("."):
            value = value[part]
        return value

    def final(self, name: str) -> float:
        """A metric at the last measured step; an InputError says where it is missing."""
        if name not in self.metrics[-1]:
            raise InputError(f"{self.folder}: {name!r} was not measured; measured: {', '.join(self.metrics[-1])}")
        return self.metrics[-1][name]

    def spectrum(self, operator: str, step: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of `spectra/<step>-<operator>.npz` (of the last measured step by default)."""
        step = self.metrics[-1]["step"] if step is None else step
        with np.load(self.folder / "spectra" / f"{step}-{operator}.npz") as arrays:
            return dict(arrays)


def load_run(folder: Path) -> Run:
    """Read a run folder; a missing or broken file is named in one line."""
    try:
        config = json.loads((folder / "config.json").read_text())
        manifest = json.loads((folder / "manifest.json").read_text())
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} is not a readable run folder ({error}); train it again into an empty one") from error
    return Run(folder, config, manifest, metrics)


def by_setting(runs: Sequence[Run], name: str) -> dict[Any, list[Run]]:
    """Runs grouped by a setting, groups in increasing order of it, each ordered by seed."""
    groups: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.setting(name), run.config["seed"])):
        groups.setdefault(run.setting(name), []).append(run)
    return groups
