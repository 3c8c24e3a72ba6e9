"""What a compiled program does on each device, read from its text: operations, bytes moved, kernels, collectives.

XLA's own analysis is empty for GPUs that are not there, and counts the body of a loop once. Here a loop counts as often
as it runs, where its length is known, and a branch for the share of times that it is taken. A fusion moves what it
reads and writes; of an array that it takes a slice of, or replaces a slice of, that slice alone. Operations are those
of products of matrices and of convolutions; others are bound by the memory.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hessflat.curvature.diagnostics.hlo import Computation, Instruction, Shape, called_by, groups_of, parsed, size_of

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


def read(text: str, share_of_branches: float = 1.0) -> Program:
    """The program whose text is `compiled.as_text()`.

    Args:
        text: of one optimised module, with shapes as one device holds them.
        share_of_branches: how often of all times the costlier branch of a conditional is taken.
    """
    computations, entry = parsed(text)
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


def _run(
    computations: Mapping[str, Computation],
    name: str,
    times: float,
    share: float,
    kernels: list[Kernel],
    collectives: list[Collective],
) -> None:
    """Add what `times` runs of one computation do."""
    computation = computations[name]
    for one in computation.values():
        called = called_by(one.attributes)
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
            moved = size_of(_of_operands(one, computation))
            if base == "all-gather":
                # What starts one gives its operands too.
                moved = size_of(one.shapes) - (moved if one.opcode.endswith("-start") else 0)
            collectives.append(Collective(base, groups[:1], times, moved))
        else:
            kernels.append(Kernel(times, *_cost(computations, computation, one, called)))


def _turns(attributes: str, condition: Computation) -> int:
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


def _of_operands(one: Instruction, computation: Computation) -> list[Shape]:
    return [shape for name in one.operands if name in computation for shape in computation[name].shapes]


def _cost(
    computations: Mapping[str, Computation],
    computation: Computation,
    one: Instruction,
    called: Mapping[str, list[str]],
) -> tuple[float, float]:
    """Operations, and bytes read and written, of one kernel."""
    if one.opcode == "fusion":
        inner = computations[called["calls"][0]]
        return sum(_flops(part, inner) for part in inner.values()), _bytes_of_fusion(one, computation, inner)
    if one.opcode in _SLICES:
        return 0.0, 2 * size_of(one.shapes)
    if one.opcode == "dynamic-update-slice":
        return 0.0, 2 * size_of(computation[one.operands[1]].shapes)
    return _flops(one, computation), size_of(one.shapes) + size_of(_of_operands(one, computation))


def _bytes_of_fusion(one: Instruction, computation: Computation, inner: Computation) -> float:
    users: dict[str, list[Instruction]] = {}
    for part in inner.values():
        for operand in part.operands:
            users.setdefault(operand, []).append(part)

    def read_of(name: str, whole: float) -> float:
        total = 0.0
        for user in users.get(name, []):
            if user.opcode in _PASSING:
                total += read_of(user.name, whole)
            elif user.opcode in _SLICES and user.operands[0] == name:
                total += size_of(user.shapes)
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
            return size_of(inner[part.operands[1]].shapes)
        return size_of(part.shapes)

    parameters = {int(part.operands[0]): part for part in inner.values() if part.opcode == "parameter"}
    total = sum(read_of(part.name, size_of(part.shapes)) for part in parameters.values())
    return total + sum(written(part.name) for part in inner.values() if part.is_root)


def _flops(one: Instruction, computation: Computation) -> float:
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
