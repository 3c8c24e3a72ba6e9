"""A recurrence stored in a folder goes on from any block of steps to the same bits."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curvature_cases import examples, loss, mlp_params, operator_of, symmetric
from numpy.testing import assert_array_equal

import hessflat.curvature as cv
from hessflat.curvature.krylov import checkpoint
from hessflat.utils.errors import InputError

pytestmark = pytest.mark.exact

KEY = jax.random.key(0)
# The package has a function of the same name.
LANCZOS = importlib.import_module("hessflat.curvature.krylov.lanczos")
VALUES = np.concatenate([np.zeros(20), np.random.default_rng(0).uniform(-1, 1, 40)])


@pytest.fixture(scope="module")
def op():
    return operator_of(symmetric(VALUES))


class Killed(BaseException):
    pass


def killed_after(blocks, monkeypatch, run):
    """A `krylov` function that stops the process's work when it is called once too often."""
    original, calls = getattr(LANCZOS, run), []

    def limited(*args, **kwargs):
        if len(calls) == blocks:
            raise Killed
        calls.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(LANCZOS, run, limited)


@pytest.mark.parametrize("storage", ["device", "half", "host"])
@pytest.mark.parametrize("blocks", [0, 1, 3, 5, 7])
def test_a_killed_run_ends_with_the_same_bits(op, tmp_path, monkeypatch, storage, blocks):
    settings = {"num_steps": 40, "num_probes": 2, "storage": storage, "return_basis": True}
    whole = cv.lanczos(op, KEY, **settings)
    monkeypatch.setattr(LANCZOS, "_SECONDS_BETWEEN_SAVES", 0.0)
    with monkeypatch.context() as patch:
        killed_after(blocks, patch, "host_steps" if storage == "host" else "scan_steps")
        with pytest.raises(Killed):
            cv.lanczos(op, KEY, folder=tmp_path, **settings)
    with monkeypatch.context() as patch:
        killed_after(8 - blocks, patch, "host_steps" if storage == "host" else "scan_steps")
        resumed = cv.lanczos(op, KEY, folder=tmp_path, **settings)  # no step is done twice
    for name in ("alphas", "betas", "num_valid", "basis", "orthogonality"):
        assert_array_equal(getattr(resumed, name), getattr(whole, name), err_msg=name)


def in_memory(states):
    """A checkpoint in a dictionary: what `folder` does, without files."""

    def save(probe, state, rows, step, num_saved):
        assert num_saved == (states[probe][2] if probe in states else 0)
        # Arrays of a state are handed over to the next steps.
        states[probe] = jax.tree.map(np.array, state), None if rows is None else rows.copy(), step

    def load(probe, empty, rows):
        if probe not in states:
            return empty, 0
        state, stored_rows, step = states[probe]
        if rows is not None:
            rows[:] = stored_rows
        return jax.tree.map(jnp.asarray, state), step

    return checkpoint.Checkpoint(load, save)


@pytest.mark.parametrize("storage", ["device", "host"])
def test_a_checkpoint_is_two_functions(op, monkeypatch, storage):
    settings = {"num_steps": 40, "num_probes": 2, "storage": storage}
    whole = cv.lanczos(op, KEY, **settings)
    monkeypatch.setattr(LANCZOS, "_SECONDS_BETWEEN_SAVES", 0.0)
    states, run = {}, "host_steps" if storage == "host" else "scan_steps"
    with monkeypatch.context() as patch:
        killed_after(5, patch, run)
        with pytest.raises(Killed):
            cv.lanczos(op, KEY, checkpoint=in_memory(states), **settings)
    assert {probe: step for probe, (_, _, step) in states.items()} == {0: 40, 1: 10}
    steps = []
    with monkeypatch.context() as patch:
        killed_after(3, patch, run)
        resumed = cv.lanczos(op, KEY, checkpoint=in_memory(states), on_steps=steps.append, **settings)
    assert steps == [40, 10, 10, 10, 10]  # what is loaded counts at once
    for name in ("alphas", "betas", "num_valid", "orthogonality"):
        assert_array_equal(getattr(resumed, name), getattr(whole, name), err_msg=name)


def test_a_finished_run_is_read_and_not_done_again(op, tmp_path, monkeypatch):
    first = cv.spectrum(op, KEY, 30, 2, folder=tmp_path)
    killed_after(0, monkeypatch, "scan_steps")
    assert_array_equal(cv.spectrum(op, KEY, 30, 2, folder=tmp_path).nodes, first.nodes)


def test_a_folder_of_something_else_is_refused(op, tmp_path):
    cv.lanczos(op, KEY, 10, folder=tmp_path)
    for other, key, steps in ((op * 2.0, KEY, 10), (op, jax.random.key(1), 10), (op, KEY, 12)):
        with pytest.raises(InputError, match="another operator or other settings"):
            cv.lanczos(other, key, steps, folder=tmp_path)
    (tmp_path / "probe-000.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        cv.lanczos(op, KEY, 10, folder=tmp_path)


def test_two_places_are_refused(op, tmp_path):
    with pytest.raises(InputError, match="give folder or checkpoint, not both"):
        cv.lanczos(op, KEY, 10, folder=tmp_path, checkpoint=in_memory({}))


def test_a_short_basis_is_refused(op, tmp_path):
    cv.lanczos(op, KEY, 10, folder=tmp_path)
    (tmp_path / "probe-000.rows").write_bytes(b"1234")
    with pytest.raises(InputError, match="missing or short"):
        cv.lanczos(op, KEY, 10, folder=tmp_path)


def test_identity_sees_data_parameters_and_functions():
    params, batch = mlp_params(5, 3), examples(20, 5, 3)

    def other(params, batch):
        return 2 * loss(params, batch)

    ops = [
        cv.hessian(loss, params, batch),
        cv.hessian(loss, mlp_params(5, 3, seed=1), batch),
        cv.hessian(loss, params, examples(20, 5, 3, seed=2)),
        cv.hessian(loss, params, cv.Batches(batch, 7)),
        cv.hessian(other, params, batch),
    ]
    assert len({checkpoint.measurement_id(op) for op in ops}) == len(ops)
    assert checkpoint.measurement_id(ops[0]) == checkpoint.measurement_id(cv.hessian(loss, params, batch))
