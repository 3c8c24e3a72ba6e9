"""The time of a program on a chip, by what bounds it and the numbers of `targets.CHIPS`.

Each kernel takes the longer of its operations at the chip's speed and its bytes at the memory's, and the time of
starting it; a collective takes its bytes at the network's speed, as rings of all links do, and a latency. Nothing
overlaps. Real programs reach a part of the stated speeds, so the time is a lower bound of the work, and an upper one of
exchanges that are hidden behind it.
"""

from hessflat.curvature.diagnostics.programs import Collective, Program
from hessflat.curvature.diagnostics.targets import Chip


def seconds_of(program: Program, chip: Chip, precision: str, num_chips: int) -> dict[str, float]:
    """Seconds of one run of a program, by what bounds it."""
    # Of another precision, such as a dot algorithm, no speed is stated; that of the slowest bounds it from above.
    rate = chip.flops.get(precision, min(chip.flops.values()))
    kernels = program.kernels
    network = sum(one.times * seconds_of_exchange(one, chip, num_chips) for one in program.collectives)
    latency = program.num_kernels * chip.kernel_seconds
    latency += sum(one.times for one in program.collectives) * chip.collective_seconds
    work = sum(k.times * max(k.flops / rate, k.num_bytes / chip.memory_rate) for k in kernels)
    return {
        "compute_seconds": program.flops / rate,
        "memory_seconds": program.num_bytes / chip.memory_rate,
        "network_seconds": network,
        "latency_seconds": latency,
        "step_seconds": work + network + latency,
    }


def seconds_of_exchange(one: Collective, chip: Chip, num_chips: int) -> float:
    """The time of one exchange without its latency, at the rate of its slowest link.

    A ring of n devices sends (n − 1)/n of the bytes from each, and twice that for a sum (Thakur, Rabenseifner and Gropp
    2005). Between nodes, the devices of a group that are on one node have a link each.
    """
    group = one.groups[0] if one.groups else tuple(range(num_chips))
    if len(group) < 2:
        return 0.0
    rate = chip.network_rate
    if chip.node:
        nodes = [device // chip.node for device in group]
        if len(set(nodes)) > 1:
            rate = min(rate, chip.outer_rate * len(nodes) / len(set(nodes)))
    if one.kind == "collective-permute":
        return one.num_bytes / rate
    share = (len(group) - 1) / len(group)
    return (2 if one.kind == "all-reduce" else 1) * share * one.num_bytes / rate
