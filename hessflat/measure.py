"""Measure a run's checkpoints again with other settings, without training: `python -m hessflat.measure --run=…`."""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hessflat import arguments, config, entry, metric_log, progress, resume, run, runner, schema
from hessflat.errors import InputError
from hessflat.files import write_atomically
from hessflat.jobs import Job, due_at_end
from hessflat.prepared import prepared
from hessflat.training import checkpoint


def main(argv: Sequence[str]) -> None:
    """`--config.measure.NAME=VALUE` changes how, or what: all is measured whose timetable is not `never`.

    `--steps=all`, `last` or `0,100` says which checkpoints. The run may still be running. Results go to
    `<run>/measurements/<hash8>/`, named by the settings, beside the run's own; what is there already is kept and not
    measured again.
    """
    own, settings = arguments.parse(argv, {"run": None, "steps": "all"})
    folder = Path(own["run"])
    stored = resume.stored_config(folder)
    changed = schema.validate(config.with_arguments(stored, _only_measure(settings)))
    manifest = run.read_manifest(folder)
    shared = prepared(changed)
    dataset = shared.dataset
    if manifest.get("data_checksum", dataset.checksum) != dataset.checksum:
        raise InputError(f"{folder} was run on other data than {changed.data.name!r} holds now; restore that data")

    out = folder / "measurements" / config.fingerprint(changed.measure.to_dict())
    with run.locked(out), checkpoint.reading(folder / "checkpoints") as manager:
        metric_log.truncate(out / "metrics.jsonl", sys.maxsize)  # drops a line that a killed process left unfinished
        write_atomically(out / "settings.json", json.dumps(changed.measure.to_dict(), indent=1, sort_keys=True) + "\n")
        wanted = resume.chosen_steps(own["steps"], checkpoint.steps(manager), folder)
        done = {record["step"] for record in metric_log.read(out / "metrics.jsonl")}
        with progress.reporting(len(wanted)) as reporter:
            for step in wanted:
                if step not in done:
                    # What is searched for is found anew, for the operators that are wanted now.
                    state = resume.stored_position(stored, shared.program, manager, step).state
                    first_params = partial(resume.first_params, Job(stored, folder.absolute()), shared.program)
                    subject = runner.subject_of(changed, shared, resume.position_of(changed, state), first_params)
                    runner.record_measurement(out, subject, due_at_end(changed), step, shared.program)
                reporter.advance(1.0, f"step {step}")
    print(out)


def _only_measure(settings: Sequence[str]) -> Sequence[str]:
    for setting in settings:
        if not setting.startswith("--config.measure."):
            raise InputError(f"{setting} would change the run itself; only --config.measure.… can be measured again")
    return settings


if __name__ == "__main__":
    entry.run(main)
