"""Train and measure one configuration: `python -m hessflat train --config=g_mlp:small`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat import config
from hessflat.cli import app
from hessflat.runs import cost_model, loop, schema
from hessflat.runs.jobs import make_jobs
from hessflat.utils import progress


def main(argv: Sequence[str]) -> None:
    """Settings are changed by `--config.NAME=VALUE`; `--root=FOLDER` says where runs are kept.

    `--from=RUN[@STEP]` starts from the weights of another run, at its end or at a step that it has a checkpoint of.
    """
    own, settings = app.parse_flags(argv, {"config": None, "root": "runs", "from": ""})
    chosen = app.from_command_line(own["config"], settings)
    if own["from"]:
        chosen = config.override(chosen, {"train.init_from": own["from"]})
    jobs = make_jobs([schema.freeze(chosen)], Path(own["root"]))
    with progress.reporting(sum(cost_model.run_cost(job.config).total_seconds() for job in jobs)) as reporter:
        loop.run_all(jobs, reporter)
    print(jobs[0].folder)
