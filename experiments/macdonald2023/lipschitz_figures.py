"""Figures and tables of `m_lipschitz`: maxima of samples of N examples against the suprema and the bounds."""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from hessflat.analysis.experiment import Drawing, Table
from hessflat.analysis.lipschitz_bounds import (
    FAILURE,
    PAPER_SAMPLE,
    cost_deviation_bounds,
    gap_at,
    gap_exponent,
    informative_from,
    largest_deviation,
    looseness,
    mean_deviation_bound,
    miss_bounds,
    miss_rate_ratio,
    sample_arrays,
    scalar,
    theorem_slope,
)
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.plot.style import GREY, PALETTE, STYLE, letter, ordered_colours
from hessflat.report import figures
from hessflat.report.figures.style import append_row, new_columns, new_figure

Recorder = Callable[[str, str, np.ndarray, np.ndarray], None]  # of a panel and a series, what is drawn

LATENT, RATE = "data.generator.latent", "optim.lr"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """One figure for each dimension of the cube."""
    return [_drawing(own, latent) for latent, own in by_setting(finished(runs), LATENT).items()]


def _drawing(runs: Sequence[Run], latent: int) -> Drawing:
    figure, axes = new_figure(2, 2, 2.7)
    groups = by_setting(runs, RATE)
    colours = ordered_colours(len(groups))
    middle = list(groups)[len(groups) // 2]
    data = new_columns("panel", "series", "size", "value")

    def record(panel: str, series: str, sizes: np.ndarray, values: np.ndarray) -> None:
        for size, value in zip(sizes, values, strict=True):
            append_row(data, panel, series, float(size), float(value))

    with matplotlib.rc_context(STYLE):
        _misses(axes[0], groups[middle], record)
        for (rate, own), colour in zip(groups.items(), colours, strict=True):
            arrays = [sample_arrays(run) for run in own]
            sizes, quantiles = arrays[0]["size"], np.mean([one["largest"] for one in arrays], axis=0)
            axes[1].plot(sizes, quantiles[:, 1], ".-", color=colour, linewidth=1, markersize=4, label=number(rate))
            axes[1].fill_between(sizes, quantiles[:, 0], quantiles[:, 2], color=colour, alpha=0.18, linewidth=0)
            record("largest norm", f"learning rate {number(rate)}, median", sizes, quantiles[:, 1])
            slopes, gaps = [scalar(run, "jacobian") for run in own], [100 * gap_at(run) for run in own]
            axes[3].plot(slopes, gaps, "o", color=colour, markersize=4, label=number(rate))
            record(
                "gap (%) against the Jacobian's Lipschitz constant",
                f"learning rate {number(rate)}",
                np.array(slopes),
                np.array(gaps),
            )
        axes[1].axhline(1.0, color="black", linewidth=0.6)
        axes[1].set_ylabel(r"$\max_i\,\|Jf(x_i)\|_2$ over supremum")
        axes[1].legend(title="learning rate", loc="lower right")
        _deviations(axes[2], groups[middle], record)
        axes[3].set_xlabel("Lipschitz constant of the Jacobian, $\\|Jf\\|_{Lip}$")
        axes[3].set_ylabel(f"mean gap to supremum, $N$ = {PAPER_SAMPLE:,} (%)")
        axes[3].set_ylim(0, None)
        axes[3].legend(title="learning rate")
        for axis in axes[:3]:
            axis.set_xscale("log")
            axis.set_xlabel("examples in a sample, $N$")
    letter(axes)
    seeds = len({run.seed for run in runs})
    caption = (
        f"Samples of N fresh examples, pushed forward from a cube of dimension {latent}. (a) Share of samples whose "
        "largest Jacobian norm misses the supremum by more than a share ε of it. Points: counted; solid: from the "
        "share of single examples; dashed: theorem 4.5 with the Lipschitz constant of the norm on the cube; dotted: "
        f"with the product of theorem 4.4. Learning rate {number(middle)}. (b) The largest norm: median and 5 to 95 % "
        "of samples. (c) Distance of mean costs from their expectation: 95 % quantile of samples, theorem 4.6, the "
        "theorem with the Lipschitz constant of the cost itself, and the largest possible deviation. The star is the "
        f"training sample, to which the theorem does not apply. Learning rate {number(middle)}. (d) Gap between the "
        "largest norm and the supremum, against the Lipschitz constant of the Jacobian, for every run. Means over "
        f"{seeds} seed{'s' if seeds > 1 else ''}. {figures.context(runs)}"
    )
    return Drawing(f"samples-{latent}", caption, figure, data)


def _misses(axis: Axes, runs: Sequence[Run], record: Recorder) -> None:
    arrays = [sample_arrays(run) for run in runs]
    sizes, misses = arrays[0]["size"], arrays[0]["misses"]
    fine = np.geomspace(sizes[0], sizes[-1], 100)
    for index, (share, colour) in enumerate(zip(misses, PALETTE, strict=False)):
        counted = np.mean([one["missed"][:, index] for one in arrays], axis=0)
        exact = np.mean([one["miss"][index] ** fine for one in arrays], axis=0)
        axis.plot(sizes[counted > 0], counted[counted > 0], ".", color=colour, markersize=4)
        axis.plot(fine, exact, color=colour, linewidth=1, label=f"{100 * share:g} %")
        record("misses", f"counted, ε {share:g}", sizes, counted)
        for slope, style in ((lambda run: scalar(run, "norm_slope"), "--"), (theorem_slope, ":")):
            limits = np.mean([miss_bounds(run, slope(run), fine)[:, index] for run in runs], axis=0)
            axis.plot(fine, limits, style, color=colour, linewidth=0.9)
            kind = "sharper bound" if style == "--" else "bound"
            record("misses", f"{kind}, ε {share:g}", fine, limits)
    axis.set_yscale("log")
    axis.set_ylim(1e-4, 1.6)
    axis.set_ylabel("probability of missing the supremum")
    axis.set_xlim(sizes[0] / 30, None)
    axis.legend(title="ε / supremum", loc="lower left")


def _deviations(axis: Axes, runs: Sequence[Run], record: Recorder) -> None:
    arrays = [sample_arrays(run) for run in runs]
    sizes = arrays[0]["size"]
    fine = np.unique(np.geomspace(sizes[0], 1e7, 80).astype(np.int64))
    seen = np.mean([one["deviation"][:, -1] for one in arrays], axis=0)
    theorem = np.array([cost_deviation_bounds(run, fine) for run in runs])
    finite = np.isfinite(theorem).all(0)
    sharper = np.mean([mean_deviation_bound(fine, scalar(run, "cost_slope"), FAILURE) for run in runs], axis=0)
    axis.plot(sizes, seen, ".-", color=PALETTE[0], label="seen, 95 %")
    axis.plot(fine[finite], theorem.mean(0)[finite], ":", color=PALETTE[1], label="theorem 4.6")
    axis.plot(fine, sharper, "--", color=PALETTE[2], label="with the cost's own slope")
    axis.axhline(
        float(np.mean([largest_deviation(run) for run in runs])),
        color=GREY,
        linewidth=0.9,
        label="largest there can be",
    )
    num_train = runs[0].manifest["examples"]["train"]
    own = np.mean([abs(scalar(run, "own_cost") - scalar(run, "cost")) for run in runs])
    axis.plot([num_train], [own], "*", color="black", markersize=6, label="training sample")
    for name, places, values in (
        ("seen", sizes, seen),
        ("theorem 4.6", fine[finite], theorem.mean(0)[finite]),
        ("with the cost's own slope", fine, sharper),
        ("training sample", np.array([num_train]), np.array([own])),
    ):
        record("deviation", name, places, values)
    axis.set_yscale("log")
    axis.set_ylabel("deviation of mean cost")
    axis.legend(loc="upper right", ncols=1)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Lipschitz constants, sample maxima and bounds by dimension and learning rate; means over seeds."""
    constants, comparisons = [], []
    for latent, group in by_setting(finished(runs), LATENT).items():
        for rate, own in by_setting(group, RATE).items():
            label = (str(latent), number(rate))
            names = ("norm", "norm_slope", "jacobian", "generator", "pair", "cost_slope", "cost")
            means = [float(np.mean([scalar(run, name) for run in own])) for name in names]
            product = float(np.mean([theorem_slope(run) for run in own]))
            constants.append((*label, *(number(mean, 3) for mean in means), number(product, 3), str(len(own))))
            values = [
                (
                    100 * gap_at(run),
                    100 * (1 - scalar(run, "own_norm") / scalar(run, "norm")),
                    gap_exponent(run),
                    miss_rate_ratio(run),
                    looseness(run)[-1],
                    informative_from(run),
                    abs(scalar(run, "own_cost") - scalar(run, "cost")),
                )
                for run in own
            ]
            cells = np.mean(values, axis=0)
            comparisons.append((*label, *(number(float(cell), 3) for cell in cells), str(len(own))))
    return [
        Table(
            (
                "Suprema over the cube, and the mean cost E ℓ. ‖Jf‖ is the Jacobian norm; its slope is on the cube. "
                "Lipschitz constants are those of the Jacobian along the data, of the map F to inputs, of the map (F, "
                "T) to inputs and targets, and of the cost ℓ. Means over seeds."
            ),
            (
                "n",
                "lr",
                "sup ‖Jf‖",
                "its slope",
                "‖Jf‖_Lip",
                "‖F‖_Lip",
                "‖(F, T)‖_Lip",
                "‖ℓ‖_Lip",
                "E ℓ",
                "‖Jf‖_Lip ‖F‖_Lip",
                "seeds",
            ),
            tuple(constants),
        ),
        Table(
            (
                f"Gap of the largest norm of {PAPER_SAMPLE:,} examples, and of the training sample (own), to the "
                "supremum. Exponent: of N in that gap. Rate: of missing the supremum, counted over expected. Eq. 10: "
                "its bound over the deviation seen at the largest N, and the N from which it is below the largest "
                "possible deviation. Own deviation: that of the training sample. Means over seeds."
            ),
            (
                "n",
                "lr",
                "gap (%)",
                "own gap (%)",
                "exponent",
                "rate",
                "eq. 10 over seen",
                "from N",
                "own deviation",
                "seeds",
            ),
            tuple(comparisons),
        ),
    ]
