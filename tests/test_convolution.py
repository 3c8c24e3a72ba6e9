import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from hessflat.utils import convolution, hardware
from hessflat.utils.errors import InputError

CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def images(*shape, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(size=shape)))


def convolutions_in(function, *args):
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return [e.params for e in convolution.equations_of(jaxpr.eqns) if e.primitive.name == "conv_general_dilated"]


def pixel_by_pixel(x, kernel, stride, padding, dilation):
    """The definition, in float64 and with loops: y[n, i, j] = Σ x[n, s i + d a, s j + d b] k[a, b], x padded."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    x = np.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = (
        (n - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    )
    y = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i, j, a, b in itertools.product(*map(range, (rows, columns, *kernel.shape[:2]))):
        y[:, i, j] += x[:, stride * i + dilation * a, stride * j + dilation * b] @ kernel[a, b]
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 2), (1, 0))])
def test_derivatives_are_those_of_the_definition(stride, dilation, padding):
    """Σ y · c is bilinear: its gradients, evaluated along a direction, are the definition's values."""
    x, kernel = images(5, 7, 6, 2), images(3, 3, 2, 4, seed=1)

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, rhs_dilation=(dilation, dilation), dimension_numbers=CHANNELS_LAST
        )

    reference = pixel_by_pixel(x, kernel, stride, padding, dilation)
    cotangent = images(*reference.shape, seed=2)
    assert_allclose(jax.jit(convolution.canonical(conv))(x, kernel), reference, rtol=1e-4, atol=1e-5)
    pull = convolution.canonical(lambda x, kernel: jax.vjp(conv, x, kernel)[1](cotangent))
    to_x, to_kernel = jax.jit(pull)(x, kernel)
    dx, dkernel = images(*x.shape, seed=3), images(*kernel.shape, seed=4)
    c = np.asarray(cotangent, np.float64)
    expected = (pixel_by_pixel(dx, kernel, stride, padding, dilation) * c).sum()
    assert_allclose(np.vdot(to_x, dx), expected, rtol=1e-4, atol=1e-4)
    expected = (pixel_by_pixel(x, dkernel, stride, padding, dilation) * c).sum()
    assert_allclose(np.vdot(to_kernel, dkernel), expected, rtol=1e-4, atol=1e-4)


def network(params, x):
    x = jax.lax.conv_general_dilated(x, params["a"], (2, 2), "SAME", dimension_numbers=CHANNELS_LAST)
    x = jax.nn.relu(x)
    x = jax.lax.conv_general_dilated(x, params["b"], (1, 1), "VALID", dimension_numbers=CHANNELS_LAST)
    return jnp.mean(jnp.tanh(x) ** 2)


def second_derivative(params, x, vector):
    return jax.jvp(lambda p: jax.grad(network)(p, x), (params,), (vector,))[1]


@pytest.fixture(scope="module")
def problem():
    params = {"a": images(3, 3, 2, 3), "b": images(2, 2, 3, 2, seed=1)}
    return params, images(6, 8, 8, 2, seed=2), {"a": images(3, 3, 2, 3, seed=3), "b": images(2, 2, 3, 2, seed=4)}


def test_second_derivatives_keep_their_values_and_become_canonical(problem):
    rewritten = convolution.canonical(second_derivative)
    for plain, other in zip(*(jax.tree.leaves(f(*problem)) for f in (second_derivative, rewritten)), strict=True):
        assert_allclose(other, plain, rtol=1e-4, atol=1e-6)
    assert not all(map(convolution.is_canonical, convolutions_in(second_derivative, *problem)))
    assert all(map(convolution.is_canonical, convolutions_in(rewritten, *problem)))


def test_bodies_of_loops_are_rewritten(problem):
    params, x, vector = problem

    def looped(params, x, vector):
        return jax.lax.scan(lambda v, _: (second_derivative(params, x, v), None), vector, None, length=2)[0]

    rewritten = convolution.canonical(looped)
    assert all(map(convolution.is_canonical, convolutions_in(rewritten, params, x, vector)))
    for plain, other in zip(*(jax.tree.leaves(f(params, x, vector)) for f in (looped, rewritten)), strict=True):
        assert_allclose(other, plain, rtol=1e-4, atol=1e-7)


def test_the_loop_is_driven_from_the_host_where_a_convolution_stays_slow(problem):
    x = problem[1]
    assert convolution.choose_loop(second_derivative, *problem) == "python"
    assert convolution.choose_loop(convolution.canonical(second_derivative), *problem) == "scan"

    def grouped(kernel, x):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=CHANNELS_LAST, feature_group_count=2
        )
        return jnp.sum(y**2)

    kernel = images(3, 3, 1, 4)
    rewritten = convolution.canonical(jax.grad(grouped))
    assert convolution.choose_loop(rewritten, kernel, x) == "python"
    assert_allclose(rewritten(kernel, x), jax.grad(grouped)(kernel, x), rtol=1e-5)


def test_one_and_three_dimensions():
    for rank in (1, 3):
        spatial = "DHW"[-rank:]
        numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
        x, kernel = images(4, *[6] * rank, 2), images(*[3] * rank, 2, 3, seed=1)

        def total(kernel, x, numbers=numbers, rank=rank):
            return jnp.sum(
                jnp.sin(jax.lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=numbers))
            )

        plain = jax.grad(total)(kernel, x)
        assert_allclose(convolution.canonical(jax.grad(total))(kernel, x), plain, rtol=1e-4, atol=1e-5)


def test_calls_and_custom_derivatives_are_inlined():
    @jax.jit
    def inner(x):
        return jax.nn.relu(x) * 2

    function = convolution.canonical(lambda x: jax.nn.softplus(inner(x)))
    names = {e.primitive.name for e in jax.make_jaxpr(function)(jnp.ones(3)).jaxpr.eqns}
    assert not names & {"jit", "pjit", "custom_jvp_call"}
    assert_allclose(function(jnp.array([-1.0, 2.0])), np.log1p(np.exp([0.0, 4.0])), rtol=1e-6)


def test_what_runs_is_chosen_where_the_program_is_lowered(problem):
    """For CPUs the gradient of a kernel is a product of matrices; for GPUs convolutions stay what they were."""
    params, x, _ = problem
    gradient = jax.grad(network)
    traced = {"rewritten": jax.jit(convolution.canonical(gradient)).trace(params, x)}
    traced["plain"] = jax.jit(gradient).trace(params, x)
    forms, products = {}, {}
    for key in itertools.product(traced, ("cpu", "cuda")):
        text = traced[key[0]].lower(lowering_platforms=(key[1],)).as_text()
        forms[key] = sorted(re.findall(r"dim_numbers = (.*?->\[.*?\])", text))
        products[key] = text.count("stablehlo.dot_general")
    assert forms["rewritten", "cuda"] == forms["plain", "cuda"] == forms["plain", "cpu"]
    assert products["rewritten", "cuda"] == 0 < products["rewritten", "cpu"]
    assert len(forms["rewritten", "cpu"]) + products["rewritten", "cpu"] == len(forms["plain", "cpu"])
    assert set(forms["rewritten", "cpu"]) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"} != set(forms["plain", "cpu"])


# Rows, widths of x and y, and whether the two change places.
@pytest.mark.parametrize(("rows", "widths", "swapped"), [((80,), (3, 8), False), ((5, 16), (9, 2), True)])
def test_products_over_examples_transpose_the_narrower_matrix(rows, widths, swapped):
    x, y = (images(*rows, width, seed=width) for width in widths)
    axes = tuple(range(len(rows)))

    def product(x, y):
        precision = (jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT)
        return jax.lax.dot_general(x, y, ((axes, axes), ((), ())), precision=precision)

    fast = convolution.canonical(product)
    flat = [np.asarray(matrix, np.float64).reshape(-1, matrix.shape[-1]) for matrix in (x, y)]
    assert_allclose(jax.jit(fast)(x, y), flat[0].T @ flat[1], rtol=1e-5, atol=1e-5)
    vectors = jnp.stack([y, 2 * y, 0 * y])
    assert_allclose(jax.vmap(fast, (None, 0))(x, vectors)[1], 2 * flat[0].T @ flat[1], rtol=1e-5, atol=1e-5)
    (dot,) = (e for e in jax.make_jaxpr(fast)(x, y).jaxpr.eqns if e.primitive.name == "dot_general")
    assert dot.outvars[0].aval.shape == tuple(sorted(widths))
    assert [one == jax.lax.Precision.HIGHEST for one in dot.params["precision"]] == [not swapped, swapped]
    # Nothing merges the transposition back, and accelerators have no barrier.
    compiled = jax.jit(fast).lower(x, y).compile().as_text()
    assert re.findall(r"f32\[(\d+,\d+)\]\{[\d,]*\} dot\(", compiled) == ["{},{}".format(*sorted(widths))]
    barriers = [
        jax.jit(fast).trace(x, y).lower(lowering_platforms=(platform,)).as_text().count("optimization_barrier")
        for platform in ("cpu", "cuda")
    ]
    assert barriers == [1, 0]


def test_products_over_examples_may_be_differentiated_and_mapped():
    x, y, direction = images(80, 3), images(80, 8, seed=1), images(3, 8, seed=2)
    fast = convolution.canonical(lambda x, y: x.T @ y)
    along = lambda y: jnp.vdot(fast(x, y), direction)  # noqa: E731
    assert_allclose(jax.jit(jax.grad(along))(y), x @ direction, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.vmap(jax.grad(along))(jnp.stack([y, 3 * y]))[1], x @ direction, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.jacfwd(along)(y), x @ direction, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.vmap(fast, (1, None), 1)(jnp.stack([x, 2 * x], 1), y)[:, 1], 2 * x.T @ y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "widths"), [(80, (5, 8)), (8, (3, 8))], ids=["of like widths", "of few rows"])
def test_other_products_stay_as_they_are(rows, widths):
    product = lambda x, y: x.T @ y  # noqa: E731
    arrays = [images(rows, width) for width in widths]
    assert str(jax.make_jaxpr(convolution.canonical(product))(*arrays)) == str(jax.make_jaxpr(product)(*arrays))


def test_the_platform_is_that_of_the_arrays(monkeypatch):
    """Where arrays lie on a CPU it does not matter that new ones would be made on a GPU."""
    convolve = lambda x: jax.lax.conv_general_dilated(x, x, (1,), "SAME")  # noqa: E731
    signal, shape = jnp.ones((1, 1, 4)), jax.ShapeDtypeStruct((1, 1, 4), np.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda *_: [type("Device", (), {"platform": "gpu"})])
    assert [hardware.platform(tree) for tree in ({"a": signal}, shape, np.ones(3))] == ["cpu", "gpu", "gpu"]
    assert convolution.choose_loop(convolve, signal) == "python"
    assert convolution.choose_loop(convolve, shape) == "scan"
    assert convolution.choose_loop(convolve, signal, platform="gpu") == "scan"


def test_the_plain_engine_leaves_functions_alone(monkeypatch):
    assert convolution.canonical(jnp.sin, "plain") is jnp.sin
    assert convolution.canonical(jnp.sin) is not jnp.sin
    monkeypatch.setenv("HESSFLAT_LINEARIZE", "plain")
    assert convolution.canonical(jnp.sin) is jnp.sin
    assert convolution.canonical(jnp.sin, "jaxpr") is not jnp.sin
    monkeypatch.setenv("HESSFLAT_LINEARIZE", "fast")
    with pytest.raises(InputError, match="HESSFLAT_LINEARIZE must be 'jaxpr' or 'plain', got 'fast'"):
        convolution.canonical(jnp.sin)
