"""What a compiled program does on each device, read from its text: operations, bytes moved, kernels, collectives.

XLA's own analysis is empty for GPUs that are not there, and counts the body of a loop once. Here a loop counts as often
as it runs, where its length is known, and a branch for the share of times that it is taken. A fusion moves what it
reads and writes; of an array that it takes a slice of, or replaces a slice of, that slice alone. Operations are those
of products of matrices and of convolutions; others are bound by the memory.
"""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Shape = tuple[str, tuple[int, ...]]  # type and dimensions

_BYTES = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("iota", "domain", "opt-barrier", "add-dependency", "get-dimension-size"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}
_PASSING = {"bitcast", "reshape", "copy", "convert"}


class Collective(NamedTuple):
    """Exchanges of one kind among groups of devices."""

    kind: str  # such as "all-reduce"
    groups: tuple[tuple[int, ...], ...]  # devices by number; of one group, as all are alike
    times: float  # that it runs
    num_bytes: float  # of each: of the whole result of a gather, else of what goes in


class Kernel(NamedTuple):
    """One call that a device makes."""

    times: float
    flops: float
    num_bytes: float


class Program(NamedTuple):
    """What one device does in one run of a program."""

    kernels: tuple[Kernel, ...]
    collectives: tuple[Collective, ...]

    @property
    def flops(self) -> float:
        return sum(kernel.times * kernel.flops for kernel in self.kernels)

    @property
    def num_bytes(self) -> float:
        return sum(kernel.times * kernel.num_bytes for kernel in self.kernels)

    @property
    def num_kernels(self) -> float:
        return sum(kernel.times for kernel in self.kernels)


class _Instruction(NamedTuple):
    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


_Computation = dict[str, _Instruction]


def read(text: str, share_of_branches: float = 1.0) -> Program:
    """The program whose text is `compiled.as_text()`.

    Args:
        text: of one optimised module, with shapes as one device holds them.
        share_of_branches: how often of all times the costlier branch of a conditional is taken.
    """
    computations, entry = _parsed(text)
    kernels: list[Kernel] = []
    collectives: list[Collective] = []
    _run(computations, entry, 1.0, share_of_branches, kernels, collectives)
    merged: dict[tuple[str, tuple[tuple[int, ...], ...], float], float] = {}
    for one in collectives:
        key = (one.kind, one.groups, one.num_bytes)
        merged[key] = merged.get(key, 0.0) + one.times
    return Program(
        tuple(kernels), tuple(Collective(kind, groups, count, size) for (kind, groups, size), count in merged.items())
    )


def _parsed(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
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


def _instruction(line: str) -> _Instruction | None:
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
    return _Instruction(start[2], opcode[1], _shapes(rest[:end]), operands, rest[closed:], bool(start[1]))


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


def _size(shapes: Iterable[Shape]) -> float:
    total = 0.0
    for kind, dims in shapes:
        bits = re.search(r"\d+", kind)
        width = _BYTES.get(kind, int(bits[0]) / 8 if bits else 0)
        total += width * math.prod(dims)
    return total


def _run(
    computations: Mapping[str, _Computation],
    name: str,
    times: float,
    share: float,
    kernels: list[Kernel],
    collectives: list[Collective],
) -> None:
    """Add what `times` runs of one computation do."""
    computation = computations[name]
    for one in computation.values():
        called = _called(one.attributes)
        base = one.opcode.removesuffix("-start")
        if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
            continue
        if one.opcode == "while":
            turns = _turns(one.attributes, computations[called["condition"][0]])
            _run(computations, called["body"][0], times * turns, share, kernels, collectives)
        elif one.opcode == "conditional":
            branches = []
            for branch in called["branches"]:
                own: tuple[list[Kernel], list[Collective]] = ([], [])
                _run(computations, branch, times * share, share, *own)
                branches.append(own)
            most = max(branches, key=lambda own: sum(k.times * (k.flops + k.num_bytes) for k in own[0]))
            kernels += most[0]
            collectives += most[1]
        elif one.opcode in ("call", "async-start"):
            for inner in called.get("to_apply", []) + called.get("calls", []):
                _run(computations, inner, times, share, kernels, collectives)
        elif base in _COLLECTIVES:
            groups = groups_of(one.attributes)
            moved = _size(_of_operands(one, computation))
            if base == "all-gather":
                # What starts one gives its operands too.
                moved = _size(one.shapes) - (moved if one.opcode.endswith("-start") else 0)
            collectives.append(Collective(base, groups[:1], times, moved))
        else:
            kernels.append(Kernel(times, *_cost(computations, computation, one, called)))


def _turns(attributes: str, condition: _Computation) -> int:
    """How often a loop runs: what the compiler says, or the number that it counts to from 0; once if neither is there.

    The compiler for TPUs leaves the condition alone.
    """
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes):
        return int(known[1])
    root = next(one for one in condition.values() if one.is_root)
    numbers = [condition[name] for name in root.operands if name in condition and condition[name].opcode == "constant"]
    if root.opcode == "compare" and "direction=LT" in root.attributes and numbers:
        return int(numbers[0].operands[0])
    return 1


def _called(attributes: str) -> dict[str, list[str]]:
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


def _of_operands(one: _Instruction, computation: _Computation) -> list[Shape]:
    return [shape for name in one.operands if name in computation for shape in computation[name].shapes]


def _cost(
    computations: Mapping[str, _Computation],
    computation: _Computation,
    one: _Instruction,
    called: Mapping[str, list[str]],
) -> tuple[float, float]:
    """Operations, and bytes read and written, of one kernel."""
    if one.opcode == "fusion":
        inner = computations[called["calls"][0]]
        return sum(_flops(part, inner) for part in inner.values()), _bytes_of_fusion(one, computation, inner)
    if one.opcode in _SLICES:
        return 0.0, 2 * _size(one.shapes)
    if one.opcode == "dynamic-update-slice":
        return 0.0, 2 * _size(computation[one.operands[1]].shapes)
    return _flops(one, computation), _size(one.shapes) + _size(_of_operands(one, computation))


def _bytes_of_fusion(one: _Instruction, computation: _Computation, inner: _Computation) -> float:
    users: dict[str, list[_Instruction]] = {}
    for part in inner.values():
        for operand in part.operands:
            users.setdefault(operand, []).append(part)

    def read_of(name: str, whole: float) -> float:
        total = 0.0
        for user in users.get(name, []):
            if user.opcode in _PASSING:
                total += read_of(user.name, whole)
            elif user.opcode in _SLICES and user.operands[0] == name:
                total += _size(user.shapes)
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue
            else:
                return whole
        return min(total, whole)

    def written(name: str) -> float:
        part = inner[name]
        if part.opcode == "tuple":
            return sum(written(operand) for operand in part.operands)
        if part.opcode in _PASSING and part.operands[0] in inner:
            source = inner[part.operands[0]]
            if source.opcode in (*_PASSING, "dynamic-update-slice"):
                return written(source.name)
        if part.opcode == "dynamic-update-slice":
            return _size(inner[part.operands[1]].shapes)
        return _size(part.shapes)

    parameters = {int(part.operands[0]): part for part in inner.values() if part.opcode == "parameter"}
    total = sum(read_of(part.name, _size(part.shapes)) for part in parameters.values())
    return total + sum(written(part.name) for part in inner.values() if part.is_root)


def _flops(one: _Instruction, computation: _Computation) -> float:
    """Of a product of matrices or a convolution, two for each multiplication; of anything else none."""
    known = [computation[name] for name in one.operands if name in computation]
    operands = [each.shapes[0][1] for each in known if each.shapes]
    if one.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", one.attributes)
        return _product(one.shapes[0][1], operands[0], contracted[1].split(",") if contracted else [])
    if one.opcode == "convolution":
        return _convolution(operands[0], operands[1], one.shapes[0][1], one.attributes)
    if one.opcode != "custom-call":
        return 0.0
    name = re.search(r'custom_call_target="([^"]*)"', one.attributes)
    target = name[1] if name else ""
    if "gemm" in target or "matmul" in target:
        found = re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', one.attributes)
        dims = json.loads(f"[{found[1]}]") if found else []
        return _product(one.shapes[0][1], operands[0], dims)
    if "conv" in target.lower():
        result = one.shapes[0][1]
        # The text states every kind as the forward one, of which two of the three arrays are given.
        sides = {
            "__cudnn$convBackwardFilter": (operands[0], result, operands[1]),
            "__cudnn$convBackwardInput": (result, operands[1], operands[0]),
        }.get(target, (operands[0], operands[1], result))
        return _convolution(*sides, one.attributes)
    return 0.0


def _product(result: Sequence[int], left: Sequence[int], contracted: Iterable[str]) -> float:
    return 2.0 * math.prod(result) * math.prod(left[int(axis)] for axis in contracted if axis != "")


def _convolution(images: Sequence[int], kernel: Sequence[int], result: Sequence[int], attributes: str) -> float:
    """Two operations for each product of an entry of the kernel with one of the images, and none with their padding."""
    labels = re.search(r"dim_labels=([\w?]+)_([\w?]+)->([\w?]+)", attributes)
    if not labels:
        return 0.0
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", (re.search(r"window=\{([^}]*)\}", attributes) or ["", ""])[1]))
    batch_groups = re.search(r"batch_group_count=(\d+)", attributes)
    spatial = sum(label.isdigit() for label in labels[1])

    def of(key: str, axis: int) -> str:
        return window[key].split("x")[axis] if key in window else {"pad": "0_0"}.get(key, "1")

    total = 2.0 * result[labels[3].index("b")] * result[labels[3].index("f")] * kernel[labels[2].index("i")]
    for axis in range(spatial):
        extent, size, count = (
            sides[label.index(str(axis))]
            for sides, label in ((images, labels[1]), (kernel, labels[2]), (result, labels[3]))
        )
        stride, spread, stretch = (int(of(key, axis)) for key in ("stride", "lhs_dilate", "rhs_dilate"))
        before = int(of("pad", axis).split("_")[0])
        at = [o * stride + k * stretch - before for o in range(count) for k in range(size)]
        total *= sum(0 <= place <= (extent - 1) * spread and place % spread == 0 for place in at)
    return total / (int(batch_groups[1]) if batch_groups else 1)
