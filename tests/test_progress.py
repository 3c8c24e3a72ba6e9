"""The progress line: time left from what is done, none where nothing is known or nothing is to do."""

import io

import pytest
from rich.console import Console

from hessflat.utils import progress


def test_time_left_is_the_finished_share_scaled():
    assert progress._time_left(30.0, 25.0, 100.0) == "1:30 left"
    assert progress._time_left(30.0, 1.0, 100.0) == ""
    assert progress.clock(3725) == "1:02:05"


@pytest.mark.parametrize("terminal", [True, False])
def test_skipped_work_leaves_nothing_to_wait_for(terminal, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LOG_LINES", -1.0)
    screen = io.StringIO()
    with progress.reporting(3.0, Console(file=screen, force_terminal=terminal, width=100)) as reporter:
        reporter.skip(3.0)
        reporter.advance(0.0, "drawing the report")
        reporter.note("a line of its own")
    assert "drawing the report" in screen.getvalue()
    assert "a line of its own" in screen.getvalue()
