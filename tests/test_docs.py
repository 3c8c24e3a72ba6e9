"""What the documentation says: its code runs and prints what it shows, its commands, settings and files exist.

`.venv/bin/python tests/test_docs.py` rewrites docs/settings.md from the schema.
"""

import ast
import contextlib
import dataclasses
import io
import itertools
import json
import math
import re
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import pytest
import yaml
from original_files import known, mnist_files, write

from hessflat import config
from hessflat.cli import app, experiment
from hessflat.config import SCALES, at_least
from hessflat.data.prepare import prepare
from hessflat.report.claims import read_claims
from hessflat.runs import run_folder, schema

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / ".github" / "CONTRIBUTING.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", CONTRIBUTING, *sorted((ROOT / "docs").glob("*.md"))]
EXECUTED = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "blocks",
            "checkpoints",
            "curvature",
            "data",
            "edges",
            "frameworks",
            "getting_started",
            "language_models",
            "linear_algebra",
            "numerics",
            "pictures",
            "pitfalls",
            "plans",
            "rank_bound",
            "tokens",
            "tracking",
            "training",
        )
    ),
]
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.py") if not path.stem.startswith("_"))

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+\.?\d*(?:e[-+]?\d+)?(?![\w.]*\w)")
# Files that commands write, not files of the repository.
WRITTEN = (
    *("runs/", "report/", "spectra/", "measurements/", "checkpoints/", "damaged/", "tensorboard/", "wandb/"),
    # Only while a sweep of stored runs is not finished.
    *("docs/results/unfinished/", "~", "$", "/"),
)
# What stands for a name in the recipes.
PLACEHOLDER = "NAME"
WRITTEN_NAMES = {"config.json", "manifest.json", "metrics.jsonl", "claims.json", "power.csv", "index.html", "report.md"}


def blocks(page, language):
    """(first line number, title, text) of every fenced block of a language; the title stands after the language."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}(?: (?P<title>\S+))?\n(?P<body>.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start("body")].count("\n"), match["title"], match["body"]) for match in found]


def comment_after(lines, end):
    """The comment lines right below a statement that ends on line `end`: what it is said to print."""
    shown = []
    for line in lines[end:]:
        if not line.startswith("#"):
            break
        shown.append(line.removeprefix("#").removeprefix(" "))
    return "\n".join(shown)


def same_output(printed, shown):
    """Words alike; numbers within 2 %, and anything below a thousandth, which is rounding, alike too."""
    printed, shown = (" ".join(text.split()) for text in (printed, shown))
    ours, theirs = ([float(number) for number in NUMBER.findall(text)] for text in (printed, shown))
    if NUMBER.sub("#", printed) != NUMBER.sub("#", shown) or len(ours) != len(theirs):
        return False
    return all(math.isclose(a, b, rel_tol=0.02, abs_tol=1e-3) for a, b in zip(ours, theirs, strict=True))


# The other pages compile hundreds of programs.
QUICK = ("README.md", "numerics.md")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=() if page.name in QUICK else pytest.mark.long, id=page.name) for page in EXECUTED],
)
def test_the_code_runs_and_prints_what_it_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    # Readers have NumPy's broadcasting; that our own code does without it is tested elsewhere.
    with jax.numpy_rank_promotion("allow"):
        for first, _, body in blocks(page, "python"):
            lines, out = body.splitlines(), io.StringIO()
            for statement in ast.parse(body).body:
                where = f"{page.name}, line {first + statement.lineno}"
                with contextlib.redirect_stdout(out):
                    exec(compile(ast.Module([statement], []), where, "exec"), names)
                shown = comment_after(lines, statement.end_lineno)
                if shown and out.getvalue():
                    assert same_output(out.getvalue(), shown), f"{where} prints:\n{out.getvalue()}"
                    out = io.StringIO()
            assert not out.getvalue(), f"{page.name}, line {first}: does not show that it prints\n{out.getvalue()}"


def test_outputs_are_compared_by_words_and_numbers():
    assert same_output("λ_max 2.0001 ± 3e-07", "λ_max 2.0000 ± 1e-06")
    assert not same_output("λ_max 2.1", "λ_max 2.0")
    assert not same_output("λ_min 2.0", "λ_max 2.0")


def test_the_pages_with_code_are_executed_or_built():
    assert {page for page in PAGES if blocks(page, "python")} == {*EXECUTED, ROOT / "docs" / "adding.md"}


@pytest.fixture
def walk_through(tmp_path, monkeypatch):
    """A folder with the files that docs/adding.md writes, beside those that there are."""
    for folder in ("configs", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    written = {title: body for _, title, body in blocks(ROOT / "docs" / "adding.md", "python")}
    assert set(written) == {
        "configs/beyond/blobs.py",
        "experiments/beyond/blobs.py",
        "experiments/granziol2020/g_fashion.py",
    }
    for path, body in written.items():
        assert not (tmp_path / path).exists(), "the walk-through would overwrite a file"
        (tmp_path / path).write_text(body)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_walk_through_gives_verdicts(walk_through, capsys):
    experiment.main(["--exp=blobs", "--scale=smoke"])
    printed = capsys.readouterr().out
    assert "blobs, smoke scale" in printed
    assert "not run" not in printed
    assert {path.name for path in (walk_through / "report").iterdir()} == {
        "claims.json",
        "figures",
        "index.html",
        "power.csv",
        "report.md",
    }
    assert (walk_through / "report" / "figures" / "blobs-smoke-flatness-and-gap.png").exists()
    folders = list((walk_through / "runs" / "blobs").iterdir())
    metrics = [run_folder.read_lines(folder / "metrics.jsonl")[-1] for folder in folders]
    assert len(metrics) == 4
    assert all(math.isfinite(line["hessian.lambda_max"]) for line in metrics)


@pytest.mark.long
@pytest.mark.exact
def test_the_walk_through_gives_the_table_and_the_verdicts_of_the_page(walk_through):
    experiment.main(["--exp=blobs", "--scale=small"])

    def means(page):
        rows = re.findall(r"^\| (?:0|1e-3|0\.01) \|.* ± .*$", page.read_text(), re.MULTILINE)
        return [list(map(float, re.findall(r"([\d.]+) ±", row))) for row in rows]

    stated, found = means(ROOT / "docs" / "adding.md"), means(walk_through / "report" / "report.md")
    assert [len(row) for row in stated] == [6, 6, 6]
    # Rounding differs by processor, and training amplifies it.
    assert np.array(found) == pytest.approx(np.array(stated), rel=0.02)
    judged = read_claims(walk_through / "report" / "claims.json")
    assert {record["claim"]: record["verdict"] for record in judged} == {
        "gap": "holds",
        "flatter": "undecided",
        "lanczos-is-exact": "holds",
    }


@pytest.mark.long
def test_one_file_asks_a_papers_question_of_another_tfds_data_set(walk_through, monkeypatch, capsys):
    monkeypatch.setenv("HESSFLAT_DATA", str(walk_through / "cache"))
    files, _ = mnist_files(counts=(60, 20))
    write(walk_through / "files", files)
    prepare("fashion_mnist", walk_through / "files", published=known("fashion_mnist", 0, files))
    experiment.main(["--exp=g_fashion", "--scale=smoke"])
    printed = capsys.readouterr().out
    asked = {claim.id for claim in experiment.load("g_fashion").claims}
    judged = read_claims(walk_through / "report" / "claims.json")
    assert {record["claim"] for record in judged} == asked
    assert all(record["verdict"] != "not run" for record in judged)
    assert "g_fashion, smoke scale" in printed
    for path in (walk_through / "runs" / "g_fashion").glob("*/config.json"):
        assert json.loads(path.read_text())["data"]["name"] == "fashion_mnist"


def test_settings_are_those_of_the_schema():
    wanted = settings_page()
    assert (ROOT / "docs" / "settings.md").read_text() == wanted, "python tests/test_docs.py rewrites the page"


@pytest.mark.parametrize("page", ["README.md", "docs/findings.md"])
def test_the_correlations_of_a_page_are_those_of_the_stored_report(page):
    shown = re.findall(r"[+-]\d\.\d\d\*? \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", (ROOT / page).read_text())
    assert len(shown) >= 7
    report = (ROOT / "docs" / "results" / "report" / "report.md").read_text()
    assert [cell for cell in shown if f"| {cell}" not in report] == []


def assert_says(page, *sentences):
    text = " ".join((ROOT / "docs" / page).read_text().split())
    assert [sentence for sentence in sentences if sentence not in text] == []


def test_the_numbers_of_findings_are_those_of_the_stored_report():
    stored = ROOT / "docs" / "results" / "report"
    claims = {
        (record["experiment"], record["scale"], record["claim"]): f"{record['value']}; {record['spread']}"
        for record in read_claims(stored / "claims.json")
    }
    tables = [line.split(" | ") for line in (stored / "report.md").read_text().splitlines() if line.startswith("| ")]

    def numbers(experiment, scale, claim, pattern):
        return re.search(pattern, claims[experiment, scale, claim]).groups()

    def column(head, name):
        start = next(i for i, row in enumerate(tables) if head in row)
        rows = itertools.takewhile(lambda row: len(row) == len(tables[start]), tables[start + 2 :])
        return [float(row[tables[start].index(name)]) for row in rows]

    by_scale = r"ReLU: ([\d.]+) → ([\d.]+) → ([\d.]+) at input scale"
    grown, _, less = numbers("m_input_scale", "paper", "smaller-inputs-steeper", by_scale)
    halved, as_is, larger = numbers("m_input_scale", "paper", "larger-inputs-sharper", by_scale)
    (ratio,) = numbers("m_weight_decay", "medium", "sharper-and-better", r"\(ratio ([\d.]+)\)")
    every, few, every_interval, few_interval = numbers(
        "h_measurement", "small", "statistics-batch", r"over without: ([\d.]+) .*?, ([\d.]+) .*(\[.*?\]), (\[.*?\]), \["
    )
    informative, over_seen = (column("eq. 10 over seen", name) for name in ("from N", "eq. 10 over seen"))
    header = next(row for row in tables if "ratio, here" in row)
    rows = [row for row in tables if len(row) == len(header) and row[1] == "relu"]
    matched = sum("*" not in row[header.index("ratio, here")] for row in rows)
    assert_says(
        "findings.md",
        f"multiplies the Jacobian norm by {grown} with inputs halved, and by {less} with inputs times 1.5.",
        f"{halved} with inputs halved, {as_is} with inputs as they are, and {larger} with inputs times 1.5.",
        f"multiplies λ_max of a narrow ResNet by {ratio}.",
        f"L2 makes λ_max {every} {every_interval} times as large when 512 examples share",
        f"whether L2 raises λ_max, {few} {few_interval}",
        f"only from {min(informative):,.0f} to {max(informative):,.0f} examples on",
        f"{min(over_seen):,.0f} to {max(over_seen):,.0f} times the deviations",
        f"in {matched} of the {len(rows)} rows with ReLU",
    )


def test_the_verdicts_of_findings_are_those_of_the_stored_report():
    stored = ROOT / "docs" / "results" / "report"
    records = {(r["experiment"], r["scale"], r["claim"]): r for r in read_claims(stored / "claims.json")}

    def effect(experiment, scale, claim, form="{:.2f}"):
        record = records[experiment, scale, claim]
        ends = [record["effect"][end] for end in ("estimate", "low", "high")]
        factor = 100 if record["effect"]["scale"] == "difference" else 1
        return "{} [{}, {}]".format(*(form.format(factor * end) for end in ends))

    def change(experiment, scale, claim):
        record = records[experiment, scale, claim]
        (here,) = re.findall(r"\(× ([\d.]+)\)", record["value"])
        return f"× {here} [{', '.join(re.findall(r'× ([0-9.]+)', record['spread']))}]"

    counts = {
        claim: re.match(r"(\d+) of (\d+) (?:as in the paper, every seed in (\d+) of (\d+) rows)?", record["value"])
        for (experiment, _, claim), record in records.items()
        if experiment == "s_outliers"
    }
    gap, elbow, mean = (
        counts[name] for name in ("as-many-as-blobs-by-gap", "as-many-as-blobs-by-elbow", "mean-eigenvalue")
    )
    without, _, strongest = re.findall(
        r"× ([\d.]+)", records["m_smoothing_90", "medium", "first-epoch-sharpness"]["value"]
    )
    softmax = records["m_smoothing_90", "medium", "jacobian-collapses"]
    (ends,) = re.findall(r"^without smoothing: .*? ([\d.]+);", softmax["value"])
    low, high = map(float, re.findall(r"\[([\d.]+), ([\d.]+)\]", softmax["spread"])[0])
    said = {
        f"from 10 to 70 hidden units it changes by {change('s_width', 'paper', 'right-edge-stays')}.": (
            "s_width/paper/right-edge-stays fails"
        ),
        f"Over the training loss it stays, {change('s_width', 'paper', 'right-edge-at-equal-loss')}.": (
            "s_width/paper/right-edge-at-equal-loss holds"
        ),
        f"There {gap[1]} of {gap[2]} networks agree with it, and all five seeds do in {gap[3]} of the {gap[4]} rows, "
        "so this stays open.": "s_outliers/paper/as-many-as-blobs-by-gap undecided",
        f"{elbow[1]} of {elbow[2]} networks agree with the {elbow[4]} rows": (
            "s_outliers/paper/as-many-as-blobs-by-elbow fails"
        ),
        f"in {mean[1]} of {mean[2]} networks. Both claims fail.": "s_outliers/paper/mean-eigenvalue fails",
        f"The test loss rises too, × {effect('g_wrn', 'small', 'test-loss')}": "g_wrn/small/test-loss fails",
        f"λ_max of Gadam's solution is {effect('g_gadam', 'small', 'spectral-norm', '{:.3g}')} times": (
            "g_gadam/small/spectral-norm holds"
        ),
        f"Its test accuracy is {effect('g_gadam', 'small', 'accuracy')} points higher, which stays undecided": (
            "g_gadam/small/accuracy undecided"
        ),
        f"whether Gadam's solution is the sharper one, × {effect('g_tuning', 'small', 'tuned-gadam-sharper')}.": (
            "g_tuning/small/tuned-gadam-sharper undecided"
        ),
        f"improves the test accuracy by {effect('g_tuning', 'small', 'sgd-better')} points": (
            "g_tuning/small/sgd-better holds"
        ),
        f"lowers λ_max, × {effect('g_tuning', 'small', 'sgd-sharper-and-better', '{:.3f}')}. So": (
            "g_tuning/small/sgd-sharper-and-better fails"
        ),
        f"Without it λ_max grows × {without}, and × {strongest} at the strongest.": (
            "m_smoothing_90/medium/first-epoch-sharpness holds"
        ),
        f"It ends at {float(ends):.3f} [{low:.3f}, {high:.3f}] of its largest value, where on digits it falls": (
            "m_smoothing_90/medium/jacobian-collapses fails"
        ),
        "the Jacobian norm of the softmax does not collapse within 90 epochs": (
            "m_smoothing_90/medium/jacobian-collapses fails"
        ),
        "it falls to 0.018 [0.014, 0.023] (`m_smoothing_90`)": "m_smoothing_90/small/jacobian-collapses holds",
        f"Gadam's solution is {effect('g_gadam', 'medium', 'accuracy')} points above that of SGD's": (
            "g_gadam/medium/accuracy holds"
        ),
        f"Its λ_max is {effect('g_gadam', 'medium', 'spectral-norm', '{:.3g}')} times as large, so the better": (
            "g_gadam/medium/sharper-and-better holds"
        ),
        f"Its Jacobian norm is smaller, × {effect('g_gadam', 'medium', 'jacobian-norm', '{:.3f}')} (`g_gadam`": (
            "g_gadam/medium/jacobian-norm holds"
        ),
        "The orders of both over five values of L2 hold": "m_weight_decay/medium/sharpness holds",
        "over five values of L2 hold, with three seeds": "m_weight_decay/medium/gap holds",
        "the better solution is the sharper one is undecided": "m_weight_decay/medium/sharper-and-better undecided",
        "holds at the end and fails at the start": "s_spectrum/paper/bulk-at-zero-at-start fails",
        "claim that it is orders of magnitude smaller fails": "s_spectrum/paper/negatives-are-small fails",
    }
    assert_says("findings.md", *said)
    told = {f"{'/'.join(key)} {record['verdict']}" for key, record in records.items()}
    assert set(said.values()) - told == set()


def test_the_jacobian_norm_of_the_runs_without_batch_norm_is_that_of_their_archive():
    """Kendall's τ over pairs of runs of one network and of two settings, by counting."""
    runs = {}
    with tarfile.open(ROOT / "docs" / "results" / "m_regularisers-small.tar.xz") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if name in ("config.json", "metrics.jsonl"):
                runs.setdefault(folder, {})[name] = archive.extractfile(member).read().decode().splitlines()
    rows = []
    for files in runs.values():
        last, settings = json.loads(files["metrics.jsonl"][-1]), json.loads("".join(files["config.json"]))
        if "norms.path" in last and last["train_accuracy"] >= 0.99:
            del settings["seed"], settings["data"]["split_seed"]
            rows.append((settings["model"]["name"], json.dumps(settings), last["jacobian.max"], last["gap_loss"]))
    signs = [
        (np.sign(a[2] - b[2]), np.sign(a[3] - b[3]))
        for a, b in itertools.combinations(rows, 2)
        if a[0] == b[0] and a[1] != b[1]
    ]
    jacobian, gap = np.array(signs).T
    tau = jacobian @ gap / np.sqrt((jacobian @ jacobian) * (gap @ gap))
    assert_says("findings.md", f"in {len(rows)} runs.", f"the Jacobian norm has a τ of {tau:.2f}.")


def test_the_mass_at_zero_by_the_number_of_steps_is_that_of_the_stored_report():
    text = (ROOT / "docs" / "results" / "report" / "report.md").read_text()
    start = text.index("| steps | nearest Ritz value | two nearest |")
    rows = {
        row[0]: row for row in (line.strip("| ").split(" | ") for line in text[start:].split("\n\n")[0].splitlines())
    }
    few, many = ([f"{float(cell):.3f}" for cell in rows[steps][2:5]] for steps in ("10", "100"))
    assert_says(
        "numerics.md",
        f"have a mass of {few[0]} after 10 steps and of {many[0]} after 100.",
        f"have {few[1]} and {many[1]}, and the exact share is {few[2]}",
    )


def test_the_verdicts_on_language_models_are_those_of_the_stored_report():
    records = read_claims(ROOT / "docs" / "results" / "report" / "claims.json")
    blocks = {record["claim"]: record for record in records if record["experiment"] == "h_blocks"}
    of = {claim: record["verdict"] for claim, record in blocks.items()}
    layers, kinds = map(float, re.findall(r"[\d.]+", blocks["heterogeneous"]["value"])[:2])
    less = 100 * (1 - blocks["adam"]["effect"]["estimate"])
    assert_says(
        "language_models.md",
        f"FFN < VO *{of['ffn-vo']}*, Emb ≪ QK *{of['emb-qk']}*, and QK < FFN and VO ≪ Norm are *{of['qk-ffn']}*",
        f"Here that is *{of['heterogeneous']}*: the mean Jensen-Shannon distance is {kinds:.3f} between kinds of",
        f"and {layers:.3f} between the layers",
        f"lower than SGD's is *{of['adam']}*: it is {less:.1f} % lower",
    )
    assert of["vo-norm"] == of["qk-ffn"]


def test_every_picture_that_is_kept_is_on_a_page():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)\s]+\.png)\)", page.read_text())
    }
    # The page of the report has its overview inside.
    kept = {path for path in (ROOT / "docs").rglob("*.png") if not path.name.startswith("overview")}
    assert len(kept) > 50
    assert kept - shown == set()


def test_the_commands_of_the_stored_report_are_for_every_machine():
    text = (ROOT / "docs" / "results" / "report" / "report.md").read_text()
    commands = re.findall(r"^python -m hessflat .*$", text, re.MULTILINE)
    assert len(commands) > 20
    assert [command for command in commands if re.search(r"[ =]/", command)] == []


def test_the_counts_of_verdicts_are_those_of_the_stored_report():
    records = read_claims(ROOT / "docs" / "results" / "report" / "claims.json")
    verdicts = Counter(record["verdict"] for record in records)
    sizes = Counter(record["size"] for record in records)
    alone = sum(record["verdict_alone"] in ("holds", "fails") for record in records)
    experiments = {(record["experiment"], record["scale"]) for record in records if record["p_holm"] is not None}
    pilots, judged = (sum(map(bool, (record[key] for record in records))) for key in ("pilot", "seeds"))
    tested = sum(record["p_holm"] is not None for record in records)
    powers = [record["power"] for record in records if record["power"]]
    powerful = {key: sum(power[key] >= 0.8 for power in powers) for key in ("together", "alone")}
    text = " ".join((ROOT / "docs" / "verdicts.md").read_text().split())
    for said in (
        f"{verdicts['holds']} of {len(records)} claims hold, {verdicts['fails']} fail, {verdicts['undecided']} are "
        f"undecided, {verdicts['cannot decide']} cannot be decided, {verdicts['not applicable']} are not applicable "
        f"and {verdicts['not run']} are not run.",
        f"At most {0.05 * len(experiments):.2g} of {len(experiments)} experiments are expected to have any false "
        f"decision; with each claim by itself {alone} would be decided, and {0.05 * tested:.2g} false decisions "
        "would be expected.",
        ("all" * (pilots == judged) or f"{pilots} of {judged}") + " stored verdicts are pilots",
        f"{sizes['agrees']} of {sum(sizes.values()) - sizes['']} effects agree, {sizes['differs']} differ and "
        f"{sizes['open']} are open.",
        f"It is 0.8 or more for {powerful['together']} of the {len(records)} claims, and for {powerful['alone']} when",
    ):
        assert said in text, said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_and_variables_exist(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+)\s*[?:]=", makefile, re.MULTILINE))
    commands = re.findall(r"(?:^|`|&& )(make [a-z][^`\n#]*)", page.read_text(), re.MULTILINE)
    for command in commands:
        target, *_ = command.removeprefix("make ").split()
        assert target in targets, command
        assert set(re.findall(r"\b([A-Z]+)=", command)) <= variables, command
    must = {"README.md": {"demo", "test"}, "runs.md": {"data", "train", "sweep", "measure", "experiment", "report"}}
    assert must.get(page.name, set()) <= {command.split()[1] for command in commands}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page):
    settings, text = config.schema(schema.RunConfig), page.read_text()
    known = config.flatten(settings)
    for name in re.findall(r"--config\.([a-z][\w.]*)=", text):
        assert name in known or name.endswith(PLACEHOLDER), name
    for name in re.findall(r"`([a-z]+\.[a-z_.\d]+)(?:=\w+)?`", text):
        if isinstance(settings.get(name.partition(".")[0]), Mapping) and not name.endswith(".py"):
            assert any(f"{setting}.".startswith(f"{name}.") for setting in known), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
        if not re.match(r"\w+:", link):
            assert (page.parent / link).exists(), link
    new = {title for _, title, _ in blocks(page, "python")}
    for path in re.findall(r"`([\w./-]+(?:\.(?:py|md|toml|txt|cff)|/))(?::\w+)?`", prose):
        if path not in new and PLACEHOLDER not in path and not path.startswith(WRITTEN) and path not in WRITTEN_NAMES:
            assert any((base / path).exists() for base in (ROOT, ROOT / "hessflat", page.parent)), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_run_exist(page):
    for module in re.findall(r"python -m (hessflat[\w.]*)", page.read_text()):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_says_its_command(path):
    module = app.load_module(path, "get_config", "get_sweep")
    doc = module.__doc__
    commands = re.findall(rf"^ +make \w+ CONFIG={path.stem}:(\w+)", doc, re.MULTILINE)
    assert commands, f"{path.name} must show its command"
    assert set(commands) <= set(SCALES)
    for scale in SCALES:
        said = re.search(rf"\b{scale}:\s", doc) is not None
        assert said == (scale in app.scales_of(module)), f"{path.name} must say what scale {scale} is, where it has it"


def test_the_first_page_is_short_and_its_table_counts_the_stored_verdicts():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 8_000
    records = read_claims(ROOT / "docs" / "results" / "report" / "claims.json")
    assert ("gives a *pilot*" in text) == any(record["pilot"] for record in records)
    for initial in "gsm":
        own = [record for record in records if record["experiment"].startswith(initial)]
        counts = Counter((record["scale"], record["verdict"]) for record in own)
        (row,) = re.findall(rf"^\| .* \({initial.upper()}\) \| (.*) \|$", text, re.MULTILINE)
        scales = [scale for scale in SCALES if any(record["scale"] == scale for record in own)]
        words = (("holds", "hold"), ("fails", "fail"), ("undecided", "undecided"))
        said = [
            f"{scale}: "
            + ", ".join(
                f"{counts[scale, verdict]} {verdict if counts[scale, verdict] == 1 else plural}"
                for verdict, plural in words
            )
            for scale in scales
        ]
        assert row == f"{len({record['experiment'] for record in own})}, `{initial}_*` | {'; '.join(said)}"


def test_every_page_is_linked_from_the_first():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []
    assert [page.name for page in (ROOT / "docs" / "notebooks").glob("*.ipynb") if page.name not in text] == []


def test_every_experiment_has_a_row():
    text = (ROOT / "docs" / "experiments.md").read_text()
    for name in experiment.names():
        assert f"| `{name}` |" in text, name


def test_workflows_run_make_targets_and_files_of_the_project():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    run = [
        step["run"].split()
        for path in workflows
        for job in yaml.safe_load(path.read_text())["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {command for first, command, *_ in run if first == "make"} <= targets
    assert {"lint", "test", "test-long", "dist", "docs"} <= {command for first, command, *_ in run if first == "make"}
    for path in (".ci/install-slurm", "Makefile"):
        assert (ROOT / path).exists()
    assert {first for first, *_ in run} == {"make", "sudo", ".venv/bin/python"}
    for path in (*(ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"), ROOT / ".pre-commit-config.yaml"):
        assert yaml.safe_load(path.read_text())


def test_the_citation_can_be_read():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license", "references"} <= set(cited)
    assert cited["version"] == re.search(r'version = "(.+)"', (ROOT / "pyproject.toml").read_text())[1]
    numbers = []
    for reference in cited["references"]:
        assert {"type", "title", "authors", "year", "identifiers"} <= set(reference)
        assert all({"family-names", "given-names"} <= set(author) for author in reference["authors"])
        numbers += [identifier["value"] for identifier in reference["identifiers"]]
    assert numbers == ["arXiv:2006.09091", "arXiv:1706.04454", "arXiv:2305.14683"]


def test_a_changed_setting_is_noticed(monkeypatch):
    field = ("seed", Annotated[int, at_least(0), "of everything"], 7)
    other = dataclasses.make_dataclass("Other", [field], bases=(schema.RunConfig,), frozen=True)
    monkeypatch.setattr(schema, "RunConfig", other)
    with pytest.raises(AssertionError, match="rewrites the page"):
        test_settings_are_those_of_the_schema()


def settings_page():
    """docs/settings.md: a table for each block of the schema."""
    tables: dict[str, list[str]] = {}
    for name, setting in config.flatten(config.schema(schema.RunConfig)).items():
        block = name.partition(".")[0] if "." in name else "run"
        cells = (f"`{name}`", f"`{setting.default!r}`", setting.rule.says, setting.doc)
        tables.setdefault(block, []).append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    head = "| setting | default | must be | meaning |\n| --- | --- | --- | --- |"
    parts = [f"## {block}\n\n{head}\n" + "\n".join(rows) for block, rows in tables.items()]
    return f"{_INTRODUCTION}\n{chr(10).join(f'{part}{chr(10)}' for part in parts)}"


_INTRODUCTION = """# Settings

This page lists every setting of a run, with the default that fixes its type. Write it on a command line as
`--config.NAME=VALUE`, and tuples as `--config.model.mlp.hidden=(64,32)`. `python -m hessflat settings` prints the same
list. A block such as `optim.adam` holds the settings of one builder. A command line may set them only if `optim.name`
chooses that builder.

`.venv/bin/python tests/test_docs.py` writes this page from the schema.
"""


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(settings_page())
    sys.stdout.write("docs/settings.md\n")
