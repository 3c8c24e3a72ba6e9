import base64
import csv
import gzip
import io
import json
import re

import pytest
from fabricated_runs import write_run, write_sweep

from hessflat.analysis.claims import compare
from hessflat.analysis.experiment import Claim, Experiment, StoredExperiment
from hessflat.analysis.results import load_run
from hessflat.analysis.tables import table_by
from hessflat.report import kept
from hessflat.report.build import build_report, print_summary
from hessflat.report.claims import read_claims
from hessflat.report.figures import over_training, panels_against
from hessflat.report.sections import judge, make_section
from hessflat.utils.errors import InputError

KEYS = (
    "experiment claim paper where statement paper_value value spread seeds rule verdict verdict_alone reason fixed_at "
    "pilot p p_holm effect size size_compared power scale variant needs runs explanation"
)
ABSENCE = "15 planned runs are missing: python -m hessflat experiment toy --scale=paper"

TOY = Experiment(
    id="toy",
    paper="G",
    question="Does L2 sharpen <the> minimum?",
    config="configs/toy.py",
    draw=lambda runs: [
        over_training(runs, metrics=["train_loss"]),
        panels_against(runs, panels=[("hessian.lambda_max",)]),
    ],
    tabulate=lambda runs: [table_by(runs, columns=[("λ_max(H)", "hessian.lambda_max", ".4g")])],
    claims=(
        Claim(
            id="sharper",
            paper="G",
            where="§4, fig. 2",
            statement="λ_max grows with L2 & so on",
            paper_value="12.26 → 15.84",
            paper_effect=15.84 / 12.26,
            decide=lambda runs: compare(runs, "hessian.lambda_max", high=5e-4),
        ),
        Claim(
            id="gap",
            paper="M",
            where="§6",
            statement="the gap grows with <L2>",
            paper_value="–",
            decide=lambda runs: compare(runs, "gap_loss", high=5e-4),
        ),
        Claim(
            id="broken",
            paper="M",
            where="§7",
            statement="needs what was not measured",
            paper_value="–",
            decide=lambda runs: compare(runs, "nowhere", high=5e-4),
        ),
    ),
)


@pytest.fixture
def stored(tmp_path):
    runs = [load_run(folder) for folder in write_sweep(tmp_path, l2s=(0.0, 5e-4), seeds=range(6))]
    lost = write_run(
        tmp_path, 5e-3, 0, status="diverged", reason="loss is NaN at step 31", epochs=(0, 1), spectra=False
    )
    return [StoredExperiment(TOY, "small", [*runs, load_run(lost)]), StoredExperiment(TOY, "paper", [], 15)]


def recorded(stored, out):
    """The records of the report that is written."""
    return [record for section in build_report(stored, out) for record in section.records]


def test_claims_are_data(stored, tmp_path):
    records = recorded(stored, tmp_path / "report")
    assert read_claims(tmp_path / "report" / "claims.json") == records
    stored_once = json.loads((tmp_path / "report" / "claims.json").read_text())
    assert len(stored_once["runs"]) == len({tuple(record["runs"]) for record in records}) == 2
    assert [list(record) for record in records] == [KEYS.split()] * 6
    verdicts = {(record["scale"], record["claim"]): record["verdict"] for record in records}
    assert verdicts == {
        ("small", "sharper"): "holds",
        ("small", "gap"): "fails",
        ("small", "broken"): "undecided",
        ("paper", "sharper"): "not run",
        ("paper", "gap"): "not run",
        ("paper", "broken"): "not run",
    }
    assert "'nowhere' was not measured" in records[2]["explanation"]
    assert [record["size"] for record in records] == ["agrees", "", "", "", "", ""]
    assert records[0]["size_compared"].startswith(
        "× 1.67 here, × 1.29 in the paper: 1.29 of the paper's, 95 % interval ["
    )
    assert "Effects whose size a paper gives: 1 agree." in (tmp_path / "report" / "report.md").read_text()
    assert records[3]["explanation"] == ABSENCE
    assert len(records[0]["runs"]) == 13
    assert str(tmp_path) not in json.dumps(records)


def test_power_and_reasons_are_told(stored, tmp_path):
    out = tmp_path / "report"
    # Ten seeds are planned, of which six are stored.
    records = recorded([stored[0]._replace(seeds=10), stored[1]], out)
    power, reason = records[0]["power"], records[1]["reason"]
    assert (power["seeds"], power["origin"], power["aim"]) == (10, "paper", "× 1.29")
    assert [record["power"] for record in records[1:]] == [None] * 5  # the gaps of all seeds are equal
    rows = list(csv.DictReader((out / "power.csv").read_text().splitlines()))
    assert [row["claim"] for row in rows] == [record["claim"] for record in records]
    assert [row["effect"] for row in rows] == ["× 1.29"] + ["no pilots"] * 5
    assert records[0]["reason"] == ""
    assert reason == "× 0.5, the same in every seed, lies below × 1, as do 6 of 6 seeds"
    assert f"- why: {reason}" in (out / "report.md").read_text()
    assert f"Why: {reason}." in (out / "index.html").read_text()
    said = "1 of 6 claims have a power of 0.8 or more at the seeds that are planned"
    assert said in (out / "report.md").read_text()


def test_power_is_that_of_the_pilots_where_there_are_any(stored, tmp_path):
    """The runs that decide say nothing of it then: pilots that differ more between seeds need more of them."""
    noisy = [
        run._replace(metrics=[*run.metrics[:-1], run.metrics[-1] | {"hessian.lambda_max": 10.0 ** (run.seed % 2)}])
        for run in stored[0].runs
        if run.status == "done"
    ]
    for run in noisy:
        run.metrics[-1]["hessian.lambda_max"] *= 1 + 2_000 * run.setting("optim.l2") * run.seed
    alone, piloted = (judge(stored[0]._replace(pilots=pilots))[0] for pilots in ((), noisy))
    assert (alone["verdict"], alone["value"]) == (piloted["verdict"], piloted["value"])
    assert piloted["power"]["together"] < alone["power"]["together"]
    assert piloted["power"]["seeds"] == 6


def test_every_figure_has_its_files_and_its_numbers(stored, tmp_path):
    build_report(stored, tmp_path / "report")
    names = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    stems = ("overview", "overview-narrow", "toy-small-against-l2", "toy-small-over-training")
    assert names == sorted(f"{stem}.{ending}" for stem in stems for ending in ("csv", "png", "svg"))
    lines = (tmp_path / "report" / "figures" / "toy-small-against-l2.csv").read_text().splitlines()
    expected = [
        f"hessian.lambda_max,{run.setting('optim.l2')},{run.seed},{run.final('hessian.lambda_max')!r}"
        for run in stored[0].runs
        if run.status == "done"
    ]
    assert lines == ["metric,optim.l2,seed,value", *expected]


def test_the_page_needs_nothing_else(stored, tmp_path):
    build_report(stored, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert not re.search(r"https?://|<script src|@import|url\(", page)
    assert set(re.findall(r'(?:src|srcset|<link rel="icon" href)="([^"/]*)', page)) == {
        "data:image",
        "data:,",
        "figures",
    }
    # Packed figures are the files, byte for byte.
    figures = tmp_path / "report" / "figures"
    packed = [gzip.decompress(base64.b64decode(text)) for text in re.findall(r'data-packed="([^"]+)"', page)]
    assert packed == [(figures / f"toy-small-{name}.svg").read_bytes() for name in ("over-training", "against-l2")]
    files = re.findall(r'(?:href|src)="([^"#:]+)"', page)
    assert len(files) > 6
    assert all((tmp_path / "report" / name).is_file() for name in files)
    # Every link inside the page has its target.
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
    assert page.count('href="#toy-small-figures"') == 3


def test_the_page_escapes_and_tells_what_must_be_known(stored, tmp_path):
    build_report(stored, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Does L2 sharpen &lt;the&gt; minimum?" in page
    assert "the gap grows with &lt;L2&gt;" in page
    assert "<the>" not in page
    for fact in ("loss is NaN at step 31", "diverged", ABSENCE, "sha256:0123456789abcdef", "jax 0.10.2", "highest"):
        assert fact in page
    text = (tmp_path / "report" / "report.md").read_text()
    for fact in ("**holds**", "**fails**", "**not run**", "figures/toy-small-against-l2.png", ABSENCE, "diverged"):
        assert fact in text


def test_the_same_runs_give_the_same_bytes(stored, tmp_path):
    for name in ("one", "two"):
        build_report(stored, tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 16  # nothing left over from writing
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_a_section_is_kept_until_runs_or_code_are_others(stored, tmp_path):
    drawn = []

    def draw(runs):
        drawn.append(len(runs))
        return TOY.draw(runs)

    one, source = stored[0]._replace(experiment=TOY._replace(draw=draw)), tmp_path / "experiments"
    source.mkdir()
    first, again = (kept.section(one, tmp_path / "kept", (source,)) for _ in range(2))
    assert drawn == [13]
    assert again == first
    kept.section(one._replace(runs=one.runs[1:]), tmp_path / "kept", (source,))
    (tmp_path / "kept" / "toy-small.json").write_text('{"key": ')
    assert kept.section(one, tmp_path / "kept", (source,)).records == first.records
    other = tmp_path / "others"
    other.mkdir()
    (other / "toy.py").write_text("another rule")
    kept.section(one, tmp_path / "kept", (other,))
    # A run that goes on has lines that its manifest does not know.
    going = one.runs[0]._replace(manifest=one.runs[0].manifest | {"status": "running"})
    for lines in (going.metrics[:2], going.metrics[:3], going.metrics[:3]):
        kept.section(one._replace(runs=[going._replace(metrics=lines)]), tmp_path / "kept", (source,))
    assert drawn == [13, 12, 13, 13, 1, 1]


def test_the_opening_is_kept_as_it_was_drawn(stored, tmp_path):
    sections, source = [make_section(one) for one in stored], tmp_path / "experiments"
    source.mkdir()
    first, again = (kept.opening(sections, tmp_path / "kept", (source,)) for _ in range(2))
    assert again == first == kept.opening(sections, None, (source,))
    assert first.picture is not None
    path = tmp_path / "kept" / "opening.json"
    path.write_text(path.read_text().replace(json.dumps(first.answer[0])[1:-1], "as it is kept"))
    assert kept.opening(sections, tmp_path / "kept", (source,)).answer[0] == "as it is kept"
    assert kept.opening(sections[:-1], tmp_path / "kept", (source,)).answer[0] != "as it is kept"


def test_one_seed_is_undecided_and_missing_runs_are_said(tmp_path):
    runs, out = [load_run(write_run(tmp_path, l2, 0)) for l2 in (0.0, 5e-4)], tmp_path / "report"
    records = recorded([StoredExperiment(TOY, "smoke", runs, 2)], out)
    assert records[0]["verdict"] == records[1]["verdict"] == "undecided"
    missing = "2 planned runs are missing: python -m hessflat experiment toy --scale=smoke"
    assert f"one seed cannot decide; {missing}" in records[0]["explanation"]
    for name in ("index.html", "report.md"):
        assert missing in (out / name).read_text()


def test_what_cannot_be_drawn_does_not_stop_the_report(tmp_path):
    run = load_run(write_run(tmp_path))
    run.spectrum_file("hessian").write_bytes(b"damaged")

    def draw(runs):
        runs[0].spectrum("hessian")
        return []

    build_report([StoredExperiment(TOY._replace(draw=draw), "small", [run])], tmp_path / "report")
    assert "cannot read spectra/" in (tmp_path / "report" / "index.html").read_text()


def test_bad_requests_are_one_line(stored, tmp_path):
    with pytest.raises(InputError, match="toy-small is listed twice"):
        build_report([stored[0], stored[0]], tmp_path / "report")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*choose another folder") as caught:
        build_report(stored[1:], tmp_path / "file")
    assert "\n" not in str(caught.value)


def test_no_entries_give_an_empty_report(tmp_path):
    assert recorded([], tmp_path / "report") == []
    assert "0 claims: none" in (tmp_path / "report" / "report.md").read_text()


def test_the_summary_lines_up_when_piped(stored):
    out = io.StringIO()
    print_summary([make_section(one) for one in stored], file=out)
    lines = out.getvalue().splitlines()
    header = next(line for line in lines if line.startswith("verdict"))
    column = header.index("here")
    row = next(line for line in lines if line.startswith("fails"))
    assert row[column - 1] == " "
    assert row[column] != " "
    assert all(len(line) <= 100 for line in lines)
    assert ABSENCE in lines  # whole, so that it can be copied
    assert "6 claims: 1 holds, 1 fails, 1 undecided, 3 not run" in lines
    assert "\x1b" not in out.getvalue()


def test_the_summary_says_why_a_claim_has_no_number(tmp_path):
    at_chance = [load_run(write_run(tmp_path, l2, 0, best_guess_loss=1e-9)) for l2 in (0.0, 5e-4)]
    out = io.StringIO()
    print_summary([make_section(StoredExperiment(TOY, "smoke", at_chance))], file=out)
    assert "2 of 2 finished" in out.getvalue()  # the column is narrow
