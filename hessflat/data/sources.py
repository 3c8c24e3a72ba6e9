"""Where raw arrays come from: data that needs no network, and the registry that names it.

A source is a function whose keyword-only arguments are its settings and whose result is a `Source`. Adding
one costs the function and a line in `SOURCES`; other names are looked up in the cache that `data prepare` fills.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np

from hessflat.config import at_least, below, builder_settings, finite, positive, require_settings
from hessflat.data import cache
from hessflat.data import generator as generators
from hessflat.data import grammar as grammars
from hessflat.utils import hardware
from hessflat.utils.errors import InputError, command, nearest
from hessflat.utils.files import checksum

Split = dict[str, np.ndarray]


class Source(NamedTuple):
    """Raw arrays, before any split or scaling.

    `train` and `test` are `{"inputs": [n, h, w, c] or [n, d], "labels": [n]}`, with labels below `num_classes`, or
    real targets `[n, num_classes]`; `test` is None where there is no test split of its own. `max_value` is the largest
    value of a pixel, None where inputs are no pixels. Of tokens, inputs and labels are integers `[n, T]`, and
    "weights" `[n, T]` say how much each label counts.
    """

    train: Split
    test: Split | None
    num_classes: int
    max_value: float | None
    description: str


def digits() -> Source:
    """The 1,797 handwritten digits that ship with scikit-learn: 8x8 pixels from 0 to 16, 10 classes."""
    from sklearn.datasets import load_digits  # slow to import, and only this source needs it

    inputs, labels = load_digits(return_X_y=True)
    images = inputs.reshape(-1, 8, 8, 1).astype(np.uint8)
    return Source({"inputs": images, "labels": labels.astype(np.int32)}, None, 10, 16.0, "digits of scikit-learn")


def blobs(
    *,
    num_classes: Annotated[int, at_least(2), "number of Gaussian blobs"] = 3,
    dimension: Annotated[int, at_least(1), "dimension of an input"] = 2,
    num_examples: Annotated[int, at_least(2), "examples of all classes together"] = 600,
    spread: Annotated[float, positive, "standard deviation of a blob"] = 0.3,
    separation: Annotated[float, at_least(0), "standard deviation of the centres; 0 is one blob"] = 1.0,
    seed: Annotated[int, at_least(0), "seed of the centres and of the noise"] = 0,
) -> Source:
    """An isotropic Gaussian blob per class, float32 `[num_examples, dimension]`; the classes take turns."""
    if num_examples < num_classes:
        raise InputError(
            f"blobs.num_examples must be at least blobs.num_classes = {num_classes}, got {num_examples}; raise it"
        )
    _require_room("blobs", num_examples * (dimension + 1) + num_classes * dimension)
    random = np.random.default_rng(seed)
    centres = blob_centres(random, num_classes, dimension, separation)
    labels = np.arange(num_examples, dtype=np.int32) % num_classes
    inputs = centres[labels] + spread * random.standard_normal((num_examples, dimension))
    train = {"inputs": inputs.astype(np.float32), "labels": labels}
    return Source(train, None, num_classes, None, f"Gaussian blobs of standard deviation {spread:g}")


def blob_centres(random: np.random.Generator, num_classes: int, dimension: int, separation: float) -> np.ndarray:
    """The centres of `blobs`, `[num_classes, dimension]`: the first thing drawn from the generator of its seed."""
    return separation * random.standard_normal((num_classes, dimension))


def sine(
    *,
    num_examples: Annotated[int, at_least(2), "training examples"] = 8,
    frequency: Annotated[float, positive, "f of sin(π f x)"] = 1.0,
    start: Annotated[float, below(-100, 1), "the first x; the last is 1"] = -1.0,
    test_examples: Annotated[int, at_least(1), "test examples"] = 256,
) -> Source:
    """Real targets sin(π f x) at equally spaced x up to 1, float32 `[n, 1]`; tested on a grid of its own."""
    _require_room("sine", 2 * (num_examples + test_examples))

    def at(x: np.ndarray) -> Split:
        inputs = x[:, None].astype(np.float32)
        return {"inputs": inputs, "labels": np.sin(np.pi * frequency * inputs)}

    grid = (np.arange(test_examples) + 0.5) / test_examples * (1 - start) + start
    train, test = at(np.linspace(start, 1, num_examples)), at(grid)
    return Source(train, test, 1, None, f"sin(π {frequency:g} x)")


def scattered(
    *,
    num_examples: Annotated[int, at_least(2), "training examples"] = 8,
    spread: Annotated[float, positive, "standard deviation of the targets"] = 1.0,
    test_examples: Annotated[int, at_least(1), "test examples"] = 512,
    seed: Annotated[int, at_least(0), "seed of the targets"] = 0,
) -> Source:
    """Normal targets at equally spaced x from 0 to 1, float32 `[n, 1]`; tested on the straight lines between them."""
    _require_room("scattered", 2 * (num_examples + test_examples))
    x = np.linspace(0, 1, num_examples)
    targets = spread * np.random.default_rng(seed).standard_normal(num_examples)

    def at(inputs: np.ndarray) -> Split:
        between = np.interp(inputs, x, targets)
        return {"inputs": inputs[:, None].astype(np.float32), "labels": between[:, None].astype(np.float32)}

    test = at((np.arange(test_examples) + 0.5) / test_examples)
    return Source(at(x), test, 1, None, f"{num_examples} points with targets of standard deviation {spread:g}")


def point(
    *,
    x: Annotated[float, finite, "the input"] = 1.0,
    target: Annotated[float, finite, "its real target"] = -1.0,
) -> Source:
    """One example with one input and one real target, float32 `[1, 1]`; tested on the same."""
    split = {"inputs": np.array([[x]], np.float32), "labels": np.array([[target]], np.float32)}
    return Source(split, split, 1, None, f"the point x = {x:g} with target {target:g}")


def generator(
    *,
    latent: Annotated[int, at_least(1), "n, the dimension of the cube that is pushed forward"] = 2,
    dimension: Annotated[int, at_least(1), "d, the dimension of an input"] = 16,
    num_outputs: Annotated[int, at_least(1), "k, the number of real targets"] = 2,
    frequency: Annotated[float, positive, "periods of the targets along a side of the cube"] = 1.0,
    num_examples: Annotated[int, at_least(2), "training examples"] = 256,
    test_examples: Annotated[int, at_least(1), "test examples"] = 1024,
    seed: Annotated[int, at_least(0), "seed of the map, of the targets and of the examples"] = 0,
) -> Source:
    """Inputs F(z), float32 `[n, dimension]`, of z uniform on a cube, F a smooth immersion, with sines as real targets.

    The data of *On progressive sharpening*, theorem 4.4; see `hessflat.data.generator`.
    """
    if dimension < latent:
        raise InputError(f"generator.dimension must be at least generator.latent = {latent}, got {dimension}; raise it")
    examples = (num_examples + test_examples) * (latent + dimension + num_outputs)
    _require_room("generator", examples + dimension**2 + latent * (dimension + num_outputs))
    known = {"latent": latent, "dimension": dimension, "num_outputs": num_outputs, "frequency": frequency, "seed": seed}
    made = generators.draw(known)
    random = np.random.default_rng([seed, 1])

    def of(count: int) -> Split:
        points = random.random((count, latent))
        inputs, labels = generators.push_forward(made, points), generators.targets(made, points)
        return {"inputs": inputs.astype(np.float32), "labels": labels.astype(np.float32)}

    train, test = of(num_examples), of(test_examples)
    return Source(train, test, num_outputs, None, f"a cube of dimension {latent} pushed into {dimension} dimensions")


def grammar(
    *,
    length: Annotated[int, at_least(16), "T, tokens of a row"] = 32,
    num_examples: Annotated[int, at_least(2), "rows to train on"] = 1024,
    test_examples: Annotated[int, at_least(1), "rows to test on"] = 256,
    seed: Annotated[int, at_least(0), "seed of the sentences"] = 0,
) -> Source:
    """Rows of whole sentences of a probabilistic grammar, tokens int32 `[n, length]`; see `hessflat.data.grammar`."""
    _require_room("grammar", 3 * (num_examples + test_examples) * length)
    train, test = (
        grammars.corpus(rows, length, (seed, at))._asdict() for at, rows in enumerate((num_examples, test_examples))
    )
    return Source(train, test, len(grammars.WORDS), None, f"rows of {length} tokens of a grammar")


def _require_room(name: str, numbers: int) -> None:
    """Refuse a source of so many numbers where they do not fit into memory, in double precision and a copy of it."""
    hardware.require_bytes(24 * numbers, f"data set {name!r}", f"lower its sizes, config.data.{name}")


SOURCES: dict[str, Callable[..., Source]] = {
    "digits": digits,
    "blobs": blobs,
    "sine": sine,
    "scattered": scattered,
    "point": point,
    "generator": generator,
    "grammar": grammar,
}


def find_source(name: str, settings: Mapping[str, Any]) -> tuple[Source, str]:
    """The raw arrays of `name`, a source with `settings` or a prepared data set, and the checksum of all of them.

    Raises:
        InputError: an unknown name, a setting out of range, data that is missing, damaged or that no run could use.
    """
    if name in SOURCES:
        known = builder_settings(SOURCES[name])
        _require_none(name, settings, known)
        require_settings(f"data set {name!r}", name, settings, known)
        source = _checked(name, SOURCES[name](**settings))
        arrays = {f"train_{key}": value for key, value in source.train.items()}
        arrays |= {f"test_{key}": value for key, value in (source.test or {}).items()}
        return source, checksum(arrays)
    path = cache.find(name)
    if path is None:
        names = [*SOURCES, *cache.prepared_names()]
        hint = nearest(name, names)
        known_name = f"{hint.split('? ')[0]}? if not, " if hint.startswith("did you mean") else ""
        raise InputError(f"data set {name!r} is not prepared; {known_name}run: {command('data', 'prepare', name)}")
    _require_none(name, settings, {})
    arrays, facts = cache.read(path)
    train, test = (
        {key: arrays[f"{part}_{key}"] for key in ("inputs", "labels", "weights") if f"{part}_{key}" in arrays} or None
        for part in ("train", "test")
    )
    assert train is not None
    source = Source(train, test, facts["num_classes"], facts["max_value"], facts["description"])
    return _checked(name, source), facts["sha256"]


def are_tokens(split: Mapping[str, Any]) -> bool:
    """Whether labels are of tokens: integers `[n, T]`."""
    labels = split["labels"]
    return labels.ndim == 2 and np.issubdtype(labels.dtype, np.integer)


def _require_tokens(what: str, arrays: Mapping[str, np.ndarray], vocabulary: int) -> None:
    """Refuse tokens out of range, and weights that leave a row without any label that counts."""
    inputs, labels, weights = arrays["inputs"], arrays["labels"], arrays.get("weights")
    if weights is None or {inputs.shape, weights.shape} != {labels.shape}:
        came = None if weights is None else weights.shape
        raise InputError(
            f"{what} of tokens must have inputs, labels and weights of one shape [n, T], got {inputs.shape}, "
            f"{labels.shape} and {came}; mend the source"
        )
    if not np.issubdtype(inputs.dtype, np.integer) or (
        inputs.size and not 0 <= inputs.min() <= inputs.max() < vocabulary
    ):
        raise InputError(f"{what} inputs must be integers from 0 to {vocabulary - 1}; mend the source")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (weights.sum(1) > 0).all()):
        raise InputError(f"{what} weights must be finite, at least 0, and not 0 for a whole row; mend the source")


def _require_none(name: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    if settings and not known:
        raise InputError(f"data set {name!r} has no settings of its own, got {', '.join(settings)}; leave them out")


def _checked(name: str, source: Source) -> Source:
    """The source; refuse arrays that no run could use: empty, of unlike shapes, not finite, labels out of range."""
    parts = {"train": source.train} | ({"test": source.test} if source.test is not None else {})
    for part, arrays in parts.items():
        inputs, labels = arrays["inputs"], arrays["labels"]
        what = f"data set {name!r}, {part} split:"
        is_real = np.issubdtype(labels.dtype, np.floating)
        expected = (len(inputs), source.num_classes) if is_real else (len(inputs),)
        if are_tokens(arrays):
            _require_tokens(what, arrays, source.num_classes)
        elif labels.shape != expected or inputs.ndim < 2:
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
    return source
