"""Every experiment there is, one after another, and one report: `python -m hessflat reproduce --scale=small`."""

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from hessflat.analysis.experiment import Experiment, StoredExperiment, Table
from hessflat.analysis.tables import as_text
from hessflat.cli import app, experiment, launching
from hessflat.launch import places, pool
from hessflat.report.claims import Record, read_claims
from hessflat.report.sections import tally
from hessflat.runs import cost_model, run_folder
from hessflat.runs.jobs import Job
from hessflat.utils import progress
from hessflat.utils.errors import InputError, command
from hessflat.utils.files import write_atomically

Planned = list[tuple[Experiment, list[Job]]]
PUBLISHED = Path("docs/results/report/claims.json")


def main(argv: Sequence[str]) -> None:
    """Run what is not finished; with `--dry` list every run with the hours that it would take on this device.

    `--status` prints how far the runs are and writes nothing. `--launch=slurm` submits them; when they are finished the
    same command without it draws the report.
    """
    argv, sbatch = launching.split(argv)
    own, settings, named = experiment.parse(argv, {"exp": "", "dry": "0", **launching.FLAGS})
    every = named or [experiment.load(name) for name in experiment.names()]
    chosen = [one for one in every if one in named or own["scale"] in experiment.scales_of(one)]
    if others := [one.id for one in every if one not in chosen]:
        print(f"not at scale {own['scale']}: {' '.join(others)}")
    planned = list_runs(chosen, own["scale"], Path(own["root"]), settings)
    if app.is_set(own, "dry"):
        dry(planned, own["scale"], Path(own["out"]))
    elif app.is_set(own, "status"):
        print(launching.status([(one.id, jobs) for one, jobs in planned]))
    elif launching.to_slurm(own, sbatch):
        every_run = [job for _, jobs in planned for job in jobs]
        launching.submit(every_run, Path(own["root"]), f"reproduce-{own['scale']}", own, sbatch)
    else:
        anew = app.is_set(own, "anew")
        reproduce(planned, own["scale"], Path(own["root"]), Path(own["out"]), own["workers"], anew)


def list_runs(experiments: Sequence[Experiment], scale: str, root: Path, settings: Sequence[str] = ()) -> Planned:
    """The runs of each experiment; those that an earlier one has too stand with that one alone."""
    seen: set[Path] = set()
    planned = []
    for one in experiments:
        jobs = [job for job in experiment.make_jobs(one, scale, root, settings) if job.folder not in seen]
        seen.update(job.folder for job in jobs)
        planned.append((one, jobs))
    return planned


def reproduce(planned: Planned, scale: str, root: Path, out: Path, processes: str, anew: bool = False) -> None:
    """Run every experiment, the others too where one cannot be run; then draw the report and say what it holds.

    Raises `InputError`, at the end, that names the experiments that could not be run and why.
    """
    gpus = places.leave_gpus(processes)
    troubles = []
    taken: dict[str, float] = {}
    # Data that is not there must not keep the experiments from running that need none.
    works: dict[str, float] = {}
    for one, jobs in planned:
        try:
            works[one.id] = launching.total_seconds(jobs)
        except InputError as error:
            troubles.append(f"{one.id}: {error}")
    with progress.reporting(sum(works.values())) as reporter:
        for number, (one, jobs) in enumerate(planned, 1):
            if one.id not in works:
                continue
            reporter.note(f"{number} of {len(planned)}: {one.id}, {_counted(jobs)}")
            began = time.monotonic()
            try:
                if jobs:
                    pool.run_all(jobs, reporter, processes, anew, gpus)
            except InputError as error:
                troubles.append(f"{one.id}: {error}")
            taken[one.id] = time.monotonic() - began
            # Programs of one experiment are of no use to the next.
            jax.clear_caches()
    sections = experiment.report_all(root, out)
    ran = {one.id for one, _ in planned}
    judged = [
        (stored, section.records)
        for section in sections
        if (stored := section.stored).scale == scale and stored.experiment.id in ran
    ]
    print(as_text(summary(judged, taken)))
    print(f"\n{beside([record for _, records in judged for record in records], published())}\n")
    print(f"report: {out / 'index.html'} and {out / 'report.md'}")
    if troubles:
        raise InputError(f"{len(troubles)} of {len(planned)} experiments could not be run: {'; '.join(troubles)}")


def summary(judged: Sequence[tuple[StoredExperiment, Sequence[Record]]], taken: dict[str, float]) -> Table:
    """A row for each experiment: the paper, how many claims have each verdict, and the seconds taken this time."""
    rows = [
        (
            entry.experiment.paper,
            entry.experiment.id,
            str(len(entry.runs)),
            tally(records),
            progress.clock(taken[entry.experiment.id]) if entry.experiment.id in taken else "–",
        )
        for entry, records in judged
    ]
    runs = sum(len(entry.runs) for entry, _ in judged)
    every = tally(record for _, records in judged for record in records)
    rows.append(("", "all", str(runs), every, progress.clock(sum(taken.values()))))
    return Table(
        "Claims by experiment. Minutes are those of the runs of this command, without the report.",
        ("paper", "experiment", "runs", "claims", "took"),
        tuple(rows),
    )


def published() -> list[Record]:
    """The claims of the results that come with the project; none where they were taken away."""
    return read_claims(PUBLISHED) if PUBLISHED.exists() else []


def beside(records: Sequence[Record], others: Sequence[Record]) -> str:
    """How many verdicts are those of `others`, and a table of the claims where they are not."""
    before = {_claim(record): record["verdict"] for record in others}
    known = [record for record in records if _claim(record) in before]
    rows = [
        (record["experiment"], record["claim"], before[_claim(record)], record["verdict"])
        for record in known
        if record["verdict"] != before[_claim(record)]
    ]
    caption = f"{len(known) - len(rows)} of {len(known)} verdicts agree with those of {PUBLISHED.parent}."
    if len(known) < len(records):
        caption += f" {len(records) - len(known)} claims have no verdict there."
    if not rows:
        return caption
    caption += (
        " Processors round differently. After some hundred steps that gives another network, as another seed does."
    )
    return as_text(Table(caption, ("experiment", "claim", "there", "here"), tuple(rows)))


def _claim(record: Record) -> tuple[str, str, str]:
    return record["experiment"], record["claim"], record["scale"]


def dry(planned: Planned, scale: str, out: Path) -> None:
    """Print every run with its estimated hours, then a table by experiment; write the runs to `plan-<scale>.csv`."""
    print("timing a gradient on this device", flush=True)
    speed = cost_model.device_throughput()
    device = jax.devices()[0].device_kind
    text = io.StringIO()
    listed = csv.writer(text, lineterminator="\n")
    listed.writerow(("experiment", "run", "finished", "parameters", "steps", "device_hours", "command"))
    rows, total = [], 0.0
    for one, jobs in planned:
        hours, left = 0.0, 0
        again = command("experiment", one.id, f"--scale={scale}")
        params: set[int] = set()
        for job in jobs:
            finished = run_folder.is_finished(job.folder)
            cost = cost_model.run_cost(job.config, speed)
            own = cost.total_seconds() / 3600
            params.add(cost.num_params)
            listed.writerow(
                (one.id, job.folder.name, int(finished), cost.num_params, cost.num_steps, f"{own:.4g}", again)
            )
            print(f"{'finished' if finished else f'{own:8.3f} h'}  {one.id}  {job.folder.name}", flush=True)
            left += not finished
            hours += 0.0 if finished else own
        total += hours
        size = "–" if not params else f"{min(params):,}" if len(params) == 1 else f"{min(params):,} to {max(params):,}"
        rows.append((one.id, str(len(jobs)), str(left), size, f"{hours:.2f}", again))
    rows.append(
        (
            "all",
            str(sum(len(jobs) for _, jobs in planned)),
            str(sum(int(row[2]) for row in rows)),
            "",
            f"{total:.1f}",
            command("reproduce", f"--scale={scale}"),
        )
    )
    caption = (
        f"Hours on one {device}, with every run to its last step, without compilation, at the "
        f"{speed.flops_per_second / 1e9:,.0f} GFLOP/s of a ResNet's gradient, timed now, and at least "
        f"{1e6 * speed.seconds_per_step:.0f} µs a step. Runs that two experiments share are listed with the first."
    )
    print()
    print(as_text(Table(caption, ("experiment", "runs", "to do", "P", "device-hours", "command"), tuple(rows))))
    file = out / f"plan-{scale}.csv"
    write_atomically(file, text.getvalue())
    print(f"every run: {file}")


def _counted(jobs: Sequence[Job]) -> str:
    done = sum(run_folder.is_finished(job.folder) for job in jobs)
    return f"{len(jobs)} runs{f', {done} of them finished before' if done else ''}"
