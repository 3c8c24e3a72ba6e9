"""Where things lie on a machine's accelerators: the basis, a product over all of them, and what a plan had said."""

from typing import Any, get_args

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessflat.curvature as cv
from benchmarks.timing import seconds_of
from hessflat.curvature.diagnostics import targets
from hessflat.curvature.krylov.basis import Storage
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

STORAGES = get_args(Storage)
# What JAX calls a device, by a part of it.
_KINDS = {"H100": "h100", "H200": "h200", "v5 lite": "v5e", "v6 lite": "v6e"}


def chip_of(kind: str) -> str | None:
    """The chip of `targets.CHIPS` that JAX's name of a device means; None for others, such as a CPU."""
    return next((chip for part, chip in _KINDS.items() if part in kind), None)


def storages(op: cv.Operator, key: Any, steps: int) -> dict[str, float]:
    """Seconds of a Lanczos run, compiled before, with its basis in each place, and how orthogonal it stays."""
    parts: dict[str, float] = {}
    for storage in STORAGES:
        run = lambda storage=storage: cv.lanczos(op, key, steps, storage=storage, show_progress=False)  # noqa: E731
        loss = float(run().orthogonality[0])
        parts |= {f"storage_{storage}": seconds_of(run), f"orthogonality_{storage}": loss}
    return parts


def spread(tree: Any, by_first: bool) -> Any:
    """Arrays over all devices of this machine: by their first axis, or each by the longest of its axes that divides."""
    mesh = jax.make_mesh((jax.device_count(),), (hardware.AXIS,), (AxisType.Auto,))
    if by_first:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(hardware.AXIS)))
    return jax.device_put(tree, hardware.shardings(tree, mesh, True))


def planned(op: cv.Operator, key: Any, steps: int, topology: str) -> dict[str, float]:
    """What a plan says of a run of Lanczos, and what that run took: memory beside what was there, and time.

    The first run of the process, so that the peak of memory is its own. Without a compiler for the chip, nothing.
    """
    try:
        plan: Any = cv.plan(op, steps, topology=topology)
    except InputError:
        return {}
    before, run = _in_use(), lambda: cv.lanczos(op, key, steps, show_progress=False)
    run()
    added = _peak() - before
    found = {
        "plan_added_bytes": float(plan.basis_bytes + plan.residual_bytes + plan.temporary_bytes),
        "plan_step": plan.step_seconds,
        "measured_step": min(seconds_of(run) for _ in range(2)) / steps,
    }
    # A CPU does not say.
    return found | ({"measured_added_bytes": float(added)} if added > 0 else {})


def topology_of(device: Any) -> str | None:
    """One chip of the kind of a device, as `cv.plan` takes it."""
    chip = chip_of(device.device_kind)
    if chip is None:
        return None
    return f"{chip}:1" if targets.CHIPS[chip].platform == "cuda" else f"{chip}:1x1"


def _in_use() -> int:
    return int((jax.devices()[0].memory_stats() or {}).get("bytes_in_use", 0))


def _peak() -> int:
    return int((jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
