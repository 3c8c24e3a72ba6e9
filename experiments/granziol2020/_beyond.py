"""Claims beyond the papers: does a measure that knows the scale of the weights set right what sharpness gets wrong?"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Evidence
from hessflat.analysis.results import Run

# λ_max in coordinates that grow with the weights, by what is done to it.
SCALED = {
    "norm_scaled_lambda_max": "λ_max(H) times ‖w‖²",
    "adaptive_lambda_max": "adaptive sharpness, λ_max of |w| H |w|,",
    "filter_lambda_max": "filter-normalised sharpness",
}


def flatter_and_better(runs: Sequence[Run], metric: str, **paired: Any) -> Evidence:
    """Is the solution that generalises better the flatter one by this measure, as flatness promises?"""
    return claims.all_of(
        claims.compare(runs, metric, expect="smaller", **paired),
        claims.compare(runs, "test_accuracy", scale="difference", **paired),
    )


def beyond(compared: str, operator: str = "hessian", **paired: Any) -> tuple[Claim, ...]:
    """The claims on two settings, which `paired` gives to `claims.compare` and `compared` says in words."""
    scaled = tuple(
        Claim(
            id=name.replace("_", "-"),
            paper="hessflat",
            where="beyond the paper",
            statement=(
                f"{words} is smaller for the solution that generalises better: it sets right what raw sharpness gets "
                "wrong"
            ),
            paper_value="not in the paper",
            rule=f"the measure and test accuracy, {compared}: the first smaller, the second larger",
            decide=partial(flatter_and_better, metric=f"{operator}.{name}", **paired),
        )
        for name, words in SCALED.items()
    )
    return (
        Claim(
            id="sharper-with-smaller-gap",
            paper="hessflat",
            where="beyond the paper",
            statement="the solution with the smaller generalisation gap in loss is the sharper one",
            paper_value="not in the paper for this network",
            rule=f"λ_max(H) and |train − test loss|, {compared}: the first larger, the second smaller",
            decide=partial(
                claims.sharper_and_better,
                sharpness=f"{operator}.lambda_max",
                quality="gap_loss",
                expect_quality="smaller",
                **paired,
            ),
        ),
        *scaled,
        Claim(
            id="jacobian-norm",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "the input-output Jacobian norm is smaller for the solution that generalises better, unlike sharpness"
            ),
            paper_value="not in the paper",
            rule=f"max ‖∂f/∂x‖₂ and test accuracy, {compared}: the first smaller, the second larger",
            decide=partial(flatter_and_better, metric="jacobian.max", **paired),
        ),
    )
