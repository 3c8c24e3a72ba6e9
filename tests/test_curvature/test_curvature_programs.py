"""What is read from the text of a program, beside counts by hand."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hessflat.curvature.diagnostics import programs
from hessflat.curvature.diagnostics.hlo import groups_of
from hessflat.curvature.diagnostics.programs import Collective
from hessflat.curvature.diagnostics.targets import CHIPS, parse
from hessflat.curvature.diagnostics.time_model import seconds_of, seconds_of_exchange
from hessflat.curvature.diagnostics.topology_plan import in_words
from hessflat.utils.errors import InputError

pytestmark = pytest.mark.exact


def lowered_text(function, *args):
    """The text before XLA's CPU compiler rewrites products into calls of its own."""
    return jax.jit(function).lower(*args).compiler_ir("hlo").as_hlo_text()


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


def multiplications(x, kernel, stride, padding, dilations):
    """How often an entry of the kernel meets one of the images, by summing over a network of ones."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, stride, padding, *dilations, dimension_numbers=numbers)
    return 2.0 * float(y.sum())


@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
@pytest.mark.parametrize("padding", [((1, 1), (0, 2)), ((0, 0), (0, 0))])
@pytest.mark.parametrize("dilations", [((1, 1), (1, 1)), ((2, 1), (1, 2))])
def test_operations_of_convolutions_are_those_with_numbers(stride, padding, dilations):
    x, kernel = ones(3, 7, 6, 2), ones(3, 2, 2, 5)
    function = functools.partial(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, stride, padding, *dilations, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    found = programs.read(lowered_text(function, x, kernel))
    assert found.flops == multiplications(x, kernel, stride, padding, dilations) > 0


def test_operations_of_products_and_of_loops():
    a, b = ones(8, 5, 7), ones(8, 7, 3)
    assert programs.read(lowered_text(jnp.matmul, a, b)).flops == 2 * 8 * 5 * 7 * 3

    def loop(a, x):
        return jax.lax.scan(lambda x, _: (a @ x, None), x, None, length=11)[0]

    compiled = jax.jit(loop).lower(ones(64, 64), ones(64, 64)).compile().as_text()
    if " dot(" in compiled:
        assert programs.read(compiled).flops == 11 * 2 * 64**3
    assert re.search(r'"known_trip_count":\{"n":"11"\}', compiled)


TEXT = """
HloModule m

%sliced (param_0: f32[100,1000], param_1: s32[]) -> f32[1,1000] {
  %param_0 = f32[100,1000]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,1000]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,1000}
}

%written (param_0.1: f32[100,1000], param_1.1: f32[1,1000], param_2.1: s32[]) -> f32[100,1000] {
  %param_0.1 = f32[100,1000]{1,0} parameter(0)
  %param_1.1 = f32[1,1000]{1,0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %set = f32[100,1000]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2.1, %zero.1)
}

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add = f32[] add(%x, %y)
}

%taken (p: f32[1,1000]) -> f32[1,1000] {
  %p = f32[1,1000]{1,0} parameter(0)
  ROOT %twice = f32[1,1000]{1,0} add(%p, %p)
}

%other (q: f32[1,1000]) -> f32[1,1000] {
  ROOT %q = f32[1,1000]{1,0} parameter(0)
}

%body (s: (s32[], f32[100,1000])) -> (s32[], f32[100,1000]) {
  %s = (s32[], f32[100,1000]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %rows = f32[100,1000]{1,0} get-tuple-element(%s), index=1
  %one = f32[1,1000]{1,0} fusion(%rows, %i), kind=kLoop, calls=%sliced
  %all = f32[1,1000]{1,0} all-reduce(%one), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%sum
  %flag = pred[] constant(true)
  %kept = f32[1,1000]{1,0} conditional(%flag, %all, /*index=2*/%all), true_computation=%taken, false_computation=%other
  %put = f32[100,1000]{1,0} fusion(%rows, %kept, %i), kind=kLoop, calls=%written
  ROOT %t = (s32[], f32[100,1000]{1,0}) tuple(%i, %put)
}

%condition (s.1: (s32[], f32[100,1000])) -> pred[] {
  %s.1 = (s32[], f32[100,1000]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (a: f32[64,32], b: f32[32,16], c: (s32[], f32[100,1000])) -> f32[64,16] {
  %a = f32[64,32]{1,0} parameter(0)
  %b = f32[32,16]{1,0} parameter(1)
  %c = (s32[], f32[100,1000]{1,0}) parameter(2)
  %loop = (s32[], f32[100,1000]{1,0}) while(%c), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %g = (f32[64,32]{1,0}, f32[64,64]{1,0}) all-gather-start(%a), replica_groups={{0,1},{2,3}}, dimensions={1}
  %done = f32[64,64]{1,0} all-gather-done(%g)
  ROOT %gemm = (f32[64,16]{1,0}, s8[100]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""  # noqa: E501


def test_a_text_is_read_as_it_runs():
    found = programs.read(TEXT, share_of_branches=0.5)
    assert found.flops == 2 * 64 * 32 * 16
    row = 4 * 1000
    loops = 12 * (row + row + 4)  # the slice that is read, and written, and its place
    loops += 12 * (row + row + 4)  # the row that is put in
    branch = 12 * 0.5 * 3 * row
    gemm = 4 * (64 * 32 + 32 * 16 + 64 * 16) + 100
    assert found.num_bytes == loops + branch + gemm
    assert found.num_kernels == 12 * 2 + 6 + 1
    assert set(found.collectives) == {
        Collective("all-reduce", ((0, 2, 4, 6),), 12.0, row),
        Collective("all-gather", ((0, 1),), 1.0, 2 * 4 * 64 * 32),
    }


def test_a_loop_whose_length_is_in_its_condition_alone():
    condition = """
  %bound = s32[] constant(12)
  %at = s32[] get-tuple-element(%s.1), index=0
  ROOT %true = pred[] compare(%at, %bound), direction=LT
"""
    text = TEXT.replace("\n  ROOT %true = pred[] constant(true)\n", condition)
    text = text.replace(', backend_config={"known_trip_count":{"n":"12"}}', "")
    assert text != TEXT
    assert programs.read(text, 0.5) == programs.read(TEXT, 0.5)


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("[2,2]<=[4]", ((0, 1), (2, 3))),
        ("[2,4]<=[4,2]T(1,0)", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'a','b'}", (tuple(range(8)),)),
        ("{}", ()),
    ],
)
def test_groups_of_devices(written, groups):
    assert groups_of(f"channel_id=1, replica_groups={written}, dimensions={{0}}") == groups


def test_collectives_of_a_program_on_eight_devices():
    mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
    spread = jax.device_put(np.ones((64, 10), np.float32), NamedSharding(mesh, PartitionSpec("x")))
    text = jax.jit(lambda x: x.sum(0)).lower(spread).compile().as_text()
    (found,) = programs.read(text).collectives
    assert (found.kind, found.times, found.num_bytes) == ("all-reduce", 1.0, 40.0)
    assert found.groups in ((), (tuple(range(8)),))


def test_seconds_of_exchanges():
    h100, v5e = CHIPS["h100"], CHIPS["v5e"]
    within = Collective("all-reduce", (tuple(range(8)),), 1, 8e9)
    assert seconds_of_exchange(within, h100, 64) == pytest.approx(2 * 7 / 8 * 8e9 / 450e9)
    across = Collective("all-gather", (tuple(range(64)),), 1, 8e9)
    assert seconds_of_exchange(across, h100, 64) == pytest.approx(63 / 64 * 8e9 / (8 * 50e9))
    thin = Collective("reduce-scatter", (tuple(range(0, 64, 8)),), 1, 8e9)
    assert seconds_of_exchange(thin, h100, 64) == pytest.approx(7 / 8 * 8e9 / 50e9)
    assert seconds_of_exchange(thin, v5e, 64) == pytest.approx(7 / 8 * 8e9 / 200e9)
    assert seconds_of_exchange(Collective("all-reduce", ((0,),), 1, 8e9), h100, 1) == 0


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        ("h100", "topology must be CHIP:NUMBER"),
        (8, "topology must be CHIP:NUMBER"),
        ("h100:0", "topology must be CHIP:NUMBER"),
        ("h10:8", "unknown chip 'h10'.*'h100'"),
        ("h100:12", "up to 8 or a multiple of it"),
        ("h100:2x4", "their number"),
        ("v5e:8", "is a grid, such as v5e:4x4"),
    ],
)
def test_topologies_that_are_none(topology, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(topology)
    assert "\n" not in str(caught.value)


def test_seconds_of_a_program_are_those_of_its_kernels():
    """One is bound by operations and one by the memory; a sum over eight chips comes after them."""
    kernels = (programs.Kernel(2, 66.9e12, 3.35e9), programs.Kernel(1, 66.9e9, 3.35e12))
    program = programs.Program(kernels, (Collective("all-reduce", (), 3, 450e9),))
    found = seconds_of(program, CHIPS["h100"], "highest", 8)
    assert found["compute_seconds"] == pytest.approx(2 * 1 + 1e-3)
    assert found["memory_seconds"] == pytest.approx(2 * 1e-3 + 1)
    assert found["network_seconds"] == pytest.approx(3 * 2 * 7 / 8)
    assert found["latency_seconds"] == pytest.approx(3 * 2e-6 + 3 * 1e-5)
    assert found["step_seconds"] == pytest.approx(2 + 1 + found["network_seconds"] + found["latency_seconds"])
    faster = seconds_of(program, CHIPS["h100"], "tensorfloat32", 8)
    assert faster["compute_seconds"] == pytest.approx(found["compute_seconds"] * 66.9 / 494.7)


def test_exchanges_in_words():
    some = (
        Collective("all-reduce", (), 2, 8.0),
        Collective("all-reduce", (), 1, 4.0),
        Collective("all-gather", (), 1, 9e6),
    )
    assert in_words(some) == "3 × all-reduce of 8 bytes at most, 20 bytes in all; 1 × all-gather of 9 MB"
    assert in_words(()) == "none"
