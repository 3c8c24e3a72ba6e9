"""What decides whether overlapping blobs change the outliers alone, on spectra that are made up."""

from pathlib import Path

import numpy as np
import pytest

from experiments.sagun2017 import s_separability
from hessflat.analysis import spectra
from hessflat.analysis.decisions import conjunction, verdict_of
from hessflat.analysis.designs import OrderTest
from hessflat.analysis.evidence import between, of_test
from hessflat.analysis.results import Run
from hessflat.analysis.statistics import estimate, order_test

BLOBS, COVARIANCES, SEEDS = (2, 5, 10, 20), (1.0, 2.0, 5.0, 10.0), (0, 1, 2)


def made(values_of):
    """A run for each setting and seed, with the eigenvalues that `values_of(k, covariance, seed)` gives."""
    return [
        Run(
            Path(f"{k}-{covariance}-{seed}"),
            {"seed": seed, "data": {"blobs": {"num_classes": k, "spread": covariance**0.5, "seed": seed}}},
            {"status": "done", "values": values_of(k, covariance, seed)},
            [{"step": 1}],
        )
        for k in BLOBS
        for covariance in COVARIANCES
        for seed in SEEDS
    ]


@pytest.fixture(autouse=True)
def in_memory(monkeypatch):
    monkeypatch.setattr(spectra, "exact_eigenvalues", lambda run: run.manifest["values"])


def verdicts(runs):
    return {claim.id: claim.decide(runs).verdict for claim in s_separability.EXPERIMENT.claims}


def as_the_paper_says(k, covariance, seed):
    """k outliers that grow with the covariance above a bulk that neither moves."""
    bulk = 1e-3 * np.random.default_rng([k, int(covariance), seed]).standard_normal(200)
    return np.concatenate([covariance * np.geomspace(1.0, 0.8, k), bulk])


def test_outliers_are_the_k_largest_and_the_bulk_is_the_rest():
    run = made(lambda *_: np.array([3.0, -4.0, 10.0, 20.0, *[0.0] * 16]))[0]
    assert s_separability.mean_outlier(run) == 15
    assert s_separability.size_of_bulk(run) == pytest.approx(5 / np.sqrt(18))
    assert s_separability.outlier_over_bulk(run) == pytest.approx(15 * np.sqrt(18) / 5)


def test_where_it_is_as_the_paper_says_every_claim_holds():
    assert set(verdicts(made(as_the_paper_says)).values()) == {"holds"}


def test_a_bulk_that_grows_as_outliers_do_fails_what_is_said_of_it():
    runs = made(lambda k, covariance, seed: (covariance * k) ** (1 + 0.01 * seed) * as_the_paper_says(k, 1.0, seed))
    decided = verdicts(runs)
    assert decided["less-separable-larger-outliers"] == "holds"
    assert decided["bulk-stays-with-blobs"] == decided["bulk-stays-with-separability"] == "fails"


@pytest.mark.long
def test_an_order_of_nothing_is_decided_in_at_most_six_percent_and_a_bulk_at_the_limit_passes_as_rarely():
    """At the design: four values of each setting with three seeds, of the numbers that the rules test."""
    generator, count = np.random.default_rng(0), 1_000
    ordered = refuted = passed = 0
    places = np.arange(4.0)[None]
    limit = np.log(s_separability.FACTOR)
    for _ in range(count):
        groups = [(places, generator.standard_normal((1, 4))) for _ in range(len(BLOBS) * len(SEEDS))]
        design = OrderTest(groups, len(SEEDS), by_seed=False)
        ordered += verdict_of(of_test(order_test(groups), len(SEEDS), "larger", design)) in ("holds", "fails")
        for centre in (0.0, limit):
            logs = centre + 0.3 * generator.standard_normal((len(BLOBS), len(SEEDS)))
            verdict = verdict_of(conjunction([between(estimate(own), -limit, limit) for own in logs]))
            refuted += verdict == "fails" and centre == 0.0
            passed += verdict == "holds" and centre > 0.0
    assert max(ordered, refuted, passed) <= 0.06 * count


def test_the_table_has_a_row_for_each_setting():
    runs = made(as_the_paper_says)
    for run in runs:
        run.metrics[0].update({"train_loss": 0.1, "train_accuracy": 1.0, "test_accuracy": 0.9})
        run.config.update({"scale": "smoke", "model": {"name": "mlp"}})
    (table,) = s_separability.tabulate(runs)
    assert len(table.rows) == len(BLOBS) * len(COVARIANCES)
    assert table.rows[0][:4] == ("2", "1", "2, 2, 2", "2, 2, 2")
