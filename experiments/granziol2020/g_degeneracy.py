"""Which share of the spectrum is zero during training? *Flatness is a False Friend*, §3.2, app. D, figs. 1, 11-14."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.granziol2020.degeneracy_figures import (
    PAPER_BOUND,
    draw,
    is_papers,
    modes_measured,
    tabulate,
)
from hessflat.analysis import limits
from hessflat.analysis.designs import TENTH, to_one
from hessflat.analysis.experiment import Claim, Evidence, Experiment
from hessflat.analysis.names import number
from hessflat.analysis.results import Run
from hessflat.analysis.spectra import zero_mass_history
from hessflat.analysis.statistics import geometric_mean, kendall_tau


def operators_in_modes(run: Run, operator: str) -> list[str]:
    """The names of an operator in the modes of batch norm in which it was measured."""
    return [f"{operator}{suffix}" for suffix in modes_measured([run])]


def smallest_mass(run: Run, count: int = 2) -> float:
    """The smallest mass of the Hessian's `count` Ritz values nearest zero over measured steps and modes."""
    return min(zero_mass_history(run, operator, count).mass.min() for operator in operators_in_modes(run, "hessian"))


def splitting(run: Run) -> float:
    """The largest share of the second nearest Ritz value in the mass of the nearest two: that of H minus that of G."""
    largest = [
        max(zero_mass_history(run, name, 2).second.max() for name in operators_in_modes(run, operator))
        for operator in ("hessian", "gauss_newton")
    ]
    return float(largest[0] - largest[1])


def nearer(run: Run) -> float:
    """|mean of the two Ritz values nearest zero| over |the nearest one|: geometric means over steps and modes."""
    sizes = [
        geometric_mean(np.abs(zero_mass_history(run, name, count).value) for name in operators_in_modes(run, "hessian"))
        for count in (2, 1)
    ]
    return sizes[0] / sizes[1]


def steadier(run: Run) -> float:
    """The range over steps of the mass of the two nearest Ritz values minus that of the nearest; the largest over
    modes.
    """
    return max(
        float(np.ptp(zero_mass_history(run, name, 2).mass) - np.ptp(zero_mass_history(run, name, 1).mass))
        for name in operators_in_modes(run, "hessian")
    )


def tandem(run: Run) -> float:
    """Kendall's tau of |change of mass| and |change of log |value|| of H's Ritz value nearest zero, from one measured
    step to the next; the mean over modes.
    """
    taus = []
    for name in operators_in_modes(run, "hessian"):
        history = zero_mass_history(run, name, 1)
        # A value of 0 has no logarithm.
        sizes = np.log(np.maximum(np.abs(history.value), np.finfo(float).tiny))
        taus.append(kendall_tau(*(np.abs(np.diff(values)).tolist() for values in (history.mass, sizes))))
    return float(np.mean(taus))


def above_noise(run: Run) -> float:
    """|Ritz value of G nearest zero| over the noise floor of float32: geometric mean over steps and modes."""
    ratios = []
    for name in operators_in_modes(run, "gauss_newton"):
        floors = run.history(f"{name}.noise_floor")
        ratios.append(np.abs(zero_mass_history(run, name, 1).value) / floors[np.isfinite(floors)])
    return geometric_mean(ratios)


def of_family(runs: Sequence[Run], family: str) -> list[Run]:
    """The runs of one family of networks."""
    return [run for run in runs if run.setting("model.name") == family]


def family_reaches_bound(runs: Sequence[Run], family: str, operator: str) -> Evidence:
    """Does the mass at zero reach the bound from the network's own layers (§3.2, eq. 11) at every measured step?"""
    chosen = of_family(runs, family)
    return limits.reaches_bound(chosen, f"{operator}.zero_mass", "zero_mass_bound", when="always")


def reaches_papers_bound(runs: Sequence[Run]) -> Evidence:
    """Is the smallest mass at zero of VGG-16 on CIFAR-10 above the paper's bound?"""
    chosen = [run for run in runs if is_papers(run)]
    return limits.exceeds(
        chosen,
        smallest_mass,
        PAPER_BOUND,
        "smallest mass at zero of H, VGG-16 on CIFAR-10, over the measured steps",
        least=to_one(PAPER_BOUND),
    )


def degenerate(runs: Sequence[Run]) -> Evidence:
    """Is the smallest mass at zero of PreResNet above 0.5?"""
    return limits.exceeds(
        of_family(runs, "preresnet"),
        smallest_mass,
        0.5,
        "smallest mass at zero of H, PreResNet, over the measured steps and modes",
    )


EXPERIMENT = Experiment(
    id="g_degeneracy",
    paper="G",
    question="How much of the spectrum is zero during training, and is it at least what the rank bound says?",
    config="g_degeneracy",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="hessian-bound",
            paper="G",
            where="§3.2, fig. 1; app. D, fig. 12",
            statement="VGG: the mass at zero of H, two Ritz values combined, is at least 1 − 4 d_y (Σ N_l + d_x) / P",
            paper_value="largely respected",
            decide=partial(family_reaches_bound, family="vgg", operator="hessian"),
        ),
        Claim(
            id="gauss-newton-bound",
            paper="G",
            where="app. D, fig. 12",
            statement="VGG: the mass at zero of G, one Ritz value, is extremely high, too",
            paper_value="a figure without numbers",
            decide=partial(family_reaches_bound, family="vgg", operator="gauss_newton"),
        ),
        Claim(
            id="paper's-bound",
            paper="G",
            where="§3.2, fig. 1",
            statement="VGG-16 on CIFAR-10: the mass at zero of H is at least the paper's bound",
            paper_value=f"1 − 577,600 / 1.6e7 = {number(PAPER_BOUND)}",
            decide=reaches_papers_bound,
        ),
        Claim(
            id="preresnet-degenerate",
            paper="G",
            where="app. D, figs. 13, 14",
            statement="PreResNet: in both modes of batch norm, spectra of H are consistent with large rank degeneracy",
            paper_value="figures without numbers",
            decide=degenerate,
        ),
        Claim(
            id="peak-splits",
            paper="G",
            where="app. D, figs. 11, 12",
            statement="the Ritz value at zero splits in two for H but not for G",
            paper_value="figures without numbers",
            decide=partial(
                limits.exceeds,
                statistic=splitting,
                limit=0.0,
                what="largest share of the second Ritz value, H less G,",
                least=TENTH,
            ),
        ),
        Claim(
            id="drops-in-tandem",
            paper="G",
            where="app. D, fig. 11",
            statement="the mass of H's Ritz value nearest zero drops, and comes back, as its absolute value changes",
            paper_value="significant drops in tandem with significant changes",
            decide=partial(
                limits.on_one_side,
                statistic=tandem,
                what="Kendall τ of the changes of mass and of log |value| of H's nearest Ritz value, step to step",
                expect="larger",
            ),
        ),
        Claim(
            id="combining-steadies",
            paper="G",
            where="app. D, figs. 11, 12, 14",
            statement="the joint mass of H's two Ritz values nearest zero does not drop where that of the nearest does",
            paper_value="figures without numbers",
            decide=partial(
                limits.falls_below,
                statistic=steadier,
                limit=0.0,
                what="range of the mass, of the two nearest less that of the nearest,",
                least=TENTH,
            ),
        ),
        Claim(
            id="combining-centres",
            paper="G",
            where="app. D, figs. 11, 12",
            statement="the weighted mean of H's two Ritz values nearest zero is nearer zero than the nearest alone",
            paper_value="much closer to the origin",
            decide=partial(
                limits.falls_below,
                statistic=nearer,
                limit=1.0,
                what="|mean of the two nearest| over |the nearest|, geometric mean over steps and modes",
                scale="log",
            ),
        ),
        Claim(
            id="gauss-newton-noise",
            paper="G",
            where="app. D, fig. 12",
            statement="the Ritz value that is taken for G's zero is extremely close to the threshold of precision",
            paper_value="a figure without numbers",
            decide=partial(
                limits.falls_below,
                statistic=above_noise,
                limit=10.0,
                what="|Ritz value of G| over float32's noise, geometric mean over steps and modes",
                scale="log",
            ),
        ),
    ),
    notes=(
        "The paper counts 13,416 neurons, those of VGG-16 for ImageNet, and 1,024 inputs, those of a grey image. We "
        "show its bound and that of the model's own layers. Figures and table take one or two Ritz values, as the "
        "paper does. The metric of the first two claims also counts every Ritz value within float32's noise."
    ),
)
