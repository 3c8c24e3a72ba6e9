"""Measure a run's checkpoints again with other settings, without training: `python -m hessflat.measure --run=…`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hessflat import arguments, config, entry, metric_log, progress, run, runner, schema
from hessflat.errors import InputError
from hessflat.files import write_atomically
from hessflat.training import checkpoint
from hessflat.training.program import hyper_of


def main(argv: Sequence[str]) -> None:
    """`--config.measure.NAME=VALUE` changes how; `--steps=all`, `last` or `0,100` says which checkpoints.

    The run may still be running. Results go to `<run>/measurements/<hash8>/`, named by the settings, beside the run's
    own; what is there already is kept and not measured again.
    """
    own, settings = arguments.parse(argv, {"run": None, "steps": "all"})
    folder = Path(own["run"])
    stored = stored_config(folder)
    changed = schema.validate(config.with_arguments(stored, _only_measure(settings)))
    manifest = run.read_manifest(folder)
    program, dataset, splits = runner.prepared(changed)
    if manifest.get("data_checksum", dataset.checksum) != dataset.checksum:
        raise InputError(f"{folder} was run on other data than {changed.data.name!r} holds now; restore that data")
    like = program.init(hyper_of(changed))

    out = folder / "measurements" / config.fingerprint(changed.measure.to_dict())
    with run.locked(out), checkpoint.reading(folder / "checkpoints") as manager:
        metric_log.truncate(out / "metrics.jsonl", sys.maxsize)  # drops a line that a killed process left unfinished
        write_atomically(out / "settings.json", json.dumps(changed.measure.to_dict(), indent=1, sort_keys=True) + "\n")
        wanted = _wanted(own["steps"], checkpoint.steps(manager), folder)
        done = {record["step"] for record in metric_log.read(out / "metrics.jsonl")}
        with progress.reporting(len(wanted)) as reporter:
            for step in wanted:
                if step not in done:
                    state = checkpoint.restore(manager, step, like)
                    subject = runner.subject_of(program, changed, state, splits, step)
                    runner.record_measurement(out, subject, step, program)
                reporter.advance(1.0, f"step {step}")
    print(out)


def stored_config(folder: Path) -> ConfigDict:
    """The configuration that a run folder belongs to."""
    plain = run.read_config(folder)
    if plain is None:
        raise InputError(f"{folder} is not a run folder: it has no config.json; see the folders under runs/")
    return schema.from_plain(plain)


def _only_measure(settings: Sequence[str]) -> Sequence[str]:
    for setting in settings:
        if not setting.startswith("--config.measure."):
            raise InputError(f"{setting} would change the run itself; only --config.measure.… can be measured again")
        if setting.partition("=")[0].removeprefix("--config.measure.") in ("at", "every"):
            raise InputError(f"{setting} means nothing here; --steps says which checkpoints are measured")
    return settings


def _wanted(text: str, steps: Sequence[int], folder: Path) -> list[int]:
    if not steps:
        raise InputError(f"{folder} has no complete checkpoint yet; wait for the first one, or train it")
    if text in ("all", "last"):
        return list(steps) if text == "all" else [steps[-1]]
    try:
        chosen = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--steps must be all, last or steps like 0,100, got {text!r}") from error
    for step in chosen:
        if step not in steps:
            raise InputError(f"no checkpoint of step {step} in {folder}; there are {', '.join(map(str, steps))}")
    return sorted(set(chosen))


if __name__ == "__main__":
    entry.run(main)
