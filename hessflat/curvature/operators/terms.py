"""A curvature matrix as data: a product function, the user's functions, and the examples of the mean, in batches.

Examples have the same weight unless weights are given; the last batch may be short. The product is traced once for each
set of functions and shapes.

The module is long because batches, their placement on devices and the functions over them are one value that is passed.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hessflat.curvature import numerics, trees
from hessflat.curvature.operators.weights import (
    Returns,
    Weighted,
    evaluate,
    example_with_weight,
    normalised,
    weighted,
)
from hessflat.utils import compat, convolution, hardware
from hessflat.utils.convolution import Engine, Loop, engine_in_use
from hessflat.utils.errors import InputError, shown
from hessflat.utils.widening import evaluate_wide


class Devices(NamedTuple):
    """The devices over which examples are spread: `axes` of a mesh."""

    mesh: Mesh
    axes: tuple[str, ...]

    @property
    def pieces(self) -> int:
        """Number of pieces that the examples are in."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "weights"],
    meta_fields=["batch_size", "statistics_batch", "devices"],
)
@dataclasses.dataclass(frozen=True)
class Batches:
    """Arrays with a leading example axis, and the number of examples that pass through the model together.

    The curvature is that of the mean over all examples, for every batch size, as long as the loss of a batch is the
    mean of per-example losses. Batch norm in train mode couples examples. There `statistics_batch` is part of the
    definition: the loss is the mean, weighted by size, of the losses of consecutive batches of that many examples.

    A loss that divides by anything but the number of examples, such as Σ m ℓ / Σ m with a mask m of padding or of
    ignored labels, or with class weights, needs `weights=m`. The loss of all data is then Σ m ℓ / Σ m over all of them,
    for every batch size; a batch without weight contributes nothing.

    Arrays whose examples are spread over the devices of a mesh (`jax.device_put` with a `NamedSharding`) are not moved;
    every device computes with its own examples. `spread` does it for any number of examples.

    Args:
        arrays: pytree of arrays [N, ...].
        batch_size: the number of examples per product, which bounds memory and changes nothing else; None takes all at
            once. The last batch holds the remainder and is weighted by its size.
        statistics_batch: the number of examples that share batch-norm statistics; None where examples are not coupled.
            `batch_size` must be a multiple of it.
        weights: an array [N], or [N, ...] with one number per token, at least 0; or the name of an array of `arrays`,
            with dots where it is nested (`"inputs.mask"`).
    """

    arrays: Any
    batch_size: int | None = None
    statistics_batch: int | None = None
    weights: Any = None
    devices: Devices | None = None  # over which the examples are spread, where they are
    in_memory: ClassVar[bool] = True  # `streams.Stream`, which has most of these attributes, is not

    @property
    def like(self) -> "Batches":
        """Batches of the shapes on which functions are traced: these."""
        return self

    @property
    def identity(self) -> tuple[Any, ...]:
        """What tells these from other batches of the same arrays."""
        return self.batch_size, self.statistics_batch

    @contextlib.contextmanager
    def parts(self) -> Iterator[Iterator["Batches"]]:
        """A pass over the data, as batches in memory: these."""
        yield iter((self,))

    @property
    def num_examples(self) -> int:
        """N."""
        result: int = jax.tree.leaves(self.arrays)[0].shape[0]
        return result

    @property
    def is_uneven(self) -> bool:
        """Whether the examples are for several devices but do not divide; then they are whole on each."""
        return self.devices is not None and self.num_examples % self.devices.pieces > 0

    @property
    def shares_statistics(self) -> bool:
        """Whether examples on different devices share statistics."""
        if self.devices is None or self.statistics_batch is None:
            return False
        return self.is_uneven or (self.num_examples // self.devices.pieces) % self.statistics_batch > 0

    @property
    def unweighted(self) -> Any:
        """The arrays as the user's functions take them, without the weights, if there are any."""
        return self.arrays.arrays if isinstance(self.arrays, Weighted) else self.arrays

    @property
    def size(self) -> int:
        """The number of examples in every full batch."""
        return self._cut_up()[0]

    @property
    def count(self) -> int:
        """The number of full batches."""
        return self._cut_up()[1]

    @property
    def rest(self) -> list[tuple[int, int]]:
        """Start and size of the remaining batches: whole batches of statistics, then a short one."""
        return self._cut_up()[2]

    def _cut_up(self) -> tuple[int, int, list[tuple[int, int]]]:
        """`size`, `count` and `rest`."""
        number = self.num_examples
        size = number if self.batch_size is None else min(self.batch_size, number)
        size -= size % min(self.statistics_batch or 1, number)
        start = number // size * size
        left = number - start
        whole = left - left % (self.statistics_batch or 1)
        return size, number // size, [(s, n) for s, n in ((start, whole), (start + whole, left - whole)) if n]

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """Start and size of every batch."""
        return [(i * self.size, self.size) for i in range(self.count)] + self.rest

    def take(self, start: int | Array, size: int) -> Any:
        """The `size` examples from `start` on."""
        if size == self.num_examples:
            return self.arrays
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), self.arrays)

    def in_even_shares(self) -> "Batches":
        """The batches of examples that are spread, each with as many of every device."""
        if self.devices is None or self.batch_size is None or self.statistics_batch is not None or self.is_uneven:
            return self
        pieces = self.devices.pieces
        return dataclasses.replace(self, batch_size=max(self.batch_size // pieces, 1) * pieces)

    def take_evenly(self, start: int | Array, size: int) -> Any:
        """`size` examples, as many of every device that they are spread over, so that none moves.

        Where examples share statistics, or do not divide, they are those of `take`, shared out anew.
        """
        if self.devices is None:
            return self.take(start, size)
        if self.is_uneven or self.statistics_batch is not None:
            # Inside a compiled function examples need not divide: some devices have one more.
            place = NamedSharding(self.devices.mesh, PartitionSpec(self.devices.axes))
            return jax.lax.with_sharding_constraint(self.take(start, size), place)
        if size == self.num_examples:
            return self.arrays
        pieces = self.devices.pieces

        def own(x: Array) -> Array:
            by_device = x.reshape(pieces, -1, *x.shape[1:])
            return jax.lax.dynamic_slice_in_dim(by_device, start // pieces, size // pieces, 1).reshape(-1, *x.shape[1:])

        return jax.tree.map(own, self.arrays)

    def on_one_device(self) -> "Batches":
        """The batches of the examples on one device; `arrays` are these, inside `jax.shard_map`."""
        if self.devices is None or self.batch_size is None:
            return dataclasses.replace(self, devices=None)
        size = max(self.batch_size // self.devices.pieces, self.statistics_batch or 1)
        return dataclasses.replace(self, devices=None, batch_size=size)


def as_batches(data: Any) -> Batches:
    """`data` as checked `Batches`; a pytree of arrays, or of shapes in their place, is one batch.

    Raises:
        InputError: no arrays, no examples, leading axes that differ, batch sizes below 1 or that do
            not divide one another, or examples spread over different devices.
    """
    if not getattr(data, "in_memory", True):
        stream: Batches = data
        return stream
    if isinstance(data, Iterator):  # which `jax.tree` does not take
        kind = type(data).__name__
        raise InputError(f"data must be arrays, got {kind}; batches that come in turn are cv.Stream(batches)")
    batches = data if isinstance(data, Batches) else Batches(data)
    arrays = numerics.as_arrays("data", batches.arrays, finite=False, shapes=True)
    sizes = {x.shape[0] if x.ndim else None for x in jax.tree.leaves(arrays)}
    if None in sizes or len(sizes) > 1:
        shapes = [x.shape for x in jax.tree.leaves(arrays)]
        raise InputError(
            f"every array in data must have the same leading example axis, got shapes {shapes}; for data sets of "
            "different lengths add operators, cv.hessian(f, w, a) + cv.hessian(g, w, b); what belongs to all examples "
            "is state; batches that come in turn are cv.Stream(batches)"
        )
    if sizes == {0}:
        raise InputError("data must hold at least one example, got 0")
    size, statistics = (
        None if value is None else numerics.require_count(name, value)
        for name, value in (("batch_size", batches.batch_size), ("statistics_batch", batches.statistics_batch))
    )
    if size is not None and statistics is not None and size % statistics:
        raise InputError(
            f"batch_size must be a multiple of statistics_batch, {statistics}, since statistics are taken over whole "
            f"batches of them; got {size}"
        )
    devices = _common_devices(arrays)
    if batches.weights is not None:
        place = None if devices is None else NamedSharding(devices.mesh, PartitionSpec(devices.axes))
        arrays = weighted(arrays, batches.weights, place)
    return Batches(arrays, size, statistics, None, devices or batches.devices)


def spread(data: Any, mesh: Mesh | None = None) -> Batches:
    """`data` with its examples over all devices of a mesh, whatever their number.

    If the number of devices divides them, each device holds its own examples. Otherwise each holds them all until an
    operator is made of them, which is a sum over what divides and over the rest: of the first each device holds its
    own, of the rest some have one example and the others none. If examples that do not divide share statistics, each
    device holds them all, and XLA shares out the computation.

    Args:
        data: pytree of arrays [N, ...], or `Batches`.
        mesh: the devices; None takes those that the arrays are whole on, and leaves arrays on one device there.

    Raises:
        InputError: a stream, or as `Batches`.
    """
    batches = as_batches(data)
    if not batches.in_memory:
        raise InputError("a stream cannot be spread over devices: spread the arrays of its batches")
    if mesh is None:
        mesh = hardware.mesh_of("data", batches.arrays)
    if mesh is None or batches.devices is not None:
        return batches
    devices = Devices(mesh, tuple(mesh.axis_names))
    place = NamedSharding(mesh, PartitionSpec(devices.axes))
    spread = dataclasses.replace(batches, devices=devices)
    if spread.is_uneven:
        place = NamedSharding(mesh, PartitionSpec())
    return dataclasses.replace(spread, arrays=hardware.placed(batches.arrays, place))


def shares(batches: Batches, apart: bool) -> list[tuple[float, Batches]]:
    """The examples that divide over the devices, spread evenly, and the rest, with their shares of the mean.

    Where the devices compute `apart`, each has one example of the rest, or one that does not count. Else each holds
    the rest whole, and XLA shares out the computation.
    """
    devices, number = batches.devices, batches.num_examples
    assert devices is not None
    place = NamedSharding(devices.mesh, PartitionSpec(devices.axes))
    main = number - number % devices.pieces
    weights: Any = batches.arrays.weights if isinstance(batches.arrays, Weighted) else np.ones(number, np.float32)
    if apart:
        rest = hardware.placed(_one_each(batches, weights, np.arange(main, main + devices.pieces)), place)
    else:
        rest = jax.tree.map(lambda x: x[main:], batches.arrays)
    parts: list[tuple[float, Any]] = [(float(weights[main:].sum()), rest)]
    if main:
        first = jax.tree.map(lambda x: x[:main], batches.arrays)
        parts.insert(0, (float(weights[:main].sum()), hardware.placed(first, place)))
    parts = [(w, normalised(part) if isinstance(part, Weighted) else part) for w, part in parts if w > 0]
    total = sum(w for w, _ in parts)
    return [(w / total, dataclasses.replace(batches, arrays=part)) for w, part in parts]


def _one_each(batches: Batches, weights: Any, rows: np.ndarray) -> Weighted:
    """The examples `rows`; where there are no more, the last one again, without weight."""
    counted = (rows < batches.num_examples).astype(np.float32).reshape(-1, *[1] * (weights.ndim - 1))
    rows = np.minimum(rows, batches.num_examples - 1)
    return Weighted(jax.tree.map(lambda x: x[rows], batches.unweighted), weights[rows] * counted)


def _common_devices(arrays: Any) -> Devices | None:
    """The mesh axes over which the examples of `arrays` are spread, if they are."""
    first, *others = (_sharded_axes(x) for x in jax.tree.leaves(arrays))
    if any(other != first for other in others):
        raise InputError("every array in data must have its examples spread over the same devices in the same way")
    return first


def _sharded_axes(x: Array) -> Devices | None:
    sharding = None if numerics.any_traced(x) else x.sharding
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh):
        return None
    if not len(sharding.spec) or sharding.spec[0] is None:
        return None
    first = sharding.spec[0]
    devices = Devices(sharding.mesh, first if isinstance(first, tuple) else (first,))
    return devices if devices.pieces > 1 else None


@dataclasses.dataclass(frozen=True, eq=False)
class UserFunction:
    """A function with a hash of what it reads from outside: where that changes, it is another function.

    Compiled programs are known by their functions. Without the hash, a number that a loss reads from a closure, a
    global or `self` would stay in them as it was when they were traced.
    """

    function: Callable[..., Any]
    digest: str
    kept: list[Any]  # the objects behind the hash, some of which it knows by identity

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UserFunction) and (self.function, self.digest) == (other.function, other.digest)

    def __hash__(self) -> int:
        return hash((self.function, self.digest))


def user_function(function: Callable[..., Any]) -> UserFunction:
    """`function` as it is now."""
    function = function.function if isinstance(function, UserFunction) else function
    return UserFunction(function, *compat.fingerprint(function))


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["function"])
@dataclasses.dataclass(frozen=True)
class Scaling:
    """A symmetric map of vectors, `function(vector, *arrays)`: new coordinates, in which a matrix A is S A S."""

    function: Callable[..., Any]
    arrays: tuple[Any, ...]

    def __call__(self, vector: Any) -> Any:
        return jax.tree.map(lambda s, v: s.astype(v.dtype), self.function(vector, *self.arrays), vector)


def multiplied(vector: Any, factors: Any) -> Any:
    """A diagonal S, by a tree like the vectors."""
    return jax.tree.map(jnp.multiply, vector, factors)


Product = Callable[[tuple[Callable[..., Any], ...], Any, Any, Any], Any]


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "batches", "rest", "state", "spare", "scalings"],
    meta_fields=["product", "functions", "returns", "engine", "narrow", "is_partitioned"],
)
@dataclasses.dataclass(frozen=True)
class Term:
    """One matrix: `product(functions, params, batch, vector)`, averaged over the batches by their sizes."""

    product: Product
    functions: tuple[Callable[..., Any], ...]  # the first takes the parameters, the others the outputs of the first
    returns: tuple[Returns, ...]  # what each function gives
    params: Any  # the differentiated parameters; None in the places of `rest`
    batches: Batches  # or a `Stream` of them
    rest: Any = None  # the parameters that are held fixed; None where there are none
    state: Any = None  # a third argument for every function, such as running statistics; None where there is none
    spare: Any = None  # an example that replaces those of a batch without weight; None where no batch can be without
    engine: Engine | None = None  # how products are evaluated; None is the default of the environment
    narrow: bool = False  # whether some of the program is of less than 32 bits; it is evaluated in float32 then
    # Whether no device can compute with its own examples alone, because parameters are spread over devices or examples
    # of several share statistics. XLA partitions the product then.
    is_partitioned: bool = False
    scalings: tuple[Scaling, ...] = ()  # of vectors before the product, the outermost first, and of the product after

    def as_it_is_now(self) -> "Term":
        """The term with what its functions read from outside now."""
        functions = tuple(map(user_function, self.functions))
        roots = tuple(f if (f := s.function) is multiplied else user_function(f) for s in self.scalings)
        if functions == self.functions and roots == tuple(s.function for s in self.scalings):
            return self
        scalings = tuple(dataclasses.replace(s, function=f) for s, f in zip(self.scalings, roots, strict=True))
        return dataclasses.replace(self, functions=functions, scalings=scalings)

    def on_one_device(self) -> "Term":
        """The term over the examples that one device holds, inside `jax.shard_map`."""
        return dataclasses.replace(self, batches=self.batches.on_one_device())

    def partition(self, whole: Any, example: Any) -> "Term":
        """The partition of each array over devices: examples are spread, all else is replicated."""
        specs = jax.tree.map(lambda _: whole, self)
        arrays = jax.tree.map(lambda _: example, self.batches.arrays)
        result: Term = dataclasses.replace(specs, batches=dataclasses.replace(self.batches, arrays=arrays))
        return result


def term_product(term: Term, vector: Any) -> Any:
    """The product over all examples of the term at once."""
    if term.scalings:
        for scaling in term.scalings:
            vector = scaling(vector)
        return scaled_back(term, term_product(dataclasses.replace(term, scalings=()), vector))
    if term.narrow:
        return wide_product(term, vector)
    return term.product(bound_functions(term), term.params, term.batches.arrays, vector)


def scaled_back(term: Term, product: Any) -> Any:
    """The product of a term, or a row of its Jacobian, in the coordinates of its scalings."""
    for scaling in reversed(term.scalings):
        product = scaling(product)
    return product


def wide_product(term: Term, vector: Any) -> Any:
    """`term_product` with a vector of at least 32 bits, traced as the functions have it and evaluated in float32."""
    plain = dataclasses.replace(term, narrow=False)
    like = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), term.params)
    closed = jax.make_jaxpr(term_product)(plain, like)
    results = evaluate_wide(closed.jaxpr, closed.consts, [*jax.tree.leaves(plain), *jax.tree.leaves(vector)])
    return jax.tree.unflatten(jax.tree.structure(vector), results)


def bound_functions(term: Term) -> tuple[Callable[..., Any], ...]:
    """The user's functions of two arguments, parameters (or outputs) and batch; all other arguments are bound."""
    pairs = zip(term.functions, term.returns, strict=True)
    return tuple(_bound(term, i, function, returns) for i, (function, returns) in enumerate(pairs))


def _bound(term: Term, position: int, function: Callable[..., Any], returns: Returns) -> Callable[..., Any]:
    function = function.function if isinstance(function, UserFunction) else function
    extra = () if term.state is None else (term.state,)
    statistics, has_weights = term.batches.statistics_batch, isinstance(term.batches.arrays, Weighted)

    def with_rest(x: Any, batch: Any) -> Any:
        if position == 0 and term.rest is not None:
            x = trees.merge(x, term.rest)
        return evaluate(function, returns, x, batch, term.spare, extra) if has_weights else function(x, batch, *extra)

    call = function if term.rest is None and not extra and not has_weights else with_rest
    if statistics is None or term.batches.num_examples <= statistics:
        return call

    def over_batches(x: Any, batch: Any) -> Any:
        # The vmap is differentiated, not the derivative mapped, so that kernels have one gradient for all batches.
        batches = jax.tree.map(lambda leaf: leaf.reshape(-1, statistics, *leaf.shape[1:]), batch)
        results = numerics.mapped(call, in_axes=(None if position == 0 else 0, 0))(x, batches)
        return results if returns == "each" else jax.tree.map(lambda r: jnp.mean(r, axis=0), results)

    return over_batches


def over(term: Term, part: Batches) -> Term:
    """The term over a part of its data, as a pass over them gives it."""
    if part is term.batches:
        return term
    # What replaces examples may differ in shape from batch to batch.
    spare = example_with_weight(part.arrays, always=True) if isinstance(part.arrays, Weighted) else None
    return dataclasses.replace(term, batches=part, spare=spare)


def batches_of_one_device(term: Term) -> Batches:
    """The shapes of the batches on one device; where XLA partitions the product, those of all."""
    batches = term.batches.like
    if term.is_partitioned or term.batches.devices is None:
        return dataclasses.replace(batches, devices=None)
    pieces = term.batches.devices.pieces
    piece = lambda x: jax.ShapeDtypeStruct((x.shape[0] // pieces, *x.shape[1:]), x.dtype)  # noqa: E731
    return dataclasses.replace(batches.on_one_device(), arrays=jax.tree.map(piece, batches.arrays))


def shapes_of_product(term: Term, size: int | None = None) -> tuple[Any, ...]:
    """A hashable key of the equations of a product over `size` examples; None is a whole batch of one device."""
    batches = batches_of_one_device(term)
    size = batches.size if size is None else size
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batches.arrays)
    batch = dataclasses.replace(batches, arrays=arrays, batch_size=None)
    engine = engine_in_use(term.engine)
    leaves, structure = jax.tree.flatten(dataclasses.replace(term, batches=batch, engine=engine))
    settings = [compat.setting(name) for name in ("jax_default_matmul_precision", "jax_enable_x64")]
    return structure, numerics.shapes_and_types(leaves), str(settings)


@functools.lru_cache(maxsize=256)
def traced_product(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], settings: str) -> tuple[Any, ...]:
    """The jaxpr of a product, its variables of parameters, batch and vector, the structure of its result, and whether a
    CPU evaluates it slowly within a compiled loop.
    """
    term = jax.tree.unflatten(structure, shapes)
    # Of 32 bits at least, as vectors are: scalings would round to the type of narrow parameters.
    vector = jax.tree.map(lambda p: p.update(dtype=jnp.promote_types(p.dtype, jnp.float32)), term.params)
    closed, shape = jax.make_jaxpr(term_product, return_shape=True)(term, vector)
    if term.engine == "jaxpr":
        closed = convolution.canonical_jaxpr(closed)
    # The leaves of a term are those of its parameters, its batch, and all other arrays, in this order.
    first, last = (len(jax.tree.leaves(tree)) for tree in (term.params, (term.params, term.batches)))
    variables, count = closed.jaxpr.invars, len(shapes)
    constants = (*variables[:first], *variables[last:count])
    inputs = constants, tuple(variables[first:last]), tuple(variables[count:])
    return closed, inputs, jax.tree.structure(shape), convolution.has_slow(closed.jaxpr.eqns)


def loop_for(op: Any, loop: Loop | None = None) -> Loop:
    """`loop` if given; otherwise the loop over batches that suits `op`, an `Operator`, and its devices.

    "python" is for products that a CPU evaluates slowly within a compiled loop, such as convolutions.

    Raises:
        InputError: an unknown loop, or a compiled one for data that are read from Python.
    """
    if loop is not None and (not isinstance(loop, str) or loop not in ("scan", "python")):
        raise InputError(f"loop must be 'scan', 'python' or None to choose, got {shown(loop)}")
    if loop in ("scan", None) and not all(term.batches.in_memory for term in op.terms):
        if loop == "scan":
            raise InputError("a stream is read from Python, got loop='scan'; leave loop out")
        return "python"
    if loop is None:
        if hardware.platform(op) != "cpu":
            return "scan"
        with numerics.matmul_precision():
            # A linearised term is made for compiled loops.
            slow = [traced_product(*shapes_of_product(term))[-1] for term in op.terms if isinstance(term, Term)]
            return "python" if any(slow) else "scan"
    return loop
