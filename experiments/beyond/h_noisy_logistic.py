"""Does L2 sharpen softmax regression whose labels are noisy? *Flatness is a False Friend*, section 4."""

from experiments.beyond.noisy_labels import with_noisy_labels
from experiments.granziol2020 import g_logistic

EXPERIMENT = with_noisy_labels(g_logistic.EXPERIMENT, "h_noisy_logistic", "Softmax regression")
