"""Numbers about one trained state. To add one: a function of a `Subject`, a line in `MEASURES`, its timetable."""

from collections.abc import Callable, Collection, Mapping

from hessflat.measures.batch_norm import batch_norm
from hessflat.measures.extremes import extremes
from hessflat.measures.features import features
from hessflat.measures.fit import fit
from hessflat.measures.jacobian import jacobian
from hessflat.measures.layers import layers
from hessflat.measures.line import line
from hessflat.measures.lipschitz import lipschitz
from hessflat.measures.loss_limit import loss_limit
from hessflat.measures.outputs import outputs
from hessflat.measures.performance import performance
from hessflat.measures.reparameterised import reparameterised
from hessflat.measures.scaled_sharpness import scaled_sharpness
from hessflat.measures.sensitivity import sensitivity
from hessflat.measures.spectra import exact, sharpness, spectra
from hessflat.measures.subject import Measured, Subject

# In this order, so that a run whose curvature cannot be measured has its losses first. The setting `measure.<name>`
# says when each is due.
MEASURES: Mapping[str, Callable[[Subject], Measured]] = {
    "performance": performance,
    "outputs": outputs,
    "spectra": spectra,
    "sharpness": sharpness,
    "scaled_sharpness": scaled_sharpness,
    "exact": exact,
    "extremes": extremes,
    "jacobian": jacobian,
    "features": features,
    "fit": fit,
    "layers": layers,
    "loss_limit": loss_limit,
    "reparameterised": reparameterised,
    "sensitivity": sensitivity,
    "batch_norm": batch_norm,
    "lipschitz": lipschitz,
    "line": line,
}


def measure(subject: Subject, due: Collection[str]) -> Measured:
    """The measures whose names are due, together; of a number that two of them give, the later and more precise one."""
    together = Measured({}, {})
    for name, function in MEASURES.items():
        if name in due:
            found = function(subject)
            starts = found.starts or together.starts
            together = Measured(together.scalars | found.scalars, together.arrays | found.arrays, starts)
    return together
