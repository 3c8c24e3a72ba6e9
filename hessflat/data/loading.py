"""From a name to arrays in memory: find the source, split it, scale it, check it.

    load("mnist", scaling="unit", train_size=45_000, validation_size=5_000)
    load("blobs", {"num_classes": 4, "dimension": 10}, test_size=100)

`DataOptions` are the settings of a configuration's data block; a source has its own.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from hessflat.config import at_least, below, builder_settings, one_of, positive, require
from hessflat.data import cache
from hessflat.data.scaling import SCALINGS, Affine, apply
from hessflat.data.sources import SOURCES, Source, Split
from hessflat.data.splits import ORDERS, cut, split_size, whole_number
from hessflat.utils.errors import InputError, nearest, require_known

TEST_FRACTION = 0.2
SCALED_OVER = ("split", "stored")


class Dataset(NamedTuple):
    """What a run trains, selects and tests on, ready for the device.

    A split is `{"inputs": float32 [n, h, w, c] or [n, d], "labels": int32 [n]}`, or has real targets as labels,
    float32 `[n, num_classes]`; validation may be empty, the other two are not. `checksum` (SHA-256) changes with the
    stored data, the splits and the scaling.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    name: str
    checksum: str
    description: str


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How the examples of a source become inputs and splits.

    A size above 0 takes the place of the fraction. Training and validation examples are cut from the source's training
    split. Test examples are the source's own test split or a piece of it; where it has none they are cut from the same
    examples as the rest. The first k examples of a split are stratified too, unless `order` is "stored".
    """

    scaling: Annotated[str, one_of(SCALINGS), "how pixels become inputs"] = "standardised"
    scaling_over: Annotated[
        str, one_of(SCALED_OVER), "examples that fix the scaling: the training split, or all that it is cut from"
    ] = "split"
    input_scale: Annotated[float, positive, "factor of the inputs after scaling"] = 1.0
    train_size: Annotated[int, whole_number, "training examples; 0 is data.train_fraction"] = 0
    train_fraction: Annotated[float, below(0, 1), "of the examples there are; 0 is all that are left"] = 0.0
    validation_size: Annotated[int, whole_number, "validation examples; 0 is data.validation_fraction"] = 0
    validation_fraction: Annotated[float, below(0, 1), "of the examples there are; 0 is none"] = 0.1
    test_size: Annotated[int, whole_number, "test examples; 0 is data.test_fraction"] = 0
    test_fraction: Annotated[
        float, below(0, 1), "of the test split; 0 is all of it, or a fifth of the examples where there is none"
    ] = 0.0
    order: Annotated[str, one_of(ORDERS), "how examples are chosen; stored: the first ones train"] = "stratified"
    split_seed: Annotated[int, at_least(0), "seed of the split, apart from the seed of training"] = 0


def load(name: str, source_settings: Mapping[str, Any] | None = None, **options: Any) -> Dataset:
    """The data set `name`: a built-in source (`SOURCES`) with its settings, or one prepared into the cache.

    Args:
        name: of a source or a prepared data set.
        source_settings: those of the source.
        **options: the fields of `DataOptions`.

    Raises:
        InputError: an unknown name, a setting out of range, data that is missing, damaged or not finite.
    """
    chosen = DataOptions(**options)
    for key, setting in builder_settings(DataOptions).items():
        require(f"data.{key}", getattr(chosen, key), setting.rule)
    source, source_checksum = _source(name, source_settings or {})
    _check(name, source)

    available = len(source.train["labels"])
    counts = {
        "train": split_size("train", chosen.train_size, chosen.train_fraction, available),
        "validation": split_size("validation", chosen.validation_size, chosen.validation_fraction, available),
    }
    if source.test is None:
        counts["test"] = split_size("test", chosen.test_size, chosen.test_fraction or TEST_FRACTION, available)
    pieces = cut(ORDERS[chosen.order](source.train["labels"], chosen.split_seed), counts, name)
    test_from, test_rows = _test_rows(
        name, source, pieces, chosen.test_size, chosen.test_fraction, chosen.order, chosen.split_seed
    )

    train_inputs = source.train["inputs"][pieces["train"]]
    fixed_on = train_inputs if chosen.scaling_over == "split" else source.train["inputs"]
    affine = SCALINGS[chosen.scaling](fixed_on, source.max_value)
    train = _split(train_inputs, source.train["labels"][pieces["train"]], affine, chosen.input_scale)
    validation, test = (
        _split(part["inputs"][rows], part["labels"][rows], affine, chosen.input_scale)
        for part, rows in ((source.train, pieces["validation"]), (test_from, test_rows))
    )
    checksum = hashlib.sha256(source_checksum.encode())
    for array in (pieces["train"], pieces["validation"], test_rows, *affine):
        # Rows as int64 everywhere, so that the checksum does not depend on the platform's integer.
        array = np.asarray(array, np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        checksum.update(f"{array.shape};".encode() + array.tobytes())
    if chosen.input_scale != 1:
        checksum.update(np.float64(chosen.input_scale).tobytes())
    shape = "x".join(map(str, train["inputs"].shape[1:]))
    outputs = f"{source.num_classes} {'real targets' if train['labels'].ndim > 1 else 'classes'}"
    description = (
        f"{source.description}: {len(train['labels'])} training, {len(validation['labels'])} validation and "
        f"{len(test['labels'])} test examples of {shape}, {outputs}, scaling {chosen.scaling}"
        + (" over all that the split is cut from" if chosen.scaling_over == "stored" else "")
        + (f", times {chosen.input_scale:g}" if chosen.input_scale != 1 else "")
    )
    return Dataset(train, validation, test, source.num_classes, name, checksum.hexdigest(), description)


def _source(name: str, settings: Mapping[str, Any]) -> tuple[Source, str]:
    """The raw arrays of `name` with the checksum of all of them."""
    if name in SOURCES:
        known = builder_settings(SOURCES[name])
        _require_settings(name, settings, known)
        for key, value in settings.items():
            require(f"{name}.{key}", value, known[key].rule)
        source = SOURCES[name](**settings)
        arrays = {f"train_{key}": value for key, value in source.train.items()}
        arrays |= {f"test_{key}": value for key, value in (source.test or {}).items()}
        return source, cache.checksum(arrays)
    path = cache.find(name)
    if path is None:
        names = [*SOURCES, *cache.prepared_names()]
        hint = nearest(name, names)
        known_name = f"{hint.split('? ')[0]}? if not, " if hint.startswith("did you mean") else ""
        raise InputError(f'data set {name!r} is not prepared; {known_name}run: make data DATASETS="{name}"')
    _require_settings(name, settings, {})
    arrays, facts = cache.read(path)
    train, test = (
        {key: arrays[f"{part}_{key}"] for key in ("inputs", "labels")} if f"{part}_inputs" in arrays else None
        for part in ("train", "test")
    )
    assert train is not None
    return Source(train, test, facts["num_classes"], facts["max_value"], facts["description"]), facts["sha256"]


def _require_settings(name: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if settings and not known:
        raise InputError(f"data set {name!r} has no settings of its own, got {', '.join(settings)}; leave them out")
    require_known(f"setting of data set {name!r}", settings, known)


def _check(name: str, source: Source) -> None:
    """Refuse arrays that no run could use: empty, of unlike shapes, not finite, labels out of range."""
    parts = {"train": source.train} | ({"test": source.test} if source.test is not None else {})
    for part, arrays in parts.items():
        inputs, labels = arrays["inputs"], arrays["labels"]
        what = f"data set {name!r}, {part} split:"
        is_real = np.issubdtype(labels.dtype, np.floating)
        expected = (len(inputs), source.num_classes) if is_real else (len(inputs),)
        if labels.shape != expected or inputs.ndim < 2:
            raise InputError(
                f"{what} expected inputs [n, ...] with labels [n], or with real targets [n, {source.num_classes}], "
                f"got {inputs.shape} with {labels.shape} ({labels.dtype}); mend the source"
            )
        if not len(labels):
            raise InputError(f"{what} has no examples; mend the source")
        if inputs.shape[1:] != source.train["inputs"].shape[1:]:
            raise InputError(
                f"{what} expected inputs of shape {source.train['inputs'].shape[1:]} as in train, "
                f"got {inputs.shape[1:]}; mend the source"
            )
        if not is_real and (
            not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= source.num_classes
        ):
            raise InputError(
                f"{what} labels must be integers from 0 to {source.num_classes - 1}, "
                f"got {labels.min()} to {labels.max()} ({labels.dtype}); mend the source"
            )
        for kind, array in (("inputs", inputs), ("real targets", labels)):
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise InputError(
                    f"{what} {kind} must be finite, got {np.count_nonzero(~np.isfinite(array))} values that are "
                    "NaN or infinite; mend the source"
                )


def _test_rows(
    name: str, source: Source, pieces: Mapping[str, np.ndarray], size: int, fraction: float, order: str, seed: int
) -> tuple[Split, np.ndarray]:
    """The arrays that test examples come from, and which of them."""
    if source.test is None:
        return source.train, pieces["test"]
    labels = source.test["labels"]
    count = split_size("test", size, fraction, len(labels)) or len(labels)
    if count > len(labels):
        raise InputError(
            f"data.test_size must be at most {len(labels)}, the test split of {name!r}, got {count}; lower it"
        )
    return source.test, ORDERS[order](labels, seed)[:count]


def _split(inputs: np.ndarray, labels: np.ndarray, affine: Affine, factor: float) -> Split:
    dtype = np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int32
    return {"inputs": apply(affine, inputs, factor), "labels": labels.astype(dtype)}
