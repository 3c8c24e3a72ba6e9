"""Statistics, rules and claims that the experiments on extremal eigenvalues share."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hessflat.analysis import claims, limits, spectra
from hessflat.analysis.experiment import Claim
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.utils.errors import InputError

# As many as there are classes in digits and in MNIST.
CLASSES = 10


def ends(run: Run) -> dict[str, np.ndarray]:
    """The arrays of the largest and smallest eigenvalues of H at the end, `[k]` each, their residuals, and P."""
    return run.spectrum("hessian-extremes")


def is_known_exactly(run: Run) -> bool:
    """Whether the exact spectrum of H at the end is stored."""
    return run.has_spectrum("hessian-exact")


def curves_by(runs: Sequence[Run], by: str, end: str, name: str) -> dict[str, np.ndarray]:
    """{label: eigenvalues `[seeds, k]` at one end of the spectrum} by a setting, named `name` in labels."""
    groups = by_setting(finished(runs), by)
    return {f"{name} {number(value)}": np.stack([ends(run)[end] for run in group]) for value, group in groups.items()}


def sizes_by(runs: Sequence[Run], by: str, name: str) -> dict[str, int]:
    """{label: P} by the value of a setting, with the labels of `curves_by`."""
    return {
        f"{name} {number(value)}": int(ends(group[0])["num_params"])
        for value, group in by_setting(finished(runs), by).items()
    }


def accuracy_words(runs: Sequence[Run]) -> str:
    """The sentence of a caption on convergence and residuals of the eigenvalues.

    Raises:
        InputError: no run has finished.
    """
    done = finished(runs)
    if not done:
        raise InputError(f"a figure needs a finished run, got {len(runs)} unfinished ones; let them end")
    worst = max(
        float(
            max(ends(run)["largest_residuals"].max(), ends(run)["smallest_residuals"].max()) / ends(run)["largest"][0]
        )
        for run in done
    )
    total = sum(len(ends(run)["largest"]) + len(ends(run)["smallest"]) for run in done)
    left = int(sum(run.final("hessian.extremes.unconverged") for run in done))
    which = "all" if not left else f"all but {left}"
    return f"By Lanczos: {which} of {total} values converged, with residuals up to {number(worst, 2)} λ_max."


def mean_outlier(run: Run) -> float:
    """The mean of the C largest eigenvalues at the end."""
    return float(ends(run)["largest"][:CLASSES].mean())


def num_outliers(run: Run) -> int:
    """The number of eigenvalues above the elbow of the scree plot."""
    return spectra.count_above_elbow(ends(run)["largest"])[0]


def num_before_drop(run: Run) -> int:
    """The number of eigenvalues above the largest ratio of neighbours."""
    return spectra.count_above_ratio(ends(run)["largest"])


def negative_over_largest(run: Run) -> float:
    """|λ_min(H)| / λ_max(H) at the end."""
    return -run.final("hessian.extremes.lambda_min") / run.final("hessian.extremes.lambda_max")


def exact_share_below_zero(run: Run) -> float:
    """The share of negative eigenvalues in the exact spectrum at the end."""
    return spectra.share_below_zero(spectra.exact_eigenvalues(run))


def error_of_ends(run: Run) -> float:
    """The largest relative error of the extremal eigenvalues by Lanczos, rank by rank, against the exact spectrum."""
    return spectra.largest_error_of_ends(ends(run)["largest"], ends(run)["smallest"], spectra.exact_eigenvalues(run))


def tail_at(run: Run, share: float) -> float:
    """|λ| at a share of the ranks of the measured smallest eigenvalues; a share of 1 is rank `measure.smallest_share` ·
    P.
    """
    tail = ends(run)["smallest"]
    return -float(np.interp(share * len(tail), np.arange(1, len(tail) + 1), tail))


def fall_of_tail(run: Run) -> float:
    """|λ| at the end of the measured tail over |λ| at a quarter of its ranks."""
    return tail_at(run, 1.0) / tail_at(run, 0.25)


def size_of_tail(run: Run) -> float:
    """|λ| at half of the ranks of the measured tail."""
    return tail_at(run, 0.5)


def as_many(by: str, where: str, statement: str) -> tuple[Claim, Claim]:
    """Two claims that the number of outliers is equal at both ends of a setting, by two ways to count."""

    def claim(method: str, count: Callable[[Run], int], words: str) -> Claim:
        return Claim(
            id=f"as-many-by-{method}",
            paper="S",
            where=where,
            statement=f"{statement}, by {words}",
            paper_value="a figure without numbers",
            decide=lambda runs: claims.same_count(
                runs, count, by, claims.SMALLEST, claims.LARGEST, 1, f"number of eigenvalues above {words}"
            ),
        )

    return (
        claim("elbow", num_outliers, "the elbow of the scree plot"),
        claim("ratio", num_before_drop, "the largest ratio of neighbours"),
    )


def tail_has_one_shape(by: str, where: str) -> Claim:
    """The paper's claim on the shape of the negative tail, at both ends of a setting."""
    return Claim(
        id="tail-has-one-shape",
        paper="S",
        where=where,
        statement="the negative eigenvalues converge to the same shape against rank in per cent of P",
        paper_value="a figure without numbers",
        decide=partial(
            claims.unchanged,
            statistic=fall_of_tail,
            by=by,
            low=claims.SMALLEST,
            high=claims.LARGEST,
            factor=1.25,
            what="λ at the end of the measured negative tail over λ a quarter of the way there",
        ),
    )


def negatives_are_small(negative_share: Callable[[Run], float]) -> Claim:
    """The paper's claim on |λ_min(H)| / λ_max(H) at the end of training, computed by `negative_share`."""
    return Claim(
        id="negatives-are-small",
        paper="S",
        where="§3.4",
        statement="the negative eigenvalues at the end are orders of magnitude smaller than the large ones",
        paper_value="a figure without numbers",
        decide=partial(
            limits.falls_below,
            statistic=negative_share,
            limit=0.01,
            what="|λ_min(H)| / λ_max(H) at the end",
            scale="log",
        ),
    )


AGREEMENT = Claim(
    id="ends-agree-with-all",
    paper="hessflat",
    where="",
    statement="both ends by Lanczos are those of the exact spectrum, where it is known",
    paper_value="not in the paper",
    decide=lambda runs: limits.in_every_run(
        [run for run in finished(runs) if is_known_exactly(run)],
        error_of_ends,
        0.05,
        "relative error at every rank, of eigenvalues beyond 1e-5 λ_max,",
    ),
)
NEGATIVES_ARE_SMALL = negatives_are_small(negative_over_largest)
