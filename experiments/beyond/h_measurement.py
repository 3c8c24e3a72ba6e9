"""Does the conclusion on L2 and curvature depend on how curvature is measured? Batch norm, probes, precision.

A protocol of measurement is (mode of batch norm, number of examples that share statistics (0 is all), float64 or not).
"""

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np

from hessflat.analysis import limits
from hessflat.analysis.decisions import Chance
from hessflat.analysis.designs import LN_FACTOR, to_one
from hessflat.analysis.evidence import BY_T, against, decided, exp_or_inf, interval_text, seed_count
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table, seeds_added
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished, pairs_by_seed
from hessflat.analysis.statistics import Estimate, estimate, in_same_order
from hessflat.plot.style import PALETTE, STYLE, letter
from hessflat.report import figures
from hessflat.report.figures.style import append_row, log_ticks, new_columns, new_figure

L2 = "optim.l2"
QUANTITY_NAMES = {"lambda_max": "λ_max(H)", "trace": "Tr H", "second_moment": "‖H‖_F²/P"}
COUNTS = (1, 2, 5, 10, 20)


def by_protocol(run: Run) -> dict[tuple[str, int, bool], dict[str, np.ndarray]]:
    """{protocol: its arrays} of the last measured step; λ_max is a scalar, trace and second moment are `[probes]`."""
    arrays = run.spectrum("sensitivity")
    protocols = zip(
        arrays["mode"].tolist(), arrays["batch_stats_size"].tolist(), arrays["float64"].tolist(), strict=True
    )
    return {
        protocol: {name: column[index] for name, column in arrays.items()} for index, protocol in enumerate(protocols)
    }


def protocol_name(protocol: tuple[str, int, bool]) -> str:
    """The text of a protocol in tables."""
    mode, shared, double = protocol
    statistics = f", statistics of {shared or 'all'}" if mode == "train" else ""
    return f"{mode} mode{statistics}, {'float64' if double else 'float32'}"


def short_name(protocol: tuple[str, int, bool]) -> str:
    """The text of a protocol on an axis."""
    mode, shared, double = protocol
    statistics = f", {shared or 'all'}" if mode == "train" else ""
    return f"{mode}{statistics}{', float64' if double else ''}"


def pairs(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The finished runs without L2 and with the largest L2, paired by seed; empty where either is missing."""
    groups = by_setting(finished(runs), L2)
    return pairs_by_seed(groups[min(groups)], groups[max(groups)], L2) if len(groups) > 1 else []


def effects(runs: Sequence[Run], quantity: str) -> dict[tuple[str, int, bool], Estimate]:
    """{protocol: log(quantity with L2 / quantity without) over seeds}, means over probes."""
    logs: dict[tuple[str, int, bool], list[float]] = {}
    for before, after in pairs(runs):
        rows = by_protocol(before), by_protocol(after)
        for protocol in rows[0]:
            first, second = (float(np.mean(side[protocol][quantity])) for side in rows)
            logs.setdefault(protocol, []).append(float(np.log(second / first)))
    return {protocol: estimate(values) for protocol, values in logs.items()}


def share_right(pair: tuple[Run, Run], quantity: str, shared: bool) -> float:
    """The share of pairs of single probes that order two runs as the means over all probes do, in the first protocol.

    With `shared`, both runs of a pair have the same probe; otherwise all pairs of probes count, as for two independent
    papers.
    """
    first, second = (next(iter(by_protocol(run).values()))[quantity] for run in pair)
    return float(np.mean(in_same_order(first, second, paired=shared)))


def relative_errors(run: Run, quantity: str) -> np.ndarray:
    """The relative standard error of means of `COUNTS` probes, `[counts]`, in the first protocol."""
    samples = next(iter(by_protocol(run).values()))[quantity]
    return samples.std(ddof=1) / samples.mean() / np.sqrt(COUNTS)


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """λ_max and trace with L2 over without for each protocol, and the standard error by number of probes."""
    figure, axes = new_figure(1, 3, 2.6)
    data = new_columns("quantity", "way", "ratio", "low", "high")
    with matplotlib.rc_context(STYLE):
        for axis, quantity in zip(axes, ("lambda_max", "trace"), strict=False):
            changes = effects(runs, quantity)
            for place, (protocol, change) in enumerate(changes.items()):
                mean, low, high = np.exp(np.clip(change.interval, -50, 50))
                axis.plot([low, high], [place, place], color=PALETTE[0], linewidth=1)
                axis.plot([mean], [place], "o", color=PALETTE[0], markersize=4)
                append_row(
                    data, QUANTITY_NAMES[quantity], protocol_name(protocol), float(mean), float(low), float(high)
                )
            axis.axvline(1.0, color="black", linewidth=0.7, linestyle="--")
            axis.set_xscale("log")
            log_ticks(axis.xaxis, *axis.get_xlim())
            axis.set_ylim(max(len(changes), 1) - 0.5, -0.5)
            axis.set_yticks(
                range(len(changes)), [short_name(protocol) for protocol in changes] if quantity == "lambda_max" else []
            )
            symbol = {"lambda_max": r"\lambda_{\max}(H)", "trace": r"\mathrm{Tr}\,H"}[quantity]
            axis.set_xlabel(f"${symbol}$ with L2 over without")
        for colour, (quantity, symbol) in enumerate(
            (("trace", r"$\mathrm{Tr}\,H$"), ("second_moment", r"$\|H\|_F^2$"))
        ):
            errors = 100 * np.array([relative_errors(run, quantity) for run in finished(runs)])
            axes[2].plot(COUNTS, errors.mean(0), "o-", markersize=3, color=PALETTE[colour], label=symbol)
            axes[2].fill_between(COUNTS, errors.min(0), errors.max(0), color=PALETTE[colour], alpha=0.18, linewidth=0)
        axes[2].set_xscale("log")
        axes[2].set_ylim(0, None)
        axes[2].set_xticks(COUNTS, map(str, COUNTS))
        axes[2].minorticks_off()
        axes[2].set_xlabel("probes")
        axes[2].set_ylabel("relative standard error (%)")
        axes[2].legend()
    letter(axes)
    caption = (
        "Effect of L2 on the Hessian under each protocol of measurement. (a) Largest eigenvalue and (b) trace, with "
        "L2 over without: mean and 95 % interval over seeds, paired. Protocols differ in the mode of batch norm and, "
        "in train mode, in the number of examples that share statistics. (c) Standard error of the mean over a number "
        f"of probes; bands are the range over runs. {figures.context(runs)}"
    )
    return [Drawing("ways", caption, figure, data)]


def num_probes(runs: Sequence[Run]) -> int:
    """The number of probes of each trace."""
    return int(finished(runs)[0].setting("measure.trace_probes"))


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """The quantities of each protocol without and with L2, means over probes and seeds."""
    rows = []
    for value, group in by_setting(finished(runs), L2).items():
        measured = [by_protocol(run) for run in group]
        for protocol in measured[0]:
            means = [
                float(np.mean([np.mean(each[protocol][name]) for each in measured]))
                for name in ("lambda_min", *QUANTITY_NAMES)
            ]
            rows.append((number(value), protocol_name(protocol), *(number(mean, 5) for mean in means), str(len(group))))
    header = ("L2", "protocol", "λ_min(H)", *QUANTITY_NAMES.values(), "seeds")
    return [Table("The Hessian of the same weights under every protocol. Means over seeds.", header, tuple(rows))]


def same_conclusion(
    runs: Sequence[Run], quantity: str, among: Callable[[tuple[str, int, bool]], bool], which: str
) -> Evidence:
    """Does L2 move the quantity to the same side of 1 in every protocol of `among`, which `which` names?"""
    name = QUANTITY_NAMES[quantity]
    rule = (
        f"{name} with the largest L2 over without, paired by seed, on the same side of 1 in {which}, by {BY_T}; fails "
        "where two are on opposite sides"
    )
    changes = {protocol: change for protocol, change in effects(runs, quantity).items() if among(protocol)}
    if not changes:
        return Evidence("", "", 0, "not run", "no seed has finished runs with and without L2", rule=rule)
    above, below = (
        [side(change) for change in changes.values()] for side in (lambda x: x.above(0), lambda x: x.below(0))
    )
    opposite = max(min(above), min(below))
    parts = tuple(against(change, 0.0, "larger", LN_FACTOR, "log") for change in changes.values())
    chance = Chance(min(max(above), max(below)), min(1.0, len(changes) * opposite), parts=parts)
    ratios = {protocol_name(protocol): number(exp_or_inf(change.mean), 3) for protocol, change in changes.items()}
    ends = [f"[{', '.join(number(exp_or_inf(end), 3) for end in change.interval[1:])}]" for change in changes.values()]
    seeds = len(pairs(runs))
    return decided(
        runs, rule, chance,
        f"{name} with L2 over without: " + ", ".join(f"{ratio} ({protocol})" for protocol, ratio in ratios.items()),
        f"95 % intervals {', '.join(ends)}, {seed_count(seeds)}", seeds,
        f"{sum(change.mean > 0 for change in changes.values())} of {len(changes)} ratios are above 1", "1",
    )  # fmt: skip


def one_probe(runs: Sequence[Run]) -> Evidence:
    """Do single probes order the traces of two runs as the means over all probes do, in more than 95 % of pairs?"""
    rule = (
        "share of pairs of single probes that order the traces with the largest L2 and without as the means over all "
        f"probes do, above 0.95 by {BY_T}"
    )
    every = pairs(runs)
    if not every:
        return Evidence("", "", 0, "not run", "no seed has finished runs with and without L2", rule=rule)
    own, same = (estimate([share_right(pair, "trace", shared) for pair in every]) for shared in (False, True))
    return decided(
        runs, rule, against(own, 0.95, "larger", to_one(0.95)),
        (
            f"{100 * own.mean:.1f} % of pairs of probes are right, {100 * same.mean:.1f} % if both runs have the same "
            f"probe; {num_probes(runs)} probes"
        ),
        interval_text(own.interval, len(every), number), len(every), "the claim is a share above 0.95", "0.95",
    )  # fmt: skip


def rounding(run: Run) -> float:
    """The largest relative difference of λ_max between float32 and float64, over the protocols measured in both."""
    rows = by_protocol(run)
    both = [protocol for protocol in rows if (*protocol[:2], True) in rows and not protocol[2]]
    values = [(rows[protocol]["lambda_max"], rows[(*protocol[:2], True)]["lambda_max"]) for protocol in both]
    return max(abs(float(single / double) - 1) for single, double in values)


EXPERIMENT = Experiment(
    id="h_measurement",
    paper="hessflat",
    question="Does the conclusion on L2 and curvature depend on how curvature is measured?",
    config="h_measurement",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="batch-norm-mode",
            paper="hessflat",
            where="beyond the papers; G §4, figs 6, 7",
            statement="L2 changes λ_max in the same direction in both modes of batch norm",
            paper_value="G: larger with L2 in both, 30 times in train mode, 1,000 times in eval mode",
            decide=lambda runs: same_conclusion(
                runs, "lambda_max", lambda protocol: protocol[1:] == (0, False), "both modes of batch norm"
            ),
        ),
        Claim(
            id="statistics-batch",
            paper="hessflat",
            where="beyond the papers",
            statement="L2 changes λ_max in the same direction, however many examples share statistics",
            paper_value="not in a paper: G takes the training batch, M the whole sample",
            decide=lambda runs: same_conclusion(
                runs,
                "lambda_max",
                lambda protocol: protocol[0] == "train" and not protocol[2],
                "train mode with every number of examples that share statistics",
            ),
        ),
        Claim(
            id="one-probe",
            paper="hessflat",
            where="beyond the papers; G app. D",
            statement="one random probe for each network is enough to order their traces",
            paper_value="G takes one probe",
            decide=one_probe,
        ),
        Claim(
            id="float32",
            paper="hessflat",
            where="beyond the papers",
            statement="float32 gives the same λ_max as float64",
            paper_value="not in a paper",
            decide=lambda runs: limits.in_every_run(
                runs,
                rounding,
                1e-3,
                "relative difference of λ_max in float32 and in float64, the larger of both modes,",
            ),
        ),
    ),
    tuned=(seeds_added("small", 3),),
)
