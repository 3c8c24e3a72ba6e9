"""Do random-matrix laws predict the bulk and outliers? *Empirical Analysis of the Hessian*, appendix B, figure 10."""

from collections.abc import Sequence

import matplotlib
import numpy as np

from hessflat.analysis import limits, random_matrix
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, finished
from hessflat.analysis.spectra import exact_eigenvalues
from hessflat.data.sources import blob_centres
from hessflat.plot.style import PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, log_ticks, new_columns, new_figure


def aspect_ratio(run: Run) -> float:
    """α: the dimension over the number of training examples."""
    return run.setting("data.blobs.dimension") / run.manifest["examples"]["train"]


def covariance(run: Run) -> np.ndarray:
    """The eigenvalues of (1/N) Σ x xᵀ `[d]`, ascending, from the Hessian at zero weights.

    Half of that Hessian's eigenvalues are half of these, and the other half are zero.
    """
    return 2 * np.sort(exact_eigenvalues(run, step=run.first_step))[-run.setting("data.blobs.dimension") :]


def spikes(run: Run) -> np.ndarray:
    """The two largest eigenvalues of the population covariance E x xᵀ, descending, from the centres of the blobs."""
    settings = {name: run.setting(f"data.blobs.{name}") for name in ("num_classes", "dimension", "separation")}
    centres = blob_centres(np.random.default_rng(run.setting("data.blobs.seed")), **settings)
    return 1 + np.linalg.eigvalsh(centres @ centres.T / len(centres))[::-1]


def is_one_blob(run: Run) -> bool:
    """Whether the data set is one blob."""
    return run.setting("data.blobs.separation") == 0


def norm(run: Run) -> float:
    """The norm of the centres of the blobs."""
    return run.setting("data.blobs.separation") * run.setting("data.blobs.dimension") ** 0.5


def distance_to_law(run: Run) -> float:
    """The Kolmogorov distance of the eigenvalues from the Marčenko-Pastur law."""
    return random_matrix.distance_to_bulk(covariance(run), aspect_ratio(run))


def off_the_edge(run: Run) -> float:
    """The largest eigenvalue over the upper edge of the Marčenko-Pastur bulk, less 1."""
    return float(covariance(run)[-1] / random_matrix.bulk_edges(aspect_ratio(run))[1] - 1)


def off_the_outliers(run: Run) -> np.ndarray:
    """The two largest eigenvalues `[2]`, descending, over where theory has them, less 1."""
    off: np.ndarray = covariance(run)[-2:][::-1] / random_matrix.outlier_position(spikes(run), aspect_ratio(run)) - 1
    return off


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Histograms with the Marčenko-Pastur density for one and two blobs at each α; outliers against the separation."""
    done = [run for run in finished(runs) if run.seed == min(r.seed for r in finished(runs))]
    far = max(map(norm, done))
    ends = [run for run in done if norm(run) in (0.0, far)]
    shown = sorted(ends, key=lambda run: (not is_one_blob(run), aspect_ratio(run)))
    return [_histograms(shown), _transition(finished(runs))]


def _histograms(shown: Sequence[Run]) -> Drawing:
    columns = max(1, len(shown) // 2)
    figure, axes = new_figure(2, columns, 2.0)
    data = new_columns("blobs", "alpha", "kind", "eigenvalue")
    with matplotlib.rc_context(STYLE):
        for axis, run in zip(axes, shown, strict=True):
            values, alpha = covariance(run), aspect_ratio(run)
            low, high = random_matrix.bulk_edges(alpha)
            bulk = values[(values > 1e-4) & (values < 1.3 * high)]
            axis.hist(bulk, 40, weights=np.full(bulk.size, 1 / values.size), color="#C9D7E4")
            width = np.ptp(bulk) / 40
            x = np.linspace(low, high, 400)[1:-1]
            axis.plot(x, width * random_matrix.bulk_density(x, alpha), color=PALETTE[1], linewidth=1)
            where = "one blob" if is_one_blob(run) else "two blobs"
            title, predicted = f"{where}, α = {number(alpha, 3)}", np.empty(0)
            if not is_one_blob(run):
                predicted = random_matrix.outlier_position(spikes(run), alpha)
                pairs = zip(values[values > 1.3 * high][::-1], predicted, strict=False)
                title += "\noutliers " + ", ".join(f"{a:.1f} ({b:.1f})" for a, b in pairs)
            axis.set_title(title)
            axis.set_xlabel("eigenvalue of $2H$")
            axis.set_ylabel("share")
            for kind, numbers in (("measured", values), ("predicted outlier", predicted)):
                for value in numbers:
                    append_row(data, where, alpha, kind, float(value))
    letter(axes)
    caption = (
        "Eigenvalues of 2H of logistic regression at weights 0, which are those of (1/N) Σ x xᵀ, for one Gaussian "
        "blob and for two, at α = dimension / examples. Zeros are left out. Line: the Marčenko-Pastur law, with "
        f"nothing fitted. Titles give the outliers, with the values of theory in brackets. Seed {shown[0].seed}. "
        f"{figures.context(shown)}"
    )
    return Drawing("marchenko-pastur", caption, figure, data)


def _transition(runs: Sequence[Run]) -> Drawing:
    """The two largest eigenvalues against those of the population covariance."""
    own = [run for run in runs if not is_one_blob(run) and abs(aspect_ratio(run) - 1) < 0.01]
    points = [
        (spike, value) for run in own for spike, value in zip(spikes(run), covariance(run)[-2:][::-1], strict=True)
    ]
    figure, (axis,) = new_figure(1, 1, 2.6)
    with matplotlib.rc_context(STYLE):
        x = np.geomspace(1.001, max(spike for spike, _ in points) * 1.1, 400)
        axis.plot(x, random_matrix.outlier_position(x, 1.0), color=PALETTE[1], label="theory")
        axis.plot(*zip(*points, strict=True), "o", color=PALETTE[0], markersize=3, alpha=0.6, label="measured")
        axis.axvline(
            random_matrix.detection_threshold(1.0),
            color="black",
            linestyle="--",
            linewidth=0.7,
            label="threshold 1 + √α",
        )
        axis.set_xscale("log")
        axis.set_yscale("log")
        for side, ends in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
            log_ticks(side, *ends)
        axis.set_xlabel("eigenvalue of $E\\,xx^T$")
        axis.set_ylabel("eigenvalue of $2H$")
        axis.legend()
    caption = (
        "The two largest eigenvalues of 2H against those of the population, for two blobs whose centres move apart, "
        f"at α = 1. Below 1 + √α no eigenvalue leaves the bulk. All seeds. {figures.context(own)}"
    )
    data = {"population": [spike for spike, _ in points], "measured": [value for _, value in points]}
    return Drawing("transition", caption, figure, data)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Measured and predicted edges and outliers of every run of the first seed."""
    rows = []
    for run in sorted(finished(runs), key=lambda run: (aspect_ratio(run), norm(run))):
        if run.seed != min(r.seed for r in runs):
            continue
        values, alpha = covariance(run), aspect_ratio(run)
        population = spikes(run)
        expected = random_matrix.outlier_position(population, alpha)
        cells = [alpha, *population, *values[-2:][::-1], *expected]
        rows.append(("one" if is_one_blob(run) else "two", *(number(float(cell), 4) for cell in cells)))
    header = ("blobs", "α", "population 1", "population 2", "λ₁", "λ₂", "theory 1", "theory 2")
    return [Table("The two largest eigenvalues of 2H, one seed.", header, tuple(rows))]


def bulk(runs: Sequence[Run]) -> Evidence:
    """Is the spectrum of one blob that of the Marčenko-Pastur law?"""
    one = [run for run in runs if is_one_blob(run)]
    return all_hold(
        limits.falls_below(one, distance_to_law, 0.03, "largest difference of the distributions, one blob"),
        limits.lies_within(one, off_the_edge, -0.1, 0.1, "λ_max / edge − 1, one blob"),
    )


def far_outliers(runs: Sequence[Run]) -> Evidence:
    """Are both outliers of far blobs where theory has them?"""
    own = [
        run
        for run in runs
        if not is_one_blob(run) and spikes(run)[-1] > 2 * random_matrix.detection_threshold(aspect_ratio(run))
    ]
    what = "outlier / (ℓ (1 + α / (ℓ − 1))) − 1, two blobs with ℓ beyond twice the threshold"
    return limits.lies_within(own, off_the_outliers, -0.05, 0.05, what)


def transition(runs: Sequence[Run]) -> Evidence:
    """Is λ_max at the bulk's edge below the threshold, and where theory has it above?"""
    own = [run for run in runs if not is_one_blob(run)]
    below = [run for run in own if spikes(run)[0] < 0.8 * random_matrix.detection_threshold(aspect_ratio(run))]
    above = [run for run in own if spikes(run)[0] > 1.3 * random_matrix.detection_threshold(aspect_ratio(run))]
    return all_hold(
        limits.lies_within(below, off_the_edge, -0.1, 0.1, "λ_max / edge − 1, two blobs below 0.8 of the threshold"),
        limits.lies_within(
            above, lambda run: off_the_outliers(run)[0], -0.1, 0.1, "λ_max / theory − 1, two blobs above 1.3 of it"
        ),
    )


EXPERIMENT = Experiment(
    id="s_random_matrix",
    paper="S",
    question="Does random-matrix theory predict the bulk and the outliers of logistic regression on Gaussian data?",
    config="s_random_matrix",
    draw=draw,
    tabulate=tabulate,
    needs="finished",  # of weights that are all zero, by design
    claims=(
        Claim(
            id="marchenko-pastur",
            paper="S",
            where="app. B, example 1, fig. 10",
            statement="with one blob the spectrum is that of the Marčenko-Pastur law",
            paper_value="a figure without numbers",
            decide=bulk,
        ),
        Claim(
            id="outliers",
            paper="S",
            where="app. B, theorem 2, fig. 10",
            statement="with two blobs there are outliers, at the values that follow from the population's eigenvalues",
            paper_value="454.4, 819.5, 92.7 at α = 1, 2, 0.02, for blobs that the paper does not describe",
            decide=far_outliers,
        ),
        Claim(
            id="transition",
            paper="S",
            where="app. B, theorem 1",
            statement="an eigenvalue of the population gives an outlier if it is above 1 + √α, and none if it is below",
            paper_value="a theorem",
            decide=transition,
        ),
    ),
    notes=(
        "The paper's example has a logistic unit. We take two logits, whose H at weights 0 is half of (1/N) Σ x xᵀ, "
        "and zeros. We measure at weights 0, where the law is exact: at other weights examples count unequally."
    ),
)
