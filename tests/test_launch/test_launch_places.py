"""What of a machine each process has: cores, and GPUs, which are faked by their names."""

import os
import subprocess
import sys

import pytest

from hessflat.cli import sweep
from hessflat.launch import places, pool
from hessflat.launch.places import Place
from hessflat.runs.jobs import make_jobs
from hessflat.utils.progress import silent

# A container that was given three of a node's GPUs.
NODE = ["nvidia3", "nvidia10", "nvidia5", "nvidiactl", "nvidia-uvm"]


@pytest.mark.parametrize(
    ("environment", "has_cuda", "expected"),
    [
        ({}, True, ("0", "1", "2")),
        ({}, False, ()),
        ({"JAX_PLATFORMS": "cpu"}, True, ()),
        ({"JAX_PLATFORMS": "cuda,cpu"}, True, ("0", "1", "2")),
        ({"CUDA_VISIBLE_DEVICES": "3, 5"}, True, ("3", "5")),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}, True, ("GPU-8932f937",)),
        ({"CUDA_VISIBLE_DEVICES": ""}, True, ()),
        ({"CUDA_VISIBLE_DEVICES": "3,5"}, False, ()),
    ],
)
def test_gpus_that_jax_would_take(environment, has_cuda, expected):
    assert places.visible_gpus(environment, NODE, has_cuda) == expected


def test_each_process_has_gpus_and_cores_of_its_own():
    dealt = places.deal(8, range(16), list("01234567"), 1)
    assert [place.gpus for place in dealt] == [(number,) for number in "01234567"]
    assert sorted(core for place in dealt for core in place.cores) == list(range(16))
    assert [place.gpus for place in places.deal(2, [0, 1], list("0123"), 2)] == [("0", "1"), ("2", "3")]
    assert places.deal(2, [0, 1], (), 1) == [Place((0,)), Place((1,))]
    # Fewer cores than processes: those without one of their own may use all.
    assert [place.cores for place in places.deal(3, [0, 1], (), 1)] == [(0,), (1,), (0, 1)]


def test_a_process_sees_its_gpus_alone():
    code = (
        "import os; from hessflat.launch import places, pool; core = min(os.sched_getaffinity(0));"
        "places.take(places.Place((core,), ('3', '5')));"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], os.sched_getaffinity(0) == {core})"
    )
    # That there is no such platform nobody notices before JAX looks for devices.
    environment = os.environ | {"JAX_PLATFORMS": "none"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["3,5", "True"]


def test_who_leaves_its_gpus_to_others_computes_on_the_cpu(monkeypatch):
    chosen = {}
    monkeypatch.setattr(places, "_has_cuda", lambda: True)
    monkeypatch.setattr(places.jax.config, "update", lambda name, value: chosen.update({name: value}))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    for visible, workers in (("0", "auto"), ("0,1", "1")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert places.leave_gpus(workers) == ()
    assert chosen == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert places.leave_gpus("auto") == ("0", "1")
    assert chosen == {"jax_platforms": "cpu"}


@pytest.mark.parametrize(
    ("devices", "workers", "gpus", "expected"),
    [
        (0, "auto", "0123", [("0",), ("1",)]),  # two runs
        (0, "auto", "0", [("0",)]),
        (2, "auto", "0123", [("0", "1"), ("2", "3")]),
        (2, "auto", "012", [("0", "1")]),
        (4, "auto", "01", [("0", "1")]),  # refused there, in one line
        (0, "1", "01", [("0",)]),
    ],
)
def test_one_run_for_each_gpu(tmp_path, monkeypatch, devices, workers, gpus, expected):
    dealt = []
    monkeypatch.setattr(pool, "_run_in_processes", lambda chunks, reporter, shares, anew: dealt.extend(shares) or [])
    jobs = make_jobs(sweep.sweep_configs("g_mlp:smoke", [f"--config.devices={devices}"]), tmp_path)
    pool.run_all(jobs, silent(), workers, gpus=list(gpus))
    assert [place.gpus for place in dealt] == expected
