"""Do regularisers control the Jacobian or the Hessian? *On progressive sharpening*, §6.3, B.3, figs. 5, 20-27."""

from collections.abc import Sequence
from functools import partial

from experiments.macdonald2023.end_of_training import (
    COLUMNS,
    GAP,
    JACOBIAN,
    MEASURED,
    SHARPNESS,
    SIX,
    alike,
    by_network,
    gap_goes_with,
    network_words,
    trend,
)
from hessflat.analysis import limits
from hessflat.analysis.correlation import correlation, differing_only_in
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, Tuned
from hessflat.analysis.results import Run, finished, meeting
from hessflat.analysis.strata import final_metric, follows_closer, not_lowered, setting_value
from hessflat.analysis.tables import table_by_group
from hessflat.report import figures

# By the setting that has their degree: a name, and what a sentence calls the degree.
REGULARISERS = {
    "optim.l2": ("weight-decay", "weight decay"),
    "train.label_smoothing": ("label-smoothing", "label smoothing α"),
    "train.mixup": ("mixup", "mixup β"),
    "train.augment": ("augmentation", "augmentation p"),
    "optim.sam_radius": ("sam", "SAM's ρ"),
}
RATE = "optim.lr"
SAM_ALONE = "sharpness is regularised in SAM only"
# By less a regulariser is not said to lower sharpness.
KEPT = 1.25
CORRELATED = "much better correlated with the gap than the Hessian's norm (figures without numbers)"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figures 5 and 20 to 27: for each network, one column for each regulariser and one row for each of six numbers."""
    return [
        figures.grid_against(
            [(setting, own) for setting in REGULARISERS if (own := differing_only_in(group, setting)[0])],
            SIX,
            RATE,
            words.lower(),
            f"{words}: the gap, λ_max(H), Jacobian norm, λ_max(G), training loss and validation "
            f"accuracy at the end of training, against the degree of each regulariser. Points: seeds; lines and bars: "
            f"mean ± 1 std over seeds. Crosses: runs that did not finish. {MEASURED} {figures.context(group)}",
        )
        for words, group in by_network(runs).items()
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """What the gap goes with, by network; then the metrics of `COLUMNS` by regulariser, its degree and the initial
    rate: one table for each network.
    """
    return [
        what_the_gap_follows(runs),
        *(
            table_by_group(by_regulariser(group), ("regulariser", "degree", RATE), COLUMNS, f"{words}. {MEASURED}")
            for words, group in by_network(runs).items()
        ),
    ]


def what_the_gap_follows(runs: Sequence[Run]) -> Table:
    """Kendall's τ of the gap with the Jacobian norm and with sharpness, for each network and regulariser."""
    fitted = meeting(finished(runs), "fitted")
    rows = []
    for words, group in by_network(fitted).items():
        cells = []
        for setting in REGULARISERS:
            varied, stratum = differing_only_in(group, setting)
            found = [correlation(varied, metric, GAP, stratum=stratum) for metric in (JACOBIAN, SHARPNESS)]
            cells.append(", ".join("–" if one is None else f"{one.tau:+.2f}" for one in found))
        rows.append((words, *cells, str(len(group))))
    header = ("network", *(words for _, words in REGULARISERS.values()), "runs")
    caption = (
        "Kendall τ of the gap with max ‖∂f/∂x‖₂, then with λ_max(H), over pairs of runs that fit their training data "
        "and differ in one regulariser (and the seed) alone."
    )
    return Table(caption, header, tuple(rows))


def by_regulariser(runs: Sequence[Run]) -> dict[tuple, list[Run]]:
    """Runs grouped by (regulariser, degree, initial learning rate); runs without another regulariser count as weight
    decay.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        used = [setting for setting in REGULARISERS if setting != "optim.l2" and run.setting(setting)]
        setting = used[0] if used else "optim.l2"
        key = (REGULARISERS[setting][1], run.setting(setting), run.setting(RATE))
        groups.setdefault(key, []).append(run)
    order = [words for _, words in REGULARISERS.values()]
    return dict(sorted(groups.items(), key=lambda item: (order.index(item[0][0]), *item[0][1:])))


def closer_to_the_jacobian(runs: Sequence[Run]) -> Evidence:
    """Is tau of gap and Jacobian norm larger than tau of gap and sharpness, within a network and an initial rate?"""
    return follows_closer(
        runs,
        final_metric(GAP),
        final_metric(JACOBIAN),
        final_metric(SHARPNESS),
        lambda run: (network_words(run), run.setting(RATE)),
        "runs of one network and learning rate",
    )


def keeps_sharpness(runs: Sequence[Run], setting: str) -> Evidence:
    """Is sharpness at the largest degree of a regulariser, but for the factor `KEPT`, not below that without it?"""
    varied, stratum = differing_only_in(finished(runs), setting)
    quantities = final_metric(SHARPNESS), setting_value(setting)
    return not_lowered(varied or runs, *quantities, stratum, KEPT, alike(setting))


def claims_of_regulariser(setting: str) -> list[Claim]:
    """The claims on one regulariser: it lowers the Jacobian norm, with which the gap increases; SAM lowers sharpness
    too.
    """
    name, words = REGULARISERS[setting]
    own = [
        gap_goes_with(
            id=f"{name}-jacobian",
            where="§6.3, fig. 5",
            statement=f"with {words} the Jacobian norm follows the gap",
            paper_value=CORRELATED,
            setting=setting,
        ),
        trend(
            id=f"{name}-lowers-jacobian",
            where="§6.3, fig. 5",
            statement=f"{words} lowers the Jacobian norm",
            paper_value="the Jacobian norm is regularised across all techniques",
            metric=JACOBIAN,
            setting=setting,
            expect="decreases",
        ),
    ]
    if setting == "optim.sam_radius":
        own.append(
            trend(
                id=f"{name}-sharpness",
                where="§6.3",
                statement=f"{words} lowers sharpness",
                paper_value=SAM_ALONE,
                metric=SHARPNESS,
                setting=setting,
                expect="decreases",
            )
        )
    else:
        own.append(
            Claim(
                id=f"{name}-sharpness",
                paper="M",
                where="§6.3",
                statement=f"{words} does not regularise sharpness",
                paper_value=SAM_ALONE,
                decide=partial(keeps_sharpness, setting=setting),
            )
        )
    return own


EXPERIMENT = Experiment(
    id="m_regularisers",
    paper="M",
    question="Does the gap follow the Jacobian norm for all five regularisers, and sharpness for SAM alone?",
    config="m_regularisers",
    regularisers=tuple(REGULARISERS),
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="jacobian-rather-than-sharpness",
            paper="M",
            where="§6.3, B.3",
            statement="the gap follows the Jacobian norm rather than sharpness",
            paper_value=CORRELATED,
            decide=closer_to_the_jacobian,
        ),
        Claim(
            id="gauss-newton",
            paper="M",
            where="§3.1, B.3",
            statement="the norm of the Gauss-Newton matrix is very similar to that of the Hessian",
            paper_value="(almost) always very similar",
            decide=partial(limits.agrees, metric="gauss_newton.lambda_max", other="hessian.lambda_max", within=0.1),
        ),
        *(claim for setting in REGULARISERS for claim in claims_of_regulariser(setting)),
    ),
    tuned=(
        Tuned("small", (0, 1, 2), "the degrees of augmentation"),
        Tuned("small", (7, 8, 100), "initial weights, rates and steps without batch norm, and the degrees of SAM"),
        Tuned("medium", (7, 100), "sizes, rates, batches, epochs and degrees"),
    ),
)
