"""Lanczos tridiagonalisation from random probes."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessflat import fold
from hessflat.curvature import krylov, precision, probes
from hessflat.curvature.krylov import Reorthogonalise
from hessflat.curvature.operators import Operator, loop_for
from hessflat.curvature.probes import Probe
from hessflat.errors import InputError


class Tridiagonals(NamedTuple):
    """T = tridiag(betas, alphas, betas) for each of k probes with m steps; the leading `num_valid` rows count."""

    alphas: Any  # [k, m], zero from num_valid on
    betas: Any  # [k, m]; betas[:, i] couples steps i and i+1, the last valid one measures what is left out
    num_valid: Any  # [k] steps done before the Krylov space was exhausted
    orthogonality: Any  # [k] max |Q Qᵀ − I|; nan where the basis was not kept
    basis: Array | None  # [k, m, P] on request


def lanczos(
    op: Operator,
    key: Array,
    num_steps: int = 100,
    num_probes: int = 1,
    reorthogonalise: Reorthogonalise = "full",
    probe: Probe = "rademacher",
    return_basis: bool = False,
    loop: fold.Loop | None = None,
    together: bool = False,
) -> Tridiagonals:
    """Lanczos from `num_probes` random unit vectors, one product per step.

    Departures from the textbook: Gram-Schmidt is done twice, β is measured after it, and the recurrence ends, cleanly,
    when β is within rounding of the size of T (relative, so the scale of the operator does not matter).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_steps: m, at most; clipped to P, which no Krylov space exceeds.
        num_probes: k.
        reorthogonalise: "full" keeps the basis (m P numbers) and is what eigenvalues and the mass at zero need; "none"
            keeps three vectors, and repeats eigenvalues that have converged (the density as a whole survives that).
        probe: "rademacher" or "gaussian".
        return_basis: also return the Lanczos vectors [k, m, P].
        loop: "scan" compiles the whole recurrence, "host" drives it from Python; None chooses.
        together: probes side by side in every product, where the loop is compiled: memory times k, and on a CPU no
            faster.

    Raises:
        InputError: counts below 1, unknown options, or an operator that gives values that are not finite.
    """
    _require_options(key, num_steps, num_probes, reorthogonalise, probe)
    num_steps = min(num_steps, op.size)
    keep = reorthogonalise == "full" or return_basis
    loop = loop_for(op, loop)
    together = together and loop == "scan"
    keys = jax.random.split(key, num_probes)
    settings = (num_steps, reorthogonalise, keep, return_basis)
    with precision.chosen():
        if together:
            vectors = jnp.stack([probes.draw(key, op.size, op.dtype, probe) for key in keys])
            result = _compiled(op, vectors, *settings, True)
        else:
            # One program per probe and not one for all of them: it serves any number of probes.
            run = _compiled if loop == "scan" else partial(_recurrence, loop=loop)
            each = [run(op, probes.draw(key, op.size, op.dtype, probe), *settings, False) for key in keys]
            result = jax.tree.map(lambda *x: jnp.stack(x), *each)
    return _as_record(result)


def _recurrence(
    op: Operator,
    vectors: Array,
    num_steps: int,
    reorthogonalise: Reorthogonalise,
    keep: bool,
    return_basis: bool,
    together: bool,
    loop: fold.Loop = "scan",
) -> Tridiagonals:
    """From one probe [P], or from several together [k, P]."""
    each = jax.vmap if together else lambda f: f
    begin = each(partial(krylov.begin, num_steps=num_steps, keep_basis=keep))
    state = krylov.run(op, begin(vectors), num_steps, loop, reorthogonalise, together)
    loss = each(krylov.orthogonality_loss)(state.basis, state.step) if keep else jnp.full_like(state.scale, jnp.nan)
    return Tridiagonals(state.alphas, state.betas, state.step, loss, state.basis if return_basis else None)


_compiled = jax.jit(_recurrence, static_argnums=range(2, 7))


def _as_record(result: Tridiagonals) -> Tridiagonals:
    alphas, betas, num_valid, loss = (np.asarray(x) for x in result[:4])
    if not (np.isfinite(alphas).all() and np.isfinite(betas).all()):
        raise InputError("the operator gives products that are not finite; look at the loss at these parameters")
    return Tridiagonals(alphas, betas, num_valid, loss, result.basis)


def _require_options(key: Array, num_steps: int, num_probes: int, reorthogonalise: str, probe: str) -> None:
    probes.require_key(key)
    probes.require_count("num_steps", num_steps)
    probes.require_count("num_probes", num_probes)
    probes.require_probe(probe)
    if reorthogonalise not in ("full", "none"):
        raise InputError(f"reorthogonalise must be 'full' or 'none', got {reorthogonalise!r}")
