"""The text of a compiled program: its computations, their instructions, and the groups of devices of collectives."""

import itertools
import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

Shape = tuple[str, tuple[int, ...]]  # type and dimensions

_BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # of what it gives
    operands: tuple[str, ...]  # names; the number of a parameter, the value of a constant
    attributes: str  # what stands after its operands
    is_root: bool


Computation = dict[str, Instruction]


def parsed(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a module by name, and the name of the one that is entered."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            header = re.match(r"\s*(ENTRY )?%?([\w.\-]+)(\s*\(.*\)\s*->.*)? \{\s*$", line)
            if header and " = " not in line:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif line.strip() == "}":
            current = None
        elif instruction := _instruction(line):
            current[instruction.name] = instruction
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    line = re.sub(r"/\*.*?\*/", "", line)
    start = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if not start:
        return None
    rest = line[start.end() :]
    end = _closed(rest, 0) if rest.startswith("(") else rest.find(" ")
    opcode = re.match(r"\s*([\w\-]+)\(", rest[end:])
    if not opcode:
        return None
    opened = end + opcode.end() - 1
    closed = _closed(rest, opened)
    # With its type before the name, or without.
    operands = tuple(part.split()[-1].removeprefix("%") for part in _parts(rest[opened + 1 : closed - 1]))
    return Instruction(start[2], opcode[1], _shapes(rest[:end]), operands, rest[closed:], bool(start[1]))


def _closed(text: str, opened: int) -> int:
    """Where the bracket at `opened` is closed, and one further."""
    depth = 0
    for i in range(opened, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i + 1
    return len(text)


def _parts(text: str) -> list[str]:
    """What stands between the commas of a list, without those inside brackets."""
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def _shapes(text: str) -> tuple[Shape, ...]:
    return tuple(
        (kind, tuple(map(int, filter(None, dims.split(","))))) for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", text)
    )


def size_of(shapes: Iterable[Shape]) -> float:
    """Bytes."""
    total = 0.0
    for kind, dims in shapes:
        bits = re.search(r"\d+", kind)
        width = _BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
        total += width * math.prod(dims)
    return total


def called_by(attributes: str) -> dict[str, list[str]]:
    """The computations that an instruction names, by what it calls them."""
    found = {key: [name] for key, name in re.findall(r"(body|condition|to_apply|calls)=%?([\w.\-]+)", attributes)}
    branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
    pair = re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", attributes)
    if branches or pair:
        found["branches"] = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else pair
    return found


def groups_of(attributes: str) -> tuple[tuple[int, ...], ...]:
    """The groups of devices of a collective; none where it says nothing, which is all of them."""
    explicit = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\})\}", attributes)
    if explicit:
        return tuple(tuple(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", explicit[1]))
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if mesh and "device_ids" not in attributes:
        lengths = {name: int(length) for name, length in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        chosen = [name for name in re.findall(r"'([^']+)'", mesh[2]) if name in lengths]
        places = np.arange(math.prod(lengths.values())).reshape(tuple(lengths.values()))
        last = np.moveaxis(places, [list(lengths).index(name) for name in chosen], range(-len(chosen), 0))
        width = math.prod(lengths[name] for name in chosen)
        return tuple(tuple(map(int, group)) for group in last.reshape(-1, width))
    short = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if not short:
        return ()
    (_, width), sides = (tuple(map(int, short[i].split(","))) for i in (1, 2))
    order = tuple(map(int, short[3].split(","))) if short[3] else tuple(range(len(sides)))
    strides = [math.prod(sides[i + 1 :]) for i in range(len(sides))]
    numbers = [
        sum(at * strides[axis] for at, axis in zip(place, order, strict=True))
        for place in itertools.product(*(range(sides[axis]) for axis in order))
    ]
    return tuple(tuple(numbers[i : i + width]) for i in range(0, len(numbers), width))
