"""Are Jacobians with batch norm in train mode and in eval mode equal? *On progressive sharpening*, theorem A.1."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from experiments.macdonald2023.batch_norm_figures import (
    DIFFERENCES,
    FALLING,
    FIRST,
    LARGEST_PAPER_SAMPLE,
    NETWORKS,
    by_model,
    draw,
    exponent_of_examples,
    longest,
    measured,
    norms_apart,
    tabulate,
)
from hessflat.analysis import limits
from hessflat.analysis.designs import LN_FACTOR
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Evidence, Experiment, seeds_added
from hessflat.analysis.results import Run, finished
from hessflat.analysis.strata import in_each_group

ALLOWED = 0.2


def at_paper_sample(run: Run) -> float:
    """|‖J_T‖₂ / ‖J_V‖₂ − 1| at the largest N within the paper's range."""
    sizes = measured(run)["examples"]
    return float(norms_apart(run)[sizes <= LARGEST_PAPER_SAMPLE][-1])


def modes_apart(run: Run) -> float:
    """|log(λ_max(H) in eval mode / λ_max(H) in train mode)| at the largest N."""
    arrays = measured(run)
    return float(abs(np.log(arrays["hessian_eval"][-1] / arrays["hessian_train"][-1])))


def as_one_over_n(runs: Sequence[Run], what: str) -> Evidence:
    """Are the exponents of N in the entries and blocks of J_T − J_V below −1 + `ALLOWED`?

    Theorem A.1 is O(1/N), which a faster fall is, too. `what` is "layer" or the name of a network.
    """
    groups = by_model(runs)
    own = longest(groups) if groups and what == "layer" else groups.get(what, [])
    of = "layer" if what == "layer" else "network"
    return all_hold(
        *(
            limits.falls_below(
                own,
                partial(exponent_of_examples, quantity=quantity, what=of),
                -1 + ALLOWED,
                f"exponent of N, fitted from {FIRST} on, of the {DIFFERENCES[quantity]}, {NETWORKS.get(what, what)}",
                least=ALLOWED,
            )
            for quantity in FALLING
        )
    )


def does_not_fall(runs: Sequence[Run]) -> Evidence:
    """Is the exponent of N in ‖J_T − J_V‖₂ above −`ALLOWED`, for the layer and each network?"""
    groups = by_model(runs)
    what = f"exponent of N, fitted from {FIRST} on, of ‖J_T − J_V‖₂"
    alone = limits.exceeds(
        longest(groups) if groups else [],
        lambda run: exponent_of_examples(run, "operator", "layer"),
        -ALLOWED,
        f"{what} of the layer",
        least=ALLOWED,
    )
    networks = in_each_group(
        {NETWORKS.get(name, name): own for name, own in groups.items()},
        partial(
            limits.exceeds,
            statistic=lambda run: exponent_of_examples(run, "operator"),
            limit=-ALLOWED,
            what=f"{what} of a network",
            least=ALLOWED,
        ),
        "network",
    )
    return all_hold(alone, networks)


def norms_agree(runs: Sequence[Run]) -> Evidence:
    """Is |‖J_T‖₂ / ‖J_V‖₂ − 1| below 1 % at the paper's number of examples?"""
    what = f"relative difference of ‖J_T‖₂ and ‖J_V‖₂ at the largest N up to {LARGEST_PAPER_SAMPLE:,}"
    return limits.falls_below(runs, at_paper_sample, 0.01, what)


def sharpness_differs(runs: Sequence[Run]) -> Evidence:
    """Does λ_max(H) differ between the modes by more than a factor of 1.2 at the largest N?"""
    own = [run for run in finished(runs) if "hessian_train" in measured(run)]
    what = "|log| of λ_max(H) in eval over train mode at the largest N"
    return limits.exceeds(own, modes_apart, float(np.log(1.2)), what, least=LN_FACTOR - float(np.log(1.2)))


EXPERIMENT = Experiment(
    id="m_bn_modes",
    paper="M",
    question="In what sense do Jacobians with batch norm in train mode and in eval mode agree for large samples?",
    config="m_bn_modes",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="layer",
            paper="M",
            where="app. A.1, theorem A.1",
            statement="entries of the Jacobian of a batch-norm layer in train and in eval mode differ by O(1/N)",
            paper_value="a proof",
            decide=partial(as_one_over_n, what="layer"),
        ),
        Claim(
            id="perceptron",
            paper="hessflat",
            where="beyond the theorem, which is of one layer; app. A.1",
            statement="for a whole network, entries and the blocks of single examples differ by O(1/N), too",
            paper_value="not in the paper, which assumes it",
            decide=partial(as_one_over_n, what="mlp"),
        ),
        Claim(
            id="convolutional",
            paper="hessflat",
            where="beyond the theorem, which is of one layer; app. A.1",
            statement="for a network of convolutions, entries and the blocks of single examples differ by O(1/N), too",
            paper_value="not in the paper, which assumes it",
            decide=partial(as_one_over_n, what="vgg"),
        ),
        Claim(
            id="jacobian-norms",
            paper="M",
            where="app. A.1; §6",
            statement="on samples of the paper's sizes, Jacobian norms in eval mode approximate those in train mode",
            paper_value="1,000 to 2,500 examples",
            decide=norms_agree,
        ),
        Claim(
            id="norm-does-not-fall",
            paper="hessflat",
            where="beyond the paper; app. A.1",
            statement="the norm of the whole difference of the two Jacobians does not fall with N",
            paper_value="not in the paper, whose O(1/N) is of entries",
            decide=does_not_fall,
        ),
        Claim(
            id="sharpness-differs",
            paper="hessflat",
            where="beyond the paper; app. A.1",
            statement=(
                "with the same statistics, sharpness in train mode differs from that in eval mode, however many "
                "examples there are"
            ),
            paper_value="not in the paper",
            decide=sharpness_differs,
        ),
    ),
    notes=(
        "In every channel of a layer J_T − J_V has rank 2 and norm 1/s. It lies along two directions that train mode "
        "removes for every N: the mean of the channel and the activations themselves. The input of one example hardly "
        "moves these, so the norms of the Jacobians agree. A weight moves all examples at once, so the largest "
        "eigenvalues of the Hessians stay apart. In networks of convolutions the statistics of a channel are over all "
        "pixels of N images."
    ),
    tuned=(seeds_added("small", 3),),
)
