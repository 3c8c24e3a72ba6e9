"""The published data sets that need no TensorFlow, MNIST, its replacements and CIFAR: their shapes and their files.

To add one: an entry in `PUBLISHED`, under its name in TFDS. A `Layout` is one published form of it; CIFAR has two of
equal contents, binary and for Python. Files are looked up by name in a folder, loose or in their archive, and used
only if their digest is the known one.

What TFDS knows by itself stays there: versions, features, URLs and the digests of what is behind them. Its readers of
these files and its unpacking open them by `tf.io.gfile`, so that without TensorFlow they are read here. And it has
neither the digests of the files in an archive, nor CIFAR's form for Python, nor, before a set is prepared, how many
examples it has, which the cost of a run is told from.
"""

import gzip
import hashlib
import itertools
import pickle
import tarfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hessflat.utils.errors import InputError

# A column for each feature, by split: {"train": {"image": [n, h, w, c], "label": [n]}, "test": ...}.
Columns = dict[str, dict[str, np.ndarray]]


# Bytes of the files in an archive, together, twice those of the largest data set, and how many files an archive may
# hold at all: looked at before anything is unpacked.
LARGEST_UNPACKED, MOST_MEMBERS = 400_000_000, 1_000


class Layout(NamedTuple):
    """Which files hold a data set and what `decode` makes of their contents.

    `digests` maps each file's name to its MD5 or SHA-256. In place of an empty one, or of an empty `archive_digest`,
    `with_digests` puts that which TFDS has for what it downloads by this name. A file that is left without one is known
    only by the archive around it, so it is taken from there alone.
    """

    digests: Mapping[str, str]
    decode: Callable[[Mapping[str, bytes]], Columns]
    archive: str = ""
    archive_digest: str = ""


class Published(NamedTuple):
    """A data set of images as published; `num_examples` are those of its training split, `shape` is [h, w, c]."""

    num_examples: int
    shape: tuple[int, int, int]
    num_classes: int
    layouts: tuple[Layout, ...]


def with_digests(layout: Layout, known: Mapping[str, str]) -> Layout:
    """The layout with digests in place of empty ones, where `known` has them by the names of files."""
    digests = {name: digest or known.get(name, "") for name, digest in layout.digests.items()}
    return layout._replace(digests=digests, archive_digest=layout.archive_digest or known.get(layout.archive, ""))


def find(layouts: tuple[Layout, ...], folder: Path, where_from: str) -> Columns:
    """The examples of the first layout whose files are in `folder` or at most two folders below it."""
    if not folder.is_dir():
        raise InputError(f"expected a folder with the original files, got {str(folder)!r}; give one that exists")
    complaints = []
    for layout in layouts:
        for contents, place in _candidates(layout, folder):
            wrong = [name for name, digest in layout.digests.items() if digest and not matches(contents[name], digest)]
            if not wrong:
                return layout.decode(contents)
            complaints.append(f"{wrong[0]} in {place} is not the original file (its checksum differs)")
        complaints += _wrong_archives(layout, folder)
    names = " or ".join(layout.archive or ", ".join(layout.digests) for layout in layouts)
    problem = complaints[0] if complaints else f"found no {names} in {folder}"
    raise InputError(f"{problem}; download again from {where_from}")


def matches(content: bytes, digest: str) -> bool:
    """Whether `digest`, in hexadecimal, is the MD5 or the SHA-256 (its length says which) of `content`."""
    return hashlib.new("md5" if len(digest) == 32 else "sha256", content).hexdigest() == digest


def unpack(archive: Path, layout: Layout) -> dict[str, bytes]:
    """The files of `layout` out of a tar archive, by their names alone; {} if the archive is broken or too large."""
    try:
        with tarfile.open(archive) as tar:
            listed = itertools.islice((member for member in tar if member.isfile()), MOST_MEMBERS + 1)
            members = {Path(member.name).name: member for member in listed}
            if len(members) > MOST_MEMBERS or sum(members[name].size for name in layout.digests) > LARGEST_UNPACKED:
                return {}
            files = {name: tar.extractfile(members[name]) for name in layout.digests}
            return {name: file.read() for name, file in files.items() if file}
    except (tarfile.TarError, KeyError, EOFError, OSError):
        return {}


def idx_images(contents: Mapping[str, bytes]) -> Columns:
    """The four gzipped IDX files of MNIST."""
    parts = {"train": "train", "test": "t10k"}
    return {
        split: {
            "image": _idx(contents[f"{part}-images-idx3-ubyte.gz"])[..., None],
            "label": _idx(contents[f"{part}-labels-idx1-ubyte.gz"]),
        }
        for split, part in parts.items()
    }


def cifar_binary(labels: tuple[str, ...]) -> Callable[[Mapping[str, bytes]], Columns]:
    """Records of one byte per label, then 1,024 red, 1,024 green and 1,024 blue bytes."""

    def records(content: bytes) -> dict[str, np.ndarray]:
        rows = np.frombuffer(content, np.uint8).reshape(-1, len(labels) + 3072)
        columns = {label: rows[:, i] for i, label in enumerate(labels)}
        return {"image": _channels_last(rows[:, len(labels) :]), **columns}

    return lambda contents: _join(contents, records)


def cifar_pickled(labels: Mapping[str, str]) -> Callable[[Mapping[str, bytes]], Columns]:
    """Pickled dictionaries; `labels` maps features to keys. Only for checked files: pickles can run code."""

    def records(content: bytes) -> dict[str, np.ndarray]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the pickles are older than what NumPy now asks of them
            batch = pickle.loads(content, encoding="latin1")
        columns = {label: np.array(batch[key], np.uint8) for label, key in labels.items()}
        return {"image": _channels_last(np.asarray(batch["data"])), **columns}

    return lambda contents: _join(contents, records)


def _candidates(layout: Layout, folder: Path) -> Iterator[tuple[dict[str, bytes], Path]]:
    """Contents of complete sets of files: loose ones first, then those inside archives."""
    for place in _places(folder):
        if all(digest and (place / name).is_file() for name, digest in layout.digests.items()):
            yield {name: (place / name).read_bytes() for name in layout.digests}, place
    for archive in _archives(layout, folder):
        # An archive packed anew is as good as the original where the files inside have their own digests.
        if all(layout.digests.values()) or _archive_matches(archive, layout):
            contents = unpack(archive, layout)
            if contents:
                yield contents, archive


def _wrong_archives(layout: Layout, folder: Path) -> list[str]:
    return [
        f"{archive} is not the original archive (its checksum differs)"
        for archive in _archives(layout, folder)
        if not _archive_matches(archive, layout)
    ]


def _archives(layout: Layout, folder: Path) -> list[Path]:
    paths = [place / layout.archive for place in _places(folder)] if layout.archive else []
    return [path for path in paths if path.is_file()]


def _archive_matches(archive: Path, layout: Layout) -> bool:
    return matches(archive.read_bytes(), layout.archive_digest)


def _places(folder: Path) -> list[Path]:
    below = [path for pattern in ("*/", "*/*/") for path in sorted(folder.glob(pattern)) if path.is_dir()]
    return [folder, *below]


def _idx(content: bytes) -> np.ndarray:
    """An IDX array of bytes: two zeros, type 8, the number of axes, each length in four bytes, the values."""
    data = gzip.decompress(content)
    shape = np.frombuffer(data, ">u4", count=data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(tuple(shape))


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _join(contents: Mapping[str, bytes], records: Callable[[bytes], dict[str, np.ndarray]]) -> Columns:
    """Batches joined in the order of their names, which is their order in the data set."""
    columns: Columns = {}
    for split in ("train", "test"):
        batches = [records(contents[name]) for name in sorted(contents) if name.startswith("test") == (split == "test")]
        columns[split] = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    return columns


_MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST = Published(60_000, (28, 28, 1), 10, (Layout(dict.fromkeys(_MNIST_FILES, ""), idx_images),))

PUBLISHED: Mapping[str, Published] = {
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "kmnist": _MNIST,
    "cifar10": Published(
        50_000,
        (32, 32, 3),
        10,
        (
            Layout(
                {
                    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
                    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
                    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
                    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
                    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
                    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
                },
                cifar_binary(("label",)),
                "cifar-10-binary.tar.gz",
            ),
            Layout(
                {
                    "data_batch_1": "c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "634d18415352ddfa80567beed471001a",
                    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                    "test_batch": "40351d587109b95175f43aff81a1287e",
                },
                cifar_pickled({"label": "labels"}),
                "cifar-10-python.tar.gz",
                "c58f30108f718f92721af3b95e74349a",
            ),
        ),
    ),
    "cifar100": Published(
        50_000,
        (32, 32, 3),
        100,
        (
            Layout(
                {"train.bin": "", "test.bin": ""},
                cifar_binary(("coarse_label", "label")),
                "cifar-100-binary.tar.gz",
            ),
            Layout(
                {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
                cifar_pickled({"label": "fine_labels", "coarse_label": "coarse_labels"}),
                "cifar-100-python.tar.gz",
                "eb9058c3a382ffc7106e4002c42a8d85",
            ),
        ),
    ),
}
