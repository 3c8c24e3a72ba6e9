"""The notebooks of docs/notebooks run and print what they show; `python tests/test_notebooks.py` stores outputs."""

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import jax
import matplotlib
import pytest

matplotlib.use("Agg")
from matplotlib import pyplot

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def executed(notebook):
    """The outputs of every code cell: what it prints, its last value where it has a table, its figures."""
    names, found = {"__name__": "notebook"}, []
    pyplot.close("all")  # of other tests
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        *statements, last = ast.parse("".join(cell["source"])).body
        printed, value = io.StringIO(), None
        with contextlib.redirect_stdout(printed):
            if isinstance(last, ast.Expr):
                exec(compile(ast.Module(statements, []), "cell", "exec"), names)
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            else:
                exec(compile(ast.Module([*statements, last], []), "cell", "exec"), names)
        outputs = []
        if printed.getvalue():
            outputs.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(True)})
        if hasattr(value, "_repr_html_"):
            outputs.append(_display({"text/html": value._repr_html_(), "text/plain": str(value)}))
        for number in pyplot.get_fignums():
            image = io.BytesIO()
            pyplot.figure(number).savefig(image, format="png", dpi=90)
            outputs.append(_display({"image/png": base64.b64encode(image.getvalue()).decode()}))
        pyplot.close("all")
        found.append(outputs)
    return found


def _display(data):
    return {"output_type": "display_data", "metadata": {}, "data": data}


def _printed(outputs):
    return "".join(line for output in outputs if output["output_type"] == "stream" for line in output["text"])


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path, tmp_path, monkeypatch):
    from test_docs import same_output

    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text())
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with jax.numpy_rank_promotion("allow"):
        for before, now in zip(stored, executed(notebook), strict=True):
            assert same_output(_printed(now), _printed(before)), _printed(now)
            kinds = [[kind for output in outputs for kind in output.get("data", {})] for outputs in (before, now)]
            assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_hold_their_outputs(path):
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < 200_000
    assert (notebook["nbformat"], notebook["cells"][0]["cell_type"]) == (4, "markdown")
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert str(Path(__file__).parents[1]) not in path.read_text()


def test_there_are_four():
    assert len(NOTEBOOKS) == 4


if __name__ == "__main__":
    chosen = [path for path in NOTEBOOKS if not sys.argv[1:] or path.stem in sys.argv[1:]]
    for path in chosen:
        notebook, before = json.loads(path.read_text()), Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            outputs = executed(notebook)
            os.chdir(before)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for number, (cell, made) in enumerate(zip(cells, outputs, strict=True)):
            cell["outputs"], cell["execution_count"] = made, number + 1
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        sys.stdout.write(f"{path.name}\n")
