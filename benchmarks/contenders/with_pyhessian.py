"""PyHessian as its README uses it: with one batch, or with a data loader."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pyhessian
import torch
from pyhessian.utils import hessian_vector_product

from benchmarks.contenders import Result, batch_sizes
from benchmarks.contenders.torch_by_hand import TorchByHand
from benchmarks.in_torch import flatten
from benchmarks.workloads import RTOL

# The package shows the class of this name in place of the module.
_MODULE = sys.modules["pyhessian.hessian"]


def _eig(matrix: torch.Tensor, eigenvectors: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return torch.stack([values, torch.zeros_like(values)], dim=1), vectors


# Version 0.1 calls a function that PyTorch has since removed; the tridiagonal matrix it is for is symmetric.
torch.eig = _eig  # type: ignore[attr-defined]


class OneBatch(TorchByHand):
    """Keeps the graph of the gradient, which the package does of one batch alone."""

    @staticmethod
    def batch_sizes(examples: int) -> list[int]:
        return [examples]

    def operator(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # create_graph in backward; `release` breaks the cycle
            return pyhessian.hessian(self.network, self.criterion, cuda=self.device.type == "cuda", **self.data())

    def data(self) -> dict[str, Any]:
        return {"data": (self.x, self.y)}

    def run(self) -> Result:
        op = self.operator()
        if self.workload.task == "largest":
            product = _counted(op)
            values, _ = op.eigenvalues(maxIter=500, tol=RTOL, top_n=1)
            return Result([float(values[0])], product.count)
        nodes, _ = op.density(iter=self.steps, n_v=1)
        return Result([float(max(nodes[0]))], self.steps)

    def matvec(self) -> Callable[[torch.Tensor], torch.Tensor]:
        op = self.operator()
        return lambda vector: flatten(hessian_vector_product(op.gradsH, op.params, self.split(vector)))


class DataLoader(OneBatch):
    """Takes every gradient anew in each product."""

    @staticmethod
    def batch_sizes(examples: int) -> list[int]:
        return batch_sizes(examples)

    def data(self) -> dict[str, Any]:
        return {"dataloader": self.batches()}

    def matvec(self) -> Callable[[torch.Tensor], torch.Tensor]:
        op = self.operator()
        return lambda vector: flatten(op.dataloader_hv_product(self.split(vector))[1])


class _Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable) -> None:
        self.function, self.count = function, 0

    def __call__(self, *arguments: Any) -> Any:
        self.count += 1
        return self.function(*arguments)


def _counted(op: Any) -> _Counted:
    """The product that `op` will call, counting."""
    if op.full_dataset:
        op.dataloader_hv_product = _Counted(op.dataloader_hv_product)
        return op.dataloader_hv_product
    _MODULE.hessian_vector_product = _Counted(hessian_vector_product)  # type: ignore[attr-defined]
    return _MODULE.hessian_vector_product
