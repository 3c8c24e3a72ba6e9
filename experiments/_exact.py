"""What the experiments of *Empirical Analysis of the Hessian* share: exact spectra of runs, and numbers of them."""

from collections.abc import Callable
from functools import partial

import numpy as np

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim
from hessflat.analysis.results import Run


def eigenvalues(run: Run, operator: str = "hessian", step: int | None = None) -> np.ndarray:
    """All eigenvalues at a step, the last one by default."""
    return run.spectrum(f"{operator}-exact", step)["eigenvalues"]


def first_step(run: Run) -> int:
    return run.metrics[0]["step"]


def share_near_zero(values: np.ndarray, within: float = 0.01) -> float:
    """Of eigenvalues smaller in magnitude than `within` of the largest."""
    return float(np.mean(np.abs(values) < within * np.abs(values).max()))


def overlap(values: np.ndarray, others: np.ndarray, count: int) -> float:
    """The largest relative difference among the `count` largest eigenvalues of two matrices."""
    ours, theirs = (np.sort(side)[::-1][:count] for side in (values, others))
    return float(np.max(np.abs(ours - theirs) / np.abs(ours)))


def negatives_are_small(below_zero_over_largest: Callable[[Run], float]) -> Claim:
    """The paper's claim on |λ_min(H)| / λ_max(H) at the end of training, which the function gives."""
    return Claim(
        id="negatives-are-small",
        paper="S",
        where="§3.4",
        statement="the negative eigenvalues at the end are orders of magnitude smaller than the large ones",
        paper_value="a figure without numbers",
        rule="|λ_min(H)| / λ_max(H), below 0.01 by a 95 % t-interval over seeds",
        decide=partial(
            claims.beyond,
            value_of=below_zero_over_largest,
            limit=0.01,
            what="|λ_min(H)| / λ_max(H)",
            expect="smaller",
        ),
    )
