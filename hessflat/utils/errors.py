"""The one exception that means "the input was wrong": its message is a single line that says how to mend it."""

import difflib
import os
import traceback
from collections.abc import Iterable


class InputError(ValueError):
    """What was expected, what came, what to do. Entry points print it as one line and exit with status 2."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())  # what is quoted may have line breaks


class DamagedError(InputError):
    """What is stored is not as it was written."""


class FormatError(InputError):
    """What is stored is of another version than this code reads: nothing here mends it."""


class InUseError(InputError):
    """Another process holds what is asked for."""


class SettingError(InputError):
    """A setting that cannot be followed, now or later: it ends a run, where another error ends one measure of it."""


class Stopped(BaseException):
    """A signal asked the work to stop, and what it had is saved; no handler of errors takes it for one."""


class Lost(BaseException):
    """Another process of the same work has ended, and so must this one; no handler of errors takes it for one."""


def in_one_line(error: BaseException) -> str:
    """What an error says, without its line breaks; before the words of a foreign one stands its type."""
    words = " ".join(str(error).split())[:300]
    return words if isinstance(error, InputError) else f"{type(error).__name__}: {words}"


def show_traceback() -> None:
    """Print where the error that is handled came from, where `$HESSFLAT_DEBUG` is 1."""
    if os.environ.get("HESSFLAT_DEBUG") == "1":
        traceback.print_exc()


def shown(value: object) -> str:
    """What came, as messages show it: on one line, and cut where it gets long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of an object of the user's
        text = f"an object of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: the closest known one, and all of them where they are few or none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name)[:200], known, n=1, cutoff=0.5)
    everything = f"known: {', '.join(known)}"
    if not close:
        return everything
    return f"did you mean {close[0]!r}?" + (f" {everything}" if len(known) <= 12 else "")


def require_known(what: str, names: Iterable[object], known: Iterable[str]) -> None:
    """Refuse the first of `names` that is not in `known`, naming the nearest right one."""
    known = list(known)
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise InputError(f"unknown {what} {shown(name)}; {nearest(name, known)}")
