"""curvlinops: forward-over-reverse operators over batches of all examples."""

from collections.abc import Callable

import numpy as np
import scipy.sparse.linalg
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator

from benchmarks.contenders import Result
from benchmarks.contenders.torch_by_hand import TorchByHand
from benchmarks.in_torch import identity_columns
from benchmarks.workloads import RTOL

# Columns side by side; with all of them at once the activations do not fit.
_COLUMNS = 256


class WithCurvlinops(TorchByHand):
    """Its determinism check is off: it costs products, and fails now and then in float32 with several threads."""

    def operator(self):
        kind = HessianLinearOperator if self.workload.matrix == "hessian" else GGNLinearOperator
        return kind(self.network, self.criterion, self.params, self.batches(), check_deterministic=False)

    def matvec(self) -> Callable[[torch.Tensor], torch.Tensor]:
        op = self.operator()
        return lambda vector: op @ vector

    def run(self) -> Result:
        return self._largest() if self.workload.task == "largest" else super().run()

    def exact(self) -> np.ndarray:
        op = self.operator()
        columns = [op @ units.T for units in identity_columns(self.problem.size, _COLUMNS, self.device)]
        return torch.linalg.eigvalsh(torch.cat(columns, dim=1)).cpu().numpy()

    def _largest(self) -> Result:
        op = self.operator().to_scipy()
        count = 0

        def counted(vector: np.ndarray) -> np.ndarray:
            nonlocal count
            count += 1
            return op @ vector

        linear = scipy.sparse.linalg.LinearOperator(op.shape, matvec=counted, dtype=np.float32)
        start = self.random_vector().cpu().numpy()
        values = scipy.sparse.linalg.eigsh(linear, k=1, which="LA", tol=RTOL, v0=start, return_eigenvectors=False)
        return Result([float(values[0])], count)
