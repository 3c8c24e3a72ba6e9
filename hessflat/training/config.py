"""The settings of training, as frozen dataclasses."""

from dataclasses import dataclass, field
from typing import Annotated

from hessflat.config import Settings, anything, at_least, below, between, builders, one_of, positive, single, whole
from hessflat.models import MODELS
from hessflat.training.optimisation import LOSSES, OPTIMISERS, SCHEDULES, WEIGHT_DECAY_MASKS, losses_by_targets
from hessflat.training.step import PRECISIONS


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: Annotated[str, builders(MODELS), "the network"] = "softmax_regression"
    settings: Settings = ()


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser."""

    name: Annotated[str, builders(OPTIMISERS), "the optimiser"] = "sgd"
    settings: Settings = ()
    lr: Annotated[float, single(positive), "initial learning rate"] = 0.03
    l2: Annotated[float, single(at_least(0)), "weight decay: in the gradient of sgd and adam, decoupled in adamw"] = 0.0
    weight_decay_mask: Annotated[
        str, one_of(WEIGHT_DECAY_MASKS), "parameters to which l2 applies; kernels: neither biases nor normalisation"
    ] = "all"
    sam_radius: Annotated[float, single(at_least(0)), "ρ of sharpness-aware minimisation; 0 turns it off"] = 0.0


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate's schedule."""

    name: Annotated[str, builders(SCHEDULES), "how the learning rate changes"] = "linear_decay"
    settings: Settings = ()


@dataclass(frozen=True)
class TrainConfig:
    """How long and on what batches a run trains, and what is done to them."""

    epochs: Annotated[int, at_least(1), "passes over the training split"] = 50
    steps: Annotated[int, at_least(0), "optimiser steps in place of train.epochs; 0: all steps of train.epochs"] = 0
    batch_size: Annotated[int, at_least(0), "examples in a step; the last batch of an epoch may be smaller; 0: all"] = (
        128
    )
    ghost_batch_size: Annotated[
        int, at_least(0), "examples in a forward pass; the step averages their gradients; 0: all"
    ] = 0
    loss: Annotated[str, one_of(LOSSES), "loss of an example; " + losses_by_targets()] = "cross_entropy"
    label_smoothing: Annotated[
        float, below(0, 1), "α: targets are (1 - α) one-hot + α / C, in the measured curvature too"
    ] = 0.0
    mixup: Annotated[float, single(at_least(0)), "β: pairs of examples are mixed by Beta(β, β); 0 turns it off"] = 0.0
    augment: Annotated[float, between(0, 1), "probability that an image is shifted by up to 4 pixels and flipped"] = 0.0
    average_from: Annotated[
        int, at_least(0), "epoch from which iterates are averaged; measurements use the average; 0: never"
    ] = 0
    precision: Annotated[str, one_of(PRECISIONS), "precision of products in training; default: the backend's"] = (
        "default"
    )
    init_from: Annotated[
        str,
        anything,
        "RUN or RUN@STEP: start from the weights of another run, its folder or the settings that it has in place of "
        "this run's, such as train.batch_size=1000",
    ] = ""


@dataclass(frozen=True)
class StopConfig:
    """When a run ends before its last step."""

    train_accuracy: Annotated[
        float, between(0, 1), "training ends once this share of the training split is right; 0: never"
    ] = 0.0
    train_loss: Annotated[
        float, at_least(0), "training ends once the mean of the last stop.window losses is below this; 0: never"
    ] = 0.0
    window: Annotated[int, at_least(1), "number of losses in the mean of stop.train_loss"] = 10
    eval_every: Annotated[int, at_least(1), "steps between two evaluations of the whole training split"] = 100
    match_steps_of: Annotated[
        str,
        anything,
        "take as many steps as another run: its folder, or the settings that it has in place of this run's, such as "
        "train.label_smoothing=0",
    ] = ""


@dataclass(frozen=True)
class TrainingConfig:
    """All that a training run depends on besides its data."""

    seed: Annotated[int, whole(0, 2**32 - 1), "seed of the initial weights and of the order of examples"] = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    devices: Annotated[
        int,
        at_least(0),
        "number of devices that a batch is spread over; 0: all accelerators, or one CPU, and all of several processes",
    ] = 0
    fsdp: Annotated[
        bool,
        anything,
        "whether parameters, optimiser state, vectors and data are spread over the devices too",
    ] = False
