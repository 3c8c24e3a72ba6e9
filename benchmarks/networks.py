"""The networks, written once. `layers` does the work in JAX or PyTorch, or only notes the shapes of the parameters."""

from collections.abc import Callable, Sequence
from typing import Any


def mlp(layers: Any, x: Any, sizes: Sequence[int]) -> Any:
    """ReLU between dense layers of these sizes; the last one gives the logits."""
    *hidden, num_classes = sizes
    for i, size in enumerate(hidden):
        x = layers.relu(layers.dense(f"dense{i}", x, size))
    return layers.dense("head", x, num_classes)


def vgg(layers: Any, x: Any, channels: Sequence[int], hidden: int, num_classes: int) -> Any:
    """Two 3×3 convolutions of each width, then max pooling; no batch norm."""
    for i, features in enumerate(channels):
        for j in range(2):
            x = layers.relu(layers.conv(f"conv{i}_{j}", x, features, bias=True))
        x = layers.pool(x)
    x = layers.relu(layers.dense("dense", layers.flatten(x), hidden))
    return layers.dense("head", x, num_classes)


def resnet(layers: Any, x: Any, widths: Sequence[int], blocks: int, num_classes: int) -> Any:
    """The CIFAR form: 3×3 stem, stages of basic blocks, batch norm after each convolution, global mean."""
    x = layers.relu(layers.norm("stem_norm", layers.conv("stem", x, widths[0])))
    for stage, features in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage}_{block}"
            y = layers.relu(layers.norm(f"{name}_norm0", layers.conv(f"{name}_conv0", x, features, stride)))
            y = layers.norm(f"{name}_norm1", layers.conv(f"{name}_conv1", y, features))
            if stride > 1:
                x = layers.norm(f"{name}_norm2", layers.conv(f"{name}_conv2", x, features, stride, size=1))
            x = layers.relu(layers.add(x, y))
    return layers.dense("head", layers.mean(x), num_classes)


def wide_resnet(layers: Any, x: Any, widths: Sequence[int], blocks: int, num_classes: int) -> Any:
    """Zagoruyko and Komodakis (2016): batch norm before each convolution; `widths` are those of the stages."""
    x = layers.conv("stem", x, 16)
    for stage, features in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage}_{block}"
            y = layers.relu(layers.norm(f"{name}_norm0", x))
            if not block:
                x = layers.conv(f"{name}_conv2", y, features, stride, size=1)
            y = layers.conv(f"{name}_conv0", y, features, stride)
            y = layers.conv(f"{name}_conv1", layers.relu(layers.norm(f"{name}_norm1", y)), features)
            x = layers.add(x, y)
    return layers.dense("head", layers.mean(layers.relu(layers.norm("norm", x))), num_classes)


NETWORKS: dict[str, Callable] = {"mlp": mlp, "vgg": vgg, "resnet": resnet, "wide_resnet": wide_resnet}


class ShapeLayers:
    """Runs a network on the shape of one example and notes its parameters; `x` is a tuple (height, width, channels)."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.norms: dict[str, int] = {}

    def dense(self, name: str, x: tuple, features: int) -> tuple:
        self.shapes[f"{name}_kernel"] = (x[0], features)
        self.shapes[f"{name}_bias"] = (features,)
        return (features,)

    def conv(self, name: str, x: tuple, features: int, stride: int = 1, size: int = 3, bias: bool = False) -> tuple:
        self.shapes[f"{name}_kernel"] = (size, size, x[2], features)
        if bias:
            self.shapes[f"{name}_bias"] = (features,)
        return (-(-x[0] // stride), -(-x[1] // stride), features)

    def norm(self, name: str, x: tuple) -> tuple:
        self.shapes[f"{name}_scale"] = self.shapes[f"{name}_bias"] = (x[2],)
        self.norms[name] = x[2]
        return x

    def relu(self, x: tuple) -> tuple:
        return x

    def add(self, x: tuple, y: tuple) -> tuple:
        return x

    def pool(self, x: tuple) -> tuple:
        return (x[0] // 2, x[1] // 2, x[2])

    def mean(self, x: tuple) -> tuple:
        return (x[2],)

    def flatten(self, x: tuple) -> tuple:
        return (x[0] * x[1] * x[2],)
