"""Does label smoothing reduce sharpening? *On progressive sharpening*, §3.2, §5, figure 1, and B.1, figures 6 to 11."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.macdonald2023.label_smoothing import JACOBIAN, SHARPNESS, SMOOTHING, less_growth
from experiments.macdonald2023.sharpening_figures import (
    draw,
    edge_crossing,
    edge_ratio,
    ggn_ratios,
    kind_name,
    kinds_and_rates,
    tabulate,
    tau_with_ggn,
    unsmoothed,
)
from hessflat.analysis import limits
from hessflat.analysis.designs import TAU, to_one
from hessflat.analysis.experiment import Claim, Evidence, Experiment
from hessflat.analysis.histories import growth_factor, tau_over_steps
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, grouped
from hessflat.analysis.strata import in_each_group

NETWORK_AND_RATE = "network and learning rate"
# λ_max(G) is "almost identical" to λ_max(H) where it is so close at so large a share of the steps.
CLOSE, SHARE = 0.1, 0.9


def sharpens(runs: Sequence[Run]) -> Evidence:
    """Does sharpness grow by half at least in training without label smoothing, for every network and learning rate?"""
    rule = partial(
        limits.exceeds,
        statistic=lambda run: growth_factor(run, SHARPNESS),
        limit=1.5,  # the largest value is never below the first
        what="largest λ_max(H) of training without label smoothing over the first",
        scale="log",
    )
    return in_each_group(kinds_and_rates(unsmoothed(runs)), rule, NETWORK_AND_RATE)


def reaches_the_edge(runs: Sequence[Run]) -> Evidence:
    """Is the mean sharpness after the first crossing of 2/η within 25 % of 2/η, for every network and learning rate?"""

    def rule(group: Sequence[Run]) -> Evidence:
        what = "mean λ_max(H) over 2/η from the first crossing on, without label smoothing,"
        reached = sum(edge_crossing(run) is not None for run in finished(group))
        evidence = limits.lies_within(group, edge_ratio, 0.75, 1.25, what)
        return evidence._replace(value=f"{evidence.value}, reached in {reached} of {len(finished(group))} runs")

    return in_each_group(kinds_and_rates(unsmoothed(runs)), rule, NETWORK_AND_RATE)


def ansatz(runs: Sequence[Run]) -> Evidence:
    """Is tau of softmaxed Jacobian norm and sharpness over training above 0, for every network and smoothing?"""
    groups = {
        f"{kind}, smoothing {number(alpha)}": group
        for kind, own in grouped(runs, kind_name).items()
        for alpha, group in by_setting(own, SMOOTHING).items()
    }
    rule = partial(
        limits.exceeds,
        statistic=lambda run: tau_over_steps(run, JACOBIAN, SHARPNESS),
        limit=0.0,
        what="Kendall τ over training of max ‖∂σ(f)/∂x‖ and λ_max(H)",
        least=TAU,
    )
    return in_each_group(groups, rule, "network and label smoothing")


def ggn_carries_all(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(G) within `CLOSE` of λ_max(H) at more than `SHARE` of the measured steps of a run?"""

    def share(run: Run) -> float:
        return float(np.mean(np.abs(ggn_ratios(run) - 1) <= CLOSE))

    def rule(group: Sequence[Run]) -> Evidence:
        what = f"share of measured steps with λ_max(G) within {100 * CLOSE:g} % of λ_max(H)"
        evidence = limits.exceeds(group, share, SHARE, what, least=to_one(SHARE))
        done = finished(group)
        if not done:
            return evidence
        ratios = np.concatenate([ggn_ratios(run) for run in done])
        within = f"within {100 * CLOSE:g} % at {100 * np.mean(np.abs(ratios - 1) <= CLOSE):.0f} % of the steps"
        by_smoothing = ", ".join(
            f"{number(float(np.median(np.concatenate([ggn_ratios(run) for run in own]))), 2)} at {number(alpha)}"
            for alpha, own in by_setting(done, SMOOTHING).items()
        )
        return evidence._replace(
            value=f"λ_max(G)/λ_max(H) {number(float(np.median(ratios)), 2)} (median), {within}",
            spread=f"share of a seed's worst run {evidence.spread}",
            explanation=f"{evidence.explanation}; medians by label smoothing: {by_smoothing}",
        )

    return in_each_group(grouped(runs, kind_name), rule, "network")


def product_follows(runs: Sequence[Run]) -> Evidence:
    """Is Kendall's tau of ‖Jf_L ⋯ Jf_2‖ and λ_max(G) over training above 0?"""
    rule = partial(
        limits.exceeds,
        statistic=lambda run: tau_with_ggn(run, "layers.after_first"),
        limit=0.0,
        what="Kendall τ over training of max ‖Jf_L ⋯ Jf_2‖ and λ_max(G)",
        of="mean",
        least=TAU,
    )
    return in_each_group(grouped(runs, kind_name), rule, "network")


def product_follows_better(runs: Sequence[Run]) -> Evidence:
    """Does λ_max(G) follow ‖Jf_L ⋯ Jf_2‖ more closely than ‖Jf_L ⋯ Jf_1‖, by the difference of Kendall's tau?"""
    rule = partial(
        limits.exceeds,
        statistic=lambda run: tau_with_ggn(run, "layers.after_first") - tau_with_ggn(run, "layers.input_output"),
        limit=0.0,
        what="Kendall τ over training with λ_max(G), that of ‖Jf_L ⋯ Jf_2‖ less that of ‖Jf_L ⋯ Jf_1‖",
        of="mean",
        least=TAU,
    )
    return in_each_group(grouped(runs, kind_name), rule, "network")


EXPERIMENT = Experiment(
    id="m_sharpening",
    paper="M",
    question="Does gradient descent sharpen less with closer labels, and does sharpness follow the Jacobian?",
    config="m_sharpening",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="sharpening",
            paper="M",
            where="§2, §5, fig. 1",
            statement="sharpness grows during training without label smoothing",
            paper_value="figures without numbers",
            decide=sharpens,
        ),
        Claim(
            id="smoothing-less-sharpening",
            paper="M",
            where="§5, fig. 1, figs 6-11",
            statement="the smoother the labels, the less sharpness grows",
            paper_value="in all six figures",
            decide=lambda runs: in_each_group(
                kinds_and_rates(runs), lambda group: less_growth(group, SHARPNESS, "λ_max(H)"), NETWORK_AND_RATE
            ),
        ),
        Claim(
            id="smoothing-less-jacobian",
            paper="M",
            where="§5, fig. 1, figs 6-11",
            statement="the smoother the labels, the less the softmaxed input-output Jacobian grows",
            paper_value="in all six figures",
            decide=lambda runs: in_each_group(
                kinds_and_rates(runs), lambda group: less_growth(group, JACOBIAN, "max ‖∂σ(f)/∂x‖"), NETWORK_AND_RATE
            ),
        ),
        Claim(
            id="edge-of-stability",
            paper="M",
            where="§2 (Cohen et al. 2021)",
            statement="sharpness without label smoothing grows up to 2/η and stays about there",
            paper_value="“halted at around 2/η”",
            decide=reaches_the_edge,
        ),
        Claim(
            id="ansatz",
            paper="M",
            where="§3.2, ansatz 3.1",
            statement="sharpness and the input-output Jacobian grow together",
            paper_value="an ansatz, “under certain conditions”",
            decide=ansatz,
        ),
        Claim(
            id="eq-4",
            paper="M",
            where="§3.2, eq. 4",
            statement="the non-zero eigenvalues of G are those of the sum over layers",
            paper_value="a theorem (chain rule)",
            decide=lambda runs: limits.in_every_run(
                runs,
                lambda run: float(np.nanmax(run.history("layers.difference"))),
                1e-10,
                "largest difference of the eigenvalues of both sides over training, over the largest,",
            ),
        ),
        Claim(
            id="g-is-h",
            paper="M",
            where="§3.1",
            statement="λ_max(H) is almost identical to λ_max(G) throughout training",
            paper_value="“almost identical”",
            decide=ggn_carries_all,
        ),
        Claim(
            id="layers-follow",
            paper="M",
            where="§3.2",
            statement="λ_max(G) follows the product of the Jacobians of the layers after the first",
            paper_value="an argument without numbers",
            decide=product_follows,
        ),
        Claim(
            id="layers-follow-better",
            paper="hessflat",
            where="beyond the paper; §3.2",
            statement=(
                "without the first layer's Jacobian, which eq. 4 does not have, the product follows λ_max(G) better"
            ),
            paper_value="not in the paper",
            decide=product_follows_better,
        ),
    ),
    notes=(
        "At scale small two perceptrons stand in for VGG-11 and ResNet-18. In g-is-h and in the figures, λ_max(G) and "
        "λ_max(H) are on all measured examples with batch norm in train mode. Eq. 4 is on a few of them in eval mode."
    ),
)
