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


def varied(entries: Sequence[Overrides], changes: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """A sweep with other values of some settings: each entry with every combination of them, each result once."""
    return _each_once(product(entries, changes))


def reseeded(entries: Sequence[Overrides], asked: str) -> list[Overrides]:
    """A sweep with other seeds.

    What has the value of an entry's seed, such as the seed of its split, has the new one. A seed that the sweep lacks
    takes the entries of its last one.

    Args:
        entries: each with a `seed`.
        asked: how many seeds, `"10"`: the first that the sweep has, then those that follow its largest; or which ones,
            `"20,21,22"`.

    Raises:
        InputError: neither, or a seed that is given twice.
    """
    own = list(dict.fromkeys(entry["seed"] for entry in entries))
    parts = [part.strip() for part in asked.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts) or parts == ["0"]:
        raise InputError(f"seeds must be how many, such as 10, or which ones, such as 20,21,22, got {asked!r}")
    counted = [*own, *range(max(own) + 1, max(own) + 1 + int(parts[0]))][: int(parts[0])]
    seeds = counted if len(parts) == 1 else [int(part) for part in parts]

    def of_seed(seed: int) -> list[Overrides]:
        source = seed if seed in own else own[-1]
        return [
            entry | {name: seed for name, value in entry.items() if _is_seed(name) and value == source}
            for entry in entries
            if entry["seed"] == source
        ]

    return _each_once([entry for seed in seeds for entry in of_seed(seed)])


def _is_seed(name: str) -> bool:
    """Whether a setting is a seed: `seed`, `data.split_seed`, `data.blobs.seed`."""
    return name.rpartition(".")[2].rpartition("_")[2] == "seed"


def _each_once(entries: Sequence[Overrides]) -> list[Overrides]:
    first: dict[tuple[tuple[str, Any], ...], Overrides] = {}
    for entry in entries:
        # A list, which may be written for a tuple, has no hash.
        hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
        first.setdefault(tuple(sorted(hashable.items())), entry)
    return list(first.values())


def _entries(grid: Sequence[Overrides] | Mapping[str, Sequence[Any]]) -> Sequence[Overrides]:
    if not isinstance(grid, Mapping):
        return grid
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
