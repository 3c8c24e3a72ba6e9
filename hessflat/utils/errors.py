"""The one exception that means "the input was wrong": its message is a single line that says how to mend it."""

import difflib
import os
import shlex
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


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
    """What an error says, without its line breaks.

    Before the words of a foreign one stands its type, and behind them, where a file of the user's raised it, its place.
    """
    said = error.msg if isinstance(error, SyntaxError) else str(error)  # whose text ends in a place of its own
    words = " ".join(said.split())[:300]
    if isinstance(error, InputError):
        return words
    place = place_of(error)
    return f"{type(error).__name__}: {words}" + (f" ({place})" if place else "")


def place_of(error: BaseException) -> str:
    """`my_model.py, line 12`: the line of the user's that raised an error; empty where none did.

    The user's files are those that belong neither to this package nor to a library. A library's error is that of the
    line that called it, this package's own is not, and an `InputError` is that of the line that asked for what cannot
    be.
    """
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno or 0))
    libraries = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = [(Path(name), line) for name, line in places if not _is_of_library(Path(name), libraries)]
    users = [(path, line) for path, line in own if not path.is_relative_to(_PACKAGE)]
    if not users or not (isinstance(error, InputError) or users[-1] == own[-1]):
        return ""
    path, line = users[-1]
    return f"{path}, line {line}"


def _is_of_library(path: Path, folders: Iterable[str]) -> bool:
    """Of a package or the interpreter, in one of these folders, or no file at all, as `<frozen importlib>`."""
    if path.is_relative_to(_PACKAGE):
        return False
    return not path.is_file() or any(path.is_relative_to(folder) for folder in folders)


def command(*words: str) -> str:
    """A command of this package as messages name it: one line that runs in a clone and where only a wheel is."""
    return shlex.join(["python", "-m", "hessflat", *words])


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
