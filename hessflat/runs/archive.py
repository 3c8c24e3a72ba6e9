"""Finished runs in one file for each experiment and scale, `<experiment>-<scale>.tar.xz`.

An archive holds what a report reads: settings, manifest, metrics and arrays of each run, as in its folder. It holds no
checkpoints. Unless all digits are asked for, numbers of metrics have six significant digits, and floating-point arrays
are float32 with 14 bits, which are four digits; what is below 1.2e-38 in them is 0. Whole numbers keep all digits. Any
program that reads tar opens an archive. Its checksum is SHA-256 of all of it, so that manifests have the digests of
single files only when they are unpacked. Equal runs give equal bytes.
"""

import contextlib
import hashlib
import io
import json
import lzma
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hessflat.runs.run_folder import FINISHED, GROWING, read_config, read_manifest, read_whole, with_digest
from hessflat.utils.errors import DamagedError, InputError, command
from hessflat.utils.files import array_bytes, full_disk_named, read_object, write_atomically

ENDING = ".tar.xz"
ARRAYS = ".npz"
# Where the runs and the report were on the machine that made a run is nobody else's command.
_PLACES = re.compile(r" --(?:root|out|workers)=\S+")
_DIGITS = 6  # of metrics
_LAST_BITS = 10  # of float32, which are 0 in arrays
# How LZMA predicts a byte: in arrays by its place among the four of a number, in text by the byte before.
_LZMA = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}
_OF_ARRAYS = [_LZMA | {"lc": 0, "lp": 2, "pb": 2}]
_OF_TEXT = [_LZMA | {"lc": 4, "lp": 0, "pb": 0}]
_DIFFERENCES = [{"id": lzma.FILTER_DELTA, "dist": 4}]


def pack(folders: Sequence[Path], path: Path, all_digits: bool = False) -> None:
    """Write an archive of finished runs, in place of what was there.

    Args:
        folders: of the runs.
        path: of the archive.
        all_digits: whether files are kept as they are, for claims that turn on more digits.

    Raises:
        DamagedError: a file of a run is not as the run left it.
        InputError: a run is not finished, or none is given.
    """
    if not folders:
        raise InputError(f"no runs for {path.name}; an archive holds at least one")
    buffer = io.BytesIO()
    # The order decides how much alike things compress: what is of one kind stands together. Text is last, so that
    # nothing is taken for a run whose arrays were cut off.
    members = sorted((member for folder in folders for member in _members(folder, all_digits)), key=_kind)
    text = 0
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
            text = tar.offset if name.endswith(ARRAYS) else text
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    whole = buffer.getvalue()
    # Sorted numbers, such as eigenvalues, take fewer bytes as differences, and others more.
    arrays = min((_compressed(whole[:text], before + _OF_ARRAYS) for before in ([], _DIFFERENCES)), key=len)
    write_atomically(path, arrays + _compressed(whole[text:], _OF_TEXT))


def _compressed(content: bytes, chain: list[dict[str, int]]) -> bytes:
    return lzma.compress(content, check=lzma.CHECK_SHA256, filters=chain) if content else b""


def _members(folder: Path, all_digits: bool) -> list[tuple[str, bytes]]:
    manifest, _ = read_whole(folder)
    if manifest.get("status") not in FINISHED:
        raise InputError(f"{folder} is not finished but {manifest.get('status')}; run the command that made it again")
    manifest["command"] = _PLACES.sub("", str(manifest.get("command", "")))
    name = "/".join(folder.parts[-2:])
    read = Path.read_bytes if all_digits else _fewer_digits
    own = [(f"{name}/{file}", read(folder / file)) for file in sorted(manifest.pop("digests"))]
    return [(f"{name}/manifest.json", (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()), *own]


def _kind(member: tuple[str, bytes]) -> tuple[bool, str, str]:
    name = member[0]
    file = name.split("/", 2)[2]
    return not name.endswith(ARRAYS), file if "/" not in file else file.partition("-")[2], name


def _fewer_digits(path: Path) -> bytes:
    """What an archive holds of a file whose numbers are rounded."""
    if path.name in GROWING:
        lines = path.read_text().splitlines()
        return "".join(json.dumps(_rounded(json.loads(line))) + "\n" for line in lines).encode()
    if path.suffix == ARRAYS:
        with np.load(path) as arrays:
            return array_bytes({name: narrowed(array) for name, array in arrays.items()})
    return path.read_bytes()


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def narrowed(array: np.ndarray) -> np.ndarray:
    """A float64 or float32 array as float32 whose last ten bits are 0, of the same shape; any other as it is.

    It is rounded to the nearest, by at most 6.2e-5 of each number; below 1.2e-38 it becomes 0. An array of whole
    numbers keeps all of their digits. An array that has a number beyond the range of float32 stays as it is.
    """
    if array.dtype not in (np.float64, np.float32):
        return array
    with np.errstate(over="ignore"):
        single = np.asarray(array, np.float32)
    if (array == np.round(array)).all():
        return single if np.array_equal(single, array) else array
    single = np.where(np.abs(single) < np.finfo(np.float32).tiny, np.float32(0), single)
    half, last = np.uint32(1 << (_LAST_BITS - 1)), np.uint32((1 << _LAST_BITS) - 1)
    kept = np.asarray((single.view(np.uint32) + half) & ~last).view(np.float32)
    return kept if np.array_equal(np.isfinite(kept), np.isfinite(array)) else array


def unpack(path: Path, root: Path) -> list[Path]:
    """Write the runs of an archive below `root`, as `root/<experiment>/<run>`; their folders.

    Raises:
        DamagedError: it is no archive, or not as it was written.
        InputError: one of its runs is there already.
    """
    runs = contents(path)
    if there := [root / name for name in runs if (root / name).exists()]:
        raise InputError(f"{there[0]} is there already; nothing was unpacked: choose another folder")
    for name, files in runs.items():
        folder = root / name
        for own, content in files.items():
            (folder / own).parent.mkdir(parents=True, exist_ok=True)
            (folder / own).write_bytes(content)
        manifest = read_object(folder / "manifest.json")
        if manifest is None:
            raise DamagedError(f"{path} is damaged ({folder.name} has no manifest); take it from the repository again")
        manifest.pop("digest", None)
        digests = {own: hashlib.sha256(held).hexdigest() for own, held in files.items() if own != "manifest.json"}
        (folder / "manifest.json").write_text(with_digest(manifest | {"digests": digests}))
    return [root / name for name in runs]


def contents(path: Path) -> dict[str, dict[str, bytes]]:
    """What each file of an archive holds, by the name of its run, `<experiment>/<run>`, and its own.

    Raises:
        DamagedError: it is no archive, or not as it was written.
    """
    try:
        with lzma.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            return _contents(tar)
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise DamagedError(f"{path} is damaged ({error}); take it from the repository again") from error


def _contents(tar: tarfile.TarFile) -> dict[str, dict[str, bytes]]:
    runs: dict[str, dict[str, bytes]] = {}
    for member in tar:  # in the order in which it was written: to go back is to decompress all anew
        safe = tarfile.data_filter(member, ".")  # no name that leads out of a folder
        content, parts = tar.extractfile(safe), safe.name.split("/", 2)
        if content is None or len(parts) < 3:
            raise tarfile.ReadError(f"{member.name} is no file of a run")
        runs.setdefault("/".join(parts[:2]), {})[parts[2]] = content.read()
    return dict(sorted(runs.items()))


def archives_in(folder: Path) -> list[Path]:
    """The archives in a folder, in the order of their names.

    Raises:
        InputError: there is none.
    """
    paths = sorted(folder.glob(f"*{ENDING}"))
    if not paths:
        raise InputError(f"no archive *{ENDING} in {folder}; {command('archive', f'--out={folder}')} writes them")
    return paths


@contextlib.contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """A folder `runs` with every run of the archives in `folder`, for as long as the context lasts.

    Raises:
        InputError: there is no archive.
        DamagedError: one is damaged.
    """
    paths = archives_in(folder)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "runs"
        for path in paths:
            unpack(path, root)
        yield root


def finished_below(root: Path) -> dict[str, list[Path]]:
    """The finished runs of a folder of runs by the name of their archive, in the order of their names."""
    groups: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/*/manifest.json")):
        folder = path.parent
        if read_manifest(folder).get("status") in FINISHED:
            scale = (read_config(folder) or {}).get("scale")
            groups.setdefault(f"{folder.parent.name}-{scale}{ENDING}", []).append(folder)
    return groups
