"""A stored run as tables, for a terminal or for Markdown, and what is aimed at, judged from it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.goals import Goal
from benchmarks.results import is_ranked, median, rows_of
from benchmarks.tables import Table, as_markdown, lined_up
from benchmarks.tables import judged as goals_table
from benchmarks.training.workloads import (
    BATCH_SIZES,
    BY_HAND,
    CHANGED,
    IN_TURN,
    NETWORKS,
    OURS,
    PLAIN,
    PYTORCH,
    RESUMED,
    RUNS,
    TOGETHER,
    WORKLOADS,
    Workload,
)

TOLERANCES = {"parameters": 0.0, "loss": 1e-4, "gradient_norm": 1e-4, "loss_after_a_step": 1e-4}
OVER_BY_HAND = 1.05  # seconds of a step over those of the loop by hand, at most
OVER_PYTORCH = 1.05  # for what counts as level with it
PIPELINE_SHARE = 0.03
RESUME_SECONDS = 2.0
TOGETHER_SHARE = 0.2
_CONTENDERS = (OURS, BY_HAND, PYTORCH)


def disagreements(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Contenders that are off the median, and by how much; with two that differ neither is right."""
    off: dict[str, str] = {}
    for quantity, tolerance in TOLERANCES.items() if rows else ():
        values = [row["check"][quantity] for row in rows]
        middle = float(np.median(values))
        for row, value in zip(rows, values, strict=True):
            error = abs(value - middle) / abs(middle)
            if not error <= tolerance:
                off.setdefault(row["contender"], f"{quantity.replace('_', ' ')} is {error:.1e} off the others'")
    return off


def text(results: dict[str, Any]) -> str:
    """Every table and the goals, lined up with spaces."""
    return _sections(results, lined_up, "")


def markdown(results: dict[str, Any]) -> str:
    return _sections(results, as_markdown, "### ")


def judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Goals as they are stored; at a smaller scale there are none."""
    return [goal._asdict() for goal in goals(results)] if results["scale"] == "full" else []


def goals(results: dict[str, Any]) -> list[Goal]:
    """Every goal, in order; `met` is None where the run cannot tell."""
    on_cpu = results["machine"]["device"].lower() == "cpu"
    found = []
    for workload in _workloads(results, "train"):
        network = NETWORKS[workload.network]
        peers = [("within 5 % of JAX by hand", BY_HAND, OVER_BY_HAND)]
        if network.is_small:
            peers.append(("ahead of PyTorch", PYTORCH, 1.0))
        elif on_cpu:
            peers.append(("level with PyTorch, within 5 %", PYTORCH, OVER_PYTORCH))
        for claim, peer, limit in peers:
            ratio = _ratio(results, workload, OURS, peer)
            said = f"{ratio:.3f} times its step, {ratio / limit - 1:+.1%} of the limit"
            found.append(_at_most(f"{network.title}: {claim}", ratio, limit, said))
    for workload in _workloads(results, "resume"):
        seconds = median(_row(results, workload, RESUMED)["first"])
        claim = f"going on from a checkpoint takes at most {RESUME_SECONDS:g} s and compilation"
        found.append(_at_most(claim, seconds, RESUME_SECONDS, f"{seconds:.2f} s"))
    if on_cpu:
        return found
    for workload in _workloads(results, "pipeline"):
        share = _share(results, workload)
        claim = f"augmentation and mixup ≤ {PIPELINE_SHARE:.0%} of a step"
        found.append(_at_most(claim, share, PIPELINE_SHARE, f"{share:.1%}"))
        loop = _row(results, workload, CHANGED).get("loop")
        said = "steps run in one compiled loop" if loop == "scan" else "the host starts each step"
        found.append(Goal("the input pipeline is never on the host", loop and loop == "scan", said))
    for workload in _workloads(results, "sweep"):
        ratio = _ratio(results, workload, TOGETHER, IN_TURN)
        claim = f"{RUNS[results['scale']]} MLP runs together in at most a fifth of the time in turn"
        found.append(_at_most(claim, ratio, TOGETHER_SHARE, f"{ratio:.3f}"))
    return found


def _at_most(claim: str, value: float, limit: float, found: str) -> Goal:
    return Goal(claim, None, "not measured") if math.isnan(value) else Goal(claim, value <= limit, found)


def steady(results: dict[str, Any]) -> Table:
    """Images a second, and a step of hessflat's over those of the others."""

    def ratios(workload: Workload) -> list[str]:
        return [_or_blank(_ratio(results, workload, OURS, peer), "{:.3f}") for peer in (BY_HAND, PYTORCH)]

    table = _table(results, "train", "images/s", _CONTENDERS, lambda row: _rate(results, row), ratios)
    return [[*table[0], "step over JAX by hand's", "over PyTorch's"], *table[1:]]


def first_steps(results: dict[str, Any]) -> Table:
    return _table(results, "train", "s", _CONTENDERS, lambda row: f"{median(row['first']):.2f}")


def pipeline(results: dict[str, Any]) -> Table:
    def share(workload: Workload) -> list[str]:
        return [_or_blank(_share(results, workload), "{:.1%}")]

    table = _table(results, "pipeline", "ms a step", (PLAIN, CHANGED), _milliseconds, share)
    return [[*table[0], "share of a step"], *table[1:]]


def resumed(results: dict[str, Any]) -> Table:
    table = [["", "s, the first time", "s, again", "MB"]]
    for workload in _workloads(results, "resume"):
        row = _row(results, workload, RESUMED)
        seconds = [f"{median(row[name]):.2f}" for name in ("first", "seconds")]
        table.append([NETWORKS[workload.network].title, *seconds, f"{median(row['parts'].get('bytes', [])) / 1e6:.0f}"])
    return table


def sweep(results: dict[str, Any]) -> Table:
    def ratio(workload: Workload) -> list[str]:
        return [_or_blank(_ratio(results, workload, TOGETHER, IN_TURN), "{:.3f}")]

    heading = f"ms a step of {RUNS[results['scale']]} runs"
    table = _table(results, "sweep", heading, (TOGETHER, IN_TURN), _milliseconds, ratio)
    return [[*table[0], "together over in turn"], *table[1:]]


def _table(
    results: dict[str, Any],
    task: str,
    heading: str,
    names: tuple[str, ...],
    show: Callable[[dict[str, Any]], str],
    more: Callable[[Workload], list[str]] = lambda workload: [],
) -> Table:
    """A line for each network, a column for each contender: its value, marked if not ranked, or why there is none."""

    def cell(row: dict[str, Any]) -> str:
        return show(row) + ("" if row["status"] == "ok" else " †") if row["seconds"] else row["status"]

    lines = [
        [NETWORKS[w.network].title, *(cell(_row(results, w, name)) for name in names), *more(w)]
        for w in _workloads(results, task)
    ]
    return [[heading, *names], *lines]


def precision(results: dict[str, Any]) -> Table:
    table = [["", "precision", "images/s", "TFLOP/s", "of a matrix product", "share"]]
    for workload in _workloads(results, "precision"):
        for row in rows_of(results, workload.id):
            title = [NETWORKS[workload.network].title, row["contender"]]
            if not is_ranked(row):
                table.append([*title, row["status"], "", "", ""])
                continue
            operations, matrix = (median(row["parts"].get(name, [])) for name in ("operations", "matrix_rate"))
            reached = operations / median(row["seconds"])
            rates = [f"{rate / 1e12:.3g}" for rate in (reached, matrix)]
            table.append([*title, _rate(results, row), *rates, f"{reached / matrix:.0%}"])
    return table


def _sections(results: dict[str, Any], render: Callable[[Table], str], mark: str) -> str:
    tables = {
        "Steady state": steady(results),
        "Seconds to the first step, compilation included": first_steps(results),
        "The input pipeline: augmentation (0.5) and mixup (1.0)": pipeline(results),
        "Going on from a checkpoint": resumed(results),
        "Precision": precision(results),
        "A sweep": sweep(results),
    }
    goals = judged(results)
    if goals:
        tables["Goals"] = goals_table(results | {"goals": goals})
    sections = [f"{mark}{title}\n\n{render(table)}" for title, table in tables.items() if len(table) > 1]
    sections += _remarks(results)
    if results["scale"] == "smoke":
        sections.append("At this scale sizes are not those of the titles, and times mean nothing.")
    if results["skipped"]:
        sections.append(f"Left out for want of time: {', '.join(results['skipped'])}.")
    return "\n\n".join(sections)


def _remarks(results: dict[str, Any]) -> list[str]:
    off = [row for row in results["rows"] if row["status"] in ("disagrees", "failed")]
    lines = [f"† {row['workload']}, {row['contender']}: {row['message']}." for row in off]
    tried = [row for row in results["rows"] if "channels_last" in row["parts"]]
    last = [row["workload"] for row in tried if row["parts"]["channels_last"][0]]
    if tried:
        lines.append(
            f"PyTorch's convolutions are in the faster of two layouts, channels last in {', '.join(last) or 'none'}."
        )
    return lines


def _workloads(results: dict[str, Any], task: str) -> list[Workload]:
    return [w for w in WORKLOADS.values() if w.task == task and rows_of(results, w.id)]


def _row(results: dict[str, Any], workload: Workload, name: str) -> dict[str, Any]:
    return next(row for row in rows_of(results, workload.id) if row["contender"] == name)


def _ratio(results: dict[str, Any], workload: Workload, name: str, other: str) -> float:
    """Of the seconds of two contenders; nan where one is not ranked."""
    rows = [_row(results, workload, one) for one in (name, other)]
    if not all(map(is_ranked, rows)):
        return math.nan
    return median(rows[0]["seconds"]) / median(rows[1]["seconds"])


def _share(results: dict[str, Any], workload: Workload) -> float:
    """What augmentation and mixup take of a step that has them."""
    return 1 - 1 / _ratio(results, workload, CHANGED, PLAIN)


def _rate(results: dict[str, Any], row: dict[str, Any]) -> str:
    rate = BATCH_SIZES[results["scale"]] / median(row["seconds"])
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _milliseconds(row: dict[str, Any]) -> str:
    return f"{1e3 * median(row['seconds']):.4g}"


def _or_blank(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)
