"""Run every entry of a configuration's `get_sweep`: `python -m hessflat sweep --config=g_mlp:small`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat import config
from hessflat.cli import app
from hessflat.runs import cost_model, pool, schema
from hessflat.runs.jobs import make_jobs
from hessflat.runs.schema import RunConfig
from hessflat.utils import progress
from hessflat.utils.errors import InputError


def sweep_configs(target: str, settings: Sequence[str] = ()) -> list[RunConfig]:
    """One configuration for each entry of the sweep of `path.py:scale`, with `--config.…` settings applied to all."""
    path, scale = app.split_target(target)
    base = app.from_command_line(target, settings)
    sweep = app.load_module(path, "get_config", "get_sweep").get_sweep(scale)
    given = {setting.removeprefix("--config.").partition("=")[0] for setting in settings}
    for name in sorted(given & {name for overrides in sweep for name in overrides}):
        raise InputError(f"config.{name} is what the sweep of {path} varies; leave it out, or use make train")
    return [schema.freeze(config.override(base, overrides)) for overrides in sweep]


def main(argv: Sequence[str]) -> None:
    """Like `hessflat.train`, for all of them. Finished runs are skipped, an interrupted one is continued.

    `--workers=N` runs go side by side on a CPU, each in a process; `auto` is one for each core where that is faster.
    `--anew=1` trains from its beginning what is damaged beyond mending.
    """
    own, settings = app.parse_flags(argv, {"config": None, "root": "runs", "workers": "auto", "anew": "0"})
    jobs = make_jobs(sweep_configs(own["config"], settings), Path(own["root"]))
    with progress.reporting(sum(cost_model.run_cost(job.config).total_seconds() for job in jobs)) as reporter:
        compiled = pool.run_all(jobs, reporter, own["workers"], app.is_set(own, "anew"))
    for job in jobs:
        print(job.folder)
    print(compiled)
