"""Common numerics of measurements: parameter trees as flat vectors, random probes, precision, long inner products,
checks.

It is longer than other modules because every measurement begins with most of it, and a reader finds it in one place.
"""

import functools
import inspect
import math
import operator
import typing
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat.curvature import leaves as given
from hessflat.utils import compat, hardware
from hessflat.utils.convolution import narrow_types
from hessflat.utils.errors import InputError, in_one_line, nearest, shown

Tree = Any
Probe = Literal["rademacher", "gaussian"]

# JAX's settings of precision, from fastest to most exact, and their meaning on each backend. A CPU has only the last.
_LEVELS = {
    **dict.fromkeys(("default", "fastest", "bfloat16"), 0),
    **dict.fromkeys(("high", "tensorfloat32", "bfloat16_3x"), 1),
    **dict.fromkeys(("highest", "float32"), 2),
}
_DONE_IN = {
    "cpu": ("highest", "highest", "highest"),
    "gpu": ("tensorfloat32", "tensorfloat32", "highest"),
    "tpu": ("bfloat16", "bfloat16_3x", "highest"),
}
_EPSILONS = {
    **dict.fromkeys(("tensorfloat32", "TF32_TF32_F32", "F16_F16_F32"), 2.0**-10),
    **dict.fromkeys(("bfloat16", "BF16_BF16_F32"), 2.0**-7),
    **dict.fromkeys(("bfloat16_3x", "BF16_BF16_F32_X3"), 2.0**-16),
}

# Why a measurement cannot be made inside a transformation.
OUTSIDE = (
    "a measurement looks at values, so make it outside jit, vmap and grad; inside them take products, op(v), alone"
)
# Nor one of shapes in place of arrays.
SHAPES = "this operator is made of shapes, for cv.plan alone; give arrays in their place to take products or measure"

# Draws of one estimate, at most.
_MOST_DRAWS = 1_000_000

# Of inner products and combinations of vectors, whatever the precision of an operator's products: the memory bounds
# them, and less would lose orthogonality.
EXACT = jax.lax.Precision.HIGHEST

# NumPy types that JAX has in every mode.
_PLAIN = {
    np.dtype(t) for t in (bool, np.int8, np.int16, np.int32, np.uint8, np.uint16, np.uint32, np.float16, np.float32)
}

# XLA's CPU product of a matrix and a vector adds one term after another, and its rounding grows with their number: at
# four million terms Gram-Schmidt leaves 1e-4. So sums of `_PIECE` terms are computed first, and then added.
_MANY = 2**18
_PIECE = 2**16

# Normal numbers of a probe that are kept in memory between their norm and their use; beyond it they are drawn twice.
_KEPT = 2**24


def common_dtype(tree: Tree) -> jnp.dtype:
    """The floating type of a flat vector over `tree`."""
    return jnp.result_type(*jax.tree.leaves(tree))


def ravel(tree: Tree) -> Array:
    """Every leaf, ravelled, one after the other: [P]."""
    result: Array = _joined(jax.tree.leaves(tree))
    return result


def ravel_on_host(tree: Tree) -> np.ndarray:
    """`ravel` by NumPy, in float64, with nothing to compile."""
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])


# Within a compiled function these are part of it; by themselves each is one program for all leaves.
@functools.partial(jax.jit, inline=True)
def _joined(leaves: list[Array]) -> Array:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])


def unravel(like: Tree, vector: Array) -> Tree:
    """The inverse of `ravel`. `vector` may have leading axes, [..., P], which every leaf then keeps."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, _parts(tuple((leaf.shape, leaf.dtype) for leaf in leaves), vector))


def unravel_on_host(like: Tree, vector: np.ndarray) -> Tree:
    """`unravel` by NumPy, with nothing to compile: a tree of NumPy arrays."""
    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, _split(tuple((leaf.shape, leaf.dtype) for leaf in leaves), vector))


def _split(leaves: tuple[tuple[tuple[int, ...], Any], ...], vector: Any) -> list[Any]:
    parts, start = [], 0
    for shape, dtype in leaves:
        size = math.prod(shape)
        parts.append(vector[..., start : start + size].reshape((*vector.shape[:-1], *shape)).astype(dtype))
        start += size
    return parts


_parts = jax.jit(_split, static_argnums=0, inline=True)


def on_device(array: Any, dtype: Any = None) -> Array:
    """`array` as a JAX array, of type `dtype` where one is given, on no mesh with Explicit axes.

    NumPy converts what is NumPy's: JAX would compile a program for every shape. What can be written to is copied: JAX
    borrows the memory of some arrays, by their alignment, and would see what is written later.
    """
    if isinstance(array, jax.Array) and not compat.is_traced(array):
        if isinstance(array.sharding, jax.sharding.NamedSharding):
            array = given.on_automatic_mesh(array)
        return array if dtype is None else typing.cast(Array, array.astype(dtype))
    if isinstance(array, np.ndarray):
        dtype = jax.dtypes.canonicalize_dtype(array.dtype if dtype is None else dtype)
        array = np.array(array, dtype) if _is_writeable(array) else array.astype(dtype, copy=False)
    return jnp.asarray(array, dtype)


def _is_writeable(array: Any) -> bool:
    """Whether the memory of a NumPy array, or of one that it is a view of, can be written to."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return True
        array = array.base
    return isinstance(array, bytearray) or (isinstance(array, memoryview) and not array.readonly)


def gathered(array: Array, positions: Any = ...) -> Array:
    """`array`, or what it holds at `positions`, from wherever it lies onto one device; typed random keys too."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        bits = on_device(hardware.on_host(jax.random.key_data(array))[positions])
        return typing.cast(Array, jax.random.wrap_key_data(bits, impl=jax.random.key_impl(array)))
    return on_device(hardware.on_host(array)[positions])


def as_arrays(what: str, tree: Tree, finite: bool = True, shapes: bool = False) -> Tree:
    """`tree` with JAX arrays as leaves.

    Args:
        what: how messages name the tree.
        tree: pytree of arrays of numbers, or of typed random keys.
        finite: refuse values that are not finite, and arrays without any.
        shapes: leave each `jax.ShapeDtypeStruct` as it is, with its sharding.

    Raises:
        InputError: no leaves, a leaf that is not an array of numbers, or values that are not finite.
    """
    if not jax.tree.leaves(tree):
        raise InputError(f"{what} must be a tree of arrays, got one without leaves: {_brief(tree)}")
    arrays = jax.tree.map_with_path(functools.partial(_as_array, what, shapes), tree)
    if finite and not any(leaf.size for leaf in jax.tree.leaves(arrays)):
        raise InputError(f"{what} must hold at least one number, got arrays of size 0")
    if finite and (lost := not_finite(what, arrays)):
        raise InputError(lost)
    return arrays


def not_finite(what: str, tree: Tree) -> str | None:
    """One line that names the first array of `tree` with values that are not finite; None where there is none."""
    known = [pair for pair in jax.tree.leaves_with_path(tree) if not any_shapes(pair[1])]
    named = [pair for pair in known if jnp.issubdtype(pair[1].dtype, jnp.inexact)]
    leaves = [leaf for _, leaf in named]
    if not any_traced(leaves) and all(leaf.devices() == {jax.devices("cpu")[0]} for leaf in leaves):
        flags: list[Any] = [np.isfinite(np.asarray(leaf)).all() for leaf in leaves]
    else:
        flags = _all_finite_on_devices(leaves)
    for (path, leaf), finite in zip(named, flags, strict=True):
        if not any_traced(finite) and not finite:
            count = int((~jnp.isfinite(leaf)).sum())
            return f"{_name(what, path)} must be finite, got {count} of {leaf.size} values that are not"
    return None


def as_state(state: Tree, function: Callable[..., Any]) -> tuple[Tree, ...]:
    """The third argument of the user's functions as () or (arrays,).

    An empty tree is a third argument for a function that takes one, and none for a function that does not.

    Args:
        state: None, or a pytree of arrays or numbers.
        function: one of those that take it.

    Raises:
        InputError: as `as_arrays`.
    """
    if state is None:
        return ()
    if jax.tree.leaves(state):
        numbers = jax.tree.map(lambda x: np.asarray(x) if isinstance(x, bool | int | float | complex) else x, state)
        return (as_arrays("state", numbers, finite=False, shapes=True),)
    try:
        inspect.signature(function).bind(None, None, state)
    except TypeError:
        return ()
    except ValueError:  # a function without a signature
        pass
    return (state,)


def require_floating(what: str, tree: Tree, instead: str = "give floating point numbers") -> None:
    """Refuse leaves that cannot be differentiated.

    Args:
        what: how messages name the tree.
        tree: pytree of arrays or shapes.
        instead: what to do about integers and booleans.

    Raises:
        InputError: a leaf that is not real floating point.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            advice = given.not_differentiable(leaf.dtype, instead)
            raise InputError(f"{_name(what, path)} must be real floating point, got {leaf.dtype}; {advice}")


def same_structure(a: Tree, b: Tree) -> bool:
    """Whether two trees have the same structure."""
    structures: tuple[Any, Any] = jax.tree.structure(a), jax.tree.structure(b)
    result: bool = structures[0] == structures[1]
    return result


def require_like(what: str, tree: Tree, like: Tree) -> None:
    """Refuse a `tree` with another structure, other shapes or other types than `like`.

    Raises:
        InputError: a difference; the message names the leaf.
    """
    if not same_structure(tree, like):
        raise InputError(f"{what} must have the structure {_brief(like)}, got {_brief(tree)}")
    for (path, leaf), expected in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if not hasattr(leaf, "dtype") and math.isnan(number_of(leaf)):
            raise InputError(f"{_name(what, path)} must have shape {expected.shape}, got {shown(leaf)}")
        if jnp.shape(leaf) != expected.shape:
            raise InputError(f"{_name(what, path)} must have shape {expected.shape}, got {jnp.shape(leaf)}")
    require_floating(what, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), jnp.result_type(leaf)), tree))


def output_shapes(what: str, function: Callable[..., Any], *args: Tree) -> Tree:
    """Shapes and types of `function(*args)`, traced once for each function and shapes.

    Raises:
        InputError: the function raises an error, which the message quotes.
    """
    leaves, structure = jax.tree.flatten(args)
    try:
        return _traced(function, structure, shapes_and_types(leaves)).outputs
    except InputError:
        raise
    except Exception as error:  # any error of the user's function; the message names the function
        raise InputError(f"{what} cannot be evaluated: {in_one_line(error)}") from error


def is_narrow_program(function: Callable[..., Any], *args: Tree) -> bool:
    """Whether `function(*args)` computes in, or from, floating types of less than 32 bits."""
    leaves, structure = jax.tree.flatten(args)
    return _traced(function, structure, shapes_and_types(leaves)).is_narrow


def jaxpr_of(function: Callable[..., Any], *args: Tree) -> Any:
    """The jaxpr of `function(*args)`, traced once for each function and shapes.

    JAX keeps every jaxpr of `jax.make_jaxpr` for as long as the function lives.
    """
    leaves, structure = jax.tree.flatten(args)
    return _traced(function, structure, shapes_and_types(leaves)).jaxpr


def mapped(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """`jax.vmap(function, in_axes)`, and a loop where a primitive of it has no rule for batches.

    Args:
        function: of arrays or trees of them.
        in_axes: 0 or None for each argument, or 0 for all.
    """

    def call(*args: Any) -> Any:
        try:
            return jax.vmap(function, in_axes=in_axes)(*args)
        except NotImplementedError:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
            moving = tuple(arg for arg, axis in zip(args, axes, strict=True) if axis is not None)

            def one(moving: tuple[Any, ...]) -> Any:
                rest = iter(moving)
                return function(*(arg if axis is None else next(rest) for arg, axis in zip(args, axes, strict=True)))

            return jax.lax.map(one, moving)

    return call


def shapes_and_types(leaves: list[Any]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """The shapes and types of leaves, on which a compiled function depends."""
    wide = bool(compat.setting("jax_enable_x64"))
    return tuple(
        jax.ShapeDtypeStruct(leaf.shape, _result_type(leaf.dtype, wide))
        if hasattr(leaf, "dtype")
        else jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
        for leaf in leaves
    )


@functools.lru_cache(maxsize=256)
def _result_type(dtype: Any, wide: bool) -> Any:
    """The type that JAX gives arrays of `dtype`, in its 64-bit mode where that is `wide`; that of keys is their own."""
    return dtype if jnp.issubdtype(dtype, jax.dtypes.extended) else jnp.result_type(dtype)


def any_traced(tree: Tree) -> bool:
    """Whether any leaf is traced."""
    return any(compat.is_traced(leaf) for leaf in jax.tree.leaves(tree))


def any_shapes(tree: Tree) -> bool:
    """Whether any leaf is a shape in place of an array."""
    return any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree))


class _Traced(NamedTuple):
    """What a function computes: its jaxpr, the shapes and types of what it gives, and whether any is narrow."""

    jaxpr: Any
    outputs: Tree
    is_narrow: bool


@functools.lru_cache(maxsize=256)
def _traced(function: Callable[..., Any], structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> _Traced:
    closed, outputs = jax.make_jaxpr(function, return_shape=True)(*jax.tree.unflatten(structure, shapes))
    return _Traced(closed.jaxpr, outputs, bool(narrow_types(closed.jaxpr.eqns, closed.jaxpr.invars)))


def _as_array(what: str, shapes: bool, path: Any, leaf: Any) -> Any:
    if shapes and isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=jax.dtypes.canonicalize_dtype(leaf.dtype))
    if not isinstance(leaf, jax.Array):
        plain = type(leaf) is np.ndarray and leaf.dtype in _PLAIN
        return on_device(leaf if plain else given.converted(_name(what, path), leaf))
    return on_device(leaf)


# One program for all leaves: one for each would take longer to compile than many a measurement does.
@jax.jit
def _all_finite_on_devices(leaves: list[Array]) -> list[Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def _name(what: str, path: Any) -> str:
    return f"{what}{jax.tree_util.keystr(path)}"


def _brief(tree: Tree) -> str:
    """The structure of a tree on one line, cut where it gets long."""
    text = str(jax.tree.structure(tree)).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 120 else text[:117] + "..."


def draw_probe(key: Array, size: int, dtype: jnp.dtype, probe: Probe, number: int = 0) -> Array:
    """A unit vector [P]: random signs (the lower variance for a trace), or uniform on the sphere.

    Every `number` gives another vector. NumPy draws them, seeded with the key and the number, so there is nothing to
    compile, and they are equal on every backend and, up to rounding, in every precision.
    """
    return on_device(probe_numbers(words_of(key), size, dtype, probe, number)(0, size))


def words_of(key: Array) -> list[int]:
    """The words of a random key."""
    result: list[int] = np.asarray(jax.random.key_data(key)).tolist()
    return result


def probe_numbers(
    words: list[int], size: int, dtype: jnp.dtype, probe: Probe, number: int = 0
) -> Callable[[int, int], np.ndarray]:
    """What gives the numbers of `draw_probe` for a key of these words, from one position up to another alone.

    Signs are bits of one stream, in which the generator jumps. Normal numbers are drawn `_PIECE` at a time, each piece
    from a seed of its own, and are divided by the norm of them all.
    """
    seed = [*words, number]
    if probe == "rademacher":
        signs = (np.array([-1.0, 1.0]) / math.sqrt(size)).astype(dtype)
        return lambda start, stop: signs.take(_bits(seed, start, stop))
    pieces = _normal_pieces(seed, size) if size <= _KEPT else functools.partial(_normal_piece, seed, size)
    length = math.sqrt(sum(float(piece @ piece) for piece in map(pieces, range(math.ceil(size / _PIECE)))))

    def numbers(start: int, stop: int) -> np.ndarray:
        parts = []
        for piece in range(start // _PIECE, math.ceil(stop / _PIECE)):
            first = piece * _PIECE
            parts.append((pieces(piece)[max(start - first, 0) : stop - first] / length).astype(dtype))
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    return numbers


def _bits(seed: list[int], start: int, stop: int) -> np.ndarray:
    """The bits [stop − start] of a stream of random bytes, from position `start` on."""
    generator = np.random.default_rng(seed)
    first = start // 64  # of the generator's steps, each of eight bytes
    generator.bit_generator.advance(first)  # type: ignore[attr-defined]
    drawn = np.frombuffer(generator.bytes(math.ceil((stop - 64 * first) / 8)), np.uint8)
    return np.unpackbits(drawn, count=stop - 64 * first)[start - 64 * first :]


def _normal_piece(seed: list[int], size: int, piece: int) -> np.ndarray:
    return np.random.default_rng([*seed, piece]).standard_normal(min(_PIECE, size - piece * _PIECE))


def _normal_pieces(seed: list[int], size: int) -> Callable[[int], np.ndarray]:
    """`_normal_piece` with what was drawn kept."""
    return functools.lru_cache(maxsize=None)(functools.partial(_normal_piece, seed, size))


def require_probe(probe: str) -> None:
    """Refuse an unknown kind of probe."""
    require_option("probe", probe, ("rademacher", "gaussian"))


def require_option(what: str, value: Any, known: Collection[str]) -> None:
    """Refuse a value that is none of the `known` ones; the message names the nearest."""
    if not isinstance(value, str) or value not in known:
        raise InputError(f"unknown {what} {shown(value)}; {nearest(value, known)}")


def require_count(what: str, value: Any, least: int = 1) -> int:
    """A count of any integer type, NumPy's and JAX's too, as an int.

    Raises:
        InputError: no whole number, or one below `least`.
    """
    try:
        count = -1 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        count = -1
    if count < least:
        raise InputError(f"{what} must be a whole number of at least {least}, got {shown(value)}")
    return count


def number_of(value: Any) -> float:
    """A real number of any type, NumPy's and JAX's too, as a float; nan for what is none, or none of a float's size."""
    try:
        is_number = not isinstance(value, bool | np.bool_ | str | bytes) and np.ndim(value) == 0
        return float(value) if is_number and not np.iscomplexobj(value) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def require_number(what: str, value: Any, above: float = -math.inf) -> float:
    """`number_of`.

    Raises:
        InputError: no number, or one that is not above `above`.
    """
    number = number_of(value)
    if not number > above:
        wanted = "a number" if above == -math.inf else f"above {above:g}"
        raise InputError(
            f"{what} must be {wanted}, got {shown(value)}{'; give a number' if math.isnan(number) else ''}"
        )
    return number


def require_flag(what: str, value: Any) -> bool:
    """True or False, also as 1 or 0.

    Raises:
        InputError: anything else, such as the text "False", which Python takes for true.
    """
    if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
        raise InputError(f"{what} must be True or False, got {shown(value)}")
    return bool(value)


def require_positions(what: str, values: Any) -> np.ndarray:
    """A sequence of finite real numbers as float64 [n].

    Raises:
        InputError: something else, or none.
    """
    try:
        positions = np.zeros(0) if np.iscomplexobj(values) else np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what} must be a sequence of numbers, got {shown(values)}") from None
    if positions.ndim != 1 or not len(positions) or not np.isfinite(positions).all():
        raise InputError(f"{what} must be finite numbers in one dimension, at least one, got {shown(values)}")
    return positions


def require_function(what: str, value: Any) -> None:
    """Refuse what cannot be called.

    Raises:
        InputError: no function.
    """
    if not callable(value):
        raise InputError(f"{what} must be a function, got {shown(value)}")


def require_draws(what: str, value: Any, least: int = 1) -> int:
    """The number of random draws of an estimate, as an int.

    Raises:
        InputError: no whole number, one below `least`, or so many that they would never end.
    """
    count = require_count(what, value, least)
    if count > _MOST_DRAWS:
        raise InputError(
            f"{what} must be at most {_MOST_DRAWS:,}, got {count:,}; errors fall with its square root alone"
        )
    return count


def require_values(*trees: Tree) -> None:
    """Refuse what has no values because it is traced.

    Raises:
        InputError: a leaf inside a transformation.
    """
    if any_traced(trees):
        raise InputError(OUTSIDE)


def require_key(key: Array) -> None:
    """Refuse anything but one random key, typed or raw."""
    require_values(key)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = hasattr(key, "dtype") and key.dtype == jnp.uint32 and key.shape == (2,)
    if not ((typed and key.shape == ()) or raw):
        raise InputError(f"key must be one random key such as jax.random.key(0), got {type(key).__name__}")


def precision_name(arrays: Tree) -> str:
    """`precision_on` the platform on which `arrays` lie, such as an operator's."""
    return precision_on(hardware.platform(arrays))


def precision_on(platform: str, asked: str | None = None) -> str:
    """The precision of products of float32 matrices: "highest", "tensorfloat32", "bfloat16_3x" or "bfloat16".

    It follows from the platform and from what is `asked`, by default the user's `jax.default_matmul_precision`; a dot
    algorithm is returned unchanged.
    """
    asked = _asked() if asked is None else asked
    levels = _DONE_IN.get({"cuda": "gpu"}.get(platform, platform))
    return levels[_LEVELS[asked]] if levels and asked in _LEVELS else asked


def matmul_precision() -> AbstractContextManager[None]:
    """A context with the user's precision of matrix products, by default the highest.

    TF32 and bfloat16 change small eigenvalues, so they are used only on request.
    """
    result: AbstractContextManager[None] = jax.default_matmul_precision(_asked())
    return result


def epsilon(dtype: Any, precision: str) -> float:
    """The relative rounding of a product in `precision` on numbers of type `dtype`."""
    own = float(jnp.finfo(dtype).eps)
    return own if jnp.dtype(dtype).itemsize > 4 else max(own, _EPSILONS.get(precision, 0.0))


def noise_floor(values: np.ndarray, dtype: Any = np.float32, precision: str = "highest") -> float:
    """ε |λ|_max: smaller eigenvalues cannot be distinguished from zero.

    `dtype` and `precision` are those of the products, the latter as in the records of results; with TF32, ε is 2⁻¹⁰.
    """
    return epsilon(dtype, precision) * float(np.abs(values).max())


def _asked() -> str:
    return str(compat.setting("jax_default_matmul_precision") or "highest")


def is_long(vector: Array) -> bool:
    """Whether sums over the entries of `vector` [P] need compensation on a CPU."""
    return vector.size >= _MANY


def accurate_dot(rows: Array, vector: Array, compensated: bool = True) -> Array:
    """`rows` [m, P] times `vector` [P], in single precision at least: [m].

    Without `compensated`, the result may include the rounding of long sums, where that is faster.
    """
    if not is_long(vector) or (not compensated and rows.dtype == vector.dtype):
        return _dot_at_once(rows, vector)
    result: Array = _dot_of_many(rows, vector)
    return result


def _dot_at_once(rows: Array, vector: Array) -> Array:
    return jnp.matmul(widened(rows), widened(vector), precision=EXACT)


def _dot_in_pieces(rows: Array, vector: Array) -> Array:
    count = vector.size // _PIECE

    def add(number: Array, total: Array) -> Array:
        pieces = (jax.lax.dynamic_slice_in_dim(x, number * _PIECE, _PIECE, x.ndim - 1) for x in (rows, vector))
        return total + jnp.matmul(*map(widened, pieces), precision=EXACT)

    rest = _dot_at_once(rows[:, count * _PIECE :], vector[count * _PIECE :])
    result: Array = jax.lax.fori_loop(0, count, add, rest)
    return result


_dot_of_many = compat.by_platform("dot_of_many", cpu=_dot_in_pieces, default=_dot_at_once)


def combination(coefficients: Array, rows: Array) -> Array:
    """`coefficients` [m] times `rows` [m, P]: [P]; row by row, so that a narrow type is not widened as a whole."""
    return typing.cast(Array, sum(coefficient * row for coefficient, row in zip(coefficients, rows, strict=True)))


def gram(blocks: tuple[Array, ...]) -> np.ndarray:
    """Q Qᵀ [..., m, m], in double precision, of the rows of all blocks [..., ., P] together.

    It is computed by parts, because a product of whole blocks would copy them. Each part is a product in the precision
    of the rows, single at least, and the parts are added in double precision. On a CPU NumPy multiplies them, with
    nothing to compile.
    """
    number, size = sum(block.shape[-2] for block in blocks), blocks[0].shape[-1]
    terms = min(_PIECE // 4, size)
    if hardware.platform(blocks) == "cpu":
        rows, single = [np.asarray(block) for block in blocks], np.promote_types(blocks[0].dtype, np.float32)
        pieces = [np.s_[..., first : first + terms] for first in range(0, size, terms)]
        parts = (np.concatenate([block[piece] for block in rows], axis=-2).astype(single) for piece in pieces)
        return typing.cast(np.ndarray, sum(_gram_on_host(part) for part in parts))
    total = np.zeros((*blocks[0].shape[:-2], number, number))
    for first in range(0, size, terms):
        # The last piece is shifted back until it fits; its overlap with the previous piece is skipped.
        start = min(first, size - terms)
        products, squares = _products_of_piece(blocks, start, first - start, terms)
        # On the diagonal all terms have one sign: a sum by itself rounds less than the matrix product.
        total += np.where(np.eye(number), np.asarray(squares)[..., None], products)
    return total


def gram_in_two(rows: tuple[Array, ...]) -> tuple[Array, Array]:
    """`gram` within a compiled function: two arrays [..., m, m] whose sum in double precision it is.

    The second is what the rounding of the first has left: the error of each of its sums (Knuth 1997, section 4.2.2).
    """
    number, size = sum(block.shape[-2] for block in rows), rows[0].shape[-1]
    terms = min(_PIECE // 4, size)
    diagonal = jnp.eye(number, dtype=bool)

    def add(index: Array, total: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(index * terms, size - terms)
        products, squares = _products_of_piece(rows, start, index * terms - start, terms)
        piece = jnp.where(jnp.broadcast_to(diagonal, products.shape), squares[..., None], products)
        high = total[0] + piece
        moved = high - total[0]
        return high, total[1] + ((total[0] - (high - moved)) + (piece - moved))

    nothing = jnp.zeros((*rows[0].shape[:-2], number, number), widened(rows[0]).dtype)
    result: tuple[Array, Array] = jax.lax.fori_loop(0, math.ceil(size / terms), add, (nothing, nothing))
    return result


def _gram_on_host(rows: np.ndarray) -> np.ndarray:
    """Q Qᵀ [..., m, m] of rows [..., m, t], with a diagonal that is summed in double precision."""
    products = (rows @ rows.swapaxes(-1, -2)).astype(np.float64)
    diagonal = np.arange(rows.shape[-2])
    products[..., diagonal, diagonal] = np.einsum("...mt,...mt->...m", rows, rows, dtype=np.float64)
    return typing.cast(np.ndarray, products)


@functools.partial(jax.jit, static_argnames="terms")
def _products_of_piece(blocks: tuple[Array, ...], start: int, skipped: int, terms: int) -> tuple[Array, Array]:
    rows = widened(jnp.concatenate([jax.lax.dynamic_slice_in_dim(s, start, terms, -1) for s in blocks], axis=-2))
    rows = jnp.einsum("...mt,t->...mt", rows, jnp.arange(terms) >= skipped, precision=EXACT)
    return jnp.matmul(rows, jnp.matrix_transpose(rows), precision=EXACT), jnp.sum(rows**2, axis=-1)


def widened(x: Array) -> Array:
    """`x` in single precision at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
