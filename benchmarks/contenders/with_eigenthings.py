"""hessian-eigenthings 1.0: double backward or JVP and VJP, the gradient taken anew in every product."""

from collections.abc import Callable

import torch
from hessian_eigenthings import (
    GGNOperator,
    HessianOperator,
    lanczos_tridiagonal,
    power_iteration_one,
    supervised_forward,
    supervised_loss,
    supervised_loss_of_output,
)

from benchmarks import reference
from benchmarks.contenders import Result
from benchmarks.contenders.torch_by_hand import TorchByHand
from benchmarks.workloads import RTOL


class WithEigenthings(TorchByHand):
    """Its operators over batches of all examples."""

    def operator(self):
        loader = self.batches()
        if self.workload.matrix == "hessian":
            return HessianOperator(self.network, loader, supervised_loss(self.criterion))
        return GGNOperator(self.network, loader, supervised_forward, supervised_loss_of_output(self.criterion))

    def matvec(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self.operator().matvec

    def run(self) -> Result:
        op = self.operator()
        if self.workload.task == "largest":
            value, _, _, count, _ = power_iteration_one(op, max_iter=500, tol=RTOL, init=self.random_vector())
            return Result([value], count)
        found = lanczos_tridiagonal(op, self.random_vector(), self.steps)
        betas = torch.cat([found.betas, torch.tensor([found.last_beta], device=found.betas.device)])
        values = reference.ritz_values(found.alphas.cpu().numpy(), betas.cpu().numpy())
        return Result([float(values[-1])], found.iterations)
