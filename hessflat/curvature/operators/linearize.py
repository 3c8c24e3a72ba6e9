"""What of a product does not depend on the vector is computed once and kept.

A product traced to a list of equations falls into three stages: what depends on the parameters only, what depends on
the batch as well, and what depends on the vector. The first two, the forward and the backward pass of the network,
are run once; their results that the third needs (activations, masks) stay in memory, and every product runs the third
alone. That is `jax.linearize`, for any product that is linear in its vector, batch by batch.
"""

import dataclasses
import functools
from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from hessflat.curvature.numerics import trees
from hessflat.curvature.operators.terms import Batches, Term, product_of
from hessflat.utils import compat, convolution, memory
from hessflat.utils.convolution import canonical, run_equations, values_of

# Results that are cheaper to make again than to keep: they only move or repeat numbers.
_MADE_AGAIN = {
    *("broadcast_in_dim", "iota", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type"),
    *("copy", "rev", "pad", "slice", "concatenate"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Stages:
    """The equations of one product by what they depend on; static, made once per functions and shapes."""

    constants: tuple[Any, ...]  # variables of parameters, fixed parameters and state
    batch: tuple[Any, ...]
    vector: tuple[Any, ...]
    captured: dict[Any, Any]  # variables of what the user's functions closed over, and their values
    once: tuple[Any, ...]  # equations
    each: tuple[Any, ...]
    linear: tuple[Any, ...]
    kept_once: tuple[Any, ...]  # variables
    kept_each: tuple[Any, ...]
    results: tuple[Any, ...]
    structure: Any

    @functools.cached_property
    def is_slow_in_loops(self) -> bool:
        """Whether there is a convolution among them that a CPU runs slowly inside loops."""
        return convolution.has_slow([*self.once, *self.each, *self.linear])


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "constants", "batches", "once", "each", "remainders"],
    meta_fields=["stages", "remainder_stages"],
)
@dataclasses.dataclass(frozen=True)
class LinearizedTerm:
    """A `Term` with the first two stages done."""

    params: Any
    constants: list[Array]
    batches: Batches
    once: list[Array]
    each: list[Array]  # [batches, ...]
    remainders: tuple[tuple[list[Array], list[Array]], ...]
    stages: Stages
    remainder_stages: tuple[Stages, ...]

    def on_one_device(self) -> "LinearizedTerm":
        """The term over the examples that one device holds, inside `jax.shard_map`."""
        return dataclasses.replace(self, batches=self.batches.on_one_device())

    def partition(self, whole: Any, example: Any) -> "LinearizedTerm":
        """How each array lies on the devices: what there is for each batch is spread, all else is everywhere."""
        specs = jax.tree.map(lambda _: whole, self)
        spread = lambda tree: jax.tree.map(lambda _: example, tree)  # noqa: E731
        return dataclasses.replace(
            specs,
            batches=dataclasses.replace(self.batches, arrays=spread(self.batches.arrays)),
            each=spread(self.each),
            remainders=tuple((jax.tree.map(lambda _: whole, once), spread(each)) for once, each in self.remainders),
        )


def linearize(term: Term, limit: int) -> Term | LinearizedTerm:
    """`term` with its first stages done, or as it is where what would be kept takes more than `limit` bytes."""
    batches = _batches_of_one_device(term)
    stages = _stages_for(term, batches, batches.size)
    remainders = tuple(_stages_for(term, batches, size) for _, size in batches.rest)
    run = partial(_run_spread if term.batches.devices else _run, stages=stages, remainders=remainders)
    if any(compat.is_traced(value) for s in (stages, *remainders) for value in s.captured.values()):
        return term
    if memory.size_of(jax.eval_shape(run, term)) > limit:
        return term
    constants, once, each, rest = run(term)
    return LinearizedTerm(term.params, constants, term.batches, once, each, rest, stages, remainders)


def is_slow_in_loops(term: Term | LinearizedTerm) -> bool:
    """Whether products of `term` had better be driven from Python; what was kept is made for compiled loops."""
    if isinstance(term, LinearizedTerm) or jax.default_backend() != "cpu":
        return False
    batches = _batches_of_one_device(term)
    return _stages_for(term, batches, batches.size).is_slow_in_loops


def add_linearized(total: Any, coefficient: Any, term: LinearizedTerm, vector: Any) -> Any:
    """`total` and the coefficient times the product, batch by batch."""
    batches = term.batches
    number, size, count = batches.num_examples, batches.size, batches.count

    def add(total: Any, stages: Stages, once: Any, each: Any, start: Any, size: int) -> Any:
        batch = jax.tree.leaves(batches.arrays if size == number else batches.take(start, size))
        values = dict(stages.captured)
        for variables, leaves in (
            (stages.constants, term.constants),
            (stages.batch, batch),
            (stages.vector, jax.tree.leaves(vector)),
            (stages.kept_once, once),
            (stages.kept_each, each),
        ):
            values.update(zip(variables, leaves, strict=True))
        run_equations(stages.linear, values)
        results = jax.tree.unflatten(stages.structure, values_of(stages.results, values))
        weight = coefficient * (size / number)
        return jax.tree.map(lambda t, r: t + jnp.asarray(weight, r.dtype) * r, total, results)

    if count == 1:
        total = add(total, term.stages, term.once, _without_axis(term.each), 0, size)
    else:
        total, _ = jax.lax.scan(
            lambda total, at: (add(total, term.stages, term.once, at[1], at[0], size), None),
            total,
            (size * jnp.arange(count), term.each),
        )
    for (start, rest), stages, (once, each) in zip(batches.rest, term.remainder_stages, term.remainders, strict=True):
        total = add(total, stages, once, _without_axis(each), start, rest)
    return total


def _without_axis(each: list[Array]) -> list[Array]:
    return [jnp.squeeze(x, 0) for x in each]


def _batches_of_one_device(term: Term) -> Batches:
    """How what one device holds is cut, as shapes."""
    batches, pieces = term.batches, term.batches.devices.pieces if term.batches.devices else 1
    piece = lambda x: jax.ShapeDtypeStruct((x.shape[0] // pieces, *x.shape[1:]), x.dtype)  # noqa: E731
    return dataclasses.replace(batches.on_one_device(), arrays=jax.tree.map(piece, batches.arrays))


@partial(jax.jit, static_argnames=("stages", "remainders"))
def _run(term: Term, stages: Stages, remainders: tuple[Stages, ...]) -> Any:
    """The first two stages over every batch: constants, kept once, kept for each batch, and for the remainders."""
    batches = term.batches
    constants = jax.tree.leaves((term.params, term.rest, term.state))

    def once_of(stages: Stages) -> dict[Any, Any]:
        values = dict(stages.captured) | dict(zip(stages.constants, constants, strict=True))
        run_equations(stages.once, values)
        return values

    def each_of(stages: Stages, values: dict[Any, Any], start: Any, size: int) -> list[Any]:
        leaves = jax.tree.leaves(batches.take(start, size))
        values = values | dict(zip(stages.batch, leaves, strict=True))
        run_equations(stages.each, values)
        return values_of(stages.kept_each, values)

    values = once_of(stages)
    starts = batches.size * jnp.arange(batches.count)
    if batches.count == 1:
        each = [x[None] for x in each_of(stages, values, 0, batches.size)]
    else:
        each = jax.lax.map(lambda start: each_of(stages, values, start, batches.size), starts)
    rest = []
    for (start, size), own in zip(batches.rest, remainders, strict=True):
        own_values = once_of(own)
        kept = [x[None] for x in each_of(own, own_values, start, size)]
        rest.append((values_of(own.kept_once, own_values), kept))
    return constants, values_of(stages.kept_once, values), each, tuple(rest)


def _run_spread(term: Term, stages: Stages, remainders: tuple[Stages, ...]) -> Any:
    devices = term.batches.devices
    assert devices is not None
    whole, example = PartitionSpec(), PartitionSpec(devices.axes)
    return jax.jit(
        jax.shard_map(
            lambda term: _run(term.on_one_device(), stages, remainders),
            mesh=devices.mesh,
            in_specs=(term.partition(whole, example),),
            out_specs=(whole, whole, example, tuple((whole, example) for _ in remainders)),
            check_vma=False,
        )
    )(term)


def _stages_for(term: Term, batches: Batches, size: int) -> Stages:
    arrays = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batches.arrays)
    batch = dataclasses.replace(batches, arrays=arrays, batch_size=None)
    leaves, structure = jax.tree.flatten(dataclasses.replace(term, batches=batch))
    return _stages(structure, trees.shapes_of(leaves), str(compat.setting("jax_default_matmul_precision")))


@functools.lru_cache(maxsize=256)
def _stages(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], precision: str) -> Stages:
    term = jax.tree.unflatten(structure, shapes)
    constants, batch = (term.params, term.rest, term.state), term.batches.arrays

    def product(constants: Any, batch: Any, vector: Any) -> Any:
        params, rest, state = constants
        batches = dataclasses.replace(term.batches, arrays=batch)
        return product_of(dataclasses.replace(term, params=params, rest=rest, state=state, batches=batches), vector)

    closed, shape = jax.make_jaxpr(canonical(product), return_shape=True)(constants, batch, term.params)
    counts = [len(jax.tree.leaves(tree)) for tree in (constants, batch)]
    variables = closed.jaxpr.invars
    first, last = counts[0], sum(counts)
    groups = tuple(variables[:first]), tuple(variables[first:last]), tuple(variables[last:])
    return _cut(closed, groups, jax.tree.structure(shape))


def _cut(closed: Any, groups: tuple[tuple, tuple, tuple], structure: Any) -> Stages:
    """The stages of a traced product whose inputs are `groups` of constants, batch and vector."""
    constants, batch, vector = groups
    level = dict.fromkeys(constants, 0) | dict.fromkeys(batch, 1) | dict.fromkeys(vector, 2)
    captured = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    given = set(level) | set(captured)
    equations, results = _without_repeats(closed.jaxpr)
    by_level: tuple[list, list, list] = ([], [], [])
    source: dict[Any, Any] = {}
    for equation in equations:
        depends = max((level.get(v, 0) for v in _variables(equation.invars)), default=0)
        level |= dict.fromkeys(equation.outvars, depends)
        source |= dict.fromkeys(equation.outvars, equation)
        by_level[depends].append(equation)

    def inputs_of(users: list, results: Iterable[Any], above: int) -> tuple[list, list]:
        """What `users` and `results` need from below: equations to do again, and variables to keep."""
        again: dict[int, Any] = {}
        kept: dict[Any, None] = {}
        waiting = [v for equation in users for v in _variables(equation.invars)] + list(_variables(results))
        while waiting:
            variable = waiting.pop()
            if variable in given or level[variable] >= above:
                continue
            equation = source[variable]
            if equation.primitive.name in _MADE_AGAIN:
                if id(equation) not in again:
                    again[id(equation)] = equation
                    waiting.extend(_variables(equation.invars))
            else:
                kept[variable] = None
        return [e for e in equations if id(e) in again], list(kept)

    again, below_linear = inputs_of(by_level[2], results, 2)
    linear = _in_order(equations, [*again, *by_level[2]])
    kept_each = [v for v in below_linear if level[v] == 1]
    again_each, below_each = inputs_of(by_level[1], [], 1)
    each = _in_order(equations, [*again_each, *by_level[1]])
    kept_once = list(dict.fromkeys([v for v in below_linear if level[v] == 0] + below_each))
    return Stages(
        constants,
        batch,
        vector,
        captured,
        tuple(by_level[0]),
        tuple(each),
        tuple(linear),
        tuple(kept_once),
        tuple(kept_each),
        tuple(results),
        structure,
    )


def _without_repeats(jaxpr: compat.Jaxpr) -> tuple[list, list]:
    """Equations and results with what is computed twice computed, and so kept, once: H, G and R share a network."""
    same: dict[Any, Any] = {}
    seen: dict[Any, Any] = {}
    equations = []
    for equation in jaxpr.eqns:
        inputs = [v if isinstance(v, compat.Literal) else same.get(v, v) for v in equation.invars]
        equation = equation.replace(invars=inputs)
        names = tuple((v.val.item(), v.aval) if _is_number(v) else id(v) for v in inputs)
        try:
            key = (equation.primitive, tuple(sorted(equation.params.items())), names)
            first = seen.setdefault(key, equation)
        except TypeError:  # parameters that cannot be compared: an equation of its own
            first = equation
        if first is equation:
            equations.append(equation)
        else:
            same.update(zip(equation.outvars, first.outvars, strict=True))
    return equations, [v if isinstance(v, compat.Literal) else same.get(v, v) for v in jaxpr.outvars]


def _is_number(atom: Any) -> bool:
    return isinstance(atom, compat.Literal) and hasattr(atom.val, "item") and getattr(atom.val, "ndim", 0) == 0


def _in_order(equations: list, wanted: list) -> list:
    numbers = {id(equation) for equation in wanted}
    return [equation for equation in equations if id(equation) in numbers]


def _variables(atoms: Iterable[Any]) -> Iterable[Any]:
    return (atom for atom in atoms if not isinstance(atom, compat.Literal))
