"""Does the maximum over a sample approximate the supremum? *On progressive sharpening*, §4, theorems 4.4 to 4.6."""

import math
from collections.abc import Sequence

import numpy as np

from experiments.macdonald2023.lipschitz_figures import LATENT, draw, tabulate
from hessflat.analysis import limits
from hessflat.analysis.designs import FACTOR, FIFTH
from hessflat.analysis.experiment import Claim, Evidence, Experiment, seeds_added
from hessflat.analysis.lipschitz_bounds import (
    FIRST_SIZE,
    PAPER_SAMPLE,
    cost_deviation_bounds,
    excess_over_miss_bound,
    gap_at,
    gap_exponent,
    informative_from,
    largest_deviation,
    looseness,
    miss_rate_ratio,
    scalar,
)
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.strata import RunQuantity, follows, in_each_group


def never_violated(runs: Sequence[Run]) -> Evidence:
    """Is the measured probability of a miss within four standard errors of theorem 4.5's bound in every run?"""
    what = "largest excess over the bound, in standard errors over all N and ε,"
    return limits.in_every_run(runs, excess_over_miss_bound, 4.0, what)


def exponential(runs: Sequence[Run]) -> Evidence:
    """Is the fitted rate of the probability of a miss within 10 % of −log P[one example misses]?"""
    what = "fitted rate of log share on N over −log P[one example misses]"
    return limits.lies_within(runs, miss_rate_ratio, 0.9, 1.1, what)


def as_fast_as_promised(runs: Sequence[Run]) -> Evidence:
    """Does the gap to the supremum fall at least as N^(−1/n), the rate of the bound?"""
    what = f"exponent of N in the gap, fitted from {FIRST_SIZE} on, plus 1/n"
    groups = {f"n = {latent}": own for latent, own in by_setting(finished(runs), LATENT).items()}

    def rule(group: Sequence[Run]) -> Evidence:
        least = FIFTH / group[0].setting(LATENT) if group else FIFTH
        return limits.falls_below(
            group, lambda run: gap_exponent(run) + 1 / run.setting(LATENT), 0.0, what, least=least
        )

    return in_each_group(groups, rule, "dimension n")


def deviations_within(runs: Sequence[Run]) -> Evidence:
    """Is the measured 95 % quantile of deviations within the bound of eq. 10 at every N?"""
    what = "95 % quantile of deviations over fresh samples over that of eq. 10, at the worst N,"
    return limits.in_every_run(runs, lambda run: float(1 / looseness(run).min()), 1.0, what)


def says_something(runs: Sequence[Run]) -> Evidence:
    """Is the bound of eq. 10 at the paper's sample size below the largest possible deviation?"""
    what = f"log₁₀ of the deviation that eq. 10 allows a sample of {PAPER_SAMPLE:,} over the largest there can be"

    def ratio(run: Run) -> float:
        # Where no δ makes the first term small, nothing is allowed for; a finite number stands for that.
        return float(
            np.log10(min(cost_deviation_bounds(run, np.array([PAPER_SAMPLE]))[0] / largest_deviation(run), 1e6))
        )

    evidence = limits.falls_below(runs, ratio, 0.0, what, least=math.log10(FACTOR))
    if evidence.verdict == "not run":
        return evidence
    first = float(np.median([informative_from(run) for run in finished(runs)]))
    return evidence._replace(explanation=f"{evidence.explanation}; it is below from N = {number(first, 2)} on (median)")


def rougher_misses_more(runs: Sequence[Run]) -> Evidence:
    """Does the relative gap increase with ‖Jf‖_Lip over learning rates, within a dimension?"""
    gap = RunQuantity(f"the mean gap at {PAPER_SAMPLE:,} examples", gap_at)
    lipschitz = RunQuantity("‖Jf‖_Lip", lambda run: scalar(run, "jacobian"))
    # The data of every seed are others.
    return follows(
        runs, gap, lipschitz, lambda run: run.setting(LATENT), setting=lambda run: run.setting("optim.lr"),
        alike="networks of one dimension",
    )  # fmt: skip


EXPERIMENT = Experiment(
    id="m_lipschitz",
    paper="M",
    question=(
        "Does the largest Jacobian norm of a sample approximate the supremum, and does it bound the generalisation gap?"
    ),
    config="m_lipschitz",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="maximum-bound",
            paper="M",
            where="§4, theorems 4.4 and 4.5",
            statement=(
                "the probability that a sample's largest Jacobian norm misses the supremum by ε is at most (1 − h)^N"
            ),
            paper_value="a proof",
            decide=never_violated,
        ),
        Claim(
            id="exponential",
            paper="M",
            where="§4, theorem 4.5",
            statement="the probability of missing the supremum falls exponentially in the size of the sample",
            paper_value="a proof",
            decide=exponential,
        ),
        Claim(
            id="deviation-bound",
            paper="M",
            where="§4, theorem 4.6, eq. 10",
            statement=(
                "the largest Jacobian norm of a sample bounds the distance of its mean cost from the expectation"
            ),
            paper_value="a proof, without its constant",
            decide=deviations_within,
        ),
        Claim(
            id="rougher-misses-more",
            paper="M",
            where="§6.2",
            statement=(
                "the larger the Lipschitz constant of the Jacobian, the further its largest norm over a sample is "
                "below the supremum"
            ),
            paper_value="a speculation about large learning rates",
            decide=rougher_misses_more,
        ),
        Claim(
            id="gap-exponent",
            paper="hessflat",
            where="beyond the paper; theorem 4.5",
            statement=(
                "the gap between a sample's largest norm and the supremum falls faster than the N^(−1/n) of the bound"
            ),
            paper_value="not in the paper",
            decide=as_fast_as_promised,
        ),
        Claim(
            id="says-something",
            paper="hessflat",
            where="beyond the paper; theorem 4.6",
            statement="for samples such as the paper's, the bound of eq. 10 is below the largest possible deviation",
            paper_value="not in the paper, which gives no constant",
            decide=says_something,
        ),
    ),
    notes=(
        "The network is fixed before the samples are drawn, as theorem 4.6 requires. It was trained on another "
        "sample, whose deviation is shown apart. The bounds are evaluated on the cube, which is convex. On curved "
        "data the mean value theorem in the proof of theorem 4.4 gives the length of the path along the data, not the "
        "distance. C' is π / (‖c‖ ‖(F, T)‖)², with the square of a Lipschitz constant; the proof of theorem 4.6 "
        "divides by it once. Beside the norm of f stands that of the identity of the targets, 1. The Jacobian's "
        "Lipschitz constant is that of its derivative along the data. The pieces of this derivative are stacked, "
        "which gives an upper bound. Suprema are over a grid."
    ),
    tuned=(seeds_added("paper", 5),),
)
