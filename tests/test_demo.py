"""What the demo says of verdicts, and a demo of seconds."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from hessflat.cli import demo
from hessflat.cli.app import HelpAsked
from hessflat.report.claims import read_claims
from hessflat.utils.errors import InputError

ROOT = Path(__file__).parent.parent


def record(verdict, estimate, low, high, scale="ratio"):
    return {"verdict": verdict, "effect": {"scale": scale, "estimate": estimate, "low": low, "high": high}}


def judged(accuracy, sharper):
    return {
        "accuracy": record("holds", accuracy, accuracy - 0.01, accuracy + 0.01, "difference"),
        "sharper-and-better": record(sharper, 1.5, 1.2, 1.9),
        "adaptive-lambda-max": record("holds", 0.5, 0.4, 0.6),
        "jacobian-norm": record("holds", 0.25, None, None),
    }


def test_sentences_follow_from_the_verdicts():
    clean = [judged(0.001, "undecided"), judged(0.002, "fails")]
    noisy = [judged(0.15, "holds"), judged(0.04, "holds")]
    first, second, third = demo.sentences(clean, noisy)
    assert "by +0.1 [-0.9, +1.1] points (softmax regression) and +0.2 [-0.8, +1.2] points (perceptron)" in first
    assert "+15.0 [+14.0, +16.0] points (softmax regression)" in first
    assert "With noisy labels, yes: λ_max(H) changes by × 1.5 [1.2, 1.9] (softmax regression)" in second
    assert second.endswith("With clean labels, undecided (softmax regression) and no (perceptron).")
    assert "the Jacobian norm by × 0.25 (softmax regression) and × 0.25 (perceptron)" in third


def test_what_was_not_compared_has_no_size():
    clean = [judged(0.1, "holds"), judged(0.1, "holds") | {"accuracy": {"verdict": "not run", "effect": None}}]
    assert "and an unknown amount (perceptron) with clean labels" in demo.sentences(clean, clean)[0]


@pytest.mark.parametrize(
    ("argument", "why"), [("--exp=g_mlp", "Unknown command line flag 'exp'"), ("g_mlp", "arguments are written --name")]
)
def test_the_demo_takes_no_experiments(argument, why):
    with pytest.raises(HelpAsked) as asked:
        demo.main(["--help"])
    assert "exp" not in asked.value.defaults
    with pytest.raises(InputError, match=why):
        demo.main([argument])


@pytest.mark.long
def test_the_demo_ends_in_three_sentences_and_a_figure(tmp_path, capsys):
    demo.main(["--scale=smoke", f"--root={tmp_path / 'runs'}", f"--out={tmp_path / 'report'}"])
    printed = capsys.readouterr().out
    assert "Weight decay changes the test accuracy by" in printed
    assert f"figure: {tmp_path / 'report' / 'figures' / 'demo.png'}" in printed
    pixels = plt.imread(tmp_path / "report" / "figures" / "demo.png")
    assert min(pixels.shape[:2]) > 200
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10  # of lines, bars and text


def test_the_pages_say_what_the_stored_runs_say():
    records = read_claims(ROOT / "docs" / "results" / "report" / "claims.json")
    noisy = [
        {record["claim"]: record for record in records if record["experiment"] == name}
        for name in demo.REGIMES["a fifth of the labels drawn anew"]
    ]
    readme, findings = (" ".join((ROOT / page).read_text().split()) for page in ("README.md", "docs/findings.md"))
    for claim in ("accuracy", "sharper-and-better", "adaptive-lambda-max", "jacobian-norm"):
        assert demo.each(noisy, claim) in readme, claim
    assert {own[claim]["verdict"] for own in noisy for claim in ("sharper-and-better", "adaptive-lambda-max")} == {
        "holds"
    }
    decided = sum(record["verdict"] in ("holds", "fails") for own in noisy for record in own.values())
    assert f"{decided} of the {sum(map(len, noisy))} claims are decided with noisy labels" in findings
