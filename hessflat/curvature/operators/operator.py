"""Symmetric linear maps on parameter trees: sums of curvature terms, each a mean over a data set.

An `Operator` is a pytree. Its functions are static (module-level product functions, the user's loss), its arrays are
dynamic (parameters, data). It is an argument of `jax.jit`, without closures, so a measurement compiled for one
checkpoint serves every other checkpoint with the same loss function and shapes.

The module is long because an operator carries its arithmetic, its products and what it refuses in one class.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec

from hessflat.curvature import numerics, trees, vectors
from hessflat.curvature.operators.linearize import (
    LinearizedTerm,
    add_linearized,
    add_linearized_compiled,
    linearize,
)
from hessflat.curvature.operators.terms import (
    Devices,
    Term,
    bound_functions,
    loop_for,
    over,
    shapes_of_product,
    term_product,
    traced_product,
)
from hessflat.curvature.vectors import Layout, Vector, layout_for
from hessflat.utils.convolution import Loop, canonical, is_narrow, narrow_types
from hessflat.utils.errors import InputError, in_one_line
from hessflat.utils.widening import WideFunction

# What to do about leaves of integers and booleans.
_NO_PARAMETER = "it is no parameter: put it into state, or leave it out by cv.restrict(op, names)"


@partial(jax.tree_util.register_dataclass, data_fields=["terms", "coefficients", "shift"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Operator:
    """The symmetric matrix Σ_j c_j A_j + s I on trees like `params`, made by `hessian`, `gauss_newton` and others.

    Operators add, subtract and scale: `H - G`, `0.5 * H`, `H / 2`, `-H`, `H + 1e-2`. A number that is added is that
    multiple of the identity, which is also the exact Hessian of half that number times the squared norm of the
    parameters. `H @ v` is `H(v)`. The product of two operators is not symmetric, and no operator.
    """

    terms: tuple[Any, ...]  # the A_j, each with its functions, parameters and data
    coefficients: tuple[Any, ...]  # the c_j
    shift: Any = 0.0  # s

    @property
    def params(self) -> Any:
        """The point at which the curvature is taken; vectors are trees with its structure and shapes."""
        return self.terms[0].params

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))

    @property
    def dtype(self) -> jnp.dtype:
        """The floating type of products."""
        return jnp.promote_types(numerics.common_dtype(self.params), jnp.float32)

    @property
    def in_memory(self) -> bool:
        """Whether the data of every term are arrays, and none a stream."""
        return all(term.batches.in_memory for term in self.terms)

    @property
    def vector_like(self) -> Any:
        """Shapes and types of vectors as trees: those of `params`, in float32 at least."""
        wide = lambda p: jax.ShapeDtypeStruct(p.shape, jnp.promote_types(p.dtype, jnp.float32))  # noqa: E731
        return jax.tree.map(wide, self.params)

    def as_it_is_now(self) -> "Operator":
        """The operator with what its functions read from outside (closures, globals, attributes) as it is now.

        Every measurement begins with it. Terms that are linearised stay as they were.
        """
        terms = tuple(term.as_it_is_now() if isinstance(term, Term) else term for term in self.terms)
        return dataclasses.replace(self, terms=terms)

    def __call__(self, vector: Any) -> Any:
        """The product with `vector`, a tree like `params` or a flat array [P]; the result has the same form.

        Raises:
            InputError: a vector of another structure, shape or type.
        """
        numerics.require_floating("params", self.params, _NO_PARAMETER)
        if numerics.any_shapes(self):
            raise InputError(numerics.SHAPES)
        flat, op = self._is_flat(vector), self.as_it_is_now()
        loop = "scan" if numerics.any_traced((op, vector)) else loop_for(op)
        with numerics.matmul_precision():
            tree = numerics.unravel(op.vector_like, numerics.on_device(vector)) if flat else self._as_vector(vector)
            # A tree comes back as it lies: XLA would leave its leaves wherever they are.
            layout = None if flat or numerics.any_traced((op, vector)) else layout_of(op)
            product = tree_matvec_compiled if loop == "scan" else tree_matvec
            result = product(op, tree, loop, layout)
            return numerics.ravel(result) if flat else result

    def to_dense(self) -> Array:
        """The matrix [P, P], computed a few columns at a time; it takes 4 P² bytes in float32."""
        require_operator(self)
        with numerics.matmul_precision():
            op = self.as_it_is_now()
            if loop_for(op) == "scan":
                result: Array = _columns_compiled(linearize(op))
                return result
            units = (numerics.on_device(np.arange(self.size) == i, self.dtype) for i in range(self.size))
            return numerics.on_device(np.stack([np.asarray(_flat_matvec(op, v, "python")) for v in units], axis=1))

    def astype(self, dtype: Any) -> "Operator":
        """The same operator with parameters and floating data in `dtype`.

        Raises:
            InputError: float64 without `jax.enable_x64`, functions that do not run in `dtype`, or a linearisation.
        """
        if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
            raise InputError(f"astype({jnp.dtype(dtype)}) needs 64-bit mode; call it within `jax.enable_x64(True)`")
        if numerics.any_shapes(self):
            raise InputError(numerics.SHAPES)
        if dtype != self.dtype and any(isinstance(term, LinearizedTerm) for term in self.terms):
            raise InputError("take another precision of the operator before its linearisation is made, not after")
        terms = tuple(_cast(term, dtype) for term in self.terms)
        for term in terms:
            if isinstance(term, Term) and (reason := _why_not_evaluated(term)):
                raise InputError(
                    f"a function does not run in {jnp.dtype(dtype)}: {reason}; make its constants in the type of the "
                    "parameters, or leave the other precision out"
                )
        single = (_in_single_precision(term) if isinstance(term, Term) else term for term in terms)
        return Operator(tuple(single), self.coefficients, self.shift)

    # Otherwise a NumPy scalar on the left would convert the operator to an array.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> "Operator":
        if isinstance(other, Operator):
            numerics.require_like("the params of the second operator", other.params, self.params)
            return Operator(self.terms + other.terms, self.coefficients + other.coefficients, self.shift + other.shift)
        return dataclasses.replace(self, shift=self.shift + _number("+", other))

    def __mul__(self, factor: Any) -> "Operator":
        factor = _number("*", factor)
        return Operator(self.terms, tuple(c * factor for c in self.coefficients), self.shift * factor)

    def __truediv__(self, number: Any) -> "Operator":
        number = _number("/", number)
        if not numerics.any_traced(number) and number == 0:
            raise InputError("an operator / takes a number that is not 0, got 0")
        result: Operator = self * (1 / number)
        return result

    def __rtruediv__(self, number: Any) -> "Operator":
        raise InputError("an operator has no inverse here; solve with products, as jax.scipy.sparse.linalg.cg does")

    def __matmul__(self, vector: Any) -> Any:
        if isinstance(vector, Operator):
            raise InputError("the product of two operators is not symmetric, and no operator; take A(B(v))")
        return self(vector)

    def __neg__(self) -> "Operator":
        return self * -1.0

    def __sub__(self, other: Any) -> "Operator":
        return self + (-other if isinstance(other, Operator) else -_number("-", other))

    def __rsub__(self, other: Any) -> "Operator":
        result: Operator = -self + other
        return result

    __radd__ = __add__
    __rmul__ = __mul__
    __rmatmul__ = __matmul__  # symmetric: v A = A v

    def _is_flat(self, vector: Any) -> bool:
        # Parameters that are one array [P] are a flat vector too, and then both are the same.
        if not isinstance(vector, jax.Array | np.ndarray):
            return False
        if numerics.same_structure(vector, self.params) and jnp.shape(vector) != (self.size,):
            return False
        if jnp.shape(vector) != (self.size,):
            raise InputError(f"a flat vector must have shape ({self.size},), got {jnp.shape(vector)}")
        numerics.require_floating("vector", vector)
        return True

    def _as_vector(self, tree: Any) -> Any:
        numerics.require_like("vector", tree, self.params)
        return jax.tree.map(lambda v, p: numerics.on_device(v, p.dtype), tree, self.vector_like)


def _cast(term: Any, dtype: Any) -> Any:
    result = trees.cast(term, dtype)
    if not term.batches.in_memory:
        result = dataclasses.replace(result, batches=term.batches.astype(dtype))
    if not isinstance(term, Term):
        return result
    # Vectors, and what they are multiplied by, are never narrow.
    wide = trees.cast(term.scalings, jnp.promote_types(dtype, jnp.float32))
    return dataclasses.replace(result, narrow=False, scalings=wide)


def _in_single_precision(term: Term) -> Term:
    """The term, evaluated in float32 wherever its program is of a narrower type.

    The matrix is that of the same functions at the same numbers, without the rounding of narrow types, whose noise is
    far above the errors that measurements state.
    """
    if numerics.any_traced(term):
        return dataclasses.replace(term, narrow=any(is_narrow(leaf.dtype) for leaf in jax.tree.leaves(term.params)))
    with numerics.matmul_precision():
        closed, *_ = traced_product(*shapes_of_product(term))
    narrow = narrow_types(closed.jaxpr.eqns, closed.jaxpr.invars)
    return dataclasses.replace(term, narrow=True) if narrow else term


def value_over(term: Term, start: Any, size: int) -> Any:
    """What the functions of a term give, one after the other, for the `size` examples from `start` on: its loss."""
    if term.narrow:
        return WideFunction(lambda term: value_over(term, start, size))(dataclasses.replace(term, narrow=False))
    batch = term.batches.take(start, size)
    piece = dataclasses.replace(term, batches=dataclasses.replace(term.batches, arrays=batch, batch_size=None))
    first, *others = bound_functions(piece)
    value = first(term.params, batch)
    for function in others:
        value = function(value, batch)
    return value


def _why_not_evaluated(term: Term) -> str | None:
    """The error, in one line, of the functions of a term over its first batch; None where there is none."""
    term = dataclasses.replace(term, batches=term.batches.like)
    try:
        jax.eval_shape(lambda term: value_over(term, 0, term.batches.size), term)
    except Exception as error:  # any error of the user's functions
        return in_one_line(error)
    return None


def tree_matvec(op: Operator, vector: Any, loop: Loop = "scan", layout: Layout | None = None) -> Any:
    """The product of `op` with a tree, without checks. With `loop="python"` batches are driven from Python.

    Where examples are spread over devices, each computes the product over its own, and one sum over devices follows;
    where parameters are spread too, XLA partitions the product. A stream is read once for all terms over it. With a
    `layout` the leaves of the result lie where those of the parameters do.
    """
    total = _multiple(op.shift, vector)
    terms = list(zip(op.coefficients, op.terms, strict=True))
    by_device: dict[Devices, list[tuple[Any, Any]]] = {}
    for coefficient, term in terms:
        if not term.batches.in_memory:
            continue
        if term.batches.devices is None or term.is_partitioned:
            total = _add_term(total, coefficient, term, vector, loop)
        else:
            by_device.setdefault(term.batches.devices, []).append((coefficient, term))
    for stream in dict.fromkeys(term.batches for term in op.terms if not term.batches.in_memory):
        total = _add_stream(total, [pair for pair in terms if pair[1].batches is stream], vector)
    for devices, spread in by_device.items():
        if loop == "python":
            # On CPUs two programs that sum over devices can wait for each other for ever.
            product = jax.block_until_ready(_apply_spread_compiled(devices, tuple(spread), vector))
        else:
            product = _apply_spread(devices, tuple(spread), vector)
        total = jax.tree.map(jnp.add, total, product)
    return total if layout is None else vectors.placed(layout, total)


def matvec(op: Operator, layout: Layout, vector: Vector, loop: Loop = "scan") -> Vector:
    """The product of `op` with a vector, without checks."""
    return vectors.from_tree(layout, tree_matvec(op, vectors.to_tree(layout, vector), loop, layout))


def _flat_matvec(op: Operator, vector: Array, loop: Loop = "scan") -> Array:
    """The product of `op` with an array [P] that is whole wherever it lies."""
    return numerics.ravel(tree_matvec(op, numerics.unravel(op.vector_like, vector), loop))


def layout_of(op: Operator) -> Layout:
    """Where vectors of `op` lie.

    Raises:
        InputError: parameters and data on different meshes of devices.
    """
    return layout_for(op.params, [term.batches.arrays for term in op.terms if term.batches.in_memory])


def require_finite(*products: Any) -> None:
    """Refuse products, or numbers derived from them, that are not finite.

    Raises:
        InputError: a value that is not finite.
    """
    if not all(np.isfinite(np.asarray(product)).all() for product in products):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")


def require_operator(op: Any, shapes: bool = False) -> None:
    """Refuse what is no operator that a measurement can look at.

    Raises:
        InputError: something else, an operator inside a transformation, one over leaves that are no parameters, or,
            but for `shapes`, one of shapes in place of arrays.
    """
    if not isinstance(op, Operator):
        raise InputError(f"this takes an operator, such as cv.hessian(...), got {type(op).__name__}")
    # A new array is traced inside a transformation; putting one on a device compiles nothing outside.
    numerics.require_values(op, jax.device_put(np.zeros(())))
    numerics.require_floating("params", op.params, _NO_PARAMETER)
    if numerics.any_shapes(op) and not shapes:
        raise InputError(numerics.SHAPES)


def _apply_spread(devices: Devices, terms: tuple[tuple[Any, Any], ...], vector: Any) -> Any:
    def local(terms: tuple[tuple[Any, Any], ...], vector: Any) -> Any:
        total = jax.tree.map(jnp.zeros_like, vector)
        for coefficient, term in terms:
            total = _add_term(total, coefficient / devices.pieces, term.on_one_device(), vector, "scan")
        # One vector, so that there is one sum over devices.
        return numerics.unravel(total, jax.lax.psum(numerics.ravel(total), devices.axes))

    whole, example = PartitionSpec(), PartitionSpec(devices.axes)
    placed = tuple((whole, term.partition(whole, example)) for _, term in terms)
    spread = jax.shard_map(local, mesh=devices.mesh, in_specs=(placed, whole), out_specs=whole, check_vma=False)
    return spread(terms, vector)


_apply_spread_compiled = jax.jit(_apply_spread, static_argnums=0)


def _add_term(total: Any, coefficient: Any, term: Any, vector: Any, loop: Loop) -> Any:
    if isinstance(term, LinearizedTerm):
        # From Python its loop would be compiled anew for every product.
        return (add_linearized_compiled if loop == "python" else add_linearized)(total, coefficient, term, vector)
    batches = term.batches.in_even_shares()
    number, size = batches.num_examples, batches.size
    weight, starts = coefficient * (size / number), size * np.arange(batches.count, dtype=np.int32)
    if size == number:
        return _add_batch(total, coefficient, term, 0, vector, size)
    if loop == "python":
        for start in starts:
            total = _add_batch(total, weight, term, start, vector, size)
    else:
        add = lambda total, start: (_add_batch(total, weight, term, start, vector, size), None)  # noqa: E731
        total, _ = jax.lax.scan(add, total, starts)
    for start, rest in batches.rest:
        total = _add_batch(total, coefficient * (rest / number), term, start, vector, rest)
    return total


def _add_stream(total: Any, terms: list[tuple[Any, Term]], vector: Any) -> Any:
    """`total` and the multiples of the products of terms over one stream, in one pass.

    Every batch is awaited before the next is asked for: batches that wait for the device would fill its memory.
    """
    if numerics.any_traced((total, terms, vector)):
        raise InputError("a stream is read from Python: take products outside jit, vmap and grad, or give cv.Batches")
    if not any(bool(leaf.any()) for leaf in jax.tree.leaves(vector)):  # as in a recurrence that has ended
        return total
    stream = terms[0][1].batches
    with stream.parts() as parts:
        for part in parts:
            share = part.num_examples / stream.num_examples
            for coefficient, term in terms:
                total = _add_term(total, coefficient * share, over(term, part), vector, "python")
            jax.block_until_ready(total)
    return total


@partial(jax.jit, inline=True)
def _multiple(factor: Any, vector: Any) -> Any:
    return jax.tree.map(lambda v: jnp.asarray(factor, v.dtype) * v, vector)


@partial(jax.jit, static_argnames="size")
def _add_batch(total: Any, weight: Any, term: Term, start: Any, vector: Any, size: int) -> Any:
    batches = dataclasses.replace(term.batches, arrays=term.batches.take_evenly(start, size), batch_size=None)
    batch = dataclasses.replace(term, batches=batches)
    product = canonical(term_product, term.engine)(batch, vector)
    return jax.tree.map(lambda t, p: t + jnp.asarray(weight, p.dtype) * p, total, product)


tree_matvec_compiled = jax.jit(tree_matvec, static_argnames=("loop", "layout"))
matvec_compiled = jax.jit(matvec, static_argnames=("layout", "loop"))

# Columns side by side in one product: more of them spill the cache, fewer leave the matrix units idle.
_COLUMNS = 8


@jax.jit
def _columns_compiled(op: Operator) -> Array:
    def column(i: Array) -> Array:
        return _flat_matvec(op, jnp.zeros(op.size, op.dtype).at[i].set(1))

    # Whole groups only: what is beyond the last column is zero, and cheaper than compiling a remainder.
    count = -(-op.size // _COLUMNS)
    groups = jax.lax.map(numerics.mapped(column), jnp.arange(count * _COLUMNS).reshape(count, _COLUMNS))
    result: Array = groups.reshape(-1, op.size)[: op.size].T
    return result


def _finite(sign: str, value: Any) -> float:
    number = numerics.number_of(value)
    if not np.isfinite(number):
        raise InputError(f"an operator {sign} takes a finite number, got {number}")
    return number


def _number(sign: str, value: Any) -> Any:
    kinds = (int, float, np.number, jax.Array, np.ndarray)
    if isinstance(value, kinds) and not isinstance(value, bool) and np.ndim(value) == 0:
        dtype = jnp.result_type(value)
        if jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating):
            # Unsigned integers have no negative.
            return jnp.asarray(value, float) if numerics.any_traced(value) else _finite(sign, value)
        raise InputError(f"an operator {sign} takes a real number, got one of type {dtype}")
    what = f"an array of shape {np.shape(value)}" if hasattr(value, "shape") else type(value).__name__
    raise InputError(f"an operator {sign} takes another operator or a number, got {what}")
