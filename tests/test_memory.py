"""Free memory; compiled programs are let go of before Linux runs out of memory mappings for them."""

import os
import sys

import jax
import jax.numpy as jnp
import pytest

from hessflat import models
from hessflat.runs import loop
from hessflat.utils import hardware


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


def test_what_was_released_is_compiled_again_and_gives_the_same():
    double = jax.jit(lambda x: 2 * x)
    before = double(jnp.arange(3.0))
    jax.clear_caches()
    assert (double(jnp.arange(3.0)) == before).all()


def test_runs_of_one_network_share_its_functions():
    one, same = (models.build("mlp", 3, hidden=(4,), activation="tanh") for _ in range(2))
    assert one is same
    assert models.build("mlp", 3, hidden=(5,), activation="tanh") is not one
