"""Numbers about one trained state. To add one: a function of a `Subject` and a line in `MEASURES`."""

from collections.abc import Callable, Mapping

from hessflat.measures.jacobian import jacobian
from hessflat.measures.performance import performance
from hessflat.measures.size import size
from hessflat.measures.spectra import exact, spectra
from hessflat.measures.subject import Arrays, Scalars, Subject

# In this order, so that a run whose curvature cannot be measured has its losses first.
MEASURES: Mapping[str, Callable[[Subject], tuple[Scalars, Arrays]]] = {
    "performance": performance,
    "size": size,
    "spectra": spectra,
    "exact": exact,
    "jacobian": jacobian,
}


def measure(subject: Subject) -> tuple[Scalars, Arrays]:
    """Every measure of `MEASURES`: scalars by name, and arrays by file name for those that have them."""
    scalars: Scalars = {}
    arrays: Arrays = {}
    for function in MEASURES.values():
        more_scalars, more_arrays = function(subject)
        scalars |= more_scalars
        arrays |= more_arrays
    return scalars, arrays
