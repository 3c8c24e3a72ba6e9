"""Data cut into batches: every example counts once, the last batch may be short."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessflat.curvature import trees
from hessflat.errors import InputError


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["batch_size"])
@dataclasses.dataclass(frozen=True)
class Batches:
    """Arrays with a leading example axis, and how many examples are looked at together.

    The curvature is that of the mean over all examples, whatever the batch size, as long as the loss of a batch is
    the mean of per-example losses. Batch norm in train mode is the exception: there the batch is part of the
    definition.

    Args:
        arrays: pytree of arrays [N, ...].
        batch_size: examples per batch; None takes all of them at once. The last batch holds what remains, and is
            weighted by its size.
    """

    arrays: Any
    batch_size: int | None = None

    @property
    def num_examples(self) -> int:
        """N."""
        return jax.tree.leaves(self.arrays)[0].shape[0]

    @property
    def size(self) -> int:
        """Examples in every batch but the last."""
        return self.num_examples if self.batch_size is None else min(self.batch_size, self.num_examples)

    def take(self, start: int | Array, size: int) -> Any:
        """The `size` examples from `start` on."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), self.arrays)


def as_batches(data: Any) -> Batches:
    """`data`, checked: a `Batches`, or a bare pytree of arrays, which is then one batch.

    Raises:
        InputError: no arrays, no examples, leading axes that differ, non-finite values, or a batch size below 1.
    """
    batches = data if isinstance(data, Batches) else Batches(data)
    arrays = trees.as_arrays("data", batches.arrays)
    sizes = {x.shape[0] if jnp.ndim(x) else None for x in jax.tree.leaves(arrays)}
    if None in sizes or len(sizes) > 1:
        shapes = [jnp.shape(x) for x in jax.tree.leaves(arrays)]
        raise InputError(f"every array in data must have the same leading example axis, got shapes {shapes}")
    if sizes == {0}:
        raise InputError("data must hold at least one example, got 0")
    size = batches.batch_size
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise InputError(f"batch_size must be a whole number of at least 1, or None for one batch, got {size!r}")
    return Batches(arrays, size)
