"""Hooks of MkDocs: pages that are made from other files, and links that hold on GitHub and on the site.

Made are the home page (README.md), the changelog, the page on contributing, a page for each notebook with its stored
outputs, and a gallery of the stored report.
"""

import base64
import html
import json
import posixpath
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mkdocs.structure.files import File

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
# Files outside docs/, or with another form there, and the page of the site that each becomes.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    "docs/results/report/report.md": "gallery/index.md",
    **{f"docs/notebooks/{path.stem}.ipynb": f"notebooks/{path.stem}.md" for path in (DOCS / "notebooks").iterdir()},
}
FILES = ("CITATION.cff", "LICENSE")
REPORT = DOCS / "results" / "report"
# Experiments by the initial of their name.
PAPERS = {
    "g": ("granziol2020", "Flatness is a False Friend (Granziol 2020)"),
    "s": ("sagun2017", "Empirical Analysis of the Hessian (Sagun et al. 2017)"),
    "m": ("macdonald2023", "On progressive sharpening, flat minima and generalisation (MacDonald et al. 2023)"),
    "eh": ("beyond", "Beyond the papers"),
}
FENCED = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<path>[^)#\s]+)")


class Section(NamedTuple):
    """One experiment of the stored report at one scale."""

    name: str
    scale: str
    question: str
    figures: list[tuple[str, str]]  # name, caption


def on_config(config):
    config.docs_dir = str(DOCS)
    return config


def on_files(files, config):
    def add(uri, content):
        files.append(File.generated(config, uri, content=content))

    for path, uri in PAGES.items():
        source = ROOT / path
        if path.endswith(".ipynb"):
            text, images = notebook(json.loads(source.read_text()), source.stem)
            for name, image in images.items():
                add(f"notebooks/{name}", image)
            add(uri, text)
        elif not uri.startswith("gallery"):
            add(uri, with_links(source.read_text(), path, uri))
    for name in FILES:
        add(name, (ROOT / name).read_text())
    for name, text in gallery().items():
        add(f"gallery/{name}.md", text)
    return files


def on_page_markdown(markdown, page, **_):
    uri = page.file.src_uri
    if page.file.generated_by is None:
        markdown = with_links(markdown, f"docs/{uri}", uri)
    # A fence whose language is followed by the name of a file.
    return re.sub(r"^```(\w+) ([^\s\"]+)$", r'```\1 title="\2"', markdown, flags=re.MULTILINE)


def with_links(markdown, path, uri):
    """The text of a file of the repository, `path`, with its links as they are from the page `uri`.

    A link whose text is the name of a file has that page's title as its text.
    """

    def moved(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["path"]))
        place = posixpath.relpath(PAGES.get(target, target.removeprefix("docs/")), posixpath.dirname(uri) or ".")
        named = re.fullmatch(r"[\w./-]+\.md", match["text"])
        return f"[{title(ROOT / target) if named else match['text']}]({place}"

    parts = FENCED.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(moved, part) for part in parts)


def title(page):
    """The first heading of a page."""
    return re.search(r"^# (.*)$", page.read_text(), re.MULTILINE)[1]


def notebook(content, name):
    """The page of a notebook, and its figures by the names of their files."""
    parts, images = [], {}
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if output["output_type"] == "stream":
                parts.append(f"```text\n{''.join(output['text']).rstrip()}\n```")
            elif "image/png" in data:
                file = f"{name}-{len(images) + 1}.png"
                images[file] = base64.b64decode(data["image/png"])
                parts.append(f"![Figure {len(images)} of this page]({file})")
            else:
                parts.append("".join(data["text/html"]).replace("\n\n", "\n"))
    parts.append(f"The notebook itself, to run: [{name}.ipynb]({name}.ipynb).")
    return "\n\n".join(parts) + "\n", images


def gallery():
    """{name: page} of the gallery: one page a paper, and one of all its figures."""
    records = json.loads((REPORT / "claims.json").read_text())["claims"]
    report = (REPORT / "report.md").read_text()
    found = sections(report)
    pages = {
        name: f"# {title}\n\n"
        + "\n".join(experiment(section, records) for section in found if section.name[0] in initials)
        for initials, (name, title) in PAPERS.items()
    }
    overview = [
        "# Gallery\n",
        f"{counted(records)}. [What a verdict means](../verdicts.md).",
        'The <a href="../report/index.html">whole report</a> has every table and rule, and '
        "[claims.json](../results/report/claims.json) its numbers.\n",
        *(shown(*figure) for figure in figures(report.partition("\n|")[0])),
    ]
    for initials, (name, title) in PAPERS.items():
        own = [record for record in records if record["experiment"][0] in initials]
        overview += [f"## [{title}]({name}.md)\n", f"{counted(own)}.\n", '<div class="gallery" markdown>\n']
        for section in found:
            if section.name[0] in initials and section.figures:
                first, place = image(section.figures[0][0]), f"{name}.md#{anchor(section)}"
                overview.append(f"[![]({first})<br>`{section.name}`, {section.scale}]({place})\n")
        overview.append("</div>\n")
    return {"index": "\n".join(overview), **pages}


def sections(report):
    """The experiments of the stored report, in its order."""
    found = []
    for part in re.split(r"^## ", report, flags=re.MULTILINE):
        if heading := re.match(r"(\w+) \((\w+) scale\)\n\n(.*)\n", part):
            found.append(Section(*heading.groups(), figures(part)))
    return found


def figures(part):
    """[(name, caption)] of the figures in a part of the stored report."""
    return re.findall(r"^!\[.*\]\(figures/(.*)\.png\)\n\n(.*)$", part, re.MULTILINE)


def shown(name, caption):
    """A figure of the stored report with its caption."""
    return f"![{name}]({image(name)})\n\n*{cell(caption)}*\n"


def experiment(section, records):
    """The part of an experiment: its question, its verdicts and its figures."""
    own = [r for r in records if (r["experiment"], r["scale"]) == (section.name, section.scale)]
    lines = [f"## {section.name}, {section.scale} {'{'} #{anchor(section)} {'}'}\n", f"{section.question}\n"]
    lines += [f"{counted(own)}.\n"] if own else ["It makes no claim.\n"]
    lines += ["| verdict | claim | paper | here |", "| --- | --- | --- | --- |"] if own else []
    for record in own:
        verdict = f"**{record['verdict']}**" + ", pilot" * bool(record["pilot"])
        here = "; ".join(filter(None, (record["value"], record["spread"]))) or record["reason"]
        said = (f"{record['statement']} ({record['where']})", record["paper_value"], here)
        lines.append(f"| {verdict} | {' | '.join(map(cell, said))} |")
    lines += ["", *(shown(*figure) for figure in section.figures)]
    return "\n".join(lines)


def counted(records):
    """How many claims have which verdict."""
    counts = Counter(record["verdict"] for record in records)
    plurals = {"holds": "hold", "fails": "fail", "cannot decide": "cannot be decided"}
    each = [
        f"{count} {verdict if count == 1 else plurals.get(verdict, verdict)}" for verdict, count in counts.most_common()
    ]
    return f"{len(records)} claim{'s' * (len(records) != 1)}: {', '.join(each)}"


def anchor(section):
    return f"{section.name}-{section.scale}"


def image(name):
    return f"../results/report/figures/{name}.png"


def cell(text):
    """Text of the report as Markdown that shows it as it is."""
    return re.sub(r"([|*_`\[\]])", r"\\\1", html.escape(text, quote=False))
