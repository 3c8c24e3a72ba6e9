"""What the package uses of other libraries beyond their promises: it does what is needed, and stands in one file."""

import ast
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hessflat.utils import compat

ROOT = Path(__file__).parents[1]
FOLDERS = ("hessflat", "experiments", "configs", "benchmarks", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))

# Packages of JAX with no promise from one release to the next, by https://docs.jax.dev/en/latest/api_compatibility.html
UNPROMISED = re.compile(
    r"jax\.(_src|core|extend|interpreters|lib|experimental)\b|jaxlib\.(?!__version__)|jax\.config\.(?!update)"
    r"|.*\.get_bind_params|.*primitive\.bind$"
)
# Underscores that are documented all the same: named tuples, the end of a process, what notebooks show.
DOCUMENTED = {"_replace", "_fields", "_asdict", "_make", "_field_defaults", "_exit", "_repr_html_", "_repr_png_"}


@pytest.mark.parametrize("number", [jnp.float32(2), 2.0, np.ones(3)])
def test_known_numbers_are_not_traced(number):
    assert not compat.is_traced(number)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad, jax.linearize, jax.make_jaxpr, jax.eval_shape])
def test_what_a_transformed_function_sees_is_traced(transform):
    seen = []

    def function(x):
        seen.append(compat.is_traced(x))
        return x * x

    x = jnp.arange(3.0) if transform is jax.vmap else jnp.float32(2)
    needs_values = transform in (jax.linearize, jax.eval_shape)
    transform(function, x) if needs_values else transform(function)(x)
    assert seen
    assert all(seen)


def test_a_setting_is_read_as_it_stands():
    assert compat.setting("jax_enable_x64") is False
    with jax.enable_x64(True):
        assert compat.setting("jax_enable_x64") is True
    assert compat.setting("jax_numpy_rank_promotion") == "raise"


def closed(function, *args):
    return jax.make_jaxpr(function)(*args)


def test_jaxprs_are_told_from_one_another_and_from_numbers():
    whole = closed(lambda x: 2.0 * x + jnp.arange(3.0), jnp.ones(3))
    assert isinstance(whole, compat.ClosedJaxpr)
    assert isinstance(whole.jaxpr, compat.Jaxpr)
    literals = [v.val for e in whole.jaxpr.eqns for v in e.invars if isinstance(v, compat.Literal)]
    assert 2.0 in literals
    assert not any(isinstance(v, compat.Literal) for v in whole.jaxpr.invars)


@jax.custom_jvp
def cube(x):
    return x**3


cube.defjvp(lambda primals, tangents: (cube(*primals), 3 * primals[0] ** 2 * tangents[0]))


@jax.custom_vjp
def double(x):
    return 2 * x


double.defvjp(lambda x: (double(x), None), lambda _, c: (2 * c,))

EQUATIONS = {
    "sine": jnp.sin,
    "several results": lambda x: jax.lax.top_k(x, 2)[0],
    "nested jit": jax.jit(jnp.tanh),
    "scan": lambda x: jax.lax.scan(lambda c, y: (c + y, c * y), jnp.float32(1), x),
    "while": lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: 2 * c, x),
    "cond": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.cos(x))),
    "custom derivative": cube,
    "custom transposed derivative": double,
    "linear solve": lambda x: jax.scipy.linalg.solve_triangular(jnp.eye(3) + jnp.diag(x), x),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_equations_bound_one_by_one_are_the_function(name):
    function, x = EQUATIONS[name], jnp.array([0.5, 1.5, -2.0])
    whole = closed(function, x)
    values = dict(zip([*whole.jaxpr.constvars, *whole.jaxpr.invars], [*whole.consts, x], strict=True))
    read = lambda v: v.val if isinstance(v, compat.Literal) else values[v]  # noqa: E731
    for equation in whole.jaxpr.eqns:
        outputs = compat.bind(equation, [read(v) for v in equation.invars])
        assert isinstance(outputs, list)
        values.update(zip(equation.outvars, outputs, strict=True))
    expected = jax.tree.leaves(function(x))
    for variable, leaf in zip(whole.jaxpr.outvars, expected, strict=True):
        np.testing.assert_allclose(read(variable), leaf, rtol=1e-6)


def test_an_equation_takes_other_parameters():
    (equation,) = closed(jnp.cumsum, jnp.ones(3)).jaxpr.eqns
    params = dict(equation.params)
    if equation.primitive.name != "cumsum":  # inside a jit
        (equation,) = params["jaxpr"].jaxpr.eqns
        params = dict(equation.params)
    assert params["reverse"] is False
    (backward,) = compat.bind(equation, [jnp.arange(3.0)], params | {"reverse": True})
    np.testing.assert_array_equal(backward, [3, 3, 2])
    assert equation.params["reverse"] is False


def test_an_equation_keeps_the_settings_it_was_traced_under():
    bits = lambda: jax.random.bits(jax.random.wrap_key_data(jnp.arange(2, dtype=jnp.uint32)), (3,))  # noqa: E731
    wholes = []
    for partitionable in (True, False):
        with jax.threefry_partitionable(partitionable):
            wholes.append((closed(bits), np.asarray(bits())))
    draws = []
    for whole, expected in wholes:
        values = dict(zip(whole.jaxpr.constvars, whole.consts, strict=True))
        for equation in whole.jaxpr.eqns:
            inputs = [v.val if isinstance(v, compat.Literal) else values[v] for v in equation.invars]
            values.update(zip(equation.outvars, compat.bind(equation, inputs), strict=True))
        np.testing.assert_array_equal(values[whole.jaxpr.outvars[0]], expected)
        draws.append(expected)
    assert not np.array_equal(*draws)


def test_settings_of_equations_are_compared():
    def traced(partitionable):
        with jax.threefry_partitionable(partitionable):
            return compat.context_of(closed(jnp.sin, jnp.ones(3)).jaxpr.eqns[0])

    assert traced(True) == traced(True)
    assert hash(traced(True)) == hash(traced(True))
    assert traced(True) != traced(False)


scaled = compat.by_platform(
    "scaled", cpu=lambda x, y, *, factor: factor * x + y, default=lambda x, y, *, factor: jnp.tanh(factor * x) + y
)


def test_what_runs_is_that_of_the_platform_a_program_is_lowered_for():
    x, y = jnp.arange(3.0), jnp.ones(3)
    np.testing.assert_array_equal(scaled(x, y, factor=2.0), [1, 3, 5])
    function = jax.jit(lambda x, y: scaled(x, y, factor=2.0))
    np.testing.assert_array_equal(function(x, y), [1, 3, 5])
    lowered = {name: function.trace(x, y).lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda")}
    assert "tanh" not in lowered["cpu"]
    assert "tanh" in lowered["cuda"]
    assert "case" not in lowered["cpu"] + lowered["cuda"]
    (equation,) = closed(lambda x, y: scaled(x, y, factor=2.0), x, y).jaxpr.eqns
    assert equation.primitive.name == "scaled"
    assert equation.params["factor"] == 2.0


def test_what_is_chosen_by_platform_can_be_mapped():
    x, y = jnp.arange(6.0).reshape(2, 3), jnp.ones(3)
    once = jax.vmap(lambda x, y: scaled(x, y, factor=2.0), in_axes=(0, None))
    np.testing.assert_array_equal(once(x, y), 2 * np.arange(6.0).reshape(2, 3) + 1)
    twice = jax.jit(jax.vmap(jax.vmap(lambda x, y: scaled(x, y, factor=3.0), in_axes=(0, None)), in_axes=(1, 0)))
    np.testing.assert_array_equal(twice(x, y), 3 * np.arange(6.0).reshape(2, 3).T + 1)


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


def own_private_names():
    """Everything with an underscore that this project defines: functions, classes, attributes, arguments, modules."""
    names = {path.stem for path in FILES}
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.attr)
    return names


def unpromised_uses(path, own):
    """Lines of a file that use what nobody promises."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if (private and node.attr not in own | DOCUMENTED) or UNPROMISED.match(text):
                yield f"{path.relative_to(ROOT)}:{node.lineno}: {text}"
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = [f"{module}.{alias.name}".strip(".") for alias in node.names]
            for name in names:
                parts = [part for part in name.split(".") if part.startswith("_") and not part.startswith("__")]
                if UNPROMISED.match(name) or set(parts) - own:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {name}"


@pytest.mark.slow
def test_what_one_process_has_is_what_all_have():
    array = np.arange(6, dtype=np.uint32)
    assert_array_equal(compat.from_process(0, array), array)
    assert_array_equal(compat.from_all_processes(array), array[None])
    assert_array_equal(compat.from_all_processes(jnp.asarray(array)), array)


def test_one_file_alone_uses_what_nobody_promises():
    own = own_private_names()
    uses = {path: list(unpromised_uses(path, own)) for path in FILES}
    assert uses.pop(ROOT / "hessflat/utils/compat.py")
    assert [line for lines in uses.values() for line in lines] == []
