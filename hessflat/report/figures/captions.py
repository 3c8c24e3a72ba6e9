"""The parts of captions that describe the runs: panels, seeds, lost runs, and the context of measurement."""

from collections.abc import Sequence
from typing import Any

from hessflat.analysis.evidence import seed_count
from hessflat.analysis.names import metric_name, plain
from hessflat.analysis.results import Run, finished
from hessflat.report.figures.style import Panel


def context(runs: Sequence[Run]) -> str:
    """The model, data, precision, batch-norm mode and number of seeds, without which a number cannot be interpreted."""
    normed = [run for run in runs if measured_with_batch_norm(run)]
    facts = [
        ("model", [run.config.get("model", {}).get("name") for run in runs]),
        ("data", [run.config.get("data", {}).get("name") for run in runs]),
        ("P =", [run.manifest.get("num_params") for run in runs]),
        ("matmul precision", [run.manifest.get("matmul_precision") for run in runs]),
        ("batch norm in mode", [run.manifest.get("batch_norm_mode") for run in normed]),
        ("with statistics of a batch of", [run.manifest.get("batch_stats_size") for run in normed]),
        ("scale", [run.config.get("scale") for run in runs]),
    ]
    parts = []
    for what, of_runs in facts:
        values = sorted({plain(value) for value in of_runs} - {""})
        if values:
            parts.append(f"{what} {' or '.join(values)}")
    if seeds := len({run.seed for run in finished(runs)}):
        parts.append(seed_count(seeds))
    return f"({'; '.join(parts)})" if parts else ""


def measured_with_batch_norm(run: Run) -> bool:
    """Whether curvature was measured in modes of batch norm, by the manifest."""
    modes = plain(run.manifest.get("batch_norm_mode"))
    return bool(modes) and not modes.startswith("none")


def mode_words(runs: Sequence[Run], operator: str) -> str:
    """The batch-norm mode of an operator, such as ` with batch norm in train mode`; empty for models without batch
    norm.
    """
    if not any(measured_with_batch_norm(run) for run in runs):
        return ""
    return f" with batch norm in {'eval' if operator.endswith('_eval') else 'train'} mode"


def listed(words: Sequence[str]) -> str:
    """The contents of the panels, with their letters where there are several panels."""
    if len(words) > 1:
        return ", ".join(f"({chr(ord('a') + index)}) {word}" for index, word in enumerate(words))
    return words[0][:1].upper() + words[0][1:] if words[0][:1].isascii() else words[0]


def panel_words(panel: Panel) -> str:
    metrics = (panel.metric,) if isinstance(panel.metric, str) else panel.metric
    return " and ".join(metric_name(metric) for metric in metrics)


def seed_range(groups: dict[Any, list[Run]]) -> str:
    counts = sorted({len(finished(group)) for group in groups.values()} - {0})
    if not counts:
        return "no seeds"
    if counts == [1]:
        return "one seed (no spread)"
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def band_words(groups: dict[Any, list[Run]]) -> str:
    words = seed_range(groups)
    return "One seed, no band." if words.startswith("one") else f"Band: ± 1 std over {words}."


def diverged_words(runs: Sequence[Run]) -> str:
    lost = [run for run in runs if run.status == "diverged"]
    return f" {_runs(len(lost))} diverged and end early." if lost else ""


def lost_words(runs: Sequence[Run]) -> str:
    lost = [run for run in runs if run.status in ("diverged", "failed")]
    return f" Crosses: settings where runs did not finish ({_runs(len(lost))} in all)." if lost else ""


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
