"""When to measure, written as a text: the steps that parts such as `every 5 steps to 1 epoch, growth` stand for.

Parts are separated by commas; what is due at several of them is done once. Everything but `never` is also due at the
end of the run, whenever that is, so that all runs of a sweep can be compared there.
"""

import re
from fractions import Fraction

from hessflat.config.validators import Rule
from hessflat.utils.errors import InputError

SAYS = (
    "never, start, end, growth (epochs 0, 1, 2, 5, 10, 20, ...), every N steps, every N epochs, "
    "either with `to M steps` or `to M epochs`, at F (a share of the run); several with commas"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_EVERY = re.compile(rf"every (?:(\d+) )?(step|epoch)s?(?: to {_NUMBER} (step|epoch)s?)?")
_AT = re.compile(rf"at {_NUMBER}")


def steps_of(text: str, steps_per_epoch: int, num_steps: int) -> list[int]:
    """The steps of a run of `num_steps` at which `text` is due, in increasing order."""
    if text == "never":
        return []
    found = {num_steps}
    for part in map(str.strip, text.split(",")):
        found.update(_steps_of_part(part, steps_per_epoch, num_steps))
    return sorted(step for step in found if step <= num_steps)


def _steps_of_part(part: str, steps_per_epoch: int, num_steps: int) -> list[int]:
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
    raise InputError(f"a time of measuring must be {SAYS}; got {part!r}")


def _is_timetable(text: str) -> bool:
    try:
        steps_of(text, 1, 1)
    except InputError:
        return False
    return True


timetable = Rule(_is_timetable, SAYS)
