"""Do λ_max and the mass at zero depend on the number of Lanczos steps? *Flatness is a False Friend*, app. D."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hessflat.analysis import claims, limits, spectra
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.report import figures

STEPS = "measure.lanczos_steps"
# So few steps find λ_max within this error, and a mass that is taken within this width is right within `OFF`.
FEW, ERROR, WIDTH, OFF = 20, 0.01, 0.01, 0.02


def over_probes(run: Run, statistic: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """The mean over probes of a statistic of the Ritz values `[m]` of H at the end and their weights `[m]`."""
    stored = run.spectrum("hessian")
    probes = zip(stored["nodes"], stored["weights"], stored["num_valid"], strict=True)
    return float(np.mean([statistic(nodes[:valid], weights[:valid]) for nodes, weights, valid in probes]))


def mass_of_nearest(run: Run, count: int) -> float:
    """The mass of the `count` Ritz values nearest zero, as the paper takes it."""
    return over_probes(run, lambda nodes, weights: spectra.ritz_mass_near_zero(nodes, weights, count)[0])


def mass_within(run: Run) -> float:
    """The mass of the Ritz values with |λ| below `WIDTH` times the largest |λ|."""
    return over_probes(run, partial(spectra.ritz_share_near_zero, within=WIDTH))


def share_within(run: Run) -> float:
    """The share of all eigenvalues with |λ| below `WIDTH` times the largest |λ|."""
    return spectra.share_near_zero(spectra.exact_eigenvalues(run), WIDTH)


def error_of_mass(run: Run) -> float:
    """The mass within `WIDTH` less the exact share."""
    return mass_within(run) - share_within(run)


def error_of_largest(run: Run) -> float:
    """The relative error of λ_max(H)."""
    return abs(run.final("hessian.lambda_max") / run.final("hessian.exact.lambda_max") - 1)


MASSES: dict[str, Callable[[Run], float]] = {
    "nearest Ritz value": partial(mass_of_nearest, count=1),
    "two nearest": partial(mass_of_nearest, count=2),
    f"all within {number(WIDTH)} λ_max": mass_within,
    "exact share within": share_within,
}


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Masses at zero against the number of steps; the error of λ_max, which is rounding, is in the table."""
    groups = by_setting(finished(runs), STEPS)
    places = np.array(list(groups))

    def curve(statistic: Callable[[Run], float]) -> np.ndarray:
        return np.array([[statistic(run) for run in own] for own in groups.values()]).T

    panel = figures.CurvePanel(
        "mass at zero", places, {name: curve(one) for name, one in MASSES.items()}, "mass at zero"
    )
    caption = (
        "Lanczos quadrature of the same weights against its number of steps: the mass at zero, computed in three "
        f"ways, and the share of all eigenvalues within {number(WIDTH)} λ_max of zero. Mean and range over seeds. "
        f"{figures.context(runs)}"
    )
    return [figures.curves_with_bands([panel], "Lanczos steps", "steps", caption, {})]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Masses and the error of λ_max by the number of steps, means over seeds."""
    rows = []
    for steps, own in by_setting(finished(runs), STEPS).items():
        masses = [number(float(np.mean([one(run) for run in own]))) for one in MASSES.values()]
        noise = number(float(np.mean([run.final("hessian.zero_mass") for run in own])))
        error = number(float(np.mean([error_of_largest(run) for run in own])), 2)
        rows.append((str(steps), *masses, noise, error, str(len(own))))
    header = ("steps", *MASSES, "zero_mass of hessflat", "relative error of λ_max", "seeds")
    caption = "Mass at zero and λ_max of H by the number of Lanczos steps, from one probe. Means over seeds."
    return [Table(caption, header, tuple(rows))]


def with_steps(runs: Sequence[Run], keep: Callable[[int], bool]) -> list[Run]:
    """The runs whose number of Lanczos steps is one to keep."""
    return [run for run in runs if keep(run.setting(STEPS))]


def largest_by_few(runs: Sequence[Run]) -> Evidence:
    """Is the relative error of λ_max below `ERROR` with `FEW` steps and more?"""
    what = f"relative error of λ_max(H) with {FEW} Lanczos steps or more"
    return limits.falls_below(
        with_steps(runs, lambda steps: steps >= FEW), error_of_largest, ERROR, what, scale="log"
    )  # fmt: skip


def mass_is_exact(runs: Sequence[Run]) -> Evidence:
    """Is the mass within `WIDTH` that of the exact spectrum within `OFF`, with `FEW` steps and more?"""
    what = f"mass of Ritz values within {number(WIDTH)} λ_max of zero less the exact share, with {FEW} steps or more,"
    return limits.lies_within(with_steps(runs, lambda steps: steps >= FEW), error_of_mass, -OFF, OFF, what)


EXPERIMENT = Experiment(
    id="h_lanczos_steps",
    paper="hessflat",
    question="Do conclusions from Lanczos quadrature depend on its number of steps?",
    config="h_lanczos_steps",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="nearest-loses-mass",
            paper="G",
            where="footnote 2; app. D",
            statement="more Lanczos steps split the weight at zero, so that the nearest Ritz value has less weight",
            paper_value="said without numbers: may give a lower value",
            decide=partial(
                claims.in_order,
                statistic=partial(mass_of_nearest, count=1),
                what="mass of the Ritz value nearest zero",
                by=STEPS,
                expect="decreases",
            ),
        ),
        Claim(
            id="two-nearest-keep-it",
            paper="G",
            where="app. D",
            statement="splitting does not lower the joint mass of the two Ritz values nearest zero",
            paper_value="said without numbers: combining them is to remedy the splitting",
            decide=partial(
                claims.unchanged,
                statistic=partial(mass_of_nearest, count=2),
                by=STEPS,
                low=claims.SMALLEST,
                high=claims.LARGEST,
                factor=1.1,
                what="mass of the two Ritz values nearest zero",
            ),
        ),
        Claim(
            id="mass-within-is-exact",
            paper="hessflat",
            where="beyond the paper",
            statement="the mass of all Ritz values that are small beside λ_max is the exact share of such eigenvalues",
            paper_value="not in the paper",
            decide=mass_is_exact,
        ),
        Claim(
            id="largest-by-few",
            paper="hessflat",
            where="beyond the paper",
            statement=f"{FEW} Lanczos steps are enough for λ_max(H)",
            paper_value="not in the paper, which takes 100",
            decide=largest_by_few,
        ),
    ),
    notes=(
        "The runs of a seed train the same network and start from the same probe, so that a run with more steps "
        "continues one with fewer. The order of their values is therefore not due to chance in the probe. Each seed "
        "has its own probe."
    ),
    tuned=(Tuned("small", (20, 21, 22), "the rule of mass-within-is-exact, which was on logarithms,"),),
)
