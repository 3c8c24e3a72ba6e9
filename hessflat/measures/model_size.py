"""How large the weights are, and how large the rank of the Hessian may be by the paper's bound."""

import jax
import optax

from hessflat.measures.eval_state import EvalState
from hessflat.measures.measurement import Scalars
from hessflat.models import input_size, num_neurons, num_params


def rank_bound(num_classes: int, neurons: int, inputs: int) -> int:
    """4 d_y (Σ_l N_l + d_x): *Flatness is a False Friend*, §3.2. It may exceed P, and then says nothing.

    The paper states it for the Hessian of any feed-forward network and any number of examples N. It holds for linear
    networks, and for ReLU networks on inputs of one activation pattern, where (d_y − 1)(d_x + 1 + 2M) is enough, M the
    hidden units. It fails for others once there are examples enough: in general the rank is at most N (d_y − 1 + 2M),
    and at most P less the directions of the last layer that change all logits alike; see `docs/rank_bound.md`.
    """
    return 4 * num_classes * (neurons + inputs)


def model_size(state: EvalState) -> Scalars:
    """‖w‖₂, P, the rank bound from the model's own layers, and the zero mass 1 − rank/P that it promises at least."""
    count = num_params(state.params)
    rank = rank_bound(state.num_classes, num_neurons(state.params), input_size(state.splits["train"]["inputs"]))
    return {
        "weight_norm": float(_norm(state.params)),
        "num_params": count,
        "rank_bound": rank,
        "zero_mass_bound": max(0.0, 1 - rank / count),
    }


_norm = jax.jit(optax.tree.norm)
