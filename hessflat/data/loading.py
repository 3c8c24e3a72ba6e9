"""From a name to arrays in memory: find the source, split it, scale it.

    load("mnist", scaling="unit", train_size=45_000, validation_size=5_000)
    load("blobs", {"num_classes": 4, "dimension": 10}, test_size=100)

`DataOptions` are the settings of a configuration's data block; a source has its own.

Splits are a function of (labels, sizes, seed) alone. One order of all examples is drawn; the training split is a piece
from its front, validation and test are from its end. So a smaller training split is part of a larger one, and its size
leaves the other two as they were.

A scaling is `(x - shift) / scale`, fixed on training examples. Label noise redraws labels of all splits, so that it is
no difference between them.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np

from hessflat.config import Rule, at_least, below, between, builder_settings, one_of, positive, require, single
from hessflat.data.sources import Source, Split, are_tokens, find_source
from hessflat.utils import processes
from hessflat.utils.errors import InputError

whole_number = Rule(lambda value: isinstance(value, int) and value >= 0, "a whole number of examples, 0 or more")


def stratified(labels: np.ndarray, seed: int) -> np.ndarray:
    """A permutation `[n]` of the examples; every piece of it holds each class in its share, to within two.

    Example r of the n_c of a class (in random order) is placed at (r + 1/2) / n_c; ties are broken at random. Real
    targets are all of one class, and so are rows of tokens.
    """
    random = np.random.default_rng(seed)
    has_classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
    classes = labels if has_classes else np.zeros(len(labels), np.int32)
    place = np.empty(len(labels))
    by_class = np.argsort(classes, kind="stable")
    for members in np.split(by_class, np.flatnonzero(np.diff(classes[by_class])) + 1):
        place[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((random.random(len(labels)), place))


def stored(labels: np.ndarray, seed: int) -> np.ndarray:
    """The data set's own order, so that a paper's "first 5,000 examples" can be had; the seed is not used."""
    return np.arange(len(labels))


ORDERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {"stratified": stratified, "stored": stored}


def split_size(split: str, size: int, fraction: float, available: int) -> int:
    """Examples of a split: `size` where it is above 0, else a `fraction` of the `available` ones."""
    count = size or round(fraction * available)
    if fraction > 0 and count == 0:
        raise InputError(
            f"data.{split}_fraction = {fraction:g} of {available} examples leaves an empty split; "
            "raise it or set it to 0"
        )
    return count


def cut(order: np.ndarray, counts: dict[str, int], name: str) -> dict[str, np.ndarray]:
    """Disjoint pieces of `order`: `train` from its front (0: all that is left), the others from its end.

    `counts` maps `train` and then the names of the other pieces to numbers of examples.
    """
    total = sum(counts.values())
    others = total - counts["train"]
    if total > len(order) or others >= len(order):
        asked = " + ".join(f"{count} for {piece}" for piece, count in counts.items() if count)
        problem = "which leaves none to train on" if others >= len(order) else f"{total} together"
        raise InputError(
            f"data set {name!r} has {len(order)} examples to split, got {asked}, {problem}; lower one of them"
        )
    pieces = {"train": order[: counts["train"] or len(order) - others]}
    start = len(order) - others
    for piece, count in counts.items():
        if piece != "train":
            pieces[piece] = order[start : start + count]
            start += count
    return pieces


def noisy(labels: np.ndarray, share: float, num_classes: int, seed: Sequence[int]) -> np.ndarray:
    """Labels `[n]`, each with probability `share` drawn anew from all classes, its own among them.

    The noise of *Flatness is a False Friend*, §3: targets that are wrong and stay so. With a seed, the labels that are
    drawn anew at one share are among those at a larger one, and are drawn alike.
    """
    random = np.random.default_rng(seed)
    is_drawn = random.random(len(labels)) < share
    return np.where(is_drawn, random.integers(num_classes, size=len(labels)), labels).astype(labels.dtype)


BLOCK = 256  # examples that are summed at once
Affine = tuple[np.ndarray | np.float32, np.ndarray | np.float32]


@dataclass(frozen=True)
class Rows:
    """Examples of a stored array, in any order, that are read where they are asked for: `rows[a:b]`.

    With an affine map and a factor they are scaled, as `apply` has it. So each of several processes reads the examples
    of its own devices.
    """

    stored: np.ndarray  # [N, ...]
    positions: np.ndarray  # [n]
    affine: Affine | None = None
    factor: float = 1.0
    kind: type | None = None  # of numbers, where nothing is scaled; None is as stored

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.positions), *self.stored.shape[1:])

    @property
    def ndim(self) -> int:
        return self.stored.ndim

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float32) if self.affine is not None else np.dtype(self.kind or self.stored.dtype)

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *others = index if isinstance(index, tuple) else (index,)
        taken = self.stored[self.positions[first]]
        given = taken.astype(self.dtype, copy=False) if self.affine is None else apply(self.affine, taken, self.factor)
        return given[:, *others]


Examples = Rows | np.ndarray


def raw(train: Examples, max_value: float | None) -> Affine:
    """As stored, in float32."""
    return np.float32(0), np.float32(1)


def unit(train: Examples, max_value: float | None) -> Affine:
    """Pixels to [0, 1]."""
    return np.float32(0), np.float32(_known("unit", max_value))


def symmetric(train: Examples, max_value: float | None) -> Affine:
    """Pixels to [-1, 1]."""
    half = np.float32(_known("symmetric", max_value) / 2)
    return half, half


def standardised(train: Examples, max_value: float | None) -> Affine:
    """Mean 0 and variance 1 in each channel (last axis) over the training examples."""
    return _moments(train, tuple(range(train.ndim - 1)), train.shape[1:])


def pixelwise(train: Examples, max_value: float | None) -> Affine:
    """Mean 0, variance 1 in each component over the training examples; components that never vary become 0."""
    return _moments(train, (0,), train.shape[1:])


def overall(train: Examples, max_value: float | None) -> Affine:
    """Mean 0, variance 1 over all components of the training examples together."""
    return _moments(train, (0, 1), (-1, 1))


SCALINGS: dict[str, Callable[[Examples, float | None], Affine]] = {
    "raw": raw,
    "unit": unit,
    "symmetric": symmetric,
    "standardised": standardised,
    "pixelwise": pixelwise,
    "overall": overall,
}


def apply(affine: Affine, inputs: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """`(inputs - shift) / scale * factor` in float32, with one copy of the inputs and no temporary of their size."""
    # In the shape of an example, because NumPy is slow at repeating something as short as three channels.
    shift, scale = (np.broadcast_to(part, inputs.shape[1:]).copy() for part in affine)
    scaled = inputs.astype(np.float32)
    scaled -= shift
    scaled /= scale
    if factor != 1:
        scaled *= np.float32(factor)
    return scaled


def _known(name: str, max_value: float | None) -> float:
    if max_value is None:
        raise InputError(
            f"data.scaling={name!r} needs pixels with a known maximum and these inputs are not pixels; "
            "use 'standardised', 'pixelwise' or 'raw'"
        )
    return max_value


def _moments(train: Examples, axes: tuple[int, ...], shape: tuple[int, ...]) -> Affine:
    """Mean and standard deviation over `axes` of examples of `shape`, the first axis is theirs; 1 where it is 0.

    Sums are taken in float64, of differences from the first example: a component that never varies then has a
    deviation of exactly 0. Blocks keep the float64 copies small.
    """
    origin = train[:1].astype(np.float64).reshape(shape)
    total, total_of_squares = np.zeros_like(origin), np.zeros_like(origin)
    for start in range(0, len(train), BLOCK):
        difference = train[start : start + BLOCK].reshape(-1, *origin.shape) - origin
        total += difference.sum(0)
        total_of_squares += np.square(difference, out=difference).sum(0)
    mean = total / len(train)
    variance = np.maximum(total_of_squares / len(train) - np.square(mean), 0.0)
    # Over pixels: the mean variance of a pixel plus the variance of the pixels' means.
    pixels = tuple(axis - 1 for axis in axes[1:])
    mean += origin
    variance = variance.mean(pixels) + mean.var(pixels)
    return mean.mean(pixels).astype(np.float32), np.sqrt(np.where(variance > 0, variance, 1.0)).astype(np.float32)


TEST_FRACTION = 0.2
SCALED_OVER = ("split", "stored")


class Dataset(NamedTuple):
    """What a run trains, selects and tests on, ready for the device.

    A split is `{"inputs": float32 [n, h, w, c] or [n, d], "labels": int32 [n]}`, or has real targets as labels,
    float32 `[n, num_classes]`; validation may be empty, the other two are not. Of tokens it is
    `{"inputs": int32 [n, T], "labels": int32 [n, T], "weights": float32 [n, T]}`. `checksum` (SHA-256) changes with the
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
    input_scale: Annotated[float, single(positive), "factor of the inputs after scaling"] = 1.0
    train_size: Annotated[int, whole_number, "training examples; 0: data.train_fraction decides"] = 0
    train_fraction: Annotated[float, below(0, 1), "share of the examples to train on; 0: all that are left"] = 0.0
    validation_size: Annotated[int, whole_number, "validation examples; 0: data.validation_fraction decides"] = 0
    validation_fraction: Annotated[float, below(0, 1), "share of the examples for validation; 0: none"] = 0.1
    test_size: Annotated[int, whole_number, "test examples; 0: data.test_fraction decides"] = 0
    test_fraction: Annotated[
        float, below(0, 1), "share of the test split; 0: all of it, or a fifth of the examples where there is none"
    ] = 0.0
    order: Annotated[str, one_of(ORDERS), "how examples are chosen; stored: the first ones train"] = "stratified"
    split_seed: Annotated[int, at_least(0), "seed of the split, apart from the seed of training"] = 0
    label_noise: Annotated[float, between(0, 1), "share of the labels of every split that are drawn anew"] = 0.0


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
    source, source_checksum = find_source(name, source_settings or {})
    if are_tokens(source.train):
        _require_for_tokens(name, chosen)

    available = len(source.train["labels"])
    counts = {
        "train": split_size("train", chosen.train_size, chosen.train_fraction, available),
        "validation": split_size("validation", chosen.validation_size, chosen.validation_fraction, available),
    }
    if source.test is None:
        counts["test"] = split_size("test", chosen.test_size, chosen.test_fraction or TEST_FRACTION, available)
    pieces = cut(ORDERS[chosen.order](source.train["labels"], chosen.split_seed), counts, name)
    test_rows = _test_rows(
        name, source, pieces, chosen.test_size, chosen.test_fraction, chosen.order, chosen.split_seed
    )
    # Labels are drawn anew after the split, which is stratified by the right ones.
    source = _with_noise(name, source, chosen) if chosen.label_noise else source

    fixed_on = pieces["train"] if chosen.scaling_over == "split" else np.arange(available)
    affine = SCALINGS[chosen.scaling](Rows(source.train["inputs"], fixed_on), source.max_value)
    train, validation, test = (
        _split(part, rows, affine, chosen.input_scale)
        for part, rows in (
            (source.train, pieces["train"]),
            (source.train, pieces["validation"]),
            (source.test or source.train, test_rows),
        )
    )
    checksum = hashlib.sha256(source_checksum.encode())
    for array in (pieces["train"], pieces["validation"], test_rows, *affine):
        # Rows as int64 everywhere, so that the checksum does not depend on the platform's integer.
        array = np.asarray(array, np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32)
        checksum.update(f"{array.shape};".encode() + array.tobytes())
    if chosen.input_scale != 1:
        checksum.update(np.float64(chosen.input_scale).tobytes())
    if chosen.label_noise:
        for split in (train, validation, test):
            checksum.update(split["labels"].tobytes())
    shape = "x".join(map(str, train["inputs"].shape[1:]))
    is_real = np.issubdtype(train["labels"].dtype, np.floating)
    outputs = f"{source.num_classes} {'real targets' if is_real else 'tokens' if are_tokens(train) else 'classes'}"
    description = (
        f"{source.description}: {len(train['labels'])} training, {len(validation['labels'])} validation and "
        f"{len(test['labels'])} test examples of {shape}, {outputs}, scaling {chosen.scaling}"
        + (" over all that the split is cut from" if chosen.scaling_over == "stored" else "")
        + (f", times {chosen.input_scale:g}" if chosen.input_scale != 1 else "")
        + (f", {chosen.label_noise:.0%} of the labels drawn anew" if chosen.label_noise else "")
    )
    return Dataset(train, validation, test, source.num_classes, name, checksum.hexdigest(), description)


def _with_noise(name: str, source: Source, chosen: DataOptions) -> Source:
    """The source with `data.label_noise` in its splits."""
    if np.issubdtype(source.train["labels"].dtype, np.floating):
        raise InputError(f"data.label_noise is for classes, and {name!r} has real targets; set it to 0")

    def redrawn(part: Split, at: int) -> Split:
        seed = (chosen.split_seed, at)
        return part | {"labels": noisy(part["labels"], chosen.label_noise, source.num_classes, seed)}

    test = None if source.test is None else redrawn(source.test, 2)
    return source._replace(train=redrawn(source.train, 1), test=test)


def _test_rows(
    name: str, source: Source, pieces: Mapping[str, np.ndarray], size: int, fraction: float, order: str, seed: int
) -> np.ndarray:
    """Which examples are for testing: of the test split, or of the training split where there is none."""
    if source.test is None:
        return pieces["test"]
    labels = source.test["labels"]
    count = split_size("test", size, fraction, len(labels)) or len(labels)
    if count > len(labels):
        raise InputError(
            f"data.test_size must be at most {len(labels)}, the test split of {name!r}, got {count}; lower it"
        )
    return np.arange(count) if count == len(labels) else ORDERS[order](labels, seed)[:count]


def _split(part: Split, rows: np.ndarray, affine: Affine, factor: float) -> Split:
    """These examples of a stored split; where there are several processes, inputs are read by those that need them."""
    labels = part["labels"][rows]
    have_tokens = are_tokens(part)
    inputs = Rows(part["inputs"], rows, kind=np.int32) if have_tokens else Rows(part["inputs"], rows, affine, factor)
    dtype = np.float32 if np.issubdtype(labels.dtype, np.floating) else np.int32
    split = {"inputs": inputs if processes.are_several() else inputs[:], "labels": labels.astype(dtype)}
    return split | ({"weights": part["weights"][rows].astype(np.float32)} if have_tokens else {})


def _require_for_tokens(name: str, chosen: DataOptions) -> None:
    """Refuse what would make other numbers of tokens, which are names."""
    wanted = {"scaling": "raw", "input_scale": 1.0, "label_noise": 0.0}
    for key, value in wanted.items():
        if getattr(chosen, key) != value:
            raise InputError(
                f"data.{key} must be {value!r} for tokens, which {name!r} has, got {getattr(chosen, key)!r}"
            )
