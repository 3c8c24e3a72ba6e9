"""What an experiment is: a question, the runs that answer it, the figures that show it, its claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from hessflat.analysis.results import Run

Verdict = Literal["holds", "fails", "undecided", "not run"]
Scale = Literal["smoke", "small", "paper"]


class Evidence(NamedTuple):
    """What the runs say about a claim. `value` and `spread` are text, with units, as they should be read."""

    value: str
    spread: str
    seeds: int
    verdict: Verdict
    explanation: str = ""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a paper (or one of our own), with the rule that decides it from finished runs.

    `where` and `paper_value` say where the paper makes the statement and what numbers it gives; `rule` says in a
    sentence what `decide` does.
    """

    id: str
    paper: str
    where: str
    statement: str
    paper_value: str
    rule: str
    decide: Callable[[Sequence[Run]], Evidence]


class Table(NamedTuple):
    """Rows of text under a header; `caption` says what is averaged over what."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Drawing(NamedTuple):
    """One figure: a file name without ending, a caption that stands alone, and the numbers drawn."""

    name: str
    caption: str
    figure: Figure
    data: Mapping[str, Sequence[Any]]


class Experiment(NamedTuple):
    """One module under `experiments/` holds one of these as `EXPERIMENT`.

    Where its runs differ in regularisers, `regularisers` are these settings, and the report sets each measure against
    the generalisation gap.
    """

    id: str
    paper: str
    question: str
    config: str
    draw: Callable[[Sequence[Run]], list[Drawing]]
    tabulate: Callable[[Sequence[Run]], list[Table]]
    claims: tuple[Claim, ...]
    notes: str = ""
    regularisers: tuple[str, ...] = ()


class StoredExperiment(NamedTuple):
    """An experiment at one scale, the runs that are stored, and how many planned ones are missing."""

    experiment: Experiment
    scale: str
    runs: Sequence[Run]
    missing: int = 0

    @property
    def slug(self) -> str:
        """`<experiment>-<scale>`: the section's anchor and the start of its figures' names."""
        return f"{self.experiment.id}-{self.scale}"

    @property
    def missing_text(self) -> str:
        """How many planned runs are missing and the command that makes them; empty where none is."""
        if not self.missing:
            return ""
        counted = "1 planned run is" if self.missing == 1 else f"{self.missing} planned runs are"
        return f"{counted} missing: make experiment EXP={self.experiment.id} SCALE={self.scale}"
