"""What a function reads from outside: measurements take it as it is now, in memory and in stored recurrences."""

import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessflat.curvature as cv
from hessflat.curvature import numerics
from hessflat.utils import compat
from hessflat.utils.errors import InputError

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
DATA = {"x": X, "y": X.sum(axis=1)}
W = np.zeros(4, np.float32)
TOP = np.linalg.eigvalsh(X.astype(np.float64).T @ X / 30)[-1]

scale = 1.0
settings = types.ModuleType("settings_of_a_user")
settings.scale = 1.0


def squares(w, batch):
    return 0.5 * jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


def by_global(w, batch):
    return scale * squares(w, batch)


def by_another_function(w, batch):
    return by_global(w, batch)


def by_module(w, batch):
    return settings.scale * squares(w, batch)


def with_default(w, batch, factor=[1.0]):  # noqa: B006
    return factor[0] * squares(w, batch)


class Trainer:
    scale = 1.0

    def loss(self, w, batch):
        return self.scale * squares(w, batch)

    def __call__(self, w, batch):
        return self.loss(w, batch)


def changes():
    """Pairs of a function, and what makes it ten times as large."""
    cell, array, trainer, called = [1.0], np.ones(1, np.float32), Trainer(), Trainer()
    partial = functools.partial(lambda factor, w, batch: factor["scale"] * squares(w, batch), bound := {"scale": 1.0})
    return {
        "closure": (lambda w, batch: cell[0] * squares(w, batch), lambda: cell.__setitem__(0, 10.0)),
        "array": (lambda w, batch: jnp.sum(array) * squares(w, batch), lambda: array.__imul__(10)),
        "global": (by_global, lambda: globals().update(scale=10.0)),
        "global of another function": (by_another_function, lambda: globals().update(scale=10.0)),
        "attribute of a module": (by_module, lambda: setattr(settings, "scale", 10.0)),
        "default": (with_default, lambda: with_default.__defaults__[0].__setitem__(0, 10.0)),
        "attribute of a bound method": (trainer.loss, lambda: setattr(trainer, "scale", 10.0)),
        "attribute of what is called": (called, lambda: setattr(called, "scale", 10.0)),
        "argument of a partial": (partial, lambda: bound.update(scale=10.0)),
    }


@pytest.fixture(autouse=True)
def as_before():
    yield
    globals().update(scale=1.0)
    settings.scale, with_default.__defaults__[0][0] = 1.0, 1.0


@pytest.mark.parametrize("name", changes())
def test_a_measurement_takes_what_a_function_reads_as_it_is_now(name):
    loss, change = changes()[name]
    op = cv.hessian(loss, W, DATA)
    before = op(X[0]), cv.moments(op, KEY, 2).trace.value
    change()
    for now in (op, cv.hessian(loss, W, DATA)):
        np.testing.assert_allclose(now(X[0]), 10 * before[0], rtol=1e-5)
        np.testing.assert_allclose(cv.moments(now, KEY, 2).trace.value, 10 * before[1], rtol=1e-5)
    np.testing.assert_allclose(cv.eigvalsh(op)[-1], 10 * TOP, rtol=1e-5)


def test_jacobians_and_lines_take_it_as_it_is_now():
    cell = [1.0]

    def predict(w, x):
        return cell[0] * (x @ w)[:, None]

    def loss(w, batch):
        return cell[0] * squares(w, batch)

    before = cv.jacobian_norms(predict, W + 1, X).max, cv.line(loss, W, W + 1, [0.5], DATA).values[0]
    cell[0] = 10.0
    after = cv.jacobian_norms(predict, W + 1, X).max, cv.line(loss, W, W + 1, [0.5], DATA).values[0]
    np.testing.assert_allclose(after, 10 * np.array(before), rtol=1e-5)


def test_what_has_not_changed_is_traced_once():
    count, cell = itertools.count(), [1.0]  # the hash knows the counter, which is no one's data, by its identity

    def loss(w, batch):
        next(count)
        return cell[0] * squares(w, batch)

    op = cv.hessian(loss, W, DATA)
    op(W)
    number = next(count)
    op(W)
    cv.hessian(loss, W, DATA)(W)
    assert next(count) == number + 1
    cell[0] = 2.0
    op(W)
    assert next(count) > number + 2


def make(coefficient):
    def loss(w, batch):
        return coefficient * squares(w, batch)

    return loss


@pytest.mark.parametrize("other", [10.0, 1.00001, np.ones(3), jnp.float32(1)])
def test_a_stored_recurrence_of_another_function_is_refused(tmp_path, other):
    cv.lanczos(cv.hessian(make(1.0), W, DATA), KEY, 3, folder=tmp_path)
    cv.lanczos(cv.hessian(make(1.0), W, DATA), KEY, 4, folder=tmp_path / "again")
    if np.ndim(other):
        other = float(other.sum())
    with pytest.raises(InputError, match="belongs to another operator"):
        cv.lanczos(cv.hessian(make(other), W, DATA), KEY, 3, folder=tmp_path)


def test_a_stored_recurrence_of_another_precision_is_refused(tmp_path, monkeypatch):
    op = cv.hessian(make(1.0), W, DATA)
    first = cv.lanczos(op, KEY, 3, folder=tmp_path)
    again = cv.lanczos(cv.hessian(make(1.0), W, DATA), KEY, 3, folder=tmp_path)
    np.testing.assert_array_equal(first.alphas, again.alphas)
    monkeypatch.setattr(numerics, "precision_name", lambda *arrays: "bfloat16")
    with pytest.raises(InputError, match="belongs to another operator"):
        cv.lanczos(op, KEY, 3, folder=tmp_path)


def test_what_is_known_by_identity_alone_cannot_be_stored(tmp_path):
    thing = memoryview(b"12")

    def loss(w, batch):
        return thing[0] * squares(w, batch)

    cv.hessian(loss, W, DATA)(W)
    with pytest.raises(InputError, match="object of type memoryview"):
        cv.lanczos(cv.hessian(loss, W, DATA), KEY, 3, folder=tmp_path)


def test_a_product_that_no_hash_foresaw_is_refused(tmp_path, monkeypatch):
    cv.lanczos(cv.hessian(make(1.0), W, DATA), KEY, 3, folder=tmp_path)
    monkeypatch.setattr(compat, "fingerprint", lambda value, by_content=False: ("the same", []))
    stored = tmp_path / "unknown"
    cv.lanczos(cv.hessian(make(2.0), W, DATA), KEY, 3, folder=stored)
    with pytest.raises(InputError, match="belongs to another operator"):
        cv.lanczos(cv.hessian(make(3.0), W, DATA), KEY, 3, folder=stored)
