"""The records of an experiment: its question, runs, figures, tables and claims."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from hessflat.analysis.decisions import Chance, Verdict
from hessflat.analysis.results import Needs, Run
from hessflat.analysis.statistics import Interval
from hessflat.config import fingerprint
from hessflat.utils.errors import InputError, command, shown

Magnitude = Literal["agrees", "differs", "open"]
Scale = Literal["smoke", "small", "medium", "paper"]


class Effect(NamedTuple):
    """How large an effect is, with its interval: of ln(after / before), or of after − before."""

    interval: Interval
    scale: Literal["ratio", "difference"]


class Evidence(NamedTuple):
    """The result of a rule: a verdict with the text of the number, its interval, and an explanation.

    `value` and `spread` are formatted text with units. `seeds` counts the seeds that the verdict rests on. `effect` is
    given by rules that compare two settings. `rule` is the sentence of the rule that made it, with its margins, the
    same whatever the runs are. `chance` is what the verdict follows from; None where there is nothing to decide from.
    """

    value: str
    spread: str
    seeds: int
    verdict: Verdict
    explanation: str = ""
    effect: Effect | None = None
    rule: str = ""
    chance: Chance | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement, of a paper or our own, with the rule that decides it from finished runs.

    `where` gives the section or figure of the paper, `paper_value` the number that it reports. `decide` is the rule,
    which says itself, in `Evidence.rule`, what it does. `needs` says which runs may decide, where that is not what the
    experiment needs; those that finished but did not learn, or fit, are left out and counted. `paper_effect` is
    the size of the effect in the paper, in the scale of the rule's: a ratio, or a difference, of accuracies as shares;
    None where the paper gives none.
    """

    id: str
    paper: str
    where: str
    statement: str
    paper_value: str
    decide: Callable[[Sequence[Run]], Evidence]
    needs: Needs | None = None
    paper_effect: float | None = None

    @property
    def rule(self) -> str:
        """The sentence of the rule, which needs no runs."""
        return self.evidence(()).rule

    def evidence(self, runs: Sequence[Run]) -> Evidence:
        """What the rule says of runs.

        Raises:
            InputError: no evidence, or what the rule itself refuses.
        """
        evidence = self.decide(runs)
        if not isinstance(evidence, Evidence):
            raise InputError(f"decide of the claim {self.id!r} must return Evidence, got {shown(evidence)}")
        return evidence


class Table(NamedTuple):
    """Rows of text under a header; the caption names the averages and units."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Drawing(NamedTuple):
    """A figure with its file name (no suffix), its self-contained caption, and the plotted numbers as long-form
    columns.
    """

    name: str
    caption: str
    figure: Figure
    data: Mapping[str, Sequence[Any]]


class Tuned(NamedTuple):
    """What was chosen after results of some seeds at a scale had been seen: their verdicts are pilots."""

    scale: str
    seeds: tuple[int, ...]
    what: str


def seeds_added(scale: str, first: int) -> Tuned:
    """That seeds were added to the first few, which had left claims open."""
    return Tuned(scale, tuple(range(first)), f"the number of seeds ({first} at first, which left claims open)")


class Experiment(NamedTuple):
    """An experiment: the question, the configuration whose runs answer it, and the functions that draw, tabulate and
    decide.

    Each module under `experiments/` defines one as `EXPERIMENT`. `regularisers` are the settings that its runs vary as
    regularisers; the report correlates each measure with the generalisation gap over these runs. Figures and tables
    show the runs that `needs` says. `tuned` says what was chosen after results had been seen.
    With `all_digits`, claims are on rounding itself or turn on more digits than archives keep; theirs round nothing.
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
    needs: Needs = "learnt"
    tuned: tuple[Tuned, ...] = ()
    all_digits: bool = False


class StoredExperiment(NamedTuple):
    """An experiment at one scale with its stored runs.

    `missing` counts the planned runs that are not stored or damaged; `damaged` has a line for each of the latter.
    `rules` is the registry of rules, as `provenance.read_rules` reads it. `seeds` counts the seeds that are planned; 0
    where no plan is known. `pilots` are stored runs that differ from planned ones in their seeds alone. `variant` says
    in which settings and seeds the runs differ from the experiment's own, as a command line has it; empty for these.
    """

    experiment: Experiment
    scale: str
    runs: Sequence[Run]
    missing: int = 0
    damaged: Sequence[str] = ()
    rules: Mapping[str, Any] = MappingProxyType({})
    seeds: int = 0
    pilots: Sequence[Run] = ()
    variant: str = ""

    @property
    def slug(self) -> str:
        """`<experiment>-<scale>`: the anchor of the section and the prefix of its figures' file names.

        That of a variant ends in a digest of it.
        """
        own = f"{self.experiment.id}-{self.scale}"
        return f"{own}-{fingerprint({'variant': self.variant})}" if self.variant else own

    @property
    def missing_text(self) -> str:
        """The number of missing runs and the command that makes them; empty where none is missing."""
        if not self.missing:
            return ""
        counted = "1 planned run is" if self.missing == 1 else f"{self.missing} planned runs are"
        again = command("experiment", self.experiment.id, f"--scale={self.scale}")
        return f"{counted} missing: {again} {self.variant}".rstrip()
