"""Are coordinate networks flat yet rough, sharp yet smooth? *On progressive sharpening*, C.3, fig. 32, tables 1, 2."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from experiments.macdonald2023.coordinate_figures import (
    METRICS,
    NAMES,
    PAPER,
    STARTS,
    TRIALS,
    Net,
    by_net,
    descent_limit,
    draw,
    fitted,
    mean_text,
    steepest,
    tabulate,
)
from hessflat.analysis import claims
from hessflat.analysis.evidence import Expect
from hessflat.analysis.experiment import Claim, Evidence, Experiment, Verdict
from hessflat.analysis.names import number
from hessflat.analysis.results import Run
from hessflat.analysis.statistics import welch_p_value

LEVEL = 0.05
# Norms of first layers that differ by less are called alike.
ALIKE = 1.1


def log_ratios_by_trial(metric: str, activation: str, runs: Sequence[Run]) -> tuple[list[Run], Callable[[Run], float]]:
    """The fits from low frequencies, and a function that gives ln(metric / metric of the same trial from high
    frequencies).

    Only trials in which both fits reach the points count.
    """
    good = fitted(runs)
    high, low = (good[Net(activation, start)] for start in STARTS)
    return (
        [low[seed] for seed in low if seed in high],
        lambda run: math.log(run.final(metric) / high[run.seed].final(metric)),
    )


def lower(metric: str, activation: str, runs: Sequence[Run], expect: Expect) -> Evidence:
    """Is ln of the ratio of a metric, from low over from high frequencies, below (or above) 0?"""
    pairs, log_ratio = log_ratios_by_trial(metric, activation, runs)
    what = f"ln of {METRICS[metric]}, {NAMES[activation]}, from low over from high frequencies"
    return claims.against_limit(pairs, log_ratio, 0.0, what, expect)


def with_trials_left_out(evidence: Evidence, activation: str, runs: Sequence[Run]) -> Evidence:
    """The evidence with the number of trials that were left out because one of the two networks does not fit."""
    every = by_net(runs)
    trials = set.intersection(*(set(every[Net(activation, start)]) for start in STARTS))
    lost = len(trials) - len(log_ratios_by_trial("train_loss", activation, runs)[0])
    if not lost:
        return evidence
    if lost == len(trials):
        return Evidence("", "", lost, "undecided", "in no trial do the networks of both starts fit the points")
    return evidence._replace(
        explanation=f"{evidence.explanation}; {lost} of {len(trials)} trials left out: from one start they do not fit"
    )


def opposite(activation: str, sharpness: Expect, runs: Sequence[Run]) -> Evidence:
    """Is the fit from low frequencies the smoother one, and the sharper (or flatter) one?"""
    evidence = claims.all_hold(
        lower("jacobian.max", activation, runs, "smaller"), lower("hessian.lambda_max", activation, runs, sharpness)
    )
    return with_trials_left_out(evidence, activation, runs)


def first_layers(runs: Sequence[Run]) -> Evidence:
    """Do the norms of the first layers differ by a factor of 2 for Gaussian networks, and by less than `ALIKE` for
    ReLU?
    """
    relu, relu_ratio = log_ratios_by_trial("kernel.Dense_0.norm", "relu", runs)
    gaussian, gaussian_ratio = log_ratios_by_trial("kernel.Dense_0.norm", "gaussian", runs)
    what = "ln of first layer weight norm, {}, from low over from high frequencies"
    return claims.all_hold(
        claims.falls_below(gaussian, gaussian_ratio, math.log(0.5), what.format("Gaussian")),
        claims.falls_below(relu, lambda run: abs(relu_ratio(run)), math.log(ALIKE), f"size of {what.format('ReLU')}"),
    )


def means_reproduced(activation: str, runs: Sequence[Run]) -> Evidence:
    """Do all six means of a table agree with the paper's by Welch's test at level `LEVEL`?"""
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
    means, off = [], []
    for net in nets:
        for place, (metric, name) in enumerate(METRICS.items()):
            ours, theirs = [run.final(metric) for run in good[net].values()], PAPER[net][place]
            p = welch_p_value(ours, *theirs, TRIALS)
            means.append(f"{name}, {net.start}: {mean_text(float(np.mean(ours)), math.nan)}, p = {number(p, 2)}")
            if p < LEVEL:
                off.append(
                    f"{name} from {net.start} frequencies ({number(float(np.mean(ours)) / theirs.mean, 2)} of it)"
                )
    verdict: Verdict = "fails" if off else "holds"
    explanation = f"{6 - len(off)} of 6 means agree with the paper's; off: {', '.join(off)}" if off else "all six agree"
    slopes = {net.start: [steepest(run) for run in good[net].values()] for net in nets}
    slope_texts = ", ".join(
        f"{number(float(np.mean(slopes[net.start])), 3)} from {net.start} frequencies "
        f"(p = {number(welch_p_value(slopes[net.start], *PAPER[net][0], TRIALS), 2)})"
        for net in nets
    )
    explanation += f"; the paper's Jacobian norms against the largest slopes anywhere on [0, 1]: {slope_texts}"
    return Evidence("; ".join(means), f"p of Welch's test at {LEVEL:g}", trials, verdict, explanation)


def stable(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(H) at the end of every fit at most 2(1 + ρ)/η?"""
    own = [run for trials in by_net(runs).values() for run in trials.values()]
    return claims.in_every_run(
        own, lambda run: run.final("hessian.lambda_max") / descent_limit(run), 1.0, "λ_max(H) over 2(1 + ρ)/η"
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
            decide=partial(means_reproduced, "gaussian"),
        ),
        Claim(
            id="table-2",
            paper="M",
            where="C.3, table 2",
            statement="the six means of the ReLU networks",
            paper_value="Jacobian norm 121.59 and 42.96, sharpness 14,211 and 9,922, first layer 9.61 and 9.56",
            rule="none of six Welch tests of our trials against the paper's mean, std and ten trials has p < 0.05",
            decide=partial(means_reproduced, "relu"),
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
