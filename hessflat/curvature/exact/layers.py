"""The dense and convolutional layers of a function, found in its jaxpr: what goes into each and where it comes out.

A layer is an equation, `dot_general` or `conv_general_dilated`, one of whose operands is a leaf of the parameters, and
the addition of a bias to its result where there is one. No framework is needed.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.utils import compat
from hessflat.utils.errors import InputError

# Calls whose equations are looked at; those with derivatives of their own stay as they are.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr"}
_SAME = ("convert_element_type", "copy")
_FIT = "it must be the kernel or the bias of one dense or convolutional layer; leave it out by cv.restrict(op, names)"


class Layer(NamedTuple):
    """One equation. The kernel as a matrix [inputs, outputs] is its leaf with axes in the order `axes`, reshaped."""

    kernel: int  # of the leaves
    bias: int | None
    axes: tuple[int, ...]
    shape: tuple[int, ...]  # of the leaf with axes in that order
    num_inputs: int  # as many of these axes are inputs: their lengths multiplied
    num_outputs: int
    position: int  # of its equation
    side: int  # which operand the kernel is
    output_axes: tuple[int, ...]  # the result's axes of outputs; all others are positions


def layers_of(function: Callable[..., Any], names: Sequence[str], *args: Any) -> tuple[Any, list[Layer]]:
    """The jaxpr of `function(*args)`, calls inlined, and its layers; the first leaves of `args` are the parameters.

    Raises:
        InputError: a parameter that is not the kernel or the bias of one layer.
    """
    closed = jax.make_jaxpr(function)(*args)
    closed = jax.make_jaxpr(lambda *leaves: _inlined(closed.jaxpr, closed.consts, leaves))(*closed.in_avals)
    views: dict[Any, tuple[int, tuple[int, ...]]] = {
        v: (i, tuple(range(v.aval.ndim))) for i, v in enumerate(closed.jaxpr.invars[: len(names)])
    }
    biases: dict[Any, tuple[int, tuple[int, ...]]] = {v: (i, _lengths(v.aval.shape)) for v, (i, _) in views.items()}
    layers: dict[Any, Layer] = {}
    used: dict[int, int] = {}
    for position, equation in enumerate(closed.jaxpr.eqns):
        operands = [v for v in equation.invars if not isinstance(v, compat.Literal)]
        name, result = equation.primitive.name, equation.outvars[0]
        if not any(v in views or v in biases for v in operands):
            continue
        if name in _SAME or name in ("transpose", "reshape", "broadcast_in_dim"):
            _follow(equation, views, biases)
            continue
        layer = _layer(equation, position, views)
        if layer is not None:
            layers[result] = layer
        elif name in ("add", "add_any") and (pair := _biased(operands, layers, biases)) is not None:
            layers[pair[0]] = layers[pair[0]]._replace(bias=pair[1])
        else:
            wrong = next((biases.get(v) or views[v])[0] for v in operands if v in biases or v in views)
            raise InputError(f"the parameter {names[wrong]!r} goes into {name}: {_FIT}")
    for layer in layers.values():
        for leaf in (layer.kernel, layer.bias):
            if leaf is not None:
                used[leaf] = used.get(leaf, 0) + 1
    for i, leaf_name in enumerate(names):
        if used.get(i) != 1:
            raise InputError(f"the parameter {leaf_name!r} is in {used.get(i, 0)} layers: {_FIT}")
    return closed, list(layers.values())


def run(
    closed: Any, layers: Sequence[Layer], leaves: Sequence[Any], moved: Sequence[Array]
) -> tuple[list[Any], list[Array]]:
    """The results, with `moved` added to the result of each layer's equation; and the inputs [R, inputs] of each."""
    by_position = {layer.position: number for number, layer in enumerate(layers)}
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(closed.jaxpr.invars, leaves, strict=True))
    inputs: list[Any] = [None] * len(layers)
    read = lambda v: v.val if isinstance(v, compat.Literal) else values[v]  # noqa: E731
    for position, equation in enumerate(closed.jaxpr.eqns):
        outputs = compat.bind(equation, list(map(read, equation.invars)))
        if position in by_position:
            number = by_position[position]
            inputs[number] = _inputs(equation, layers[number], list(map(read, equation.invars)))
            outputs = [outputs[0] + moved[number]]
        values.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, closed.jaxpr.outvars)), inputs


def results_like(closed: Any, layers: Sequence[Layer]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of what each layer's equation gives."""
    variables = [closed.jaxpr.eqns[layer.position].outvars[0].aval for layer in layers]
    return [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in variables]


def by_position(layer: Layer, result: Array) -> Array:
    """What a layer's equation gave, as [R, outputs]."""
    positions = [axis for axis in range(result.ndim) if axis not in layer.output_axes]
    return result.transpose(*positions, *layer.output_axes).reshape(-1, layer.num_outputs)


def to_matrix(layer: Layer, leaves: Sequence[Array]) -> Array:
    """Kernel and bias as one matrix [inputs, outputs]; the bias is its last row."""
    matrix = leaves[layer.kernel].transpose(layer.axes).reshape(layer.num_inputs, layer.num_outputs)
    if layer.bias is None:
        return matrix
    return jnp.concatenate([matrix, leaves[layer.bias].reshape(1, -1)])


def from_matrix(layer: Layer, matrix: Array) -> dict[int, Array]:
    """The inverse of `to_matrix`, by the numbers of leaves."""
    back = tuple(sorted(range(len(layer.axes)), key=layer.axes.__getitem__))
    kernel = matrix[: layer.num_inputs].reshape(layer.shape).transpose(back)
    bias_shape = layer.shape[len(layer.shape) - len(layer.output_axes) :]
    bias = {} if layer.bias is None else {layer.bias: matrix[-1].reshape(bias_shape)}
    return {layer.kernel: kernel} | bias


def _inlined(jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    read = lambda v: v.val if isinstance(v, compat.Literal) else values[v]  # noqa: E731
    for equation in jaxpr.eqns:
        operands = list(map(read, equation.invars))
        inner = equation.params.get(_CALLS.get(equation.primitive.name, ""))
        if inner is None:
            outputs = compat.bind(equation, operands)
        elif hasattr(inner, "consts"):
            outputs = _inlined(inner.jaxpr, inner.consts, operands)
        else:
            outputs = _inlined(inner, (), operands)
        values.update(zip(equation.outvars, outputs, strict=True))
    return list(map(read, jaxpr.outvars))


def _lengths(shape: Sequence[int]) -> tuple[int, ...]:
    """Those of the axes that are longer than 1."""
    return tuple(n for n in shape if n != 1) or (1,)


def _follow(equation: Any, views: dict[Any, Any], biases: dict[Any, Any]) -> None:
    """Note what is a leaf in another order or type, and what is a leaf along the last axes."""
    (source, *_), result, name = equation.invars, equation.outvars[0], equation.primitive.name
    if source in views and name in (*_SAME, "transpose"):
        leaf, axes = views[source]
        order = equation.params["permutation"] if name == "transpose" else range(len(axes))
        views[result] = (leaf, tuple(axes[i] for i in order))
    if source in biases and name != "transpose":
        shape, whole = source.aval.shape, result.aval.shape
        own = _lengths(shape)
        last = name != "broadcast_in_dim" or _ends_with(equation.params["broadcast_dimensions"], shape, len(whole))
        if last and tuple(n for n in whole[len(whole) - len(own) :]) == own:
            biases[result] = biases[source]


def _ends_with(dimensions: Sequence[int], shape: Sequence[int], rank: int) -> bool:
    """Whether the axes of a shape, but for those of length 1, become the last ones."""
    kept = [d for d, n in zip(dimensions, shape, strict=True) if n != 1]
    return kept == list(range(rank - len(kept), rank))


def _layer(equation: Any, position: int, views: dict[Any, Any]) -> Layer | None:
    operands = equation.invars
    name, params = equation.primitive.name, equation.params
    if name not in ("dot_general", "conv_general_dilated"):
        return None
    sides = [s for s in (0, 1) if not isinstance(operands[s], compat.Literal) and operands[s] in views]
    if len(sides) != 1:
        return None
    (side,) = sides
    leaf, axes = views[operands[side]]
    rank, shape = len(equation.outvars[0].aval.shape), operands[side].aval.shape
    if name == "conv_general_dilated":
        if side == 0 or params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
            return None
        numbers = params["dimension_numbers"]
        order = (*numbers.rhs_spec[1:], numbers.rhs_spec[0])
        num_outputs = 1
        output_axes: tuple[int, ...] = (numbers.out_spec[1],)
    else:
        contracted, batch = params["dimension_numbers"]
        if any(batch):
            return None
        free = [i for i in range(len(shape)) if i not in contracted[side]]
        order, num_outputs = (*contracted[side], *free), len(free)
        output_axes = tuple(range(rank - len(free), rank) if side else range(len(free)))
    lengths = tuple(shape[i] for i in order)
    return Layer(
        leaf,
        None,
        tuple(axes[i] for i in order),
        lengths,
        math.prod(lengths[: len(lengths) - num_outputs]),
        math.prod(lengths[len(lengths) - num_outputs :]),
        position,
        side,
        output_axes,
    )


def _biased(operands: Sequence[Any], layers: dict[Any, Layer], biases: dict[Any, Any]) -> tuple[Any, int] | None:
    """The result of a layer and the bias that is added to it, along its last axes."""
    if len(operands) != 2:
        return None
    for result, bias in (operands, operands[::-1]):
        if result in layers and bias in biases:
            layer, rank = layers[result], result.aval.ndim
            last = tuple(range(rank - len(layer.output_axes), rank))
            outputs = layer.shape[len(layer.shape) - len(last) :]
            if layer.bias is None and layer.output_axes == last and biases[bias][1] == _lengths(outputs):
                return result, biases[bias][0]
    return None


def _inputs(equation: Any, layer: Layer, operands: Sequence[Array]) -> Array:
    """What goes into a layer, as [R, inputs], and a one for the bias."""
    params = equation.params
    if equation.primitive.name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        patches = jax.lax.conv_general_dilated_patches(
            operands[0],
            [operands[1].shape[axis] for axis in numbers.rhs_spec[2:]],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            numbers,
        )
        inputs = jnp.moveaxis(patches, numbers.out_spec[1], -1)
    else:
        (left, right), _ = params["dimension_numbers"]
        other, contracted = (operands[0], left) if layer.side == 1 else (operands[1], right)
        positions = [axis for axis in range(other.ndim) if axis not in contracted]
        inputs = other.transpose(*positions, *contracted)
    rows = inputs.reshape(-1, layer.num_inputs)
    return rows if layer.bias is None else jnp.concatenate([rows, jnp.ones_like(rows[:, :1])], axis=1)
