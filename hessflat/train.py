"""Train and measure one configuration: `python -m hessflat.train --config=configs/g_mlp.py:small`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat import arguments, config, entry, progress, runner, work
from hessflat.jobs import jobs_of


def main(argv: Sequence[str]) -> None:
    """Settings are changed by `--config.NAME=VALUE`; `--root=FOLDER` says where runs are kept.

    `--from=RUN[@STEP]` starts from the weights of another run, at its end or at a step that it has a checkpoint of.
    """
    own, settings = arguments.parse(argv, {"config": None, "root": "runs", "from": ""})
    chosen = config.from_command_line(own["config"], settings)
    if own["from"]:
        chosen = config.override(chosen, {"train.from_run": own["from"]})
    jobs = jobs_of([chosen], Path(own["root"]))
    with progress.reporting(sum(work.cost_of(job.config).of_run() for job in jobs)) as reporter:
        runner.run_all(jobs, reporter)
    print(jobs[0].folder)


if __name__ == "__main__":
    entry.run(main)
