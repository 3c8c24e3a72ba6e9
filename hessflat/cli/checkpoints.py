"""Measure a folder of checkpoints of any model: `python -m hessflat measure --checkpoints=… --loss=… --data=…`."""

import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from hessflat import config
from hessflat import curvature as cv
from hessflat.cli import app
from hessflat.report import checkpoints as report
from hessflat.runs import checkpoints, foreign, run_folder
from hessflat.runs.foreign import Checkpoint, Problem
from hessflat.utils import processes, progress
from hessflat.utils.errors import InputError, in_one_line, nearest
from hessflat.utils.files import file_digest, read_lines, read_object, write_arrays, write_atomically

QUANTITIES = ("loss", "gradient", "eigenvalues", "trace", "spectrum")
FLAGS: dict[str, str | None] = {
    "checkpoints": None,  # the folder
    "loss": None,  # module:function of (params, batch), or (params, batch, state)
    "data": None,  # module:object or module:function without arguments: arrays, cv.Batches or cv.Stream
    "params": "",  # where the parameters lie in a checkpoint, such as params or state/params
    "state": "",  # where the third argument of the loss lies, such as batch_stats
    "item": "",  # of several trees in a checkpoint of Orbax
    "like": "",  # module:object or function: a tree whose structure the parameters take
    "separator": "",  # by which names of arrays are cut into nested dictionaries, such as .
    "steps": "all",  # or last, or 0,100
    "batch_size": "0",  # examples in one product; 0 takes all
    "quantities": "loss,gradient,eigenvalues,trace,spectrum",
    "top": "20",  # eigenvalues
    "probes": "4",  # of the spectrum; four times as many of the trace
    "lanczos_steps": "80",
    "exact": "0",  # parameters up to which all eigenvalues are computed
    "rtol": "1e-3",
    "seed": "0",
    "out": "",  # where results go; by default measured/NAME-HASH
}

# What a loss may differ by, relatively, where the same is computed again.
_SAME = 1e-4


class Settings(NamedTuple):
    """What is measured, and how."""

    quantities: tuple[str, ...]
    steps: str
    top: int
    probes: int
    lanczos_steps: int
    exact: int
    rtol: float
    seed: int


class Model(NamedTuple):
    """The functions and data of the user, and where a checkpoint holds what they take."""

    loss: Callable[..., Any]
    data: Any
    params: str
    state: str
    separator: str
    template: Any  # None where the structure is that of the checkpoint


def main(argv: Sequence[str]) -> int:
    """Measure each checkpoint that is not measured yet, and draw all; 1 where some could not be measured."""
    own, others = app.parse_flags(argv, FLAGS)
    if others:
        raise InputError(f"{others[0]} is a setting of a run; a folder of checkpoints has --{', --'.join(FLAGS)}")
    if processes.are_several():
        raise InputError("a folder of checkpoints is measured by one process; start one, which takes all its devices")
    settings = _settings(own)
    folder = Path(own["checkpoints"])
    found, problems = foreign.find(folder, own["item"])
    steps = checkpoints.chosen_steps(settings.steps, [one.step for one in found], folder)
    chosen = [one for one in found if one.step in steps]
    model = _model(own)
    named = {name: value for name, value in own.items() if name not in ("steps", "out")}
    named["checkpoints"] = str(folder.absolute())
    out = Path(own["out"] or f"measured/{folder.absolute().name}-{config.fingerprint(named)}")
    with run_folder.locked(out):
        done = _prepare(out, named)
        with progress.reporting(len(chosen)) as reporter:
            lines, failed = _measure_all(chosen, done, model, settings, out, reporter)
        problems = [*problems, *failed]
        measured = [lines[step] for step in sorted(lines)]
        page = report.write(out, measured, problems, f"Curvature over the checkpoints of {folder.absolute().name}")
    for name, reason in problems:
        print(f"{name}: {reason}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} of {len(chosen) + len(problems) - len(failed)} could not be measured", file=sys.stderr)
    print(page)
    return int(bool(problems))


def _measure_all(
    chosen: Sequence[Checkpoint], done: dict[int, Any], model: Model, settings: Settings, out: Path, reporter: Any
) -> tuple[dict[int, Mapping[str, Any]], list[Problem]]:
    """The lines of the checkpoints by step, of those here and those from before, and what could not be measured."""
    lines, problems, like = dict(done), [], None
    confirmed = not done
    for checkpoint in chosen:
        progress.stop_if_asked()
        try:
            digest = foreign.digest(checkpoint)
            line = done.get(checkpoint.step)
            is_done = line is not None and line["digest"] == digest and line["name"] == checkpoint.name
            if not is_done or not confirmed:
                params, extra = _arguments(checkpoint, model)
                like = _same_tree(params, like)
                if line is not None and is_done:
                    _require_same_loss(checkpoint, model, params, extra, line)
                    confirmed = True
            if not is_done:
                lines[checkpoint.step] = _measure(
                    checkpoint, digest, model, params, extra, settings, out, reporter.note
                )
        except ChangedError:
            raise
        except InputError as error:
            problems.append(Problem(checkpoint.name, str(error)))
            lines.pop(checkpoint.step, None)
        reporter.advance(1.0, f"step {checkpoint.step}")
    if len(problems) == len(chosen) and not lines:
        name, reason = problems[0]
        raise InputError(f"none of {len(chosen)} checkpoints could be measured; {name}: {reason}")
    return lines, problems


class ChangedError(InputError):
    """The loss or its data are not those of what is stored."""


def _measure(
    checkpoint: Checkpoint,
    digest: str,
    model: Model,
    params: Any,
    extra: Any,
    settings: Settings,
    out: Path,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Measure one checkpoint; its arrays are written before its line.

    Arrays that the loss does not seem to use, as an optimiser's, are told to `note` and counted.
    """
    # The operator tells whether the functions suit the tree.
    op = _in_words(params, lambda: cv.hessian(model.loss, params, model.data, extra))
    numbers: dict[str, Any] = {"loss": _in_words(params, lambda: _loss(model, params, extra))}
    if not np.isfinite(numbers["loss"]):
        raise InputError(f"the loss is {numbers['loss']}")
    keys = jax.random.split(jax.random.key(settings.seed), 3)
    arrays: dict[str, np.ndarray] = {}
    everything = cv.exact_spectrum(op) if op.size <= settings.exact else None
    if "gradient" in settings.quantities:
        gradient = cv.gradient(op)
        numbers["gradient_norm"] = float(optax.tree.norm(gradient))
        unused = [name for name, leaf in foreign.named(gradient).items() if not np.any(leaf)]
        if unused and numbers["gradient_norm"] > 0:
            numbers["arrays_without_gradient"] = len(unused)
            note(
                f"{checkpoint.name}: the gradient of {foreign.in_short(unused)} is exactly 0; where the loss does not "
                "use them, they add eigenvalues of 0, and --params=… takes the parameters alone"
            )
    if "eigenvalues" in settings.quantities:
        arrays |= _eigenvalues(op, keys[0], everything, settings)
        numbers |= _of_eigenvalues(arrays["eigenvalues"], arrays["residuals_of_eigenvalues"])
    if "trace" in settings.quantities:
        trace = cv.trace(op, keys[1], 4 * settings.probes) if everything is None else None
        numbers["trace"] = trace.value if trace else everything.trace  # type: ignore[union-attr]
        numbers["trace_standard_error"] = trace.standard_error if trace else 0.0
    if "spectrum" in settings.quantities:
        spectrum = cv.spectrum(op, keys[2], settings.lanczos_steps, settings.probes, show_progress=False)
        arrays |= cv.spectrum_to_arrays(spectrum)
        numbers["lambda_min"] = spectrum.smallest.value
    write_arrays(out / "spectra" / f"{checkpoint.step}.npz", arrays)
    line = {"step": checkpoint.step, "name": checkpoint.name, **numbers, "digest": digest}
    line["arrays"] = file_digest(out / "spectra" / f"{checkpoint.step}.npz")
    run_folder.append_line(out / "metrics.jsonl", line)
    return line


def _eigenvalues(op: Any, key: Any, everything: Any, settings: Settings) -> dict[str, np.ndarray]:
    """All eigenvalues, or the largest that have converged, descending, with their residuals."""
    if everything is not None:
        values = everything.values[::-1]
        return {"eigenvalues": values, "residuals_of_eigenvalues": np.full(values.shape, everything.noise_floor)}
    pairs = cv.eigenpairs(op, key, min(settings.top, op.size), rtol=settings.rtol, show_progress=False)
    if not pairs.converged[0]:
        raise InputError(f"λ_max has {pairs.status[0]}; take a larger --rtol")
    return {"eigenvalues": pairs.values[pairs.converged], "residuals_of_eigenvalues": pairs.residuals[pairs.converged]}


def _of_eigenvalues(values: np.ndarray, residuals: np.ndarray) -> dict[str, Any]:
    """λ_max, the law of the tail and the outliers; what cannot be told of so few is left out."""
    found: dict[str, Any] = {"lambda_max": float(values[0]), "lambda_max_residual": float(residuals[0])}
    positive = values[values > residuals]
    found["num_eigenvalues"] = len(positive)
    try:
        law = cv.power_law(positive)
        found |= {"tail_exponent": law.exponent, "tail_exponent_se": law.standard_error, "tail_size": law.num_tail}
        found |= {"tail_distance": law.distance, "tail_p_value": law.p_value}
    except InputError:  # too few
        pass
    try:
        above = cv.outliers(positive[: max(len(positive) // 2, 20)])
        found |= {"num_outliers": above.number, "outlier_ratio": above.ratio}
    except InputError:
        pass
    return found


def _loss(model: Model, params: Any, extra: Any) -> float:
    return float(cv.line(model.loss, params, params, [0.0], model.data, extra).values[0])


def _in_words(params: Any, work: Callable[[], Any]) -> Any:
    """What `work` returns; an error of the user's functions is one line that says what the checkpoint holds."""
    try:
        return work()
    except Exception as error:
        holds = foreign.in_short([f"{name} {text}" for name, text in foreign.shapes(params).items()])
        raise InputError(f"{in_one_line(error)}; the checkpoint holds {holds}") from error


def _arguments(checkpoint: Checkpoint, model: Model) -> tuple[Any, Any]:
    """The parameters and the state of a checkpoint, as the loss takes them."""
    tree = foreign.read(checkpoint)
    if model.separator:
        tree = foreign.nested(tree, model.separator)
    if not model.params and isinstance(tree, Mapping) and "params" in tree and len(tree) > 1:
        raise InputError(
            f"it holds {foreign.in_short(sorted(map(str, tree)))}; say --params=params, or where parameters are"
        )
    params = foreign.part(tree, model.params)
    if model.separator:
        params = foreign.nested(params, model.separator)
    if model.template is not None:
        params = foreign.like(params, model.template)
    extra = foreign.part(tree, model.state) if model.state else None
    return params, extra


def _same_tree(params: Any, like: Any) -> Any:
    """The shapes that all checkpoints have; refuse one that differs."""
    shapes = foreign.shapes(params)
    if like is not None and (differing := checkpoints.difference(shapes, like)):
        name, here, there = differing
        raise InputError(f"its tree differs: {name} is {here} here and {there} in the first checkpoint")
    return shapes


def _require_same_loss(checkpoint: Checkpoint, model: Model, params: Any, extra: Any, line: Mapping[str, Any]) -> None:
    now = _loss(model, params, extra)
    if not abs(now - line["loss"]) <= _SAME * max(abs(now), abs(line["loss"])):
        raise ChangedError(
            f"the loss of {checkpoint.name} is {now:.6g} and was {line['loss']:.6g} when it was measured: the loss or "
            "its data have changed; remove those results, or give another --out"
        )


def _prepare(out: Path, named: Mapping[str, str]) -> dict[int, Any]:
    """Make the folder of the results ready; the lines by step of what it holds, whose arrays are whole."""
    stored = read_object(out / "settings.json")
    if stored is not None and stored != dict(named):
        name = next(name for name in {**stored, **named} if stored.get(name) != named.get(name))
        raise InputError(
            f"{out} holds results with --{name}={stored.get(name)!r}, but {named.get(name)!r} is asked for; give "
            "another --out"
        )
    if stored is None and any(path.name not in (".lock",) for path in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no such results; give another --out")
    write_atomically(out / "settings.json", json.dumps(dict(named), indent=1, sort_keys=True) + "\n")
    run_folder.keep_lines(out / "metrics.jsonl")
    lines = {line["step"]: line for line in read_lines(out / "metrics.jsonl")}  # of a step the last one counts

    def is_whole(line: Mapping[str, Any]) -> bool:
        path = out / "spectra" / f"{line['step']}.npz"
        return path.is_file() and file_digest(path) == line["arrays"]

    return {step: line for step, line in lines.items() if is_whole(line)}


def _settings(own: Mapping[str, str]) -> Settings:
    quantities = tuple(filter(None, own["quantities"].split(",")))
    config.require("--quantities", quantities, config.each(config.one_of(QUANTITIES)))
    numbers = {name: _whole(own, name, least) for name, least in _LEAST.items()}
    try:
        rtol = float(own["rtol"])
    except ValueError:
        rtol = 0.0
    if not 0 < rtol < 1:
        raise InputError(f"--rtol must be a number between 0 and 1, got {own['rtol']!r}")
    return Settings(quantities, own["steps"], rtol=rtol, **numbers)


_LEAST = {"top": 1, "probes": 1, "lanczos_steps": 1, "exact": 0, "seed": 0}


def _whole(own: Mapping[str, str], name: str, least: int) -> int:
    text = own[name]
    if not text.isdecimal() or not least <= int(text) <= 10**9:
        raise InputError(f"--{name} must be a whole number of at least {least}, got {text!r}")
    return int(text)


def _model(own: Mapping[str, str]) -> Model:
    """The functions and data that `module:name` stand for."""
    loss = _named("--loss", own["loss"])
    if not callable(loss):
        raise InputError(f"--loss={own['loss']} must be a function of (params, batch), got {type(loss).__name__}")
    data, size = _made("--data", own["data"]), _whole(own, "batch_size", 0)
    if size and not isinstance(data, cv.Batches | cv.Stream):
        data = cv.Batches(data, size)
    template = _made("--like", own["like"]) if own["like"] else None
    return Model(loss, data, own["params"], own["state"], own["separator"], template)


def _made(flag: str, target: str) -> Any:
    """The object that `module:name` stands for, or what it returns without arguments where it is a function."""
    value = _named(flag, target)
    if not callable(value) or isinstance(value, cv.Batches | cv.Stream):
        return value
    try:
        return value()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{flag}={target} failed: {in_one_line(error)}") from error


def _named(flag: str, target: str) -> Any:
    module, _, name = target.partition(":")
    if not module or not name:
        raise InputError(f"{flag} must be module:name, such as my_model:loss, got {target!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        loaded = importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            line = f"{flag}={target}: no module named {error.name}; run from the folder that holds it"
        else:
            line = f"{flag}={target}: importing {module} failed: {in_one_line(error)}"
        raise InputError(line) from error
    try:
        return functools.reduce(getattr, name.split("."), loaded)
    except AttributeError as error:
        known = [known for known in vars(loaded) if not known.startswith("_")]
        raise InputError(f"{flag}={target}: {module} has no {name}; {nearest(name, known)}") from error
