"""What tests of runs share: a small configuration, and what a finished run left on disk."""

from pathlib import Path

import numpy as np

from hessflat import config
from hessflat.cli import app
from hessflat.runs import checkpoints, loop, run_folder, schema
from hessflat.runs.checkpoints import stored_config
from hessflat.runs.jobs import compiled, make_jobs
from hessflat.utils import progress

TINY = {"train.epochs": 5, "model.mlp.hidden": (5,), "measure.lanczos_steps": 4}


def tiny(*arguments, keep="measured"):
    """The MLP of `configs/granziol2020/g_mlp.py`, five hidden units, measured at epochs 0, 1, 2 and 5."""
    base = config.override(app.from_command_line("g_mlp:smoke"), TINY | {"checkpoint.keep": keep})
    return schema.freeze(app.with_arguments(base, arguments))


def run_all(configs, root, reporter=None):
    """Run and give back the folders."""
    jobs = make_jobs(configs, Path(root))
    loop.run_all(jobs, reporter or progress.silent())
    return [job.folder for job in jobs]


def final_state(folder):
    """The last checkpoint of a run."""
    chosen = stored_config(folder)
    trainer = compiled(chosen).trainer
    with checkpoints.reading(folder / "checkpoints") as manager:
        last = checkpoints.steps(manager)[-1]
        return checkpoints.stored_position(chosen, trainer, manager, last).state


def spectra(folder):
    """Nodes and weights of every stored spectrum; seconds are left out, they are never the same twice."""
    found = {}
    for path in sorted((Path(folder) / "spectra").glob("*.npz")):
        with np.load(path) as arrays:
            found[path.name] = {key: arrays[key] for key in arrays.files if key != "seconds"}
    return found


def metrics(folder):
    return run_folder.read_lines(Path(folder) / "metrics.jsonl")
