"""Figures and tables of `m_sharpening`: growth during training by label smoothing, and the factors of eq. 4."""

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments.macdonald2023.label_smoothing import (
    JACOBIAN,
    LOSS,
    SHARPNESS,
    SMOOTHING,
    edge_of_stability,
    mark_edge,
)
from hessflat.analysis import histories
from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.histories import at_common_steps, growth_factor, series, tau_over_steps
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, grouped
from hessflat.analysis.statistics import estimate
from hessflat.plot.style import PALETTE, STYLE, letter, ordered_colours
from hessflat.report import figures
from hessflat.report.figures.style import (
    Panel,
    append_row,
    draw_mean_and_range,
    legend_below,
    metric_axis,
    new_columns,
    new_figure,
)

Series = tuple[np.ndarray, np.ndarray]

RATE = "optim.lr"
GGN = "gauss_newton.lambda_max"
# What eq. 4 suggests to follow λ_max(G), by the names of `hessflat.measures.layer_jacobians`.
FOLLOWERS = {
    "layers.after_first": "‖Jf_L ⋯ Jf_2‖",
    "layers.product": "Π ‖Jf_l‖, l ≥ 2",
    "layers.input_output": "‖Jf_L ⋯ Jf_1‖",
    JACOBIAN: "softmaxed ‖Jf_L ⋯ Jf_1‖",
}
PANELS = (Panel(LOSS, "loss less label\nentropy (nats)", "log"), Panel(SHARPNESS), Panel(JACOBIAN, "", "log"))
NAMES = {"vgg": "VGG-11", "resnet": "ResNet-18"}


def kind_name(run: Run) -> str:
    """The name of a run's network."""
    name = run.setting("model.name")
    if name != "mlp":
        return NAMES.get(name, name)
    return "MLP with batch norm" if run.setting("model.mlp.batch_norm") else "MLP"


def kinds_and_rates(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs grouped by network and learning rate."""
    return {
        f"{kind}, η = {number(rate)}": group
        for kind, own in grouped(runs, kind_name).items()
        for rate, group in reversed(by_setting(own, RATE).items())
    }


def unsmoothed(runs: Sequence[Run]) -> list[Run]:
    """The runs without label smoothing."""
    return [run for run in runs if run.setting(SMOOTHING) == 0]


def edge_crossing(run: Run) -> float | None:
    """The first measured step with sharpness of at least 2/η; None where there is none."""
    return histories.first_crossing(run, SHARPNESS, edge_of_stability(run))


def edge_ratio(run: Run) -> float:
    """Mean sharpness after the first crossing of 2/η, over 2/η; the maximum over 2/η where there is no crossing."""
    return histories.ratio_to_limit(run, SHARPNESS, edge_of_stability(run))


def tau_with_ggn(run: Run, metric: str) -> float:
    """Kendall's tau of a product of layer Jacobians and λ_max(G) over training.

    Both are of a subset of the examples; the softmaxed norm is of all measured examples.
    """
    return tau_over_steps(run, metric, "layers.lambda_max")


def ggn_ratios(run: Run) -> np.ndarray:
    """λ_max(G) / λ_max(H) at the steps at which both were measured."""
    ratios = run.history(GGN) / run.history(SHARPNESS)
    return ratios[np.isfinite(ratios)]


def layer_names(run: Run) -> list[str]:
    """The names of the layers, from input to output."""
    last = run.metrics[-1]
    return [key.split(".")[1] for key in last if key.startswith("layers.") and key.endswith(".jacobian")]


def share(run: Run, layer: str) -> np.ndarray:
    """λ_max of a layer's term of eq. 4 over λ_max(G), at the steps at which both were measured."""
    shares = run.history(f"layers.{layer}.lambda_max") / run.history("layers.lambda_max")
    return shares[np.isfinite(shares)]


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 1 and 6 to 11, one for each network; and the factors of eq. 4 for each network, without smoothing."""
    drawings = []
    for kind, own in grouped(runs, kind_name).items():
        rates = reversed(by_setting(own, RATE).items())
        caption = (
            f"Gradient descent on all examples with labels smoothed more and less ({kind}): loss less label entropy, "
            "sharpness, and the largest input-output Jacobian norm of the softmaxed network in batch norm's eval "
            "mode, on the measured examples. Each row is a learning rate η. Runs without smoothing end at 99 % "
            "training accuracy, the others after as many iterations. Dashed: 2/η. Triangles mark where a run first "
            "reaches it, the edge of stability. Mean over seeds up to where the first of them ends, band ± 1 std. "
            f"{figures.context(own)}"
        )
        rows = {f"η = {number(rate)}": group for rate, group in rates}
        name = f"sharpening-{kind.replace(' ', '-').lower()}"
        drawings.append(
            figures.grid_over_training(rows, PANELS, SMOOTHING, name, caption, marks={SHARPNESS: mark_edge})
        )
    return [*drawings, _draw_layers(runs)]


def middle_rate(runs: Sequence[Run]) -> list[Run]:
    """The runs at the middle learning rate."""
    rates = sorted({run.setting(RATE) for run in runs})
    return [run for run in runs if run.setting(RATE) == rates[len(rates) // 2]]


def _draw_layers(runs: Sequence[Run]) -> Drawing:
    """λ_max(H) and λ_max(G), the share of each layer, and products of layer Jacobians, over iterations."""
    groups = {kind: middle_rate(unsmoothed(finished(own))) for kind, own in grouped(runs, kind_name).items()}
    groups = {kind: own for kind, own in groups.items() if own}
    figure, axes = new_figure(max(len(groups), 1), 3, 2.4)
    data = new_columns("network", "curve", "step", "seeds", "mean", "low", "high")
    shown = list(FOLLOWERS)[:3]
    colours = dict(zip((SHARPNESS, GGN, *shown), PALETTE, strict=False))
    deepest = max((len(layer_names(own[0])) for own in groups.values()), default=1)
    with matplotlib.rc_context(STYLE):
        for row, (kind, own) in enumerate(groups.items()):
            left, middle, right = axes[3 * row : 3 * row + 3]
            for metric in (SHARPNESS, GGN):
                _draw_curve(left, data, kind, metric, [series(run, metric) for run in own], colours[metric])
            names = layer_names(own[0])
            for name, colour in zip(names, ordered_colours(len(names)), strict=True):
                _draw_curve(middle, data, kind, name, [_share_series(run, name) for run in own], colour, "log")
            for metric in shown:
                _draw_curve(right, data, kind, metric, [series(run, metric) for run in own], colours[metric], "log")
            metric_axis(left, (SHARPNESS,), r"$\lambda_{\max}$", "linear")
            metric_axis(
                middle, ("share",), r"$\lambda_{\max}$ of a layer's summand" + "\n" + r"over $\lambda_{\max}(G)$", "log"
            )
            metric_axis(right, ("norm",), "norm, max over examples", "log")
            left.set_title(f"{kind}, η = {number(own[0].setting(RATE))}", loc="left", fontweight="bold")
            for axis in (left, middle, right):
                axis.set_xlabel("iteration")
    handles = [Line2D([], [], color=colour) for colour in colours.values()]
    handles += [Line2D([], [], color=colour) for colour in (ordered_colours(deepest)[0], ordered_colours(deepest)[-1])]
    labels = ["λ_max(H)", "λ_max(G)", *(FOLLOWERS[name] for name in shown), "middle: first layer", "… last layer"]
    legend_below(figure, handles, labels)
    letter(axes)
    count = max((min(run.setting("measure.layer_examples"), 10**9) for run in runs), default=0)
    caption = (
        "Eq. 4 during training without label smoothing. Left: λ_max of the Hessian and of the Gauss-Newton matrix on "
        "all measured examples, with batch norm in train mode. Middle: λ_max of the summand of each layer over that "
        f"of their sum, the Gauss-Newton matrix on {count} examples, with batch norm in eval mode; a normalisation is "
        "a layer of its own. Right: largest norms over these examples of the derivative of the logits by the output "
        "of the first layer, of the product of the norms between neighbouring layers, and of the input-output "
        "Jacobian. Mean over seeds (geometric on logarithmic axes), band from smallest to largest. "
        f"{figures.context(runs)}"
    )
    return Drawing("layers", caption, figure, data)


def _draw_curve(
    axis: Axes,
    data: dict[str, list[Any]],
    kind: str,
    name: str,
    each: Sequence[Series],
    colour: str,
    scale: Literal["linear", "log"] = "linear",
) -> None:
    steps, values = at_common_steps(each)
    numbers = draw_mean_and_range(axis, steps, values, colour, scale == "log", alpha=0.15)
    for step, *cells in zip(steps, *numbers, strict=True):
        append_row(data, kind, name, float(step), len(values), *map(float, cells))


def _share_series(run: Run, layer: str) -> tuple[np.ndarray, np.ndarray]:
    return series(run, "layers.lambda_max")[0], share(run, layer)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Growth of sharpness and Jacobian norm; correlation of the factors of eq. 4 with λ_max(G); shares of layers."""
    return [_growth_table(runs), _follower_table(runs), _share_table(runs)]


def _growth_table(runs: Sequence[Run]) -> Table:
    rows = []
    for label, group in kinds_and_rates(finished(runs)).items():
        for alpha, own in by_setting(group, SMOOTHING).items():
            first, largest = ([f(series(run, SHARPNESS)[1]) for run in own] for f in (lambda values: values[0], np.max))
            crossings = [step for run in own if (step := edge_crossing(run)) is not None]
            cells = (
                _mean([run.metrics[-1]["step"] for run in own]),
                f"{100 * np.mean([run.final('train_accuracy') for run in own]):.1f} %",
                _mean([run.final(LOSS) for run in own]),
                f"{_mean(first)} → {_mean(largest)} → {_mean([run.final(SHARPNESS) for run in own])}",
                number(edge_of_stability(own[0]), 3),
                f"{_mean(crossings)} ({len(crossings)} of {len(own)})" if crossings else "never",
                f"× {_mean([growth_factor(run, JACOBIAN) for run in own])}",
                number(float(np.mean([tau_over_steps(run, JACOBIAN, SHARPNESS) for run in own])), 2),
            )
            rows.append((label, number(alpha), *cells, str(len(own))))
    header = (
        "network", "smoothing", "iterations", "train accuracy", "loss − entropy", "λ_max(H) start → largest → end",
        "2/η", "first reaches 2/η", "growth of softmaxed ‖∂σ(f)/∂x‖", "their Kendall τ", "seeds",
    )  # fmt: skip
    return Table("Progressive sharpening under label smoothing. Means over seeds.", header, tuple(rows))


def _mean(values: Sequence[float]) -> str:
    return number(float(np.mean(values)), 3)


def _follower_table(runs: Sequence[Run]) -> Table:
    rows = []
    for label, group in kinds_and_rates(finished(runs)).items():
        for alpha, own in by_setting(group, SMOOTHING).items():
            ratios = np.concatenate([ggn_ratios(run) for run in own])
            difference = max(np.nanmax(run.history("layers.difference")) for run in own)
            taus = [estimate([tau_with_ggn(run, name) for run in own]).interval for name in FOLLOWERS]
            rows.append(
                (
                    label,
                    number(alpha),
                    f"{difference:.0e}",
                    f"{number(float(np.median(ratios)), 2)} ({number(float(ratios.min()), 2)} to "
                    f"{number(float(ratios.max()), 2)})",
                    f"{100 * np.mean(np.abs(ratios - 1) <= 0.1):.0f} %",
                    *(
                        f"{one.mean:.2f} ± {one.high - one.mean:.2f}" if len(own) > 1 else f"{one.mean:.2f}"
                        for one in taus
                    ),
                )
            )
    header = ("network", "smoothing", "eq. 4, largest difference", "λ_max(G)/λ_max(H)", "within 10 %",
              *(f"τ of {words}" for words in FOLLOWERS.values()))  # fmt: skip
    caption = (
        "Eq. 4 during training. The largest difference is between the eigenvalues of the two sides, over the largest. "
        "Ratios are medians (range) over steps and seeds, on all measured examples. τ is Kendall's rank correlation "
        "with λ_max(G) over the steps of a run: mean and half width of its 95 % t-interval over seeds."
    )
    return Table(caption, header, tuple(rows))


def _share_table(runs: Sequence[Run]) -> Table:
    rows = []
    for kind, own in grouped(unsmoothed(finished(runs)), kind_name).items():
        group = middle_rate(own)
        for name in layer_names(group[0]):
            shares = np.array([share(run, name)[[0, -1]] for run in group])
            jacobians = np.array([series(run, f"layers.{name}.jacobian")[1][[0, -1]] for run in group])
            cells = (f"{100 * shares[:, when].mean():.0f} %" for when in (0, 1))
            norms = (number(float(jacobians[:, when].mean()), 3) for when in (0, 1))
            rows.append((f"{kind}, η = {number(group[0].setting(RATE))}", name, *cells, *norms))
    header = ("network", "layer l", "share, start", "share, end", "max ‖Jf_L ⋯ Jf_{l+1}‖, start", "end")
    caption = "λ_max of each layer's summand of eq. 4 over λ_max(G), without label smoothing. Means over seeds."
    return Table(caption, header, tuple(rows))
