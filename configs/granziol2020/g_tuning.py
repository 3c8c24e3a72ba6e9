"""The searches of rate and weight decay for SGD and Gadam: *Flatness is a False Friend*, appendix A.1.

    make sweep CONFIG=g_tuning:small

smoke: seconds, 4 runs. small: a perceptron on 300 of scikit-learn's digits, a fifth of whose labels are drawn anew, so
that the searches have something to find, 144 runs.
"""

from ml_collections import ConfigDict

from configs.beyond.h_noisy_logistic import NOISY
from configs.granziol2020 import g_mlp
from configs.granziol2020.g_gadam import gadam, sgd
from hessflat.config import Overrides, drawn_anew, override, product

SCALES = ("smoke", "small")

# The rates are the paper's, and Gadam's decay is that of its range over the rate, as it says.
RATES = {"sgd": (0.01, 0.03, 0.1), "adamw": (1e-4, 1e-3, 3e-3)}
# The paper's range is 1e-4 to 1e-3. The schedule of 300 digits has so few steps that one ten times as strong is added,
# and none at all, which its figures compare with.
DECAYS = {"smoke": (0.0, 1e-4), "small": (0.0, 1e-4, 1e-3, 1e-2)}
# What is asked at the searched rate, and how many seeds it takes, was settled on seeds 20 to 23.
SEEDS = {"smoke": (0,), "small": (30, 31, 32, 33, 34, 35)}


def get_config(scale: str = "small") -> ConfigDict:
    """The configuration of a run with SGD, without decay, at the middle rate, half of whose epochs are measured too."""
    settings: Overrides = {
        "experiment": "g_tuning",
        "measure.performance": "at 0.5, end",
        "measure.spectra": "end",
        "measure.jacobian": "end",
    }
    return override(g_mlp.get_config(scale), NOISY | settings | sgd(0.0) | {"optim.lr": 0.03})


def get_sweep(scale: str = "small") -> list[Overrides]:
    """The overrides of each run: both optimisers at each rate with each decay and every seed, which draws the split."""
    epochs = get_config(scale).train.epochs
    rates = {name: those[1:2] if scale == "smoke" else those for name, those in RATES.items()}
    tried = [
        sgd(decay) | {"optim.lr": rate} if name == "sgd" else gadam(rate, decay / rate, epochs // 2)
        for name, those in rates.items()
        for rate in those
        for decay in DECAYS[scale]
    ]
    return product(tried, drawn_anew(SEEDS[scale]))
