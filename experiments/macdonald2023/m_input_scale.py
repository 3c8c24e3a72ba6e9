"""Do larger inputs lead to more sharpening? *On progressive sharpening*, C.2, figures 30 and 31."""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib
import numpy as np

from hessflat.analysis import claims
from hessflat.analysis.evidence import Expect, all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.histories import first_value, growth_factor, largest_value, stability_limit
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.plot.style import GREY, STYLE
from hessflat.report import figures
from hessflat.utils.errors import InputError

SCALE = "data.input_scale"
NAMES = {"relu": "ReLU", "tanh": "tanh"}
PANELS = (
    figures.Panel("train_loss"),
    figures.Panel("hessian.lambda_max"),
    figures.Panel("jacobian.max", "", "log"),
    figures.Panel("softmax_jacobian.max", "", "log"),
    figures.Panel("features.Dense_1.norm", r"$\|f_1(X)\|_2$"),
    figures.Panel("features.Dense_2.norm", r"$\|f_2(X)\|_2$"),
)
COLUMNS = {
    "loss at the end": "train_loss",
    "sharpness": "hessian.lambda_max",
    "max ‖∂f/∂x‖₂": "jacobian.max",
    "max ‖∂σ(f)/∂x‖₂": "softmax_jacobian.max",
    "‖f₁(X)‖₂": "features.Dense_1.norm",
    "‖f₂(X)‖₂": "features.Dense_2.norm",
}


def with_activation(activation: str, runs: Sequence[Run]) -> list[Run]:
    """The runs of networks with an activation."""
    return [run for run in runs if run.setting("model.mlp.activation") == activation]


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 30 and 31, with the feature norms of the paper's explanation.

    Raises:
        InputError: there are no runs.
    """
    drawings = [
        _over_iterations(with_activation(activation, runs), activation)
        for activation in NAMES
        if with_activation(activation, runs)
    ]
    if not drawings:
        raise InputError("no runs to draw; train them first")
    return drawings


def _over_iterations(runs: Sequence[Run], activation: str) -> Drawing:
    drawing = figures.over_training(runs, SCALE, PANELS, f"input-scale-{activation}")
    edge = stability_limit(runs[0].setting("optim.lr"))
    axes = drawing.figure.axes[: len(PANELS)]
    with matplotlib.rc_context(STYLE):
        for axis in axes:
            # An epoch of full-batch gradient descent is an iteration.
            axis.set_xscale("linear")
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
            axis.set_xlabel("iteration")
        axes[1].axhline(edge, color=GREY, linestyle="--", linewidth=0.8, zorder=0.5)
    caption = (
        f"The {NAMES[activation]} network on inputs multiplied by a factor (figure "
        f"{30 + list(NAMES).index(activation)} of the paper). (e) and (f) show the paper's explanation: spectral "
        "norms, over the measured examples, of the inputs of the second and of the third layer. Dashed: 2/η = "
        f"{number(edge)}. {drawing.caption}"
    )
    return drawing._replace(caption=caption)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Metrics at the first step and their maxima over training by input scale: one table for each activation."""
    return [
        _table(with_activation(activation, runs), activation)
        for activation in NAMES
        if with_activation(activation, runs)
    ]


def _table(runs: Sequence[Run], activation: str) -> Table:
    rows = []
    for scale, own in by_setting(finished(runs), SCALE).items():
        cells = [number(scale)]
        for metric in COLUMNS.values():
            if metric == "train_loss":
                cells.append(_mean_text([run.final(metric) for run in own]))
            else:
                cells += [
                    _mean_text([first_value(run, metric) for run in own]),
                    _mean_text([largest_value(run, metric) for run in own]),
                ]
        rows.append((*cells, str(len(own))))
    header = ["input scale"]
    for name, metric in COLUMNS.items():
        header += [name] if metric == "train_loss" else [f"{name}, at first", "largest"]
    caption = (
        f"{NAMES[activation]}: values at the first weights, and the largest over training. Mean ± std over trials. "
        "Jacobian norms are those of the logits f and of the softmaxed model σ(f)."
    )
    return Table(caption, (*header, "trials"), tuple(rows))


def _mean_text(values: Sequence[float]) -> str:
    mean = number(float(np.mean(values)), 3)
    return mean if len(values) < 2 else f"{mean} ± {number(float(np.std(values, ddof=1)), 2)}"


def ordered(
    activation: str,
    what: str,
    statistic: Callable[[Run], float],
    expect: Expect,
    runs: Sequence[Run],
) -> Evidence:
    """Does a statistic increase (or decrease) with the input scale, by the exact test of `claims.in_order`?"""
    order: claims.Order = "increases" if expect == "larger" else "decreases"
    named = f"{what}, {NAMES[activation]}"
    evidence = claims.in_order(
        with_activation(activation, runs), statistic, named, SCALE, order, lambda x: number(x, 3)
    )
    return evidence._replace(value=f"{named}: {evidence.value}" if evidence.value else "")


def _by_scale(runs: Sequence[Run], statistic: Callable[[Run], float]) -> str:
    """The text of the means over trials for each input scale."""
    return ", ".join(
        f"{number(float(np.mean([statistic(run) for run in own])), 3)} at {number(scale)}"
        for scale, own in by_setting(runs, SCALE).items()
    )


def grows(metric: str, what: str, expect: Expect) -> Callable[[Sequence[Run]], Evidence]:
    """The rule that the growth of a metric, named `what`, increases or decreases with the input scale, for each
    activation.
    """

    def decide(runs: Sequence[Run]) -> Evidence:
        statistic = partial(growth_factor, metric=metric)
        parts = [
            ordered(activation, f"growth of {what} (largest over first)", statistic, expect, runs)
            for activation in NAMES
        ]
        evidence = all_hold(*parts)
        at_first = [
            f"{NAMES[activation]} "
            f"{_by_scale(finished(with_activation(activation, runs)), partial(first_value, metric=metric))}"
            for activation in NAMES
            if finished(with_activation(activation, runs))
        ]
        if not at_first:
            return evidence
        return evidence._replace(explanation=f"{evidence.explanation}; at first: {'; '.join(at_first)}")

    return decide


def larger_inputs_are_sharper(runs: Sequence[Run]) -> Evidence:
    """Does the maximum of λ_max(H) over training increase with the input scale, for each activation?"""
    statistic = partial(largest_value, metric="hessian.lambda_max")
    return all_hold(*(ordered(name, "largest λ_max(H)", statistic, "larger", runs) for name in NAMES))


def features(runs: Sequence[Run]) -> Evidence:
    """Do the maxima of the spectral norms of both hidden layers increase with the input scale?"""
    parts = [
        ordered(
            activation, f"largest ‖f_{layer}(X)‖₂", partial(largest_value, metric=f"features.Dense_{layer}.norm"),
            "larger", runs,
        )
        for activation in NAMES
        for layer in (1, 2)
    ]  # fmt: skip
    return all_hold(*parts)


EXPERIMENT = Experiment(
    id="m_input_scale",
    paper="M",
    question="Do larger inputs lead to more sharpening, although they need a smaller Jacobian?",
    config="m_input_scale",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="smaller-inputs-steeper",
            paper="M",
            where="C.2, figures 30 and 31",
            statement="the smaller the scale of the inputs, the more the Jacobian norm grows",
            paper_value="figures without numbers",
            decide=grows("jacobian.max", "max ‖∂f/∂x‖₂", "smaller"),
        ),
        Claim(
            id="smaller-inputs-flatter",
            paper="M",
            where="C.2, figures 30 and 31",
            statement="the smaller the scale of the inputs, the less sharpness grows",
            paper_value="figures without numbers",
            decide=grows("hessian.lambda_max", "λ_max(H)", "larger"),
        ),
        Claim(
            id="larger-inputs-sharper",
            paper="M",
            where="C.2, figures 30 and 31",
            statement="larger inputs raise sharpness, although the Jacobian norm is smaller",
            paper_value="figures without numbers",
            decide=larger_inputs_are_sharper,
        ),
        Claim(
            id="larger-inputs-larger-features",
            paper="M",
            where="C.2",
            statement="larger inputs have larger hidden features, of which parameter derivatives are made",
            paper_value="no numbers",
            decide=features,
        ),
        Claim(
            id="softmaxed-too",
            paper="hessflat",
            where="beyond the paper",
            statement="the Jacobian norm of the softmaxed model also grows more for smaller inputs",
            paper_value="not in the paper, which does not say which of the two it draws",
            decide=grows("softmax_jacobian.max", "max ‖∂σ(f)/∂x‖₂", "smaller"),
        ),
    ),
    notes="The paper's captions of figures 30 and 31 name label smoothing, but the figures vary the input scale.",
)
