"""Numbers about one trained state. To add one: a function of a `Subject` and a line in `CHEAP` or `CURVATURE`."""

from collections.abc import Callable, Mapping

from hessflat.measures.jacobian import jacobian
from hessflat.measures.performance import performance
from hessflat.measures.size import size
from hessflat.measures.spectra import exact, spectra
from hessflat.measures.subject import Arrays, Scalars, Subject

Measure = Callable[[Subject], tuple[Scalars, Arrays]]

# In this order, so that a run whose curvature cannot be measured has its losses first.
CHEAP: Mapping[str, Measure] = {"performance": performance, "size": size}
CURVATURE: Mapping[str, Measure] = {"spectra": spectra, "exact": exact, "jacobian": jacobian}
MEASURES = {**CHEAP, **CURVATURE}


def measure(subject: Subject) -> tuple[Scalars, Arrays]:
    """Scalars by name, and arrays by file name for the measures that have them.

    Curvature is left out before the end where `measure.curvature` is `end`.
    """
    wanted = MEASURES if subject.is_last or subject.settings["curvature"] == "always" else CHEAP
    scalars: Scalars = {}
    arrays: Arrays = {}
    for function in wanted.values():
        more_scalars, more_arrays = function(subject)
        scalars |= more_scalars
        arrays |= more_arrays
    return scalars, arrays
