"""Plain PyTorch at its best: what does not depend on the vector is computed once, and its graph kept."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks import reference
from benchmarks.contenders import Result
from benchmarks.in_torch import TorchSetting, flatten, identity_columns
from benchmarks.problems import Arrays, Problem
from benchmarks.workloads import RTOL, Workload

_COLUMNS = 64
_MOST_STEPS = 200


class TorchByHand(TorchSetting):
    """Double backward; the Gauss-Newton product by a double backward through the network for J v.

    The graphs of all batches are kept.
    """

    def __init__(self, problem: Problem, arrays: Arrays, workload: Workload, steps: int, batch: int) -> None:
        super().__init__(problem, arrays)
        self.workload, self.steps, self.batch = workload, steps, batch

    def batches(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.x.split(self.batch), self.y.split(self.batch), strict=True))

    def prepared(self) -> Callable[[], object]:
        product, vector = self.matvec(), self.random_vector()

        def call() -> None:
            product(vector)
            self.wait()

        return call

    def matvec(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return self._hessian() if self.workload.matrix == "hessian" else self._gauss_newton()

    def run(self) -> Result:
        if self.workload.task == "exact":
            return Result(self.exact().tolist(), self.problem.size)
        if self.workload.task == "blocks":
            return self.blocks()
        search = self.workload.task == "largest"
        steps = min(_MOST_STEPS, self.problem.size) if search else self.steps
        basis = torch.empty((steps, self.problem.size), device=self.device)
        tridiagonal = reference.lanczos(self.matvec(), basis, self.random_vector(), RTOL if search else None)
        return Result([float(reference.ritz_values(*tridiagonal)[-1])], len(tridiagonal[0]))

    def blocks(self) -> Result:
        """Layer by layer, with products that differentiate its parameters alone."""
        whole, values, count = self.params, [], 0
        for names in self.problem.layers.values():
            self.params = [self.network.get_parameter(name) for name in names]
            size = sum(p.numel() for p in self.params)
            basis = torch.empty((min(self.steps, size), size), device=self.device)
            tridiagonal = reference.lanczos(self.matvec(), basis, self.random_vector()[:size])
            values.append(float(reference.ritz_values(*tridiagonal)[-1]))
            count += len(tridiagonal[0])
        self.params = whole
        return Result(values, count)

    def exact(self) -> np.ndarray:
        gradient = flatten(torch.autograd.grad(self.loss(), self.params, create_graph=True))
        rows = []
        for units in identity_columns(self.problem.size, _COLUMNS, self.device):
            parts = torch.autograd.grad(
                gradient, self.params, grad_outputs=units, retain_graph=True, is_grads_batched=True
            )
            rows.append(torch.cat([part.reshape(len(units), -1) for part in parts], dim=1))
        return torch.linalg.eigvalsh(torch.cat(rows)).cpu().numpy()

    def product(self, vector: np.ndarray) -> np.ndarray:
        return self.to_numpy(self.matvec()(self.from_numpy(vector)))

    def _hessian(self) -> Callable[[torch.Tensor], torch.Tensor]:
        share = self.batch / len(self.x)
        gradients = [
            torch.autograd.grad(share * self.criterion(self.network(x), y), self.params, create_graph=True)
            for x, y in self.batches()
        ]

        def product(vector: torch.Tensor) -> torch.Tensor:
            parts = self.split(vector)
            return sum(flatten(torch.autograd.grad(one, self.params, parts, retain_graph=True)) for one in gradients)

        return product

    def _gauss_newton(self) -> Callable[[torch.Tensor], torch.Tensor]:
        products = [self._gauss_newton_of(x) for x, _ in self.batches()]
        return lambda vector: sum(product(self.split(vector)) for product in products)

    def _gauss_newton_of(self, x: torch.Tensor) -> Callable[[list[torch.Tensor]], torch.Tensor]:
        logits = self.network(x)
        p = logits.detach().softmax(1)
        dummy = torch.zeros_like(logits, requires_grad=True)
        pulled = torch.autograd.grad(logits, self.params, dummy, create_graph=True)

        def product(parts: list[torch.Tensor]) -> torch.Tensor:
            (pushed,) = torch.autograd.grad(pulled, dummy, parts, retain_graph=True)
            curved = p * (pushed - (p * pushed).sum(1, keepdim=True)) / len(self.x)
            return flatten(torch.autograd.grad(logits, self.params, curved, retain_graph=True))

        return product
