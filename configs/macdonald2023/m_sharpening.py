"""Label smoothing and progressive sharpening: *On progressive sharpening*, section 5, figure 1, and B.1, figures 6-11.

    make sweep CONFIG=m_sharpening:small

smoke: seconds, 2 runs. small: scikit-learn's digits and two perceptrons, one of them with batch norm, 144 runs. medium:
2,000 images of CIFAR-10, all of which each step takes, and a narrow VGG-11 with batch norm, P = 39,066, after `make
data DATASETS=cifar10`, 18 runs, 1.1 hours on two cores. paper: VGG-11 and ResNet-18 on CIFAR-10, 90 runs, on an
accelerator.
"""

from ml_collections import ConfigDict

from configs.granziol2020.g_wrn import seeded
from hessflat.config import Overrides, override, product
from hessflat.runs.schema import base_config

SCALES = ("smoke", "small", "medium", "paper")

SMOOTHING = (0.0, 0.5, 0.75)
ACCURACY = 0.99
# At scale small other seeds were the pilots: docs/numerics.md, power.
SEEDS = {"smoke": (0,), "small": tuple(range(10, 18)), "medium": (10, 11, 12), "paper": (0, 1, 2, 3, 4)}

# At small scale rates for which 2/η lies above the sharpness at the start and below that which training with a small
# rate reaches: without batch norm between 0.3 and 17, with it only between 9 and 25. How often is measured is the same
# for all rates, so that they share a program.
RATES = {False: (0.6, 0.3, 0.15), True: (0.16, 0.12, 0.08)}
STEPS = {False: 8, True: 3}
LAYERS = {False: 4, True: 2}
# Of the paper, whose sharpness is measured "every 5, 10 or 20 iterations depending on the number" needed.
PAPER_RATES = {0.08: 5, 0.04: 10, 0.02: 20}
MEDIUM_RATES = {0.16: 5, 0.08: 10}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run without smoothing: full-batch gradient descent to a training accuracy of 99 %.

    The paper gives neither batch-norm settings nor initial weights; ours are PyTorch's, on which its code builds.
    Full-batch descent by ghost batches updates the running averages ten times a step. Where all examples pass at once,
    one update with momentum 0.35 = 0.9¹⁰ is equivalent.
    """
    settings: Overrides = {
        "experiment": "m_sharpening",
        "data.scaling": "pixelwise",
        "data.validation_fraction": 0.0,
        "optim.sgd.momentum": 0.0,
        "schedule.name": "constant",
        "train.batch_size": 0,
        "train.epochs": 5_000,
        "stop.train_accuracy": ACCURACY,
        "measure.modes": ("train",),
        "measure.performance": "end",
        "measure.spectra": "never",
        "checkpoint.keep": "end",
    }
    at_scale: dict[str, Overrides] = {
        "smoke": {
            "model.name": "mlp",
            "model.mlp.hidden": (6,),
            "data.train_size": 60,
            "optim.lr": 0.5,
            "train.epochs": 20,
            "stop.eval_every": 5,
            "measure.layer_examples": 5,
        },
        "small": {
            "model.name": "mlp",
            "model.mlp.hidden": (24, 24, 24, 24, 24, 24),
            "model.mlp.activation": "tanh",
            "model.mlp.bn_momentum": 0.35,
            "train.epochs": 1_000,
            "data.train_size": 1_000,
            "measure.layer_examples": 30,
        },
        "medium": {
            "data.name": "cifar10",
            "data.train_size": 2_000,
            "model.name": "vgg",
            "model.vgg.depth": 11,
            "model.vgg.width": 4,
            "model.vgg.head": (32, 32),
            "model.vgg.bn_momentum": 0.35,
            "train.epochs": 1_000,
            "measure.examples": 250,
            "measure.batch_size": 250,
            "measure.layer_examples": 25,
        },
        "paper": {
            "data.name": "cifar10",
            "train.ghost_batch_size": 5_000,
            "measure.examples": 2_500,
            "measure.batch_size": 2_500,
            "measure.layer_examples": 25,
        },
    }
    return override(base_config(scale), settings | at_scale[scale])


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: every network with every learning rate, smoothing and seed.

    Measurements are as frequent as the paper's. A run with smoothing takes as many steps as the run without it that is
    otherwise equal.
    """
    smoothed = {
        "stop.train_accuracy": 0.0,
        "stop.match_steps_of": f"train.label_smoothing=0,stop.train_accuracy={ACCURACY}",
    }
    smoothings: list[Overrides] = [
        {"train.label_smoothing": alpha} | (smoothed if alpha else {}) for alpha in SMOOTHING
    ]
    if scale == "smoke":
        return product([measured_every(5, layers=1)], smoothings[:2], {"seed": SEEDS[scale]})
    if scale == "small":
        kinds: list[Overrides] = [
            {"model.mlp.batch_norm": normed, "optim.lr": rate} | measured_every(STEPS[normed], LAYERS[normed])
            for normed, rates in RATES.items()
            for rate in rates
        ]
        return product(kinds, smoothings, {"seed": SEEDS[scale]})
    if scale == "medium":
        rates = [{"optim.lr": rate} | measured_every(steps, layers=10) for rate, steps in MEDIUM_RATES.items()]
        return product(rates, smoothings, seeded(scale, SEEDS[scale]))
    networks: list[Overrides] = [{"model.name": "vgg", "model.vgg.depth": 11}, {"model.name": "resnet"}]
    rates = [{"optim.lr": rate} | measured_every(steps, layers=20) for rate, steps in PAPER_RATES.items()]
    return product(networks, rates, smoothings, {"seed": SEEDS[scale]})


def measured_every(steps: int, layers: int) -> Overrides:
    """The overrides that measure, and evaluate training accuracy, every `steps` steps, and layers every `layers` of
    these.
    """
    when = f"every {steps} steps"
    return {
        "stop.eval_every": steps,
        "measure.outputs": when,
        "measure.sharpness": when,
        "measure.jacobian": when,
        "measure.layer_jacobians": f"every {layers * steps} steps",
    }
