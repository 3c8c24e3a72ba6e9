"""The figures that several experiments share: each function takes runs and returns a `Drawing` with its numbers.

`overview` draws what opens the report, `correlations` what follows the gap. `panels` draws final metrics against a
setting. `curves` draws metrics over training or along a line. `spectra` draws spectra and ordered eigenvalues. `style`
and `captions` hold the elements that all figures use. A function raises an InputError where there are no runs or no
panels.
"""

from hessflat.report.figures.captions import context
from hessflat.report.figures.correlations import correlation_grid
from hessflat.report.figures.curves import (
    CurvePanel,
    curves_with_bands,
    degeneracy_over_training,
    grid_over_training,
    over_training,
)
from hessflat.report.figures.overview import overview
from hessflat.report.figures.panels import grid_against, panels_against
from hessflat.report.figures.spectra import RankPanel, eigenvalues_by_rank, spectra_by, spectra_over_training
from hessflat.report.figures.style import Panel

__all__ = [
    "CurvePanel",
    "Panel",
    "RankPanel",
    "context",
    "correlation_grid",
    "curves_with_bands",
    "degeneracy_over_training",
    "eigenvalues_by_rank",
    "grid_against",
    "grid_over_training",
    "over_training",
    "overview",
    "panels_against",
    "spectra_by",
    "spectra_over_training",
]
