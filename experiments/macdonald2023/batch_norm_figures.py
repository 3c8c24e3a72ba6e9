"""Figures and tables of `m_bn_modes`: Jacobians and Hessians in the two modes of batch norm, by number of examples.

J_T is the Jacobian of a whole batch of N examples in train mode, J_V in eval mode with the statistics of that batch.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.statistics import power_law_exponent
from hessflat.plot.style import GREY, PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, draw_mean_and_range, new_columns, new_figure

# What is measured of J_T − J_V, in words and as the table has it.
DIFFERENCES = {
    "largest_entry": "largest entry",
    "diagonal": "block ∂f(X)ᵢ/∂xᵢ",
    "off_diagonal": "block ∂f(X)ᵢ/∂xⱼ",
    "row": "largest row",
    "operator": "norm of the whole",
}
FALLING = ("largest_entry", "diagonal", "off_diagonal")
NETWORKS = {"mlp": "perceptron", "vgg": "VGG-11"}
# Exponents are fitted where N is large enough for the statistics not to depend on a few examples.
FIRST = 30
# The paper measures Jacobian norms on 1,000 to 2,500 examples.
LARGEST_PAPER_SAMPLE = 2_500


def measured(run: Run, what: str = "network", step: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `network` or a `layer` alone, one value for each N; the last measured step by default."""
    return run.spectrum(f"batch_norm-{what}", step)


def exponent_of_examples(run: Run, quantity: str, what: str = "network", step: int | None = None) -> float:
    """The exponent of N in a quantity, fitted to N of at least `FIRST`."""
    arrays = measured(run, what, step)
    fitted = arrays["examples"] >= FIRST
    if fitted.sum() < 2:
        fitted = np.ones_like(fitted)
    return power_law_exponent(arrays["examples"][fitted], arrays[quantity][fitted])


def norms_apart(run: Run, step: int | None = None) -> np.ndarray:
    """|‖J_T‖₂ / ‖J_V‖₂ − 1| for every N, with ‖J_V‖₂ = max_i ‖∂f(x_i)/∂x_i‖₂."""
    arrays = measured(run, "network", step)
    return np.abs(arrays["train_operator"] / arrays["eval_operator"] - 1)


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Finished runs grouped by network."""
    return by_setting(finished(runs), "model.name")


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The differences of Jacobians against N, for the layer and each network; norms and λ_max in both modes."""
    groups = by_model(runs)
    figure, axes = new_figure(2, 3, 2.4)
    data = new_columns("panel", "quantity", "seed", "examples", "value")
    with matplotlib.rc_context(STYLE):
        panels = [("layer", "layer alone", longest(groups))]
        panels += [(name, NETWORKS.get(name, name), own) for name, own in groups.items()]
        for axis, (panel, title, own) in zip(axes, panels, strict=False):
            _differences(axis, data, panel, own)
            axis.set_title(title)
        for axis in axes[len(panels) : 3]:
            axis.set_visible(False)
        apart, sharp, legend = axes[3:]
        for index, (name, own) in enumerate(groups.items()):
            shown = Curve(data, name, own, PALETTE[index])
            _spread(apart, shown, "norms apart", lambda run: np.maximum(norms_apart(run), 1e-8))
            if "hessian_train" in measured(own[0]):
                _spread(sharp, shown, "λ_max(H), train mode", lambda run: measured(run)["hessian_train"])
                _spread(sharp, shown, "λ_max(H), eval mode", lambda run: measured(run)["hessian_eval"], "--")
        apart.axvspan(1_000, LARGEST_PAPER_SAMPLE, color=GREY, alpha=0.2, linewidth=0)
        apart.set_ylabel(r"$|\,\|J_T\|_2 / \|J_V\|_2 - 1\,|$")
        sharp.set_ylabel(r"$\lambda_{\max}(H)$")
        for axis in (*axes[: len(panels)], apart, sharp):
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlabel("examples $N$")
        _legend(legend, list(groups))
    letter([*axes[: len(panels)], apart, sharp])
    *of_networks, of_norms, of_sharpness = (chr(ord("b") + index) for index in range(len(groups) + 2))
    networks = of_networks[0] if len(of_networks) == 1 else f"{of_networks[0]}) to ({of_networks[-1]}"
    done = finished(runs)
    caption = (
        "Difference of the Jacobians of a whole batch of N examples, outputs by inputs, with batch norm in train mode "
        f"(J_T) and in eval mode (J_V) with the statistics of the same batch: (a) for a single layer, ({networks}) for "
        f"networks after training. Dashed: 1/N; dotted: 1/√N. ({of_norms}) Relative difference of the norms of the two "
        f"Jacobians; grey: the paper's sample sizes. ({of_sharpness}) Largest eigenvalue of the Hessian in both modes. "
        f"Rows and blocks are of {done[0].setting('measure.blocks')} examples; norms of the whole are by Lanczos "
        f"iteration. Geometric means over {len({run.seed for run in done})} seeds; bands are their range. "
        f"{figures.context(runs)}"
    )
    return [Drawing("modes", caption, figure, data)]


class Curve(NamedTuple):
    """The runs whose curve is drawn, its colour, and the columns of its numbers."""

    data: dict[str, list[Any]]
    panel: str
    runs: Sequence[Run]
    colour: str


def _spread(
    axis: Axes, shown: Curve, name: str, values_in_run: Callable[[Run], np.ndarray], linestyle: str = "-"
) -> None:
    """Draw the geometric mean over seeds and their range."""
    sizes = measured(shown.runs[0], "layer")["examples"]
    values = np.array([values_in_run(run) for run in shown.runs])
    for run, row in zip(shown.runs, values, strict=True):
        for size, value in zip(sizes, row, strict=True):
            append_row(shown.data, shown.panel, name, run.seed, int(size), float(value))
    draw_mean_and_range(
        axis, sizes, values, shown.colour, True, marker=".", markersize=4, linewidth=1, linestyle=linestyle
    )


def _differences(axis: Axes, data: dict[str, list[Any]], panel: str, own: Sequence[Run]) -> None:
    """Draw the norms of J_T − J_V, with reference lines 1/N and 1/√N."""
    what = "layer" if panel == "layer" else "network"
    for quantity, colour in zip(DIFFERENCES, PALETTE, strict=False):
        _spread(axis, Curve(data, panel, own, colour), quantity, lambda run, q=quantity: measured(run, what)[q])  # type: ignore[misc]
    sizes = measured(own[0], what)["examples"]
    height = 1.4 * np.exp(np.log([measured(run, what)["diagonal"][0] for run in own]).mean())
    for power, style in ((1.0, "--"), (0.5, ":")):
        axis.plot(sizes, height * (sizes / sizes[0]) ** -power, color="black", linestyle=style, linewidth=0.7)
    axis.set_ylabel("difference of Jacobians")


def _legend(axis: Axes, networks: Sequence[str]) -> None:
    """Draw the legends of the upper and lower panels into an empty panel."""
    axis.axis("off")
    lines = [Line2D([], [], color=PALETTE[i], marker=".") for i in range(len(DIFFERENCES))]
    lines += [Line2D([], [], color="black", linestyle=style, linewidth=0.7) for style in ("--", ":")]
    words = [
        "largest entry",
        r"largest $\|$block $\partial f(X)_i/\partial x_i\|_2$",
        r"largest $\|$block $\partial f(X)_i/\partial x_j\|_2$",
        "largest norm of a row",
        r"$\|J_T - J_V\|_2$ of the whole",
        "$1/N$",
        r"$1/\sqrt{N}$",
    ]
    axis.add_artist(axis.legend(lines, words, loc="upper left", title="upper panels", borderaxespad=0))
    lines = [Line2D([], [], color=PALETTE[i]) for i in range(len(networks))]
    lines += [Line2D([], [], color="black", linestyle=style) for style in ("-", "--")]
    words = [*(NETWORKS.get(name, name) for name in networks), "train mode", "eval mode"]
    axis.legend(lines, words, loc="lower left", title="lower panels", borderaxespad=0, ncols=2)


def longest(groups: dict[str, list[Run]]) -> list[Run]:
    """The runs of the network with the largest N; the layer is the same for all networks."""
    return max(groups.values(), key=lambda own: measured(own[0], "layer")["examples"][-1])


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Fitted exponents at the first and the last measured step, and norms at every N; means over seeds."""
    exponents, norms = [], []
    groups = by_model(runs)
    if groups:
        own = longest(groups)
        exponents.append(("layer alone", "–", *_exponents(own, "layer", [None] * len(own)), str(len(own))))
    for name, own in groups.items():
        for when, steps in {"initial": [run.metrics[0]["step"] for run in own], "trained": [None] * len(own)}.items():
            if all(run.has_spectrum("batch_norm-network", step) for run, step in zip(own, steps, strict=True)):
                title = NETWORKS.get(name, name)
                exponents.append((title, when, *_exponents(own, "network", steps), str(len(own))))
                norms += [(title, when, *row) for row in _norms(own, steps)]
    wide = ("of", "weights", "N", "‖J_V‖₂", "‖J_T‖₂", "apart", "block of J_V", "block of J_T", "‖J_T − J_V‖₂")
    return [
        Table(
            (
                f"Exponents of N, fitted from N = {FIRST} on, of the largest entry, block and row of J_T − J_V and of "
                "its norm. Mean ± standard deviation over seeds."
            ),
            ("of", "weights", *DIFFERENCES.values(), "seeds"),
            tuple(exponents),
        ),
        Table(
            (
                "Norms of the Jacobians of the whole batch and of the largest measured block on their diagonals, and "
                "λ_max(H), in both modes. Means over seeds."
            ),
            (*wide, "λ_max(H), train", "λ_max(H), eval"),
            tuple(norms),
        ),
    ]


def _exponents(runs: Sequence[Run], what: str, steps: Sequence[int | None]) -> list[str]:
    cells = []
    for quantity in DIFFERENCES:
        slopes = [exponent_of_examples(run, quantity, what, step) for run, step in zip(runs, steps, strict=True)]
        spread = f" ± {np.std(slopes, ddof=1):.3f}" if len(slopes) > 1 else ""
        cells.append(f"{np.mean(slopes):.3f}{spread}")
    return cells


def _norms(runs: Sequence[Run], steps: Sequence[int | None]) -> list[tuple[str, ...]]:
    """One row for each N."""
    arrays = [measured(run, "network", step) for run, step in zip(runs, steps, strict=True)]
    means = {name: np.mean([one[name] for one in arrays], axis=0) for name in arrays[0]}
    apart = np.mean([norms_apart(run, step) for run, step in zip(runs, steps, strict=True)], axis=0)
    rows = []
    for index, size in enumerate(arrays[0]["examples"]):
        whole = [number(float(means[name][index])) for name in ("eval_operator", "train_operator")]
        rest = [number(float(means[name][index])) for name in ("eval_block", "train_block", "operator")]
        sharp = [
            number(float(means[name][index])) if name in means else "–" for name in ("hessian_train", "hessian_eval")
        ]
        rows.append((str(size), *whole, f"{100 * apart[index]:.3f} %", *rest, *sharp))
    return rows
