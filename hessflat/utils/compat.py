"""What other libraries, and Python, do not promise, in one place.

JAX guarantees nothing about `jax.core`, `jax.extend` and `jax.interpreters` from one release to the next, nor about the
methods of a primitive. `tests/test_compat.py` holds what is used of them against whatever version is installed, and
that no other file uses anything of the kind. Look here first when a new JAX breaks something.
"""

import dataclasses
import functools
import hashlib
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.interpreters import ad, batching, mlir

# Beginnings of the paths of files that are installed.
_INSTALLED = ("<frozen", *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
# What a hash takes by its value; a tuple, because looking for a type in a union takes longer.
_PLAIN = (str, int, bool, float, type(None), bytes, complex, np.generic)


def __getattr__(name: str) -> Any:
    """`Jaxpr`, `ClosedJaxpr` and `Literal`, when they are first asked for: `jax.extend` loads two dozen modules.

    They are what `jax.make_jaxpr` gives: equations, the same with constants, and a number written into an equation.
    From JAX 0.12 on the first two are one class.
    """
    if name not in ("Jaxpr", "ClosedJaxpr", "Literal"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jax.extend import core

    return globals().setdefault(name, getattr(core, name))


def is_traced(value: Any) -> bool:
    """Whether `value` stands for an array that is known only when a transformed function runs."""
    return isinstance(value, jax.core.Tracer)


def setting(name: str) -> Any:
    """A setting of JAX as it stands in this thread; `jax.config.update` is promised, no way of reading is."""
    return getattr(jax.config, name)


def from_process(source: int, array: np.ndarray) -> np.ndarray:
    """The array that process `source` has, in every process; each gives one of the same shape and type."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array, is_source=jax.process_index() == source))


def from_all_processes(array: Any) -> np.ndarray:
    """The NumPy arrays of all processes, stacked in their order; the whole of a JAX array that they hold in parts."""
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=isinstance(array, jax.Array)))


def bind(equation: Any, inputs: Sequence[Any], params: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of one equation of a jaxpr at `inputs`, with `params` in place of its own parameters if given.

    The settings that the equation was traced under hold again, such as the generator of random bits.
    """
    primitive = equation.primitive
    with equation.ctx.manager:
        params = primitive.get_bind_params(dict(equation.params if params is None else params))
        outputs = primitive.bind(*inputs, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


# The primitives of a `jax.custom_vjp` function, and of its derivative in forward mode, which cannot be evaluated.
CUSTOM_VJP = ("custom_vjp_call", "custom_vjp_call_jaxpr")
REVERSE_ONLY = ("custom_lin",)


def context_of(equation: Any) -> Any:
    """The settings that an equation was traced under, as something hashable."""
    return equation.ctx


def by_platform(name: str, cpu: Callable[..., Any], default: Callable[..., Any]) -> Callable[..., Any]:
    """A function that is `cpu` where a program is lowered for CPUs, and `default` where it is lowered for others.

    In a jaxpr it is one equation, the primitive `name` with the keyword arguments as parameters, and a lowered program
    holds nothing of the other function. `jax.lax.platform_dependent` traces both, and leaves a conditional, whose
    equations are never equal. It is not differentiable; `jax.vmap` of it maps the function that is chosen.

    Args:
        name: of the primitive.
        cpu: takes arrays, and hashable keyword arguments; gives one array.
        default: the same for other platforms, with a result of the same shape and type.
    """

    def apply(chosen: Callable[..., Any], *args: Any, mapped_axes: tuple[Any, ...], **params: Any) -> Any:
        chosen = functools.partial(chosen, **params)
        for axes in mapped_axes:
            chosen = jax.vmap(chosen, in_axes=axes)
        return chosen(*args)

    @functools.cache
    def make_primitive() -> Any:
        from jax.extend import core

        primitive = core.Primitive(name)

        def abstract(*args: Any, **params: Any) -> Any:
            shapes = [jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in args]
            result = jax.eval_shape(functools.partial(apply, default, **params), *shapes)
            return args[0].update(shape=result.shape, dtype=result.dtype, weak_type=False)

        def batch(args: Sequence[Any], dims: Sequence[Any], *, mapped_axes: tuple[Any, ...], **params: Any) -> Any:
            return primitive.bind(*args, mapped_axes=(*mapped_axes, tuple(dims)), **params), 0

        primitive.def_abstract_eval(abstract)
        primitive.def_impl(lambda *args, **params: _compiled(primitive, tuple(params.items()), *args))
        batching.primitive_batchers[primitive] = batch
        for chosen, platform in ((cpu, "cpu"), (default, None)):
            lowering = mlir.lower_fun(functools.partial(apply, chosen), multiple_results=False)
            mlir.register_lowering(primitive, lowering, platform=platform)
        return primitive

    def function(*args: Any, **params: Any) -> Any:
        return make_primitive().bind(*args, mapped_axes=(), **params)

    return function


@functools.cache
def apart() -> Any:
    """The primitive of x that XLA's CPU compiler merges with nothing that follows; for other compilers it is nothing.

    It may be differentiated and mapped, which JAX's own barrier may be in some releases alone.
    """
    from jax.extend import core

    primitive = core.Primitive("apart")
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    ad.deflinear2(primitive, lambda cotangent, _: [cotangent])
    batching.defvectorized(primitive)
    for function, platform in ((jax.lax.optimization_barrier, "cpu"), (lambda x: x, None)):
        mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False), platform=platform)
    return primitive


def lobpcg(product: Callable[[jax.Array], jax.Array], start: jax.Array, steps: int, tol: float) -> Any:
    """JAX's own LOBPCG: eigenvalues, eigenvectors [P, k], number of steps."""
    from jax.experimental.sparse.linalg import lobpcg_standard  # it loads sparse arrays

    return lobpcg_standard(product, start, m=steps, tol=tol)


def look_for_compilation_cache() -> None:
    """Have JAX look again whether there is a folder of compiled programs: it does once, when it first compiles."""
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


def absent_devices(platform: str, name: str, **options: Any) -> list[Any]:
    """The devices of a topology, which programs can be compiled for whether they are there or not."""
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(platform=platform, topology_name=name, **options).devices)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(primitive: Any, params: tuple[tuple[str, Any], ...], *args: Any) -> Any:
    return primitive.bind(*args, **dict(params))


def fingerprint(value: Any, by_content: bool = False) -> tuple[str, list[Any]]:
    """A hash of a function with all that it reads from outside, and what must be kept alive for the hash to hold.

    It covers code, defaults, closure cells, globals, attributes of modules and of `self`, and functions called in turn.
    Code that is installed, JAX's say, is known by name. Arrays of NumPy and plain containers are hashed by content.

    Args:
        value: the function.
        by_content: hash arrays of JAX by content and not by identity, for a hash that holds in another process too.

    Raises:
        TypeError: with `by_content`, an object that is known by its identity alone.
    """
    digest, kept, seen = hashlib.blake2b(digest_size=16), [], set[int]()
    waiting: list[tuple[Any, tuple[str, ...]]] = [(value, ())]  # objects, and the attributes of each that are read
    while waiting:
        value, names = waiting.pop()
        if isinstance(value, _PLAIN):
            digest.update(repr((type(value).__name__, value)).encode())
        elif isinstance(value, np.ndarray) or (by_content and isinstance(value, jax.Array)):
            is_key = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
            array = np.asarray(jax.random.key_data(value) if is_key else value)
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
        elif id(value) in seen:
            digest.update(b"again")
        else:
            seen.add(id(value))
            kept.append(value)
            own, inner = _parts(value, names, by_content)
            digest.update(repr(own).encode())
            waiting.extend(reversed(inner))
    return digest.hexdigest(), kept


_Parts = tuple[tuple[Any, ...], list[tuple[Any, tuple[str, ...]]]]


def _parts(value: Any, names: tuple[str, ...], by_content: bool) -> _Parts:
    """What a hash takes of an object itself, and the objects that it goes on with."""
    kind = type(value).__name__
    if isinstance(value, types.FunctionType):  # first, for most are functions and their code
        if value.__code__.co_filename.startswith(_INSTALLED):
            return (kind, value.__module__, value.__qualname__), []
        read = _names_read(value.__code__)
        outside = [(value.__globals__[name], read) for name in read if name in value.__globals__]
        cells = [(_content(cell), read) for cell in value.__closure__ or ()]
        inner = [(part, ()) for part in (value.__code__, value.__defaults__, value.__kwdefaults__)]
        return (kind, value.__module__, value.__qualname__), [*inner, *outside, *cells]
    if isinstance(value, types.CodeType):
        return (kind, _code_digest(value)), []
    if isinstance(value, types.ModuleType):
        read = () if _is_installed(value.__name__) else names
        return (kind, value.__name__), [(getattr(value, name, None), names) for name in read]
    if isinstance(value, types.MethodType):
        return (kind,), [(value.__func__, names), (value.__self__, names)]
    if isinstance(value, functools.partial):
        return (kind,), [(part, ()) for part in (value.func, value.args, value.keywords)]
    if isinstance(value, set | frozenset):
        return (kind, len(value)), [(element, ()) for element in sorted(value, key=repr)]
    if isinstance(value, list | tuple):
        return (kind, len(value)), [(element, ()) for element in value]
    if isinstance(value, Mapping):
        return (kind, len(value)), [(part, ()) for item in value.items() for part in item]
    if isinstance(value, type):
        is_installed = _is_installed(value.__module__)
        own = [] if is_installed else [own for name, own in vars(value).items() if name in names or callable(own)]
        return (kind, value.__module__, value.__qualname__), [(part, ()) for part in own]
    if hasattr(value, "__wrapped__"):
        return (kind,), [(value.__wrapped__, names)]
    if dataclasses.is_dataclass(value):
        fields = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
        return (kind,), [(type(value), names), *((field, ()) for field in fields)]
    if hasattr(value, "__dict__") and not _is_installed(type(value).__module__):
        return (kind,), [(type(value), names), (vars(value), ())]
    if by_content and not callable(value):
        raise TypeError(kind)
    return (kind, getattr(value, "__qualname__", ""), 0 if by_content else id(value)), []


# Code never changes, and every measurement asks for that of each function that a loss calls.
@functools.lru_cache(maxsize=4096)
def _code_digest(code: types.CodeType) -> str:
    """A hash of what is written in a function, and in those inside it."""
    written = [code.co_code, code.co_names, code.co_freevars]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            written.append(_code_digest(constant))
        else:
            written.append(sorted(constant, key=repr) if isinstance(constant, frozenset) else constant)
    return hashlib.blake2b(repr(written).encode(), digest_size=16).hexdigest()


@functools.lru_cache(maxsize=4096)
def _names_read(code: types.CodeType) -> tuple[str, ...]:
    """The globals and attributes that a function reads, and those that functions inside it do."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names_read(c)]
    return tuple(dict.fromkeys([*code.co_names, *inner]))


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _is_installed(module: str | None) -> bool:
    """Whether a module is part of Python or of an installed package, and so does not change while a program runs."""
    if module == "__main__" or module not in sys.modules:
        return False
    file = getattr(sys.modules[module], "__file__", None)
    return file is None or file.startswith(_INSTALLED)
