"""Pictures of records: what is drawn is what was measured, axes are labelled, and bad input is one line."""

import os
import re
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import hessflat.curvature as cv
from hessflat import plot
from hessflat.plot import style
from hessflat.utils.errors import InputError

matplotlib.use("Agg")
from matplotlib import pyplot

COST = (10, 0.5, "highest")
EXACT = cv.ExactSpectrum(np.array([-0.5, 0.0, 0.0, 0.0, 1.0, 2.0, 8.0]), "dense", 1e-6, 7, 0.1, "highest")
NORMS = cv.JacobianNorms(np.array([1.0, 2.0, 3.0]), np.full(3, 1e-6), "exact", *COST, np.array([1.5, 2.5, 4.0]))
LINE = cv.Line(np.linspace(-1, 2, 4), {"loss": np.arange(4.0), "error": np.ones(4)}, 2.5, 4, 0.1, "highest")
PLANE = cv.Plane(
    np.linspace(-1, 1, 5), np.linspace(-2, 2, 6), np.add.outer(np.arange(5.0), np.arange(6.0)), (1.0, 1.0), 0.0, *COST
)


def spectrum(probes=2):
    """Two probes of five Lanczos steps, of an operator with 100 eigenvalues."""
    nodes = np.array([[-0.5, 0.0, 1.0, 2.0, 8.0], [-0.4, 0.1, 1.1, 2.1, 8.0]])[:probes]
    weights = np.array([[0.01, 0.9, 0.05, 0.03, 0.01], [0.02, 0.88, 0.06, 0.02, 0.02]])[:probes]
    count = np.full(probes, 5)
    return cv.Spectrum(nodes, weights, np.full(nodes.shape, 1e-5), count, np.zeros(probes), 100, *COST, "float32")


def pairs(values):
    values = np.array(values)
    return cv.EigenPairs(values, None, 0.01 * np.abs(values), values > 0, *COST, ("converged",) * len(values))


def lost_values():
    return EXACT._replace(values=np.array([1.0, np.nan]))


@pytest.fixture(autouse=True)
def close():
    yield
    pyplot.close("all")


def test_a_density_has_the_mass_of_the_spectrum_and_a_band_over_probes():
    ax = plot.spectrum(spectrum(), exact=EXACT)
    x, y = ax.lines[0].get_data()
    assert np.trapezoid(y, x) == pytest.approx(1, abs=1e-3)
    assert len(ax.collections) == 2  # the exact one behind, and the band
    assert len(plot.spectrum(spectrum(1)).collections) == 0
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("eigenvalue $\\lambda$", "density")
    own = plot.density(EXACT, width=0.05).lines[0].get_data()
    # At an eigenvalue that stands alone, its share over √(2π) times the width.
    assert np.interp(8.0, *own) == pytest.approx(1 / 7 / (0.05 * np.sqrt(2 * np.pi)), rel=2e-2)


def test_ranks_are_the_eigenvalues_in_order():
    ax = plot.spectrum(EXACT, kind="ranks")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [8, 2, 1])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.5])
    ax = plot.spectrum(pairs([8.0, 2.0, -1.0]))
    np.testing.assert_allclose(ax.lines[0].get_data(), [[1, 2], [8, 2]])
    # By weights: 2 of 100 eigenvalues at 8, then 2 at 2.1, half a probe each.
    ends = np.array([segment[1][0] for segment in plot.ranks(spectrum()).collections[0].get_segments()])
    assert ends[1] == pytest.approx(0.5 + 100 * (0.01 + 0.02) / 2)


def test_stems_lines_and_planes_are_what_was_measured():
    np.testing.assert_allclose(plot.stems(spectrum(), probe=1).lines[0].get_xdata(), [-0.4, 0.1, 1.1, 2.1, 8.0])
    ax = plot.line(LINE, values="loss")
    np.testing.assert_allclose(ax.lines[-1].get_data(), [LINE.alphas, LINE.values["loss"]])
    assert "2.5" in ax.get_xlabel()
    assert [text.get_text() for text in plot.line(LINE).get_legend().get_texts()] == ["loss", "error"]
    ax = plot.plane(PLANE)
    assert ax.figure.axes[1].get_ylabel() == "loss"
    assert ax.get_aspect() == 1.0
    assert plot.surface(PLANE).get_zlabel() == "loss"
    for alike in (1e20, 1.0, 0.0):
        plot.plane(PLANE._replace(values=np.full((5, 6), alike))).figure.canvas.draw()
    lost = PLANE.values.copy()
    lost[0, 0] = np.nan
    plot.plane(PLANE._replace(values=lost)).figure.canvas.draw()


def test_tracked_quantities_have_bands_thresholds_and_gaps():
    history = [
        {"step": 0, "lambda_max": 1.0, "lambda_max_residual": 0.1, "edge": 2.0},
        {"step": 10, "lambda_max": None, "edge": 2.0},
        {"step": 20, "lambda_max": 2.0, "lambda_max_residual": 0.2, "edge": 1.0},
    ]
    ax = plot.tracked(history, "lambda_max", {"2/η": 2.0, "moving edge": "edge"})
    np.testing.assert_allclose(ax.lines[0].get_data(), [[0, 20], [1, 2]])
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.9, 2.2))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [2.0, 2.0])
    np.testing.assert_allclose(ax.lines[2].get_ydata(), [2, 2, 1])
    assert ax.get_ylabel() == r"$\lambda_{\max}$"
    assert len(plot.tracked(history, log=True).lines) == 2


def test_blocks_norms_and_correlations():
    ax = plot.blocks({"attention": spectrum(), "head": EXACT})
    assert [text.get_text() for text in ax.get_yticklabels()] == ["attention", "head"]
    ax = plot.blocks({"a": cv.RitzValue(2.0, 0.5, *COST), "b": cv.Estimate(3.0, 0.1, *COST)})
    assert ax.get_xscale() == "log"
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [2, 3])
    assert "mean 2" in [text.get_text() for text in plot.jacobian_norms(NORMS).get_legend().get_texts()]
    ax = plot.correlation([[1, -0.5], [np.nan, 1]], ["a", "b"], found=[[True, False], [False, False]])
    assert [text.get_text() for text in ax.texts] == ["+1.00*", "-0.50", "+1.00"]


def test_axes_are_drawn_into_and_files_have_no_type_3_fonts(tmp_path):
    figure, axes = pyplot.subplots(1, 2)
    assert plot.spectrum(spectrum(), axes[0]) is axes[0]
    assert plot.line(LINE, axes[1]) is axes[1]
    assert pyplot.get_fignums() == [figure.number]
    text = plot.save(axes[0], tmp_path / "both.pdf").read_bytes()
    assert b"/TrueType" in text or b"/Type0" in text
    assert b"/Type3" not in text
    assert plot.as_svg(figure) == plot.as_svg(figure)
    assert plot.save(plot.line(LINE), tmp_path / "line.svg").exists()


def test_places_in_an_svg_are_to_a_hundredth_of_a_point(tmp_path):
    axes = plot.line(LINE)
    whole, short = plot.save(axes, tmp_path / "line.svg").read_bytes(), plot.as_svg(axes.figure)
    numbers = [[float(number) for number in re.findall(rb"(?<=[ML ])-?[\d.]+(?=[ \n])", svg)] for svg in (whole, short)]
    assert len(numbers[0]) == len(numbers[1]) > 100
    assert numbers[0] != numbers[1]
    assert max(abs(a - b) for a, b in zip(*numbers, strict=True)) < 0.01
    assert not re.search(rb' d="[^"]*\.\d{3}', short)
    # What is no place stays: outlines of letters are in units of 1/64.
    assert b"scale(0.015625)" in short


def test_colours_differ_for_every_kind_of_sight():
    grey = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(matplotlib.colors.to_rgb, style.PALETTE[:3])]
    assert min(abs(a - b) for i, a in enumerate(grey) for b in grey[:i]) > 0.02


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plot.spectrum(spectrum(), kind="histogram"), "unknown kind of picture 'histogram'"),
        (lambda: plot.density(NORMS), "a density is drawn of a Spectrum or an ExactSpectrum"),
        (lambda: plot.stems(EXACT), "stems are drawn of a Spectrum"),
        (lambda: plot.stems(spectrum(), probe=2), "probe must be one of 0 to 1, got 2"),
        (lambda: plot.ranks(LINE), "ranks are drawn of"),
        (lambda: plot.line(EXACT), "a line is drawn of what cv.line"),
        (lambda: plot.line(LINE, values="los"), "did you mean 'loss'"),
        (lambda: plot.plane(LINE), "a plane is drawn of what cv.plane"),
        (lambda: plot.plane(PLANE._replace(values=np.full((5, 6), np.nan))), "no value of the plane is finite"),
        (lambda: plot.plane(PLANE._replace(values={"a": PLANE.values, "b": PLANE.values})), "say values=... which"),
        (lambda: plot.surface(PLANE, pyplot.figure().add_subplot()), "projection='3d'"),
        (lambda: plot.blocks({}), "blocks must be a mapping"),
        (lambda: plot.blocks({"a": EXACT, "b": cv.Estimate(1.0, 0.1, *COST)}), "all of one kind"),
        (lambda: plot.tracked([]), "history must be a list of mappings"),
        (lambda: plot.tracked([{"step": 0, "loss": 1.0}], "los"), "did you mean 'loss'"),
        (lambda: plot.tracked([{"step": 0, "loss": "low"}]), "'loss' must be a number at every step"),
        (lambda: plot.tracked({"step": [0, 1], "loss": [1.0]}), "must hold one number for each step"),
        (lambda: plot.tracked({"step": 0, "loss": 1.0}), "must hold one number for each step"),
        (lambda: plot.tracked([{"step": 0, "loss": 1.0}], 3), "no step has 3"),
        (lambda: plot.tracked([{"step": 0, "loss": 1.0}], "loss", [1.0]), "thresholds must be a mapping"),
        (lambda: plot.tracked([{"step": 0, "loss": 1.0}], "loss", {"a": None}), "the threshold 'a' must be a number"),
        (lambda: plot.jacobian_norms(NORMS._replace(values=np.array([1.0, np.nan, 2.0]))), "norms must be finite"),
        (lambda: plot.density(lost_values()), "eigenvalues must be finite to be drawn, got 1 of 2"),
        (lambda: plot.ranks(pairs([3.0, np.nan])), "eigenvalues must be finite to be drawn, got 1 of 2"),
        (lambda: plot.jacobian_norms(LINE), "Jacobian norms are drawn of"),
        (lambda: plot.correlation(np.ones((2, 3)), ["a", "b"]), "need a matrix of that shape"),
        (lambda: plot.correlation([[2.0]], ["a"]), "between -1 and 1"),
        (lambda: plot.line(LINE, ax=7), "ax must be one Matplotlib axes"),
        (lambda: plot.save(plot.line(LINE), "figure.docx"), "unknown ending of a figure 'docx'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(draw, message):
    with pytest.raises(InputError) as caught:
        draw()
    assert message in str(caught.value)


@pytest.mark.parametrize("record", [spectrum(), EXACT, LINE, PLANE, NORMS, pairs([3.0, 2.0])])
def test_notebooks_show_a_table_and_a_small_picture(record):
    shown = record._repr_html_()
    assert "<table>" in shown
    assert "data:image/png;base64" in shown
    assert len(shown) < 60_000
    assert pyplot.get_fignums() == []


def test_what_has_no_picture_is_a_table():
    assert "image/png" not in cv.Estimate(1.0, 0.1, *COST)._repr_html_()
    assert plot.picture(pairs([3.0])) is None
    assert plot.picture(PLANE._replace(values={"a": PLANE.values, "b": PLANE.values})) is None


if __name__ == "__main__":
    # Draws docs/figures anew, by the code of the page that shows them.
    root = Path(__file__).parents[1] / "docs"
    os.chdir(root / "figures")
    page = (root / "pictures.md").read_text().replace('.png")', '.png", dots_per_inch=110)')
    for body in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(body)
