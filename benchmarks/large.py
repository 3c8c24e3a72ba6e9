"""Lanczos with a basis that takes most of the memory: WideResNet-28x10's 36.5 million parameters, 100 steps.

    python -m benchmarks.large [--size=36500000] [--steps=100] [--storage=device,half,host]

The operator is a diagonal matrix with 20 outliers, so that products cost nothing and the largest eigenvalue is known.
Every way to keep the basis runs in a process of its own, whose peak of memory is its own. On a GPU, the basis of the
first two is in the device's hardware.
"""

import multiprocessing
import resource
import sys
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from benchmarks.command import run_as_command
from benchmarks.own.basis import bytes_moved
from hessflat.cli import app
from hessflat.curvature.krylov.basis import Storage
from hessflat.utils import hardware
from hessflat.utils.errors import InputError, require_known

LARGEST = 20.0
_BULK = 0.01


def main(argv: Sequence[str]) -> None:
    given, _ = app.parse_flags(argv, {"size": "36500000", "steps": "100", "storage": ",".join(get_args(Storage))})
    storages = given["storage"].split(",")
    require_known("storage", storages, get_args(Storage))
    size, steps = (_count(name, given[name]) for name in ("size", "steps"))
    row = "{:8s} {:>9s} {:>11s} {:>9s} {:>13s} {:>13s} {:>10s}"
    print(f"{size:,} parameters, {steps} steps; a basis in float32 takes {hardware.text(4.0 * size * steps)}")
    print(
        row.format("storage", "seconds", "GB/s moved", "peak", "orthogonality", "error of λ", "its bound"), flush=True
    )
    for storage in storages:
        found = measure(storage, size, steps)
        rate, peak = bytes_moved(size, steps) / found["seconds"] / 1e9, hardware.text(found["peak"])
        numbers = [f"{found[name]:.1e}" for name in ("orthogonality", "error", "bound")]
        print(row.format(storage, f"{found['seconds']:.1f}", f"{rate:.1f}", peak, *numbers), flush=True)


def measure(storage: str, size: int, steps: int) -> dict[str, float]:
    """One run in a new process.

    Raises:
        InputError: the process was killed, as it is where memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    replies, reply = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(reply, storage, size, steps))
    process.start()
    reply.close()
    try:
        found: Any = replies.recv()
    except EOFError:
        process.join()
        raise InputError(
            f"storage={storage} ended with status {process.exitcode}; take fewer --steps, or --storage=half"
        ) from None
    process.join()
    if isinstance(found, str):
        raise InputError(found)
    return found


def run(storage: Storage, size: int, steps: int) -> dict[str, float]:
    """Seconds of a whole spectrum, compilation included, and how right it is."""
    bulk = np.random.default_rng(0).exponential(_BULK, size)
    bulk[-20:] = np.linspace(1, LARGEST, 20)
    op = cv.from_matvec(jnp.multiply, jnp.zeros(size), jnp.asarray(bulk, np.float32))
    spectrum = cv.spectrum(op, jax.random.key(0), num_steps=steps, storage=storage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": spectrum.seconds,
        "peak": float(peak if sys.platform == "darwin" else 1024 * peak),
        "orthogonality": float(spectrum.orthogonality[0]),
        "error": abs(spectrum.largest.value - LARGEST),
        "bound": spectrum.largest.residual,
    }


def _child(reply: Any, storage: Storage, size: int, steps: int) -> None:
    try:
        reply.send(run(storage, size, steps))
    except InputError as error:
        reply.send(str(error))


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 100:
        raise InputError(f"--{name} must be a whole number of at least 100, got {text!r}")
    return int(text)


if __name__ == "__main__":
    run_as_command(main)
