"""Does L2 sharpen a perceptron whose labels are noisy? *Flatness is a False Friend*, section 4."""

from experiments.beyond.noisy_labels import with_noisy_labels
from experiments.granziol2020 import g_mlp

EXPERIMENT = with_noisy_labels(g_mlp.EXPERIMENT, "h_noisy_mlp", "A perceptron")
