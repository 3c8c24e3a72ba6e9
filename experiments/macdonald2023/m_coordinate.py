"""Flat yet rough, sharp yet smooth? *On progressive sharpening*, C.3, figure 32, tables 1 and 2."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Verdict
from hessflat.analysis.histories import stability_limit
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.analysis.statistics import welch_p_value
from hessflat.report import figures
from hessflat.report.figures.axes import legend_below
from hessflat.report.figures.style import GREY, PALETTE, STYLE, letter, new_figure
from hessflat.utils.errors import InputError


class Net(NamedTuple):
    """A column of table 1 or 2."""

    activation: str
    start: str


class Published(NamedTuple):
    """Mean and standard deviation over the paper's ten trials."""

    mean: float
    std: float


METRICS = {
    "jacobian.max": "Jacobian norm",
    "hessian.lambda_max": "sharpness",
    "kernel.Dense_0.norm": "first layer weight norm",
}
PAPER = {
    Net("gaussian", "high"): (Published(326.80, 182.51), Published(13517.61, 3871.97), Published(9.09, 0.34)),
    Net("gaussian", "low"): (Published(84.07, 49.30), Published(18353.54, 5751.98), Published(0.56, 0.02)),
    Net("relu", "high"): (Published(121.59, 80.79), Published(14211.05, 4767.26), Published(9.61, 0.28)),
    Net("relu", "low"): (Published(42.96, 7.82), Published(9922.45, 3330.37), Published(9.56, 0.16)),
}
TRIALS = 10
LEVEL = 0.05
NAMES = {"gaussian": "Gaussian", "relu": "ReLU"}
STARTS = ("high", "low")
# Of a fit, in place of the targets' variance of some six: of the networks that do not fit, outputs ignore the inputs.
FITTED = 0.01
# Norms of first layers that differ by less are called alike.
ALIKE = 1.1


def is_fit(run: Run) -> bool:
    """Whether a run fits the points rather than being pretraining."""
    return run.setting("data.name") == "scattered"


def net_of(run: Run) -> Net:
    activation = run.setting("model.coordinate_network.activation")
    if activation == "relu":
        return Net(activation, "high" if run.setting("train.from_run") else "low")
    return Net(activation, "low" if run.setting("model.coordinate_network.first_std") else "high")


def by_net(runs: Sequence[Run]) -> dict[Net, dict[int, Run]]:
    """Finished fits by column and trial, those included that did not reach the points."""
    found: dict[Net, dict[int, Run]] = {net: {} for net in PAPER}
    for run in sorted(filter(is_fit, finished(runs)), key=lambda run: run.seed):
        found[net_of(run)][run.seed] = run
    return found


def fitted(runs: Sequence[Run]) -> dict[Net, dict[int, Run]]:
    """Of them those that pass through the points, of which alone one can ask how smoothly they do."""
    return {
        net: {seed: run for seed, run in own.items() if run.final("train_loss") < FITTED}
        for net, own in by_net(runs).items()
    }


def steepest(run: Run) -> float:
    """The largest slope of the fitted function between neighbours of the test grid; the Jacobian norm is at points."""
    fit = run.spectrum("fit")
    x, y = fit["test_inputs"][:, 0], fit["test_outputs"][:, 0]
    return float(np.max(np.abs(np.diff(y) / np.diff(x))))


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Tables 1 and 2 with our columns beside the paper's."""
    return [_table(runs, activation) for activation in NAMES]


def _table(runs: Sequence[Run], activation: str) -> Table:
    every, good = by_net(runs), fitted(runs)
    nets = [Net(activation, start) for start in STARTS]
    header = ["norm", *(f"{start} freq., {whose}" for start in STARTS for whose in ("here", "paper"))]
    rows = []
    for place, (metric, name) in enumerate(METRICS.items()):
        cells = [name]
        for net in nets:
            ours = [run.final(metric) for run in good[net].values()]
            cells += [_spread(ours), _told(PAPER[net][place].mean, PAPER[net][place].std)]
        rows.append(tuple(cells))
    cells = ["largest slope on [0, 1]"]
    for net in nets:
        cells += [_spread([steepest(run) for run in good[net].values()]), "–"]
    rows.append(tuple(cells))
    counts = [cell for net in nets for cell in (f"{len(good[net])} of {len(every[net])}", f"{TRIALS}")]
    rows.append(("trials that fit the points", *counts))
    caption = (
        f"Table {1 + list(NAMES).index(activation)} of the paper: the {NAMES[activation]} network, mean ± std over the "
        f"trials that end with a loss below {FITTED:g}. Jacobian norm: the largest over the eight points. Sharpness: "
        "λ_max of the Hessian of the mean squared error over them. Slopes: between neighbours of a grid of test inputs."
    )
    return Table(caption, tuple(header), tuple(rows))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return _told(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def _told(mean: float, std: float) -> str:
    digits = ",.0f" if mean >= 1000 else ".2f"
    return f"{mean:{digits}}" if math.isnan(std) else f"{mean:{digits}} ± {std:{digits}}"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figure 32 for three trials, and what the tables average, trial by trial."""
    if not any(by_net(runs).values()):
        raise InputError("no network has finished fitting the points; run them first")
    return [_fits(runs), _trials(runs)]


def _fits(runs: Sequence[Run]) -> Drawing:
    every = by_net(runs)
    trials = sorted({seed for own in every.values() for seed in own})[:3]
    figure, axes = new_figure(2, len(trials), 2.2)
    data: dict[str, list[Any]] = {column: [] for column in ("activation", "trial", "start", "x", "y")}
    colours = dict(zip(STARTS, PALETTE, strict=False))
    with matplotlib.rc_context(STYLE):
        for axis, (activation, trial) in zip(axes, [(a, t) for a in NAMES for t in trials], strict=True):
            for start in STARTS:
                run = every[Net(activation, start)].get(trial)
                if run is None:
                    continue
                fit = run.spectrum("fit")
                x, y = fit["test_inputs"][:, 0], fit["test_outputs"][:, 0]
                axis.plot(x, y, color=colours[start], linewidth=0.8)
                points = fit["train_inputs"][:, 0], fit["train_labels"][:, 0]
                for name, (xs, ys) in {f"{start} frequencies": (x, y), "points": points}.items():
                    for place, value in zip(map(float, xs), map(float, ys), strict=True):
                        for column, cell in zip(data.values(), (activation, trial, name, place, value), strict=True):
                            column.append(cell)
                axis.plot(*points, "o", color="black", markersize=3, zorder=3)
            axis.set_title(f"{NAMES[activation]}, trial {trial + 1}")
            axis.set_xlabel("$x$")
            axis.set_ylabel("$f(w, x)$")
    handles = [matplotlib.lines.Line2D([], [], color=colours[start]) for start in STARTS]
    handles.append(matplotlib.lines.Line2D([], [], color="black", marker="o", markersize=3, linestyle="none"))
    legend_below(figure, handles, [*(f"from {start} frequencies" for start in STARTS), "points"])
    letter(axes)
    caption = (
        "Eight points fitted by networks that start from high and from low frequencies (figure 32 of the paper), of "
        f"{'each of the first three trials' if len(trials) > 1 else 'one trial'}: networks with Gaussian activations "
        f"above, with ReLU below. {figures.context([run for own in every.values() for run in own.values()])}"
    )
    return Drawing("fits", caption, figure, data)


def _trials(runs: Sequence[Run]) -> Drawing:
    every, good = by_net(runs), fitted(runs)
    figure, axes = new_figure(1, 2, 2.5)
    data: dict[str, list[Any]] = {column: [] for column in ("activation", "start", "trial", *METRICS)}
    colours = dict(zip(STARTS, PALETTE, strict=False))
    with matplotlib.rc_context(STYLE):
        for axis, activation in zip(axes, NAMES, strict=True):
            for start in STARTS:
                net = Net(activation, start)
                for seed, run in every[net].items():
                    values = [run.final(metric) for metric in METRICS]
                    fill = colours[start] if seed in good[net] else "none"
                    jacobian, sharpness, _ = values
                    axis.plot(
                        max(jacobian, 1),
                        sharpness,
                        "o",
                        markersize=4,
                        markeredgecolor=colours[start],
                        markerfacecolor=fill,
                    )
                    for column, cell in zip(data.values(), (*net, seed, *values), strict=True):
                        column.append(cell)
                across, up, _ = PAPER[net]
                axis.errorbar(
                    across.mean, up.mean, xerr=across.std, yerr=up.std,
                    color=colours[start], marker="_", markersize=8, linewidth=0.8, alpha=0.6,
                )  # fmt: skip
            axis.set_xscale("log")
            axis.set_yscale("log")
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_locator(LogLocator(subs=(1, 2, 5)))
                side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                side.set_minor_formatter(NullFormatter())
            limit = _limit(next(run for own in every.values() for run in own.values()))
            axis.axhline(limit, color=GREY, linestyle="--", linewidth=0.8, zorder=0.5)
            axis.set_title(NAMES[activation])
            axis.set_xlabel(r"Jacobian norm $\max_i\,\|\partial f/\partial x_i\|_2$")
            axis.set_ylabel(r"sharpness $\lambda_{\max}(H)$")
    handles = [matplotlib.lines.Line2D([], [], color=colours[s], marker="o", markersize=4, linestyle="none")
               for s in STARTS]  # fmt: skip
    handles += [
        matplotlib.lines.Line2D([], [], color="black", linewidth=0.8, marker="_", markersize=8),
        matplotlib.lines.Line2D([], [], color=GREY, linestyle="--", linewidth=0.8),
    ]
    legend_below(figure, handles, [*(f"from {s} frequencies" for s in STARTS), "paper, ± 1 std", "2(1 + ρ)/η"])
    letter(axes)
    caption = (
        "Sharpness against the Jacobian norm at the end of every trial, for (a) Gaussian and (b) ReLU activations; "
        "crosses: the means of the paper's tables 1 and 2 ± 1 std over its ten trials. Hollow: trials that do not fit "
        f"the points, at 1 where their Jacobian norm is below. Dashed: 2(1 + ρ)/η = {number(limit)}, above which "
        "gradient descent with momentum ρ is unstable. "
        f"{figures.context([run for own in every.values() for run in own.values()])}"
    )
    return Drawing("trials", caption, figure, data)


def _limit(run: Run) -> float:
    """2(1 + ρ)/η of gradient descent with heavy-ball momentum."""
    return stability_limit(run.setting("optim.lr"), run.setting("optim.sgd.momentum"))


def ratio(metric: str, activation: str, runs: Sequence[Run]) -> tuple[list[Run], Callable[[Run], float]]:
    """The networks from low frequencies of trials that fit from both starts, and ln of their metric over the others'.

    By trial, so that the points are the same.
    """
    good = fitted(runs)
    high, low = (good[Net(activation, start)] for start in STARTS)
    return (
        [low[seed] for seed in low if seed in high],
        lambda run: math.log(run.final(metric) / high[run.seed].final(metric)),
    )


def lower(metric: str, activation: str, runs: Sequence[Run], expect: claims.Expect) -> Evidence:
    pairs, log_ratio = ratio(metric, activation, runs)
    what = f"ln of {METRICS[metric]}, {NAMES[activation]}, from low over from high frequencies"
    return claims.against_limit(pairs, log_ratio, 0.0, what, expect)


def _told_by(evidence: Evidence, activation: str, runs: Sequence[Run]) -> Evidence:
    """With how many trials were left out because one of the two networks does not fit."""
    every = by_net(runs)
    trials = set.intersection(*(set(every[Net(activation, start)]) for start in STARTS))
    lost = len(trials) - len(ratio("train_loss", activation, runs)[0])
    if not lost:
        return evidence
    if lost == len(trials):
        return Evidence("", "", lost, "undecided", "in no trial do the networks of both starts fit the points")
    return evidence._replace(
        explanation=f"{evidence.explanation}; {lost} of {len(trials)} trials left out: from one start they do not fit"
    )


def opposite(activation: str, sharpness: claims.Expect, runs: Sequence[Run]) -> Evidence:
    """Is the fit from low frequencies the smoother, and the sharper (or the flatter)?"""
    evidence = claims.all_of(
        lower("jacobian.max", activation, runs, "smaller"), lower("hessian.lambda_max", activation, runs, sharpness)
    )
    return _told_by(evidence, activation, runs)


def first_layers(runs: Sequence[Run]) -> Evidence:
    """Do the norms of first layers differ by far for the Gaussian networks, and not for ReLU?"""
    relu, relu_ratio = ratio("kernel.Dense_0.norm", "relu", runs)
    gaussian, gaussian_ratio = ratio("kernel.Dense_0.norm", "gaussian", runs)
    what = "ln of first layer weight norm, {}, from low over from high frequencies"
    return claims.all_of(
        claims.falls_below(gaussian, gaussian_ratio, math.log(0.5), what.format("Gaussian")),
        claims.falls_below(relu, lambda run: abs(relu_ratio(run)), math.log(ALIKE), f"size of {what.format('ReLU')}"),
    )


def reproduced(activation: str, runs: Sequence[Run]) -> Evidence:
    """Are the six means of a table those of our trials, by Welch's test?"""
    good = fitted(runs)
    nets = [Net(activation, start) for start in STARTS]
    trials = min(len(good[net]) for net in nets)
    own = [run for net in nets for run in by_net(runs)[net].values()]
    if not own:
        return Evidence("", "", 0, "not run", f"no {NAMES[activation]} network has run")
    if own[0].setting("scale") != "paper":
        return Evidence("", "", trials, "undecided", "only networks of the paper's width can have the paper's numbers")
    if trials < 2:
        return Evidence("", "", trials, "undecided", "fewer than two trials fit the points from each start")
    told, off = [], []
    for net in nets:
        for place, (metric, name) in enumerate(METRICS.items()):
            ours, theirs = [run.final(metric) for run in good[net].values()], PAPER[net][place]
            p = welch_p_value(ours, *theirs, TRIALS)
            told.append(f"{name}, {net.start}: {_told(float(np.mean(ours)), math.nan)}, p = {number(p, 2)}")
            if p < LEVEL:
                off.append(
                    f"{name} from {net.start} frequencies ({number(float(np.mean(ours)) / theirs.mean, 2)} of it)"
                )
    verdict: Verdict = "fails" if off else "holds"
    explanation = f"{6 - len(off)} of 6 means agree with the paper's; off: {', '.join(off)}" if off else "all six agree"
    slopes = {net.start: [steepest(run) for run in good[net].values()] for net in nets}
    told_slopes = ", ".join(
        f"{number(float(np.mean(slopes[net.start])), 3)} from {net.start} frequencies "
        f"(p = {number(welch_p_value(slopes[net.start], *PAPER[net][0], TRIALS), 2)})"
        for net in nets
    )
    explanation += f"; the paper's Jacobian norms against the largest slopes anywhere on [0, 1]: {told_slopes}"
    return Evidence("; ".join(told), f"p of Welch's test at {LEVEL:g}", trials, verdict, explanation)


def stable(runs: Sequence[Run]) -> Evidence:
    own = [run for runs_of in by_net(runs).values() for run in runs_of.values()]
    return claims.in_every_run(
        own, lambda run: run.final("hessian.lambda_max") / _limit(run), 1.0, "λ_max(H) over 2(1 + ρ)/η"
    )


BY_TRIAL = "ln of the ratio by trial, beyond 0 by 95 % t-intervals over the trials that fit from both starts"

EXPERIMENT = Experiment(
    id="m_coordinate",
    paper="M",
    question="Eight points: is the smoother fit the flatter one?",
    config="m_coordinate",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="gaussian-smoother-is-sharper",
            paper="M",
            where="C.3, table 1",
            statement=(
                "with Gaussian activations the fit from low frequencies has the smaller Jacobian norm and is the "
                "sharper"
            ),
            paper_value="Jacobian norm 84.07 against 326.80, sharpness 18,354 against 13,518",
            rule=BY_TRIAL,
            decide=partial(opposite, "gaussian", "larger"),
        ),
        Claim(
            id="relu-smoother-is-flatter",
            paper="M",
            where="C.3, table 2",
            statement="with ReLU the fit from low frequencies has the smaller Jacobian norm and is the flatter",
            paper_value="Jacobian norm 42.96 against 121.59, sharpness 9,922 against 14,211",
            rule=BY_TRIAL,
            decide=partial(opposite, "relu", "smaller"),
        ),
        Claim(
            id="first-layer-norm",
            paper="M",
            where="C.3, tables 1 and 2",
            statement=(
                "the norm of the first layer's weights, whose Jacobian is not in eq. 4, differs by the start for the "
                "Gaussian networks, of which the smooth ones are sharp, and not for ReLU"
            ),
            paper_value="9.09 and 0.56 for Gaussian, 9.61 and 9.56 for ReLU",
            rule=(
                f"from low over from high frequencies: below 0.5 for Gaussian and within a factor of {ALIKE:g} of 1 "
                "for ReLU, by 95 % t-intervals of the logarithm over trials"
            ),
            decide=first_layers,
        ),
        Claim(
            id="table-1",
            paper="M",
            where="C.3, table 1",
            statement="the six means of the Gaussian networks",
            paper_value="Jacobian norm 326.80 and 84.07, sharpness 13,518 and 18,354, first layer 9.09 and 0.56",
            rule="none of six Welch tests of our trials against the paper's mean, std and ten trials has p < 0.05",
            decide=partial(reproduced, "gaussian"),
        ),
        Claim(
            id="table-2",
            paper="M",
            where="C.3, table 2",
            statement="the six means of the ReLU networks",
            paper_value="Jacobian norm 121.59 and 42.96, sharpness 14,211 and 9,922, first layer 9.61 and 9.56",
            rule="none of six Welch tests of our trials against the paper's mean, std and ten trials has p < 0.05",
            decide=partial(reproduced, "relu"),
        ),
        Claim(
            id="below-the-stability-limit",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "no run ends sharper than gradient descent with momentum ρ and rate η is stable at, 2(1 + ρ)/η = 38,000"
            ),
            paper_value="not in the paper",
            rule="λ_max(H) at the end at most 2(1 + ρ)/η in every run",
            decide=stable,
        ),
    ),
    notes=(
        "The paper says neither which points, nor how wide the networks and their Gaussian are, nor how long the ReLU "
        "network is pretrained; the configuration says what is taken and why. Its numbers can tell apart such choices, "
        "but not confirm them."
    ),
)
