"""Programs that compute in less than single precision, evaluated in single precision.

A traced program is a list of equations with the types that its functions chose: bfloat16 weights, or activations that
are cast to it. `evaluate_wide` runs the same equations with every such type replaced, so that what comes out is the
value of the same function at the same numbers, without the rounding on the way.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessflat.utils import compat
from hessflat.utils.convolution import CALLS, is_narrow, narrow_types, values_of

# A checkpoint would only make again what a product needs twice.
_INLINED = CALLS | {"checkpoint": "jaxpr", "remat2": "jaxpr", "closed_call": "call_jaxpr"}


def to_float32(tree: Any) -> Any:
    """The narrow leaves of a tree of arrays in float32."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if is_narrow(x.dtype) else x, tree)


@dataclasses.dataclass(frozen=True)
class WideFunction:
    """A function evaluated by `evaluate_wide`; equal where the function is the same.

    A derivative that a function defines for itself, over narrow types, becomes that of its value.
    """

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        closed, shape = jax.make_jaxpr(self.function, return_shape=True)(*args)
        return jax.tree.unflatten(
            jax.tree.structure(shape), evaluate_wide(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        )


def evaluate_wide(jaxpr: Any, constants: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """The outputs of `jaxpr`, every narrow type in it replaced by float32."""
    given = to_float32(list(map(jnp.asarray, [*constants, *args])))
    values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], given, strict=True))
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inputs = [_wide_number(v) if isinstance(v, compat.Literal) else values[v] for v in equation.invars]
        if not narrow_types([equation], equation.invars):
            outputs = compat.bind(equation, inputs)  # with the derivatives that its functions define
        elif name in _INLINED:
            inner = params[_INLINED[name]]
            outputs = evaluate_wide(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
        elif name == "reduce_precision":
            outputs = inputs
        else:
            outputs = compat.bind(equation, inputs, {key: _wide_parameter(value) for key, value in params.items()})
        values.update(zip(equation.outvars, outputs, strict=True))
    return values_of(jaxpr.outvars, values)


def _wide_number(literal: Any) -> Any:
    return to_float32(jnp.asarray(literal.val, literal.aval.dtype)) if is_narrow(literal.aval.dtype) else literal.val


def _wide_parameter(value: Any) -> Any:
    """Types, and bodies of loops and branches, widened like the rest."""
    if type(value) is tuple:
        return tuple(map(_wide_parameter, value))
    if isinstance(value, np.dtype):
        return np.dtype(np.float32) if is_narrow(value) else value
    if not isinstance(value, compat.ClosedJaxpr):
        return value
    avals = [jax.ShapeDtypeStruct(a.shape, np.float32 if is_narrow(a.dtype) else a.dtype) for a in value.in_avals]
    return jax.make_jaxpr(lambda *args: evaluate_wide(value.jaxpr, value.consts, args))(*avals)
