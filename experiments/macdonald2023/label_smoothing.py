"""Rules and figure elements that the experiments of *On progressive sharpening* on label smoothing share."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from hessflat.analysis import claims
from hessflat.analysis.experiment import Evidence
from hessflat.analysis.histories import first_crossing, growth_factor, stability_limit
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.plot.style import GREY, ordered_colours

SMOOTHING = "train.label_smoothing"
SHARPNESS = "hessian.lambda_max"
JACOBIAN = "softmax_jacobian.max"
LOSS = "outputs.excess_loss"
NORM = "outputs.frobenius"


def less_growth(runs: Sequence[Run], metric: str, what: str, to_epoch: float = np.inf) -> Evidence:
    """Does the growth factor of a metric, named `what`, decrease with label smoothing?"""
    return claims.in_order(
        runs,
        lambda run: growth_factor(run, metric, to_epoch),
        f"growth of {what} (largest{'' if np.isinf(to_epoch) else f' up to epoch {to_epoch:g}'} over first)",
        SMOOTHING,
        "decreases",
        lambda x: f"× {number(x, 3)}",
    )


def edge_of_stability(run: Run) -> float:
    """2/η: the largest curvature of a quadratic on which gradient descent is stable."""
    return stability_limit(run.setting("optim.lr"))


def mark_edge(axis: Axes, runs: Sequence[Run]) -> None:
    """Draw 2/η as a dashed line, and a marker at the first crossing of each run."""
    done = finished(runs)
    alphas = sorted({run.setting(SMOOTHING) for run in runs})
    colours = dict(zip(alphas, ordered_colours(len(alphas)), strict=True))
    for edge in sorted({edge_of_stability(run) for run in done}):
        axis.axhline(edge, color=GREY, linestyle=(0, (4, 2)), linewidth=0.9, zorder=0.5)
        axis.annotate(
            r"$2/\eta$", (1, edge), xycoords=("axes fraction", "data"), xytext=(2, 0), textcoords="offset points",
            fontsize=7, va="center", color=GREY,
        )  # fmt: skip
    for run in done:
        step = first_crossing(run, SHARPNESS, edge_of_stability(run))
        if step is not None:
            axis.plot(step, edge_of_stability(run), "v", color=colours[run.setting(SMOOTHING)], markersize=4, alpha=0.8)
