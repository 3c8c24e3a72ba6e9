"""Run an experiment end to end: `python -m hessflat experiment --exp=g_logistic --scale=small`."""

import contextlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hessflat.analysis.experiment import Experiment, StoredExperiment
from hessflat.analysis.provenance import read_rules
from hessflat.analysis.results import Run, load_run
from hessflat.analysis.tables import as_text
from hessflat.cli import app, launching, sweep
from hessflat.config import SCALES, fingerprint, flatten, one_of, require
from hessflat.report import kept
from hessflat.report.build import build_report, print_summary
from hessflat.report.sections import Section
from hessflat.runs import checkpoints, jobs, run_folder, schema
from hessflat.runs.schema import UNNAMED
from hessflat.utils import progress
from hessflat.utils.errors import DamagedError, InputError, command, in_one_line, require_known, shown
from hessflat.utils.files import write_atomically

VARIANTS = "variants"  # the folder, beside an experiment's runs, with a note for each variant


def names() -> list[str]:
    """The experiments there are: every module in `experiments/` that defines `EXPERIMENT`."""
    defined = re.compile(r"^EXPERIMENT\b", re.MULTILINE)
    folder = app.home() / "experiments"
    stems = sorted(path.stem for path in folder.rglob("*.py") if defined.search(path.read_text()))
    if not stems:
        raise InputError(f"no experiments in {folder.absolute()}; {app.GO_HOME}")
    return stems


def load(name: str) -> Experiment:
    """The `EXPERIMENT` of the file `<name>.py` in `experiments/`."""
    require_known("experiment", [name], names())
    path = app.find_module("experiments", name)
    experiment = app.load_module(path, "EXPERIMENT").EXPERIMENT
    if not isinstance(experiment, Experiment):
        raise InputError(f"EXPERIMENT of {path} must be an Experiment, got {shown(experiment)}")
    if experiment.id != name:
        raise InputError(f"{path} has id {experiment.id!r}; an experiment is called like its file")
    return experiment


def scales_of(experiment: Experiment) -> tuple[str, ...]:
    """The scales at which the experiment's configuration can be had."""
    return app.scales_of(app.load_module(app.split_target(experiment.config)[0]))


def has_runs(experiment: Experiment, scale: str, root: Path) -> bool:
    """Whether there is anything for `collect` at a scale; that is quicker to tell than which runs are planned."""
    runs = root / app.from_command_line(f"{experiment.config}:{scale}").experiment
    variants = root / experiment.id / VARIANTS
    return any(path for folder in (runs, variants) for path in folder.glob(f"{scale}-*"))


def make_jobs(
    experiment: Experiment, scale: str, root: Path, settings: Sequence[str] = (), seeds: str = ""
) -> list[jobs.Job]:
    """The runs that answer the experiment's question at a scale, with the values and seeds of `sweep_configs`."""
    return jobs.make_jobs(sweep.sweep_configs(f"{experiment.config}:{scale}", settings, seeds), root)


def variant_of(settings: Sequence[str], seeds: str) -> str:
    """What makes other runs of an experiment, as a command line has it; empty where nothing does."""
    changes = [setting for setting in settings if setting.removeprefix("--config.").partition("=")[0] not in UNNAMED]
    return shlex.join(sorted(changes) + ([f"--seeds={seeds}"] if seeds else []))


def jobs_of_variant(experiment: Experiment, scale: str, root: Path, variant: str) -> list[jobs.Job]:
    """The runs of what `variant_of` says."""
    own, settings = app.parse_flags(shlex.split(variant), {"seeds": ""})
    return make_jobs(experiment, scale, root, settings, own["seeds"])


def is_variant(experiment: Experiment, scale: str, root: Path, variant: str) -> bool:
    """Whether what `variant_of` says changes the runs of an experiment."""
    asked, own = (jobs_of_variant(experiment, scale, root, one) for one in (variant, ""))
    return {job.folder for job in asked} != {job.folder for job in own}


def store_variant(experiment: Experiment, scale: str, root: Path, variant: str) -> None:
    """Note for later reports that there is such a variant of an experiment."""
    facts = {"variant": variant}
    path = root / experiment.id / VARIANTS / f"{scale}-{fingerprint(facts)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(facts) + "\n")


def stored_variants(experiment: Experiment, scale: str, root: Path) -> list[str]:
    """The variants of an experiment that were noted.

    Raises:
        InputError: a note is not as it was written.
    """
    found = []
    for path in sorted((root / experiment.id / VARIANTS).glob(f"{scale}-*.json")):
        try:
            found.append(str(json.loads(path.read_text())["variant"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged; remove it, and run the variant's command again") from error
    return found


def collect(experiment: Experiment, scale: str, root: Path, variant: str = "") -> StoredExperiment:
    """What is stored of an experiment at a scale, and what is missing or damaged. Nothing is trained."""
    planned = jobs_of_variant(experiment, scale, root, variant)
    folders, seeds = [job.folder for job in planned], len({job.config.seed for job in planned})
    pilots = collect_pilots(planned, scale)
    runs, damaged = [], []
    for job in planned:
        try:
            if any((job.folder / name).exists() for name in ("manifest.json", "metrics.jsonl")):
                runs.append(with_every_setting(load_run(job.folder), job.config))
        except InputError as error:
            damaged.append(in_one_line(error))
    rules = read_rules(app.home() / "experiments" / "rules.json")
    return StoredExperiment(experiment, scale, runs, len(folders) - len(runs), damaged, rules, seeds, pilots, variant)


def collect_pilots(planned: Sequence[jobs.Job], scale: str) -> list[Run]:
    """The finished runs, beside those that are planned, that differ from these in their seeds alone."""
    folders = {job.folder for job in planned}
    others = {path for home in {one.parent for one in folders} for path in home.glob(f"{scale}-*")} - folders
    asked = {_without_seeds(schema.plain(job.config)) for job in planned} if others else set()
    pilots = []
    for folder in sorted(others):
        with contextlib.suppress(InputError):  # no planned run is missing with it
            # Settings first: to read a whole run takes longer.
            if _without_seeds(run_folder.read_config(folder) or {}) in asked:
                run = load_run(folder)
                if run.status == "done":
                    pilots.append(with_every_setting(run, checkpoints.config_from(run.config)))
    return pilots


def with_every_setting(run: Run, config: schema.RunConfig) -> Run:
    """The run with those settings, too, that there were not yet when it was stored, so that it is like later ones."""
    return run._replace(config=json.loads(json.dumps(schema.plain(config))))


def _without_seeds(settings: Mapping[str, Any]) -> str:
    """What a run is, as `schema.identity`, but for its seeds, the run that it begins with, and who asks.

    A setting that there was not yet when the run was stored is its default.
    """
    seeds = re.compile(r"(.*[._])?seed|train\.init_from|experiment")
    defaults = schema.defaults()
    builders = {name: value for name, value in defaults.items() if name.endswith(".name")}
    return fingerprint(
        {
            name: value
            for name, value in {**builders, **flatten(settings)}.items()
            if not seeds.fullmatch(name)
            and name not in UNNAMED
            and (name in builders or value != defaults.get(name, ...))
        }
    )


def report_all(root: Path, out: Path) -> list[Section]:
    """Redraw the report of everything stored under `root`: each experiment at each scale that has a run.

    What was drawn of the same runs by the same code before is not drawn again.
    """
    entries = [
        collect(one, scale, root, variant)
        for one in map(load, names())
        for scale in SCALES
        if scale in scales_of(one) and has_runs(one, scale, root)
        for variant in ("", *stored_variants(one, scale, root))
    ]
    entries = [entry for entry in entries if entry.runs or entry.damaged]
    if not entries:
        raise InputError(f"no runs of any experiment in {root}; run: {command('experiment', names()[0])}")
    cache, sources = app.cache_folder(), tuple(app.home() / name for name in ("experiments", "configs"))
    drawn = cache and cache / "drawn"
    make = partial(kept.section, folder=drawn, sources=sources)
    opens = partial(kept.opening, folder=drawn, sources=sources)
    with progress.reporting(len(entries)) as reporter:
        others = runs_of_none(entries, root)
        return build_report(entries, out, lambda slug: reporter.advance(1.0, f"drawn: {slug}"), make, others, opens)


def runs_of_none(entries: Sequence[StoredExperiment], root: Path) -> list[str]:
    """The runs below `root`, as `<experiment>/<name>`, that are of none of the experiments and variants."""
    shown = {run.folder for entry in entries for run in entry.runs}
    lines = [line for entry in entries for line in entry.damaged]
    folders = sorted(path.parent for path in root.glob("*/*/manifest.json"))
    others = [one for one in folders if one not in shown and not any(f"{one} " in f"{line} " for line in lines)]
    return ["/".join(one.parts[-2:]) for one in others]


class Arguments(NamedTuple):
    """Those of a command that runs experiments."""

    own: dict[str, str]
    settings: list[str]  # `--config.…`
    experiments: list[Experiment]  # named in `--exp`, separated by spaces or commas


def parse(argv: Sequence[str], defaults: Mapping[str, str | None]) -> Arguments:
    """What the command line says; a command without `--exp` names none, and without `--seeds` has no variants."""
    common = {"scale": "small", "root": "runs", "out": "report", "workers": "auto", "anew": "0"}
    own, settings = app.parse_flags(argv, {**common, **defaults})
    if "seeds" not in own and (variant := variant_of(settings, "")):
        raise InputError(f"experiments have their own settings here; give {variant} to {command('experiment')}")
    require("scale", own["scale"], one_of(SCALES))
    named = [load(name) for name in dict.fromkeys(own.get("exp", "").replace(",", " ").split())]
    return Arguments(own, settings, named)


def main(argv: Sequence[str]) -> None:
    """Run the experiments named in `--exp`, then redraw the report.

    `--config.optim.l2=0,1e-3` puts these values in the place of the experiment's own, and adds them where it has none;
    `--seeds=10` takes ten seeds, `--seeds=20,21` these two. Such a variant stands beside the experiment in the report.

    `--status` prints how far they are and writes nothing. `--launch=slurm` submits their runs; when these are finished
    the same command without it draws the report.
    """
    argv, sbatch = launching.split(argv)
    own, settings, experiments = parse(argv, {"exp": None, "seeds": "", **launching.FLAGS})
    if not experiments:
        raise InputError(f"--exp names no experiment; known: {', '.join(names())}")
    if app.is_set(own, "status"):
        print(launching.status([(one.id, planned([one], own, settings)) for one in experiments]))
        return
    if launching.to_slurm(own, sbatch):
        found, name = planned(experiments, own, settings), "-".join(one.id for one in experiments)
        launching.submit(found, Path(own["root"]), name, own, sbatch)
        return
    shown, damage = run(experiments, own, settings)
    for section in shown:
        for table in section.tables:
            print(f"\n{section.stored.experiment.id}, {section.stored.scale} scale. {as_text(table)}")
    print()
    print_summary(shown)
    out = Path(own["out"])
    print(f"report: {out / 'index.html'} and {out / 'report.md'}")
    if damage:
        raise damage


def planned(experiments: Sequence[Experiment], own: Mapping[str, str], settings: Sequence[str]) -> list[jobs.Job]:
    """The runs of experiments, each once: several may ask different questions of the same runs."""
    made = [
        job
        for one in experiments
        for job in make_jobs(one, own["scale"], Path(own["root"]), settings, own.get("seeds", ""))
    ]
    return list({job.folder: job for job in made}.values())


def run(
    experiments: Sequence[Experiment], own: Mapping[str, str], settings: Sequence[str]
) -> tuple[list[Section], DamagedError | None]:
    """Train and measure what is not finished, then redraw the report.

    Returns:
        The sections of the experiments at this scale, and what to raise at the end where runs are damaged.
    """
    root, out, scale = Path(own["root"]), Path(own["out"]), own["scale"]
    changes = variant_of(settings, own.get("seeds", ""))
    damage: DamagedError | None = None
    found = planned(experiments, own, settings)
    # What changes no run is no variant.
    variants = {one.id: changes if changes and is_variant(one, scale, root, changes) else "" for one in experiments}
    for one in experiments:
        if variants[one.id]:
            store_variant(one, scale, root, changes)
    try:
        launching.run(found, own["workers"], app.is_set(own, "anew"))
    except DamagedError as error:  # of some runs; the report shows the others
        damage = error
    asked = [section for section in report_all(root, out) if section.stored.experiment.id in variants]
    return [
        one for one in asked if (one.stored.scale, one.stored.variant) == (scale, variants[one.stored.experiment.id])
    ], damage
