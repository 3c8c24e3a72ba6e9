"""Checkpoints of any model in a folder: which there are, in the order of their steps, and their arrays as trees.

Formats are told by names: Orbax folders, of a `CheckpointManager` or single ones; safetensors files, also in shards;
NumPy's `.npz` and `.npy`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hessflat.utils.errors import DamagedError, InputError, in_one_line, nearest
from hessflat.utils.files import file_digest

FILES = (".safetensors", ".npz", ".npy")
# What Orbax writes into the folder of a tree.
_ORBAX = ("_METADATA", "manifest.ocdbt", "_sharding")
_UNFINISHED = "orbax-checkpoint-tmp"
_SHARD = re.compile(r"-\d+-of-(\d+)$")
# A number in a name with what belongs to it: 0.93 and 1e-4 are no steps.
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")


class Checkpoint(NamedTuple):
    """A checkpoint by its name in the folder and its step, and the paths that hold it."""

    name: str
    step: int
    paths: tuple[Path, ...]  # several shards, or one file or Orbax folder


class Problem(NamedTuple):
    """What is no checkpoint that can be measured, and why."""

    name: str
    reason: str


def find(folder: Path, item: str = "") -> tuple[list[Checkpoint], list[Problem]]:
    """The checkpoints of a folder in the order of their steps, and what looks like one and cannot be told.

    The step is the last number of a name. `item` names one of several trees or files that a checkpoint holds.

    Raises:
        InputError: no folder, or none with a checkpoint.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; --checkpoints names one that holds checkpoints")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    # Where something in it has a number, that is a step of this folder.
    itself = _paths(folder, item, _is_numbered(folder) and not any(map(_is_numbered, inside)))
    entries = [folder] if itself else inside
    found: dict[int, Checkpoint] = {}
    problems = []
    for entry in entries:
        if _UNFINISHED in entry.name:
            problems.append(Problem(entry.name, "was not written to its end"))
            continue
        try:
            paths = _paths(entry, item, _is_numbered(entry))
        except InputError as error:
            problems.append(Problem(entry.name, str(error)))
            continue
        if not paths:
            continue
        numbers = _NUMBER.findall(_SHARD.sub("", entry.stem if entry.is_file() else entry.name))
        step = int(numbers[-1]) if numbers and numbers[-1].isdecimal() else 0
        if not numbers and entry is not folder:
            problems.append(Problem(entry.name, "has no step in its name, such as step-100; rename it"))
        elif numbers and not numbers[-1].isdecimal():
            problems.append(Problem(entry.name, f"has {numbers[-1]} last in its name, which is no step; rename it"))
        elif step in found:
            problems.append(Problem(entry.name, f"has the step {step} of {found[step].name}; rename one"))
        else:
            found[step] = Checkpoint(entry.name, step, paths)
    if not found and not problems:
        raise InputError(
            f"{folder} holds no checkpoint: Orbax folders, or files that end in {', '.join(FILES)}, with their step in "
            "the name"
        )
    if not found:
        name, reason = problems[0]
        raise InputError(f"{folder} holds no checkpoint with its step in the name; {name}: {reason}")
    return [found[step] for step in sorted(found)], problems


def read(checkpoint: Checkpoint) -> Any:
    """The tree of a checkpoint: nested dictionaries from Orbax, names to arrays from files, one array of `.npy`.

    Raises:
        InputError: the package that reads its format is missing.
        DamagedError: it cannot be read, or some of its shards are missing.
    """
    first, count = checkpoint.paths[0], len(checkpoint.paths)
    if (shard := _SHARD.search(first.stem)) and count != int(shard[1]):
        raise DamagedError(f"{checkpoint.name} has {count} of {int(shard[1])} shards")
    reader = _orbax if first.is_dir() else _READERS[first.suffix]
    try:
        parts = [reader(path) for path in checkpoint.paths]
    except InputError:
        raise
    except Exception as error:  # whatever the reader of a format raises
        raise DamagedError(f"{checkpoint.name} cannot be read ({in_one_line(error)})") from error
    if len(parts) == 1:
        return parts[0]
    merged: dict[str, Any] = {}
    for path, part in zip(checkpoint.paths, parts, strict=True):
        if twice := sorted(merged.keys() & part.keys()):
            raise DamagedError(f"{checkpoint.name} holds {twice[0]} twice, again in {path.name}")
        merged |= part
    return merged


def digest(checkpoint: Checkpoint) -> str:
    """A digest of all bytes of a checkpoint.

    Raises:
        DamagedError: a file cannot be read, as one that was removed since it was found.
    """
    files = [file for path in checkpoint.paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    whole = hashlib.sha256()
    try:
        for file in files:
            if not file.is_dir():
                whole.update(f"{file.name} {file_digest(file)}\n".encode())
    except OSError as error:
        raise DamagedError(f"{checkpoint.name} cannot be read ({in_one_line(error)})") from error
    return whole.hexdigest()


def part(tree: Any, path: str) -> Any:
    """What a tree holds at a path such as `state/params`; the whole of it at an empty one.

    Raises:
        InputError: nothing is there.
    """
    for name in filter(None, path.split("/")):
        if not isinstance(tree, Mapping) or name not in tree:
            known = tree if isinstance(tree, Mapping) else ()
            raise InputError(f"a checkpoint holds nothing at {path!r}; {nearest(name, map(str, known))}")
        tree = tree[name]
    return tree


def nested(tree: Any, separator: str) -> Any:
    """`{"a.b": x}` as `{"a": {"b": x}}`, for names with a separator.

    Raises:
        InputError: a name that is both an array and a group of them.
    """
    if not isinstance(tree, Mapping):
        return tree
    result: dict[str, Any] = {}
    for name, value in tree.items():
        *groups, last = str(name).split(separator)
        at = result
        for group in groups:
            at = at.setdefault(group, {})
            if not isinstance(at, dict):
                raise InputError(f"{name!r} lies in {group!r}, which is an array; take another separator")
        if last in at:
            raise InputError(f"{name!r} is an array and a group of arrays; take another separator")
        at[last] = value
    return result


def like(tree: Any, template: Any) -> Any:
    """The arrays of a tree in the structure of a template; names are paths, with `/` or `.` between their parts.

    Raises:
        InputError: names or shapes that differ, of which the first is named.
    """
    given = {name.replace(".", "/"): leaf for name, leaf in named(tree).items()}
    wanted = {name.replace(".", "/"): leaf for name, leaf in named(template).items()}
    missing, more = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing or more:
        both = [(names, what) for names, what in ((missing, "absent"), (more, "unknown")) if names]
        words = " and ".join(f"{len(names)} {what}, first {names[0]!r}" for names, what in both)
        raise InputError(f"the arrays of a checkpoint must be those of --like: {words}")
    for name, leaf in wanted.items():
        here, there = list(np.shape(given[name])), list(np.shape(leaf))
        if here != there:
            raise InputError(f"{name!r} is {here} in a checkpoint and {there} in --like")
    return jax.tree.unflatten(jax.tree.structure(template), [given[name] for name in wanted])


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, in their order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def shapes(tree: Any) -> dict[str, str]:
    """`float32[64, 100]` by the path of each leaf."""
    return {name: f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}" for name, leaf in named(tree).items()}


def in_short(names: Sequence[str], most: int = 6) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _paths(entry: Path, item: str, is_step: bool) -> tuple[Path, ...]:
    """The paths that hold the checkpoint at an entry of a folder; none where it is no checkpoint.

    With `is_step`, a file of any name in it is the checkpoint.

    Raises:
        InputError: there are several, of which `item` does not name one.
    """
    if not entry.is_dir():
        return (entry,) if entry.suffix in FILES else ()
    if _is_orbax(entry):
        return (entry,)
    children = sorted(path for path in entry.iterdir() if not path.name.startswith("."))
    # A tree among others in a checkpoint is named by a word, a step by a number.
    items = [path for path in children if _is_orbax(path)]
    if items and not any(map(_is_numbered, items)):
        return _chosen(entry, items, item)
    # Files of a step lie in a folder of their own, or as shards in this one.
    files = _files(entry)
    shards = [path for path in files if _SHARD.search(path.stem)]
    if shards and len({(_SHARD.sub("", path.stem), path.suffix) for path in shards}) == 1 and shards == files:
        return tuple(shards)
    return _chosen(entry, files, item) if is_step and files else ()


def _is_numbered(path: Path) -> bool:
    return re.search(r"\d", path.name) is not None


def _files(folder: Path) -> list[Path]:
    """The files of a folder that may hold arrays, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix in FILES and path.name[0] != "." and path.is_file())


def _chosen(entry: Path, several: Sequence[Path], item: str) -> tuple[Path, ...]:
    chosen = [path for path in several if not item or path.stem == item or path.name == item]
    if len(chosen) != 1:
        names = ", ".join(path.name for path in several)
        raise InputError(f"{entry} holds {names}; say --item=... which is to be measured")
    return (chosen[0],)


def _is_orbax(path: Path) -> bool:
    return path.is_dir() and any((path / name).exists() for name in _ORBAX)


def _orbax(path: Path) -> Any:
    import orbax.checkpoint as ocp

    checkpointer = ocp.PyTreeCheckpointer()
    metadata = checkpointer.metadata(path.absolute())
    tree = getattr(metadata, "item_metadata", metadata)
    tree = getattr(tree, "tree", tree)
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return checkpointer.restore(path.absolute(), restore_args=arguments)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return dict(stored)


def _npy(path: Path) -> np.ndarray:
    return np.load(path, allow_pickle=False)


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import flax
    except ImportError as error:
        raise InputError(f"{path.name} needs the package safetensors; run: pip install safetensors") from error
    return dict(flax.load_file(path))


_READERS: dict[str, Callable[[Path], Any]] = {".npz": _npz, ".npy": _npy, ".safetensors": _safetensors}
