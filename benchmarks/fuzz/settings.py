"""Random settings as the command line takes them: each is refused in one line, or is what was asked for.

The module is long because each form that settings come in has a draw and a comparison of its own.
"""

import functools
import json
import math
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from benchmarks.fuzz.outcomes import EITHER, REFUSE, RETURN, Call
from hessflat import config as configuration
from hessflat.cli import app, sweep
from hessflat.runs import cost_model, jobs, loop, schema
from hessflat.runs.schema import UNNAMED, RunConfig
from hessflat.utils import progress
from hessflat.utils.errors import InputError

Numbers = random.Random
Value = tuple[str, Any, str]  # a text, the value that it means, and what a right program does

_TARGETS = (
    *("g_mlp:smoke", "g_logistic:small", "g_preresnet:smoke", "m_weight_decay:paper", "g_deep_linear:smoke"),
    *("m_coordinate:smoke", "s_basin:small", "g_gadam:smoke", "h_measurement:smoke"),
)
# Of which `hessflat.cli.app` makes one line, or a page of help.
_AS_COMMANDS = (InputError, OSError, app.HelpAsked)
PLACE = [tempfile.gettempdir()]  # where runs are kept, the last one
_LONG = "x" * 10_000
_NO_NUMBERS = (
    *("", " ", "three", "nan", "NaN", "None", "[1]", "(1,)", "1,5", "1.5.5", "--1", "½", "0x", "1e", "()", "{}", "1 2"),
    *("∞", "\0", "1\n2", "9" * 5000 + "x", "1+1", "1j", _LONG),
)
_NO_WHOLE_NUMBERS = (*_NO_NUMBERS, "1.5", "1e3", "inf", "True")
_NO_FLAGS = ("maybe", "", "2", "None", "1.0", "[]", "tru", "\0", "yess", _LONG)
_NO_NAMES = (
    *("", " ", "nothing", "TANH", "Sgd ", "sgd,adam", "None", "0", "naïve", "漢字", "\0", "a\nb", "../x", "[]", _LONG),
    *("mlp'", '"mlp"', "é" * 300),
)
_NO_TUPLES = (
    *("", "(", "[", "(1,", "((1,),)", "(None,)", "({},)", "1 2", "(" * 3000, "[" * 200 + "]" * 200, "\0", "(1j,)"),
    *("__import__('os')", "(nan,)", "('é',)", "(b'a',)", "x", "(" + "1," * 5000 + "'a')"),
)
_WHOLE_NUMBERS = (0, 1, 2, 3, 7, 10, 100, -1, -(10**9), 10**9, 2**31, 2**32 - 1, 2**32, 2**63, 10**18, 10**30)
_FLOATS = (
    *(0.0, -0.0, 1.0, 0.5, 0.1, 1e-3, 2.0, 3.0, -1.0, 1e9, 1e-30, 1e30, 1e-300, 1e300, 1e-320, 0.99999999),
    *(math.inf, -math.inf),
)
_TEXTS = (
    *(*_NO_NAMES, "end", "never", "every 2 steps", "every epoch to 3 epochs", "start, end", "at 0.5", "at 2", "growth"),
    *("every 0 steps", "every 10000000000000000000000 steps", "every 1.5 steps", "digits", "blobs", "runs/x@3"),
    *("seed=1", "seed=x", "train.epochs=(", "at 1e-3", "a b"),
)


def _texts(setting: configuration.Setting, numbers: Numbers, sane: bool = False) -> Value:
    """A text for a setting; where it is to be `sane`, one that should be taken, if such a one is soon found."""
    found = _any_text(setting, numbers)
    for _ in range(30):
        if not sane or found[2] == RETURN:
            break
        found = _any_text(setting, numbers)
    return found


def _any_text(setting: configuration.Setting, numbers: Numbers) -> Value:
    default, rule = setting.default, setting.rule
    if isinstance(default, bool):
        taken = [("true", True, RETURN), ("False", False, RETURN), ("1", True, EITHER), ("0", False, EITHER)]
        return numbers.choice([*taken, *((text, None, REFUSE) for text in _NO_FLAGS)])
    if isinstance(default, str):
        kinds = [_NO_NAMES, list(map(str, rule.known))] if rule.known else [_TEXTS]
        text = numbers.choice(numbers.choice(kinds))
        return text, text, RETURN if _holds(rule, text) else REFUSE
    if numbers.random() < 0.4:
        none = {int: _NO_WHOLE_NUMBERS, float: _NO_NUMBERS, tuple: _NO_TUPLES}[type(default)]
        return numbers.choice(none), None, REFUSE
    value: Any
    if isinstance(default, int):
        value = numbers.choice(_WHOLE_NUMBERS)
        text = f"+{value}" if value >= 0 and numbers.random() < 0.3 else str(value)
    elif isinstance(default, float):
        value = numbers.choice((*_FLOATS, numbers.random()))
        text = repr(value)
    else:
        elements: Mapping[type, Sequence[Any]] = {
            int: (1, 2, 5, 0, -1, 10**9, 10**18),
            float: (1.0, 0.5, 2.0, -1.0, 1e300),
            str: (*rule.known, "nothing"),
        }
        value = tuple(numbers.choice(elements[type(default[0])]) for _ in range(numbers.randrange(1, 4)))
        text = repr(value)
    return text, value, RETURN if _holds(rule, value) else REFUSE


def _holds(rule: configuration.Rule, value: Any) -> bool:
    try:
        return bool(rule.holds(value))
    except (OverflowError, ValueError, TypeError):
        return False


@functools.cache
def _schema() -> Mapping[str, configuration.Setting]:
    return configuration.flatten(configuration.schema(RunConfig))


@functools.cache
def _base(target: str) -> ConfigDict:
    return app.from_command_line(target)


def _is_chosen(name: str, base: ConfigDict) -> bool:
    """Whether a setting is of a builder that is chosen, or of none."""
    *above, _ = name.split(".")
    block = configuration.get(base, ".".join(above[:-1])) if len(above) > 1 else None
    return block is None or "name" not in block or block.name == above[-1]


def _wrong(base: ConfigDict, made: ConfigDict, given: Mapping[str, Any]) -> str:
    """What is wrong with a configuration that `given` settings were asked of."""
    before, after = configuration.flatten(base), configuration.flatten(made)
    for name, value in after.items():
        wanted = given.get(name, before[name])
        if type(value) is not type(wanted) or value != wanted:
            return f"{name} is {value!r}, {wanted!r} was asked for"
    one, other = schema.freeze(base), schema.freeze(made)
    differs = configuration.flatten(schema.plain(one)) != configuration.flatten(schema.plain(other))
    if differs != (schema.identity(one) != schema.identity(other)):
        return "the identity tells other runs apart than the settings do"
    should = any(
        name not in UNNAMED and _is_chosen(name, made) and value != before[name] for name, value in given.items()
    )
    if should != differs:
        return f"the run is {'not ' if should else ''}another one"
    again = schema.from_plain(json.loads(json.dumps(schema.plain(other))))
    if configuration.flatten(schema.plain(again)) != configuration.flatten(schema.plain(other)):
        return "JSON loses a setting"
    if schema.freeze(configuration.thaw(other)) != other:
        return "a frozen configuration thaws to another"
    return ""


def _said(target: str, arguments: Sequence[str]) -> str:
    words = " ".join([target, *(repr(one.removeprefix("--config."))[1:-1] for one in arguments)])
    return words if len(words) < 400 else f"{words[:300]}... ({len(words)} characters)"


def _asked(numbers: Numbers, count: int) -> Call:
    """Some settings of a configuration, by their names."""
    target = numbers.choice(_TARGETS)
    base, rules = _base(target), _schema()
    names = numbers.sample(list(rules), count)
    if numbers.random() < 0.75:  # most settings are of builders, and of those most are not chosen
        names = [
            name if _is_chosen(name, base) else numbers.choice([n for n in rules if _is_chosen(n, base)])
            for name in names
        ]
    names = list(dict.fromkeys(names))
    given, must, arguments = {}, RETURN, []
    for name in names:
        sane = count > 1 and numbers.random() < 0.8
        text, value, wanted = _texts(rules[name], numbers, sane)
        arguments.append(f"--config.{name}={text}")
        given[name] = value
        must = wanted if wanted == REFUSE or must == RETURN else must
    chosen = {name.rpartition(".")[0]: value for name, value in given.items() if name.endswith(".name")}
    after = {
        block: chosen.get(block, configuration.get(base, f"{block}.name"))
        for block in ("model", "optim", "schedule", "data")
    }
    for name in names:
        block, _, rest = name.partition(".")
        if block in after and "." in rest and rest.partition(".")[0] != after[block]:
            must = REFUSE

    def make() -> ConfigDict:
        made = app.from_command_line(target, arguments)
        schema.freeze(made)
        return made

    if must == EITHER:
        given = {}
        return Call(_said(target, arguments), make, lambda made: "", must)
    return Call(_said(target, arguments), make, lambda made: _wrong(base, made, given), must)


def one_setting(numbers: Numbers) -> Call:
    return _asked(numbers, 1)


def several_settings(numbers: Numbers) -> Call:
    return _asked(numbers, numbers.randrange(2, 5))


def unknown_names(numbers: Numbers) -> Call:
    """Names that there are not, and arguments that are none."""
    name = numbers.choice(list(_schema()))
    spoiled = (
        *(name.upper(), name + ".", "." + name, name[:-1], name + "x", name.replace(".", ".."), name.partition(".")[0]),
        *("", "é" + name, name + "\0", name.title(), " " + name, name + " ", name + ".name", _LONG, "." * 3000, "漢字"),
        *(name.replace("_", "-"), "__class__", "model.__class__", "lock", "items", "name", name + "[0]"),
    )
    bad = numbers.choice(spoiled)
    argument = numbers.choice((f"--config.{bad}=1", f"--config.{bad}", f"--config.{bad}==", f"--config.{bad}=\n"))
    must = EITHER if bad in _schema() else REFUSE

    def make() -> RunConfig:
        return schema.freeze(app.from_command_line("g_mlp:smoke", [argument]))

    return Call(_said("g_mlp:smoke", [argument]), make, lambda _: "", must)


_FILES = (
    *("g_mlp", "configs/granziol2020/g_mlp.py", "G_MLP", "g_mpl", "", " ", "g_mlp.py", "configs", "../g_mlp", "*", "."),
    *("configs/granziol2020/g_mlp", "/etc/passwd", "/etc/passwd.py", "é", "x" * 5000, "a\0b", "a\0b.py", "__init__"),
    *("_helpers", "g_mlp,g_logistic", "nothing.py", "x" * 5000 + ".py"),
)
_SCALES = ("smoke", "small", "paper", "", "Smoke", "huge", " smoke", "smoke:small", "0", "é", "\0", "x" * 5000)
_FLAGS = (
    *("--config", "--root=", "--nothing=1", "x", "--", "-", "--config.seed=1", "--config.seed=1", "-h", "--root=a\0b"),
    *(
        "--config.seed",
        "--anew=maybe",
        "--only",
        "--from=x@",
        "--run=nowhere",
        "---",
        "--é=1",
        "--config=",
        "--=1",
        "\0",
    ),
    *("--config.=", "--config.seed=1=2"),
)


def targets(numbers: Numbers) -> Call:
    """Configurations and scales that there are not, and command lines that make no sense."""
    name, scale = numbers.choice(_FILES), numbers.choice(_SCALES)
    target = numbers.choice((f"{name}:{scale}", name))
    if numbers.random() < 0.5:
        right = name in _FILES[:2] and (target == name or scale in _SCALES[:4])

        def load() -> RunConfig:
            return schema.freeze(app.from_command_line(target))

        return Call(_said(target, []), load, lambda _: "", RETURN if right else REFUSE, _AS_COMMANDS)
    flags = [numbers.choice((f"--config={target}", *_FLAGS)) for _ in range(numbers.randrange(1, 5))]

    def make() -> RunConfig:
        own, settings = app.parse_flags(flags, {"config": None, "root": "runs", "from": "", "run": "", "anew": "0"})
        app.is_set(own, "anew")
        return schema.freeze(app.from_command_line(own["config"], settings))

    return Call(_said("", flags), make, lambda _: "", EITHER, _AS_COMMANDS)


_VALUES: Sequence[Any] = (
    *(None, 1, 0, -1, 1.0, 0.5, True, "text", "", [], [1], (1,), (1.5,), (True,), ("a",), {}, {"a": 1}, math.nan, b"x"),
    *(math.inf, np.int64(3), np.float32(0.5), np.array([1]), np.bool_(True), object(), 10**30, 1j, set(), (None,)),
    *(((1,),), lambda: 1),
)


def sweeps(numbers: Numbers) -> Call:
    """Entries of a sweep, as Python values, and sweeps with a setting for all of their runs."""
    return _setting_of_a_sweep(numbers) if numbers.random() < 0.3 else _entry_of_a_sweep(numbers)


def _setting_of_a_sweep(numbers: Numbers) -> Call:
    target = numbers.choice(_TARGETS)
    name = numbers.choice([name for name in _schema() if _is_chosen(name, _base(target))])
    text, value, must = _texts(_schema()[name], numbers)
    argument = f"--config.{name}={text}"
    if any(name in entry for entry in _entries(target)):
        must = REFUSE
    elif must == RETURN and name.endswith(".name"):
        must = EITHER  # what the sweep varies may be of the builder that was chosen

    def wrong(configs: Sequence[RunConfig]) -> str:
        found = configuration.flatten(configuration.thaw(configs[0]))[name]
        return "" if must == EITHER or found == value else f"{name} is {found!r}, {value!r} was asked for"

    return Call(f"sweep {_said(target, [argument])}", lambda: sweep.sweep_configs(target, [argument]), wrong, must)


def _entry_of_a_sweep(numbers: Numbers) -> Call:
    names: Sequence[Any] = (numbers.choice(list(_schema())), "nothing", "", "model", "model.mlp", 3)
    name = names[0] if numbers.random() < 0.9 else numbers.choice(names)
    target, value = numbers.choice(_TARGETS), numbers.choice(_VALUES)

    def make() -> ConfigDict:
        (entry,) = configuration.product({name: [value]})
        made = configuration.override(_base(target), entry)
        (job,) = jobs.make_jobs([schema.freeze(made)], Path("runs"))
        assert job.folder.name.endswith(schema.identity(job.config))
        return made

    def judge(made: ConfigDict) -> str:
        read, wanted = configuration.get(made, name), tuple(value) if isinstance(value, list) else value
        if type(read) is not type(_schema()[name].default):
            return f"{name} is a {type(read).__name__}"
        wanted = float(wanted) if isinstance(read, float) and isinstance(wanted, int) else wanted
        return "" if read == wanted or (read != read and wanted != wanted) else f"{name} is {read!r}"

    return Call(f"sweep of {target} with {name}={' '.join(repr(value).split())[:60]}", make, judge, EITHER)


@functools.cache
def _entries(target: str) -> tuple[Mapping[str, Any], ...]:
    path, scale = app.split_target(target)
    return tuple(app.load_module(path, "get_config", "get_sweep").get_sweep(scale))


_SHAPED = ("model.", "data.", "train.", "measure.", "stop.", "schedule.", "seed")


_LARGE = (0, 1, 2, 5, 100, 10**5, 10**7, 10**9, 10**12, 10**18)
_TIMETABLES = (
    *("end", "start", "growth", "every step", "every 3 steps", "every epoch", "every 2 epochs to 4 epochs", "at 0.5"),
    *("every 1000000000000000000000 steps", "every step to 1e9 steps", "every step to 1000000000 epochs"),
    "start, end, at 0.3, at 0.30000000000000000000001",
)
_SIZED = ("train.epochs", "train.steps", "stop.eval_every", "measure.performance", "measure.spectra", "stop.train_loss")


def plans(numbers: Numbers) -> Call:
    """Settings that fix shapes, on the way that a command goes before it trains: data, network, cost, timetable."""
    rules = _schema()
    data = numbers.choice(("digits", "digits", "blobs", "sine", "generator", "scattered", "point", "mnist"))
    flat = ("mlp", "mlp", "softmax_regression", "deep_linear", "coordinate_network")
    model = numbers.choice(flat if data not in ("digits", "mnist") else (*flat, "two_convolutions", "resnet", "vgg"))
    arguments = {"model.name": model, "data.name": data, "data.scaling": "standardised"}
    if data in ("sine", "generator", "scattered", "point"):
        arguments |= {"train.loss": "squared_error", "data.validation_fraction": "0", "stop.train_accuracy": "0"}
    if model == "two_convolutions":
        arguments["model.two_convolutions.padding"] = "same"
    if model == "vgg":
        arguments["model.vgg.poolings"] = "2"
    own = [name for name in rules if name.split(".")[1:2] in ([model], [data]) and name.count(".") == 2]
    others = [name for name in rules if name.startswith(_SHAPED) and name.count(".") < 2 and not name.endswith(".name")]
    groups = [group for group in (own, others, list(_SIZED)) if group]
    for name in dict.fromkeys(numbers.choice(numbers.choice(groups)) for _ in range(numbers.randrange(1, 4))):
        default, rule = rules[name].default, rules[name].rule
        if isinstance(default, str):
            text = numbers.choice([str(one) for one in rule.known] or _TIMETABLES)
            holds = _holds(rule, text)
        elif isinstance(default, tuple):
            value = tuple(type(default[0])(numbers.choice(_LARGE)) for _ in range(numbers.randrange(1, 3)))
            text, holds = repr(value), not isinstance(default[0], str) and _holds(rule, value)
        else:
            value = type(default)(numbers.choice((*_LARGE, 0.5, 1e-6)))
            text, holds = repr(value), _holds(rule, value)
        if holds:
            arguments[name] = text
    given = [f"--config.{name}={text}" for name, text in arguments.items()]

    def make() -> Any:
        frozen = schema.freeze(app.from_command_line("g_mlp:smoke", given))
        (job,) = jobs.make_jobs([frozen], Path("runs"))
        cost = cost_model.run_cost(frozen)
        if data != "mnist" and cost.num_params < 10**5:
            jobs.compiled(frozen)
        for naming in jobs.NAMING:
            jobs.named_run(job, naming)
        jobs.steps_to_evaluate(frozen, cost.num_steps)
        return cost

    def judge(cost: Any) -> str:
        finite = math.isfinite(cost.total_seconds()) and cost.total_seconds() >= 0
        return "" if finite and cost.num_params >= 1 else f"{cost.num_params} parameters, {cost.total_seconds()} s"

    return Call(_said("plan g_mlp:smoke", given), make, judge, EITHER)


_TINY = tuple(
    f"--config.{one}"
    for one in (
        *("data.name=blobs", "data.scaling=standardised", "data.blobs.num_examples=40", "model.mlp.hidden=(3,)"),
        *("train.batch_size=8", "train.epochs=1", "measure.lanczos_steps=3", "measure.probes=1"),
        *("measure.trace_probes=1", "measure.jacobian=end"),
    )
)


def tiny_runs(numbers: Numbers) -> Call:
    """A setting, and a run with it to its end."""
    rules, base = _schema(), _base("g_mlp:smoke")
    names = [name for name in rules if _is_chosen(name, base) and not name.startswith(("data.", "checkpoint"))
             and name not in ("devices", "writers", "train.epochs", "train.steps", "model.mlp.hidden")
             and isinstance(rules[name].default, int | float | bool)]  # fmt: skip
    name = numbers.choice(names)
    text, _, must = _texts(rules[name], numbers, sane=numbers.random() < 0.8)
    place = Path(PLACE[-1]) / f"{numbers.randrange(10**12)}"
    arguments = [*(one for one in _TINY if f".{name}=" not in one), f"--config.{name}={text}"]

    def make() -> Any:
        frozen = schema.freeze(app.from_command_line("g_mlp:smoke", arguments))
        return loop.run_all(jobs.make_jobs([frozen], place), progress.silent())

    return Call(
        _said("run g_mlp:smoke", arguments[-1:]), make, lambda lost: "; ".join(lost), EITHER if must == RETURN else must
    )


KINDS: Mapping[str, tuple[Callable[[Numbers], Call], int]] = {
    "one setting": (one_setting, 1700),
    "several settings": (several_settings, 1000),
    "unknown names": (unknown_names, 500),
    "targets and flags": (targets, 500),
    "sweeps": (sweeps, 500),
    "plans": (plans, 280),
    "tiny runs": (tiny_runs, 20),
}
