"""Rows of a stored run as tables, for a terminal or for Markdown."""

import math
from collections.abc import Callable
from typing import Any

from benchmarks.contenders import HAND, OURS
from benchmarks.results import is_ranked, median, part, rows_of
from benchmarks.workloads import WORKLOADS

Table = list[list[str]]  # the heading first
_COMPARED = ("lanczos", "exact", "largest", "blocks")


def text(results: dict[str, Any]) -> str:
    """Every table and the goals, lined up with spaces."""
    return _sections(results, lined_up, "")


def markdown(results: dict[str, Any]) -> str:
    return _sections(results, as_markdown, "### ")


def _sections(results: dict[str, Any], render: Callable[[Table], str], mark: str) -> str:
    sections = []
    for workload in WORKLOADS.values():
        if workload.task in _COMPARED and rows_of(results, workload.id):
            title = f"{mark}{workload.id}. {workload.title}"
            sections.append(f"{title}\n\n{render(contenders(results, workload.id))}{_remarks(results, workload.id)}")
    for title, table in (
        ("Products", products(results)),
        ("Blocks", blocks(results)),
        ("Re-orthogonalisation", basis(results)),
    ):
        if len(table) > 1:
            sections.append(f"{mark}{title}\n\n{render(table)}")
    for workload in WORKLOADS.values():
        if workload.task == "tracking" and _parts(results, workload.id):
            title = f"{mark}{workload.id}. {workload.title}"
            sections.append(f"{title}\n\n{render(tracking(results, workload.id))}")
    for title, table in (
        ("First calls", first_calls(results)),
        ("Small calls", small_calls(results)),
        ("The device", device(results)),
        ("Precision", precision(results)),
        ("Where the basis lies", storages(results)),
        ("Spread over the machine", sharded(results)),
        ("Plans beside what was measured", plans(results)),
    ):
        if len(table) > 1:
            sections.append(f"{mark}{title}\n\n{render(table)}")
    if results["goals"]:
        sections.append(f"{mark}Goals\n\n{render(judged(results))}")
    if results["scale"] == "smoke":
        sections.append("At this scale sizes are not those of the titles, and times mean nothing.")
    if results["skipped"]:
        sections.append(f"Left out for want of time: {', '.join(results['skipped'])}.")
    return "\n\n".join(sections)


def contenders(results: dict[str, Any], workload: str) -> Table:
    """The fastest first; those that are not ranked last."""
    rows = rows_of(results, workload)
    ranked = [row for row in rows if is_ranked(row)]
    best = min((median(row["seconds"]) for row in ranked if row["contender"] != OURS), default=math.nan)
    table = [
        ["", "seconds", "gradients per product", "to the best peer", "products", "first call", "memory", "gradient"]
    ]
    for row in sorted(rows, key=lambda row: (not is_ranked(row), _or_infinity(median(row["seconds"])))):
        name = f"**{OURS}**" if row["contender"] == OURS else row["contender"]
        name += f", {chosen}" if (chosen := said_of_choice(row)) else ""
        if not row["seconds"]:
            table.append([name, row["status"], *[""] * 6])
            continue
        seconds, gradient = median(row["seconds"]), median(row["gradient"])
        table.append(
            [
                name + ("" if is_ranked(row) else " †"),
                _number(seconds),
                _number(seconds / max(row["num_products"], 1) / gradient),
                f"{seconds / best:.2f}" if is_ranked(row) and not math.isnan(best) else "",
                str(row["num_products"]),
                _number(median(row["first"])),
                _bytes(row.get("peak_bytes")),
                f"{_number(1e3 * gradient)} ms",
            ]
        )
    return table


def said_of_choice(row: dict[str, Any]) -> str:
    """Which batch and which memory a contender chose: `batches of 125, memory kept`; empty where it had no choice."""
    if not row.get("searched"):
        return ""
    sizes = [int(name.partition(",")[0]) for name in row["searched"]]
    batch = "all examples at once" if row["batch"] == max(sizes) else f"batches of {row['batch']:,}"
    return ", ".join(filter(None, (batch, row["allocator"])))


def products(results: dict[str, Any]) -> Table:
    """Products in gradients, and the operations that XLA counts in a second over those of a product of matrices."""
    names = {"hessian": "Hessian product", "gauss_newton": "Gauss-Newton product"}
    table = [
        ["", "gradient", *(head for name in names.values() for head in (name, "in gradients", "of the matmul rate"))]
    ]
    for workload in [w for w in WORKLOADS.values() if w.task == "products" and rows_of(results, w.id)]:
        value = {name: part(results, workload.id, name) for name in _parts(results, workload.id)}
        if not value:
            continue
        cells = [f"{_number(1e3 * value['gradient'])} ms"]
        for name in names:
            share = value[f"{name}_operations"] / value[name] / value["matmul"]
            cells += [f"{_number(1e3 * value[name])} ms", _number(value[name] / value["gradient"]), f"{share:.0%}"]
        table.append([workload.title.partition(", ")[2], *cells])
    return table


def blocks(results: dict[str, Any]) -> Table:
    """Each sample is of both, one after the other; in the first row all take the same steps."""
    whole = part(results, "block_cost", "whole")
    if math.isnan(whole):
        return [[]]
    steps = rows_of(results, "block_cost")[0]["steps"]
    table = [["", "seconds", "to the whole matrix"], [f"the whole matrix, {steps} steps", _number(whole), ""]]
    for name, title in (("blocks", "all blocks, as many steps each"), ("settled", "all blocks, until each is settled")):
        seconds = part(results, "block_cost", name)
        table.append([title, _number(seconds), f"{seconds / whole:.2f}"])
    return table


def basis(results: dict[str, Any]) -> Table:
    """The share of a run by the difference of two runs, and alone on a diagonal matrix."""
    names = ("run", "product", "reorthogonalisation", "read_rate", "bytes")
    run, product, alone, rate, moved = (part(results, "basis", name) for name in names)
    if math.isnan(run):
        return [[]]
    steps = rows_of(results, "basis")[0]["steps"]
    return [
        ["", ""],
        [f"a run of {steps} steps", f"{_number(run)} s"],
        [f"{steps} products", f"{_number(steps * product)} s"],
        ["the rest, of the run", f"{(run - steps * product) / run:.1%}"],
        ["re-orthogonalisation alone, on a diagonal matrix", f"{_number(alone)} s, {alone / run:.1%} of the run"],
        ["the memory's read rate", f"{rate / 1e9:.3g} GB/s"],
        ["re-orthogonalisation over four readings of the filled rows", _number(alone * rate / moved)],
    ]


def tracking(results: dict[str, Any], workload: str) -> Table:
    """What each way adds to training, and how far its values are from converged ones; the cheapest first."""
    value = {name: part(results, workload, name) for name in _parts(results, workload)}
    ways = [name.removesuffix(" seconds") for name in value if name.endswith(" seconds")]
    table = [["", "a measurement", "over training", "processor time", "error, median", "largest", "products"]]
    for way in sorted(ways, key=lambda way: value[f"{way} seconds"]):
        said = f"{way}, {value['part']:.0f} examples" if way == "tracker, part" else way
        table.append(
            [
                f"**{said}**" if way.startswith("tracker") else said,
                f"{_number(1e3 * value[f'{way} seconds'])} ms",
                f"{value[f'{way} seconds'] / value['train']:.0%}",
                f"{value[f'{way} busy'] / value['train busy']:.0%}",
                f"{value[f'{way} error']:.1e}",
                f"{value[f'{way} largest error']:.1e}",
                _number(value[f"{way} products"]),
            ]
        )
    table.append(["20 steps of training", f"{_number(1e3 * value['train'])} ms", *[""] * 5])
    return table


def first_calls(results: dict[str, Any]) -> Table:
    """What a first call adds to a second one; programs and traces of the first, and of one at other parameters."""
    table = [
        [
            *("", "", "added to a second call", "to the scan by hand", "of processor time"),
            *("programs", "traces", "at other parameters", "cached"),
        ]
    ]
    for workload in [w for w in WORKLOADS.values() if w.task == "first_calls" and _parts(results, w.id)]:
        value = {name: part(results, workload.id, name) for name in _parts(results, workload.id)}
        for way in (name.removesuffix(" overhead") for name in value if name.endswith(" overhead")):
            added = value[f"{way} overhead"]
            table.append(
                [
                    workload.title,
                    way if way == HAND else f"**{way}**",
                    f"{_number(added)} s",
                    f"{added / value[f'{HAND} overhead']:.2f}",
                    f"{value[f'{way} busy'] / value[f'{HAND} busy']:.2f}",
                    f"{value[f'{way} programs']:.0f}",
                    f"{value[f'{way} traces']:.0f}",
                    f"{value[f'{way} programs again']:.0f}, {value[f'{way} traces again']:.0f}",
                    f"{_number(value[f'{way} cached'])} s",
                ]
            )
    return table


def small_calls(results: dict[str, Any]) -> Table:
    """Second calls, and the time of as many products in one compiled loop."""
    table = [["", "", "a call", "products", "to the products' time", "of processor time"]]
    for workload in [w for w in WORKLOADS.values() if w.task == "small_calls" and _parts(results, w.id)]:
        value = {name: part(results, workload.id, name) for name in _parts(results, workload.id)}
        for way in (name.removesuffix(" products") for name in value if name.endswith(" products")):
            count, cells = value[f"{way} products"], []
            for what in ("seconds", "busy"):
                cells.append(f"{value[f'{way} {what}'] / (count * value[f'product {what}']):.2f}")
            milliseconds = _number(1e3 * value[f"{way} seconds"])
            table.append([workload.title, way, f"{milliseconds} ms", f"{count:.0f}", *cells])
    return table


def device(results: dict[str, Any]) -> Table:
    """Of each network: products in gradients, operations per second, and how fast the basis is read."""
    table = [["", "gradient", "Hessian product", "Gauss-Newton product", "of eight at a time", "basis", "copy"]]
    for workload in _device_workloads(results):
        value = {name: part(results, workload, name) for name in _parts(results, workload)}
        cells = []
        for name in ("gradient", "hessian", "gauss_newton"):
            rate = value[f"{name}_operations"] / value[name]
            share = rate / value["matmul_highest"]
            over = "" if name == "gradient" else f"{value[name] / value['gradient']:.2f} gradients, "
            cells.append(f"{over}{1e3 * value[name]:.3g} ms, {rate / 1e12:.3g} TFLOP/s ({share:.0%})")
        together = f"{value['hessian_together'] / value['hessian']:.2f} of one"
        reading = value["bytes"] / max(value["reorthogonalisation"], 1e-12)
        rates = [f"{reading / 1e9:.3g} GB/s", f"{value['copy_rate'] / 1e9:.3g} GB/s"]
        table.append([_title(workload), *cells, together, *rates])
    return table


def precision(results: dict[str, Any]) -> Table:
    """Against float64: λ_max and the mass at zero, by the precision of matrix products."""
    table = [["", "precision", "matrix product", "a run", "error of λ_max", "error of the mass at zero"]]
    for workload in _device_workloads(results):
        value = {name: part(results, workload, name) for name in _parts(results, workload)}
        if "largest_float64" not in value:
            continue
        for name in ("default", "high", "highest"):
            top = abs(value[f"largest_{name}"] / value["largest_float64"] - 1)
            mass = abs(value[f"zero_mass_{name}"] - value["zero_mass_float64"])
            rate = f"{value[f'matmul_{name}'] / 1e12:.3g} TFLOP/s"
            title = _title(workload)
            table.append([title, name, rate, f"{_number(value[f'seconds_{name}'])} s", f"{top:.1e}", f"{mass:.1e}"])
    return table


def storages(results: dict[str, Any]) -> Table:
    """A run of Lanczos with its basis on the device, in half precision, in the host's memory."""
    names = ("device", "half", "host")
    table = [["", *names, *(f"loss of orthogonality, {name}" for name in names)]]
    for workload in _device_workloads(results):
        value = {name: part(results, workload, name) for name in _parts(results, workload)}
        if "storage_host" in value:
            seconds = [f"{_number(value[f'storage_{name}'])} s" for name in names]
            losses = [f"{value[f'orthogonality_{name}']:.1e}" for name in names]
            table.append([_title(workload), *seconds, *losses])
    return table


def sharded(results: dict[str, Any]) -> Table:
    """Products with parameters and examples spread over the devices of the machine, beside those on one of them.

    On a machine with one device it says what placing arrays on a mesh costs, and nothing of exchanges.
    """
    table = [["", "devices", "Hessian product", "on one device"]]
    for workload in _device_workloads(results):
        value = {name: part(results, workload, name) for name in _parts(results, workload)}
        if "sharded" in value:
            count = int(value["sharded_devices"])
            said = f"{count}" if count > 1 else "1: the card is one, so nothing is exchanged"
            times = [f"{1e3 * value[name]:.3g} ms" for name in ("sharded", "hessian")]
            table.append([_title(workload), said, *times])
    return table


def plans(results: dict[str, Any]) -> Table:
    """What `cv.plan(topology=…)` says of a Lanczos step on this chip, and what one took."""
    table = [
        ["", "memory beside the network, planned", "measured", "a step, planned", "measured", "measured to planned"]
    ]
    for workload in _device_workloads(results):
        value = {name: part(results, workload, name) for name in _parts(results, workload)}
        if "plan_step" in value:
            steps = [value[f"{name}_step"] for name in ("plan", "measured")]
            memory = [_bytes(_or_none(value.get(f"{name}_added_bytes", math.nan))) for name in ("plan", "measured")]
            times = [f"{1e3 * seconds:.3g} ms" for seconds in steps]
            table.append([_title(workload), *memory, *times, f"{steps[1] / steps[0]:.2f}"])
    return table


def _title(workload: str) -> str:
    return WORKLOADS[workload].title.removeprefix("The device with ")


def _or_none(value: float) -> int | None:
    return None if math.isnan(value) else int(value)


def judged(results: dict[str, Any]) -> Table:
    words = {True: "met", False: "missed", None: "not measured"}
    rows = [[goal["claim"], words[goal["met"]], goal["found"]] for goal in results["goals"] if goal["met"] is not None]
    return [["goal", "", "found"], *rows]


def _remarks(results: dict[str, Any], workload: str) -> str:
    lines = []
    for row in rows_of(results, workload):
        if row.get("reduced"):
            lines.append(f"{row['contender']}: {row['examples']} examples and {row['steps']} steps only, not ranked.")
        if row["status"] in ("disagrees", "failed"):
            lines.append(f"{row['contender']}: {row['message']}.")
    return "".join(f"\n\n† {line}" for line in lines)


def _device_workloads(results: dict[str, Any]) -> list[str]:
    return [w.id for w in WORKLOADS.values() if w.task == "device" and _parts(results, w.id)]


def _parts(results: dict[str, Any], workload: str) -> list[str]:
    return [name for row in rows_of(results, workload) for name in row["parts"]]


def lined_up(table: Table) -> str:
    table = [[cell.replace("**", "") for cell in row] for row in table]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        first, *others = (
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    heading, *rows = table
    marks = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, marks, *rows])


def _number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _or_infinity(value: float) -> float:
    return math.inf if math.isnan(value) else value
