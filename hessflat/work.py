"""A guess of what a run costs, for sharing out the time left: passes over the data times the size of the model."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from hessflat.jobs import due_at
from hessflat.prepared import prepared


def work_of(config: ConfigDict) -> float:
    """Of the whole run, if it goes to its last step."""
    program = prepared(config).program
    due = due_at(config, program.steps_per_epoch, program.num_steps)
    return of_training(config, program.num_steps) + sum(of_measuring(config, names) for names in due.values())


def of_training(config: ConfigDict, steps: float) -> float:
    # An epoch in small batches costs more than a pass over the data at once.
    passes = 2 if config.optim.sam_radius else 1
    return 1.5 * passes * steps / prepared(config).program.steps_per_epoch * _weight(config)


def of_measuring(config: ConfigDict, names: Iterable[str]) -> float:
    return products(config, names, prepared(config).program.num_params) * _weight(config)


def products(config: ConfigDict, names: Iterable[str], num_params: int) -> float:
    """Of curvature with a vector, over all measured examples, that measures of these names take, or as long as them."""
    settings, operators = config.measure, len(config.measure.operators)
    counts = {
        "performance": 1,
        "outputs": 1,
        "jacobian": 2,
        "features": 2,
        "fit": 1,
        # A vector-Jacobian product for each class, in float64, between all layers and for the rows of the spectra.
        "layers": 60,
        "sharpness": 10 * operators,
        "scaled_sharpness": 40,
        "spectra": (settings.probes * settings.lanczos_steps + settings.trace_probes) * operators,
        # As many products as parameters, and the eigenvalues of a matrix of that size.
        "exact": 2 * num_params * len(settings.exact_operators),
        # Several ways, of which those in float64 take twice as long.
        "sensitivity": (6 + len(settings.statistics_batches)) * (settings.trace_probes + 40),
        "extremes": settings.extremes_products * operators,
        # In float64, for two ways of scaling.
        "loss_limit": 4 * len(settings.scales) * (settings.trace_probes + 20),
        # In float64, a product for each column, for the six ordered pairs of three layers.
        "reparameterised": 12 * len(settings.scales) * num_params,
        # Rows of Jacobians, and two norms by iteration, in float64.
        "batch_norm": 4 * len(settings.sample_sizes) * (10 * settings.blocks + 60),
        # Jacobians and their derivatives at many more points than there are examples.
        "lipschitz": 2_000,
        "line": settings.line_points,
    }
    return sum(counts[name] for name in names)


def _weight(config: ConfigDict) -> float:
    # Small models are bound by the cost of launching work, which is that of some 2,000 parameters.
    return 2_000 + prepared(config).program.num_params
