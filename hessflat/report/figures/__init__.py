"""The figures that several experiments share: each takes runs and returns a `Drawing` with its numbers.

`panels`: final metrics against a setting. `curves`: metrics over training, or along a line. `spectra`: spectra and
ordered eigenvalues. `style` and `captions`: what they and the figures of single experiments are made with.
"""

from hessflat.report.figures.captions import context
from hessflat.report.figures.curves import (
    CurvePanel,
    curves_with_bands,
    degeneracy_over_training,
    grid_over_training,
    over_training,
)
from hessflat.report.figures.panels import grid_against, panels_against
from hessflat.report.figures.spectra import RankPanel, eigenvalues_by_rank, spectra_by, spectra_over_training
from hessflat.report.figures.style import Panel

__all__ = [
    "CurvePanel",
    "Panel",
    "RankPanel",
    "context",
    "curves_with_bands",
    "degeneracy_over_training",
    "eigenvalues_by_rank",
    "grid_against",
    "grid_over_training",
    "over_training",
    "panels_against",
    "spectra_by",
    "spectra_over_training",
]
