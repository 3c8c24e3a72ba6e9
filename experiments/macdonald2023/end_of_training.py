"""Rules, claims and columns that the experiments of *On progressive sharpening*, §6, share.

Their tables have the metrics of `COLUMNS` at the end of training.
"""

from collections.abc import Sequence
from functools import partial

from hessflat.analysis.claims import Order
from hessflat.analysis.correlation import differing_only_in
from hessflat.analysis.experiment import Claim, Evidence
from hessflat.analysis.names import setting_name
from hessflat.analysis.results import Run, finished, grouped
from hessflat.analysis.strata import final_metric, follows, setting_value

GAP, SHARPNESS, JACOBIAN = "smoothed_gap_loss", "hessian.lambda_max", "jacobian.max"
# The panels of figures 20 to 27. Label smoothing counts in the losses, as the paper has it.
SIX = (
    (GAP, "gap (nats)"),
    (SHARPNESS, r"$\lambda_{\max}(H)$", "log"),
    (JACOBIAN, r"max $\|\partial f/\partial x\|_2$", "log"),
    ("gauss_newton.lambda_max", r"$\lambda_{\max}(G)$", "log"),
    ("smoothed_train_loss", "training loss (nats)", "log"),
    ("validation_accuracy", "val. accuracy (%)"),
)
COLUMNS = (
    ("gap", GAP, ".3f"),
    ("λ_max(H)", SHARPNESS, ".3g"),
    ("max ‖J‖", JACOBIAN, ".3g"),
    ("λ_max(G)", "gauss_newton.lambda_max", ".3g"),
    ("train loss", "smoothed_train_loss", ".2g"),
    ("val acc", "validation_accuracy", ".1%"),
    ("test acc", "test_accuracy", ".1%"),
)
MEASURED = (
    "Losses are in nats, on clean examples, with the label smoothing of training. H and G have batch norm in train "
    "mode. J, the input-output Jacobian of the logits, has it in eval mode."
)


def network_words(run: Run) -> str:
    """The name of a run's network and data set, such as `ResNet without batch norm on cifar10`."""
    name = run.setting("model.name")
    norm = run.config["model"].get(name, {}).get("batch_norm")
    words = {"resnet": "ResNet", "vgg": "VGG"}.get(name, name)
    normed = "" if norm is None else " with batch norm" if norm else " without batch norm"
    return f"{words}{normed} on {run.setting('data.name')}"


def by_network(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs grouped by network and data set."""
    return dict(sorted(grouped(runs, network_words).items()))


def with_setting(runs: Sequence[Run], metric: str, setting: str, expect: Order) -> Evidence:
    """Does a metric increase (or decrease) with a setting, among runs that differ only in it and the seed?"""
    varied, stratum = differing_only_in(finished(runs), setting)
    return follows(varied or runs, final_metric(metric), setting_value(setting), stratum, expect, alike=alike(setting))


def with_gap(runs: Sequence[Run], metric: str, setting: str) -> Evidence:
    """Does the generalisation gap increase with a metric, among runs that differ only in a setting and the seed?"""
    varied, stratum = differing_only_in(finished(runs), setting)
    return follows(varied or runs, final_metric(GAP), final_metric(metric), stratum, alike=alike(setting))


def alike(setting: str) -> str:
    """What a rule calls runs that differ only in a setting and the seed."""
    return f"groups of runs alike but for {setting_name(setting)}"


def trend(
    *,
    id: str,
    where: str,
    statement: str,
    paper_value: str,
    metric: str,
    setting: str,
    expect: Order,
) -> Claim:
    """The claim that a metric increases or decreases with a setting."""
    return Claim(
        id=id,
        paper="M",
        where=where,
        statement=statement,
        paper_value=paper_value,
        decide=partial(with_setting, metric=metric, setting=setting, expect=expect),
    )


def gap_goes_with(*, id: str, where: str, statement: str, paper_value: str, setting: str) -> Claim:
    """The claim that the gap increases with the Jacobian norm as a setting varies."""
    return Claim(
        id=id,
        paper="M",
        where=where,
        statement=statement,
        paper_value=paper_value,
        decide=partial(with_gap, metric=JACOBIAN, setting=setting),
    )
