"""Are Jacobians with batch norm in train and in eval mode the same? *On progressive sharpening*, theorem A.1."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.statistics import power_law_exponent
from hessflat.report import figures
from hessflat.report.figures.style import (
    GREY,
    PALETTE,
    STYLE,
    append_row,
    draw_mean_and_range,
    letter,
    new_columns,
    new_figure,
)

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
ALLOWED = 0.2


def measured(run: Run, what: str = "network", step: int | None = None) -> dict[str, np.ndarray]:
    """`network` or `layer`, a value for every N, at a step, the last one by default."""
    return run.spectrum(f"batch_norm-{what}", step)


def exponent_of_examples(run: Run, quantity: str, what: str = "network", step: int | None = None) -> float:
    """Of N in what is measured, for N of 30 and more."""
    arrays = measured(run, what, step)
    fitted = arrays["examples"] >= FIRST
    if fitted.sum() < 2:
        fitted = np.ones_like(fitted)
    return power_law_exponent(arrays["examples"][fitted], arrays[quantity][fitted])


def norms_apart(run: Run, step: int | None = None) -> np.ndarray:
    """The relative difference of ‖J_T‖₂ and ‖J_V‖₂ = max_i ‖∂f(x_i)/∂x_i‖₂, for every N."""
    arrays = measured(run, "network", step)
    return np.abs(arrays["train_operator"] / arrays["eval_operator"] - 1)


def at_paper_sample(run: Run) -> float:
    """That difference at the largest N of at most 2,500."""
    sizes = measured(run)["examples"]
    return float(norms_apart(run)[sizes <= LARGEST_PAPER_SAMPLE][-1])


def modes_apart(run: Run) -> float:
    """|log| of λ_max(H) in eval mode over that in train mode, at the largest N."""
    arrays = measured(run)
    return float(abs(np.log(arrays["hessian_eval"][-1] / arrays["hessian_train"][-1])))


def by_model(runs: Sequence[Run]) -> dict[str, list[Run]]:
    return by_setting(finished(runs), "model.name")


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """The differences against N, for the layer and each network; norms and λ_max in both modes."""
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
        "Jacobians of a whole batch of N examples, outputs by inputs, with batch norm in train mode (J_T) less eval "
        f"mode (J_V) with the statistics of the same batch: (a) a layer alone, ({networks}) after training; dashed "
        f"1/N, dotted 1/√N. ({of_norms}) How far apart the norms of the two Jacobians are; grey: the paper's sample "
        f"sizes. ({of_sharpness}) The largest eigenvalue of the Hessian in either mode. Rows and blocks of "
        f"{done[0].setting('measure.blocks')} examples, norms of the whole by Lanczos iteration. Geometric means over "
        f"{len({run.seed for run in done})} seeds; bands: their range. {figures.context(runs)}"
    )
    return [Drawing("modes", caption, figure, data)]


class Curve(NamedTuple):
    """Whose curves are drawn, in which colour, and the columns of their numbers."""

    data: dict[str, list[object]]
    panel: str
    runs: Sequence[Run]
    colour: str


def _spread(
    axis: Axes, shown: Curve, name: str, values_in_run: Callable[[Run], np.ndarray], linestyle: str = "-"
) -> None:
    """Geometric mean over seeds, and their range."""
    sizes = measured(shown.runs[0], "layer")["examples"]
    values = np.array([values_in_run(run) for run in shown.runs])
    for run, row in zip(shown.runs, values, strict=True):
        for size, value in zip(sizes, row, strict=True):
            append_row(shown.data, shown.panel, name, run.seed, int(size), float(value))
    draw_mean_and_range(
        axis, sizes, values, shown.colour, True, marker=".", markersize=4, linewidth=1, linestyle=linestyle
    )


def _differences(axis: Axes, data: dict[str, list[object]], panel: str, own: Sequence[Run]) -> None:
    """What there is of J_T − J_V, with guides through the first point of its blocks."""
    what = "layer" if panel == "layer" else "network"
    for quantity, colour in zip(DIFFERENCES, PALETTE, strict=False):
        _spread(axis, Curve(data, panel, own, colour), quantity, lambda run, q=quantity: measured(run, what)[q])  # type: ignore[misc]
    sizes = measured(own[0], what)["examples"]
    height = 1.4 * np.exp(np.log([measured(run, what)["diagonal"][0] for run in own]).mean())
    for power, style in ((1.0, "--"), (0.5, ":")):
        axis.plot(sizes, height * (sizes / sizes[0]) ** -power, color="black", linestyle=style, linewidth=0.7)
    axis.set_ylabel("difference of Jacobians")


def _legend(axis: Axes, networks: Sequence[str]) -> None:
    """In place of a panel: what colours and dashes mean above, and in the panels below."""
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
    """The runs of the network with the largest N: the layer is the same in all."""
    return max(groups.values(), key=lambda own: measured(own[0], "layer")["examples"][-1])


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Fitted exponents at the first and the last measurement, and the norms at every N; means over seeds."""
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
            f"Exponents of N, fitted for N of {FIRST} and more, in the largest entry, block, row and the norm of "
            "J_T − J_V. Mean ± standard deviation over seeds.",
            ("of", "weights", *DIFFERENCES.values(), "seeds"),
            tuple(exponents),
        ),
        Table(
            "Norms of the Jacobians of the whole batch and of the largest measured block on their diagonals, and "
            "λ_max(H), in either mode. Means over seeds.",
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
    """A row for every N."""
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


def as_one_over_n(runs: Sequence[Run], what: str) -> Evidence:
    """Are all exponents −1 within the tolerance, by intervals over seeds? `what` is the layer or a network's name."""
    groups = by_model(runs)
    own = longest(groups) if groups and what == "layer" else groups.get(what, [])
    if not own:
        return claims.exceeds([], at_paper_sample, 0.0, "exponent")
    parts = []
    for quantity in FALLING:
        of = "layer" if what == "layer" else "network"
        words = f"exponent of the {DIFFERENCES[quantity]}"
        fitted = partial(exponent_of_examples, quantity=quantity, what=of)
        upper = claims.falls_below(own, fitted, -1 + ALLOWED, words)
        lower = claims.exceeds(own, fitted, -1 - ALLOWED, words)
        parts.append(claims.all_hold(upper, lower)._replace(value=upper.value, spread=upper.spread))
    return claims.all_hold(*parts)


def does_not_fall(runs: Sequence[Run]) -> Evidence:
    groups = by_model(runs)
    if not groups:
        return claims.exceeds(runs, lambda run: 0.0, 0.0, "exponent")
    networks = [
        claims.exceeds(
            own,
            lambda run: exponent_of_examples(run, "operator"),
            -ALLOWED,
            f"exponent of ‖J_T − J_V‖₂ ({NETWORKS.get(name, name)})",
        )
        for name, own in groups.items()
    ]
    alone = claims.exceeds(
        longest(groups),
        lambda run: exponent_of_examples(run, "operator", "layer"),
        -ALLOWED,
        "exponent of ‖J_T − J_V‖₂ (layer)",
    )
    return claims.all_hold(alone, *networks)


def norms_agree(runs: Sequence[Run]) -> Evidence:
    what = f"relative difference of ‖J_T‖₂ and ‖J_V‖₂ at the largest N up to {LARGEST_PAPER_SAMPLE:,}"
    return claims.falls_below(runs, at_paper_sample, 0.01, what)


def sharpness_differs(runs: Sequence[Run]) -> Evidence:
    own = [run for run in finished(runs) if "hessian_train" in measured(run)]
    what = "|log| of λ_max(H) in eval over train mode at the largest N"
    return claims.exceeds(own, modes_apart, float(np.log(1.2)), what)


WITHIN = f"fitted exponent of N −1 within {ALLOWED:g}, 95 % t-interval over seeds, N of {FIRST} and more"
EXPERIMENT = Experiment(
    id="m_bn_modes",
    paper="M",
    question="Are Jacobians with batch norm in train and in eval mode the same for large samples, and in what sense?",
    config="m_bn_modes",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="layer",
            paper="M",
            where="app. A.1, theorem A.1",
            statement="entries of the Jacobian of a batch-norm layer in train and in eval mode differ by O(1/N)",
            paper_value="a proof",
            rule=f"largest entry and block of J_T − J_V: {WITHIN}; the largest coordinate of more examples is larger",
            decide=partial(as_one_over_n, what="layer"),
        ),
        Claim(
            id="perceptron",
            paper="M",
            where="app. A.1",
            statement="so do, for a whole network, entries and the blocks of single examples",
            paper_value="expected of networks of such layers",
            rule=f"largest entry and blocks of J_T − J_V: {WITHIN}",
            decide=partial(as_one_over_n, what="mlp"),
        ),
        Claim(
            id="convolutional",
            paper="M",
            where="app. A.1",
            statement="so do, for a network of convolutions, entries and the blocks of single examples",
            paper_value="expected of networks of such layers",
            rule=f"largest entry and blocks of J_T − J_V: {WITHIN}",
            decide=partial(as_one_over_n, what="vgg"),
        ),
        Claim(
            id="jacobian-norms",
            paper="M",
            where="app. A.1; §6",
            statement="on the samples of the paper, Jacobian norms in eval mode stand for those in train mode",
            paper_value="1,000 to 2,500 examples",
            rule="‖J_T‖₂ of the whole sample and max_i ‖∂f(x_i)/∂x_i‖₂ within 1 %, 95 % t-interval over seeds",
            decide=norms_agree,
        ),
        Claim(
            id="norm-does-not-fall",
            paper="hessflat",
            where="beyond the paper; app. A.1",
            statement="the norm of the difference of the two Jacobians, as a whole, does not fall with N",
            paper_value="not in the paper, whose O(1/N) is of entries",
            rule=f"fitted exponent of N in ‖J_T − J_V‖₂ above −{ALLOWED:g}, 95 % t-interval, layer and each network",
            decide=does_not_fall,
        ),
        Claim(
            id="sharpness-differs",
            paper="hessflat",
            where="beyond the paper; app. A.1",
            statement=(
                "the sharpness in train and in eval mode with the same statistics stays apart, however many examples"
            ),
            paper_value="not in the paper",
            rule="λ_max(H) in eval over train mode at the largest N off 1 by more than a factor 1.2, 95 % t-interval",
            decide=sharpness_differs,
        ),
    ),
    notes="J_T − J_V of a layer has, in every channel, rank 2 and the norm 1/s: along the mean of the channel and "
    "along the activations themselves, two directions that train mode removes whatever N is. The input of one example "
    "hardly moves these, so that norms of Jacobians agree; a weight moves all examples at once, and the Hessians' "
    "largest eigenvalues stay apart. "
    "In networks of convolutions a channel's statistics are of N images, all pixels.",
)
