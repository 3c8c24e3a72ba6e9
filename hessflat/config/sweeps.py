"""Sweeps: lists of settings to change, one entry a run."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hessflat.config.core import Overrides
from hessflat.utils.errors import InputError


def product(*grids: Sequence[Overrides] | Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Every combination: of the values of each setting in a mapping, and of the entries of several sweeps.

    `product({"optim.l2": (0.0, 1e-4), "seed": (0, 1)})` has four entries, the last setting running fastest.
    """
    return [
        {name: value for entry in entries for name, value in entry.items()}
        for entries in itertools.product(*(_entries(grid) for grid in grids))
    ]


def zip_(grid: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """The first values together, then the second ones, and so on; all of one length."""
    lengths = {name: len(values) for name, values in grid.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"zip_ needs value lists of one length, got {lengths}; use product for every combination")
    return [dict(zip(grid, values, strict=True)) for values in zip(*grid.values(), strict=True)]


def chain(*sweeps: Sequence[Overrides]) -> list[Overrides]:
    """One sweep after another."""
    return [entry for sweep in sweeps for entry in sweep]


def drawn_anew(seeds: Sequence[int]) -> list[Overrides]:
    """An entry for each seed, in which the split of the data is drawn anew too."""
    return [{"seed": seed, "data.split_seed": seed} for seed in seeds]


def _entries(grid: Sequence[Overrides] | Mapping[str, Sequence[Any]]) -> Sequence[Overrides]:
    if not isinstance(grid, Mapping):
        return grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
