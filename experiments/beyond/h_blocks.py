"""How sharp are the blocks of a transformer, how different are their spectra, and does Adam train it better than SGD?

Zhang et al. 2024, *Why Transformers Need Adam: A Hessian Perspective*, and Wang et al. 2025, *The Sharpness Disparity
Principle in Transformers for Accelerating Language Model Pre-Training*.
"""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib
import numpy as np

from hessflat.analysis import claims, limits
from hessflat.analysis.evidence import Evidence
from hessflat.analysis.experiment import Claim, Drawing, Experiment, Table, Tuned
from hessflat.analysis.results import Run, finished, finite_final, grouped
from hessflat.analysis.tables import table_by_group
from hessflat.plot.style import PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, new_columns, new_figure

# The groups of Wang et al., from the flattest to the sharpest, and the blocks of each.
GROUPS = {"Emb": ("embedding",), "QK": ("q", "k"), "FFN": ("mlp",), "VO": ("v", "o"), "Norm": ("norm",)}
SIZES = "gauss_newton-blocks"


def of_words(runs: Sequence[Run]) -> list[Run]:
    """The runs of the transformer."""
    return [run for run in runs if run.setting("model.name") == "transformer"]


def by_adam(runs: Sequence[Run]) -> list[Run]:
    """The runs by Adam."""
    return [run for run in runs if run.setting("optim.name") == "adam"]


def sharpness(run: Run, group: str) -> float:
    """The mean eigenvalue of the Gauss-Newton matrix over the blocks of a group, by their numbers of parameters."""
    arrays = run.spectrum(SIZES)
    sizes = dict(zip(arrays["names"].tolist(), arrays["sizes"].tolist(), strict=True))
    traces = [finite_final(run, f"gauss_newton.blocks.{block}.trace") for block in GROUPS[group]]
    return float(sum(traces) / sum(sizes[block] for block in GROUPS[group]))


def ratio_of(flatter: str, sharper: str) -> Callable[[Run], float]:
    """How many times as sharp one group is as another."""
    return lambda run: sharpness(run, sharper) / sharpness(run, flatter)


def in_order(runs: Sequence[Run], flatter: str, sharper: str) -> Evidence:
    """Is one group sharper than another, in the transformers that Adam trained?"""
    what = f"sharpness of {sharper} over that of {flatter} by Adam"
    return limits.exceeds(by_adam(of_words(runs)), ratio_of(flatter, sharper), 1.0, what, "log")


def nats_learnt(run: Run) -> float:
    """How far the test loss is below the unigram entropy of the training text."""
    return float(run.manifest["best_guess_loss"]) - finite_final(run, "test_loss")


def order_claim(flatter: str, sharper: str, sign: str) -> Claim:
    """A step of the order of Wang et al."""
    return Claim(
        id=f"{flatter}-{sharper}".lower(),
        paper="hessflat",
        where="Wang et al. 2025, eq. 1",
        statement=f"blocks {sharper} are sharper than {flatter}",
        paper_value=f"{flatter} {sign} {sharper}",
        decide=partial(in_order, flatter=flatter, sharper=sharper),
    )


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """Sharpness of each group, and the distances between the spectra of blocks."""
    figure, axes = new_figure(1, 2, 2.6)
    data = new_columns("what", "optimiser", "group", "seed", "value")
    by_kind = grouped(finished(runs), lambda run: (run.setting("model.name"), run.setting("optim.name")))
    with matplotlib.rc_context(STYLE):
        for colour, ((model, optimiser), own) in enumerate(sorted(by_kind.items())):
            if model == "transformer":
                values = np.array([[sharpness(run, group) for group in GROUPS] for run in own])
                axes[0].plot(range(len(GROUPS)), values.T, ".", color=PALETTE[colour])
                axes[0].plot(range(len(GROUPS)), np.exp(np.log(values).mean(0)), color=PALETTE[colour], label=optimiser)
                for run, row in zip(own, values, strict=True):
                    for group, value in zip(GROUPS, row, strict=True):
                        append_row(data, "sharpness", optimiser, group, run.seed, float(value))
            found = [finite_final(run, "hessian.blocks.heterogeneity") for run in own]
            axes[1].plot([colour] * len(found), found, "o", color=PALETTE[colour], markersize=4)
            for run, value in zip(own, found, strict=True):
                append_row(data, "heterogeneity", optimiser, model, run.seed, value)
        axes[0].set_xticks(range(len(GROUPS)), list(GROUPS))
        axes[0].set_yscale("log")
        axes[0].set_ylabel(r"$\mathrm{Tr}\,G_b\,/\,P_b$")
        axes[0].legend()
        names = {"transformer": "words", "two_convolutions": "digits"}
        ticks = [f"{names.get(model, model)},\n{optimiser}" for model, optimiser in sorted(by_kind)]
        axes[1].set_xticks(range(len(ticks)), ticks)
        axes[1].set_xlim(-0.5, len(ticks) - 0.5)
        axes[1].set_ylim(0, None)
        axes[1].set_ylabel("mean Jensen-Shannon distance")
    letter(axes)
    caption = (
        "(a) Sharpness of the transformer's blocks: the mean eigenvalue of the Gauss-Newton matrix of each. Points "
        "are seeds, lines are geometric means. (b) Mean Jensen-Shannon distance between the Hessian spectra of "
        f"blocks. Points are seeds. {figures.context(runs)}"
    )
    return [Drawing("blocks", caption, figure, data)]


COLUMNS = (
    ("train loss", "train_loss", ".4f"),
    ("test loss", "test_loss", ".4f"),
    ("heterogeneity (H)", "hessian.blocks.heterogeneity", ".3f"),
    ("its s.e.", "hessian.blocks.heterogeneity_se", ".3f"),
)


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """Losses and heterogeneity of each network by each optimiser; the blocks of the transformer."""
    done = finished(runs)
    by_kind = grouped(done, lambda run: (run.setting("model.name"), run.setting("optim.name")))
    words = of_words(done)
    guesses = [run.manifest["best_guess_loss"] for run in words]
    unigram = f" The unigram entropy of the words is {np.mean(guesses):.4f} nats." if guesses else ""
    names = ("model.name", "optim.name")
    kinds = table_by_group(by_kind, names, COLUMNS, f"Both networks, trained with both optimisers.{unigram}")
    blocks = [block for group in GROUPS.values() for block in group]
    columns = [(block, f"gauss_newton.blocks.{block}.mean_eigenvalue", ".3g") for block in blocks]
    of_optimiser = grouped(words, lambda run: (run.setting("optim.name"),))
    sharp = table_by_group(of_optimiser, ("optim.name",), columns, "Mean eigenvalue of the blocks of G, transformer.")
    tops = [(block, f"hessian.blocks.{block}.lambda_max", ".3g") for block in blocks]
    return [kinds, sharp, table_by_group(of_optimiser, ("optim.name",), tops, "λ_max of the blocks of H, transformer.")]


EXPERIMENT = Experiment(
    id="h_blocks",
    paper="hessflat",
    question=(
        "How sharp are the blocks of a transformer, how different are their spectra, and does Adam train it better "
        "than SGD?"
    ),
    config="h_blocks",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="learns",
            paper="hessflat",
            where="beyond the papers",
            statement="the transformer's test loss is a nat below the unigram entropy of its text",
            paper_value="not in a paper",
            decide=lambda runs: limits.exceeds(
                of_words(runs), nats_learnt, 1.0, "unigram entropy less test loss (nats)"
            ),
        ),
        order_claim("Emb", "QK", "≪"),
        order_claim("QK", "FFN", "<"),
        order_claim("FFN", "VO", "<"),
        order_claim("VO", "Norm", "≪"),
        Claim(
            id="heterogeneous",
            paper="hessflat",
            where="Zhang et al. 2024, §2",
            statement="the blocks of a transformer have spectra more different than those of a convolutional network",
            paper_value="distances up to two orders of magnitude larger",
            decide=lambda runs: claims.compare(
                by_adam(runs),
                "hessian.blocks.heterogeneity",
                by="model.name",
                low="two_convolutions",
                high="transformer",
                scale="difference",
            ),
        ),
        Claim(
            id="adam",
            paper="hessflat",
            where="Zhang et al. 2024, §1",
            statement="Adam trains a transformer to a lower loss than SGD",
            paper_value="SGD with momentum is far behind Adam",
            decide=lambda runs: claims.compare(
                of_words(runs), "train_loss", by="optim.name", low="sgd", high="adam", expect="smaller"
            ),
        ),
    ),
    notes=(
        "Departures: Zhang et al. have a block for every matrix of every layer. Here a block of the transformer has "
        "all parameters of one kind, over all layers, and a block of the convolutional network is a layer. Wang et "
        "al. train with AdamW, for longer, and on text."
    ),
    tuned=(Tuned("small", (0,), "learning rates and the number of steps"),),
)
