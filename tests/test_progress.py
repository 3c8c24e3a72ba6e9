"""The progress line: time left from what is done, none where nothing is known or nothing is to do."""

import contextlib
import io
import itertools
import re
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import pytest

from hessflat.utils import progress


def test_time_left_is_the_finished_share_scaled():
    assert progress._time_left(30.0, 25.0, 100.0) == "1:30 left"
    assert progress._time_left(30.0, 1.0, 100.0) == ""
    assert progress.clock(3725) == "1:02:05"


@pytest.mark.parametrize("terminal", [True, False])
def test_skipped_work_leaves_nothing_to_wait_for(terminal, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", -1.0)
    screen = io.StringIO()
    with progress.reporting(3.0, screen, terminal) as reporter:
        reporter.skip(3.0)
        reporter.advance(0.0, "drawing the report")
        reporter.note("a line of its own")
    assert "drawing the report" in screen.getvalue()
    assert "a line of its own" in screen.getvalue()


def test_without_rich_a_terminal_gets_the_lines_of_a_log(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", -1.0)
    screen = io.StringIO()
    with progress.reporting(4.0, screen, terminal=True) as reporter:
        reporter.advance(1.0, "drawing the report")
    assert screen.getvalue().startswith(" 25%  0:00  0:00 left  drawing the report\n")


def test_a_log_has_a_line_every_ten_seconds_while_one_thing_goes_on(monkeypatch):
    now, looks, log = [100.0], [], io.StringIO()
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(progress, "_repeated", lambda action: contextlib.nullcontext(looks.append(action)))
    arrived = [0.0]
    with progress.reporting(2.0, log, terminal=False) as reporter:
        (look,) = looks
        for _ in range(140):
            now[0] += progress.SECONDS_BETWEEN_LOOKS
            look()
            if now[0] == 130.0:
                reporter.advance(1.0, "one long thing")
            if len(log.getvalue().splitlines()) == len(arrived):
                arrived.append(now[0] - 100.0)
    lines = log.getvalue().splitlines()
    assert len(lines) == len(arrived) - 1 > 6
    assert max(after - before for before, after in itertools.pairwise([*arrived, 70.0])) <= 10.0
    assert lines[0].split() == ["0%", "0:10", "starting"]
    assert re.fullmatch(r" 50%  1:0\d  1:0\d left  one long thing", lines[-1])


@pytest.mark.parametrize("phase", ["compilation", "measurement"])
def test_lines_come_while_a_program_is_compiled_and_while_one_runs(phase, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", 0.01)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOOKS", 0.01)

    def program(x):
        for _ in range(300):
            x = jnp.sin(x @ x)
        return x

    x = jnp.eye(200)
    if phase == "compilation":
        lowered, log = jax.jit(program).lower(x), io.StringIO()
        work = lowered.compile
    else:
        compiled, log = jax.jit(program).lower(x).compile(), io.StringIO()

        def work():
            compiled(x).block_until_ready()

    with progress.reporting(1.0, log, terminal=False, doing=phase):
        work()
    assert len(re.findall(f"  {phase}\n", log.getvalue())) > 2


def test_the_package_is_imported_without_rich():
    names = "import sys, hessflat.utils.progress; print([n for n in sys.modules if n.split('.')[0] == 'rich'])"
    assert subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout == "[]\n"
