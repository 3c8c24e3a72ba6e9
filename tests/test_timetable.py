"""Texts that say when to measure."""

import pytest

from hessflat.measures import timetable, timetable_steps
from hessflat.utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("never", []),
        ("end", [47]),
        ("start", [0, 47]),
        ("growth", [0, 5, 10, 25, 47]),
        ("every 20 steps", [0, 20, 40, 47]),
        ("every 3 epochs", [0, 15, 30, 45, 47]),
        ("every epoch to 3 epochs", [0, 5, 10, 15, 47]),
        ("every 2 steps to 1 epoch, every 4 epochs", [0, 2, 4, 20, 40, 47]),
        ("every 2 steps to 1.5 epochs", [0, 2, 4, 6, 47]),
        ("at 0.25, at 1", [12, 47]),
        ("every step to 2 steps", [0, 1, 2, 47]),
    ],
)
def test_steps(text, expected):
    assert timetable_steps(text, 5, 47) == expected


@pytest.mark.parametrize("text", ["", "sometimes", "every 0 steps", "every 5 minutes", "at 2", "end,", "never, end"])
def test_wrong_texts_are_refused_with_what_would_do(text):
    assert not timetable.holds(text)
    with pytest.raises(InputError, match=r"must be never, start, end, growth.*got"):
        timetable_steps(text, 5, 47)
