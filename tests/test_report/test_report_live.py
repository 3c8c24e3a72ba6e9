"""The page of runs that are under way: what it says of them, who may read it, and that it looks again by itself."""

import datetime
import http.client
import shutil
import threading
from pathlib import Path

import pytest
import runs

from hessflat.cli import report
from hessflat.report import live
from hessflat.runs import run_folder
from hessflat.runs.cost_model import run_cost
from hessflat.runs.jobs import make_jobs
from hessflat.runs.schema import plain
from hessflat.utils.errors import InputError
from hessflat.utils.files import file_digest

BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def job_of(seed, root=Path("runs")):
    """That of a run of 20 steps."""
    little = ("--config.measure.spectra=never", "--config.measure.jacobian=never", "--config.train.steps=20")
    return make_jobs([runs.tiny(*little, f"--config.seed={seed}")], root)[0]


def begun(root, seed, status, losses, **manifest):
    """The folder of a run of 20 steps that has measured these training losses, at steps 0, 5, 10, ..."""
    job = job_of(seed, root)
    run_folder.write_config(job.folder, plain(job.config))
    for place, loss in enumerate(losses):
        run_folder.append_line(job.folder / "metrics.jsonl", {"step": 5 * place, "train_loss": loss})
    names = ("config.json", "metrics.jsonl") if losses else ("config.json",)
    digests = {name: file_digest(job.folder / name) for name in names}
    run_folder.write_manifest(job.folder, status=status, digests=digests, started=BEGAN.isoformat(), **manifest)
    return job.folder


@pytest.fixture
def root(tmp_path):
    """Four runs: one is done, one goes on, one was stopped, one diverged."""
    root = tmp_path / "runs"
    times = {"steps": 20, "finished": (BEGAN + datetime.timedelta(seconds=40)).isoformat()}
    begun(root, 0, "done", [2.0, 1.0, 0.5, 0.4, 0.3], **times)
    going = begun(root, 1, "running", [2.0, 1.0, 0.5])
    begun(root, 2, "stopped", [2.0])
    begun(root, 3, "diverged", [2.0, 50.0], reason="loss is NaN at step 9", **times | {"steps": 5})
    with run_folder.locked(going):
        yield root


def at_measurement(root, seconds):
    """When a run that began at `BEGAN` and measured last after so many seconds is looked at 3 seconds later."""
    (lines,) = (folder / "metrics.jsonl" for folder in root.glob("*/*seed=1-*"))
    then = BEGAN.timestamp() + seconds
    shutil.os.utime(lines, (then, then))
    return BEGAN + datetime.timedelta(seconds=seconds + 3)


def test_runs_under_way_have_their_progress_time_left_and_curves(root):
    (group,), problems = live.look(root, at_measurement(root, 30))
    assert problems == []
    assert {status: count for status, count in group.counts.items() if count} == {
        "done": 1,
        "running": 1,
        "stopped": 1,
        "diverged": 1,
    }
    going, stopped, diverged = group.watched
    assert (going.status, going.step, going.steps) == ("running", 10, 20)
    # What the cost model counts for the first 10 steps took 30 seconds; 3 more are over.
    minutes, seconds = map(int, going.left.split(":"))
    cost = run_cost(job_of(1).config)
    before, after = (
        cost.training_seconds(10) + sum(cost.measuring_seconds(cost.due[step]) for step in steps if step in cost.due)
        for steps in (range(11), range(11, 21))
    )
    assert 60 * minutes + seconds == pytest.approx(30 * after / before - 3, abs=1)
    (curve,) = going.curves
    assert (curve.name, curve.first, curve.last) == ("training loss (nats)", "2", "0.5")
    points = [tuple(map(float, point.split(","))) for point in curve.points.split()]
    assert points == [(3.0, 3.0), (150.0, 45.0), (297.0, 87.0)]
    assert (stopped.status, stopped.left, stopped.curves) == ("stopped", "–", [])
    assert (diverged.status, diverged.reason) == ("diverged", "loss is NaN at step 9")
    assert group.left != "–"


def test_a_run_that_went_on_from_a_checkpoint_has_the_time_that_finished_ones_took(root):
    (folder,) = root.glob("*/*seed=1-*")
    run_folder.write_manifest(folder, resumed_from=[5])
    run_folder.append_line(folder / "eval.jsonl", {"step": 12, "train_loss": 0.4})
    (group,), _ = live.look(root, BEGAN)
    minutes, seconds = map(int, group.watched[0].left.split(":"))
    cost = run_cost(job_of(1).config)
    assert 60 * minutes + seconds == pytest.approx(40 * cost.remaining_seconds(10) / cost.total_seconds(), abs=1)
    assert (group.watched[0].step, group.watched[0].curves[0].last) == (12, "0.4")


def test_a_folder_where_everything_is_finished_says_so(root):
    for folder in root.glob("*/*seed=[12]-*"):
        shutil.rmtree(folder)
    assert live.look(root, BEGAN) == ([], [])
    assert f"No run below {root} is under way or left to be run." in live.page(root, False)


def test_a_damaged_folder_is_a_line(root):
    (folder,) = root.glob("*/*seed=2-*")
    (folder / "config.json").write_text("{")
    groups, problems = live.look(root, BEGAN)
    assert len(groups) == 1
    assert len(problems) == 1
    assert "to mend it" in problems[0]


@pytest.fixture
def served(root, tmp_path):
    """The server, with a report of one page."""
    (tmp_path / "out" / "figures").mkdir(parents=True)
    (tmp_path / "out" / "index.html").write_text("the report")
    (tmp_path / "secret").write_text("no")
    with live.serve(root, tmp_path / "out", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server, path, host=None):
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_server_shows_the_page_and_the_report_to_this_machine_alone(served):
    assert served.server_address[0] == "127.0.0.1"
    status, text = asked(served, "/")
    assert status == 200
    assert "1 done, 1 running, 1 stopped, 1 diverged" in text
    assert 'href="/report/index.html"' in text
    assert asked(served, "/report/index.html") == (200, "the report")
    for path in ("/secret", "/report/../secret", "/report/%2e%2e/secret", "/report/figures/", "/index.html"):
        assert asked(served, path)[0] == 404, path
    assert asked(served, "/", host="elsewhere.example")[0] == 403


@pytest.mark.slow
def test_the_page_looks_again_by_itself(served, root):
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install -e '.[dev]'")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is found; Debian's is the package chromium")
    problems = []
    (folder,) = root.glob("*/*seed=1-*")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"http://127.0.0.1:{served.server_port}/")
        running = page.locator("article", has_text="running")
        assert "step 10 of 20" in running.inner_text()
        assert running.locator("svg polyline").bounding_box()["height"] > 20
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        run_folder.append_line(folder / "metrics.jsonl", {"step": 15, "train_loss": 0.2})
        running.get_by_text("step 15 of 20").wait_for(timeout=20_000)
        assert "2 → 0.2" in running.inner_text()
        browser.close()
    assert problems == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from=docs/results"], "archives hold finished runs alone"),
        (["--root=nowhere"], "no folder nowhere"),
        (["--port=http"], "--port must be a number, 0 for any that is free, got 'http'"),
        (["--port=70000"], "cannot use port 70000 of 127.0.0.1"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        report.main(["--serve", *arguments])
    assert "\n" not in str(caught.value)
