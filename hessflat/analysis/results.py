"""Finished runs, read from their folders, grouped and paired. Reading a run needs no JAX."""

import json
import math
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from hessflat.runs.run_folder import is_live, mending, read_lines, read_whole
from hessflat.utils.errors import DamagedError, FormatError, InputError, nearest

Key = TypeVar("Key", bound=Hashable)
LEARNT = 0.9  # of the loss of the best constant outputs
FITTED = 0.99  # of the training examples; *On progressive sharpening*, B.1
# Settings in which runs of one setting differ: their seeds, and who asks.
NO_DIFFERENCE = ("seed", "data.split_seed", "experiment")
Needs = Literal["finished", "learnt", "fitted"]


class Answers(NamedTuple):
    """Which examples were right `[n]`, and a checksum of their labels."""

    right: np.ndarray
    labels: int


class Run(NamedTuple):
    """A run folder in memory. `metrics` holds one object for each measured step, in the order of steps."""

    folder: Path
    config: dict[str, Any]
    manifest: dict[str, Any]
    metrics: list[dict[str, Any]]

    @property
    def status(self) -> str:
        """One of running, stopped (by a signal, or its process is gone), done, diverged, failed."""
        return self.manifest["status"]

    @property
    def seed(self) -> int:
        """The seed by which comparisons pair runs."""
        return self.config["seed"]

    @property
    def learnt(self) -> bool:
        """Whether the final training loss is below 0.9 of that of the best constant outputs.

        Both are over clean training examples and unsmoothed labels. A run whose loss says nothing of constant outputs,
        or that was not evaluated, counts as one that learnt.
        """
        guess = self.manifest.get("best_guess_loss")
        return guess is None or not self.final_or_nan("train_loss") >= LEARNT * guess

    @property
    def fitted(self) -> bool:
        """Whether the run ended by its own criterion (`stop`), or with 99 % of the clean training examples right."""
        return self.manifest.get("reason") is not None or self.final_or_nan("train_accuracy") >= FITTED

    @property
    def first_step(self) -> int:
        """The first measured step."""
        return self.metrics[0]["step"]

    @property
    def path(self) -> str:
        """The folder as a report names it, `runs/<experiment>/<name>`, without its parent folders."""
        return "/".join(self.folder.parts[-3:])

    def setting(self, name: str) -> Any:
        """A setting by its dotted name, such as `optim.l2`; a list is returned as a tuple, so that it is hashable."""
        value: Any = self.config
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                known = value if isinstance(value, dict) else ()
                raise InputError(f"{self.path}: no setting {name!r} (at {part!r}); {nearest(part, known)}")
            value = value[part]
        return tuple(value) if isinstance(value, list) else value

    def final(self, name: str) -> float:
        """A metric, measured or derived, at the last measured step; null is NaN.

        Raises:
            InputError: the metric was not measured there, or the run has no measured step.
        """
        if not self.metrics:
            raise InputError(f"{self.path}: nothing was measured (status {self.status}); train it again")
        try:
            return as_float(read_metric(self.metrics[-1], name))
        except KeyError as error:
            known = nearest(error.args[0], self.metrics[-1])
            raise InputError(f"{self.path}: {error.args[0]!r} was not measured; {known}") from error

    def final_or_nan(self, name: str) -> float:
        """A metric at the last measured step, NaN where it was not measured."""
        return _value_or_nan(self.metrics[-1], name) if self.metrics else math.nan

    def history(self, name: str) -> np.ndarray:
        """[steps] A metric at every measured step, NaN where it was not measured."""
        return np.array([_value_or_nan(line, name) for line in self.metrics])

    def spectrum(self, operator: str, step: int | None = None) -> dict[str, np.ndarray]:
        """The arrays of `spectra/<step>-<operator>.npz`; the last measured step by default.

        Those of float32 are returned as float64, so that an archive's are reckoned with like those of its runs.
        """
        if step is None and not self.metrics:
            raise InputError(f"{self.path}: nothing was measured (status {self.status}); train it again")
        file = self.spectrum_file(operator, step)
        try:
            with np.load(file) as arrays:
                return {
                    name: array.astype(np.float64) if array.dtype == np.float32 else array
                    for name, array in arrays.items()
                }
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = one_line(error)
            raise InputError(f"{self.path}: cannot read spectra/{file.name} ({reason}); measure it again") from error

    def answers(self, split: str) -> "Answers | None":
        """Which examples of a split were right at the end; None where that is not stored."""
        arrays = self.spectrum("answers") if self.has_spectrum("answers") else {}
        if split not in arrays:
            return None
        right = np.unpackbits(arrays[split], count=int(arrays[f"{split}_size"])).astype(bool)
        return Answers(right, int(arrays[f"{split}_labels"]))

    def has_spectrum(self, operator: str, step: int | None = None) -> bool:
        """Whether the spectrum of an operator is stored for a step; the last measured step by default."""
        return bool(self.metrics) and self.spectrum_file(operator, step).exists()

    def spectrum_file(self, operator: str, step: int | None = None) -> Path:
        """The path of that spectrum, whether or not it exists."""
        step = self.metrics[-1]["step"] if step is None else step
        return self.folder / "spectra" / f"{step}-{operator}.npz"


def read_metric(line: Mapping[str, Any], name: str) -> Any:
    """A metric of one line of `metrics.jsonl`, measured or derived.

    The derived metrics are `<split>_error` = 1 − accuracy, `<operator>.norm_scaled_lambda_max` = λ_max ‖w‖² (its bound
    is scaled alike), which is invariant to a rescaling of all weights that leaves the loss unchanged, and
    `<operator>.eval_over_train_<quantity>`, the quantity in batch norm's eval mode over that in train mode.

    Raises:
        KeyError: the metric is neither measured nor derived.
    """
    if name in line:
        return line[name]
    derived = _derived(name)
    if derived is None:
        raise KeyError(name)
    inputs, function = derived
    values = [line[needed] for needed in inputs]
    return None if None in values else function(*values)


def _derived(name: str) -> tuple[tuple[str, ...], Callable[..., float]] | None:
    """The metrics that a derived one needs, and the function of them; None where it is not derived."""
    if name.endswith("_error"):
        return (f"{name.removesuffix('_error')}_accuracy",), lambda accuracy: 1 - accuracy
    operator, _, quantity = name.rpartition(".norm_scaled_")
    if operator and quantity in ("lambda_max", "lambda_max_bound"):
        return (f"{operator}.{quantity}", "weight_norm"), lambda value, norm: value * norm**2
    operator, _, quantity = name.rpartition(".eval_over_train_")
    if operator:
        return (f"{operator}_eval.{quantity}", f"{operator}.{quantity}"), lambda in_eval, in_train: in_eval / in_train
    return None


def as_float(value: Any) -> float:
    """A number of a JSON line; null, such as the standard error of one probe, is NaN."""
    return math.nan if value is None else float(value)


def _value_or_nan(line: dict[str, Any], name: str) -> float:
    try:
        return as_float(read_metric(line, name))
    except KeyError:
        return math.nan


def one_line(error: BaseException) -> str:
    """An exception's message without its line breaks."""
    return " ".join(str(error).split())


def load_run(folder: Path) -> Run:
    """A run folder in memory.

    Raises:
        InputError: a file is missing or is not as the run left it; the line names it and the command that mends it.
            A run of another format has no such command.
    """
    folder = Path(folder)
    try:
        manifest, config = read_whole(folder)
        if manifest.get("status") == "running" and not is_live(folder):
            manifest["status"] = "stopped"
        metrics = read_lines(folder / "metrics.jsonl")
        wrong = next((name for name, part in (("seed", config), ("status", manifest)) if name not in part), "")
        if wrong:
            raise InputError(f"no {wrong} in config.json or manifest.json")
        if manifest["status"] == "done" and (
            not metrics or metrics[-1]["step"] != manifest.get("steps", metrics[-1]["step"])
        ):
            raise InputError("metrics.jsonl does not end with the last step of manifest.json")
    except (DamagedError, FormatError):
        raise
    except (InputError, OSError) as error:
        raise InputError(
            f"{folder} is not a readable run folder ({one_line(error)}); to mend it: {mending(folder)}"
        ) from error
    return Run(folder, config, manifest, metrics)


def finished(runs: Sequence[Run]) -> list[Run]:
    """The runs with status "done". Only these decide claims and enter means over seeds."""
    return [run for run in runs if run.status == "done"]


def meeting(runs: Sequence[Run], needs: Needs) -> list[Run]:
    """The runs that are what is needed. Those that did not finish stay, for a rule to name them."""
    kept = {"finished": lambda run: True, "learnt": lambda run: run.learnt, "fitted": lambda run: run.fitted}[needs]
    return [run for run in runs if run.status != "done" or kept(run)]


def setting_of(run: Run) -> str:
    """All settings of a run but its seeds; experiments may ask different questions of the same ones."""
    settings = {name: value for name, value in run.config.items() if name not in NO_DIFFERENCE}
    data = {name: value for name, value in run.config.get("data", {}).items() if f"data.{name}" not in NO_DIFFERENCE}
    return json.dumps(settings | {"data": data})


def by_setting(runs: Sequence[Run], name: str) -> dict[Any, list[Run]]:
    """Runs grouped by a setting: groups in increasing order of its value, the runs of each in the order of seeds."""
    groups: dict[Any, list[Run]] = {}
    for run in sorted(runs, key=lambda run: (run.setting(name), run.seed)):
        groups.setdefault(run.setting(name), []).append(run)
    return groups


def grouped(runs: Sequence[Run], key: Callable[[Run], Key]) -> dict[Key, list[Run]]:
    """Runs grouped by a key; groups and their runs are in the order in which they are given."""
    groups: dict[Key, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return groups


def pairs_by_seed(low: Sequence[Run], high: Sequence[Run], by: str) -> list[tuple[Run, Run]]:
    """The runs at two values of the setting `by`, paired by seed; seeds without a partner are left out.

    Raises:
        InputError: two runs share the setting and the seed.
    """
    require_unique_pairs([*low, *high], by)
    after = {run.seed: run for run in high}
    return [(run, after[run.seed]) for run in low if run.seed in after]


def require_unique_pairs(runs: Sequence[Run], by: str) -> None:
    """Refuse two runs with one seed and one value of `by`: they differ in another setting and must not be paired.

    Raises:
        InputError: there are two such runs.
    """
    seen: dict[tuple[Any, int], Run] = {}
    for run in runs:
        other = seen.setdefault((run.setting(by), run.seed), run)
        if other is not run:
            raise InputError(
                f"{run.path} and {other.path} share {by} and seed; compare runs that differ in nothing else"
            )


def finite_final(run: Run, metric: str) -> float:
    """A metric at the last measured step.

    Raises:
        InputError: the metric was not measured there or is not finite.
    """
    value = run.final(metric)
    if not math.isfinite(value):
        raise InputError(f"{run.path}: {metric} is {value} although the run is done; measure it again")
    return value


def error_bound(run: Run, metric: str) -> float:
    """The error bound `<metric>_bound` at the last measured step; 0 where there is none."""
    value = run.final_or_nan(f"{metric}_bound")
    return value if math.isfinite(value) else 0.0


def paired_answers(metric: str, pairs: Sequence[tuple[Run, Run]]) -> tuple[np.ndarray, bool] | None:
    """By how much the second run of each pair is better on each example `[pairs, n]`, −1, 0 or 1, of an accuracy.

    The other number says whether all pairs were asked the same examples. None where not all runs have stored it, or
    for other metrics.
    """
    split, _, quantity = metric.partition("_")
    if quantity != "accuracy":
        return None
    answers = [[run.answers(split) for run in pair] for pair in pairs]
    known = [[one for one in pair if one] for pair in answers]
    if any(len(pair) < 2 or pair[0].labels != pair[1].labels for pair in known):
        return None
    sizes = {len(one.right) for pair in known for one in pair}
    if len(sizes) > 1:
        return None
    differences = np.array([second.right.astype(int) - first.right for first, second in known])
    return differences, len({first.labels for first, _ in known}) == 1


def num_examples(metric: str, pairs: Sequence[tuple[Run, Run]]) -> int | None:
    """The number of examples over which an accuracy is a mean; None for other metrics."""
    split, _, quantity = metric.partition("_")
    if quantity != "accuracy":
        return None
    return min(run.manifest.get("examples", {}).get(split, 0) for pair in pairs for run in pair) or None
