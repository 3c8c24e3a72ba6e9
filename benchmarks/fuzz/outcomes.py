"""What becomes of a case: the right result, a refusal in one line, or something that is wrong."""

import os
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.cases import WRONG, Outcome
from hessflat.utils.errors import InputError

RIGHT, REFUSED = "right", "refused"
RETURN, REFUSE, EITHER = "return", "refuse", "either"


class Call(NamedTuple):
    """What is tried."""

    said: str  # in words, for the report
    make: Callable[[], Any]
    judge: Callable[[Any], str]  # what is wrong with a result; empty where nothing is
    must: str = RETURN  # what a right program does
    refusals: tuple[type[Exception], ...] = (InputError,)  # what the user sees as one line


class UsersOwnError(Exception):
    """What functions of the kit raise, as those of a user may."""


def outcome_of(call: Call) -> Outcome:
    """Make the call, and judge what comes of it."""
    try:
        result = call.make()
    except UsersOwnError:
        return Outcome(REFUSED)
    except call.refusals as error:
        words = str(error)
        if call.must == RETURN:
            return Outcome(WRONG, f"{call.said}: refused, {words}")
        if "\n" in words or not words.strip():
            return Outcome(WRONG, f"{call.said}: a refusal of {len(words.splitlines())} lines, {words}")
        return Outcome(REFUSED, f"{call.said}: {words}")
    except Exception as error:
        return Outcome(WRONG, f"{call.said}: {_in_one_line(error)}")
    if call.must == REFUSE:
        return Outcome(WRONG, f"{call.said}: not refused, came {_brief(result)}")
    wrong = call.judge(result)
    return Outcome(WRONG, f"{call.said}: {wrong}") if wrong else Outcome(RIGHT, call.said)


def _in_one_line(error: Exception) -> str:
    last = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in last if f"{os.sep}hessflat{os.sep}" in frame.filename]
    place = f" at {os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}{place}: {' '.join(str(error).split())[:200]}"


def _brief(value: Any) -> str:
    return " ".join(repr(value).split())[:150]
