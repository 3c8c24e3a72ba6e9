"""The networks in PyTorch (NCHW, OIHW), as an `nn.Module` with the same weights."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks import layouts
from benchmarks.contenders import batch_sizes
from benchmarks.networks import NETWORKS
from benchmarks.problems import Arrays, Problem

EPSILON = 1e-5  # of batch norm, as in JAX


class TorchLayers:
    """Layers over the parameters and buffers of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module

    def __getitem__(self, name: str) -> torch.Tensor:
        return getattr(self.module, name)

    def dense(self, name: str, x: torch.Tensor, features: int) -> torch.Tensor:
        return functional.linear(x, self[f"{name}_kernel"], self[f"{name}_bias"])

    def conv(
        self, name: str, x: torch.Tensor, features: int, stride: int = 1, size: int = 3, bias: bool = False
    ) -> torch.Tensor:
        added = self[f"{name}_bias"] if bias else None
        return functional.conv2d(x, self[f"{name}_kernel"], added, stride, size // 2)

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var = self[f"{name}_mean"], self[f"{name}_var"]
        return functional.batch_norm(x, mean, var, self[f"{name}_scale"], self[f"{name}_bias"], eps=EPSILON)

    def relu(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(x, 2)

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def flatten(self, x: torch.Tensor) -> torch.Tensor:
        # In the order that the dense kernel, made for NHWC, expects.
        return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1)


class Network(torch.nn.Module):
    """A problem's network; batch norm is in eval mode, with the stored statistics."""

    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        super().__init__()
        self.problem = problem
        for name in problem.shapes:
            tensor = torch.from_numpy(layouts.to_torch(arrays.params[name]))
            self.register_parameter(name, torch.nn.Parameter(tensor))
        for name, value in arrays.statistics.items():
            self.register_buffer(name, torch.from_numpy(value.copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return NETWORKS[self.problem.network](TorchLayers(self), x, **self.problem.options)


class TorchSetting:
    """What every PyTorch contender starts from: a network, its data on the device, and float32 without TF32."""

    framework = "PyTorch"

    def __init__(self, problem: Problem, arrays: Arrays) -> None:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self.problem = problem
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = Network(problem, arrays).to(self.device).eval()
        self.params = list(self.network.parameters())
        self.x = torch.from_numpy(layouts.images_to_torch(arrays.x)).to(self.device)
        self.y = torch.from_numpy(arrays.y.astype(np.int64)).to(self.device)
        self.criterion = torch.nn.CrossEntropyLoss()

    def loss(self) -> torch.Tensor:
        return self.criterion(self.network(self.x), self.y)

    def gradient(self) -> None:
        """One full-data gradient, waited for."""
        torch.autograd.grad(self.loss(), self.params)
        self.wait()

    def loss_and_gradient(self) -> tuple[float, np.ndarray]:
        loss = self.loss()
        gradient = flatten(torch.autograd.grad(loss, self.params))
        return float(loss), self.to_numpy(gradient)

    def random_vector(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.problem.size, generator=generator).to(self.device)

    def from_numpy(self, vector: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(layouts.flat_to_torch(vector, self.problem.shapes)).to(self.device)

    def to_numpy(self, vector: torch.Tensor) -> np.ndarray:
        return layouts.flat_from_torch(vector.detach().cpu().numpy(), self.problem.shapes)

    def split(self, vector: torch.Tensor) -> list[torch.Tensor]:
        parts = vector.split([p.numel() for p in self.params])
        return [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @staticmethod
    def batch_sizes(examples: int) -> list[int]:
        return batch_sizes(examples)

    @staticmethod
    def reduced(problem: Problem, workload: Any) -> tuple[int, int] | None:
        return None

    def release(self) -> None:
        """Let go of graphs between two turns, and of what gradients left behind."""
        self.network.zero_grad(set_to_none=True)
        gc.collect()

    def device_kind(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"

    def peak_bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self.device.type == "cuda" else None


def flatten(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def identity_columns(size: int, group: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Unit vectors [g, P], a group at a time."""
    for first in range(0, size, group):
        rows = torch.arange(first, min(first + group, size), device=device)
        yield torch.nn.functional.one_hot(rows, size).to(torch.float32)
