"""Are flat coordinate networks rough and sharp ones smooth? *On progressive sharpening*, C.3, fig. 32, tables 1, 2."""

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
from hessflat.analysis import limits
from hessflat.analysis.decisions import conjunction
from hessflat.analysis.evidence import Expect, all_hold, between, decided, not_applicable
from hessflat.analysis.experiment import Claim, Evidence, Experiment, Tuned
from hessflat.analysis.names import number
from hessflat.analysis.results import Run
from hessflat.analysis.statistics import estimate_of_ratio

# Within which a mean is the paper's; with the spread of the paper's own trials a smaller one could not be decided.
FACTOR = 2.0
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
    what = f"ln of {METRICS[metric]}, {NAMES[activation]}, from low over from high frequencies, both of which fit,"
    least = abs(papers_log_ratio(metric, activation))
    return limits.against_limit(pairs, log_ratio, 0.0, what, expect, least=least, origin="paper")


def papers_log_ratio(metric: str, activation: str) -> float:
    """The logarithm of the paper's mean of a metric, from low over from high frequencies."""
    high, low = (PAPER[Net(activation, start)][list(METRICS).index(metric)].mean for start in STARTS)
    return math.log(low / high)


def with_trials_left_out(evidence: Evidence, activation: str, runs: Sequence[Run]) -> Evidence:
    """The evidence with the number of trials that were left out because one of the two networks does not fit."""
    every = by_net(runs)
    trials = set.intersection(*(set(every[Net(activation, start)]) for start in STARTS))
    lost = len(trials) - len(log_ratios_by_trial("train_loss", activation, runs)[0])
    if not lost:
        return evidence
    if lost == len(trials):
        why = "no trial has networks from both starts that fit the points"
        return Evidence("", "", lost, "undecided", why, rule=evidence.rule)
    return evidence._replace(
        explanation=(
            f"{evidence.explanation}; {lost} of {len(trials)} trials are left out: one of their networks does not fit"
        )
    )


def opposite(activation: str, sharpness: Expect, runs: Sequence[Run]) -> Evidence:
    """Is the fit from low frequencies the smoother one, and the sharper (or flatter) one?"""
    evidence = all_hold(
        lower("jacobian.max", activation, runs, "smaller"), lower("hessian.lambda_max", activation, runs, sharpness)
    )
    return with_trials_left_out(evidence, activation, runs)


def first_layers(runs: Sequence[Run]) -> Evidence:
    """Do the norms of the first layers differ by a factor of 2 for Gaussian networks, and by less than `ALIKE` for
    ReLU?
    """
    norm = "kernel.Dense_0.norm"
    relu, relu_ratio = log_ratios_by_trial(norm, "relu", runs)
    gaussian, gaussian_ratio = log_ratios_by_trial(norm, "gaussian", runs)
    least = math.log(0.5) - papers_log_ratio(norm, "gaussian")
    what = "ln of first layer weight norm, {}, from low over from high frequencies"
    return all_hold(
        limits.against_limit(
            gaussian, gaussian_ratio, math.log(0.5), what.format("Gaussian"), "smaller", least=least, origin="paper"
        ),
        limits.lies_within(relu, relu_ratio, -math.log(ALIKE), math.log(ALIKE), what.format("ReLU")),
    )


def means_reproduced(activation: str, runs: Sequence[Run]) -> Evidence:
    """Are all six means of a table the paper's within a factor of `FACTOR`, by Welch's tests of ours and its trials?

    They are where every ratio lies within; they are not where one does not (Bonferroni, Holm's first step, over six).
    """
    rule = (
        f"each of the six means, {NAMES[activation]}, over the paper's within a factor of {number(FACTOR)} of 1 by "
        f"Welch's t over our trials and the paper's {TRIALS}, of networks of the paper's width"
    )
    good = fitted(runs)
    nets = [Net(activation, start) for start in STARTS]
    trials = min(len(good[net]) for net in nets)
    own = [run for net in nets for run in by_net(runs)[net].values()]
    if not own:
        return Evidence("", "", 0, "not run", f"no {NAMES[activation]} network has run", rule=rule)
    if own[0].setting("scale") != "paper":
        return not_applicable(rule, "only networks of the paper's width can have the paper's numbers", trials)
    if trials < 2:
        why = "fewer than two trials fit the points from each start"
        return Evidence("", "", trials, "undecided", why, rule=rule)
    limit = math.log(FACTOR)
    chances, means, within = [], [], []
    for net in nets:
        for place, (metric, name) in enumerate(METRICS.items()):
            ours = [run.final(metric) for run in good[net].values()]
            ratio = estimate_of_ratio(ours, *PAPER[net][place], TRIALS)
            chances.append(between(ratio, -limit, limit, "log"))
            low, high = (number(math.exp(end), 2) for end in ratio.interval[1:])
            means.append(
                f"{name}, {net.start}: {mean_text(float(np.mean(ours)), math.nan)}, "
                f"{number(math.exp(ratio.mean), 2)} of it [{low}, {high}]"
            )
            within.append(abs(ratio.mean) <= limit)
    slopes = {net.start: [steepest(run) for run in good[net].values()] for net in nets}
    slope_texts = ", ".join(
        f"{number(float(np.mean(slopes[net.start])), 3)} from {net.start} frequencies "
        f"({number(float(np.mean(slopes[net.start])) / PAPER[net][0].mean, 2)} of it)"
        for net in nets
    )
    return decided(
        runs, rule, conjunction(chances), "; ".join(means), "95 % intervals by Welch's t", trials,
        f"{sum(within)} of 6 means lie within; the paper's Jacobian norms against the largest slopes anywhere on "
        f"[0, 1]: {slope_texts}", "these limits",
    )  # fmt: skip


def stable(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(H) at the end of every fit at most 2(1 + ρ)/η?"""
    own = [run for trials in by_net(runs).values() for run in trials.values()]
    return limits.in_every_run(
        own,
        lambda run: run.final("hessian.lambda_max") / descent_limit(run),
        1.0,
        "λ_max(H) at the end over 2(1 + ρ)/η",
    )


EXPERIMENT = Experiment(
    id="m_coordinate",
    paper="M",
    question="Is the smoother fit of eight points also the flatter one?",
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
            decide=partial(opposite, "gaussian", "larger"),
        ),
        Claim(
            id="relu-smoother-is-flatter",
            paper="M",
            where="C.3, table 2",
            statement="with ReLU the fit from low frequencies has the smaller Jacobian norm and is the flatter",
            paper_value="Jacobian norm 42.96 against 121.59, sharpness 9,922 against 14,211",
            decide=partial(opposite, "relu", "smaller"),
        ),
        Claim(
            id="first-layer-norm",
            paper="M",
            where="C.3, tables 1 and 2",
            statement=(
                "the norm of the first layer's weights, whose Jacobian eq. 4 leaves out, depends on the start for "
                "Gaussian networks but not for ReLU"
            ),
            paper_value="9.09 and 0.56 for Gaussian, 9.61 and 9.56 for ReLU",
            decide=first_layers,
        ),
        Claim(
            id="table-1",
            paper="M",
            where="C.3, table 1",
            statement="the six means of the Gaussian networks are the paper's",
            paper_value="Jacobian norm 326.80 and 84.07, sharpness 13,518 and 18,354, first layer 9.09 and 0.56",
            decide=partial(means_reproduced, "gaussian"),
        ),
        Claim(
            id="table-2",
            paper="M",
            where="C.3, table 2",
            statement="the six means of the ReLU networks are the paper's",
            paper_value="Jacobian norm 121.59 and 42.96, sharpness 14,211 and 9,922, first layer 9.61 and 9.56",
            decide=partial(means_reproduced, "relu"),
        ),
        Claim(
            id="below-the-stability-limit",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "no run ends above the largest sharpness at which gradient descent with momentum ρ and rate η is "
                "stable, 2(1 + ρ)/η = 38,000"
            ),
            paper_value="not in the paper",
            decide=stable,
        ),
    ),
    notes=(
        "The paper gives neither the points, nor the widths of the networks and of their Gaussian, nor the length of "
        "the ReLU network's pretraining. The configuration says what we take and why. The paper's numbers can tell "
        "such choices apart, but cannot confirm them."
    ),
    tuned=(Tuned("paper", (0, 1, 2, 3), "points, width of the Gaussian and spread of targets"),),
)
