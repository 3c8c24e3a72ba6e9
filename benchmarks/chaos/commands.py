"""Commands that are killed, stopped, or lose what they stand on; the same command again ends with the same bits."""

import dataclasses
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cases import LEFT_OUT, WRONG, Outcome
from benchmarks.chaos.tiny import differences, final_state, same_leaves
from benchmarks.chaos.workshop import NAMED, PATIENCE, SAME, Case, Command, Workshop, remount, small_disk
from hessflat.analysis.results import load_run
from hessflat.runs import run_folder
from hessflat.runs.checkpoints import stored_config

KILLS_IN_A_ROW = 5
STOPPED = 75
SETTINGS = (
    "--config.model.mlp.hidden=(5,)",
    "--config.measure.lanczos_steps=4",
    "--config.measure.jacobian=never",
    "--config.train.epochs=100",
    "--config.measure.performance=every 10 epochs",
    "--config.measure.spectra=every 20 epochs",
    "--config.checkpoint.minutes=0.005",
)
KINDS = ("train", "sweep", "measure", "experiment", "report")


def arguments_of(kind: str, place: Path) -> list[str]:
    """The command line of a kind of command that works in a folder."""
    runs, out = f"--root={place / 'runs'}", f"--out={place / 'report'}"
    if kind == "train":
        return ["train", "--config=g_mlp:smoke", runs, *SETTINGS, "--config.checkpoint.keep=measured"]
    if kind == "sweep":
        return ["sweep", "--config=g_mlp:smoke", "--workers=2", runs, *SETTINGS]
    if kind == "measure":
        (folder,) = place.glob("runs/*/*")
        return ["measure", f"--run={folder}", "--config.measure.probes=3"]
    if kind == "experiment":
        return ["experiment", "--exp=g_logistic", "--scale=smoke", runs, out]
    return ["report", runs, out]


def prepare(workshop: Workshop, kind: str, place: Path) -> None:
    """What a command needs to be there: runs for `measure` and `report`."""
    needed = {"measure": "train", "report": "experiment"}.get(kind)
    if needed:
        shutil.copytree(undisturbed(workshop, needed)[0] / "runs", place / "runs")


def undisturbed(workshop: Workshop, kind: str) -> tuple[Path, float]:
    """The folder that a command leaves when nothing disturbs it, and its seconds."""
    with workshop.lock_of[kind]:
        place = workshop.folder / "undisturbed" / kind
        seconds = place / "seconds"
        if not seconds.exists():
            for _ in ("compile", "time"):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                prepare(workshop, kind, place)
                began = time.monotonic()
                with Command(workshop, arguments_of(kind, place)) as command:
                    status, lines = command.result()
                if status:
                    raise RuntimeError(f"{kind} ends with status {status}: {lines}")
            seconds.write_text(str(time.monotonic() - began))
        return place, float(seconds.read_text())


def compared(workshop: Workshop, kind: str, place: Path) -> list[str]:
    """What of a folder has other bits than the undisturbed one, and what was left behind in it."""
    whole, _ = undisturbed(workshop, kind)
    runs = sorted(path.relative_to(whole) for path in whole.glob("runs/*/*"))
    found = [] if sorted(p.relative_to(place) for p in place.glob("runs/*/*")) == runs else ["other run folders"]
    with workshop.lock:
        for name in runs:
            places = [name, *(path.relative_to(whole) for path in (whole / name).glob("measurements/*"))]
            found += [f"{one}: {what}" for one in places for what in differences(place / one, whole / one)]
            found += [f"{name}: {load_run(place / name).status}"] if load_run(place / name).status != "done" else []
    claims = [folder / "report" / "claims.json" for folder in (place, whole)]
    if claims[1].exists() and not (claims[0].exists() and claims[0].read_bytes() == claims[1].read_bytes()):
        found.append("claims.json")
    left = [path.name for path in (place / "report").rglob(".*") if path.is_file()]
    return found + [f"left behind: {name}" for name in left]


def finished(case: Case, kind: str, place: Path, devices: int = 0) -> list[str]:
    """Run the same command to its end; what is wrong with that, and with the bits that it leaves."""
    with Command(case.workshop, arguments_of(kind, place), devices=devices) as command:
        status, lines = command.result()
    return [f"status {status}: {' '.join(lines[-3:])}"] if status else compared(case.workshop, kind, place)


def killed(kind: str) -> Callable[[Case], Outcome]:
    """Killed at random moments, several times in a row, then let go on to its end."""

    def run(case: Case) -> Outcome:
        _, seconds = undisturbed(case.workshop, kind)
        place, kills = _empty(case, kind), 0
        for _ in range(2 * KILLS_IN_A_ROW):
            with Command(case.workshop, arguments_of(kind, place)) as command:
                if command.ended_within(case.numbers.uniform(0.1, 1.0) * seconds):
                    status, lines = command.result()
                    wrong = [f"status {status}: {lines[-3:]}"] if status else compared(case.workshop, kind, place)
                    if wrong:
                        return Outcome(WRONG, f"after {kills} kills: {'; '.join(wrong)}", max(kills, 1))
                    shutil.rmtree(place)
                    place = _empty(case, kind)
                    continue
                command.process.kill()
                command.process.wait()
                kills += 1
                if not command.leaves_nothing():
                    return Outcome(WRONG, "processes go on after the command is killed", kills)
            if kills == KILLS_IN_A_ROW:
                break
        wrong = finished(case, kind, place)
        return Outcome(WRONG if wrong else SAME, "; ".join(wrong), kills)

    return run


def signalled(case: Case) -> Outcome:
    """SIGTERM or SIGUSR1 while it trains."""
    kind, sent = ("train", "sweep")[case.number % 2], (signal.SIGTERM, signal.SIGUSR1)[case.number // 2 % 2]
    place = _empty(case, kind)
    with Command(case.workshop, arguments_of(kind, place)) as command:
        _wait_for_lines(command, place, case.numbers.randrange(1, 8))
        command.process.send_signal(sent)
        status, lines = command.result()
        if status != STOPPED or lines != ["stopped by a signal, saved; the same command continues"]:
            if status == 0 and not compared(case.workshop, kind, place):
                return Outcome(SAME, "it had ended before")
            return Outcome(WRONG, f"{sent.name}: status {status}: {lines}")
        if not command.leaves_nothing():
            return Outcome(WRONG, f"{sent.name}: processes go on")
    wrong = finished(case, kind, place)
    return Outcome(WRONG if wrong else NAMED, "; ".join(wrong) or lines[0])


def few_descriptors(case: Case) -> Outcome:
    """Fewer file descriptors than it needs, then enough."""
    limit = case.numbers.randrange(10, 24)
    place = _empty(case, "train")
    with Command(case.workshop, arguments_of("train", place), limit=limit) as command:
        refusal = command.result()
    return _refused(case, place, refusal, "Too many open files")


def full_disk(case: Case) -> Outcome:
    """A disk too small for the run, then one with more room."""
    return _on_disk(case, f"{case.numbers.randrange(24, 120)}k", "", "No space left")


def read_only(case: Case) -> Outcome:
    """A folder that cannot be written, before the run or amid it, then one that can."""
    return _on_disk(case, "64m", "ro", "Read-only file system")


def _on_disk(case: Case, size: str, options: str, reason: str) -> Outcome:
    try:
        with small_disk(case.place / "disk", size) as place:
            if options and case.number % 2:
                with Command(case.workshop, arguments_of("train", place)) as command:
                    _wait_for_lines(command, place, 2)
            if options:
                remount(place, options)
            with Command(case.workshop, arguments_of("train", place)) as command:
                refusal = command.result()
            remount(place, "rw,size=64m")
            return _refused(case, place, refusal, reason)
    except PermissionError as error:
        return Outcome(LEFT_OUT, str(error))


def _refused(case: Case, place: Path, refusal: tuple[int, list[str]], reason: str) -> Outcome:
    """One line with the reason, or nothing amiss; either way the same command goes on to the same bits."""
    status, lines = refusal
    one_line = status == 2 and len(lines) == 1 and lines[0].startswith("error: ") and reason in lines[0]
    if status != 0 and not one_line:
        return Outcome(WRONG, f"status {status}, {len(lines)} lines: {' '.join(lines[-2:])}")
    wrong = finished(case, "train", place)
    return Outcome(WRONG if wrong else NAMED if status else SAME, "; ".join(wrong) or "".join(lines))


def folder_taken(case: Case) -> Outcome:
    """What is moved or removed under a run is seen, and the same command makes it again."""
    what = ("metrics.jsonl", "spectra", "checkpoints", "moved", "removed")[case.number % 5]
    place = _empty(case, "train")
    with Command(case.workshop, arguments_of("train", place)) as command:
        _wait_for_lines(command, place, case.numbers.randrange(2, 6))
        (folder,) = place.glob("runs/*/*")
        elsewhere = case.place / "elsewhere"
        taken = folder if what in ("moved", "removed") else folder / what
        taken.rename(elsewhere)  # at once, which removing files one by one is not
        status, lines = command.result()
    if status == 0 and (wrong := compared(case.workshop, "train", place)):
        return Outcome(WRONG, f"{what}: status 0 with other bits: {'; '.join(wrong)}")
    if status not in (0, 2) or (status and len(lines) != 1):
        return Outcome(WRONG, f"{what}: status {status}, {len(lines)} lines: {' '.join(lines[-2:])}")
    if what == "moved":
        shutil.rmtree(folder, ignore_errors=True)
        elsewhere.rename(folder)
    wrong = finished(case, "train", place)
    return Outcome(WRONG if wrong else NAMED if status else SAME, "; ".join([what, *wrong, *lines]))


def killed_across_devices(case: Case) -> Outcome:
    """Killed on eight devices, killed on one, and ended on four: no training is lost, nothing is set aside."""
    place = _empty(case, "train")
    arguments = [*arguments_of("train", place), "--config.train.batch_size=64"]
    for devices, lines in ((8, case.numbers.randrange(2, 5)), (1, case.numbers.randrange(5, 9)), (4, 0)):
        with Command(case.workshop, [*arguments, f"--config.devices={devices}"], devices=devices) as command:
            if lines:
                _wait_for_lines(command, place, lines)
                command.process.kill()
            elif command.result()[0]:
                return Outcome(WRONG, f"on {devices} devices: {command.result()}")
    (folder,) = place.glob("runs/*/*")
    manifest = run_folder.read_manifest(folder)
    begun = [one["from_step"] for one in manifest["placement"]]
    aside = [path.name for path in (folder / "checkpoints").glob("damaged*")]
    with case.workshop.lock:
        chosen = stored_config(folder)
        states = [final_state(folder, dataclasses.replace(chosen, devices=devices)) for devices in (8, 1, 4)]
    whole = manifest["status"] == "done" and not aside and begun == sorted(begun) and begun[-1] > 0
    whole = whole and all(same_leaves(state, states[0]) for state in states)
    return Outcome(SAME if whole else WRONG, f"{manifest['status']}, begun at {begun}, set aside: {aside}")


def _empty(case: Case, kind: str) -> Path:
    place = case.place / "work"
    place.mkdir()
    prepare(case.workshop, kind, place)
    return place


def _wait_for_lines(command: Command, place: Path, number: int) -> None:
    """Until a run has measured so often, or the command has ended."""
    deadline = time.monotonic() + PATIENCE
    while command.process.poll() is None and time.monotonic() < deadline:
        found = [path.read_bytes().count(b"\n") for path in place.glob("runs/*/*/metrics.jsonl")]
        if max(found, default=0) >= number:
            return
        time.sleep(0.005)
