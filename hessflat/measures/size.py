"""How large the weights are, and how large the rank of the Hessian may be by the paper's bound."""

import jax
import optax

from hessflat.measures.subject import Scalars, Subject
from hessflat.models import input_size, num_neurons, num_params


def rank_bound(num_classes: int, neurons: int, inputs: int) -> int:
    """4 d_y (Σ_l N_l + d_x): *Flatness is a False Friend*, §3.2. It may exceed P, and then says nothing."""
    return 4 * num_classes * (neurons + inputs)


def size(subject: Subject) -> Scalars:
    """‖w‖₂, P, the rank bound from the model's own layers, and the zero mass 1 − rank/P that it promises at least."""
    count = num_params(subject.params)
    rank = rank_bound(subject.num_classes, num_neurons(subject.params), input_size(subject.splits["train"]["inputs"]))
    return {
        "weight_norm": float(_norm(subject.params)),
        "num_params": count,
        "rank_bound": rank,
        "zero_mass_bound": max(0.0, 1 - rank / count),
    }


_norm = jax.jit(optax.tree.norm)
