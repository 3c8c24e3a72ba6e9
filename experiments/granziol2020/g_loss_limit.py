"""Does curvature tend to 0 with the loss? *Flatness is a False Friend*, §3.1 and appendix A."""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib
import numpy as np

from hessflat.analysis import limits
from hessflat.analysis.designs import FIFTH, to_one
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, seeds_added
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.analysis.statistics import exponential_r_squared, exponential_rate, power_law_exponent
from hessflat.plot.style import PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, legend_of_axis, new_columns, new_figure

SCALINGS = {"last": "last layer × t", "all": "all layers × t^(1/layers)"}
LABELS = {"lambda_max": "λ_max(H)", "trace": "Tr H", "frobenius": "‖H‖_F"}
# The largest scales, beyond which the exponential should have outgrown the polynomial.
TAIL = 4


def curves(run: Run, scaling: str) -> dict[str, np.ndarray]:
    """The arrays `[n]` of one scaling of the weights: factors `scale`, and loss and measures of the Hessian."""
    return run.spectrum(f"loss_limit-{scaling}")


def tail(run: Run, scaling: str) -> dict[str, np.ndarray]:
    """The last `TAIL` entries of these arrays, at the largest factors."""
    return {name: values[-TAIL:] for name, values in curves(run, scaling).items()}


def rate(run: Run, scaling: str, measure: str) -> float:
    """−d log(measure) / dt, fitted over the largest factors t."""
    return -exponential_rate(tail(run, scaling)["scale"], tail(run, scaling)[measure])


def straightness(run: Run, scaling: str, measure: str) -> float:
    """R² of the fit of `rate`."""
    return exponential_r_squared(tail(run, scaling)["scale"], tail(run, scaling)[measure])


def loss_exponent(run: Run, scaling: str, measure: str) -> float:
    """The exponent of the loss in the measure, fitted over the largest factors; 1 where the two are proportional."""
    return power_law_exponent(tail(run, scaling)["loss"], tail(run, scaling)[measure])


def smallest(run: Run, fit: Callable[[Run, str, str], float]) -> float:
    """The minimum of a fit over measures and scalings."""
    return min(fit(run, scaling, measure) for scaling in SCALINGS for measure in LABELS)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Each measure against the factor t and against the loss, for both scalings."""
    done = finished(runs)
    figure, axes = new_figure(2, 2, 2.2)
    data = new_columns("way", "seed", "measure", "scale", "loss", "value")
    with matplotlib.rc_context(STYLE):
        for column, (scaling, words) in enumerate(SCALINGS.items()):
            over_scale, over_loss = axes[column], axes[2 + column]
            for run in done:
                along = curves(run, scaling)
                for index, (measure, label) in enumerate(LABELS.items()):
                    for axis, x in ((over_scale, "scale"), (over_loss, "loss")):
                        axis.plot(along[x], along[measure], ".-", color=PALETTE[index], linewidth=0.8, label=label)
                    for scale, loss, value in zip(along["scale"], along["loss"], along[measure], strict=True):
                        append_row(data, scaling, run.seed, label, float(scale), float(loss), float(value))
                over_scale.plot(
                    along["scale"], along["loss"], color="black", linestyle="--", linewidth=0.8, label="loss"
                )
            for axis in (over_scale, over_loss):
                axis.set_ylabel("measure of $H$")
            over_scale.set_title(words)
            over_scale.set_xlabel("$t$")
            over_scale.set_yscale("log")
            over_loss.set_xlabel("training loss (nats)")
            over_loss.set_xscale("log")
            over_loss.set_yscale("log")
        legend_of_axis(axes[0], fontsize=6)
    letter(axes)
    caption = (
        "Largest eigenvalue, trace and Frobenius norm of the Hessian when trained weights are multiplied by a factor "
        "t. (a), (b) Against t, with the loss. (c), (d) Against the loss. In float64; trace and Frobenius norm are "
        f"from {done[0].setting('measure.trace_probes')} probes, the same at every t. All seeds. "
        f"{figures.context(runs)}"
    )
    return [Drawing("loss-limit", caption, figure, data)]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Fitted rates, means over seeds."""
    done, rows = finished(runs), []
    for scaling, words in SCALINGS.items():
        loss = np.mean([rate(run, scaling, "loss") for run in done])
        for measure, label in LABELS.items():
            fits = [
                np.mean([fit(run, scaling, measure) for run in done]) for fit in (rate, straightness, loss_exponent)
            ]
            rows.append((words, label, *(number(float(fit), 4) for fit in (fits[0], loss, *fits[1:])), str(len(done))))
    caption = (
        f"Fits over the {TAIL} largest scales: the log of each measure against t (rate, R²) and against the log of the "
        "loss."
    )
    header = ("scaling", "measure", "rate", "rate of the loss", "R²", "exponent of the loss", "seeds")
    return [Table(f"{caption} Means over seeds.", header, tuple(rows))]


def exponentially(runs: Sequence[Run]) -> Evidence:
    """Do all measures fall exponentially in t: rate above 0 and R² above 0.98?"""
    return all_hold(
        limits.exceeds(
            runs,
            partial(smallest, fit=rate),
            0.0,
            f"rate of −log against t over the {TAIL} largest scales, smallest of all measures and scalings,",
            least=FIFTH,
        ),
        limits.exceeds(
            runs, partial(smallest, fit=straightness), 0.98, "R² of that fit, smallest of all,", least=to_one(0.98)
        ),
    )


def as_the_loss(runs: Sequence[Run]) -> Evidence:
    """Is the exponent of the loss above 0.75 for all measures?"""
    return limits.exceeds(
        runs,
        partial(smallest, fit=loss_exponent),
        0.75,
        f"d log(measure) / d log(loss) over the {TAIL} largest scales, smallest of all,",
    )


EXPERIMENT = Experiment(
    id="g_loss_limit",
    paper="G",
    question="Do λ_max, trace and Frobenius norm fall to zero with the loss, exponentially in the scale of the logits?",
    config="g_loss_limit",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="exponentially",
            paper="G",
            where="§3.1, app. A",
            statement="as weights grow and the loss falls, λ_max, trace and Frobenius norm fall exponentially",
            paper_value="an argument without numbers",
            decide=exponentially,
        ),
        Claim(
            id="exponential-outgrows-polynomial",
            paper="G",
            where="§3.1",
            statement="the exponential goes to zero faster than the polynomial in the weights grows",
            paper_value="an argument without numbers",
            decide=as_the_loss,
        ),
    ),
    notes="We scale the weights of a trained network, which separates its training data.",
    tuned=(seeds_added("paper", 3),),
)
