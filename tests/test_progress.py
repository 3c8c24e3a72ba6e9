"""The progress line: time left from what is done, none where nothing is known or nothing is to do."""

import io
import subprocess
import sys

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


def test_the_package_is_imported_without_rich():
    names = "import sys, hessflat.utils.progress; print([n for n in sys.modules if n.split('.')[0] == 'rich'])"
    assert subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True).stdout == "[]\n"
