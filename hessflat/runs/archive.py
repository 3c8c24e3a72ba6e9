"""Finished runs in one file for each experiment and scale, `<experiment>-<scale>.tar.xz`.

An archive holds what a report reads: settings, manifest, metrics and arrays of each run, as in its folder. It holds no
checkpoints. Any program that reads tar opens it. Equal runs give equal bytes.
"""

import contextlib
import io
import lzma
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hessflat.runs.run_folder import FINISHED, GROWING, read_config, read_manifest, read_whole, with_digest
from hessflat.utils.errors import DamagedError, InputError
from hessflat.utils.files import full_disk_named, write_atomically

ENDING = ".tar.xz"
# Where the runs and the report were on the machine that made a run is nobody else's command.
_PLACES = re.compile(r" --(?:root|out|workers)=\S+")


def pack(folders: Sequence[Path], path: Path) -> None:
    """Write an archive of finished runs, in place of what was there.

    Raises:
        DamagedError: a file of a run is not as the run left it.
        InputError: a run is not finished, or none is given.
    """
    if not folders:
        raise InputError(f"no runs for {path.name}; an archive holds at least one")
    buffer = io.BytesIO()
    # The order decides how much alike things compress: what is of one kind stands together.
    members = sorted((member for folder in folders for member in _members(folder)), key=_kind)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    packed = lzma.compress(buffer.getvalue(), check=lzma.CHECK_SHA256, preset=9 | lzma.PRESET_EXTREME)
    with full_disk_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, packed)


def _members(folder: Path) -> list[tuple[str, bytes]]:
    manifest, _ = read_whole(folder)
    if manifest.get("status") not in FINISHED:
        raise InputError(f"{folder} is not finished but {manifest.get('status')}; the command that made it goes on")
    manifest["command"] = _PLACES.sub("", str(manifest.get("command", "")))
    name = "/".join(folder.parts[-2:])
    own = [(f"{name}/{file}", (folder / file).read_bytes()) for file in sorted(manifest["digests"])]
    return [(f"{name}/manifest.json", with_digest(manifest).encode()), *own]


def _kind(member: tuple[str, bytes]) -> tuple[str, str]:
    file = member[0].split("/", 2)[2]
    return file if file in (*GROWING, "config.json", "manifest.json") else file.partition("-")[2], member[0]


def unpack(path: Path, root: Path) -> list[Path]:
    """Write the runs of an archive below `root`, as `root/<experiment>/<run>`; their folders.

    Raises:
        DamagedError: it is no archive, or not as it was written.
    """
    try:
        with lzma.open(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            names = tar.getnames()
            tar.extractall(root, filter="data")
    except (lzma.LZMAError, tarfile.TarError, EOFError) as error:
        raise DamagedError(f"{path} is damaged ({error}); take it from the repository again") from error
    return [root / name for name in dict.fromkeys("/".join(name.split("/")[:2]) for name in names)]


@contextlib.contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """A folder `runs` with every run of the archives in `folder`, for as long as the context lasts.

    Raises:
        InputError: there is no archive.
        DamagedError: one is damaged.
    """
    paths = sorted(folder.glob(f"*{ENDING}"))
    if not paths:
        raise InputError(f"no archive *{ENDING} in {folder}; make archive ARGS=--out={folder} writes them")
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
