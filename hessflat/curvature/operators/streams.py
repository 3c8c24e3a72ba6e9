"""Data that come batch by batch, as from a data loader, and are read anew for every product.

One thread loads the next batch and puts it on the device while the product of the present one runs. Every pass is
compared with the first, batch by batch, by a checksum of the bytes: a mean over other examples in every product would
be the curvature of nothing.
"""

import contextlib
import dataclasses
import inspect
import zlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.curvature import leaves as given
from hessflat.curvature import numerics, trees
from hessflat.curvature.operators.terms import Batches
from hessflat.curvature.operators.weights import Weighted
from hessflat.utils import compat
from hessflat.utils.errors import InputError, nearest

_ONCE = "a generator can be read once; give a list, a data loader, or a function that returns an iterator"
_SAME = "give the same examples in the same order in every pass: shuffle=False, and no random augmentation"


class FirstPass(NamedTuple):
    """What the first pass over a stream found, and every other has to find again."""

    sizes: tuple[int, ...]  # examples of each batch
    checksums: tuple[int, ...]  # of the bytes of each batch
    unordered: int  # a checksum of all examples that does not depend on their order
    shapes: Any  # the first batch, as shapes and types
    total_weight: float  # of all examples; nan where there are no weights


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Batches that are read anew for every product, for data that do not fit into memory.

    The curvature is that of the mean over all examples of all batches, as with `Batches`. Batches may differ in size,
    and programs are compiled once for each shape. Making a stream reads all batches once, to count and to identify
    them. Products, and all that is made of them, read them once each, with the next batch loaded by a thread while one
    is computed with; three batches are in memory at most. Recurrences run from Python, and nothing is linearised.

    A pass that gives other batches than the first ends with an error that says how they differ.

    Args:
        batches: a list, a data loader (of PyTorch, grain, tf.data), or a function that returns an iterator. A batch is
            a pytree of arrays [n, ...], such as a dict, a tuple or one array; tensors of other libraries become arrays.
        weights: the name of an array of every batch, as in `Batches`; the mean is over its sum over all batches.
        statistics_batch: the number of consecutive examples of a batch that share batch-norm statistics, as in
            `Batches`; the size of every batch but the last must be a multiple of it.

    Raises:
        InputError: no batches, or none in a second pass; batches that are no arrays with one leading axis, or of
            different structures; weights that no mean can be taken by.
    """

    batches: Any
    weights: str | None = None
    statistics_batch: int | None = None
    first: FirstPass = dataclasses.field(default=None, repr=False)  # type: ignore[assignment]
    dtype: Any = None  # of floating arrays; None leaves them as they come
    x64: bool = False  # whether arrays come in 64 bits
    in_memory: ClassVar[bool] = False
    devices: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.first is not None:
            return
        if self.statistics_batch is not None:
            object.__setattr__(
                self, "statistics_batch", numerics.require_count("statistics_batch", self.statistics_batch)
            )
        object.__setattr__(self, "x64", bool(compat.setting("jax_enable_x64")))
        object.__setattr__(self, "first", _survey(self))
        self._require_statistics()
        with self.parts() as parts:  # names a generator that is exhausted, and most that shuffle
            next(parts)

    def __repr__(self) -> str:
        return f"Stream({len(self.first.sizes)} batches, {self.num_examples} examples)"

    def _require_statistics(self) -> None:
        step = self.statistics_batch or 1
        odd = [size for size in self.first.sizes[:-1] if size % step]
        if odd:
            raise InputError(
                f"every batch of a stream but the last must hold a multiple of statistics_batch, {step}, got {odd[0]}"
            )

    @property
    def num_examples(self) -> int:
        """N."""
        return sum(self.first.sizes)

    @property
    def size(self) -> int:
        """The number of examples in the largest batch."""
        return max(self.first.sizes)

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """Start and size of every batch."""
        ends = np.cumsum(self.first.sizes).tolist()
        return [(end - size, size) for end, size in zip(ends, self.first.sizes, strict=True)]

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells this stream from others, its contents too."""
        return self.first.sizes, self.first.checksums, self.weights, self.statistics_batch, str(self.dtype)

    @property
    def like(self) -> Batches:
        """The first batch, as shapes and types."""
        shapes = self.first.shapes
        if self.dtype is not None:
            shapes = jax.tree.map(self._cast_shape, shapes)
        if self.weights is not None:
            weights = _named(shapes, self.weights)
            wide = jax.ShapeDtypeStruct(weights.shape, jnp.promote_types(weights.dtype, jnp.float32))
            shapes = Weighted(shapes, wide)  # type: ignore[arg-type]
        return Batches(shapes, statistics_batch=self.statistics_batch)

    def _cast_shape(self, x: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, self.dtype if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)

    def astype(self, dtype: Any) -> "Stream":
        """The same stream with floating arrays in `dtype`."""
        return dataclasses.replace(self, dtype=dtype)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Iterator[Batches]]:
        """A pass over the data: an iterator over its batches, those without weight left out.

        The thread that loads them ends with the context, whatever ends that.

        Raises:
            InputError: batches that are not those of the first pass.
        """
        with _ahead(_load(self, compat.setting("jax_default_device"))) as loaded:
            yield _compared(self, loaded)


def why_not_finite(batches: Batches, state: Any) -> str | None:
    """One line that names an array of the data or the state that is not finite; None where there is none."""
    with batches.parts() as parts:
        words = next(filter(None, (numerics.not_finite("data", part.unweighted) for part in parts)), None)
    return words or numerics.not_finite("state", state)


class _Loaded(NamedTuple):
    """A batch on the device."""

    batches: Batches
    checksum: int
    has_weight: bool


def _compared(stream: Stream, loaded: Iterator[_Loaded]) -> Iterator[Batches]:
    """The batches of a pass, each once it is known to be that of the first pass."""
    first, number = stream.first, 0
    for batches, checksum, has_weight in loaded:
        same = number < len(first.sizes) and first.checksums[number] == checksum
        if not same:
            raise InputError(_difference(stream, number, batches.num_examples))
        number += 1
        if has_weight:
            yield batches
    if number < len(first.sizes):
        raise InputError(_difference(stream, number, 0))


def _difference(stream: Stream, number: int, size: int) -> str:
    """How a pass differs from the first, whose batch `number` came with `size` examples, or did not come."""
    first = stream.first
    if not size and not number:
        return f"the stream gave {len(first.sizes)} batches in its first pass and none in another: {_ONCE}"
    if not size:
        return f"the stream changed its length: {len(first.sizes)} batches in its first pass, {number} in another"
    if number == len(first.sizes):
        return f"the stream changed its length: {number} batches in its first pass, more in another"
    if size != first.sizes[number]:
        return (
            f"the stream changed between passes: batch {number} held {first.sizes[number]} examples in the first pass "
            f"and {size} in another; {_SAME}"
        )
    again = _survey(dataclasses.replace(stream, weights=None))
    what = "shuffles its examples" if again.unordered == first.unordered else "changes the contents of its batches"
    return f"the stream {what} between passes, seen in batch {number}; {_SAME}"


def _load(stream: Stream, device: Any) -> Generator[_Loaded, None, None]:
    """A pass, batch by batch; settings of JAX that hold for one thread alone are those of the stream's maker."""
    scale = stream.num_examples / stream.first.total_weight
    for host in _host_batches(stream):
        checksum = _checksum(host)
        has_weight = stream.weights is None or bool(np.any(_named(host, stream.weights)))
        with jax.enable_x64(stream.x64), jax.default_device(device):
            arrays = jax.tree.map(numerics.on_device, host)
        with jax.enable_x64(stream.x64 or stream.dtype == np.float64), jax.default_device(device):
            if stream.dtype is not None:
                arrays = trees.cast(arrays, stream.dtype)
            if stream.weights is not None:
                arrays = Weighted(arrays, numerics.widened(_named(arrays, stream.weights)) * scale)
        yield _Loaded(Batches(arrays, statistics_batch=stream.statistics_batch), checksum, has_weight)


def _survey(stream: Stream) -> FirstPass:
    """A pass that counts and identifies."""
    sizes, checksums, unordered, weights, structure = [], [], 0, [], None
    for number, host in enumerate(_host_batches(stream)):
        if structure is None:
            structure = jax.tree.structure(host)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), host)
        elif not numerics.same_structure(host, shapes):
            came = str(jax.tree.structure(host)).removeprefix("PyTreeDef(")[:-1]
            raise InputError(f"every batch of a stream must have the structure of the first, got {came} in {number}")
        sizes.append(len(jax.tree.leaves(host)[0]))
        checksums.append(_checksum(host))
        unordered = (unordered + _unordered(host)) % 2**64
        if stream.weights is not None:
            weights.append(_sum_of_weights(_named(host, stream.weights)))
    if not sizes:
        raise InputError("a stream must hold at least one batch, got none")
    total = sum(weights) if weights else float("nan")
    if total == 0:
        raise InputError("weights must not be 0 throughout: there would be nothing to take a mean over")
    return FirstPass(tuple(sizes), tuple(checksums), unordered, shapes, total)


def _host_batches(stream: Stream) -> Iterator[Any]:
    """One pass over the user's batches, as trees of arrays in the memory of the host."""
    for number, batch in enumerate(_iterator(stream.batches)):
        what = f"batch {number} of the stream"
        # Tokenizers give mappings that `jax.tree` does not know.
        batch = jax.tree.map(lambda leaf: dict(leaf) if isinstance(leaf, Mapping) else leaf, batch)
        with jax.enable_x64(stream.x64):
            host = jax.tree.map_with_path(partial(_on_host, what), batch)
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(host)]
        sizes = {shape[:1] for shape in shapes}
        if len(sizes) != 1 or sizes & {(), (0,)}:
            raise InputError(f"{what} must be arrays with one leading axis of examples, not empty, got shapes {shapes}")
        yield host


def _iterator(batches: Any) -> Iterator[Any]:
    """A new pass.

    Raises:
        InputError: what cannot be read twice, or is no batches.
    """
    kind = type(batches).__name__
    if inspect.isgenerator(batches):
        raise InputError(f"a stream is read once for every product, got a generator: {_ONCE}")
    if isinstance(batches, Mapping | str | bytes | jax.Array | np.ndarray):
        raise InputError(f"a stream must be a list, a data loader or a function, got {kind}; arrays are cv.Batches")
    if callable(batches) and not isinstance(batches, Iterable):
        batches = batches()
    if not isinstance(batches, Iterable):
        raise InputError(f"a stream must be a list, a data loader or a function that returns an iterator, got {kind}")
    return iter(batches)


def _on_host(what: str, path: Any, leaf: Any) -> Any:
    """A leaf as a NumPy array, but for a typed random key."""
    if isinstance(leaf, jax.Array):
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)
    return given.converted(f"{what}{jax.tree_util.keystr(path)}", leaf)


def _checksum(host: Any) -> int:
    """A checksum of structure, shapes, types and bytes."""
    result = zlib.crc32(str(jax.tree.structure(host)).encode())
    for leaf in jax.tree.leaves(host):
        result = zlib.crc32(f"{leaf.shape}{leaf.dtype}".encode(), result)
        result = zlib.crc32(_rows(leaf).data, result)
    return result


def _unordered(host: Any) -> int:
    """A checksum that is additive over examples, and knows the place of every byte within its own."""
    total = 0
    for number, leaf in enumerate(jax.tree.leaves(host)):
        columns = _rows(leaf).sum(axis=0, dtype=np.uint64)
        places = np.arange(1, len(columns) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        total += (number + 1) * int((columns * places).sum(dtype=np.uint64))
    return total


def _rows(leaf: Any) -> np.ndarray:
    """The bytes of each example, [n, bytes]."""
    if isinstance(leaf, jax.Array):  # a typed random key
        leaf = np.asarray(jax.random.key_data(leaf))
    rows: np.ndarray = np.ascontiguousarray(leaf).reshape(len(leaf), -1).view(np.uint8)
    return rows


def _named(tree: Any, name: str) -> Any:
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }
    if not isinstance(name, str):
        raise InputError(f"weights of a stream are the name of an array of its batches, got {type(name).__name__}")
    if name not in leaves:
        raise InputError(f"no array of a batch is named {name!r}; {nearest(name, leaves)}")
    return leaves[name]


def _sum_of_weights(weights: np.ndarray) -> float:
    least = float(weights.min())
    if not (least >= 0 and np.isfinite(total := float(weights.sum(dtype=np.float64)))):
        raise InputError(f"weights must be finite and at least 0, got {least if least < 0 else float('nan'):g}")
    return total


_END: Any = object()


@contextlib.contextmanager
def _ahead(made: Generator[_Loaded, None, None]) -> Iterator[Iterator[_Loaded]]:
    """What `made` gives, each made in one thread while the one before it is in use.

    An error in the thread is raised where the next is asked for. When the context ends, the thread is awaited: it is
    making one at most. After an interrupt it is not, and ends by itself with that one.
    """
    pool, waits = ThreadPoolExecutor(1, "hessflat-stream"), True

    def items() -> Iterator[_Loaded]:
        coming = pool.submit(next, made, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, made, _END)
            yield item

    try:
        yield items()
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        pool.shutdown(wait=waits, cancel_futures=True)
        if waits:
            made.close()
