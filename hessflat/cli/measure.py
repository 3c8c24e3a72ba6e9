"""Measure a run's checkpoints again with other settings, without training: `python -m hessflat measure --run=…`.

With `--checkpoints=FOLDER --loss=module:function --data=module:object` it measures a folder of checkpoints of any
model.
"""

import json
import sys
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

from hessflat import config, measures
from hessflat.cli import app
from hessflat.cli import checkpoints as foreign_checkpoints
from hessflat.runs import checkpoints, loop, run_folder, schema
from hessflat.runs.jobs import Job, compiled, due_at_end
from hessflat.runs.schema import RunConfig
from hessflat.utils import processes, progress
from hessflat.utils.errors import InputError
from hessflat.utils.files import write_atomically
from hessflat.utils.processes import by_writer


def main(argv: Sequence[str]) -> int:
    """Measure the checkpoints of a run, or with `--checkpoints=` those of any model, and return the exit status."""
    if any(argument.startswith("--checkpoints") for argument in argv):
        return foreign_checkpoints.main(argv)
    measure_run(argv)
    return 0


def measure_run(argv: Sequence[str]) -> None:
    """`--config.measure.NAME=VALUE` changes how, or what: all is measured whose timetable is not `never`.

    `--steps=all`, `last` or `0,100` says which checkpoints. The run may still be running. Results go to
    `<run>/measurements/<hash8>/`, named by the settings, beside the run's own; what is there already stays and is not
    measured again.
    """
    folder, stored, changed, chosen = _planned(argv)
    loop.data_checksum(changed)
    shared = compiled(changed)
    out = folder / "measurements" / config.fingerprint(config.plain(changed.measure))
    with (
        processes.held_by_writer(lambda: run_folder.locked(out)),
        checkpoints.reading(folder / "checkpoints") as manager,
    ):
        steps = checkpoints.chosen_steps(chosen, checkpoints.steps(manager), folder)
        done = _prepare(out, changed, steps)
        with progress.reporting(len(steps)) as reporter:
            for step in steps:
                progress.stop_if_asked()
                if step not in done:
                    # Eigenvectors are searched for from nothing, for the operators that are measured this time.
                    state = checkpoints.stored_position(stored, shared.trainer, manager, step).state
                    first_params = partial(checkpoints.first_params, Job(stored, folder.absolute()), shared.trainer)
                    measured = loop.make_eval_state(
                        changed, shared, checkpoints.new_position(changed, state), first_params
                    )
                    measurement = measures.measure(measured, due_at_end(changed), changed.measure)
                    loop.record(out, measurement, step, shared.trainer.steps_per_epoch)
                    for line in measures.failures(measurement, step):
                        reporter.note(line)
                reporter.advance(1.0, f"step {step}")
    if processes.is_writer():
        print(out)


@by_writer
def _planned(argv: Sequence[str]) -> tuple[Path, RunConfig, RunConfig, str]:
    """The run's folder, its configuration, the same with the settings to measure with, and which checkpoints."""
    own, settings = app.parse_flags(argv, {"run": None, "steps": "all"})
    folder = Path(own["run"])
    stored = checkpoints.stored_config(folder)
    changed = schema.freeze(app.with_arguments(config.thaw(stored), _only_measure(settings)))
    checksum = loop.data_checksum(changed)
    if run_folder.read_manifest(folder).get("data_checksum", checksum) != checksum:
        raise InputError(f"{folder} was run on other data than {changed.data.name!r} holds now; restore that data")
    return folder, stored, changed, own["steps"]


@by_writer
def _prepare(out: Path, changed: RunConfig, steps: Sequence[int]) -> set[int]:
    """Make the folder ready for measurements at `steps`; those that it holds already."""
    if found := run_folder.problems(out):
        print(f"{out}: {run_folder.in_words(found)}; measured again", file=sys.stderr)
        run_folder.cut_back(out, None)
        (out / "manifest.json").unlink(missing_ok=True)
    settings = json.dumps(config.plain(changed.measure), indent=1, sort_keys=True) + "\n"
    write_atomically(out / "settings.json", settings)
    forget_failed(out, steps)
    return {record["step"] for record in run_folder.read_lines(out / "metrics.jsonl")}


def forget_failed(out: Path, steps: Collection[int]) -> None:
    """Drop what is there of those of `steps` at which a measure failed, so that they are measured again; then seal."""
    failed = run_folder.read_manifest(out).get("failed_measures", [])
    again = {one["step"] for one in failed if one["step"] in steps}
    # A killed process may also have left an unfinished line.
    run_folder.keep_lines(out / "metrics.jsonl", lambda step: step not in again)
    run_folder.write_manifest(
        out,
        digests=run_folder.digests_until(out, sys.maxsize),
        failed_measures=[one for one in failed if one["step"] not in again],
    )


def _only_measure(settings: Sequence[str]) -> Sequence[str]:
    for setting in settings:
        if not setting.startswith("--config.measure."):
            raise InputError(f"{setting} would change the run itself; only --config.measure.… can be measured again")
    return settings
