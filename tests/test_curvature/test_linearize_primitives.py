"""Products against plain JAX, for every kind of primitive that a network and a loss may hold.

The reference is one program of `jax.jvp`, `jax.grad` and `jax.vjp` over all examples at once. Against it stands the
linearised operator: in single precision in one batch, every example by itself under `jax.vmap`, and in double precision
in batches of two, with one example that remains. Every function acts on each row by itself, so that all are the same
matrix. Double precision is long but for one function of each kind.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

import hessflat.curvature as cv
from hessflat.curvature.operators.linearize import LinearizedTerm

NUMBER, INPUTS, WIDTH = 5, 16, 4


@pytest.fixture(autouse=True)
def broadcasting():
    """Networks of other people add a bias to a batch."""
    with jax.numpy_rank_promotion("allow"):
        yield


CASES, TOLERANCES, WITHOUT_G, DRIVEN_FROM_PYTHON = {}, {}, set(), set()
OF_EACH_KIND = (
    *("cond_in_scan", "checkpoint_in_scan", "custom_vjp", "custom_linear_solve", "conv_grouped_by_batch"),
    *("max_pool", "gather", "eigh", "complex_numbers", "mixed_types"),
)


def case(function=None, *, tolerance=None, gauss_newton=True, from_python=False):
    """Add `function(p, x, h, batch)` to the cases: inputs x [n, 16], hidden units h [n, 4], outputs [n, ...]."""
    if function is None:
        return functools.partial(case, tolerance=tolerance, gauss_newton=gauss_newton, from_python=from_python)
    name = function.__name__
    CASES[name] = function
    TOLERANCES[name] = tolerance or (4e-6, 1e-12)
    WITHOUT_G.update([] if gauss_newton else [name])
    DRIVEN_FROM_PYTHON.update([name] if from_python else [])
    return function


# Loops and branches


@case
def scan(p, x, h, batch):
    return lax.scan(lambda c, w: (jnp.tanh(c * w), jnp.sum(c, axis=1)), h, p["w"][:3])[0]


@case
def scan_stacked(p, x, h, batch):
    return lax.scan(lambda c, w: (jnp.tanh(c * w), jnp.sin(c @ w)), h, p["w"][:3])[1].T


@case
def scan_reversed(p, x, h, batch):
    return lax.scan(lambda c, w: (jnp.tanh(c * w), None), h, p["w"][:3], reverse=True)[0]


@case
def scan_of_a_length(p, x, h, batch):
    return lax.scan(lambda c, _: (jnp.sin(c * p["b"]) + h, None), h, None, length=3)[0]


@case
def scan_unrolled(p, x, h, batch):
    return lax.scan(lambda c, w: (jnp.tanh(c * w), None), h, p["w"][:3], unroll=2)[0]


@case
def scan_over_inputs(p, x, h, batch):
    steps = jnp.moveaxis(x.reshape(-1, 4, 4), 1, 0)
    return lax.scan(lambda c, s: (jnp.tanh(c @ p["w"][:4] + s), None), h, steps)[0]


@case
def scan_in_scan(p, x, h, batch):
    inner = lambda c, w: (lax.scan(lambda d, v: (jnp.sin(d * v), None), c, p["w"][:2])[0] * w, None)  # noqa: E731
    return lax.scan(inner, h, p["w"][2:4])[0]


@case
def fori_loop(p, x, h, batch):
    return lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c * p["w"][i]), h)


@case
def while_loop(p, x, h, batch):
    """A `while` has no derivative backwards: it is over what is not differentiated."""
    doubled = lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 2 * c[1]), (0, x))[1]
    return h * doubled[:, :4]


@case
def while_loop_of_parameters(p, x, h, batch):
    count = lax.while_loop(lambda c: c < 10 * jnp.abs(lax.stop_gradient(p["b"][0])), lambda c: c + 1.0, 0.0)
    return jnp.sin(h * (1 + 0.1 * count.astype(h.dtype)))


@case
def map_over_rows(p, x, h, batch):
    return lax.map(lambda row: jnp.tanh(row * p["b"]), h)


@case
def associative_scan(p, x, h, batch):
    return lax.associative_scan(lambda a, b: a * b + 0.1 * a, h, axis=1)


@case
def cond(p, x, h, batch):
    return lax.cond(p["b"][0] > 0, lambda h: jnp.sin(h) * p["b"], lambda h: jnp.cos(h) * p["b"], h)


@case
def cond_of_state(p, x, h, batch):
    return lax.cond(batch["flag"][0], jnp.sin, jnp.cos, h * p["b"])


@case
def switch(p, x, h, batch):
    index = jnp.argmax(p["b"])
    return lax.switch(index, [jnp.sin, jnp.cos, jnp.tanh, lambda h: h**3], h) * p["b"]


@case
def cond_in_scan(p, x, h, batch):
    body = lambda c, w: (lax.cond(w[0] > 0, lambda c: jnp.sin(c * w), lambda c: jnp.cos(c * w), c), None)  # noqa: E731
    return lax.scan(body, h, p["w"][:3])[0]


@case
def platform_dependent(p, x, h, batch):
    return lax.platform_dependent(h * p["b"], cpu=jnp.sin, default=jnp.cos)


# Calls and derivatives given by hand


@case
def nested_jit(p, x, h, batch):
    inner = jax.jit(lambda h, power: jax.jit(jnp.sin)(h) ** power, static_argnums=1)
    return inner(h * p["b"], 3)


@case
def checkpoint(p, x, h, batch):
    return jax.checkpoint(lambda h, w: jnp.sin(jnp.tanh(h @ w) * h))(h, p["w"][:4])


@case
def checkpoint_with_policy(p, x, h, batch):
    layer = jax.checkpoint(lambda h, w: jnp.sin(h @ w), policy=jax.checkpoint_policies.dots_saveable)
    return layer(h, p["w"][:4])


@case
def checkpoint_in_scan(p, x, h, batch):
    return lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(c * w), None)), h, p["w"][:3])[0]


@jax.custom_jvp
def cube(x):
    return x**3


cube.defjvp(lambda primals, tangents: (cube(*primals), 3 * primals[0] ** 2 * tangents[0]))


@case
def custom_jvp(p, x, h, batch):
    return cube(h * p["b"]) + cube(x[:, :4])


@jax.custom_vjp
def clipped(x):
    return jnp.sin(x)


clipped.defvjp(lambda x: (jnp.sin(x), x), lambda x, c: (c * jnp.cos(x),))


@case(gauss_newton=False)
def custom_vjp(p, x, h, batch):
    """It has no forward derivative, so that only the Hessian is defined, as in JAX itself."""
    return clipped(h * p["b"])


@case
def custom_vjp_of_inputs(p, x, h, batch):
    return h * clipped(x[:, :4])


@case
def custom_linear_solve(p, x, h, batch):
    matrix = 3 * jnp.eye(4, dtype=h.dtype) + 0.1 * jnp.outer(p["b"], p["b"])
    solve = lambda matvec, b: jnp.linalg.inv(matrix) @ b  # noqa: E731
    return jax.vmap(lambda b: lax.custom_linear_solve(lambda v: matrix @ v, b, solve, symmetric=True))(h)


@case
def custom_linear_solve_with_a_convolution(p, x, h, batch):
    """The solve is parametrised by several inner programs at once, here with convolutions among them."""
    kernel = jnp.array([0.1, 1.0, 0.1], h.dtype)[:, None, None] * (1 + 0.1 * p["b"][0])
    matvec = lambda v: lax.conv_general_dilated(v, kernel, (1,), "SAME", dimension_numbers=NWC)  # noqa: E731
    solve = lambda matvec, b: lax.fori_loop(0, 30, lambda _, v: v + 0.8 * (b - matvec(v)), 0 * b)  # noqa: E731
    return lax.custom_linear_solve(matvec, h[..., None], solve, symmetric=True)[..., 0]


@case
def shard_map(p, x, h, batch):
    mesh = jax.make_mesh((2,), ("features",), (AxisType.Auto,), devices=jax.devices()[:2])
    columns = PartitionSpec(None, "features")

    def local(h, b):
        return jnp.sin(h * b) * lax.psum(jnp.sum(h, axis=1, keepdims=True), "features")

    mapped = jax.shard_map(local, mesh=mesh, in_specs=(columns, columns), out_specs=columns)
    return mapped(h, jnp.broadcast_to(p["b"], h.shape))


@case
def named(p, x, h, batch):
    with jax.named_scope("layer"):
        return jax.named_call(jnp.sin, name="sine")(h * p["b"])


@case
def mapped_over_parameters(p, x, h, batch):
    return jax.vmap(lambda w: jnp.sin(h @ w), out_axes=1)(p["w"][:8].reshape(2, 4, 4)).reshape(-1, 8)


# Convolutions

NWC, NHWC, NCHW = ("NWC", "WIO", "NWC"), ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def convolution(name, images, kernel, numbers, strides, padding, from_python=False, **options):
    """A case of a convolution of the inputs, as `images`, with a kernel of this shape, and one of what it gives."""

    def function(p, x, h, batch):
        weights = p["k"][: np.prod(kernel)].reshape(kernel)
        y = lax.conv_general_dilated(
            x.reshape(-1, *images), weights, strides, padding, dimension_numbers=numbers, **options
        )
        y = jnp.tanh(y)
        # A second one, over what depends on the parameters: both of its operands are differentiated.
        if y.shape[1:] == images:
            y = jnp.tanh(lax.conv_general_dilated(y, weights, strides, padding, dimension_numbers=numbers, **options))
        return y.reshape(y.shape[0], -1)[:, :6]

    function.__name__ = name
    case(function, from_python=from_python)


convolution("conv_1d", (16, 1), (3, 1, 1), NWC, (1,), "SAME")
convolution("conv_1d_strided", (8, 2), (3, 2, 3), NWC, (2,), "VALID")
convolution("conv_1d_dilated", (8, 2), (3, 2, 2), NWC, (1,), "SAME", rhs_dilation=(2,))
convolution("conv_2d", (4, 4, 1), (3, 3, 1, 1), NHWC, (1, 1), "SAME")
convolution("conv_2d_strided", (4, 4, 1), (2, 3, 1, 3), NHWC, (2, 1), "SAME")
convolution("conv_2d_strided_and_dilated", (4, 4, 1), (2, 2, 1, 3), NHWC, (2, 2), "SAME", rhs_dilation=(2, 1))
convolution("conv_2d_transposed", (2, 2, 4), (3, 3, 4, 1), NHWC, (1, 1), ((1, 2), (2, 1)), lhs_dilation=(2, 2))
convolution("conv_2d_padded_unevenly", (4, 4, 1), (3, 3, 1, 1), NHWC, (1, 1), ((0, 2), (2, 0)))
convolution("conv_2d_cropped", (4, 4, 1), (2, 2, 1, 2), NHWC, (1, 1), ((-1, 0), (0, 1)))
convolution("conv_2d_channels_first", (1, 4, 4), (1, 1, 3, 3), NCHW, (1, 1), "SAME")
convolution("conv_2d_as_large_as_the_image", (4, 4, 1), (4, 4, 1, 2), NHWC, (1, 1), "VALID")
convolution("conv_2d_of_one_pixel", (2, 2, 4), (1, 1, 4, 4), NHWC, (1, 1), "VALID")
convolution("conv_3d", (2, 2, 4, 1), (2, 2, 2, 1, 1), ("NDHWC", "DHWIO", "NDHWC"), (1, 1, 1), "SAME")
grouped = functools.partial(convolution, from_python=True)
grouped("conv_1d_grouped", (4, 4), (3, 2, 4), NWC, (1,), "SAME", feature_group_count=2)
grouped("conv_2d_depthwise", (2, 2, 4), (2, 2, 1, 4), NHWC, (1, 1), "SAME", feature_group_count=4)
grouped(
    "conv_2d_everything", (2, 4, 2), (2, 2, 1, 4), NHWC, (2, 1), ((1, 0), (2, 1)),
    lhs_dilation=(2, 1), rhs_dilation=(1, 2), feature_group_count=2,
)  # fmt: skip


@case(from_python=True)
def conv_grouped_by_batch(p, x, h, batch):
    """Groups of the batch axis are made of the features, so that each row stays by itself."""
    images = jnp.concatenate([x[:, :8], x[:, 8:]]).reshape(-1, 8, 1)
    kernel = p["k"][:6].reshape(3, 1, 2)
    y = lax.conv_general_dilated(images, kernel, (1,), "SAME", dimension_numbers=NWC, batch_group_count=2)
    return jnp.sin(y).reshape(y.shape[0], -1)


@case
def conv_transpose(p, x, h, batch):
    y = lax.conv_transpose(x.reshape(-1, 4, 4, 1), p["k"][:18].reshape(3, 3, 1, 2), (2, 2), "SAME")
    return jnp.sin(y).reshape(y.shape[0], -1)


@case
def conv_in_scan(p, x, h, batch):
    def body(c, k):
        c = lax.conv_general_dilated(c, k.reshape(3, 3, 1, 1), (1, 1), "SAME", dimension_numbers=NHWC)
        return jnp.tanh(c), None

    return lax.scan(body, x.reshape(-1, 4, 4, 1), p["k"][:27].reshape(3, 9))[0].reshape(-1, 16)


@case
def conv_in_cond(p, x, h, batch):
    def apply(c):
        return lax.conv_general_dilated(c, p["k"][:9].reshape(3, 3, 1, 1), (1, 1), "SAME", dimension_numbers=NHWC)

    return lax.cond(p["b"][0] > 0, apply, jnp.sin, x.reshape(-1, 4, 4, 1)).reshape(-1, 16) ** 2


@case(from_python=True)
def conv_in_checkpoint(p, x, h, batch):
    def apply(c, k):
        return jnp.tanh(lax.conv_general_dilated(c, k, (1, 1), "SAME", dimension_numbers=NHWC))

    return jax.checkpoint(apply)(x.reshape(-1, 4, 4, 1), p["k"][:9].reshape(3, 3, 1, 1)).reshape(-1, 16)


@case(from_python=True)
def conv_in_shard_map(p, x, h, batch):
    mesh = jax.make_mesh((1,), ("one",), (AxisType.Auto,), devices=jax.devices()[:1])

    def apply(c, k):
        return jnp.tanh(lax.conv_general_dilated(c, k, (1, 1), "SAME", dimension_numbers=NHWC))

    mapped = jax.shard_map(apply, mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec()), out_specs=PartitionSpec())
    return mapped(x.reshape(-1, 4, 4, 1), p["k"][:9].reshape(3, 3, 1, 1)).reshape(-1, 16)


# Windows and reductions


def images_of(p, x):
    return jnp.sin(x * p["k"][:16]).reshape(-1, 4, 4)


@case
def max_pool(p, x, h, batch):
    return lax.reduce_window(images_of(p, x), -jnp.inf, lax.max, (1, 2, 2), (1, 2, 2), "VALID").reshape(-1, 4) ** 2


@case
def max_pool_overlapping(p, x, h, batch):
    return lax.reduce_window(images_of(p, x), -jnp.inf, lax.max, (1, 3, 3), (1, 1, 1), "SAME").reshape(-1, 16) ** 2


@case
def min_pool(p, x, h, batch):
    return lax.reduce_window(images_of(p, x), jnp.inf, lax.min, (1, 2, 2), (1, 2, 2), "VALID").reshape(-1, 4) ** 2


@case
def sum_pool(p, x, h, batch):
    pooled = lax.reduce_window(images_of(p, x), 0.0, lax.add, (1, 3, 3), (1, 2, 2), "SAME")
    return jnp.sin(pooled).reshape(-1, 4)


@case
def reductions(p, x, h, batch):
    y = images_of(p, x)
    parts = [y.max(2), y.min(2), y.prod(2), jax.nn.logsumexp(y, axis=2), y.std(axis=2), jnp.linalg.norm(y, axis=2)]
    return jnp.concatenate(parts, axis=1)


@case
def cumulative(p, x, h, batch):
    parts = [jnp.cumsum(h, axis=1), jnp.cumprod(h, axis=1), lax.cummax(h, axis=1), lax.cummin(h, axis=1)]
    return jnp.concatenate([*parts, lax.cumlogsumexp(h, axis=1), lax.cumsum(h**2, axis=1, reverse=True)], axis=1)


# Moving numbers


@case
def gather(p, x, h, batch):
    return jnp.sin(h[:, jnp.array([3, 0, 0, 1])]) * p["w"][batch["index"]]


@case
def gather_along_an_axis(p, x, h, batch):
    return jnp.take_along_axis(h**2, batch["index"][:, None] % 4, axis=1)


@case
def scatter(p, x, h, batch):
    return jnp.sin(jnp.zeros((len(h), 6), h.dtype).at[:, jnp.array([5, 1, 2, 0])].set(h) * 2)


@case
def scatter_arithmetic(p, x, h, batch):
    places = jnp.array([0, 1, 1, 0])
    ones = jnp.ones((len(h), 3), h.dtype)
    added, least = ones.at[:, places].add(h), ones.at[:, places].min(h)
    scaled = ones.at[:, jnp.array([0, 2])].multiply(h[:, :2], unique_indices=True)
    return jnp.concatenate([added**2, least**2, scaled**2], axis=1)


@case
def dynamic_slice(p, x, h, batch):
    start = jnp.argmax(p["b"]) % 3
    return jnp.sin(lax.dynamic_slice_in_dim(h, start, 2, axis=1)) * lax.dynamic_slice(p["w"], (start, 0), (1, 2))


@case
def dynamic_update_slice(p, x, h, batch):
    start = jnp.argmax(p["b"]) % 3
    return jnp.sin(lax.dynamic_update_slice(h, jnp.broadcast_to(p["b"][:2], (len(h), 2)), (0, start)) ** 2)


@case
def shapes(p, x, h, batch):
    y = jnp.flip(jnp.roll(jnp.tile(h[:, None], (1, 2, 1)), 1, axis=2), axis=1)
    padded = lax.pad(y, jnp.zeros((), h.dtype), ((0, 0, 0), (1, 0, 1), (-1, 2, 0)))
    a, b = jnp.split(padded, 2, axis=1)
    return jnp.sin(jnp.concatenate([jnp.swapaxes(a, 1, 2), jnp.swapaxes(b, 1, 2)], axis=2)).reshape(len(h), -1)


@case
def sort(p, x, h, batch):
    return jnp.sort(h, axis=1) ** 2 * p["b"]


@case
def sort_of_several(p, x, h, batch):
    keys, values = lax.sort((h, h * p["b"]), dimension=1, num_keys=1)
    return jnp.sin(keys * values)


@case
def argsort(p, x, h, batch):
    order = jnp.argsort(-h, axis=1)
    return jnp.take_along_axis(jnp.sin(h * p["b"]), order, axis=1)


@case
def top_k(p, x, h, batch):
    values, indices = lax.top_k(h, 2)
    return values**2 * p["b"][indices]


# Products and factorisations


@case
def dot_general(p, x, h, batch):
    a, b = h[:, None] * p["w"][:3], h[:, None] * p["w"][3:8]
    return jnp.sin(lax.dot_general(a, b, (((2,), (2,)), ((0,), (0,))))).reshape(len(h), -1)


@case
def einsum(p, x, h, batch):
    return jnp.einsum("ni,nj,ijk->nk", h, jnp.sin(h), p["w"].reshape(4, 4, 4))


@case
def attention(p, x, h, batch):
    y = jnp.sin(x).reshape(-1, 4, 4)
    q, k, v = (y @ p["w"][i : i + 4] for i in (0, 4, 8))
    return jnp.einsum("nqk,nkd->nqd", jax.nn.softmax(jnp.einsum("nqd,nkd->nqk", q, k)), v).reshape(-1, 16)


def positive_definite(p, h):
    return jnp.eye(4, dtype=h.dtype) * 2 + 0.3 * jnp.einsum("ni,nj->nij", h, h) + 0.1 * jnp.outer(p["b"], p["b"])


@case
def cholesky(p, x, h, batch):
    return jnp.linalg.cholesky(positive_definite(p, h)).reshape(-1, 16)


@case
def triangular_solve(p, x, h, batch):
    lower = jnp.tril(positive_definite(p, h))
    return lax.linalg.triangular_solve(lower, h[..., None], left_side=True, lower=True)[..., 0]


@case(tolerance=(2e-5, 1e-12))
def eigh(p, x, h, batch):
    spread = jnp.diag(jnp.arange(4, dtype=h.dtype))
    values, vectors = jnp.linalg.eigh(positive_definite(p, h) + spread)
    return jnp.concatenate([values, vectors[:, 0] ** 2], axis=1)


@case
def qr(p, x, h, batch):
    q, r = jnp.linalg.qr(positive_definite(p, h))
    return jnp.concatenate([q.reshape(-1, 16) ** 2, r.reshape(-1, 16) ** 2], axis=1)


@case
def solve_and_determinant(p, x, h, batch):
    matrix = positive_definite(p, h)
    solved = jnp.linalg.solve(matrix, h[..., None])[..., 0]
    return jnp.concatenate([solved, jnp.linalg.slogdet(matrix)[1][:, None]], axis=1)


# Functions of one number


@case
def elementary(p, x, h, batch):
    y = h * p["b"]
    parts = [jnp.expm1(y), jnp.log1p(y**2), jax.nn.sigmoid(y), jnp.arctan2(y, 2.0), jnp.cbrt(2 + y), lax.rsqrt(2 + y)]
    return jnp.concatenate([*parts, (2 + y) ** y, y**5, jnp.abs(y), jnp.sinh(y), jnp.arcsinh(y)], axis=1)


@case
def activations(p, x, h, batch):
    y = 3 * h * p["b"]
    functions = (jax.nn.relu, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.elu, jax.nn.leaky_relu)
    return jnp.concatenate([f(y) ** 2 for f in functions], axis=1)


@case
def special(p, x, h, batch):
    y = h * p["b"]
    parts = [lax.erf(y), lax.erfc(y), lax.erf_inv(y / 2), lax.lgamma(2 + y), lax.digamma(2 + y), lax.bessel_i0e(y)]
    return jnp.concatenate(parts, axis=1)


@case
def complex_numbers(p, x, h, batch):
    z = jnp.fft.fft(h * p["b"]) * jnp.exp(1j * h)
    return jnp.concatenate(
        [jnp.abs(z) ** 2, jnp.real(jnp.fft.ifft(z**2)), jnp.imag(z), jnp.fft.irfft(z[:, :3])], axis=1
    )


@case
def real_fourier_transform(p, x, h, batch):
    z = jnp.fft.rfft(jnp.sin(x * p["k"][:16]))
    return jnp.fft.irfft(z * jnp.conj(z))


@case
def integers_and_booleans(p, x, h, batch):
    bits = (jnp.floor(4 * h).astype(jnp.int32) & 3) ^ lax.population_count(batch["index"])[:, None]
    mask = (bits % 2 == 0) | ~(h > 0.3) & jnp.isfinite(h)
    one_hot = jax.nn.one_hot(jnp.argmax(h, axis=1), 4, dtype=h.dtype)
    return jnp.where(mask, jnp.sin(h * p["b"]), h**2) + one_hot * h + jnp.sign(h) * jnp.round(3 * h)


@case
def clamped(p, x, h, batch):
    return jnp.clip(h * p["b"], -0.3, 0.3) ** 2 + jnp.minimum(h, p["b"]) ** 2 + lax.reduce_precision(h, 11, 52)


@case
def stop_gradient(p, x, h, batch):
    return h * lax.stop_gradient(jnp.sin(h)) + lax.stop_gradient(p["b"]) * h**2 + jnp.round(h) - lax.stop_gradient(h)


@case
def barrier(p, x, h, batch):
    return jnp.sin(lax.optimization_barrier(h * p["b"]))


@case
def negative_zero(p, x, h, batch):
    """Products with 0.0 and with -0.0 are not one computation: their angles are π and −π."""
    angle, opposite = (jnp.arctan2(lax.stop_gradient(h**2) * zero, -1.0) for zero in (0.0, -0.0))
    return jnp.sin(angle + 1) * h**2 + jnp.sin(opposite / 3) * jnp.sin(h * p["b"])


# What else a function may hold

TABLE, ARRAY = np.linspace(-1, 1, 12).reshape(3, 4), [jnp.arange(4.0)]


@case
def constants(p, x, h, batch):
    table = jnp.asarray(TABLE, h.dtype)
    return jnp.sin(h @ table.T) @ table * ARRAY[0].astype(h.dtype) + jnp.eye(4, dtype=h.dtype)[0]


@case(tolerance=(2e-2, 2e-6))
def mixed_types(p, x, h, batch):
    """Half of the precision in the middle, in products and in a convolution that adds in full precision."""
    narrow = jnp.bfloat16 if h.dtype == jnp.float32 else jnp.float32
    y = jnp.tanh(h.astype(narrow) @ p["w"][:4].astype(narrow))
    kernel = p["k"][:9].reshape(3, 3, 1, 1).astype(narrow)
    z = lax.conv_general_dilated(
        x.reshape(-1, 4, 4, 1).astype(narrow), kernel, (1, 1), "SAME", dimension_numbers=NHWC,
        preferred_element_type=narrow,
    )  # fmt: skip
    return jnp.concatenate([y.astype(h.dtype) * h, jnp.sin(z.astype(h.dtype)).reshape(len(h), -1)], axis=1)


@case
def random_from_the_batch(p, x, h, batch):
    draw = lambda key, row: row * (1 + jax.random.normal(key, row.shape, row.dtype))  # noqa: E731
    return jnp.sin(jax.vmap(draw)(jax.vmap(jax.random.wrap_key_data)(batch["key"]), h))


@case
def dropout(p, x, h, batch):
    keep = lambda key, row: jnp.where(jax.random.bernoulli(key, 0.7, row.shape), row / 0.7, 0)  # noqa: E731
    return jax.vmap(keep)(jax.vmap(jax.random.wrap_key_data)(batch["key"]), h) * p["b"]


@case
def random_twice(p, x, h, batch):
    key = jax.random.key(3)
    a, b = jax.random.normal(key, (4,), h.dtype), jax.random.normal(jax.random.split(key)[0], (4,), h.dtype)
    return jnp.sin(h * a) + jnp.cos(h * p["b"] * b)


@case
def callback(p, x, h, batch):
    double, shape = lambda x: 2 * np.asarray(x, np.float32), jax.ShapeDtypeStruct(x.shape, np.float32)
    doubled = jax.pure_callback(double, shape, x.astype(np.float32), vmap_method="broadcast_all").astype(h.dtype)
    jax.debug.callback(lambda _: None, p["b"][0])
    return jnp.sin(h * doubled[:, :4])


@functools.cache
def functions_of(name, alone):
    """`predict` of a case, for all rows at once or, under `jax.vmap`, each alone; and the loss."""
    function = CASES[name]

    def predict(p, batch):
        def rows(batch):
            return function(p, batch["x"], jnp.tanh(batch["x"] @ p["w"] + p["b"]), batch)

        if alone:
            return jax.vmap(lambda row: rows(jax.tree.map(lambda leaf: leaf[None], row))[0])(batch)
        return rows(batch)

    return predict, lambda p, batch: criterion(predict(p, batch), batch)


def criterion(outputs, batch):
    error = outputs.reshape(len(outputs), -1) - batch["y"][:, None]
    return jnp.mean(jnp.sum(jnp.log(jnp.cosh(error)), axis=1))


def problem(dtype):
    rng = np.random.default_rng(0)
    p = {"w": 0.25 * rng.normal(size=(INPUTS, WIDTH)), "b": 0.5 + 0.5 * rng.uniform(size=WIDTH)}
    p |= {"k": 0.4 * rng.normal(size=36)}
    x, y = rng.normal(size=(NUMBER, INPUTS)), rng.normal(size=NUMBER)
    batch = {
        "x": jax.device_put(np.asarray(x, dtype)),
        "y": jax.device_put(np.asarray(y, dtype)),
        "flag": jnp.ones(NUMBER, bool),
    }
    batch |= {"index": jnp.asarray([3, 0, 7, 1, 2], jnp.int32)}
    batch |= {"key": jax.device_put(np.asarray(rng.integers(2**32, size=(NUMBER, 2)), np.uint32))}
    size = sum(leaf.size for leaf in p.values())
    return (
        jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf, dtype)), p),
        batch,
        jax.device_put(np.asarray(rng.normal(size=size), dtype)),
    )


def reference(name, p, batch, vector):
    """2 H v + 3 G v from `jax.jvp`, `jax.grad` and `jax.vjp` of all examples at once."""
    predict, loss = functions_of(name, False)

    @jax.jit
    def products(p, batch, vector):
        tree = jax.tree.unflatten(jax.tree.structure(p), split(p, vector))
        total = 2 * joined(jax.jvp(jax.grad(lambda p: loss(p, batch)), (p,), (tree,))[1])
        if name in WITHOUT_G:
            return total
        outputs, pushed = jax.jvp(lambda p: predict(p, batch), (p,), (tree,))
        bent = jax.jvp(jax.grad(lambda f: criterion(f, batch)), (outputs,), (pushed,))[1]
        return total + 3 * joined(jax.vjp(lambda p: predict(p, batch), p)[1](bent)[0])

    return np.asarray(products(p, batch, vector), np.float64)


def split(p, vector):
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(p)])
    parts = jnp.split(vector, ends[:-1])
    return [part.reshape(leaf.shape) for part, leaf in zip(parts, jax.tree.leaves(p), strict=True)]


def joined(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def operator_of(name, alone, p, data):
    predict, loss = functions_of(name, alone)
    op = 2.0 * cv.hessian(loss, p, data)
    return op if name in WITHOUT_G else op + 3.0 * cv.gauss_newton(predict, criterion, p, data)


def require_close(product, expected, tolerance, what):
    error = np.abs(np.asarray(product, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: {error:.1e} of the size, at most {tolerance:.0e} expected"


def check(name, dtype, alone, batch_size, tolerance):
    p, batch, vector = problem(dtype)
    expected = reference(name, p, batch, vector)
    assert np.isfinite(expected).all()
    assert np.abs(expected).max() > 1e-3
    op = cv.linearize(operator_of(name, alone, p, cv.Batches(batch, batch_size)))
    if name not in DRIVEN_FROM_PYTHON:
        assert all(isinstance(term, LinearizedTerm) for term in op.terms)
    require_close(op(vector), expected, tolerance, str(np.dtype(dtype)))


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_plain_jax(name):
    check(name, np.float32, True, None, TOLERANCES[name][0])


def test_there_is_a_function_of_each_kind():
    assert CASES.keys() >= set(OF_EACH_KIND)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_products_in_double_precision_are_those_of_plain_jax(name):
    with jax.enable_x64(True):
        check(name, np.float64, False, 2, TOLERANCES[name][1])
