"""Does width change the right edge of the spectrum? *Empirical Analysis of the Hessian*, §3.2 and 3.4, figures 3, 5."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.sagun2017 import spectrum_ends
from hessflat.analysis import claims, limits, spectra
from hessflat.analysis.evidence import Statistic
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, seeds_added
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.report import figures

WIDTH = "model.mlp.hidden"


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Figure 3, also relative to the training loss, and figure 5."""
    groups = by_setting(finished(runs), WIDTH)
    curves = {
        end: spectrum_ends.curves_by(runs, WIDTH, end, "hidden units:") for end in ("largest", "smallest")
    }  # fmt: skip
    per_loss = {
        label: values / np.array([[run.final("train_loss")] for run in group])
        for (label, values), group in zip(curves["largest"].items(), groups.values(), strict=True)
    }
    sizes = spectrum_ends.sizes_by(runs, WIDTH, "hidden units:")
    accuracy = spectrum_ends.accuracy_words(runs)
    right = [
        figures.RankPanel("right edge", curves["largest"], "largest"),
        figures.RankPanel("over the loss", per_loss, "largest", y_name="eigenvalue / loss (1/nat)"),
    ]
    below = [figures.RankPanel("below zero", curves["smallest"], "negative", sizes=sizes)]
    return [
        figures.eigenvalues_by_rank(
            right,
            "right-edge",
            "The largest eigenvalues of the Hessian after training networks of one hidden layer on the same examples, "
            "with the same step and number of steps: (a) as they are, (b) over the training loss of each. "
            f"Mean over seeds, band ± 1 std. {accuracy} {figures.context(runs)}",
        ),
        figures.eigenvalues_by_rank(
            below,
            "below-zero",
            "The smallest eigenvalues of the Hessian against their rank in per cent of P, for the same networks. "
            f"Mean over seeds, band ± 1 std. {accuracy} {figures.context(runs)}",
        ),
    ]


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Solutions and both ends of their spectra by width."""
    rows = []
    for width, group in by_setting(finished(runs), WIDTH).items():
        exact = [spectrum_ends.exact_share_below_zero(run) for run in group if spectrum_ends.is_known_exactly(run)]
        size = int(spectrum_ends.ends(group[0])["num_params"])
        cells = [number(width), f"{size:,}"]
        cells += [_spread([run.final("train_loss") for run in group])]
        cells += [_spread([run.final("hessian.extremes.lambda_max") for run in group])]
        cells += [
            _spread([spectrum_ends.mean_outlier(run) for run in group]),
            _spread([mean_outlier_over_loss(run) for run in group]),
        ]
        counts = [
            [spectrum_ends.num_outliers(run) for run in group],
            [spectra.count_above_gap(spectrum_ends.ends(run)["largest"]) for run in group],
            [spectra.count_above_ratio(spectrum_ends.ends(run)["largest"]) for run in group],
        ]
        cells += [", ".join(map(str, each)) for each in counts]
        cells += [_spread([run.final("hessian.extremes.lambda_min") for run in group])]
        cells += [f"{100 * most_negative(width, size):.2f} %", f"{100 * np.mean(exact):.2f} %" if exact else "–"]
        cells += [str(int(sum(run.final("hessian.extremes.unconverged") for run in group)))]
        rows.append(tuple(cells))
    header = (
        "hidden units", "P", "train loss", "λ_max(H)", f"mean of {spectrum_ends.CLASSES} largest",
        "the same / train loss", "above elbow", "above gap", "above ratio", "λ_min(H)", "(C − 1) h / P",
        "share below zero", "not converged",
    )  # fmt: skip
    caption = (
        "Both ends of the spectrum by width at the end of training: mean ± std over seeds, counts for every seed. At "
        "most (C − 1) h eigenvalues can be negative; their number is known from exact spectra."
    )
    return [Table(caption, header, tuple(rows))]


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {number(float(np.std(values, ddof=1)), 2)}" if len(values) > 1 else ""
    return f"{number(float(np.mean(values)), 3)}{spread}"


def most_negative(width: tuple[int, ...], size: int) -> float:
    """(C − 1) h / P: the largest possible share of negative eigenvalues with one hidden layer of `width` units.

    See `measures.spectrum_edges`.
    """
    return (spectrum_ends.CLASSES - 1) * width[0] / size


def mean_outlier_over_loss(run: Run) -> float:
    """The mean of the C largest eigenvalues over the training loss."""
    return spectrum_ends.mean_outlier(run) / run.final("train_loss")


def unchanged_with_width(statistic: Statistic, factor: float, what: str, runs: Sequence[Run]) -> Evidence:
    """Is a statistic, named `what`, equal at the smallest and the largest width, within a factor?"""
    return claims.unchanged(runs, statistic, WIDTH, claims.SMALLEST, claims.LARGEST, factor, what)


def right_edge(runs: Sequence[Run]) -> Evidence:
    """Is the mean outlier equal at the smallest and the largest width, within a factor of 1.25?

    The explanation adds the same comparison without the smallest width, and that of the training loss.
    """
    what = f"mean of the {spectrum_ends.CLASSES} largest eigenvalues"
    evidence = unchanged_with_width(spectrum_ends.mean_outlier, 1.25, what, runs)
    loss = unchanged_with_width(lambda run: run.final("train_loss"), 1.25, "training loss", runs)
    widths = sorted({run.setting(WIDTH) for run in runs})
    others = [run for run in runs if run.setting(WIDTH) in widths[1:]]
    if len(widths) < 3:
        return evidence
    rest = unchanged_with_width(spectrum_ends.mean_outlier, 1.25, "", others)
    return evidence._replace(
        explanation=f"{evidence.explanation}; without the narrowest network:{rest.value}; for comparison, {loss.value}"
    )


def share_of_negatives_stays(runs: Sequence[Run]) -> Evidence:
    """Is the share of negative eigenvalues equal at the smallest and largest width with exact spectra?"""
    known = [run for run in finished(runs) if spectrum_ends.is_known_exactly(run)]
    return unchanged_with_width(
        spectrum_ends.exact_share_below_zero, 1.1, "share of eigenvalues below zero, from exact spectra,", known
    )


def at_most_by_rank(runs: Sequence[Run]) -> Evidence:
    """Is the number of negative eigenvalues at most (C − 1) h in every run with an exact spectrum?"""
    known = [run for run in finished(runs) if spectrum_ends.is_known_exactly(run)]

    def over_bound(run: Run) -> float:
        return spectrum_ends.exact_share_below_zero(run) / most_negative(
            run.setting(WIDTH), int(spectrum_ends.ends(run)["num_params"])
        )

    return limits.in_every_run(
        known, over_bound, 1.0, "number of negative eigenvalues, from exact spectra, over (C − 1) h"
    )


EXPERIMENT = Experiment(
    id="s_width",
    paper="S",
    question="Does the width of a network change the right edge of its spectrum, or only its bulk?",
    config="s_width",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="right-edge-stays",
            paper="S",
            where="§3.2, fig. 3",
            statement="the right edge of the spectrum does not change as parameters are added",
            paper_value="a figure without numbers",
            decide=right_edge,
        ),
        *spectrum_ends.as_many(
            WIDTH, "§3.2, fig. 3", "the number of large eigenvalues does not change as parameters are added"
        ),
        Claim(
            id="right-edge-at-equal-loss",
            paper="hessflat",
            where="§3.2, fig. 3",
            statement=(
                "at equal training loss the right edge is the same at all widths, for it is proportional to the loss"
            ),
            paper_value="not in the paper",
            decide=partial(
                unchanged_with_width,
                mean_outlier_over_loss,
                1.25,
                f"mean of the {spectrum_ends.CLASSES} largest over training loss",
            ),
        ),
        spectrum_ends.tail_has_one_shape(WIDTH, "§3.4, fig. 5"),
        Claim(
            id="tail-has-one-size",
            paper="S",
            where="fig. 5",
            statement="the negative eigenvalues at the same per cent of P are the same at all widths",
            paper_value="a figure without numbers",
            decide=partial(unchanged_with_width, spectrum_ends.size_of_tail, 1.25, "|λ| half-way along the tail"),
        ),
        Claim(
            id="share-of-negatives-stays",
            paper="S",
            where="§3.4",
            statement="the ratio of negative eigenvalues remains the same as parameters are added",
            paper_value="an observation without numbers",
            decide=share_of_negatives_stays,
        ),
        Claim(
            id="negatives-by-rank",
            paper="hessflat",
            where="§3.4",
            statement=(
                "with one hidden layer of ReLU, at most (C − 1) h eigenvalues of H can be negative: the ratio remains "
                "because this number grows as P does"
            ),
            paper_value="not in the paper",
            decide=at_most_by_rank,
        ),
        spectrum_ends.NEGATIVES_ARE_SMALL,
        spectrum_ends.AGREEMENT,
    ),
    notes=(
        "The paper gives neither the algorithm nor the learning rate here. We use gradient descent with a rate of "
        "0.1, until every width has learned every example and the loss is some 1e-3."
    ),
    tuned=(seeds_added("paper", 3),),
)
