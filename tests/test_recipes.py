"""The recipes of .github/CONTRIBUTING.md, followed in a copy of the project.

Each ends with a finished run of what was added, whose `metrics.jsonl` has the numbers that it must give. All but a
measure and an experiment are long.
"""

import ast
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hessflat.report.claims import read_claims

ROOT = Path(__file__).parents[1]
UNMEASURED = ("--config.measure.spectra=never", "--config.measure.jacobian=never")
CONTRIBUTING = (ROOT / ".github" / "CONTRIBUTING.md").read_text()

MEASURE = '''"""The sum of all weights."""

from typing import Annotated

import jax
import jax.numpy as jnp

from hessflat.config import at_least
from hessflat.measures.measurement import Measure, Measurement


def weight_power(state, *, power: Annotated[int, at_least(1), "p of measure.weight_power"] = 1):
    """Σ |w|^p."""
    total = sum(float(jnp.sum(jnp.abs(leaf) ** power)) for leaf in jax.tree.leaves(state.params))
    return Measurement({"weight_power": total}, {"weight_power": {"power": jnp.array(power)}})


MEASURE = Measure(
    weight_power,
    cost=lambda settings, num_params: 7.0,
    doc="the sum of powers of weights is taken",
    names={"weight_power": ("Σ |w|^p", r"$\\sum |w|^p$")},
)
'''
MODEL = '''"""Logits that are quadratic in the inputs."""

from typing import Annotated

import jax
from flax import linen as nn

from hessflat.config import at_least


class Quadratic(nn.Module):
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, inputs: jax.Array, train: bool) -> jax.Array:
        hidden = nn.Dense(self.width)(inputs.reshape(len(inputs), -1))
        return nn.Dense(self.num_classes)(hidden**2)


def quadratic(num_classes: int, *, width: Annotated[int, at_least(1), "of the hidden layer"] = 3) -> nn.Module:
    return Quadratic(num_classes, width)
'''
PUBLISHED = '''def svhn(contents: Mapping[str, bytes]) -> Columns:
    """MATLAB's arrays, images [h, w, c, n], where 10 is the class of the digit 0."""
    columns: Columns = {}
    for split in ("train", "test"):
        arrays = scipy.io.loadmat(io.BytesIO(contents[f"{split}_32x32.mat"]))
        columns[split] = {"image": arrays["X"].transpose(3, 0, 1, 2), "label": arrays["y"].ravel() % 10}
    return columns


'''
CONFIGURATION = '''"""A perceptron on Gaussian blobs, with a small and a large learning rate.

    make sweep CONFIG=rates:small

smoke: seconds. small: a minute. paper: the small one.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config


def get_config(scale: str = "small") -> ConfigDict:
    """One run."""
    settings: Overrides = {
        "experiment": "rates",
        "data.name": "blobs",
        "model.name": "mlp",
        "model.mlp.hidden": (4,),
        "train.epochs": 2 if scale == "smoke" else 50,
        "measure.sharpness": "end",
    }
    return override(base_config(scale), settings)


def get_sweep(scale: str = "small") -> list[Overrides]:
    """Both rates with two seeds."""
    return product({"optim.lr": (0.01, 0.1), "seed": (0, 1)})
'''
EXPERIMENT = '''"""Does a larger learning rate end flatter?"""

from functools import partial

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Experiment
from hessflat.analysis.tables import table_by
from hessflat.report import figures

BY = "optim.lr"
EXPERIMENT = Experiment(
    id="rates",
    paper="hessflat",
    question="Gaussian blobs: does a larger learning rate end flatter?",
    config="rates",
    draw=lambda runs: [figures.panels_against(runs, BY, panels=(("hessian.lambda_max",),), name="rates")],
    tabulate=lambda runs: [table_by(runs, BY, columns=(("test acc", "test_accuracy", ".2%"),), caption="Rates.")],
    claims=(
        Claim(
            id="flatter",
            paper="hessflat",
            where="README.md",
            statement="the larger rate ends at a smaller λ_max(H)",
            paper_value="not in a paper",
            decide=partial(
                claims.compare, metric="hessian.lambda_max", by=BY, low=0.01, high=0.1, expect="smaller"
            ),
        ),
    ),
)
'''
SHOW = """
import sys
from hessflat.analysis.names import axis_name, metric_name
from hessflat.analysis.results import load_run
from hessflat.analysis.tables import as_text, table_by
from hessflat.runs.cost_model import run_cost
from hessflat.runs.checkpoints import stored_config
folder, metric, measure = sys.argv[1:]
run = load_run(folder)
print(as_text(table_by([run], columns=[(metric_name(metric), metric, ".4g")])))
print("axis", axis_name(metric))
print("products", run_cost(stored_config(run.folder)).products[measure])
"""


def recipe(name):
    """The paragraphs that tell how to add something."""
    start = CONTRIBUTING.index(f"{name}", CONTRIBUTING.index("## Adding things"))
    return CONTRIBUTING[
        start : re.compile(r"\n\nAn? [\w -]*\*\*|\n\n\[docs|\n\n## ").search(CONTRIBUTING, start).start()
    ]


@pytest.fixture
def project(tmp_path):
    """A copy of what the recipes edit and run."""
    for folder in ("hessflat", "configs", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def python(project, *arguments):
    """What a Python of its own prints, in the copy."""
    environment = os.environ | {"PYTHONPATH": str(project), "JAX_PLATFORMS": "cpu"}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "compiled")}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment | cache, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(project, *arguments):
    """The folder of a finished run of a few steps."""
    short = ("--config.train.epochs=1", "--config.measure.lanczos_steps=3")
    if not any(argument.startswith("--config.model.name") for argument in arguments):
        short += ("--config.model.mlp.hidden=(4,)",)
    printed = python(project, "-m", "hessflat", "train", "--config=g_mlp:smoke", *short, *arguments)
    return project / printed.split()[-1]


def last_metrics(folder):
    assert json.loads((folder / "manifest.json").read_text())["status"] == "done"
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def add_line(path, after, line):
    """A line below the one line that starts a registry."""
    text = path.read_text()
    assert text.count(after) == 1
    path.write_text(text.replace(after, f"{after}{line}"))


@pytest.mark.slow
def test_a_measure_is_one_file_and_one_line(project):
    steps = recipe("A **measure**: 1 new file, 1 edited")
    assert "`measures/NAME.py`" in steps
    assert "`_MODULES` of `measures/__init__.py`" in steps
    (project / "hessflat/measures/weight_power.py").write_text(MEASURE)
    add_line(project / "hessflat/measures/__init__.py", "_MODULES = (\n", '    "weight_power",\n')

    folder = train(project, "--config.measure.weight_power=end", "--config.measure.power=2")
    metrics = last_metrics(folder)
    assert metrics["weight_power"] == pytest.approx(metrics["weight_norm"] ** 2, rel=1e-5)
    assert [path.name for path in (folder / "spectra").glob("*-weight_power.npz")] == [
        f"{metrics['step']}-weight_power.npz"
    ]
    shown = python(project, "-c", SHOW, str(folder), "weight_power", "weight_power")
    assert re.search(r"^L2 +Σ \|w\|\^p +seeds$", shown, re.MULTILINE)
    assert r"axis $\sum |w|^p$" in shown
    assert "products 7.0" in shown
    settings = python(project, "-m", "hessflat", "settings")
    assert re.search(r"--config\.measure\.power +1 +p of measure\.weight_power; at least 1", settings)
    assert re.search(r"--config\.measure\.weight_power +'never' +when the sum of powers of weights is taken", settings)


@pytest.mark.long
def test_a_curvature_matrix_is_a_function_and_a_line(project):
    assert "`OPERATORS`, in `measures/eval_state.py`" in " ".join(recipe("A **curvature matrix**").split())
    path = project / "hessflat/measures/eval_state.py"
    function = (
        "def _half(functions, params, batches, batch_stats):\n"
        "    return 0.5 * cv.hessian(functions.loss, params, batches, batch_stats)\n\n\n"
    )
    path.write_text(path.read_text().replace("OPERATORS: ", f"{function}OPERATORS: "))
    add_line(
        path,
        "OPERATORS: Mapping[str, MeasuredOperator] = {\n",
        '    "half": MeasuredOperator(_half, "(H/2)", "half of H"),\n',
    )
    folder = train(project, "--config.measure.operators=('hessian','half')")
    metrics = last_metrics(folder)
    assert metrics["half.lambda_max"] == pytest.approx(metrics["hessian.lambda_max"] / 2, rel=1e-4)
    assert "λ_max((H/2))" in python(project, "-c", SHOW, str(folder), "half.lambda_max", "spectra")


@pytest.mark.long
def test_a_data_source_is_a_function_and_a_line(project):
    steps = recipe("A **data set**")
    assert "A function `(*, settings) -> Source` in `data/sources.py`" in steps
    path = project / "hessflat/data/sources.py"
    function = '''def ring(*, radius: Annotated[float, positive, "of the outer circle"] = 2.0) -> Source:
    """Two circles of 40 points, one class each."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    inputs = np.concatenate([circle, radius * circle]).astype(np.float32)
    labels = np.repeat(np.arange(2, dtype=np.int32), 40)
    return Source({"inputs": inputs, "labels": labels}, None, 2, None, "two circles")


'''
    path.write_text(path.read_text().replace("SOURCES: ", f"{function}SOURCES: "))
    add_line(path, "SOURCES: dict[str, Callable[..., Source]] = {\n", '    "ring": ring,\n')
    own = ("--config.data.name=ring", "--config.data.ring.radius=3.0", "--config.data.scaling=raw")
    folder = train(project, *own, "--config.train.batch_size=16")
    assert json.loads((folder / "config.json").read_text())["data"]["ring"] == {"radius": 3.0}
    assert json.loads((folder / "manifest.json").read_text())["data"].startswith("two circles: 56 training")
    assert 0 <= last_metrics(folder)["test_accuracy"] <= 1


@pytest.mark.long
def test_a_published_data_set_is_a_function_and_an_entry(project, monkeypatch):
    steps = " ".join(
        recipe("A **published data set** of the TFDS catalogue that needs no TensorFlow: 1 edited").split()
    )
    assert "A function in `data/published.py` of what the files hold, bytes by name" in steps
    assert '`{"train": {"image": [n, h, w, c], "label": [n]}, "test": …}`, as `uint8`' in steps
    assert "Its entry in `PUBLISHED`, below it" in steps
    assert "`Published(num_examples, shape, num_classes, layouts)` with a `Layout(digests, function)`" in steps
    random = np.random.default_rng(0)
    arrays, digests = {}, {}
    (project / "originals").mkdir()
    for split, count in (("train", 60), ("test", 20)):
        images, labels = random.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 10
        arrays[split] = images, labels
        path = project / "originals" / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": np.where(labels, labels, 10)[:, None]})
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    path = project / "hessflat/data/published.py"
    path.write_text(path.read_text().replace("PUBLISHED: ", f"{PUBLISHED}PUBLISHED: "))
    entry = f'    "svhn_cropped": Published(73_257, (32, 32, 3), 10, (Layout({digests}, svhn),)),\n'
    add_line(path, "PUBLISHED: Mapping[str, Published] = {\n", entry)
    add_line(path, "import hashlib\n", "import io\n")
    add_line(path, "import numpy as np\n", "import scipy.io\n")

    monkeypatch.setenv("HESSFLAT_DATA", str(project / "cache"))
    said = python(project, "-m", "hessflat", "data", "prepare", "svhn_cropped", "--from", "originals")
    assert said.startswith("svhn_cropped: 60 train and 20 test images of 32x32x3 in ")
    (prepared,) = (project / "cache").glob("svhn_cropped-*.npz")
    with np.load(prepared) as stored:
        for split, (images, labels) in arrays.items():
            np.testing.assert_array_equal(stored[f"{split}_inputs"], images)
            np.testing.assert_array_equal(stored[f"{split}_labels"], labels)
    folder = train(project, "--config.data.name=svhn_cropped", "--config.train.batch_size=16", *UNMEASURED)
    assert json.loads((folder / "manifest.json").read_text())["data"].startswith("svhn_cropped")
    assert 0 <= last_metrics(folder)["test_accuracy"] <= 1
    (project / "originals" / "test_32x32.mat").write_bytes(b"")
    prepared.unlink()
    with pytest.raises(AssertionError, match="is not the original file"):
        python(project, "-m", "hessflat", "data", "prepare", "svhn_cropped", "--from", "originals")


@pytest.mark.slow
def test_an_experiment_is_a_file_besides_its_configuration(project):
    configuring = " ".join(recipe("A **configuration**: 1 new file").split())
    assert "A new file `NAME.py` in a folder of `configs/` with `get_config(scale)`" in configuring
    assert "`make sweep CONFIG=NAME:small`, and what each scale is: `smoke:`, `small:`, `paper:`" in configuring
    steps = " ".join(recipe("An **experiment**: 1 new file, besides its configuration").split())
    assert "A new file in a folder of `experiments/` that defines" in steps
    told = re.findall(r"(\w+)\(((?:\w+=…,? ?)+)\)", steps)
    assert {name: re.findall(r"(\w+)=…", arguments) for name, arguments in told} == {
        name: arguments_of(EXPERIMENT, name) for name in ("Experiment", "Claim")
    }
    (project / "configs/beyond/rates.py").write_text(CONFIGURATION)
    (project / "experiments/beyond/rates.py").write_text(EXPERIMENT)
    printed = python(project, "-m", "hessflat", "experiment", "--exp=rates", "--scale=smoke")
    assert "rates, smoke scale. Rates." in printed
    (judged,) = read_claims(project / "report" / "claims.json")
    assert (judged["experiment"], judged["claim"]) == ("rates", "flatter")
    assert judged["verdict"] in ("holds", "fails", "undecided")
    assert (project / "report" / "figures" / "rates-smoke-rates.png").exists()
    folders = list((project / "runs" / "rates").iterdir())
    assert len(folders) == 4
    assert all(last_metrics(folder)["hessian.lambda_max"] > 0 for folder in folders)
    # What the tests ask of an experiment and of a configuration.
    assert "Its row in `docs/experiments.md`, which the tests ask for" in steps
    shutil.copytree(ROOT / ".github", project / ".github")
    (project / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "experiments.md", project / "docs")
    shutil.copytree(ROOT / "tests", project / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "CHANGELOG.md", "pyproject.toml"):
        shutil.copy(ROOT / name, project)
    asked = ["-m", "pytest", "-n0", "tests/test_docs.py", "-k", "every_experiment_has_a_row or (config_says and rates)"]
    add_line(project / "docs/experiments.md", "| experiment | question |\n| --- | --- |\n", "| `rates` | does it? |\n")
    assert "2 passed" in python(project, *asked, "-v")


def arguments_of(source, name):
    """The keywords of the one call of `name` in a source."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (call,) = (call for call in calls if ast.unparse(call.func) == name)
    return [keyword.arg for keyword in call.keywords]


@pytest.mark.long
def test_a_model_is_one_file_and_one_line(project):
    steps = recipe("A **model**: 1 new file, 1 edited")
    assert "`models/NAME.py`" in steps
    assert "`_MODULES` of `models/__init__.py`" in steps
    (project / "hessflat/models/quadratic.py").write_text(MODEL)
    add_line(project / "hessflat/models/__init__.py", "_MODULES = (\n", '    "quadratic",\n')
    folder = train(project, "--config.model.name=quadratic", "--config.model.quadratic.width=2", *UNMEASURED)
    # 64 pixels to 2, 2 to 10 classes, biases.
    assert json.loads((folder / "manifest.json").read_text())["num_params"] == 64 * 2 + 2 + 2 * 10 + 10
    assert json.loads((folder / "config.json").read_text())["model"]["quadratic"] == {"width": 2}
    assert 0 <= last_metrics(folder)["train_accuracy"] <= 1


@pytest.mark.long
def test_an_optimiser_is_a_function_and_a_line(project):
    steps = recipe("An **optimiser**: 1 edited")
    assert "A function `(learning_rate, l2, mask, *, settings) -> optax.GradientTransformation`" in steps
    assert "`OPTIMISERS`, below it" in steps
    path = project / "hessflat/training/optimisation.py"
    function = '''def sign(
    learning_rate: optax.Schedule,
    l2: jax.Array,
    mask: Mask,
    *,
    scale: Annotated[float, positive, "of a step"] = 1.0,
) -> optax.GradientTransformation:
    """Steps of one size."""
    return optax.chain(
        optax.add_decayed_weights(l2, mask), optax.scale_by_sign(), optax.scale(scale),
        optax.scale_by_learning_rate(learning_rate),
    )


'''
    path.write_text(path.read_text().replace("OPTIMISERS: ", f"{function}OPTIMISERS: "))
    add_line(path, "OPTIMISERS: Mapping[str, Callable[..., optax.GradientTransformation]] = {", '"sign": sign, ')
    own = ("--config.optim.name=sign", "--config.optim.sign.scale=0.5", "--config.optim.lr=2.0")
    folder = train(project, *own, "--config.schedule.name=constant", "--config.train.batch_size=0", *UNMEASURED)
    metrics = last_metrics(folder)
    num_params = json.loads((folder / "manifest.json").read_text())["num_params"]
    # One step of 1 from weights of at most 1 / √4: ‖w‖² is about P.
    assert metrics["step"] == 1
    assert num_params / 4 < metrics["weight_norm"] ** 2 < num_params * 9 / 4


@pytest.mark.long
def test_a_schedule_is_a_function_and_a_line(project):
    steps = recipe("A learning-rate **schedule**: 1 edited")
    assert "A function `(num_epochs, average_from, *, settings) -> Schedule`" in steps
    assert "`SCHEDULES`, below it" in steps
    path = project / "hessflat/training/optimisation.py"
    function = '''def still(
    num_epochs: int, average_from: int, *, share: Annotated[float, between(0, 1), "of the initial rate"] = 0.0
) -> Schedule:
    """A share of the initial rate throughout."""
    return lambda epoch: share * jnp.ones_like(epoch, dtype=float)


'''
    path.write_text(path.read_text().replace("SCHEDULES: ", f"{function}SCHEDULES: "))
    add_line(path, "SCHEDULES: Mapping[str, Callable[..., Schedule]] = {\n", '    "still": still,\n')
    own = ("--config.schedule.name=still", "--config.schedule.still.share=0.0")
    start, end = first_and_last_norms(train(project, *own, *UNMEASURED))
    assert start == end


@pytest.mark.long
def test_a_loss_is_a_function_and_an_entry(project):
    steps = " ".join(recipe("A **loss**: 1 edited").split())
    assert "in `training/optimisation.py`" in steps
    assert "Its entry in `LOSSES`, below it" in steps
    path = project / "hessflat/training/optimisation.py"
    function = '''def flat(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """The same for all outputs."""
    return 0.75 + 0 * jnp.sum(outputs * targets, axis=-1)


'''
    path.write_text(path.read_text().replace("LOSSES: ", f"{function}LOSSES: "))
    assert "whether outputs are `logits`" in steps
    assert "`least`, a function of targets" in steps
    assert "`guess`, a function of all targets" in steps
    add_line(path, "LOSSES: Mapping[str, Loss] = {\n", '    "flat": Loss(flat, classes=True, real_targets=False),\n')
    with pytest.raises(AssertionError, match="missing 3 required positional arguments: 'logits', 'least', and 'guess'"):
        train(project, "--config.train.loss=flat")
    least = "lambda targets: 0.5 + 0 * targets[:, 0]"
    claimed = f"real_targets=False, logits=True, least={least}, guess=None)"
    path.write_text(
        path.read_text().replace("flat, classes=True, real_targets=False)", f"flat, classes=True, {claimed}")
    )
    measured = ("--config.measure.outputs=end", "--config.measure.spectra=never")
    folder = train(project, "--config.train.loss=flat", "--config.optim.l2=0", *measured)
    metrics = last_metrics(folder)
    assert metrics["train_loss"] == pytest.approx(0.75)
    assert metrics["outputs.excess_loss"] == pytest.approx(0.25)
    assert 0 < metrics["softmax_jacobian.max"] < metrics["jacobian.max"]
    start, end = first_and_last_norms(folder)
    assert start == end
    real_targets = ("--config.data.name=sine", "--config.data.validation_size=0", "--config.data.scaling=raw")
    message = r"config\.train\.loss must be 'squared_error' or 'exponential' for data set 'sine'"
    with pytest.raises(AssertionError, match=message):
        train(project, "--config.train.loss=flat", "--config.train.batch_size=0", *real_targets, *UNMEASURED)


@pytest.mark.long
def test_a_metric_writer_is_a_function_and_an_entry(project):
    steps = " ".join(recipe("A **metric writer**: 1 edited").split())
    assert "A function `(folder, settings, start) -> Writer` in `runs/writers.py`" in steps
    assert "`Registered(function, module)` in `WRITERS`, below it" in steps
    path = project / "hessflat/runs/writers.py"
    function = '''def table(folder: Path, settings: Mapping[str, Any], start: int | None) -> Writer:
    """A line for each number in `folder/table.csv`."""
    file = (folder / "table.csv").open("w" if start is None else "a")
    rows = csv.writer(file)
    return Writer(lambda step, numbers: rows.writerows((step, *pair) for pair in numbers.items()), file.close)


'''
    path.write_text(path.read_text().replace("WRITERS: ", f"{function}WRITERS: "))
    add_line(path, "WRITERS: Mapping[str, Registered] = {\n", '    "table": Registered(table, "csv"),\n')
    add_line(path, "import contextlib\n", "import csv\n")
    folder = train(project, "--config.writers=table", *UNMEASURED)
    with (folder / "table.csv").open() as file:
        table = {(int(step), name): float(value) for step, name, value in csv.reader(file)}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert table == {(line["step"], name): line[name] for line in lines for name in line.keys() - {"step"}}
    assert len(lines) == 2
    assert "one of table, tensorboard, wandb, several" in python(project, "-m", "hessflat", "settings")


def first_and_last_norms(folder):
    """The norm of the weights before the first step and after the last."""
    assert json.loads((folder / "manifest.json").read_text())["status"] == "done"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return lines[0]["weight_norm"], lines[-1]["weight_norm"]
