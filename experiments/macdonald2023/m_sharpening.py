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
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Evidence, Experiment
from hessflat.analysis.histories import growth_factor, tau_over_steps
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, grouped
from hessflat.analysis.strata import in_each_group


def sharpens(runs: Sequence[Run]) -> Evidence:
    """Does sharpness grow during training without label smoothing, for every network and learning rate?"""
    rule = partial(
        claims.exceeds,
        statistic=lambda run: growth_factor(run, SHARPNESS),
        limit=1.0,
        what="largest λ_max(H) over the first",
    )
    return in_each_group(kinds_and_rates(unsmoothed(runs)), rule)


def reaches_the_edge(runs: Sequence[Run]) -> Evidence:
    """Is the mean sharpness after the first crossing of 2/η within 25 % of 2/η, for every network and learning rate?"""

    def rule(group: Sequence[Run]) -> Evidence:
        what = "mean λ_max(H) over 2/η from the first crossing on"
        above = claims.exceeds(group, edge_ratio, 0.75, what)
        below = claims.falls_below(group, edge_ratio, 1.25, what)
        reached = sum(edge_crossing(run) is not None for run in finished(group))
        both = claims.all_hold(above, below)
        return both._replace(
            value=f"{above.value}, reached in {reached} of {len(finished(group))} runs", spread=above.spread
        )

    return in_each_group(kinds_and_rates(unsmoothed(runs)), rule)


def ansatz(runs: Sequence[Run]) -> Evidence:
    """Is tau of softmaxed Jacobian norm and sharpness over training above 0, for every network and smoothing?"""
    groups = {
        f"{kind}, smoothing {number(alpha)}": group
        for kind, own in grouped(runs, kind_name).items()
        for alpha, group in by_setting(own, SMOOTHING).items()
    }
    rule = partial(
        claims.exceeds, statistic=lambda run: tau_over_steps(run, JACOBIAN, SHARPNESS), limit=0.0, what="Kendall τ"
    )
    return in_each_group(groups, rule)


def ggn_carries_all(runs: Sequence[Run]) -> Evidence:
    """Is λ_max(G) within 10 % of λ_max(H) at every measured step of every run?"""

    def rule(group: Sequence[Run]) -> Evidence:
        evidence = claims.in_every_run(
            group, lambda run: float(np.abs(ggn_ratios(run) - 1).max()), 0.1, "|λ_max(G)/λ_max(H) − 1|"
        )
        done = finished(group)
        if not done:
            return evidence
        ratios = np.concatenate([ggn_ratios(run) for run in done])
        within = f"within 10 % at {100 * np.mean(np.abs(ratios - 1) <= 0.1):.0f} % of the steps"
        by_smoothing = ", ".join(
            f"{number(float(np.median(np.concatenate([ggn_ratios(run) for run in own]))), 2)} at {number(alpha)}"
            for alpha, own in by_setting(done, SMOOTHING).items()
        )
        return evidence._replace(
            value=f"λ_max(G)/λ_max(H) {number(float(np.median(ratios)), 2)} (median), {within}",
            spread=f"largest |ratio − 1| of a run {evidence.spread}",
            explanation=f"{evidence.explanation}; medians by label smoothing: {by_smoothing}",
        )

    return in_each_group(grouped(runs, kind_name), rule)


def product_follows(runs: Sequence[Run]) -> Evidence:
    """Is Kendall's tau of ‖Jf_L ⋯ Jf_2‖ and λ_max(G) over training above 0?"""
    rule = partial(
        claims.exceeds,
        statistic=lambda run: tau_with_ggn(run, "layers.after_first"),
        limit=0.0,
        what="Kendall τ of ‖Jf_L ⋯ Jf_2‖ and λ_max(G)",
    )
    return in_each_group(grouped(runs, kind_name), rule)


def product_follows_better(runs: Sequence[Run]) -> Evidence:
    """Does λ_max(G) follow ‖Jf_L ⋯ Jf_2‖ more closely than ‖Jf_L ⋯ Jf_1‖, by the difference of Kendall's tau?"""
    rule = partial(
        claims.exceeds,
        statistic=lambda run: tau_with_ggn(run, "layers.after_first") - tau_with_ggn(run, "layers.input_output"),
        limit=0.0,
        what="Kendall τ with λ_max(G), that of ‖Jf_L ⋯ Jf_2‖ less that of ‖Jf_L ⋯ Jf_1‖",
    )
    return in_each_group(grouped(runs, kind_name), rule)


EXPERIMENT = Experiment(
    id="m_sharpening",
    paper="M",
    question="Does gradient descent sharpen less where labels are closer, and is it the Jacobian that sharpens?",
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
            rule=(
                "largest λ_max(H) of a run over that at the start, above 1 by a 95 % t-interval over seeds, for every "
                "network and learning rate"
            ),
            decide=sharpens,
        ),
        Claim(
            id="smoothing-less-sharpening",
            paper="M",
            where="§5, fig. 1, figs 6-11",
            statement="the smoother the labels, the less sharpness grows",
            paper_value="so in all six figures",
            rule=(
                "Kendall τ of label smoothing and growth of λ_max(H), largest over start, below 0 by an exact "
                "permutation test within seeds, for every network and learning rate"
            ),
            decide=lambda runs: in_each_group(
                kinds_and_rates(runs), lambda group: less_growth(group, SHARPNESS, "λ_max(H)"), "no runs"
            ),
        ),
        Claim(
            id="smoothing-less-jacobian",
            paper="M",
            where="§5, fig. 1, figs 6-11",
            statement="the smoother the labels, the less the softmaxed input-output Jacobian grows",
            paper_value="so in all six figures",
            rule="the same of max ‖∂σ(f)/∂x‖",
            decide=lambda runs: in_each_group(
                kinds_and_rates(runs), lambda group: less_growth(group, JACOBIAN, "max ‖∂σ(f)/∂x‖"), "no runs"
            ),
        ),
        Claim(
            id="edge-of-stability",
            paper="M",
            where="§2 (Cohen et al. 2021)",
            statement="sharpness without label smoothing grows up to 2/η and stays about there",
            paper_value="“halted at around 2/η”",
            rule=(
                "mean λ_max(H) from the first crossing of 2/η on within 25 % of 2/η by a 95 % t-interval over seeds, "
                "for every network and learning rate"
            ),
            decide=reaches_the_edge,
        ),
        Claim(
            id="ansatz",
            paper="M",
            where="§3.2, ansatz 3.1",
            statement="sharpness and the input-output Jacobian grow together",
            paper_value="an ansatz, “under certain conditions”",
            rule=(
                "Kendall τ over training of max ‖∂σ(f)/∂x‖ and λ_max(H), above 0 by a 95 % t-interval over seeds, for "
                "every network and smoothing"
            ),
            decide=ansatz,
        ),
        Claim(
            id="eq-4",
            paper="M",
            where="§3.2, eq. 4",
            statement="the non-zero eigenvalues of G are those of the sum over layers",
            paper_value="a theorem (chain rule)",
            rule="largest difference of eigenvalues, over the largest, at most 1e-10 in every run",
            decide=lambda runs: claims.in_every_run(
                runs,
                lambda run: float(np.nanmax(run.history("layers.difference"))),
                1e-10,
                "difference of the eigenvalues of both sides",
            ),
        ),
        Claim(
            id="g-is-h",
            paper="M",
            where="§3.1",
            statement="λ_max(H) is almost identical to λ_max(G) throughout training",
            paper_value="“almost identical”",
            rule="their ratio within 10 % of 1 at every measured step of every run",
            decide=ggn_carries_all,
        ),
        Claim(
            id="layers-follow",
            paper="M",
            where="§3.2",
            statement="λ_max(G) follows the product of the Jacobians of the layers after the first",
            paper_value="an argument without numbers",
            rule=(
                "Kendall τ over training of max ‖Jf_L ⋯ Jf_2‖ and λ_max(G), above 0 by a 95 % t-interval over seeds, "
                "for every network"
            ),
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
            rule=(
                "difference of these τ and those of the whole input-output Jacobian, above 0 by a 95 % t-interval over "
                "seeds, for every network"
            ),
            decide=product_follows_better,
        ),
    ),
    notes=(
        "At scale small two perceptrons stand in for VGG-11 and ResNet-18. λ_max(G) and λ_max(H) of g-is-h and of the "
        "figures are on all measured examples with batch norm in train mode; eq. 4 is on a few of them in eval mode."
    ),
)
