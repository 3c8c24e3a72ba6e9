"""Run every entry of a configuration's `get_sweep`: `python -m hessflat sweep --config=g_mlp:small`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from hessflat import config
from hessflat.analysis.tables import as_text
from hessflat.cli import app, launching
from hessflat.launch import queue
from hessflat.runs import schema
from hessflat.runs.jobs import make_jobs
from hessflat.runs.schema import RunConfig
from hessflat.utils.errors import InputError, shown


def sweep_configs(target: str, settings: Sequence[str] = (), seeds: str = "") -> list[RunConfig]:
    """One configuration for each entry of the sweep of `path.py:scale`, as `settings` and `seeds` change it.

    Args:
        target: `g_mlp:small`.
        settings: `--config.name=a,b`; each value takes the place of those that the sweep has.
        seeds: how many, or which ones, as `config.reseeded` has it; empty leaves the sweep's own.

    Raises:
        InputError: also the seed as a setting, and a setting of a builder that no entry chooses.
    """
    path, scale = app.split_target(target)
    base = app.from_command_line(target)
    entries = app.made_by(app.load_module(path, "get_config", "get_sweep"), "get_sweep", scale)
    if not isinstance(entries, Sequence) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise InputError(f"get_sweep of {path} must list the settings of one run or more, got {shown(entries)}")
    changes = dict(values_of(base, setting) for setting in settings)
    if "seed" in changes:
        raise InputError("every sweep varies config.seed; give --seeds, how many or which: 10 or 20,21,22")
    entries = config.varied(entries, changes)
    configs = [config.override(base, entry) for entry in (config.reseeded(entries, seeds) if seeds else entries)]
    for name in changes:
        app.require_chosen(name, configs)
    return [schema.freeze(one) for one in configs]


def values_of(base: ConfigDict, setting: str) -> tuple[str, tuple[Any, ...]]:
    """The name of `--config.name=a,b` and its values: one if the whole is a value, else what commas separate.

    Raises:
        InputError: an unknown name, or a value of another type.
    """
    name, _, text = setting.removeprefix("--config.").partition("=")

    def of(part: str) -> Any:
        return config.get(config.changed(base, [f"--config.{name}={part.strip()}"]), name)

    parts = text.split(",")
    try:
        whole = of(text)
    except InputError:
        if len(parts) == 1 or isinstance(config.get(base, name), ConfigDict):
            raise
        return name, tuple(map(of, parts))
    rule = config.flatten(config.schema(RunConfig))[name].rule
    return name, (whole,) if rule.holds(whole) or len(parts) == 1 else tuple(map(of, parts))


def main(argv: Sequence[str]) -> None:
    """Like `train`, for all of them. Finished runs are skipped, an interrupted one is continued.

    `--config.optim.l2=0,1e-3` puts these values in the place of the sweep's own, and adds them where it has none.
    `--seeds=10` takes ten seeds, `--seeds=20,21` these two.

    Started several times on one folder, on this machine or on others, the commands share the runs: each takes what
    nobody holds, and all end when everything is finished. `--share=i/n`, i from 1 to n, runs a part of the sweep, about
    as dear as the others, and what that part needs; with `--unclaimed` it then goes on with whatever nobody holds,
    which without a share is what it does anyway.

    `--list` prints the runs, `--status` how far they are, and neither writes anything. `--workers=N` runs go side by
    side on a CPU, each in a process; `auto` is one for each core where that is faster, and one for each GPU where there
    are several. `--launch=slurm` submits the runs, see `launching`. `--anew` trains from its beginning what is damaged
    beyond mending.
    """
    flags = {"config": None, "root": "runs", "workers": "auto", "anew": "0", "list": "0", "share": "", "unclaimed": "0"}
    flags |= {"seeds": ""}
    argv, sbatch = launching.split(argv)
    own, settings = app.parse_flags(argv, {**flags, **launching.FLAGS})
    jobs = make_jobs(sweep_configs(own["config"], settings, own["seeds"]), Path(own["root"]))
    root = Path(own["root"])
    name = jobs[0].config.experiment
    part = _share(own["share"])
    mine = queue.share(jobs, *part) if part else jobs
    if app.is_set(own, "list"):
        print(as_text(launching.listing(mine)))
    elif app.is_set(own, "status"):
        print(launching.status([(name, mine)]))
    elif launching.to_slurm(own, sbatch):
        launching.submit(mine, root, name, own, sbatch)
    else:
        for some in [mine, jobs] if part and app.is_set(own, "unclaimed") else [mine]:
            compiled = launching.run(some, own["workers"], app.is_set(own, "anew"))
        for job in some:
            print(job.folder)
        print(compiled)


def _share(text: str) -> tuple[int, int] | None:
    """`3/16` as numbers; None where there is none."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--share must be i/n, such as 3/16, with i from 1 to n, got {text!r}")
    return int(match[1]), int(match[2])
