"""Weight decay on digits, told in three sentences and one figure: `python -m hessflat demo`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hessflat.analysis.experiment import Drawing, StoredExperiment
from hessflat.analysis.results import finished
from hessflat.cli import experiment
from hessflat.report import figures
from hessflat.report.build import print_summary, write_figure
from hessflat.report.sections import Record, judge, rendered

MODELS = ("softmax regression", "perceptron")
# The experiments of `MODELS` in each regime.
REGIMES = {
    "clean labels": ("g_logistic", "g_mlp"),
    "a fifth of the labels wrong": ("h_noisy_logistic", "h_noisy_mlp"),
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
    own, settings, experiments = experiment.parse([f"--exp={' '.join(names)}", *argv], {"exp": None})
    stored, damage = experiment.run(experiments, own, settings)
    if damage:
        raise damage
    shown = {entry.experiment.id: entry for entry in stored}
    print_summary([shown[name] for name in names])
    told = {regime: [judged(shown[name]) for name in pair] for regime, pair in REGIMES.items()}
    for sentence in sentences(*told.values()):
        print(f"\n{sentence}")
    out = Path(own["out"])
    path = write_figure(rendered("demo", draw(shown)), out)
    print(f"\nfigure: {path}\nreport: {out / 'index.html'}")


def judged(stored: StoredExperiment) -> dict[str, Record]:
    """The record of each claim by its id."""
    return {record["claim"]: record for record in judge(stored)}


def sentences(clean: Sequence[Mapping[str, Record]], noisy: Sequence[Mapping[str, Record]]) -> list[str]:
    """Does L2 help; is the better solution the sharper one; is it so in units that follow the weights?

    Each argument has the records of the claims on each of `MODELS`.
    """
    return [
        "Does weight decay generalise better? "
        f"{_each(clean, 'accuracy', _CHANGES)} with clean labels; {_each(noisy, 'accuracy', _CHANGES)} with a fifth of "
        "the labels wrong.",
        "Is the solution that generalises better the sharper one, by the largest eigenvalue of the Hessian? "
        f"{_each(noisy, 'sharper-and-better', _ANSWERS)} where labels are wrong; "
        f"{_each(clean, 'sharper-and-better', _ANSWERS)} where they are clean.",
        "Is it flatter once sharpness is measured against the size of the weights, and does the network vary less with "
        "its inputs? "
        f"{_each(noisy, 'adaptive-lambda-max', _ANSWERS)} by adaptive sharpness, and "
        f"{_each(noisy, 'jacobian-norm', _ANSWERS)} by the Jacobian norm, where labels are wrong.",
    ]


_CHANGES = {"holds": "yes", "fails": "no, worse"}
_ANSWERS = {"holds": "yes", "fails": "no"}


def _each(records: Sequence[Mapping[str, Record]], claim: str, words: Mapping[str, str]) -> str:
    """`yes for softmax regression (1.72 → 3.32, …) and undecided for a perceptron (…)`, equal answers once."""
    return " and ".join(
        f"{words.get(own[claim]['verdict'], own[claim]['verdict'])} for the {model} ({own[claim]['value']}; "
        f"{own[claim]['spread'].split(';')[0]})"
        for model, own in zip(MODELS, records, strict=True)
    )


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
        axis.set_title(regime)
    return drawing
