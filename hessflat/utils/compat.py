"""What other libraries do not promise, in one place.

JAX guarantees nothing about `jax.core`, `jax.extend` and `jax.interpreters` from one release to the next, nor about the
methods of a primitive. `tests/test_compat.py` holds what is used of them against whatever version is installed, and
that no other file uses anything of the kind. Look here first when a new JAX breaks something.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.interpreters import batching, mlir


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


def bind(equation: Any, inputs: Sequence[Any], params: Mapping[str, Any] | None = None) -> list[Any]:
    """The outputs of one equation of a jaxpr at `inputs`, with `params` in place of its own parameters if given.

    The settings that the equation was traced under hold again, such as the generator of random bits.
    """
    primitive = equation.primitive
    with equation.ctx.manager:
        params = primitive.get_bind_params(dict(equation.params if params is None else params))
        outputs = primitive.bind(*inputs, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


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

    def mapped(
        function: Callable[..., Any], mapped_axes: tuple[Any, ...], params: Mapping[str, Any]
    ) -> Callable[..., Any]:
        function = functools.partial(function, **params)
        for axes in mapped_axes:
            function = jax.vmap(function, in_axes=axes)
        return function

    def lowering(function: Callable[..., Any]) -> Any:
        def run(*args: Any, mapped_axes: tuple[Any, ...], **params: Any) -> Any:
            return mapped(function, mapped_axes, params)(*args)

        return mlir.lower_fun(run, multiple_results=False)

    @functools.cache
    def make_primitive() -> Any:
        from jax.extend import core

        primitive = core.Primitive(name)

        def abstract(*args: Any, mapped_axes: tuple[Any, ...], **params: Any) -> Any:
            shapes = [jax.ShapeDtypeStruct(arg.shape, arg.dtype) for arg in args]
            result = jax.eval_shape(mapped(default, mapped_axes, params), *shapes)
            return args[0].update(shape=result.shape, dtype=result.dtype, weak_type=False)

        def batch(args: Sequence[Any], dims: Sequence[Any], *, mapped_axes: tuple[Any, ...], **params: Any) -> Any:
            return primitive.bind(*args, mapped_axes=(*mapped_axes, tuple(dims)), **params), 0

        primitive.def_abstract_eval(abstract)
        primitive.def_impl(lambda *args, **params: _compiled(primitive, tuple(params.items()), *args))
        batching.primitive_batchers[primitive] = batch
        mlir.register_lowering(primitive, lowering(cpu), platform="cpu")
        mlir.register_lowering(primitive, lowering(default))
        return primitive

    def function(*args: Any, **params: Any) -> Any:
        return make_primitive().bind(*args, mapped_axes=(), **params)

    return function


@functools.partial(jax.jit, static_argnums=(0, 1))
def _compiled(primitive: Any, params: tuple[tuple[str, Any], ...], *args: Any) -> Any:
    return primitive.bind(*args, **dict(params))
