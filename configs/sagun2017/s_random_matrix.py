"""Logistic regression on Gaussian blobs: *Empirical Analysis of the Hessian*, appendix B, figure 10.

    make sweep CONFIG=s_random_matrix:small

smoke: seconds, 2 runs. small: 200 dimensions, 112 runs. paper: 400 dimensions, 112 runs; the paper gives no dimension.
"""

from ml_collections import ConfigDict

from hessflat.config import Overrides, override
from hessflat.runs.schema import base_config

DIMENSION = {"smoke": 20, "small": 200, "paper": 400}
RATIOS = (0.02, 1.0, 2.0)  # dimension over examples, the paper's α
TESTED = 50  # examples of the test split, which nothing depends on
# Of the two blobs: norms of their centres, over the standard deviation of a component.
FAR = 10.0
NORMS = (0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.5, 3.0)


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run that measures all eigenvalues of the Hessian at zero weights.

    Half of these eigenvalues are half of those of (1/N) Σ x xᵀ; the other half are zero.
    """
    settings: Overrides = {
        "experiment": "s_random_matrix",
        "model.name": "deep_linear",
        "model.deep_linear.hidden": (),
        "model.deep_linear.init": "zeros",
        "data.name": "blobs",
        "data.scaling": "raw",
        "data.blobs.num_classes": 2,
        "data.blobs.spread": 1.0,
        "data.validation_fraction": 0.0,
        "data.test_size": TESTED,
        "train.batch_size": 0,
        "train.steps": 1,
        "checkpoint.keep": "end",
        "measure.performance": "end",
        "measure.spectra": "never",
        "measure.jacobian": "never",
        "measure.full_spectrum": "start",
    }
    return override(base_config(scale), settings | entry(scale, 1.0, 0.0, 0))


def entry(scale: str, ratio: float, norm: float, seed: int) -> Overrides:
    """The overrides of one run: two blobs with centres of norm about `norm`, or one blob where `norm` is 0."""
    dimension = DIMENSION[scale]
    return {
        "data.blobs.dimension": dimension,
        "data.blobs.num_examples": round(dimension / ratio) + TESTED,
        "data.blobs.separation": norm / dimension**0.5,
        "data.blobs.seed": seed,
        "seed": seed,
    }


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: one blob and two distant blobs at each α, and two blobs at α = 1 by distance.

    Each is run with every seed.
    """
    if scale == "smoke":
        return [entry(scale, 1.0, norm, 0) for norm in (0.0, FAR)]
    # Seeds 0 to 2 were the pilots: docs/numerics.md, power.
    pairs = [(ratio, norm) for ratio in RATIOS for norm in (0.0, FAR)] + [(1.0, norm) for norm in NORMS]
    return [entry(scale, ratio, norm, seed) for ratio, norm in pairs for seed in range(10, 18)]
