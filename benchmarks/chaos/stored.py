"""Damage to what a finished run left: it is named in one line with the command that mends it, or changes nothing."""

from pathlib import Path

from benchmarks.cases import WRONG, Outcome
from benchmarks.chaos.damage import EDITS, another_digit, flipped, line_or
from benchmarks.chaos.tiny import differences, restored, run_all, same_leaves, spectra, tiny
from benchmarks.chaos.workshop import NAMED, SAME, Case
from hessflat.analysis.results import Run, load_run
from hessflat.utils.errors import command

MENDED_EVERY = 25  # of flipped bits, one in so many is mended as well
FILES = ("config.json", "manifest.json", "metrics.jsonl", "eval.jsonl", "spectra/20-hessian.npz")
LAST = 20


def bit_of_a_checkpoint(case: Case) -> Outcome:
    """What is restored is the state that was saved, or nothing."""
    folder = case.workshop.copy(case.place)
    files = sorted(path for path in (folder / "checkpoints" / str(LAST)).rglob("*") if path.is_file())
    path = case.numbers.choice([path for path in files if path.stat().st_size])
    path.write_bytes(flipped(path.read_bytes(), case.numbers))
    with case.workshop.lock:
        found = line_or(lambda: restored(case.workshop.chosen, folder, LAST))
        outcome = _judged(found, folder, same_leaves(found, case.workshop.state))
    return _mended(case, folder, outcome, thorough=True)


def bit_of_a_file(case: Case) -> Outcome:
    """What is read are the numbers that were written, or nothing."""
    folder = case.workshop.copy(case.place)
    path = folder / FILES[case.number % len(FILES)]
    path.write_bytes(flipped(path.read_bytes(), case.numbers))
    return _mended(case, folder, _read(case, folder))


def edit_by_hand(case: Case) -> Outcome:
    """Every kind of edit once, then digits; all are mended."""
    folder = case.workshop.copy(case.place)
    known = list(EDITS.values())
    damage = known[case.number] if case.number < len(known) else another_digit(case.numbers)
    damage(folder)
    return _mended(case, folder, _read(case, folder), always=True)


def change_of_devices(case: Case) -> Outcome:
    """What was saved on some devices is restored onto others."""
    before, after = ((8, 1), (8, 4), (4, 8), (1, 8))[case.number % 4]
    options = ("--config.train.epochs=1", "--config.train.batch_size=64", "--config.data.train_size=128")
    configs = [
        tiny(*options, "--config.measure.jacobian=never", f"--config.devices={count}") for count in (before, after)
    ]
    with case.workshop.lock:
        (folder,) = run_all(configs[:1], case.place)
        states = [restored(chosen, folder, 2) for chosen in configs]
        again = run_all(configs[1:], case.place)
    same = again == [folder] and same_leaves(*states)
    return Outcome(SAME if same else WRONG, f"{before} → {after} devices")


def _read(case: Case, folder: Path) -> Outcome:
    whole, found = case.workshop.whole, line_or(lambda: load_run(folder))
    same = isinstance(found, Run) and found._replace(folder=whole.folder) == whole
    return _judged(found, folder, same and same_leaves(spectra(folder), spectra(whole.folder)))


def _judged(found: object, folder: Path, same: bool) -> Outcome:
    if not isinstance(found, str):
        return Outcome(SAME if same else WRONG, "" if same else "another value was read")
    # Where the settings themselves are damaged, it is the command that made the run.
    mends = f"to mend it: {command('train', f'--run={folder}')}"
    right = mends in found or ("config.json is" in found and "to mend it:" in found)
    return Outcome(NAMED if right and str(folder) in found else WRONG, found)


def _mended(case: Case, folder: Path, outcome: Outcome, thorough: bool = False, always: bool = False) -> Outcome:
    """The same, or wrong where the command that is named does not give the bits of the undisturbed run."""
    if outcome.result == WRONG or not (always or case.number % MENDED_EVERY == 0):
        return outcome
    notes, lost = case.workshop.run_again(folder, thorough)
    with case.workshop.lock:
        found = lost or differences(folder, case.workshop.whole.folder)
    if found:
        return Outcome(WRONG, f"mending leaves other bits: {'; '.join(found)}")
    if any("\n" in line for line in notes):
        return Outcome(WRONG, f"mending says more than a line: {notes}")
    return outcome
