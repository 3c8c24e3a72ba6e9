"""Train and measure one configuration: `python -m hessflat train --config=g_mlp:small`."""

from collections.abc import Sequence
from pathlib import Path

from hessflat import config
from hessflat.cli import app
from hessflat.runs import cost_model, loop, mending, schema
from hessflat.runs.checkpoints import stored_config
from hessflat.runs.jobs import Job, make_jobs
from hessflat.utils import processes, progress
from hessflat.utils.errors import DamagedError, InputError


def main(argv: Sequence[str]) -> None:
    """Settings are changed by `--config.NAME=VALUE`; `--root=FOLDER` says where runs are kept.

    `--from=RUN[@STEP]` starts from the weights of another run, at its end or at a step that it has a checkpoint of.
    `--run=FOLDER` takes the configuration that is stored there, goes on with its run, and mends it, its checkpoints
    too. `--anew=1` trains a run from its beginning of which too little is left to mend it.
    """
    own, settings = app.parse_flags(argv, {"config": "", "root": "runs", "from": "", "run": "", "anew": "0"})
    job, anew, seconds = _planned(own, settings)
    with progress.reporting(seconds) as reporter:
        lost = loop.run_all([job], reporter, anew, thorough=bool(own["run"]))
    with processes.failing_together():
        if lost:
            raise DamagedError(lost[0])
    if processes.is_writer():
        print(job.folder)


@processes.by_writer
def _planned(own: dict[str, str], settings: Sequence[str]) -> tuple[Job, bool, float]:
    """The run, whether it may be trained anew, and the seconds that it is expected to take."""
    job = _stored(own, settings) if own["run"] else _made(own, settings)
    return job, app.is_set(own, "anew"), cost_model.run_cost(job.config).total_seconds()


def _made(own: dict[str, str], settings: Sequence[str]) -> Job:
    if not own["config"]:
        raise InputError("--config=… is missing; it must be given, or --run=… of a run folder")
    chosen = app.from_command_line(own["config"], settings)
    if own["from"]:
        chosen = config.override(chosen, {"train.init_from": own["from"]})
    return make_jobs([schema.freeze(chosen)], Path(own["root"]))[0]


def _stored(own: dict[str, str], settings: Sequence[str]) -> Job:
    if own["config"] or own["from"]:
        raise InputError("--run=… takes the configuration of that run; leave --config=… and --from=… out")
    for setting in settings:
        if setting.removeprefix("--config.").partition("=")[0] not in schema.UNNAMED:
            raise InputError(f"--run=… takes the configuration of that run; leave {setting} out")
    folder = Path(own["run"])
    try:
        stored = stored_config(folder)
    except DamagedError:
        stored = mending.settings_of(folder)
    return Job(schema.freeze(app.with_arguments(config.thaw(stored), settings)), folder)
