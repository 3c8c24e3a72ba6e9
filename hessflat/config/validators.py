"""What a setting may be: small named predicates that stand in signatures and in the configuration's schema.

    def mlp(num_classes, *, hidden: Annotated[tuple[int, ...], each(positive), "width of each layer"] = (100,)): ...

The keyword-only arguments of a builder are its settings: its name, type, range and meaning are written once, there.
"""

import inspect
import math
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hessflat.utils.errors import InputError


class Rule(NamedTuple):
    """A predicate and the words for it: `says` completes "must be ..."."""

    holds: Callable[[Any], bool]
    says: str


class Setting(NamedTuple):
    """One leaf of a configuration: its default (which fixes its type), its rule and one line of meaning."""

    default: Any
    rule: Rule
    doc: str


def at_least(low: float) -> Rule:
    return Rule(lambda value: math.isfinite(value) and value >= low, f"at least {low:g}")


def between(low: float, high: float) -> Rule:
    """Both ends included."""
    return Rule(lambda value: low <= value <= high, f"from {low:g} to {high:g}")


def below(low: float, high: float) -> Rule:
    """The lower end included, the upper one not."""
    return Rule(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


def one_of(names: Iterable[Any]) -> Rule:
    known = tuple(names)
    return Rule(lambda value: value in known, f"one of {', '.join(map(str, known))}")


def whole(low: int, high: int) -> Rule:
    """Whole numbers, both ends included."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def single(rule: Rule) -> Rule:
    """The rule for a number that is used in single precision: neither rounded to 0 nor to infinity."""
    return Rule(
        lambda value: rule.holds(value) and (value == 0 or 1.2e-38 <= abs(value) <= 3.4e38),
        f"{rule.says}, and of a size that single precision holds",
    )


def each(rule: Rule) -> Rule:
    """The rule for every element of a tuple."""
    return Rule(lambda values: all(rule.holds(value) for value in values), f"a tuple, each {rule.says}")


anything = Rule(lambda value: True, "anything of its type")
finite = Rule(math.isfinite, "finite")
positive = Rule(lambda value: math.isfinite(value) and value > 0, "above 0 and finite")


def settings_of(builder: Callable) -> dict[str, Setting]:
    """The keyword-only arguments of `builder` as settings, from their `Annotated[type, rule, meaning]`."""
    hints = typing.get_type_hints(builder, include_extras=True)
    settings = {}
    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        rule, doc = hints[name].__metadata__
        settings[name] = Setting(parameter.default, rule, doc)
    return settings


def require(name: str, value: Any, rule: Rule) -> None:
    """Refuse a `value` that breaks its `rule`, in one line."""
    if not rule.holds(value):
        raise InputError(f"{name} must be {rule.says}, got {value!r}")
