"""Is this machine ready? Versions, device, data, disk, and one product checked: `python -m hessflat doctor`."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import hessflat.curvature as cv
from hessflat import data
from hessflat.cli import app
from hessflat.utils import compat, hardware
from hessflat.utils.errors import InputError, command


def main(argv: Sequence[str]) -> None:
    """Print a line for each thing looked at; a wrong product ends with status 2."""
    _, given = app.parse_flags(argv, {})
    if given:
        raise InputError(f"doctor takes no arguments, got {given[0]!r}")
    here = hardware.environment()
    lines = {
        "versions": ", ".join(f"{name} {version}" for name, version in here["versions"].items()),
        "device": here["device"],
        "code": here["git_commit"],
        "built-in data": ", ".join(data.SOURCES),
        "prepared data": ", ".join(data.prepared_names()) or f"none; run: {command('data', 'prepare', 'mnist')}",
        "free disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB",
        "compiled code": compat.setting("jax_compilation_cache_dir") or "not kept",
    }
    for name, value in lines.items():
        print(f"{name:14} {value}")
    error = product_error()
    print(f"{'product':14} a Hessian product against its closed form in float64: relative error {error:.0e}")
    if not error < 1e-4:
        raise InputError(f"the Hessian product is off by {error:.0e}, expected below 1e-4; reinstall jax and jaxlib")


def product_error() -> float:
    """Relative error of one float32 Hessian product of softmax regression against its closed form in NumPy."""
    keys = jax.random.split(jax.random.key(0), 4)
    x, vector = jax.random.normal(keys[0], (50, 6)), jax.random.normal(keys[1], (6, 4))
    w, labels = jax.random.normal(keys[2], (6, 4)), jax.random.randint(keys[3], (50,), 0, 4)

    def loss(w: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        log_probabilities = jax.nn.log_softmax(batch["x"] @ w)
        return -jnp.mean(jnp.take_along_axis(log_probabilities, batch["y"][:, None], axis=1))

    ours = np.asarray(cv.hessian(loss, w, {"x": x, "y": labels})(vector), np.float64)
    x64, w64, vector64 = (np.asarray(a, np.float64) for a in (x, w, vector))
    logits, forward = x64 @ w64, x64 @ vector64
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = x64.T @ (p * forward - p * (p * forward).sum(axis=1, keepdims=True)) / len(x64)
    return float(np.linalg.norm(ours - expected) / np.linalg.norm(expected))
