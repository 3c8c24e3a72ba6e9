import io
import math

import numpy as np
import pytest
from fabricated_runs import EPOCHS, sealed, write_run, write_sweep
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image

from hessflat.analysis.results import load_run
from hessflat.plot.style import PALETTE, as_png, as_svg
from hessflat.report.figures import (
    CurvePanel,
    Panel,
    RankPanel,
    curves_with_bands,
    degeneracy_over_training,
    eigenvalues_by_rank,
    grid_against,
    grid_over_training,
    over_training,
    panels_against,
    spectra_by,
    spectra_over_training,
)
from hessflat.report.sections import as_csv
from hessflat.utils.errors import InputError


@pytest.fixture
def runs(tmp_path):
    return [load_run(folder) for folder in write_sweep(tmp_path, exact=True)]


@pytest.fixture
def diverged(tmp_path):
    folder = write_run(tmp_path, 5e-3, 0, status="diverged", epochs=(0, 1), spectra=False)
    return load_run(folder)


def _column(drawing, name, **where):
    rows = zip(*drawing.data.values(), strict=True)
    keys = list(drawing.data)
    conditions = {key.replace("__", "."): value for key, value in where.items()}
    return [row[keys.index(name)] for row in rows if all(row[keys.index(k)] == v for k, v in conditions.items())]


def test_a_stem_per_ritz_value_of_the_first_probe_of_the_first_seed(runs):
    drawing = spectra_by(runs)
    shown = [panel for panel in drawing.figure.axes if panel.get_visible()]
    assert len(shown) == 3
    for panel, l2 in zip(shown, (0.0, 1e-4, 5e-4), strict=True):
        first = next(run for run in runs if run.setting("optim.l2") == l2 and run.seed == 0)
        spectrum = first.spectrum("hessian")
        count = spectrum["num_valid"][0]
        stems = next(c for c in panel.collections if isinstance(c, LineCollection))
        assert len(stems.get_segments()) == count
        ritz = {"optim__l2": l2, "kind": "ritz"}
        assert _column(drawing, "value", **ritz) == spectrum["nodes"][0, :count].tolist()
        assert _column(drawing, "weight", **ritz) == spectrum["weights"][0, :count].tolist()
        exact = first.spectrum("hessian-exact")["eigenvalues"].tolist()
        assert _column(drawing, "value", optim__l2=l2, kind="exact") == exact
        assert f"{100 * first.final('validation_accuracy'):.2f} %" in panel.get_title()
    assert shown[0].get_yscale() == "log"
    assert shown[0].get_ylabel() == "weight"
    assert shown[0].get_xlabel() == "eigenvalue of $H$"
    assert len({panel.get_xlim() for panel in shown}) == len({panel.get_ylim() for panel in shown}) == 1


def test_spectra_without_exact_eigenvalues_do_not_speak_of_them(runs):
    drawing = spectra_by(runs, operator="gauss_newton")
    assert set(drawing.data["kind"]) == {"ritz"}
    assert "exact" not in drawing.caption
    assert "Gauss-Newton" in drawing.caption


def test_spectra_of_very_different_size_have_an_axis_each(tmp_path):
    runs = [load_run(write_run(tmp_path, l2)) for l2 in (0.0, 0.1)]
    drawing = spectra_by(runs)
    shown = drawing.figure.axes[:2]
    largest = [max(_column(drawing, "value", optim__l2=l2)) for l2 in (0.0, 0.1)]
    assert largest[1] > 20 * largest[0]
    for panel, end in zip(shown, largest, strict=True):
        assert end < panel.get_xlim()[1] < 1.1 * end
    assert "a horizontal axis of its own" in drawing.caption


def test_spectra_in_eval_mode_say_so(tmp_path):
    folder = write_run(tmp_path, batch_norm_mode="train and eval", batch_stats_size=64)
    for file in (folder / "spectra").glob("*-hessian.npz"):
        file.rename(file.with_name(file.name.replace("hessian", "hessian_eval")))
    run = load_run(sealed(folder))
    run.metrics[-1]["hessian_eval.lambda_max"] = 7.5
    drawing = spectra_by([run], operator="hessian_eval")
    assert "Spectrum of the Hessian with batch norm in eval mode" in drawing.caption
    assert drawing.name == "spectra-hessian_eval"
    assert drawing.figure.axes[0].get_title().endswith(r"$\lambda_{\max}(H)$ = 7.5")
    assert "with batch norm in train mode" in spectra_by([run]).caption


def test_a_setting_that_diverged_has_an_empty_panel_that_says_so(runs, diverged):
    drawing = spectra_by([*runs, diverged])
    panel = drawing.figure.axes[3]
    assert "diverged" in panel.texts[0].get_text()
    assert 5e-3 not in drawing.data["optim.l2"]


def test_spectra_of_diverged_runs_alone_can_be_drawn(diverged):
    as_svg(spectra_by([diverged]).figure)
    as_svg(panels_against([diverged], panels=[("train_loss",), ("hessian.trace", "", "log")]).figure)


def test_panels_show_every_seed_and_the_mean(runs, diverged):
    drawing = panels_against(
        [*runs, diverged],
        panels=[
            ("hessian.lambda_max",),
            ("hessian.second_moment", "second moment", "log"),
            (("train_accuracy", "test_accuracy"), "accuracy"),
        ],
    )
    sharp, moment, accuracy = drawing.figure.axes[:3]
    assert sharp.get_xlabel() == "L2"
    assert sharp.get_xscale() == "symlog"
    assert sharp.get_ylabel() == r"$\lambda_{\max}(H)$"
    assert (moment.get_ylabel(), moment.get_yscale()) == ("second moment", "log")
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["training", "test"]
    here = [run.final("hessian.lambda_max") for run in runs if run.setting("optim.l2") == 5e-4]
    assert _column(drawing, "value", metric="hessian.lambda_max", optim__l2=5e-4) == here
    mean_line = next(line for line in sharp.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-")
    assert mean_line.get_ydata()[2] == pytest.approx(np.mean(here))
    assert "mean ± 1 std over 3 seeds" in drawing.caption
    assert "1 run in all" in drawing.caption


def test_training_starts_at_epoch_zero_and_its_numbers_are_the_means(runs, diverged):
    drawing = over_training([*runs, diverged], metrics=["train_loss", ("hessian.lambda_max", "sharpness")])
    loss, sharp = drawing.figure.axes[:2]
    assert (loss.get_xlabel(), loss.get_xscale()) == ("epoch", "symlog")
    assert loss.get_ylabel() == "training loss (nats)"
    assert sharp.get_ylabel() == "sharpness"
    assert _column(drawing, "epoch", metric="train_loss", optim__l2=0.0) == list(EPOCHS)
    ends = [run.final("hessian.lambda_max") for run in runs if run.setting("optim.l2") == 0.0]
    last = {"metric": "hessian.lambda_max", "optim__l2": 0.0, "epoch": float(EPOCHS[-1])}
    assert _column(drawing, "mean", **last) == [pytest.approx(np.mean(ends))]
    assert _column(drawing, "std", **last) == [pytest.approx(np.std(ends, ddof=1))]
    assert len(sharp.collections) == 3  # one band per setting with several seeds
    assert "Band: ± 1 std over 3 seeds" in drawing.caption
    assert "1 run diverged" in drawing.caption
    assert _column(drawing, "epoch", metric="train_loss", optim__l2=5e-3) == [0, 1]


def test_zero_mass_is_drawn_with_its_bound(runs):
    drawing = degeneracy_over_training(runs)
    bound = runs[0].final("zero_mass_bound")
    for axis in drawing.figure.axes[:2]:
        dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in dashed] == [bound]
    assert set(drawing.data["metric"]) == {"hessian.zero_mass", "gauss_newton.zero_mass"}
    assert "0.8154" in drawing.caption


def test_a_vacuous_bound_is_said_and_not_drawn(tmp_path):
    run = load_run(write_run(tmp_path, final={"zero_mass_bound": -3.0}))
    drawing = degeneracy_over_training([run])
    assert not [line for line in drawing.figure.axes[0].lines if line.get_linestyle() == "--"]
    assert "says nothing" in drawing.caption
    assert "One seed, no band" in drawing.caption


def test_eigenvalues_by_rank_shows_what_each_panel_is_of():
    values = np.array([3.0, -1.0, 0.0, 2.0, -0.5])
    panels = [
        RankPanel("every one", {"start": values, "end": 2 * values}),
        RankPanel("the largest", {"end": 2 * values}, "largest", shown=2, note="two of them", line=1.0),
        RankPanel("below zero", {"start": values}, "negative"),
    ]
    drawing = eigenvalues_by_rank(panels, "ranked", "A caption.")
    assert _column(drawing, "eigenvalue", panel="every one", curve="end") == [-2, -1, 0, 4, 6]
    assert _column(drawing, "rank", panel="every one", curve="start") == [1, 2, 3, 4, 5]
    assert _column(drawing, "eigenvalue", panel="the largest") == [4, 6]
    assert _column(drawing, "eigenvalue", panel="below zero") == [-1, -0.5]
    shown = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert [axis.get_xlabel() for axis in shown] == ["rank", "order of largest eigenvalues", "rank, % of $P$"]
    assert shown[2].lines[0].get_xdata().tolist() == [20.0, 40.0]
    # The same label has the same colour in every panel.
    assert shown[0].lines[1].get_color() == shown[1].lines[0].get_color() != shown[0].lines[0].get_color()
    assert [text.get_text() for text in shown[1].texts] == ["two of them", "(b)"]


def test_ends_of_spectra_are_ranked_in_per_cent_of_all_and_averaged_over_seeds():
    tails = np.array([[-3.0, -1.0, 1.0], [-5.0, -1.0, -0.5]])
    drawing = eigenvalues_by_rank(
        [RankPanel("tail", {"H": tails}, "negative", sizes={"H": 200})], "tails", "A caption."
    )
    assert _column(drawing, "eigenvalue") == [-4, -1]
    assert _column(drawing, "size") == [200, 200]
    (axis,) = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert axis.lines[0].get_xdata().tolist() == [0.5, 1.0]
    (band,) = axis.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(-1)
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(-4 - 2**0.5)


def test_batch_norm_mode_is_in_the_caption_where_the_model_has_it(tmp_path, runs):
    assert "batch norm" not in spectra_by(runs).caption
    without = load_run(write_run(tmp_path / "none", batch_norm_mode="none in this model", batch_stats_size=0))
    assert "batch norm" not in spectra_by([without]).caption
    run = load_run(
        write_run(
            tmp_path / "bn", batch_norm_mode="train", batch_stats_size=128, matmul_precision={"curvature": "highest"}
        )
    )
    assert "matmul precision curvature highest" in spectra_by([run]).caption
    assert "batch norm in mode train; with statistics of a batch of 128" in spectra_by([run]).caption


def test_files_of_a_figure_are_the_same_each_time(runs):
    first, second = (over_training(runs, metrics=["train_loss"]).figure for _ in range(2))
    assert as_svg(first) == as_svg(second)
    assert as_png(first) == as_png(second) == as_png(first)
    assert b"<dc:date>" not in as_svg(first)


def test_paper_grid_and_bands_of_a_png_have_their_own_colours():
    figure = Figure()
    axis = figure.subplots()
    axis.grid(color="#E4E4E4")
    for index in range(40):  # more blends than the palette has places
        axis.fill_between([0, 1], index, index + 20, color=PALETTE[index % 7], alpha=0.18)
    full, few = (
        np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).reshape(-1, 3)
        for png in (as_png(figure, 100, 256), as_png(figure, 100, 48))
    )
    values, counts = np.unique(full, axis=0, return_counts=True)
    for colour in values[np.argsort(-counts)[:12]]:
        place = np.all(full == colour, axis=1)
        assert np.all(few[place] == colour)
    assert len(np.unique(few, axis=0)) <= 48


def test_a_caption_says_over_how_many_seeds(runs):
    assert spectra_by(runs).caption.endswith(f"; {len({run.seed for run in runs})} seeds)")


def test_csv_keeps_every_digit_and_refuses_ragged_columns():
    assert as_csv({"a": [1, 2], "b": [0.1 + 0.2, math.pi]}) == f"a,b\n1,{0.1 + 0.2!r}\n2,{math.pi!r}\n".encode()
    with pytest.raises(ValueError, match="unequal length"):
        as_csv({"a": [1], "b": []})


def test_nothing_to_draw_is_refused():
    for draw in (spectra_by, panels_against, over_training, degeneracy_over_training):
        with pytest.raises(InputError, match="no runs to draw"):
            draw([])


def at_two_rates(runs):
    """The runs, and as many at ten times their rate with twice the gap."""
    again = []
    for run in runs:
        optim = {**run.config["optim"], "lr": 0.3}
        metrics = [{**line, "gap_loss": 2 * line["gap_loss"]} for line in run.metrics]
        again.append(run._replace(config={**run.config, "optim": optim}, metrics=metrics))
    return [*runs, *again]


def test_a_second_setting_has_a_line_for_each_of_its_values(runs):
    drawing = panels_against(at_two_rates(runs), "optim.l2", [("gap_loss",)], lines="optim.lr")
    lines = drawing.figure.axes[0].get_lines()
    first, second = (line.get_ydata() for line in lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-")
    np.testing.assert_allclose(np.array(second, float), 2 * np.array(first, float))
    assert drawing.data["optim.lr"] == [0.03] * len(runs) + [0.3] * len(runs)
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == [
        "learning rate = 0.03",
        "learning rate = 0.3",
    ]
    assert "for each learning rate" in drawing.caption


def test_a_grid_has_a_column_for_each_setting_and_a_row_for_each_metric(runs):
    both = at_two_rates(runs)
    columns = [("optim.l2", both), ("optim.lr", both[::2])]
    drawing = grid_against(columns, [("gap_loss",), ("weight_norm",)], "optim.lr", "grid", "All.")
    assert len(drawing.figure.axes) == 4
    assert drawing.figure.axes[0].get_ylabel() == "generalisation gap (nats)"
    assert [axis.get_xlabel() for axis in drawing.figure.axes[2:]] == ["L2", "learning rate"]
    rows = list(zip(drawing.data["metric"], drawing.data["setting"], strict=True))
    assert rows.count(("gap_loss", "optim.l2")) == rows.count(("weight_norm", "optim.l2")) == len(both)
    assert len({len(column) for column in drawing.data.values()}) == 1


def test_curves_have_the_mean_and_the_range_over_seeds_geometric_on_a_log_axis():
    places, curves = np.array([0.0, 1.0]), {"train": np.array([[1.0, 2.0], [4.0, 8.0]]), "test": np.array([[3.0, 3.0]])}
    panels = [CurvePanel("train_loss", places, curves, "loss", scale) for scale in ("linear", "log")]
    drawing = curves_with_bands(panels, "α", "line", "A caption.", {"LB": 0.0})
    rows = list(zip(*(drawing.data[name] for name in ("curve", "α", "seeds", "mean", "low", "high")), strict=True))
    assert rows[:4] == [
        ("train", 0, 2, 2.5, 1, 4),
        ("train", 1, 2, 5.0, 2, 8),
        ("test", 0, 1, 3, 3, 3),
        ("test", 1, 1, 3, 3, 3),
    ]
    assert [row[3] for row in rows[4:6]] == pytest.approx([2, 4])
    # One seed has no band.
    assert [len(axis.collections) for axis in drawing.figure.axes] == [1, 1]
    assert drawing.figure.axes[0].texts[0].get_text() == "LB"


def test_one_number_has_room_on_a_log_axis():
    panel = CurvePanel("error", np.array([1.0, 2.0]), {"all": np.full((3, 2), 2.0**-23)}, "error", "log")
    drawing = curves_with_bands([panel], "steps", "one", "", {})
    low, high = drawing.figure.axes[0].get_ylim()
    assert low < 1e-7 < 2e-7 < high


def test_rows_over_training_end_with_the_first_seed_and_are_marked_where_asked(tmp_path):
    runs = [load_run(write_run(tmp_path, l2, seed)) for l2 in (0.0, 1e-4) for seed in (0, 1)]
    runs[1] = runs[1]._replace(metrics=runs[1].metrics[:4])
    marked = []
    drawing = grid_over_training(
        {"all": runs, "one": runs[:1]},
        [Panel("train_loss"), Panel("hessian.lambda_max", "", "log")],
        "optim.l2",
        "rows",
        "A caption.",
        x="epoch",
        marks={"hessian.lambda_max": lambda axis, own: marked.append((axis.get_yscale(), len(own)))},
    )
    where = {"row": "all", "metric": "hessian.lambda_max", "optim__l2": 0.0}
    assert _column(drawing, "epoch", **where) == list(EPOCHS[:4])
    ends = [run.metrics[3]["hessian.lambda_max"] for run in runs[:2]]
    assert _column(drawing, "mean", **where)[-1] == pytest.approx(np.mean(ends))
    assert _column(drawing, "std", **where)[-1] == pytest.approx(np.std(ends, ddof=1))
    assert _column(drawing, "std", row="one", metric="train_loss") == [0.0] * len(EPOCHS)
    assert [count for _, count in marked] == [4, 1]
    assert [axis.get_ylabel() for axis in drawing.figure.axes[:2]] == ["training loss (nats)", r"$\lambda_{\max}(H)$"]
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == ["L2 0", "L2 1e-4"]


def test_spectra_over_training_are_of_measured_steps_and_the_first_probe(runs):
    run = runs[0]
    final = run.spectrum("hessian")
    half = {name: final[name] / 2 if name == "nodes" else final[name] for name in ("nodes", "weights", "num_valid")}
    np.savez(run.spectrum_file("hessian", 0), **half)
    drawing = spectra_over_training(run, "spectra", "Softmax regression on digits")
    shown = [axis for axis in drawing.figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == ["epoch 0", f"epoch {EPOCHS[-1]}"]
    count = final["num_valid"][0]
    assert _column(drawing, "value", epoch=0.0) == (final["nodes"][0, :count] / 2).tolist()
    assert _column(drawing, "weight", epoch=float(EPOCHS[-1])) == final["weights"][0, :count].tolist()
    assert shown[0].get_xscale() == "symlog"
    assert drawing.caption.startswith("Softmax regression on digits: spectrum of the Hessian during training")
