"""Spectra of the blocks of a network: how sharp each is, and how different they are from one another.

Of a transformer, blocks are kinds of parameters over all layers: Zhang et al. 2024 and Wang et al. 2025 tell queries,
keys, values, outputs of attention, MLPs, the embedding and norms apart. Of other networks every layer is one.
"""

from typing import Annotated

import jax
import numpy as np

import hessflat.curvature as cv
from hessflat.config import at_least, whole
from hessflat.measures.eval_state import EvalState, curvature_operator, operators_by_key
from hessflat.measures.measurement import Measure, Measurement, Scalars

# What the last key of a path but one says, in the models of `hessflat.models` that have tokens.
_KINDS = {"query": "q", "key": "k", "value": "v", "out": "o", "up": "mlp", "down": "mlp"}


def kind(path: str) -> str:
    """The kind of the parameters at a path of a transformer: q, k, v, o, mlp, norm or embedding.

    >>> [kind(path) for path in ("blocks_0/attention/query/kernel", "blocks_1/norm_mlp/scale", "embedding/embedding")]
    ['q', 'norm', 'embedding']
    """
    layer = path.split("/")[-2]
    if layer.startswith("norm"):
        return "norm"
    return _KINDS.get(layer, "embedding")


def block_spectra(
    state: EvalState,
    *,
    block_steps: Annotated[int, at_least(2), "largest number of Lanczos steps for the spectrum of a block"] = 30,
    block_probes: Annotated[int, whole(2, 1_000_000), "Lanczos runs for the spectrum of a block"] = 2,
) -> Measurement:
    """Of each matrix, `blocks.<name>.lambda_max`, `.trace` and `.mean_eigenvalue`, its trace over its parameters.

    `blocks.heterogeneity` is the mean over pairs of blocks of the Jensen-Shannon distance between their spectra, which
    are in the array file `blocks`, with the distances.
    """
    measurement = Measurement({}, {})
    for key, (name, mode) in operators_by_key(state.protocol.operators, state.protocol, state.batch_stats).items():
        by = kind if state.has_tokens else None
        found = cv.block_spectra(
            curvature_operator(state, name, mode),
            jax.random.key(state.protocol.seed),
            by,
            num_steps=block_steps,
            num_probes=block_probes,
            show_progress=False,
        )
        apart = cv.heterogeneity(found)
        scalars: Scalars = {"heterogeneity": apart.mean, "heterogeneity_se": apart.standard_error}
        arrays = {"names": np.array(apart.names), "distances": apart.distances, "distances_se": apart.standard_errors}
        arrays["sizes"] = np.array([found.sizes[block] for block in apart.names])
        for block, spectrum in found.spectra.items():
            scalars |= _numbers(block, spectrum)
            arrays |= {f"{block}/{part}": array for part, array in cv.spectrum_to_arrays(spectrum).items()}
        measurement.scalars.update({f"{key}.blocks.{part}": value for part, value in scalars.items()})
        measurement.arrays[f"{key}-blocks"] = arrays
    return measurement


def _numbers(block: str, spectrum: cv.Spectrum) -> Scalars:
    trace = spectrum.trace
    return {
        f"{block}.lambda_max": spectrum.largest.value,
        f"{block}.lambda_max_bound": spectrum.largest.residual,
        f"{block}.trace": trace.value,
        f"{block}.trace_se": trace.standard_error,
        f"{block}.mean_eigenvalue": trace.value / spectrum.size,
        f"{block}.mean_eigenvalue_se": trace.standard_error / spectrum.size,
    }


MEASURE = Measure(
    block_spectra,
    cost=lambda settings, num_params: 7 * settings.block_steps * settings.block_probes * len(settings.operators),
    doc="spectra of the blocks of the network are estimated",
    for_tokens=True,
    names={
        "<operator>.blocks.heterogeneity": (
            "mean distance between spectra of blocks of <operator>",
            r"mean distance between spectra of blocks of $<operator>$",
        ),
        "<operator>.blocks.<layer>.lambda_max": (
            "λ_max of the block <layer> of <operator>",
            r"$\lambda_{\max}$ of the block <layer> of $<operator>$",
        ),
        "<operator>.blocks.<layer>.trace": (
            "Tr of the block <layer> of <operator>",
            r"$\mathrm{Tr}$ of the block <layer> of $<operator>$",
        ),
        "<operator>.blocks.<layer>.mean_eigenvalue": (
            "mean eigenvalue of the block <layer> of <operator>",
            r"mean eigenvalue of the block <layer> of $<operator>$",
        ),
    },
)
