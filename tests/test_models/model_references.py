"""Every family in plain NumPy: windows and einsum for convolutions, formulas for the rest, nothing of the library."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


class Layers:
    """The layers of one module, taken from its parameters in the order in which they are applied."""

    def __init__(self, params, batch_stats, train, momentum=0.9, epsilon=1e-5):
        self.params, self.batch_stats, self.train = params, batch_stats, train
        self.momentum, self.epsilon = momentum, epsilon
        self.taken = {}
        self.updated = {}

    def take(self, kind):
        index = self.taken[kind] = self.taken.get(kind, -1) + 1
        return f"{kind}_{index}"

    def inner(self, kind):
        name = self.take(kind)
        layers = Layers(self.params[name], self.batch_stats.get(name, {}), self.train, self.momentum, self.epsilon)
        if name in self.batch_stats:
            self.updated[name] = layers.updated
        return layers

    def dense(self, x):
        layer = self.params[self.take("Dense")]
        return np.einsum("ni,io->no", x, layer["kernel"]) + layer.get("bias", 0.0)

    def conv(self, x, stride=1, padding="half"):
        layer = self.params[self.take("Conv")]
        kernel = layer["kernel"]
        size = kernel.shape[0]
        edges = [pads(side, size, stride, padding) for side in x.shape[1:3]]
        x = np.pad(x, [(0, 0), *edges, (0, 0)])
        windows = sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]
        return np.einsum("nhwcij,ijco->nhwo", windows, kernel) + layer.get("bias", 0.0)

    def norm(self, x):
        """Batch normalisation, where the module has any."""
        name = self.take("BatchNorm")
        if name not in self.params:
            return x
        layer, running = self.params[name], self.batch_stats[name]
        mean, var = running["mean"], running["var"]
        if self.train:
            flat = x.reshape(-1, x.shape[-1])
            mean, var = flat.sum(0) / len(flat), ((flat - flat.sum(0) / len(flat)) ** 2).sum(0) / len(flat)
            keep = self.momentum
            self.updated[name] = {
                "mean": keep * running["mean"] + (1 - keep) * mean,
                "var": keep * running["var"] + (1 - keep) * var,
            }
        return layer["scale"] * (x - mean) / np.sqrt(var + self.epsilon) + layer["bias"]


def pads(side, size, stride, padding):
    if padding == "half":
        return size // 2, size // 2
    if padding == "valid":
        return 0, 0
    total = max((-(-side // stride) - 1) * stride + size - side, 0)
    return total // 2, total - total // 2


def relu(x):
    return np.where(x > 0, x, 0.0)


def pool(x):
    height, width = x.shape[1] // 2, x.shape[2] // 2
    corners = [x[:, i : 2 * height : 2, j : 2 * width : 2] for i in (0, 1) for j in (0, 1)]
    return np.maximum.reduce(corners)


def flatten(x):
    return x.reshape(len(x), -1)


def spatial_mean(x):
    return x.sum((1, 2)) / (x.shape[1] * x.shape[2])


def perceptron(layers, x, activation, hidden):
    x = flatten(x)
    for _ in range(hidden):
        x = activation(layers.dense(x))
    return layers.dense(x)


def softmax_regression(layers, x):
    return perceptron(layers, x, None, 0)


def mlp(layers, x, hidden, activation):
    known = {"relu": relu, "tanh": np.tanh, "gaussian": lambda x: np.exp(-(x**2) / 2)}
    return perceptron(layers, x, known[activation], len(hidden))


def coordinate_network(layers, x, hidden, activation, sigma=0.1):
    known = {"relu": relu, "gaussian": lambda x: np.exp(-(x**2) / (2 * sigma**2))}
    return perceptron(layers, x, known[activation], len(hidden))


def deep_linear(layers, x, hidden):
    product = np.linalg.multi_dot([layers.params[f"Dense_{i}"]["kernel"] for i in range(len(hidden) + 1)])
    return flatten(x) @ product


def two_convolutions(layers, x, width, kernel, hidden, padding="valid"):
    for _ in range(2):
        x = pool(relu(layers.conv(x, padding=padding)))
    return layers.dense(relu(layers.dense(flatten(x))))


def cnn9(layers, x, width, last_padding="valid"):
    for index in range(9):
        x = relu(layers.conv(x, 2 if index in (2, 5) else 1, last_padding if index == 6 else "same"))
    return spatial_mean(x)


def alexnet(layers, x, width, head, poolings=3):
    pooled_after = (0, 1, 4)[:poolings]
    for index in range(5):
        x = relu(layers.conv(x, 2 if index == 0 else 1))
        x = pool(x) if index in pooled_after else x
    return perceptron(layers, x, relu, len(head))


def vgg(layers, x, depth, width, head, poolings=5, batch_norm=True):
    plans = {11: "c/c/cc/cc/cc", 16: "cc/cc/ccc/ccc/ccc"}
    for stage, convolutions in enumerate(plans[depth].split("/")):
        for _ in convolutions:
            x = relu(layers.norm(layers.conv(x)))
        x = pool(x) if stage < poolings else x
    return perceptron(layers, x, relu, len(head))


def resnet(layers, x, depth, width, batch_norm=True, conv_bias=False):
    x = relu(layers.norm(layers.conv(x)))
    repeats = {10: 1, 18: 2}[depth]
    for index, features in enumerate(np.repeat([1, 2, 4, 8], repeats) * width):
        stride = 2 if index and index % repeats == 0 else 1
        block = layers.inner("BasicBlock")
        y = relu(block.norm(block.conv(x, stride)))
        y = block.norm(block.conv(y))
        shortcut = block.norm(block.conv(x, stride)) if stride == 2 or x.shape[-1] != features else x
        x = relu(shortcut + y)
    return layers.dense(spatial_mean(x))


def preresnet(layers, x, depth, width, batch_norm=True, conv_bias=False, bn_momentum=0.9):
    x = layers.conv(x)
    blocks = (depth - 2) // 9
    for index in range(3 * blocks):
        stride = 2 if index in (blocks, 2 * blocks) else 1
        block = layers.inner("Bottleneck")
        y = block.conv(relu(block.norm(x)))
        y = block.conv(relu(block.norm(y)), stride)
        y = block.conv(relu(block.norm(y)))
        x = y + (block.conv(x, stride) if index % blocks == 0 else x)
    return layers.dense(spatial_mean(relu(layers.norm(x))))


def wide_resnet(layers, x, depth, width, widening, batch_norm=True, bn_epsilon=1e-5):
    x = layers.conv(x)
    blocks = (depth - 4) // 6
    for index in range(3 * blocks):
        stride = 2 if index in (blocks, 2 * blocks) else 1
        block = layers.inner("WideBlock")
        y = block.conv(relu(block.norm(x)))
        y = block.conv(relu(block.norm(y)), stride)
        x = y + (block.conv(x, stride) if y.shape[-1] != x.shape[-1] else x)
    return layers.dense(spatial_mean(relu(layers.norm(x))))


def forward(case, params, batch_stats, inputs, train):
    """Outputs and running averages of a case."""
    momentum, epsilon = (case.settings.get(f"bn_{name}", default) for name, default in DEFAULTS.items())
    layers = Layers(params, batch_stats, train, momentum, epsilon)
    outputs = globals()[case.name](layers, inputs, **case.settings)
    return outputs, (layers.updated if train else batch_stats)


DEFAULTS = {"momentum": 0.9, "epsilon": 1e-5}
