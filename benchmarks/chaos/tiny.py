"""A small run, and what a finished run left on disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hessflat import config
from hessflat.cli import app
from hessflat.runs import checkpoints, loop, run_folder, schema
from hessflat.runs.checkpoints import stored_config
from hessflat.runs.jobs import compiled, make_jobs
from hessflat.runs.schema import RunConfig
from hessflat.utils import progress

TINY = {"train.epochs": 5, "model.mlp.hidden": (5,), "measure.lanczos_steps": 4}
# A run of 20 steps that has every kind of file.
SHORT = (
    "--config.train.epochs=2",
    "--config.measure.sharpness=every 10 steps",
    "--config.measure.operators=('hessian',)",
    "--config.measure.jacobian=never",
    "--config.stop.train_accuracy=1.0",
    "--config.stop.eval_every=5",
)


def tiny(*arguments: str, keep: str = "measured") -> RunConfig:
    """The MLP of `configs/granziol2020/g_mlp.py`, five hidden units, measured at epochs 0, 1, 2 and 5."""
    base = config.override(app.from_command_line("g_mlp:smoke"), TINY | {"checkpoint.keep": keep})
    return schema.freeze(app.with_arguments(base, arguments))


def run_all(configs: Sequence[RunConfig], root: Path, reporter: progress.Reporter | None = None) -> list[Path]:
    """Run and give back the folders."""
    jobs = make_jobs(configs, Path(root))
    loop.run_all(jobs, reporter or progress.silent())
    return [job.folder for job in jobs]


def restored(chosen: RunConfig, folder: Path, step: int) -> Any:
    """The state of a checkpoint, on the devices of `chosen`."""
    with checkpoints.reading(folder / "checkpoints") as manager:
        return checkpoints.stored_position(chosen, compiled(chosen).trainer, manager, step).state


def final_state(folder: Path, chosen: RunConfig | None = None) -> Any:
    """The last checkpoint of a run, on the devices of `chosen` or of the run itself."""
    with checkpoints.reading(folder / "checkpoints") as manager:
        last = checkpoints.steps(manager)[-1]
    return restored(chosen or stored_config(folder), folder, last)


def spectra(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Nodes and weights of every stored spectrum; seconds are left out, they are never the same twice."""
    found = {}
    for path in sorted((Path(folder) / "spectra").glob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = {key: arrays[key] for key in arrays.files if key != "seconds"}
    return found


def metrics(folder: Path) -> list[dict[str, Any]]:
    return run_folder.read_lines(Path(folder) / "metrics.jsonl")


def same_leaves(one: Any, other: Any) -> bool:
    """Whether two trees have the same bits."""
    if str(jax.tree.structure(one)) != str(jax.tree.structure(other)):
        return False
    mine, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return all(_bits(a) == _bits(b) for a, b in zip(mine, others, strict=True))


def differences(folder: Path, whole: Path) -> list[str]:
    """What of a run has other bits than that of an undisturbed run: its files, arrays, and the last checkpoint."""
    found = [
        name
        for name in ("config.json", "metrics.jsonl", "eval.jsonl")
        if _content(folder / name) != _content(whole / name)
    ]
    if not same_leaves(spectra(folder), spectra(whole)):
        found.append("spectra")
    if (whole / "checkpoints").is_dir() and not same_leaves(final_state(folder), final_state(whole)):
        found.append("checkpoints")
    return found


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _bits(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    if jax.dtypes.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()
