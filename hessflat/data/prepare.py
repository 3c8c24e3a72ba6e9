"""Any image-classification data set, or text, of the TFDS catalogue into the cache, once, before runs.

In a Python without TensorFlow, TFDS 4.9

- has the catalogue: builders with versions, features, URLs and the digests of what is behind them;
- downloads, and refuses what has another digest;
- encodes images of Pillow, shuffles examples by a hash of their keys, and writes and reads them as ArrayRecord.

It cannot

- unpack an archive (tar, gzip or zip), nor read the files of MNIST and of CIFAR: it opens them by `tf.io.gfile`;
- encode an image that is an array;
- find originals that are there already under other names than those of its URLs: in folders, unpacked, in CIFAR's form
  for Python;
- prepare any other data set, whose builder reads its files by TensorFlow, too.

So for the data sets of `published.PUBLISHED` a subclass of TFDS's builder reads the published files and hands over
images of Pillow, and TFDS makes of them the data set that it always makes: same version, features, order. Others need
the extra `data`, which brings TensorFlow.
"""

import contextlib
import difflib
import errno
import importlib.util
import io
import logging
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from hessflat.data import cache, texts
from hessflat.data.published import PUBLISHED, Columns, Layout, Published, find, unpack, with_digests
from hessflat.data.sources import SOURCES
from hessflat.utils.errors import InputError

CATALOGUE = "https://www.tensorflow.org/datasets/catalog"
READ_AT_ONCE = 1000

Report = Callable[[str], Any]


def prepare(
    name: str,
    files: Path | None = None,
    folder: Path | None = None,
    published: Mapping[str, Published] = PUBLISHED,
    report: Report = print,
) -> Path | None:
    """Put data set `name` into the cache; the path of its JSON file, None if it needs no preparation.

    With `files` the originals are read from that folder, without a network. A data set that is there and
    intact is left alone. Raises `InputError` in one line for whatever stands in the way.
    """
    folder = folder or cache.folder()
    if name in SOURCES:
        report(f"{name} needs no preparation")
        return None
    path = cache.find(name, folder)
    if path is not None and _intact(path, report):
        report(f"{name} is already prepared: {path.with_suffix('.npz')}")
        return path
    began = time.monotonic()
    stock = _stock_builder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".preparing-") as scratch, _progress() as progress:
            if name in published:
                layouts = published[name].layouts
                builder, originals = _without_tensorflow(stock, name, files, folder, layouts, scratch, progress)
            else:
                builder, originals = _with_tensorflow(stock, name, files, folder, scratch), {}
            arrays, facts = _read_back(builder, name, originals, progress)
        path = cache.write(arrays, facts, folder)
    except OSError as error:
        raise cache.unwritable(error, folder) from error
    splits = " and ".join(f"{count} {split}" for split, count in facts["splits"].items())
    shape = "x".join(map(str, arrays["train_inputs"].shape[1:]))
    seconds = time.monotonic() - began
    kind = "rows" if "train_weights" in arrays else "images"
    report(f"{name}: {splits} {kind} of {shape} in {path.with_suffix('.npz')} ({seconds:.1f} s)")
    return path


def _intact(path: Path, report: Report) -> bool:
    try:
        cache.read(path)
    except InputError as error:
        report(f"{str(error).split(';')[0]}; preparing it again")
        return False
    return True


def _progress() -> Progress:
    """Bars with the time left, on a terminal only, gone when done."""
    console = Console(stderr=True)
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _stock_builder(name: str) -> Any:
    """TFDS's builder class for `name` (`"mnist"`, `"imagenette/160px"`)."""
    import tensorflow_datasets as tfds  # slow to import, and runs never need it

    known = tfds.list_builders(with_community_datasets=False)
    base = name.split("/")[0]
    if base not in known:
        close = difflib.get_close_matches(base, [*known, *SOURCES], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise InputError(f"unknown data set {name!r}; {hint}all names: {CATALOGUE}")
    return tfds.builder_cls(base)


def _without_tensorflow(
    stock: Any,
    name: str,
    files: Path | None,
    folder: Path,
    layouts: tuple[Layout, ...],
    scratch: str,
    progress: Progress,
) -> tuple[Any, Columns]:
    """TFDS's data set made from the published files: its builder, ready to be read, and what the files hold."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    # The network comes last: with nothing to be had, TFDS would try for minutes before it says so.
    urls = {Path(url).name: url for url in stock.url_infos}
    digests = {Path(url).name: of.checksum for url, of in stock.url_infos.items()}
    layouts = tuple(with_digests(layout, digests) for layout in layouts)
    where_from = min(urls.values(), key=len)
    local = None if files is None else find(layouts, files, where_from)
    if local is None:
        _require_reachable(where_from, name)
    originals: Columns = {}

    def split_generators(self: Any, dl_manager: Any) -> dict[str, Iterator]:
        originals.update(local if local is not None else _download(dl_manager, urls, layouts[0]))
        return {split: _examples(of, split, "id" in self.info.features, progress) for split, of in originals.items()}

    if local is not None:
        tfds.disable_progress_bar()  # ours says how long it takes; TFDS's are for downloads
    with registered.skip_registration():
        members = {
            "_split_generators": split_generators,
            "name": stock.name,
            "pkg_dir_path": stock.pkg_dir_path,
        }
        subclass = type(stock.__name__, (stock,), {"__module__": stock.__module__, **members})
    builder = subclass(data_dir=scratch, file_format="array_record")
    # What TFDS prints says "downloading", and names a folder that is gone a moment later.
    with contextlib.redirect_stdout(io.StringIO()) if local is not None else contextlib.nullcontext():
        _run(builder, name, folder, Path(scratch if local is not None else folder) / "downloads", files)
    return builder, originals


def _examples(
    columns: Mapping[str, np.ndarray], split: str, with_id: bool, progress: Progress
) -> Iterator[tuple[int, dict]]:
    """Examples under TFDS's keys, which fix its order; CIFAR has an id."""
    for row in progress.track(range(len(columns["label"])), description=f"writing {split}"):
        image = columns["image"][row]
        example: dict[str, Any] = {key: int(of[row]) for key, of in columns.items() if key != "image"}
        example["image"] = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        if with_id:
            example["id"] = f"{split}_{row:05d}"
        yield row, example


def _download(dl_manager: Any, urls: Mapping[str, str], layout: Layout) -> Columns:
    """The examples through TFDS's downloads, which it checks. Its own unpacking would need TensorFlow."""
    paths = {name: Path(path) for name, path in dl_manager.download(dict(urls)).items()}
    if layout.archive:
        return layout.decode(unpack(paths[layout.archive], layout))
    return layout.decode({name: path.read_bytes() for name, path in paths.items()})


def _with_tensorflow(stock: Any, name: str, files: Path | None, folder: Path, scratch: str) -> Any:
    """A data set made by TFDS's own builder; the builder, ready to be read."""
    import tensorflow_datasets as tfds

    missing = InputError(f"preparing {name!r} needs TensorFlow; run: pip install 'hessflat[data]'")
    try:
        # Where a builder wants TensorFlow already here, TFDS prints a banner before it raises.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder = tfds.builder(name, data_dir=scratch, file_format="array_record")
    except ImportError:
        raise missing from None
    except (ValueError, KeyError) as error:
        raise InputError(f"TFDS knows no {name!r}: {_first_line(error)}; see {CATALOGUE}/{stock.name}") from None
    if not _has_text(builder.info):
        _image_and_label(builder.info, name)
    if importlib.util.find_spec("tensorflow") is None:
        raise missing
    sizes = {path.stat().st_size for path in files.glob("*") if path.is_file()} if files else set()
    if stock.url_infos and not sizes & {info.size for info in stock.url_infos.values()}:
        _require_reachable(next(iter(stock.url_infos)), name)
    _run(builder, name, folder, folder / "downloads", files)
    return builder


def _has_text(info: Any) -> bool:
    """Whether examples are texts, which are read one after the other, as of `tiny_shakespeare`."""
    import tensorflow_datasets as tfds

    return "text" in info.features.keys() and isinstance(info.features["text"], tfds.features.Text)  # noqa: SIM118


def _image_and_label(info: Any, name: str) -> tuple[str, str]:
    """The features that hold the image and its class in TFDS's `info`; refuses what is not classification."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys
    if (
        not isinstance(keys, tuple)
        or len(keys) != 2
        or not isinstance(info.features[keys[0]], tfds.features.Image)
        or not isinstance(info.features[keys[1]], tfds.features.ClassLabel)
    ):
        raise InputError(f"data set {name!r} is not image classification (an image and a class); choose another")
    image = info.features[keys[0]]
    if None in image.shape or np.dtype(image.np_dtype) != np.uint8:
        raise InputError(
            f"data set {name!r} has images of shape {image.shape} and type {np.dtype(image.np_dtype)}; "
            "expected one shape for all and uint8; choose another or one of its configurations"
        )
    return keys


def _run(builder: Any, name: str, folder: Path, downloads: Path, files: Path | None) -> None:
    """TFDS's preparation, with whatever it raises turned into one line."""
    import tensorflow_datasets as tfds

    config = tfds.download.DownloadConfig(manual_dir=files, try_download_gcs=False)
    try:
        builder.download_and_prepare(download_dir=downloads, download_config=config)
    except Exception as error:
        if _disk_is_full(error):
            raise cache.unwritable(OSError(errno.ENOSPC, ""), folder) from error
        remedy = f"check the files in {files}" if files else "give the original files with --from=FOLDER"
        raise InputError(f"TFDS could not prepare {name!r}: {_first_line(error)}; {remedy}") from error


def _read_back(
    builder: Any, name: str, originals: Columns, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of the training split and of the held-out one, with the facts that go beside them.

    Examples are in the order of `originals`, where there are any; else in TFDS's, which shuffles by a hash.
    """
    import tensorflow_datasets as tfds

    info = builder.info
    if "train" not in info.splits:
        raise InputError(f"data set {name!r} has no train split, only {', '.join(info.splits)}; choose another")
    held_out = next((split for split in ("test", "validation") if split in info.splits), None)
    if _has_text(info):
        return _text_read_back(builder, name, held_out, progress)
    image, label = _image_and_label(info, name)
    logging.getLogger("absl").setLevel(logging.ERROR)  # one warning, that OpenCV would be faster
    arrays = {}
    for part, split in (("train", "train"), ("test", held_out)):
        if split is None:
            continue
        columns = _columns(builder.as_data_source(split=split), [image, label], f"reading {split}", progress)
        images, labels = np.stack(columns[image]), np.array(columns[label], np.int32)
        if originals:
            images, labels = _as_published(images, labels, originals[split], name)
        arrays[f"{part}_inputs"], arrays[f"{part}_labels"] = images, labels
        _require_labels(arrays[f"{part}_labels"], info.features[label].num_classes, name, split)
    facts = {
        "name": name,
        "version": str(info.version),
        "description": f"{name} {info.version} of TFDS",
        "num_classes": int(info.features[label].num_classes),
        "max_value": 255.0,
        "splits": {split: len(arrays[f"{part}_labels"]) for part, split in _parts(arrays, held_out)},
        "order": "as published" if originals else "as stored by TFDS",
        "features": {key: repr(feature) for key, feature in info.features.items()},
        "tfds_version": tfds.__version__,
    }
    return arrays, facts


def _text_read_back(
    builder: Any, name: str, held_out: str | None, progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Rows of characters, numbered by those of the training split, with the facts that go beside them."""
    import tensorflow_datasets as tfds

    info, alphabet = builder.info, ""
    arrays: dict[str, np.ndarray] = {}
    for part, split in (("train", "train"), ("test", held_out)):
        if split is None:
            continue
        columns = _columns(builder.as_data_source(split=split), ["text"], f"reading {split}", progress)
        pieces = (text.decode() if isinstance(text, bytes) else str(text) for text in columns["text"])
        text = "\n".join(pieces)
        alphabet = alphabet or "".join(sorted(set(text)))
        rows = texts.rows(text, alphabet)
        counted = rows["weights"].sum(axis=1) > 0
        arrays |= {f"{part}_{key}": array[counted] for key, array in rows.items()}
    facts = {
        "name": name,
        "version": str(info.version),
        "description": f"{name} {info.version} of TFDS, characters",
        "num_classes": len(alphabet) + 1,
        "max_value": None,
        "splits": {split: len(arrays[f"{part}_labels"]) for part, split in _parts(arrays, held_out)},
        "order": "as stored by TFDS",
        "alphabet": alphabet,
        "features": {key: repr(feature) for key, feature in info.features.items()},
        "tfds_version": tfds.__version__,
    }
    return arrays, facts


def _as_published(
    images: np.ndarray, labels: np.ndarray, original: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The examples in the order of the `original` ones, which have to be the same; TFDS shuffles them by a hash."""

    def ordered(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.concatenate([images.reshape(len(images), -1), labels.astype(np.uint8)[:, None]], axis=1)
        return np.sort(np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel())

    if not np.array_equal(ordered(images, labels), ordered(original["image"], original["label"])):
        raise InputError(f"TFDS gave other examples of {name!r} than its files hold; check the version of TFDS")
    return original["image"].reshape(images.shape), original["label"].astype(np.int32)


def _parts(arrays: Mapping[str, np.ndarray], held_out: str | None) -> list[tuple[str, str]]:
    return [("train", "train"), *([("test", held_out)] if held_out is not None else [])]


def _columns(source: Any, keys: list[str], doing: str, progress: Progress) -> dict[str, list]:
    """Columns of a TFDS data source, a thousand records at once: one at a time takes four times as long."""
    columns: dict[str, list] = {key: [] for key in keys}
    for start in progress.track(range(0, len(source), READ_AT_ONCE), description=doing):
        for record in source.__getitems__(list(range(start, min(start + READ_AT_ONCE, len(source))))):
            for key in keys:
                columns[key].append(record[key])
    return columns


def _require_labels(labels: np.ndarray, num_classes: int, name: str, split: str) -> None:
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        came = f"{labels.min()} to {labels.max()}" if len(labels) else "no examples"
        raise InputError(
            f"data set {name!r}, split {split}: labels must be below {num_classes}, got {came}; use another"
        )


def _require_reachable(url: str, name: str) -> None:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answered
    except (OSError, ValueError):
        raise InputError(
            f"cannot reach {url} to prepare {name!r}; download it elsewhere and give it with --from=FOLDER"
        ) from None


def _disk_is_full(error: BaseException | None) -> bool:
    # TFDS's check before it starts says "Not enough disk space", its writer "No space left on device".
    while error is not None:
        said = str(error).lower()
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "disk space" in said or "no space" in said:
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
