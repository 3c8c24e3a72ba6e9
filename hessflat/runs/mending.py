"""Damaged runs: what of one is intact, and from where it is gone through again.

A run is determined by its configuration, so that what is lost of it can be made anew: the run goes on from the last
intact checkpoint before the first loss, is measured again, and takes the state of every intact checkpoint on its way
in place of training up to it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hessflat.runs import checkpoints, run_folder
from hessflat.runs.jobs import Job, compiled
from hessflat.runs.schema import RunConfig, identity, plain
from hessflat.utils.errors import DamagedError, InputError


def mend(jobs: Sequence[Job], anew: bool, thorough: bool, note: Callable[[str], None], lost: list[str]) -> list[Job]:
    """The jobs whose runs are whole, or are ready to go on before what is damaged; see `loop.run_all`.

    Of each other one a line is added to `lost`.
    """
    ready = []
    for job in jobs:
        try:
            found = run_folder.problems(job.folder)
            if thorough and not found:
                found = lost_checkpoints(job, note)
            if found:
                prepare(job, found, anew, note)
            ready.append(job)
        except DamagedError as error:
            lost.append(str(error))
    return ready


def prepare(job: Job, found: Mapping[str, str], anew: bool, note: Callable[[str], None]) -> None:
    """Turn a damaged run, which `run_folder.problems` says is so, into an interrupted one that goes on before its loss.

    Raises:
        DamagedError: no checkpoint is intact, and a run that was finished is not to be trained `anew`.
    """
    folder, words = job.folder, f"{job.folder}: {run_folder.in_words(found)}"
    if "config.json" in found or ("manifest.json" in found and not _has_settings(job)):
        run_folder.write_config(folder, plain(job.config))
    if found.keys() == {"config.json"}:
        run_folder.write_manifest(folder, digests=_with_config(folder))
        note(f"{words}; written anew")
        return
    known = "manifest.json" not in found
    intact = [step for step in _steps(folder) if _is_intact(job, step, note)]
    if max(intact, default=0) == 0 and (not known or run_folder.read_manifest(folder)["status"] in run_folder.FINISHED):
        if not anew:
            raise DamagedError(
                f"{words}, and no checkpoint that could mend it is intact, so that its training is lost; to train it "
                f"anew: {run_folder.mending(folder)} --anew=1"
            )
        move_aside(folder)
        run_folder.write_config(folder, plain(job.config))
        note(f"{words}; trained anew, what was there is in {folder / 'damaged'}")
        return
    first = min(0 if name in (*run_folder.GROWING, "manifest.json") else run_folder.step_of(name) for name in found)
    start = max((step for step in intact if step < first), default=-1)
    if not known:
        (folder / "manifest.json").unlink(missing_ok=True)
    run_folder.write_manifest(folder, status="running", reason=None, redo_from=start)
    later = [step for step in intact if step > start]
    note(
        f"{words}; measured again from {'the beginning' if start < 0 else f'step {start}'}"
        + (f", with the checkpoints of steps {', '.join(map(str, later))}" if later else "")
    )


def lost_checkpoints(job: Job, note: Callable[[str], None]) -> dict[str, str]:
    """The checkpoints that a finished run should have and that are gone or damaged; none where it has none at all."""
    manifest = run_folder.read_manifest(job.folder)
    there = _steps(job.folder)
    if manifest.get("status") != "done" or not there:
        return {}
    saved = {step for step in manifest.get("checkpoints", []) if step not in there}
    damaged = {step for step in there if not _is_intact(job, step, note)}
    return {f"checkpoints/{step}": "gone" if step in saved else "damaged" for step in sorted(saved | damaged)}


def settings_of(folder: Path) -> RunConfig:
    """The configuration of a run folder whose manifest cannot vouch for it: one that the folder is named by.

    Raises:
        DamagedError: `config.json` holds no configuration, or another.
    """
    try:
        chosen = checkpoints.config_from(run_folder.read_object(folder / "config.json") or {})
        named = folder.resolve().name.endswith(identity(chosen))
    except InputError:
        named = False
    if not named:
        command = run_folder.mending(folder, ["config.json"])
        raise DamagedError(f"{folder / 'config.json'} is not that of the run; to mend it: {command}")
    return chosen


def move_aside(folder: Path) -> None:
    """Move what a run has written, but not its settings and its lock, into `damaged/`, or `damaged-2/` and so on."""
    place, number = folder / "damaged", 1
    while place.exists():
        number += 1
        place = folder / f"damaged-{number}"
    place.mkdir()
    for name in ("manifest.json", *run_folder.GROWING, *run_folder.ARRAYS, "checkpoints"):
        if (folder / name).exists():
            (folder / name).rename(place / name)


def _has_settings(job: Job) -> bool:
    try:
        stored = run_folder.read_object(job.folder / "config.json")
        return stored is not None and plain(checkpoints.config_from(stored)) == plain(job.config)
    except InputError:
        return False


def _steps(folder: Path) -> list[int]:
    if not (folder / "checkpoints").is_dir():
        return []
    manager = checkpoints.open_folder(folder / "checkpoints")
    try:
        return checkpoints.steps(manager)
    finally:
        manager.close()


def _is_intact(job: Job, step: int, note: Callable[[str], None]) -> bool:
    """Whether the checkpoint of `step` can be restored; one that cannot is set aside."""
    trainer = compiled(job.config).trainer
    manager = checkpoints.open_folder(job.folder / "checkpoints")
    try:
        checkpoints.stored_position(job.config, trainer, manager, step)
    except DamagedError as error:
        note(str(error))
        checkpoints.set_aside(manager, step)
        return False
    finally:
        manager.close()
    return True


def _with_config(folder: Path) -> dict[str, str]:
    manifest = run_folder.read_manifest(folder)
    return manifest["digests"] | {"config.json": run_folder.file_digest(folder / "config.json")}
