"""The site of `make docs` builds without a warning, needs no network, and holds every page and every public name."""

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hessflat.curvature as cv
from hessflat import plot
from hessflat.report.claims import read_claims

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def hooks():
    """docs/site/hooks.py, which MkDocs loads by its path."""
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "site" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, but for the report, which `make docs` puts there."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", DOCS / "mkdocs.yml", "-d", folder]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")
    return folder


def pages(site):
    return [path for path in site.rglob("*.html") if path.name != "404.html"]


@pytest.mark.slow
def test_every_page_and_notebook_is_there(site):
    made = {path.relative_to(site).with_suffix("").as_posix() for path in pages(site)}
    assert {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")} - made == {
        "results/report/report"  # whose figures and verdicts are in the gallery, and which is there as HTML
    }
    assert {f"notebooks/{path.stem}" for path in (DOCS / "notebooks").glob("*.ipynb")} <= made
    assert {"index", "changelog", "contributing", "gallery/index"} <= made
    assert not list(site.rglob("*.tar.xz"))


@pytest.mark.slow
def test_no_page_asks_for_anything_from_elsewhere_and_no_link_is_broken(site):
    for page in pages(site):
        text = page.read_text()
        asked = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)=\"?([^\s\">]+)", text)
        links = re.findall(r"<a\b[^>]*?\bhref=\"?([^\s\">]+)", text)
        assert not [address for address in asked if re.match(r"(https?:)?//", address)], page
        for address in map(html.unescape, asked + links):
            path = address.partition("#")[0]
            if path and not re.match(r"\w+:", path) and not path.endswith("report/index.html"):
                assert (page.parent / path).exists(), f"{page.relative_to(site)}: {address}"
    style = "".join(path.read_text() for path in (site / "assets").rglob("*.css"))
    assert not re.findall(r"(?:@import|url\()\s*[\"']?https?:", style)


@pytest.mark.slow
def test_the_search_finds_every_public_name(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = {entry["location"].partition("#")[2] for entry in index}
    assert {f"hessflat.curvature.{name}" for name in cv.__all__} - found == set()
    assert {f"hessflat.plot.{name}" for name in plot.__all__} - found == {
        "hessflat.plot.blocks"
    }  # see test_api_reference
    assert {"hessflat.plot.blocks.blocks", "g_mlp-paper"} <= found


def test_the_gallery_has_every_figure_and_every_verdict():
    made = hooks().gallery()
    text = "".join(made.values())
    stored = (DOCS / "results" / "report" / "report.md").read_text()
    figures = set(re.findall(r"\]\(figures/(\S+?\.png)\)", stored))
    assert set(re.findall(r"results/report/figures/(\S+?\.png)", text)) == figures
    records = read_claims(DOCS / "results" / "report" / "claims.json")
    assert len(re.findall(r"^\| \*\*", text, re.MULTILINE)) == len(records)


def test_links_hold_from_where_a_page_is():
    with_links = hooks().with_links
    readme = "[a](docs/runs.md#x) [b](https://a.b/c) [c](CHANGELOG.md) [d](docs/notebooks/jacobians.ipynb)\n"
    assert with_links(readme, "README.md", "index.md") == (
        "[a](runs.md#x) [b](https://a.b/c) [c](changelog.md) [d](notebooks/jacobians.md)\n"
    )
    assert with_links("[a](../docs/adding.md)", ".github/CONTRIBUTING.md", "contributing.md") == "[a](adding.md)"
    assert with_links("[a](results/report/report.md)", "docs/findings.md", "findings.md") == "[a](gallery/index.md)"
    assert with_links("[a](../settings.md)", "docs/api/index.md", "api/index.md") == "[a](../settings.md)"
    assert with_links("[pitfalls.md](pitfalls.md)", "docs/data.md", "data.md") == "[Pitfalls](pitfalls.md)"
    fenced = "```python\na[0](docs/runs.md)\n```\n"
    assert with_links(fenced, "README.md", "index.md") == fenced


def test_a_notebook_becomes_a_page_with_its_outputs():
    cells = [
        {"cell_type": "markdown", "source": ["# Title"]},
        {
            "cell_type": "code",
            "source": ["print(1)"],
            "outputs": [
                {"output_type": "stream", "text": ["1\n"]},
                {"output_type": "display_data", "data": {"text/html": ["<table></table>"]}},
                {"output_type": "display_data", "data": {"image/png": "aGk="}},
            ],
        },
    ]
    text, images = hooks().notebook({"cells": cells}, "name")
    assert text.startswith("# Title\n\n```python\nprint(1)\n```\n\n```text\n1\n```\n\n<table></table>\n\n![")
    assert images == {"name-1.png": b"hi"}
