"""What is said of several processes holds of one, which exchanges nothing; the filter of what JAX says at its end."""

import contextlib
import io
import signal
import subprocess
import sys

import jax
import pytest

from hessflat.utils import last_words, processes
from hessflat.utils.errors import InputError

ABORT = b"""E1129 21:54:57.471274   10303 coordination_service.cc:1549] Use error polling to tell all tasks
1
The tasks have crashed. Check the task logs for an earlier error.
F1129 21:54:57.471906   10314 client.h:80] Terminating process because the service detected fatal errors.
*** Check failure stack trace: ***
    @     0x7f6cd4c40634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
"""
OTHER = b"W1129 21:54:57.471274   10303 bfc_allocator.cc:512] Allocator ran out of memory\nE1129 what is this\n"
LINE = b"error: another process has ended, or cannot be reached; the same command continues from the last checkpoint\n"
OWN = b"error: another process has ended, or cannot be reached (why); the same command continues\n"


def filtered(content):
    target = io.BytesIO()
    last_words.copy(io.BytesIO(content), target)
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", b""), (OTHER, OTHER), (OTHER + ABORT, OTHER + LINE), (OWN + ABORT, OWN), (ABORT + OWN, LINE)],
)
def test_of_the_end_of_a_process_one_line_is_left(content, expected):
    assert filtered(content) == expected


def test_the_filter_outlives_signals_and_ends_with_its_input():
    command = [sys.executable, "-I", "-S", last_words.__file__]
    filter_process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    filter_process.stdin.write(OTHER)
    assert filter_process.stderr.readline() == OTHER.splitlines(keepends=True)[0]  # it has begun
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        filter_process.send_signal(number)
    _, rest = filter_process.communicate(ABORT, timeout=60)
    assert rest == OTHER.splitlines(keepends=True)[1] + LINE
    assert filter_process.returncode == 0


def test_one_process_is_the_writer_and_agrees_with_itself():
    assert processes.is_writer()
    assert not processes.are_several()
    unpicklable = object()
    assert processes.agreed(unpicklable) is unpicklable
    assert processes.in_writer(lambda: unpicklable) is unpicklable
    assert processes.by_writer(lambda x: x + 1)(2) == 3
    assert [processes.any_of(flag) for flag in (False, True)] == [False, True]
    with processes.held_by_writer(lambda: contextlib.nullcontext(unpicklable)) as held:
        assert held is unpicklable
    assert not processes.spans({"a": jax.numpy.ones(3), "b": 2.0})


def test_an_error_of_one_process_is_its_own():
    error = InputError("own")

    def fail():
        raise error

    for context in (processes.failing_together(), processes.failing_together(together=False), processes.loss_named()):
        with pytest.raises(InputError) as raised, context:
            fail()
        assert raised.value is error
    with pytest.raises(InputError):
        processes.from_writer(fail)
    assert not processes.is_common(error)
    assert not processes.is_told_elsewhere(error)
