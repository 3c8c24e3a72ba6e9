"""What a setting may be: small named predicates that stand in signatures and in the configuration's schema.

    def mlp(num_classes, *, hidden: Annotated[tuple[int, ...], each(positive), "width of each layer"] = (100,)): ...

The keyword-only arguments of a builder are its settings: its name, type, range and meaning are written once, there.
"""

import inspect
import math
import re
import typing
from collections.abc import Callable, Iterable
from fractions import Fraction
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


def builder_settings(builder: Callable) -> dict[str, Setting]:
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


_TIMETABLE = (
    "never, start, end, growth (epochs 0, 1, 2, 5, 10, 20, ...), every N steps, every N epochs, "
    "either with `to M steps` or `to M epochs`, at F (a share of the run); several with commas"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_EVERY = re.compile(rf"every (?:(\d+) )?(step|epoch)s?(?: to {_NUMBER} (step|epoch)s?)?")
_AT = re.compile(rf"at {_NUMBER}")


def timetable_steps(text: str, steps_per_epoch: int, num_steps: int) -> list[int]:
    """The steps of a run of `num_steps` at which `text`, such as `every 5 steps to 1 epoch, growth`, is due, in order.

    What several of its parts say is due once. Everything but `never` is also due at the end of the run, whenever that
    is, so that all runs of a sweep can be compared there.
    """
    if text == "never":
        return []
    due = {num_steps}
    for part in map(str.strip, text.split(",")):
        due.update(_part_steps(part, steps_per_epoch, num_steps))
    return sorted(step for step in due if step <= num_steps)


def _part_steps(part: str, steps_per_epoch: int, num_steps: int) -> list[int]:
    if part == "end":
        return []
    if part == "start":
        return [0]
    if part == "growth":
        last = -(-num_steps // steps_per_epoch)
        mantissas = (mantissa * 10**power for power in range(len(str(last))) for mantissa in (1, 2, 5))
        return [0, *(epoch * steps_per_epoch for epoch in mantissas if epoch <= last)]
    if match := _AT.fullmatch(part):
        share = Fraction(match[1])
        if share <= 1:
            return [round(share * num_steps)]
    if match := _EVERY.fullmatch(part):
        unit = {"step": 1, "epoch": steps_per_epoch}
        stride = int(match[1] or 1) * unit[match[2]]
        last = num_steps if match[3] is None else int(Fraction(match[3]) * unit[match[4]])
        if stride:
            return list(range(0, min(last, num_steps) + 1, stride))
    raise InputError(f"a time of measuring must be {_TIMETABLE}; got {part!r}")


def _is_timetable(text: str) -> bool:
    try:
        timetable_steps(text, 1, 1)
    except InputError:
        return False
    return True


timetable = Rule(_is_timetable, _TIMETABLE)
