"""Weight decay on digits, told in three sentences and one figure: `python -m hessflat demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hessflat.analysis.experiment import Drawing, StoredExperiment
from hessflat.analysis.names import number
from hessflat.analysis.results import finished
from hessflat.cli import experiment
from hessflat.report import figures
from hessflat.report.build import print_summary, write_figure
from hessflat.report.claims import Record
from hessflat.report.sections import Section, rendered

MODELS = ("softmax regression", "perceptron")
# The experiments of `MODELS` in each regime.
REGIMES = {
    "clean labels": ("g_logistic", "g_mlp"),
    "a fifth of the labels drawn anew": ("h_noisy_logistic", "h_noisy_mlp"),
}
PANELS = (
    ("test_accuracy", "test accuracy (%)"),
    ("hessian.lambda_max", r"$\lambda_{\max}(H)$", "log"),
    ("hessian.adaptive_lambda_max", "adaptive sharpness", "log"),
    ("jacobian.max", r"max $\|\partial f/\partial x\|_2$", "log"),
)


def main(argv: Sequence[str]) -> None:
    """Run what is not finished of both regimes, redraw the report, print every verdict, then what they say."""
    names = [name for pair in REGIMES.values() for name in pair]
    own, settings, _ = experiment.parse(argv, {})
    sections, damage = experiment.run([experiment.load(name) for name in names], own, settings)
    shown = {section.stored.experiment.id: section for section in sections}
    print_summary([shown[name] for name in names])
    told = {regime: [judged(shown[name]) for name in pair] for regime, pair in REGIMES.items()}
    for sentence in sentences(*told.values()):
        print(f"\n{sentence}")
    out = Path(own["out"])
    drawing = draw({name: section.stored for name, section in shown.items()})
    path = write_figure(rendered("demo", drawing), out)
    print(f"\nfigure: {path}\nreport: {out / 'index.html'}")
    if damage:
        raise damage


def judged(section: Section) -> dict[str, Record]:
    """The record of each claim by its id."""
    return {record["claim"]: record for record in section.records}


def sentences(clean: Sequence[Mapping[str, Record]], noisy: Sequence[Mapping[str, Record]]) -> list[str]:
    """Does L2 help, is the better solution the sharper one, and is it so in units that follow the weights?

    Each argument has the records of the claims on each of `MODELS`.
    """
    better, sharper, in_units, steeper = "accuracy", "sharper-and-better", "adaptive-lambda-max", "jacobian-norm"
    return [
        (
            f"Weight decay changes the test accuracy by {each(clean, better)} with clean labels, and by "
            f"{each(noisy, better)} with a fifth of the labels drawn anew."
        ),
        (
            "Is the solution that generalises better the sharper one, as G says? With noisy labels, "
            f"{_answers(noisy, sharper)}: λ_max(H) changes by {each(noisy, sharper)}. With clean labels, "
            f"{_answers(clean, sharper)}."
        ),
        (
            f"Is it the flatter one in units that follow the weights? With noisy labels, {_answers(noisy, in_units)}: "
            f"adaptive sharpness changes by {each(noisy, in_units)}, and the Jacobian norm by {each(noisy, steeper)}."
        ),
    ]


def each(records: Sequence[Mapping[str, Record]], claim: str) -> str:
    """`+15.3 [+13.1, +17.6] points (softmax regression) and ...`"""
    return " and ".join(f"{_size(own[claim])} ({model})" for model, own in zip(MODELS, records, strict=True))


def _size(record: Record) -> str:
    effect = record["effect"]
    if effect is None:
        return "nothing" if record["verdict"] == "not applicable" else "an unknown amount"
    is_ratio = effect["scale"] == "ratio"
    estimate, *ends = [
        number(end, 3) if is_ratio else f"{100 * end:+.1f}"
        for end in (effect["estimate"], effect["low"], effect["high"])
        if end is not None
    ]
    interval = f" [{', '.join(ends)}]" if ends else ""
    return f"× {estimate}{interval}" if is_ratio else f"{estimate}{interval} points"


_ANSWERS = {"holds": "yes", "fails": "no"}


def _answers(records: Sequence[Mapping[str, Record]], claim: str) -> str:
    """`yes`, where it is so for every model, or what it is for each of them."""
    words = [_ANSWERS.get(own[claim]["verdict"], str(own[claim]["verdict"])) for own in records]
    if len(set(words)) == 1:
        return words[0]
    return " and ".join(f"{word} ({model})" for model, word in zip(MODELS, words, strict=True))


def draw(shown: Mapping[str, StoredExperiment]) -> Drawing:
    """Accuracy, sharpness, sharpness against the size of the weights and Jacobian norm against L2, in both regimes."""
    columns = [("optim.l2", [run for name in pair for run in finished(shown[name].runs)]) for pair in REGIMES.values()]
    drawing = figures.grid_against(
        columns,
        PANELS,
        "model.name",
        "demo",
        "Test accuracy, largest eigenvalue of the Hessian, adaptive sharpness (the largest eigenvalue of |w| H |w|) "
        "and largest input-output Jacobian norm at the end of training, against L2. Left: clean labels. Right: a fifth "
        "of the labels drawn anew in every split. Points: seeds; lines and bars: mean ± 1 std over seeds.",
    )
    for axis, regime in zip(drawing.figure.axes, REGIMES, strict=False):
        axis.set_title(regime, fontsize=8)
    return drawing
