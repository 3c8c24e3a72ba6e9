"""Plans for H100s and TPUs, compiled here without one; skipped where the compiler is not installed.

`make compilers` installs that for H100s, and with TPU=1 that for TPUs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GIB = 2**30
HIDDEN, EXAMPLES, STEPS = 512, 8_000, 50


def plans(*names):
    folders = [str(Path(sys.prefix) / "compilers"), str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    kept = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "topology_cases.py"), *names],
        env=kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(folders), "HESSFLAT_CACHE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for plan in found.values():
        if any(reason in plan.get("error", "") for reason in ("needs its compiler", "only one can at a time")):
            pytest.skip(plan["error"])
    return found


@pytest.fixture(scope="module")
def small():
    return plans("one", "eight", "host", "nodes", "uneven", "block")


@pytest.mark.slow
def test_a_plan_for_h100s_counts_what_a_block_of_steps_does(small):
    """Operations by hand. First layer: x W, x V, and xᵀ times the tangent of what comes back. Last layer: eight.

    There, with h the hidden outputs and g the gradient of the logits: h W, ḣ W, h V; g Wᵀ, ġ Wᵀ, g Vᵀ; ḣᵀ g, hᵀ ġ.
    """
    one, eight = small["one"], small["eight"]
    size = HIDDEN * (784 + 10)
    by_hand = 2 * EXAMPLES * HIDDEN * (3 * 784 + 8 * 10)
    assert (one["size"], one["num_chips"], eight["num_chips"], eight["num_products"]) == (size, 1, 8, STEPS)
    for plan in (one, eight):
        # The recurrence adds a few products of vectors.
        assert 1 <= plan["flops"] / (by_hand / plan["num_chips"]) < 1.005
        assert plan["precision"] == "highest"
        assert plan["compute_seconds"] == pytest.approx(plan["flops"] / 66.9e12)
        assert plan["step_seconds"] >= max(plan["compute_seconds"], plan["memory_seconds"])
        assert plan["seconds"] == pytest.approx(STEPS * plan["step_seconds"])
        assert plan["fits"]
        assert "fits" in plan["text"]
    assert one["collectives"] == []
    assert one["basis_bytes"] == STEPS * size * 4
    assert eight["argument_bytes"] > EXAMPLES / 8 * 784 * 4 + eight["basis_bytes"]
    sums = [(kind, times) for kind, _, times, num_bytes in eight["collectives"] if num_bytes == 4 * size]
    assert ("all-reduce", 1.0) in sums or sums[0][1] > 1


@pytest.mark.slow
def test_a_basis_elsewhere_is_no_memory_of_a_chip(small):
    size = HIDDEN * (784 + 10)
    assert small["host"]["basis_bytes"] == 0
    assert small["host"]["host_bytes"] == STEPS * size * 4
    assert small["host"]["memory_bytes"] < small["eight"]["memory_bytes"]
    assert small["nodes"]["basis_bytes"] == small["nodes"]["host_bytes"] == 0
    assert small["nodes"]["num_chips"] == 64
    sums = [one for one in small["nodes"]["collectives"] if one[0] == "all-reduce" and one[3] == 4 * size]
    ((_, groups, times, _),) = sums
    assert (times, len(groups[0]) if groups else 64) == (1.0, 64)


@pytest.mark.slow
def test_a_block_of_steps_on_an_h100_copies_no_basis_and_waits_for_no_host(small):
    """It is one loop in one program. The basis, its vectors and its numbers are updated where they are."""
    block = small["block"]
    assert block["loops"] == 1
    assert block["copied"] == []
    assert block["host"] == []
    assert block["in_place_bytes"] > block["basis_bytes"] == STEPS * HIDDEN * (784 + 10) * 4
    assert block["new_bytes"] < 1_000  # a table of addresses


@pytest.mark.slow
def test_examples_that_do_not_divide_are_one_line(small):
    assert "8,001 examples do not divide over 8 chips; give 8,000 or 8,008" in small["uneven"]["error"]


@pytest.mark.long
def test_a_wide_resnet_on_eight_h100s_takes_less_than_10_gib():
    plan = plans("wide_resnet")["wide_resnet"]
    assert plan["size"] == 36_479_194
    assert 1 * GIB < plan["memory_bytes"] < 10 * GIB
    assert 0 < plan["residual_bytes"] < plan["memory_bytes"]
    # 5.2e9 multiplications of an example in a forward pass. A linearised product is six passes' worth, and less where
    # nothing is differentiated by the images.
    assert 5 < plan["flops"] / (2 * 5.2e9 * 1_000 / 8) < 6


@pytest.mark.long
def test_half_a_billion_sharded_parameters_with_a_hundred_vectors_fit_on_eight_h100s():
    plan = plans("half_a_billion")["half_a_billion"]
    assert plan["size"] > 0.541e9
    assert plan["basis_bytes"] == pytest.approx(100 * plan["size"] * 4 / 8, rel=1e-4)
    assert plan["memory_bytes"] < 40 * GIB
    require_that_sums_are_of_coefficients(plan, 100)


@pytest.mark.long
def test_six_billion_sharded_parameters_with_fifty_vectors_fit_on_64_h100s():
    plan = plans("six_billion")["six_billion"]
    assert plan["size"] > 6.45e9
    assert plan["memory_bytes"] < 80e9
    require_that_sums_are_of_coefficients(plan, 50)


def require_that_sums_are_of_coefficients(plan, steps):
    """Re-orthogonalisation sums one number for each row; what is gathered are single leaves, such as the largest."""
    summed = [num_bytes for kind, _, _, num_bytes in plan["collectives"] if kind == "all-reduce"]
    assert max(summed) <= 4 * steps
    assert max(num_bytes for _, _, _, num_bytes in plan["collectives"]) < 0.2 * 4 * plan["size"]


@pytest.mark.long
def test_a_plan_for_tpus():
    plan = plans("tpu")["tpu"]
    assert plan["num_chips"] == 8
    # The compiler moves what does not depend on the vector, x W and h W, out of the loop of ten steps.
    ratio = plan["flops"] / (2 * EXAMPLES / 8 * HIDDEN * (3 * 784 + 8 * 10))
    assert 0.65 < ratio < 1.01
    assert plan["compute_seconds"] == pytest.approx(plan["flops"] / (197e12 / 6))
    assert plan["memory_bytes"] < GIB


@pytest.mark.long
def test_a_step_that_does_not_fit_a_tpu_is_one_line():
    """Its compiler makes no program of more memory than the chip has."""
    (line,) = plans("full_tpu")["full_tpu"]["error"].splitlines()
    assert line.startswith("a step does not fit v5e:1x1: ")
    assert re.search(r"required .*\(\d+\.\d+G\) exceeds .*; take batches of 4,000,000 examples or ", line)
