"""Arguments that make no sense, by what an argument is, and what a right program does with each."""

import decimal
import fractions
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.fuzz.outcomes import EITHER, REFUSE, RETURN, UsersOwnError

NAN = float("nan")


class Argument(NamedTuple):
    """The values that an argument may have, and what kind of thing it is."""

    valid: Sequence[Any]
    kind: str


class Lazy(NamedTuple):
    """A value that is made when the call is."""

    make: Callable[[], Any]


def gives_nan(*args: Any) -> Any:
    """A function that is finite nowhere."""
    return jnp.ones(()) * NAN


def _raises(*args: Any) -> Any:
    raise UsersOwnError("two\nlines")


def _raises_type_error(*args: Any) -> Any:
    raise TypeError("two\nlines")


class Unordered:
    """What a user may have made."""


_NOTHING: tuple[Any, ...] = (None, [], {}, (), "", object(), Unordered(), lambda: 0, Unordered)


def _refused(*values: Any) -> list[tuple[Any, str]]:
    return [(value, REFUSE) for value in values]


def _either(*values: Any) -> list[tuple[Any, str]]:
    return [(value, EITHER) for value in values]


_COUNTS = _refused(
    -1, -(10**9), -(10**30), 1.5, NAN, float("inf"), -float("inf"), "3", "three", b"3", True, False, 2 + 0j, 1j,
    np.float32(2.5), np.array([1, 2]), np.array(2.5), decimal.Decimal(2), fractions.Fraction(3, 2), *_NOTHING[1:],
)  # fmt: skip
_NO_OPERATORS = _refused(
    3, "hessian", np.eye(3), jnp.eye(3), cv.hessian, cv.Operator, NAN, [1.0], {"op": 1}, *_NOTHING,
    cv.Batches(np.ones(3)),
)  # fmt: skip
_NO_KEYS = _refused(
    0, 1.5, "key", (0, 1), np.zeros(3, np.uint32), np.zeros(2, np.float32), np.zeros(2, np.int64), NAN,
    np.zeros((2, 2), np.uint32), *_NOTHING,
)  # fmt: skip
_NO_TREES = _refused(
    3.0, "params", {"w": "text"}, {"w": [1.0, 2.0]}, {"w": NAN}, np.array(["a", "b"]), np.array([None, 1.0]),
    np.array([1.0, NAN], np.float32), {"w": np.array([np.inf, 1.0])}, np.array([1, 2]), np.array([True, False]),
    np.array([1j, 2]), {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}, np.ma.masked_less(np.arange(4.0), 2),
    np.array(["2020-01-01"], "M8[D]"), np.zeros(0, np.float32), {"w": np.zeros((0, 3), np.float32)}, *_NOTHING,
)  # fmt: skip
_NO_DATA = _refused(
    3.0, "data", [1, 2, 3], {"x": np.ones((3, 2)), "y": np.ones(4)}, {"x": np.array(2.0)}, {"x": np.zeros((0, 3))},
    {"x": np.array([["a"], ["b"]])}, {"x": np.array([{}, {}])}, {"x": np.ma.masked_less(np.ones((4, 2)), 2)}, *_NOTHING,
    {"x": np.array([[2**40]])},
)  # fmt: skip

SPOILED: Mapping[str, list[tuple[Any, str]]] = {
    "count": [*_COUNTS, *_refused(0, None), *_either(np.array(3), np.uint8(4), 10**9, 10**30, np.int16(5))],
    "count or none": [*_COUNTS, *_refused(0), *_either(None, np.array(3), np.uint8(4), 10**9, 10**30)],
    "count or zero": [*_COUNTS, *_refused(None), *_either(0, np.array(3), np.uint8(4), 10**9, 10**30)],
    "number": [
        *_refused(NAN, -1.0, "0.1", "a", b"1", 1j, np.array([0.1, 0.2]), True, *_NOTHING),
        *_either(0, np.float32(0.1), np.array(0.1), decimal.Decimal("0.1"), fractions.Fraction(1, 10), float("inf"),
                 10**400, 1e-300, -0.0, jnp.float32(0.1)),
    ],
    "number or none": [
        *_refused(NAN, -1.0, "0.1", "a", b"1", 1j, np.array([0.1, 0.2]), True, *_NOTHING[1:]),
        *_either(0, np.float32(0.1), np.array(0.1), decimal.Decimal("0.1"), fractions.Fraction(1, 10), float("inf"),
                 10**400, 1e-300, -0.0),
    ],
    "choice": _refused(
        "", " ", "nothing", "FULL", "full ", "Largest", 3, 2.5, NAN, b"full", np.array(["full"]), np.array([1, 2]),
        np.array(3), True, *_NOTHING[1:], "x" * 10_000, "zwei\nZeilen",
    ),
    "flag": [*_either(0, 1, np.True_), *_refused("no", "False", 2, NAN, np.array([1, 2]), *_NOTHING)],
    "flag or none": [*_either(0, 1, np.True_, None), *_refused("no", "False", 2, NAN, np.array([1, 2]), *_NOTHING[1:])],
    "operator": _NO_OPERATORS,
    "key": [*_NO_KEYS, *_either(np.array([0, 7], np.uint32), jax.random.PRNGKey(1), jax.random.key(2, impl="rbg"))],
    "params": _NO_TREES,
    "data": _NO_DATA,
    "vector": [*_NO_TREES[:2], *_refused(np.zeros(1001, np.float32), {"nowhere": np.ones(2, np.float32)}, *_NOTHING,
                                         [1.0, 2.0], np.array("a"))],
    "vector or none": [*_refused(3, "v", np.zeros(1001, np.float32), {"nowhere": np.ones(2, np.float32)},
                                 np.array("a"), *_NOTHING[1:])],
    "function": _refused(
        3, "loss", _raises, _raises_type_error, lambda: 0.0, lambda params: 0.0, lambda *args: None,
        lambda *args: "text", lambda *args: object(), gives_nan, lambda *args: (1.0, 2.0),
        lambda *args: {}, np.eye(2), *_NOTHING[:7],
    ),
    "names": _refused(
        3, "nothing/like/it", "", ["dense_0/*", 3], [None], object(), NAN, {"a": "b"}, lambda path: False,
        lambda path: _raises(), b"w", np.array(["w"]), "[", None, [],
    ),
    "by": [
        *_refused(0, -1, 1.5, NAN, "nothing/like/it", [3], {"a": 3}, {"a": "nowhere"}, b"w", object(),
                  lambda path: None, lambda path: _raises(), True),
        *_either(10**9, {}, lambda path: 3, [], "", ()),
    ],
    "callback or none": _refused(3, "f", _raises, [], {}),
    "folder or none": _refused(3, 2.5, [], {}, object(), "a\0b", "/proc/nowhere/at/all", NAN),
    "positions": [
        *_refused("a", NAN, [NAN], [float("inf")], [[0.0, 1.0]], [1j], [None], ["a"], 3, *_NOTHING, np.array(["b"])),
        *_either([True, False], ["1.5"], np.arange(3), (0, 1), jnp.arange(2.0), range(3)),
    ],
    "values": _refused(
        "a", NAN, [NAN], [[1.0]], [], None, [1j], ["a"], {}, object(), 3.0, np.array([True, False]), [None],
        np.array([1, np.inf]),
    ),
    "state or none": [*_either({}, (), []), *_refused("a", object(), {"key": "b"}, np.array(["a"]))],
    "axis or none": [
        *_refused(5, -7, 1.5, NAN, "0", [], {}, True, object()), *_either(0, -1, np.int64(1), lambda path: 1)
    ],
    "arrays": _refused(3, "a", None, [], {}, object(), {"nodes": np.ones((2, 2))}),
    "array": [],
}  # fmt: skip


def drawn(
    numbers: random.Random, table: Mapping[str, Argument], spoil: float = 0.45
) -> tuple[dict[str, Any], str, str]:
    """Arguments by name, what a right program does with them, and what is wrong with them in words."""
    values = {name: numbers.choice(list(argument.valid)) for name, argument in table.items()}
    if numbers.random() >= spoil:
        return values, RETURN, _words({name: value for name, value in values.items() if not _is_array(value)})
    name = numbers.choice([name for name, argument in table.items() if SPOILED[argument.kind]])
    values[name], must = numbers.choice(SPOILED[table[name].kind])
    return values, must, f"{name}={_word(values[name])}"


def made(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, with those that are lazy made."""
    return {name: value.make() if isinstance(value, Lazy) else value for name, value in values.items()}


def _is_array(value: Any) -> bool:
    return isinstance(value, Lazy | np.ndarray | jax.Array | dict | list | tuple) or callable(value)


def _word(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else text[:57] + "..."


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_word(value)}" for name, value in values.items())
