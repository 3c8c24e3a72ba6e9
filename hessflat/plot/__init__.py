"""Pictures of what `hessflat.curvature` measures, one function a kind of record: `plot.spectrum(cv.spectrum(H, key))`.

Every function takes the record that a measurement returned, draws it into `ax` or into a new figure of the width of a
column, labels the axes and returns them. Colours are distinct with all common forms of colour blindness; `save` writes
text as outlines or as TrueType.
"""

from hessflat.plot.blocks import blocks
from hessflat.plot.curves import jacobian_norms, tracked
from hessflat.plot.landscapes import line, plane, surface
from hessflat.plot.matrices import correlation
from hessflat.plot.notebooks import picture
from hessflat.plot.spectra import density, ranks, spectrum, stems
from hessflat.plot.style import as_png, as_svg, panels, save

__all__ = [
    "as_png",
    "as_svg",
    "blocks",
    "correlation",
    "density",
    "jacobian_norms",
    "line",
    "panels",
    "picture",
    "plane",
    "ranks",
    "save",
    "spectrum",
    "stems",
    "surface",
    "tracked",
]
