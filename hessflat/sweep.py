"""Run every entry of a configuration's `get_sweep`: `python -m hessflat.sweep --config=configs/g_mlp.py:small`."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hessflat import arguments, config, entry, progress, runner


def configs_of(target: str, settings: Sequence[str] = ()) -> list[ConfigDict]:
    """One configuration for each entry of the sweep of `path.py:scale`; `settings` apply before the sweep's own."""
    path, scale = config.split_target(target)
    base = config.from_command_line(target, settings)
    sweep = config.load_module(path, "get_config", "get_sweep").get_sweep(scale)
    return [config.override(base, overrides) for overrides in sweep]


def main(argv: Sequence[str]) -> None:
    """Like `hessflat.train`, for all of them. Finished runs are skipped, an interrupted one is continued."""
    own, settings = arguments.parse(argv, {"config": None, "root": "runs"})
    jobs = runner.jobs_of(configs_of(own["config"], settings), Path(own["root"]))
    with progress.reporting(sum(runner.work_of(job.config) for job in jobs)) as reporter:
        programs = runner.run_all(jobs, reporter)
    for job in jobs:
        print(job.folder)
    print(f"{len(jobs)} runs, {len(programs)} compiled training program(s)")


if __name__ == "__main__":
    entry.run(main)
