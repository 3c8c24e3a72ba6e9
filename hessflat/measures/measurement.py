"""What a measure is: a computation on a trained state with its settings, its cost and the names of its numbers."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from hessflat.config import at_least, each, positive, whole

Scalars = dict[str, float | int | None]
Arrays = dict[str, dict[str, np.ndarray]]
# What sentences and tables call a number, and what axes do, in Matplotlib's mathtext; one text where both say the same.
Name = str | tuple[str, str]

# Settings of several measures, each of which has them among its keyword-only arguments.
TraceProbes = Annotated[int, whole(1, 1_000_000), "single products for trace and Frobenius norm"]
Scales = Annotated[tuple[float, ...], each(positive), "factors in loss_limit, and α in reparameterised"]
SampleSizes = Annotated[tuple[int, ...], each(at_least(2)), "numbers of examples N in batch_norm and in lipschitz"]


class Measurement(NamedTuple):
    """Scalars by name, arrays by file name, and where the next search for eigenvectors starts (None: as before).

    `failed` gives the reason for each measure that is missing, by its name.
    """

    scalars: Scalars
    arrays: Arrays
    starts: Mapping[str, jax.Array] | None = None
    failed: Mapping[str, str] = {}


class Measure(NamedTuple):
    """All that the package knows of a measure.

    The module of a measure has its name and defines `MEASURE`. Where several share one compiled program, their module
    defines `MEASURES`, by name.

    `compute(state, *, settings)` takes an `EvalState`; its keyword-only arguments are the settings `measure.SETTING`.
    `cost(settings, num_params)` counts products of curvature with a vector over all measured examples, or what takes
    as long as them; it reads settings by attribute. `doc` completes "when ...", `due` is the default timetable.

    With `for_tokens` it is also of models of tokens; one without fails there.

    `names` maps metrics to what tables and axes call them. In a key `<operator>` stands for any of `OPERATORS` and
    `<layer>` for any text; in the name the first is replaced by the operator's symbol, the second by that text.
    """

    compute: Callable[..., Measurement]
    cost: Callable[[Any, int], float]
    doc: str
    due: str = "never"
    names: Mapping[str, Name] = {}
    for_tokens: bool = False
