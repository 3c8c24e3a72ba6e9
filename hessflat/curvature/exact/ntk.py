"""The empirical neural tangent kernel: J Jᵀ between the outputs of examples, its spectrum, its alignment."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array

from hessflat.curvature import numerics
from hessflat.curvature.exact import gram
from hessflat.curvature.operators.matrices import gauss_newton
from hessflat.curvature.operators.operator import require_finite
from hessflat.curvature.operators.terms import as_batches
from hessflat.curvature.operators.weights import Weighted
from hessflat.curvature.records import record
from hessflat.utils import hardware
from hessflat.utils.errors import InputError

# A float64 matrix of this size takes 3.2 GB, and its eigenvalues some minutes.
_LARGEST = 20_000


@record(
    lambda self: f"a tangent kernel of {self.matrix.shape[0]:,} outputs of {self.num_examples:,} examples",
    {"trace": lambda self: float(np.trace(self.matrix))},
)
class TangentKernel(NamedTuple):
    """J Jᵀ, with a row of J for every output of every example."""

    matrix: np.ndarray  # [N C, N C] float64, the outputs of an example side by side
    num_examples: int  # N
    num_products: int  # rows of J
    seconds: float
    precision: str

    @property
    def num_outputs(self) -> int:
        """C."""
        return len(self.matrix) // self.num_examples

    @property
    def values(self) -> np.ndarray:
        """All N C eigenvalues, ascending; those of JᵀJ but for zeros."""
        result: np.ndarray = scipy.linalg.eigvalsh(self.matrix)
        return result

    @property
    def over_examples(self) -> np.ndarray:
        """[N, N] The mean over outputs of their kernels, (1/C) Σ_c J_ic J_jcᵀ."""
        shape = (self.num_examples, self.num_outputs) * 2
        result: np.ndarray = np.einsum("icjc->ij", self.matrix.reshape(shape)) / self.num_outputs
        return result

    def alignment(self, targets: Any, centred: bool = True) -> float:
        """⟨K, Y Yᵀ⟩ / (‖K‖_F ‖Y Yᵀ‖_F) over examples, in [0, 1]: whether examples of like targets have like gradients.

        Args:
            targets: numbers [N] or [N, D], or labels of classes [N], integers that become one-hot.
            centred: subtract the means of rows and columns of both first (Cortes, Mohri & Rostamizadeh 2012), which
                keeps a kernel of equal numbers from being aligned with anything; else as Cristianini et al. (2001).

        Raises:
            InputError: another number of targets, targets that are not finite, or that are all alike.
        """
        numerics.require_values(targets)
        y = np.asarray(targets)
        if y.ndim not in (1, 2) or len(y) != self.num_examples or y.dtype.kind not in "iufb":
            raise InputError(
                f"targets must be numbers [{self.num_examples}] or [{self.num_examples}, D], got {y.shape}"
            )
        if y.ndim == 1 and y.dtype.kind in "iub":
            y = y[:, None] == np.unique(y)
        y = np.asarray(y, np.float64).reshape(len(y), -1)
        if not np.isfinite(y).all():
            raise InputError("targets must be finite; leave out the examples that have none")
        y = y / (np.abs(y).max(initial=0) or 1)  # of any size, squares of theirs are numbers
        kernel = self.over_examples
        if numerics.require_flag("centred", centred):
            y = y - y.mean(axis=0)
            kernel = kernel - kernel.mean(axis=0) - kernel.mean(axis=1)[:, None] + kernel.mean()
        sizes = np.linalg.norm(kernel) * np.linalg.norm(y.T @ y)
        if not sizes > 0:
            raise InputError("targets, or gradients, are alike for all examples, so that nothing can be aligned")
        return float(np.sum((kernel @ y) * y) / sizes)


def ntk(predict: Callable[..., Any], params: Any, data: Any, state: Any = None) -> TangentKernel:
    """The empirical neural tangent kernel K = J Jᵀ of a network at its parameters (Jacot, Gabriel & Hongler 2018).

    J is computed in the type of the parameters, a part at a time, and K is accumulated in float64; the whole of J is
    never stored. The rows of an example come from that example alone, and JᵀJ v by these rows is compared with a
    product over batches.

    It looks at values, and so is called outside `jax.jit`.

    Args:
        predict: `predict(params, batch)` -> outputs f, an array [N, ...].
        params: pytree of floating arrays, or a flat array [P], at which J is taken.
        data: the examples: `Batches`, or a pytree of arrays [N, ...].
        state: a third argument of `predict`, if given.

    Raises:
        InputError: as `cv.gauss_newton`; more than 20,000 outputs; examples that affect one another; weights.

    >>> import jax.numpy as jnp, hessflat.curvature as cv
    >>> x = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    >>> cv.ntk(lambda w, batch: batch["x"] @ w, jnp.zeros(2), {"x": x}).matrix.tolist()
    [[5.0, 1.0], [1.0, 10.0]]
    """
    began = time.perf_counter()
    batches = as_batches(data)
    if not batches.in_memory or isinstance(batches.arrays, Weighted):
        raise InputError("a kernel is between examples in memory: give arrays or cv.Batches without weights")
    op = gauss_newton(predict, _half_squares, params, batches, state).as_it_is_now()
    numerics.require_values(op, jax.device_put(np.zeros(())))
    if numerics.any_shapes(op) or len(op.terms) != 1 or op.terms[0].is_partitioned or op.terms[0].narrow:
        raise InputError(
            "a kernel takes arrays of 32 bits at least, parameters that are whole on every device, and a number of "
            "examples that the devices divide"
        )
    count, number = gram.num_outputs(op), batches.num_examples
    assert count is not None
    if count > _LARGEST:
        raise InputError(f"a kernel is of up to {_LARGEST:,} outputs, got {count:,}; take fewer examples")
    hardware.require_bytes(8 * count**2, f"the kernel of {count:,} outputs", "take fewer examples")
    with numerics.matmul_precision():
        matrix = gram.kernel(op.terms[0])
    if matrix is None:
        raise InputError("examples affect one another, as in batch norm in train mode, so that outputs have no kernel")
    require_finite(matrix.sum())
    return TangentKernel(matrix, number, count, time.perf_counter() - began, numerics.precision_name(op))


def _half_squares(outputs: Any, batch: Any, *state: Any) -> Array:
    """Half the sum of squares over outputs, and the mean over examples."""
    leaves = jax.tree.leaves(outputs)
    return 0.5 * jnp.stack([jnp.sum(leaf**2) for leaf in leaves]).sum() / len(leaves[0])
