"""Free memory; what a process keeps of its runs; compiled programs let go of before memory mappings run out."""

import gc
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from hessflat import models
from hessflat.runs import loop
from hessflat.runs.jobs import make_jobs
from hessflat.utils import hardware, progress


def test_free_memory_is_asked_of_psutil_where_it_is_installed():
    psutil = pytest.importorskip("psutil")
    assert 0.5 < hardware._free_in_machine() / psutil.virtual_memory().available < 2


def test_without_psutil_free_memory_is_all_there_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert hardware._free_in_machine() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("taken", "cleared"), [(40, False), (60, True)])
def test_programs_are_released_when_half_of_the_mappings_are_taken(tmp_path, monkeypatch, taken, cleared):
    files = {"/proc/sys/vm/max_map_count": "100\n", "/proc/self/maps": "a mapping\n" * taken}
    for name, text in files.items():
        (tmp_path / name.replace("/", "-")).write_text(text)
    monkeypatch.setattr(loop, "Path", lambda name: tmp_path / name.replace("/", "-"))
    calls = []
    monkeypatch.setattr(jax, "clear_caches", lambda: calls.append(True))
    loop.release_programs()
    assert bool(calls) == cleared


def test_elsewhere_nothing_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Path", lambda name: tmp_path / "not there")
    monkeypatch.setattr(jax, "clear_caches", lambda: pytest.fail("nothing is known of mappings"))
    loop.release_programs()


@pytest.mark.slow
def test_what_was_released_is_compiled_again_and_gives_the_same():
    double = jax.jit(lambda x: 2 * x)
    before = double(jnp.arange(3.0))
    jax.clear_caches()
    assert (double(jnp.arange(3.0)) == before).all()


def test_runs_of_one_network_share_its_functions():
    one, same = (models.build("mlp", 3, hidden=(4,), activation="tanh") for _ in range(2))
    assert one is same
    assert models.build("mlp", 3, hidden=(5,), activation="tanh") is not one


OBJECTS_OF_A_RUN = 40  # what a process may keep of a run; a jaxpr, or the shapes of a checkpoint, has more


@pytest.mark.long
def test_what_a_process_keeps_does_not_grow_with_its_runs(tmp_path):
    measured = ("spectra", "sharpness", "jacobian", "predictions", "outputs")
    chosen = runs.tiny("--config.train.epochs=2", *(f"--config.measure.{name}=end" for name in measured))

    def one(number):
        jobs = make_jobs([chosen], tmp_path / str(number))
        for thorough in (False, True):  # trained and saved; then restored
            assert not loop.run_all(jobs, progress.silent(), thorough=thorough)
        gc.collect()
        return len(gc.get_objects())

    gc.collect()
    gc.freeze()  # what earlier tests left is neither counted nor looked through
    try:
        objects = [one(number) for number in range(16)][6:]  # the first runs compile, and fill what is of limited size
    finally:
        gc.unfreeze()
    slope = np.polyfit(np.arange(len(objects)), objects, 1)[0]
    assert slope < OBJECTS_OF_A_RUN
