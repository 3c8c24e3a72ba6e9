"""Colours, the drawing of an effect, and the sentences that answer the question."""

import math
import re
from importlib import resources

import pytest
from test_report_build import TOY

from hessflat.analysis.correlation import COMPARED_MEASURES, Correlation, Grid
from hessflat.report.opening import answer
from hessflat.report.page import forest

CSS = (resources.files("hessflat.report") / "templates" / "style.css").read_text()


def luminance(colour):
    """WCAG 2.2, relative luminance of #rrggbb."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colours_of_text_have_the_contrast_of_aa_on_every_ground():
    schemes = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)
    ]
    assert len(schemes) == 3
    for colours in schemes:
        for name in ("ink", "soft", "link", "holds", "fails", "undecided", "open", "field"):
            for ground in ("paper", "card"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= (3 if name == "field" else 4.5), (name, ground)


def record(scale, estimate, low, high):
    return {"effect": {"scale": scale, "estimate": estimate, "low": low, "high": high}}


def test_an_effect_is_drawn_between_none_and_the_papers():
    # The paper's is 15.84 / 12.26.
    drawn = forest(record("ratio", 2.0, 1.6, 2.5), TOY.claims[0])
    assert (drawn.none, drawn.high) == (8.0, 332.0)
    for place, value in ((drawn.ours, 2.0), (drawn.low, 1.6), (drawn.theirs, 15.84 / 12.26)):
        assert place == pytest.approx(8 + 324 * math.log(value) / math.log(2.5), abs=0.06)
    drawn = forest(record("difference", -0.01, -0.03, 0.01), TOY.claims[1])
    assert (drawn.low, drawn.ours, drawn.none, drawn.high, drawn.theirs) == (8.0, 170.0, 251.0, 332.0, None)


@pytest.mark.parametrize("effect", [None, {"scale": "ratio", "estimate": 2.0, "low": 1.0, "high": None}])
def test_an_effect_without_an_interval_is_not_drawn(effect):
    assert forest({"effect": effect}, TOY.claims[0]) is None


def grid(**taus):
    """Correlations with λ_max by group, and of the Jacobian norm 0.4."""
    columns = {}
    for group, (tau, low, high) in taus.items():
        column = dict.fromkeys(COMPARED_MEASURES)
        column["hessian.lambda_max"] = Correlation(tau, low, high, 40, 8)
        column["jacobian.max"] = Correlation(0.4, 0.2, 0.5, 40, 8)
        column["weight_norm"] = Correlation(0.9, 0.8, 0.95, 20, 4)
        columns[group] = column
    return Grid("correlations-small", columns, "")


CLAIMS = [{"verdict": "holds"}, {"verdict": "fails"}, {"verdict": "holds"}]


@pytest.mark.parametrize(
    ("pooled", "follow", "said"),
    [
        (
            (0.3, 0.1, 0.5),
            2,
            "On the whole, yes: over 40 runs that fit their training data, the larger λ_max(H), the l",
        ),
        (
            (-0.3, -0.5, -0.1),
            1,
            "On the whole, no: over 40 runs that fit their training data, the larger λ_max(H), the s",
        ),
        (
            (-0.1, -0.3, 0.1),
            1,
            "Flatness alone does not tell: over 40 runs that fit their training data, λ_max(H) and ",
        ),
    ],
    ids=["follows", "opposes", "open"],
)
def test_the_answer_follows_from_the_correlations(pooled, follow, said):
    sentences = answer(
        CLAIMS, grid(L2=(-0.5, -0.7, -0.2), batch=(0.6, 0.2, 0.8), mixup=(0.1, -0.1, 0.3), pooled=pooled)
    )
    assert sentences[0].startswith(said)
    assert f"{pooled[0]:+.2f} [{pooled[1]:+.2f}, {pooled[2]:+.2f}]" in sentences[0]
    assert sentences[1] == (
        "Sharpness opposes the gap as L2 (-0.50 [-0.70, -0.20]) varies and follows the gap as batch (+0.60 [+0.20, "
        f"+0.80]) varies. {follow} of the 2 measures that all these runs have follow the gap; max ‖∂f/∂x‖₂ follows it "
        "most, +0.40 [+0.20, +0.50]."
    )
    assert sentences[2] == "The 3 claims of the papers and our own: 2 hold, 1 fails."


def test_without_correlations_the_answer_counts_the_claims():
    assert answer(CLAIMS, None) == ["The 3 claims of the papers and our own: 2 hold, 1 fails."]
