"""The figures that several experiments share: each takes runs and returns a `Drawing` with its numbers."""

from hessflat.report.figures.axes import Panel
from hessflat.report.figures.captions import context
from hessflat.report.figures.curves import CurvePanel, curves_with_bands
from hessflat.report.figures.panels import grid_against, panels_against
from hessflat.report.figures.ranked import RankPanel, eigenvalues_by_rank
from hessflat.report.figures.spectra import spectra_by
from hessflat.report.figures.training import degeneracy_over_training, over_training

__all__ = [
    "CurvePanel",
    "Panel",
    "RankPanel",
    "context",
    "curves_with_bands",
    "degeneracy_over_training",
    "eigenvalues_by_rank",
    "grid_against",
    "over_training",
    "panels_against",
    "spectra_by",
]
