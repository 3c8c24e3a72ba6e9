"""The kit of random calls and settings: it finds what is wrong where something is, and nothing where nothing is."""

import random
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessflat.curvature as cv
from benchmarks.cases import WRONG
from benchmarks.fuzz import __main__ as fuzz
from benchmarks.fuzz import calls, child, settings
from benchmarks.fuzz.outcomes import EITHER, REFUSE, REFUSED, RETURN, RIGHT, Call, outcome_of
from hessflat import config
from hessflat.utils.errors import InputError


@pytest.fixture(autouse=True)
def as_users_have_it():
    with jax.numpy_rank_promotion("allow"):
        yield


def outcomes(kind, numbers):
    """Those of some cases of a kind, in this process."""
    return [child.case_outcome(f"0:{kind}:{number}") for number in numbers]


def counts(printed, row):
    """The numbers of a row: tried, right, refused, wrong, left out."""
    (found,) = re.findall(rf"^{row} +(.*)$", printed, re.MULTILINE)
    return [int(number) for number in found.split()]


def some(kind, name):
    """Two calls of a function, on small problems, that make sense."""
    found = []
    for number in range(120):
        call = calls.KINDS[kind][0](random.Random(f"0:{kind}:{number}"))
        if call.must == RETURN and call.said.startswith(f"{name}(") and re.search("'(linear|logistic)'", call.said):
            found.append(call)
    return found[:2]


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "name", "spoil"),
    [
        ("sharpness", "sharpness", lambda value: value._replace(value=1.1 * value.value + 0.1)),
        ("trace", "trace", lambda value: value._replace(value=9 * value.value + 1)),
        ("eigvalsh", "eigvalsh", lambda value: value + 1e-3),
        ("eigvalsh", "exact_spectrum", lambda value: value._replace(values=value.values + 1e-3)),
        ("hessian", "hessian", lambda op: 1.001 * op + 1e-3),
        ("jacobian_norms", "jacobian_norms", lambda norms: norms._replace(values=1.01 * norms.values)),
    ],
)
def test_a_planted_wrong_number_is_found(monkeypatch, kind, name, spoil):
    chosen = some(kind, name)
    assert len(chosen) == 2
    assert [outcome_of(call).result for call in chosen] == [RIGHT] * len(chosen)
    right = getattr(cv, name)
    monkeypatch.setattr(cv, name, lambda *args, **options: spoil(right(*args, **options)))
    assert [outcome_of(call).result for call in chosen] == [WRONG] * len(chosen)


def test_a_planted_traceback_is_found(monkeypatch, capsys):
    def fails(**options):
        raise KeyError("two\nlines")

    call, _ = some("sharpness", "sharpness")
    monkeypatch.setattr(cv, "sharpness", fails)
    outcome = outcome_of(call)
    assert outcome.result == WRONG
    assert "KeyError" in outcome.why
    assert "\n" not in outcome.why


def test_what_makes_no_sense_must_be_refused_in_one_line():
    def refused(error):
        def make():
            raise error

        return make

    class TwoLinesError(InputError):
        def __str__(self):
            return "two\nlines"

    right = lambda result: ""  # noqa: E731
    assert outcome_of(Call("", lambda: 1, right, RETURN)).result == RIGHT
    assert outcome_of(Call("", lambda: 1, right, REFUSE)).result == WRONG
    assert outcome_of(Call("", refused(InputError("no")), right, REFUSE)).result == REFUSED
    assert outcome_of(Call("", refused(InputError("no")), right, EITHER)).result == REFUSED
    assert outcome_of(Call("", refused(InputError("no")), right, RETURN)).result == WRONG
    assert outcome_of(Call("", refused(TwoLinesError()), right, EITHER)).result == WRONG
    assert outcome_of(Call("", refused(MemoryError()), right, EITHER)).result == WRONG


@pytest.mark.slow
def test_a_setting_that_is_not_followed_is_found(monkeypatch):
    assert {outcome.result for outcome in outcomes("one setting", range(60))} == {RIGHT, REFUSED}
    right = config.changed
    monkeypatch.setattr("hessflat.cli.app.changed", lambda base, arguments: right(base, arguments[:-1]))
    assert WRONG in {outcome.result for outcome in outcomes("one setting", range(60))}


@pytest.mark.parametrize(("kind", "number"), [("one setting", 80), ("several settings", 60), ("sweeps", 40)])
def test_no_setting_is_wrong(kind, number):
    assert [outcome.why for outcome in outcomes(kind, range(number)) if outcome.result == WRONG] == []


@pytest.mark.parametrize("kind", ["unknown names", "targets and flags"])
def test_no_name_is_wrong(kind):
    assert [outcome.why for outcome in outcomes(kind, range(80)) if outcome.result == WRONG] == []


@pytest.mark.parametrize("kind", ["from_matvec", "functionals", "spectrum_from_arrays"])
def test_no_call_is_wrong(kind):
    assert [outcome.why for outcome in outcomes(kind, range(25)) if outcome.result == WRONG] == []


def test_every_public_function_is_called():
    said = {
        kind: {calls.KINDS[kind][0](random.Random(f"1:{kind}:{i}")).said for i in range(12)} for kind in calls.KINDS
    }
    called = " ".join(text for texts in said.values() for text in texts)
    records = {name for name in cv.__all__ if name[0].isupper()} - {"Batches"}
    assert {name for name in cv.__all__ if name not in records and name not in called} == set()


def dying():
    """A process that ends when it is asked the first case."""
    command = [sys.executable, "-c", "input()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize(("name", "value"), [("_started", dying), ("PATIENCE", 0.0)], ids=["dies", "hangs"])
def test_a_process_that_dies_or_hangs_is_wrong_and_the_next_case_goes_on(monkeypatch, capsys, name, value):
    monkeypatch.setattr(fuzz, name, value)
    with pytest.raises(SystemExit) as ended:
        fuzz.main(["--only=functionals:1,functionals:2"])
    assert ended.value.code == 1
    tried, _, _, wrong, _ = counts(capsys.readouterr().out, "all library calls")
    assert (tried, wrong) == (2, 2)


def test_wrong_arguments_are_refused():
    for wrong in ("--only=nothing", "--seed=-1", "--minutes=0", "--config.seed=1", "--share=x"):
        with pytest.raises(InputError):
            fuzz.main([wrong])


def test_a_whole_run_is_as_large_as_it_says():
    whole = fuzz.chosen_cases("", 1)
    assert sum(kind in calls.KINDS for kind, _ in whole) >= 2000
    assert sum(kind in settings.KINDS for kind, _ in whole) >= 4500
    assert len(set(whole)) == len(whole)
    assert {kind for kind, _ in fuzz.chosen_cases("", 0.001)} == set(fuzz.KINDS)


@pytest.mark.long
def test_nothing_is_wrong(capsys):
    fuzz.main(["--minutes=3", "--share=0.05"])
    printed = capsys.readouterr().out
    assert counts(printed, "all settings")[3] == 0
    tried, _, _, wrong, _ = counts(printed, "all library calls")
    assert tried > 50
    assert wrong == 0


def test_numbers_of_the_kit_are_those_of_the_library_in_a_known_case():
    x = np.diag([1.0, 2.0, 3.0]).astype(np.float32)
    op = cv.hessian(lambda w, batch: jnp.mean((batch["x"] @ w) ** 2), np.zeros(3, np.float32), {"x": x})
    matrix = 2 / 3 * np.diag([1.0, 4.0, 9.0])
    assert calls.far(op.to_dense(), matrix, 1e-5) == ""
    assert calls.far(op.to_dense(), 1.0001 * matrix, 1e-5) != ""
    assert calls.far([np.nan], [0.0], 1.0) != ""


def test_faults_that_were_found_are_refused_in_one_line():
    op = cv.from_matvec(lambda v: 2 * v, np.zeros(3, np.float32))
    w, key, data = np.ones(3, np.float32), jax.random.key(0), {"x": np.ones((4, 3), np.float32)}
    stored = cv.spectrum_to_arrays(cv.spectrum(op, key, num_steps=2))
    for line, make in (
        ("loop must be", lambda: cv.frobenius(op, key, loop=np.array([1, 2]))),
        ("rtol must be above 0", lambda: cv.sharpness(op, key, rtol="0.1")),
        ("unknown storage", lambda: cv.lanczos(op, key, storage=np.array(["device", "half"]))),
        ("return_basis must be True or False", lambda: cv.lanczos(op, key, return_basis="False")),
        ("on_steps must be a function", lambda: cv.lanczos(op, key, on_steps=3)),
        ("folder must be the path", lambda: cv.lanczos(op, key, folder=3)),
        ("num_probes must be at most", lambda: cv.lanczos(op, key, num_probes=10**9)),
        ("start must be a tree like params", lambda: cv.sharpness(op, key, start={"w": np.ones((2, 3), np.float32)})),
        ("takes a finite number", lambda: op + float("nan")),
        ("names must be a pattern", lambda: cv.restrict(op, b"w")),
        ("names must choose a leaf", lambda: cv.restrict(op, [])),
        ("by must name at least one block", lambda: cv.blocks(op, {})),
        ("before its linearisation is made", lambda: cv.eigvalsh(cv.linearize(quadratic(w, data)), float64=True)),
        ("at least one number", lambda: cv.random_direction(key, np.zeros((0, 3), np.float32))),
        ("must return a number", lambda: cv.along(lambda w, batch: {}, w, w, [0.0], data)),
        ("one array of real numbers", lambda: quadratic(w, cv.Batches(data, weights=1j * np.ones(4)))),
        ("size of a stored spectrum", lambda: cv.spectrum_from_arrays(stored | {"size": np.ones((7, 7))})),
        ("a dict of arrays", lambda: cv.spectrum_from_arrays(3)),
        ("k must be one whole number", lambda: cv.eigenpairs(op, key, (1, 1, 1), "both")),
    ):
        with pytest.raises(InputError, match=line) as error:
            make()
        assert "\n" not in str(error.value)


def quadratic(w, data):
    return cv.hessian(lambda w, batch: jnp.mean((batch["x"] @ w) ** 2), w, data)
