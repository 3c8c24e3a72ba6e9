"""Which runs decide the claims of g_gadam on its two data sets, and what is said of batch norm in eval mode."""

from pathlib import Path

import pytest
from stored_runs import stored_run

from experiments.granziol2020 import g_gadam
from experiments.granziol2020.g_gadam import on_data_set
from hessflat.analysis.results import Run


@pytest.mark.parametrize(("in_eval", "verdict"), [(100.0, "holds"), (10.0, "fails")])
def test_more_extreme_is_a_larger_ratio_in_eval_mode_than_in_train_mode(tmp_path, in_eval, verdict):
    runs = []
    for seed in range(3):
        for optimiser, eval_over in (("sgd", 1.0), ("adamw", in_eval * 1.1**seed)):
            metrics = {}
            for quantity in ("lambda_max", "second_moment"):
                train = 40.0 if optimiser == "adamw" else 1.0
                metrics |= {f"hessian.{quantity}": train, f"hessian_eval.{quantity}": eval_over}
            config = {"optim": {"name": optimiser}}
            runs.append(stored_run(tmp_path / f"{optimiser}-{seed}", seed, "vgg", {}, config, metrics))
    decided = verdicts_of_eval_mode(runs)
    assert decided == {"more-extreme-in-eval-mode": verdict, "moment-more-extreme-in-eval-mode": verdict}


def verdicts_of_eval_mode(runs):
    claims = [claim for claim in g_gadam.EXPERIMENT.claims if "more-extreme" in claim.id]
    return {claim.id: claim.decide(runs).verdict for claim in claims}


def runs_on(*names):
    return [Run(Path(f"runs/g/{i}"), {"data": {"name": name}}, {}, []) for i, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "first", "second"),
    [
        (("cifar100", "cifar10", "cifar100"), ["cifar100", "cifar100"], ["cifar10"]),
        (("digits", "digits"), ["digits", "digits"], []),
        (("cifar10", "cifar10"), ["cifar10", "cifar10"], ["cifar10", "cifar10"]),
    ],
)
def test_each_data_set_has_its_runs_and_cifar10_alone_stands_in_for_both(names, first, second):
    assert [run.setting("data.name") for run in on_data_set(runs_on(*names), False)] == first
    assert [run.setting("data.name") for run in on_data_set(runs_on(*names), True)] == second
