"""From chances to verdicts: of one claim, of a conjunction, and of the claims of an experiment together."""

import numpy as np
import pytest
from scipy import stats

from hessflat.analysis.decisions import NOTHING, Chance, conjunction, holm, verdict_of


@pytest.mark.parametrize(
    ("chance", "verdict"),
    [
        (Chance(0.02, 0.98), "holds"),
        (Chance(0.98, 0.02), "fails"),
        (Chance(0.03, 0.97), "undecided"),
        (Chance(0.2, 0.8, floor=0.03), "cannot decide"),
        (Chance(0.02, 0.98, floor=0.01), "holds"),
        (NOTHING, "undecided"),
    ],
)
def test_a_claim_is_decided_at_one_in_forty_on_either_side(chance, verdict):
    assert verdict_of(chance) == verdict


def test_with_others_the_adjusted_p_decides():
    assert verdict_of(Chance(0.02, 0.98), 0.06) == "undecided"
    assert verdict_of(Chance(0.98, 0.001), 0.01) == "fails"


def test_holms_adjustment_is_the_step_down_procedure_in_steps():
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 20):
        ps = generator.beta(0.3, 2.0, count)
        adjusted = holm(list(ps))
        for level in (0.01, 0.05, 0.2):
            # By the definition: from the smallest p on, reject while p is at most the level over the claims left.
            rejected = set()
            for step, place in enumerate(np.argsort(ps)):
                if ps[place] > level / (count - step):
                    break
                rejected.add(int(place))
            assert {place for place, p in enumerate(adjusted) if p <= level} == rejected
    assert holm([]) == []


def test_the_claims_of_an_experiment_are_decided_wrongly_in_at_most_six_percent():
    """Independent claims, and claims that rest on the same seeds, none with anything to find."""
    generator = np.random.default_rng(0)
    for shared in (0.0, 0.9):
        wrong = 0
        for _ in range(1_000):
            noise = generator.standard_normal((12, 5))
            values = np.sqrt(shared) * generator.standard_normal(5) + np.sqrt(1 - shared) * noise
            ps = stats.ttest_1samp(values, 0, axis=1).pvalue
            wrong += min(holm(ps.tolist())) <= 0.05
        assert wrong <= 60


def test_a_conjunction_holds_where_each_part_does_and_fails_where_any_does_of_so_many():
    together = conjunction([Chance(0.01, 0.9), Chance(0.2, 0.004), Chance(0.001, 0.99)])
    assert together.holds == 0.2
    assert together.fails == pytest.approx(0.012)
    # One part could not hold, and no part could fail.
    assert verdict_of(conjunction([Chance(0.1, 0.9, 0.1), Chance(0.01, 0.9, 0.05)])) == "cannot decide"
    # One part could not hold, but the other could fail.
    assert verdict_of(conjunction([Chance(0.1, 0.9, 0.1), Chance(0.5, 0.5, 0.001)])) == "undecided"


def test_a_conjunction_of_nothing_fails_in_at_most_six_percent():
    generator, wrong = np.random.default_rng(1), 0
    for _ in range(1_000):
        above = stats.ttest_1samp(generator.standard_normal((6, 3)), 0, axis=1, alternative="greater").pvalue
        together = conjunction([Chance(float(p), 1 - float(p)) for p in above])
        wrong += verdict_of(together) in ("holds", "fails")
    assert wrong <= 60
