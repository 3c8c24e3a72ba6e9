"""What the soak calls flat."""

import pytest

from benchmarks import soak


def rounds(memory, seconds):
    return [
        {"memory_bytes": m, "seconds_per_step": s, "files": 6, "threads": 30, "mappings": 900}
        for m, s in zip(memory, seconds, strict=True)
    ]


@pytest.mark.parametrize(
    ("memory", "seconds", "grows"),
    [
        ([1e9] * 40, [1e-3] * 40, set()),
        ([5e8] * 10 + [1e9] * 30, [1.0] + [1e-3] * 39, set()),  # the warm-up does not count
        ([1e9 * (1 + 0.004 * i) for i in range(40)], [1e-3] * 40, {"memory_bytes"}),
        ([1e9] * 40, [1e-3 * (1 + 0.004 * i) for i in range(40)], {"seconds_per_step"}),
    ],
    ids=["flat", "warm-up", "leak", "slower"],
)
def test_growth_is_found_behind_the_warm_up(memory, seconds, grows):
    judged = soak.judge(rounds(memory, seconds))
    assert {name for name, one in judged.items() if not one["flat"]} == grows


def test_rounds_are_of_the_same_kind_with_settings_of_their_own():
    first, second = soak.configurations(0), soak.configurations(1)
    assert [one.model.name for one in first] == [one.model.name for one in second] == ["mlp"] * 2 + ["preresnet"] * 2
    assert len({(one.seed, one.optim.lr, one.optim.l2) for one in first + second}) == 4


@pytest.mark.long
def test_a_minute_of_it_is_too_short_and_says_so(capsys):
    with pytest.raises(soak.InputError, match="were enough for 1 rounds of 12"):
        soak.main(["--minutes=0.001"])
