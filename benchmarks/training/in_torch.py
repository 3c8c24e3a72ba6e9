"""The networks and the loop in PyTorch. Layers are in lists named by their kind, so that weights find them."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks import layouts
from benchmarks.timing import seconds_of
from benchmarks.training.problem import Problem
from benchmarks.training.workloads import (
    BATCH_SIZES,
    LEARNING_RATE,
    MOMENTUM,
    NUM_CHECKED,
    NUM_CLASSES,
    Network,
)


def convolution(before: int, features: int, size: int = 3, stride: int = 1, bias: bool = True) -> nn.Module:
    return nn.Conv2d(before, features, size, stride, size // 2, bias=bias)


def rectified(x: torch.Tensor) -> torch.Tensor:
    return functional.relu(x, inplace=True)


class MLP(nn.Module):
    """Without hidden layers it is softmax regression."""

    def __init__(self, hidden: Sequence[int] = (), inputs: int = 784) -> None:
        super().__init__()
        sizes = [inputs, *hidden, NUM_CLASSES]
        self.dense = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for layer in self.dense[:-1]:
            x = rectified(layer(x))
        return self.dense[-1](x)


class VGG(nn.Module):
    """11 layers for 32 × 32 images, with batch norm and without dropout."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        features = [width * times for times in (1, 2, 4, 4, 8, 8, 8, 8)]
        self.conv = nn.ModuleList(map(convolution, [3, *features[:-1]], features))
        self.norm = nn.ModuleList(map(nn.BatchNorm2d, features))
        self.head = MLP((512, 512), features[-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, (conv, norm) in enumerate(zip(self.conv, self.norm, strict=True)):
            x = rectified(norm(conv(x)))
            if index in (0, 1, 3, 5, 7):
                x = functional.max_pool2d(x, 2)
        return self.head(x)


class BasicBlock(nn.Module):
    """Normalisation after each convolution."""

    def __init__(self, before: int, features: int, stride: int) -> None:
        super().__init__()
        convs = [convolution(before, features, 3, stride, bias=False), convolution(features, features, bias=False)]
        if stride > 1 or before != features:
            convs.append(convolution(before, features, 1, stride, bias=False))
        self.conv = nn.ModuleList(convs)
        self.norm = nn.ModuleList(nn.BatchNorm2d(features) for _ in convs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm[1](self.conv[1](rectified(self.norm[0](self.conv[0](x)))))
        if len(self.conv) > 2:
            x = self.norm[2](self.conv[2](x))
        return rectified(x + y)


class WideBlock(nn.Module):
    """Normalisation before each convolution; the second has the stride."""

    def __init__(self, before: int, features: int, stride: int) -> None:
        super().__init__()
        convs = [convolution(before, features), convolution(features, features, 3, stride)]
        if stride > 1 or before != features:
            convs.append(convolution(before, features, 1, stride))
        self.conv = nn.ModuleList(convs)
        self.norm = nn.ModuleList([nn.BatchNorm2d(before), nn.BatchNorm2d(features)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv[0](rectified(self.norm[0](x)))
        y = self.conv[1](rectified(self.norm[1](y)))
        return y + (self.conv[2](x) if len(self.conv) > 2 else x)


class Residual(nn.Module):
    """Stages of blocks; the normalisation is after the first convolution (ResNet) or after the last block (wide)."""

    def __init__(self, block: Callable, stem: int, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.wide = block is WideBlock
        self.conv = nn.ModuleList([convolution(3, stem, bias=self.wide)])
        self.norm = nn.ModuleList([nn.BatchNorm2d(widths[-1] if self.wide else stem)])
        self.blocks, before = nn.ModuleList(), stem
        for stage, width in enumerate(widths):
            for index in range(blocks):
                self.blocks.append(block(before, width, 2 if stage and not index else 1))
                before = width
        self.dense = nn.ModuleList([nn.Linear(before, NUM_CLASSES)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv[0](x)
        x = x if self.wide else rectified(self.norm[0](x))
        for block in self.blocks:
            x = block(x)
        x = rectified(self.norm[0](x)) if self.wide else x
        return self.dense[0](x.mean((2, 3)))


def resnet(depth: int, width: int) -> nn.Module:
    return Residual(BasicBlock, width, [width, 2 * width, 4 * width, 8 * width], (depth - 2) // 8)


def wide_resnet(depth: int, widening: int) -> nn.Module:
    return Residual(WideBlock, 16, [16 * widening, 32 * widening, 64 * widening], (depth - 4) // 6)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "softmax_regression": MLP,
    "mlp": MLP,
    "vgg": VGG,
    "resnet": resnet,
    "wide_resnet": wide_resnet,
}
_KINDS = {"conv": "Conv", "norm": "BatchNorm", "dense": "Dense"}
_LEAVES = {"weight": "kernel", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def path_of(name: str, module: nn.Module) -> str:
    """Where the problem keeps what PyTorch calls `name`: blocks.3.conv.1.weight is BasicBlock_3/Conv_1/kernel."""
    *layers, leaf = name.removeprefix("head.").split(".")
    kinds = _KINDS | {"blocks": type(module.blocks[0]).__name__ if hasattr(module, "blocks") else ""}
    folders = [f"{kinds[kind]}_{number}" for kind, number in zip(layers[::2], layers[1::2], strict=True)]
    is_scale = leaf == "weight" and layers[-2] == "norm"
    return "/".join([*folders, "scale" if is_scale else _LEAVES[leaf]])


def set_weights(module: nn.Module, problem: Problem) -> None:
    arrays = problem.params | problem.statistics
    names = [name for name in module.state_dict() if not name.endswith("num_batches_tracked")]
    tensors = {name: torch.from_numpy(layouts.to_torch(arrays[path_of(name, module)])) for name in names}
    module.load_state_dict(tensors, strict=False)


class PyTorch:
    """`torch.optim.SGD`, the data in memory, a permutation for each epoch; float32 without TF32."""

    loop = "python"

    def __init__(self, network: Network, scale: str, problem: Problem, overrides: Mapping[str, Any]) -> None:
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self.network, self.scale, self.problem = network, scale, problem
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.layout = torch.contiguous_format
        self.x = torch.from_numpy(layouts.images_to_torch(problem.x)).to(self.device)
        self.y = torch.from_numpy(problem.y.astype(np.int64)).to(self.device)
        self.criterion, self.step = nn.CrossEntropyLoss(), 0

    def build(self) -> None:
        self.module = NETWORKS[self.network.model](**self.network.settings_at(self.scale)).to(self.device)
        self.optimiser = self.optimiser_of(self.module)

    def advance(self, steps: int) -> None:
        size, epoch = BATCH_SIZES[self.scale], len(self.y) // BATCH_SIZES[self.scale]
        for _ in range(steps):
            position = self.step % epoch
            if position == 0:
                self.permutation = torch.randperm(len(self.y), device=self.device)
            indices = self.permutation[position * size : (position + 1) * size]
            self.take_step(self.module, self.optimiser, self.x[indices], self.y[indices])
            self.step += 1
        self.wait()

    def take_step(self, module: nn.Module, optimiser: Any, x: torch.Tensor, y: torch.Tensor) -> None:
        optimiser.zero_grad(set_to_none=True)
        self.criterion(module(x.to(memory_format=self.layout)), y).backward()
        optimiser.step()

    def check(self) -> dict[str, Any]:
        module = copy.deepcopy(self.module)
        set_weights(module, self.problem)
        few = slice(0, NUM_CHECKED[self.scale])
        x, y = self.x[few], self.y[few]
        before = self.criterion(module(x), y).item()
        self.take_step(module, self.optimiser_of(module), x, y)
        # In float32 PyTorch sums the squares of millions of numbers to three digits.
        norm = torch.linalg.vector_norm(torch.cat([p.grad.reshape(-1) for p in module.parameters()]).double())
        after, number = self.criterion(module(x), y).item(), sum(p.numel() for p in module.parameters())
        numbers = {"gradient_norm": norm.item(), "parameters": float(number)}
        return {"loss": before, "loss_after_a_step": after} | numbers

    def parts(self) -> dict[str, float]:
        """Images as NCHW or channels last, whichever is faster, from here on; 1 is channels last."""
        if self.network.is_small:
            return {}

        def seconds() -> float:
            return seconds_of(lambda: self.advance(self.network.steps(self.scale, self.device.type)))

        as_it_was = seconds()
        self.turn_to(torch.channels_last)
        self.advance(1)
        is_faster = seconds() < as_it_was
        if not is_faster:
            self.turn_to(torch.contiguous_format)
        return {"channels_last": float(is_faster)}

    def turn_to(self, layout: Any) -> None:
        self.layout = layout
        self.module.to(memory_format=layout)
        self.optimiser = self.optimiser_of(self.module)

    def optimiser_of(self, module: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(module.parameters(), LEARNING_RATE, MOMENTUM)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def device_kind(self) -> str:
        return torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
