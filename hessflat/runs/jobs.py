"""What there is to run: configurations with their folders, which of them share a trainer, which need one another.

A run may start from another run's weights (`train.init_from`), or take as many steps as another
(`stop.match_steps_of`). Both name it by its folder, or by the settings that it has in place of this run's own.
"""

import contextlib
import dataclasses
import functools
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessflat import data
from hessflat.config import changed, flatten, thaw
from hessflat.measures import MEASURES, MOST_TIMES, timetable_steps
from hessflat.models import TOKEN_MODELS
from hessflat.runs import run_folder, writers
from hessflat.runs.schema import DataConfig, RunConfig, defaults, freeze, from_plain, identity, plain, replace
from hessflat.training.optimisation import LOSSES, are_classes
from hessflat.training.trainer import Trainer, make_trainer, static_config
from hessflat.utils import hardware
from hessflat.utils.errors import DamagedError, InputError, SettingError

# Above this, one run fills an accelerator by itself.
MOST_PARAMS_TOGETHER = 1_000_000

Splits = dict[str, Mapping[str, jax.Array]]


class Job(NamedTuple):
    """One configuration with the folder that is its own."""

    config: RunConfig
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.config.experiment} l2={self.config.optim.l2:g} seed={self.config.seed}"


def make_jobs(configs: Sequence[RunConfig], root: Path) -> list[Job]:
    """The jobs of checked configurations; two equal ones are refused, for they would share a folder."""
    if not configs:
        raise InputError("the sweep is empty; get_sweep must return at least one entry (an empty one changes nothing)")
    jobs = [Job(c, run_folder.path_for(plain(c), identity(c), root)) for c in configs]
    seen: set[Path] = set()
    for job in jobs:
        if job.folder in seen:
            raise InputError(f"the sweep holds the same run twice ({job.folder.name}); remove one")
        seen.add(job.folder)
    return jobs


@contextlib.contextmanager
def reserved(jobs: Sequence[Job]) -> Iterator[None]:
    """Make the folders the jobs'; where settings are refused, those of runs that have not begun are removed again."""
    new: list[Job] = []
    try:
        for job in jobs:
            if reserve(job):
                new.append(job)
        yield
    except InputError as error:
        for job in new:
            if run_folder.is_live(job.folder):
                continue  # another process runs it
            if isinstance(error, SettingError) and not (job.folder / "metrics.jsonl").exists():
                shutil.rmtree(job.folder, ignore_errors=True)
            run_folder.remove_unbegun(job.folder)
        raise


def reserve(job: Job) -> bool:
    """Make the folder the job's, or refuse one that belongs to another configuration or holds anything else.

    Returns whether the job had none before.

    Raises `InputError` also where a metric writer of the job is not installed. A damaged configuration is written anew
    where the folder is called like the job's own; see `mending`.
    """
    if job.config.writers:
        writers.require_installed(job.config.writers)
    try:
        stored = run_folder.read_config(job.folder)
    except DamagedError:
        if not job.folder.name.endswith(identity(job.config)):
            raise
        if not (job.folder / "manifest.json").exists():
            run_folder.write_config(job.folder, plain(job.config))
        return False
    if stored is None:
        try:
            run_folder.reserve(job.folder, plain(job.config))
            return True
        except InputError:
            stored = run_folder.read_config(job.folder)  # another process may have been quicker
            if stored is None:
                raise
    ours, theirs = (flatten(plain(config)) for config in (job.config, from_plain(stored)))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        raise InputError(
            f"{job.folder} belongs to another configuration (they differ in {', '.join(differing)}); "
            "nothing was touched: move it away, or use another folder"
        )
    return False


@contextlib.contextmanager
def locked(jobs: Sequence[Job]) -> Iterator[None]:
    """Hold the folders of all jobs."""
    with contextlib.ExitStack() as stack:
        for job in jobs:
            stack.enter_context(run_folder.locked(job.folder))
        yield


# A split of at most so many bytes is whole on each device, so that taking a batch of it exchanges nothing.
_WHOLE = 2**26


class Compiled(NamedTuple):
    """What the runs of a group share."""

    trainer: Trainer
    dataset: data.Dataset
    splits: Splits


def compiled(config: RunConfig) -> Compiled:
    """The trainer and the data of a configuration; the same objects for every run that shares them.

    Raises:
        InputError: settings that do not go with the kind of labels that the data set has.
    """
    if data.are_tokens(load_data(config.data).train):
        _require(config, "which is of tokens", {"model.name": (config.model.name, TOKEN_MODELS)})
    shared = _compiled(static_config(config))
    if are_classes(shared.splits["train"]["labels"]):
        losses = tuple(name for name, loss in LOSSES.items() if loss.classes)
        _require(config, "whose labels are classes", {"train.loss": (config.train.loss, losses)})
    else:
        losses = tuple(name for name, loss in LOSSES.items() if loss.real_targets)
        allowed = {
            "train.loss": (config.train.loss, losses),
            "train.label_smoothing": (config.train.label_smoothing, (0.0,)),
            "stop.train_accuracy": (config.stop.train_accuracy, (0.0,)),
        }
        _require(config, "whose targets are numbers", allowed)
    return shared


@functools.lru_cache(maxsize=8)
def load_data(config: DataConfig) -> data.Dataset:
    """The data set of a configuration, on the host."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(data.DataOptions)}
    return data.load(config.name, dict(config.settings), **options)


@functools.lru_cache(maxsize=64)
def _compiled(config: RunConfig) -> Compiled:
    dataset, splits = load_data(config.data), _device_splits(config.data, config.devices, config.fsdp)
    return Compiled(make_trainer(config, dataset.num_classes, splits["train"]), dataset, splits)


@functools.lru_cache(maxsize=8)
def _device_splits(config: DataConfig, devices: int, fsdp: bool) -> Splits:
    """The splits that hold examples, on the devices; with `fsdp`, and where they are large, spread over them.

    Those that are spread have nearly the same number of examples on each device, whatever their number.
    """
    dataset, mesh = load_data(config), hardware.make_mesh(devices)
    splits = {
        name: split
        for name, split in {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}.items()
        if len(split["labels"])
    }
    if mesh is None:
        return jax.tree.map(jnp.asarray, splits)

    def placed(split: Any) -> Any:
        spreads = fsdp or hardware.num_bytes(split) > _WHOLE
        return hardware.hold_examples(split, mesh) if spreads else hardware.replicate(split, mesh)

    return {name: placed(split) for name, split in splits.items()}


def _require(config: RunConfig, because: str, settings: Mapping[str, tuple[Any, tuple]]) -> None:
    """Refuse a value, the first of each pair, that is not among those allowed, the second."""
    for name, (value, allowed) in settings.items():
        if value not in allowed:
            raise InputError(
                f"config.{name} must be {' or '.join(map(repr, allowed))} for data set {config.data.name!r}, "
                f"{because}, got {value!r}"
            )


def group_by_trainer(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs whose configurations differ in traced settings alone: each group is compiled once."""
    groups: dict[RunConfig, list[Job]] = {}
    for job in jobs:
        groups.setdefault(static_config(job.config), []).append(job)
    return list(groups.values())


def chunks(group: list[Job]) -> list[list[Job]]:
    """Runs that train together. On a CPU vectorising brings nothing, so there they go in turn."""
    config = group[0].config
    execution = config.execution
    if execution == "auto":
        together = jax.default_backend() != "cpu" and compiled(config).trainer.num_params <= MOST_PARAMS_TOGETHER
        execution = "vectorised" if together else "turn"
    return [group] if execution == "vectorised" else [[job] for job in group]


def due_at(config: RunConfig, steps_per_epoch: int, last: int) -> dict[int, frozenset[str]]:
    """What is measured at which step of a run that ends at step `last`, steps in increasing order."""
    steps = {name: set(timetable_steps(getattr(config.measure, name), steps_per_epoch, last)) for name in MEASURES}
    union = sorted({step for due in steps.values() for step in due} | {last})
    return {step: frozenset(name for name in MEASURES if step in steps[name]) for step in union}


def due_at_end(config: RunConfig) -> frozenset[str]:
    """What is measured at the end of a run, wherever that is."""
    return frozenset(name for name in MEASURES if getattr(config.measure, name) != "never")


class Milestones(NamedTuple):
    """What happens at which step of runs that train together."""

    measured: Mapping[int, frozenset[str]]  # measures by step
    evaluated: frozenset[int]  # steps at which the whole training split is evaluated
    stored: frozenset[int]  # steps whose checkpoints stay


def make_milestones(config: RunConfig, steps_per_epoch: int, last: int, evaluated: Iterable[int]) -> Milestones:
    """What a run of `config` does on its way to step `last`, evaluated at the steps `evaluated`."""
    measured = due_at(config, steps_per_epoch, last)
    stored = [step for step, names in measured.items() if "spectra" in names]
    keeps = config.checkpoint.keep == "measured"
    return Milestones(measured, frozenset(evaluated), frozenset(stored if keeps else ()))


def steps_to_evaluate(config: RunConfig, last: int) -> list[int]:
    """The steps after which the training split is evaluated; none where no rule needs it.

    Raises:
        SettingError: more than a run should have.
    """
    if not (config.stop.train_accuracy or config.stop.train_loss):
        return []
    steps = range(config.stop.eval_every, last + 1, config.stop.eval_every)
    if len(steps) > MOST_TIMES:
        raise SettingError(
            f"config.stop.eval_every must leave at most {MOST_TIMES:,} evaluations of a run, got {len(steps):,} in "
            f"{last:,} steps; raise it, or train fewer steps"
        )
    return list(steps)


# The settings that name another run.
NAMING = ("train.init_from", "stop.match_steps_of")


class OtherRun(NamedTuple):
    """A run by its folder, and what stands after `@` in `train.init_from`: a step that it has a checkpoint of."""

    folder: Path
    at: str = ""


def named_run(job: Job, setting: str) -> OtherRun | None:
    """The run that `setting` of `job` names as `RUN` or `NAME=VALUE,NAME=VALUE`, in `train.init_from` also `…@STEP`.

    By settings it is the run that differs from `job` in these alone, and in that it names no run by `setting`, so that
    one text serves every seed of a sweep. Raises `InputError` where that is `job` itself.
    """
    block, _, own = setting.partition(".")
    name, at = getattr(getattr(job.config, block), own), ""
    if setting == "train.init_from" and (match := re.fullmatch(r"(.*)@([\w,]*)", name)):
        name, at = match.groups()
        if not name:
            raise SettingError(f"config.{setting} must be RUN or RUN@STEP, or empty, got '@{at}'; name a run before @")
    if "\0" in name:
        raise SettingError(f"config.{setting} holds a null character, got {name!r}; write the folder of a run")
    if not name:
        return None
    if name.partition("=")[0].strip() not in defaults():
        return OtherRun(Path(name), at)
    # A comma also stands in tuples; between settings a name and = follow it.
    settings = [f"--config.{part.strip()}" for part in re.split(r",(?=\s*[a-z][\w.]*=)", name)]
    alone = replace(job.config, {setting: ""})
    other = freeze(changed(thaw(alone), settings))
    if other == alone:
        raise InputError(f"config.{setting}: this run itself has {name}; name settings in which the other differs")
    return OtherRun(run_folder.path_for(plain(other), identity(other), job.folder.parents[1]), at)


def finished_manifest(folder: Path, setting: str) -> dict[str, Any]:
    """The manifest of a run that `setting` names and that has reached its end; any other is refused."""
    manifest = run_folder.read_manifest(folder)
    if manifest.get("status") != "done":
        raise InputError(
            f"config.{setting}: {folder} is {manifest.get('status', 'not there')}; it must be a finished run, "
            "so run it first, or in the same sweep"
        )
    return manifest


def needs(jobs: Sequence[Job]) -> dict[Path, set[Path]]:
    """Which others of `jobs` each needs to be finished, by folder."""
    folders = {job.folder.resolve(): job.folder for job in jobs}
    named = {job.folder: [named_run(job, setting) for setting in NAMING] for job in jobs}
    return {
        folder: {folders[path] for other in others if other and (path := other.folder.resolve()) in folders}
        for folder, others in named.items()
    }


def levels(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs that need no other of them, then those that need only these, and so on."""
    by_folder = {job.folder: job for job in jobs}
    ordered: list[list[Job]] = []
    left = needs(jobs)
    while left:
        ready = [folder for folder, others in left.items() if not others & left.keys()]
        if not ready:
            raise InputError(
                f"{next(iter(left.values())).pop()} needs itself to be finished: see config.train.init_from and "
                "config.stop.match_steps_of of the runs that it names; let one of them name another run"
            )
        ordered.append([by_folder[folder] for folder in ready])
        left = {folder: others for folder, others in left.items() if folder not in ready}
    return ordered
