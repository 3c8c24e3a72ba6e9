"""What the library aims at, judged from one stored run."""

import math
from typing import Any, NamedTuple

from benchmarks.contenders import HAND, OURS
from benchmarks.results import is_ranked, median, part, rows_of

AHEAD = ("W1", "W2", "W5", "W6a", "W6b", "W9")
CONVOLUTIONS = ("W3", "W4")
FIRST_CALLS = ("W1", "W2", "W3", "W4")
NETWORKS = {
    "first_calls1": "an MLP",
    "first_calls7": "a transformer of 0.2M parameters",
    "first_calls8": "a transformer of 7 thousand",
}
WITHIN = 1.1  # of the fastest PyTorch peer
PRODUCTS = {
    ("products1", "hessian"): 1.1,
    ("products1", "gauss_newton"): 1.1,
    ("products3", "hessian"): 1.6,
    ("products3", "gauss_newton"): 1.05,
    ("products4", "hessian"): 2.0,
    ("products4", "gauss_newton"): 1.0,
}
REORTHOGONALISATION_SHARE, REORTHOGONALISATION_OVER_READING = 0.15, 1.5
EXACT_SECONDS = 8.0
PRODUCTS_OVER_POWER_ITERATION = 0.5
BLOCKS_OVER_WHOLE = 1.5
FIRST_OVER_HAND, FIRST_PROGRAMS, FIRST_CACHED = 1.1, 5, 0.3
SMALL_OVER_PRODUCTS = 2.0
TRACKING = {"W8a": 0.55, "W8b": 0.12}  # over training, with all examples
TRACKING_A_PART, TRACKING_ERROR = 0.10, 2e-3


class Goal(NamedTuple):
    """A claim and whether it came out so; `met` is None where the run cannot tell."""

    claim: str
    met: bool | None
    found: str


def judge(results: dict[str, Any]) -> list[Goal]:
    """Every goal, in order."""
    return [
        *(_ahead(results, workload) for workload in AHEAD),
        *(_near_torch(results, workload) for workload in CONVOLUTIONS),
        *(_ahead_of_curvlinops(results, workload) for workload in CONVOLUTIONS),
        *(_first_call(results, workload) for workload in FIRST_CALLS),
        *(_product(results, *which, limit) for which, limit in PRODUCTS.items()),
        _blocks(results),
        _share(results),
        _over_reading(results),
        _exact(results),
        *(_fewer_products(results, workload) for workload in ("W6a", "W6b")),
        *(
            goal
            for workload in ("first_calls1", "first_calls7", "first_calls8")
            for way in ("spectrum", "sharpness")
            for goal in _first_calls(results, workload, way)
        ),
        *(_small_call(results, way) for way in ("sharpness", "moments", "trace")),
        *(goal for workload, limit in TRACKING.items() for goal in _tracking(results, workload, limit)),
    ]


def _ahead(results: dict[str, Any], workload: str) -> Goal:
    return _beside(f"{workload}: ahead of every peer", results, workload, 1.0, "seconds")


def _near_torch(results: dict[str, Any], workload: str) -> Goal:
    claim = f"{workload}: within 10 % of the fastest PyTorch peer"
    return _beside(claim, results, workload, WITHIN, "seconds", framework="PyTorch")


def _ahead_of_curvlinops(results: dict[str, Any], workload: str) -> Goal:
    return _beside(f"{workload}: ahead of curvlinops", results, workload, 1.0, "seconds", contender="curvlinops")


def _first_call(results: dict[str, Any], workload: str) -> Goal:
    return _beside(f"{workload}: first call no slower than any peer's", results, workload, 1.0, "first")


def _beside(claim: str, results: dict[str, Any], workload: str, limit: float, what: str, **only: str) -> Goal:
    rows = [row for row in rows_of(results, workload) if is_ranked(row)]
    ours = [row for row in rows if row["contender"] == OURS]
    peers = [row for row in rows if row["contender"] != OURS and all(row[key] == only[key] for key in only)]
    if not ours or not peers:
        return Goal(claim, None, "not measured")
    best = min(peers, key=lambda row: median(row[what]))
    mine, theirs = median(ours[0][what]), median(best[what])
    factors = f" = {_factors(ours[0], best)}" if what == "seconds" else ""
    found = f"{mine:.3g} s; {best['contender']} {theirs:.3g} s ({mine / theirs:.2f} times{factors})"
    return Goal(claim, mine <= limit * theirs, found)


def _factors(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """What a ratio of seconds is made of, which says where the time goes."""
    seconds, gradient = (median(ours[what]) / median(theirs[what]) for what in ("seconds", "gradient"))
    products = ours["num_products"] / theirs["num_products"]
    per_product = seconds / products / gradient
    return f"{products:.2f} of products × {per_product:.2f} of gradients per product × {gradient:.2f} of a gradient"


def _product(results: dict[str, Any], workload: str, matrix: str, limit: float) -> Goal:
    name = matrix.replace("gauss_newton", "Gauss-Newton").replace("hessian", "Hessian")
    claim = f"W{workload[-1]}: {name} product ≤ {limit:g} gradients"
    return _at_most(claim, part(results, workload, matrix) / part(results, workload, "gradient"), limit)


def _blocks(results: dict[str, Any]) -> Goal:
    claim = f"the spectra of all layers' blocks ≤ {BLOCKS_OVER_WHOLE:g} times one of the whole matrix, with equal steps"
    blocks, whole = (part(results, "block_cost", name) for name in ("blocks", "whole"))
    return _at_most(claim, blocks / whole, BLOCKS_OVER_WHOLE)


def _share(results: dict[str, Any]) -> Goal:
    claim = f"a million parameters, 100 steps: re-orthogonalisation ≤ {REORTHOGONALISATION_SHARE:.0%} of the run"
    run, product, alone = (part(results, "basis", name) for name in ("run", "product", "reorthogonalisation"))
    steps = next((row["steps"] for row in rows_of(results, "basis")), 0)
    # Two ways to know; the difference of two long runs is the noisier one.
    share = max(run - steps * product, alone) / run
    return _at_most(claim, share, REORTHOGONALISATION_SHARE, f"{share:.0%}")


def _over_reading(results: dict[str, Any]) -> Goal:
    claim = f"re-orthogonalisation ≤ {REORTHOGONALISATION_OVER_READING:g} times the memory's own time"
    seconds, moved, rate = (part(results, "basis", name) for name in ("reorthogonalisation", "bytes", "read_rate"))
    return _at_most(claim, seconds * rate / moved, REORTHOGONALISATION_OVER_READING)


def _exact(results: dict[str, Any]) -> Goal:
    claim = f"W5: every eigenvalue of a Hessian of 4,270 parameters in ≤ {EXACT_SECONDS:g} s"
    ours = [row for row in rows_of(results, "W5") if row["contender"] == OURS and is_ranked(row)]
    return _at_most(claim, median(ours[0]["seconds"]) if ours else math.nan, EXACT_SECONDS)


def _fewer_products(results: dict[str, Any], workload: str) -> Goal:
    claim = f"{workload}: at most half the products of power iteration"
    rows = {row["contender"]: row for row in rows_of(results, workload) if is_ranked(row)}
    ours, power = rows.get(OURS), rows.get("JAX power iteration")
    if ours is None or power is None:
        return Goal(claim, None, "not measured")
    mine, theirs, oracle = ours["num_products"], power["num_products"], median(power["parts"]["oracle"])
    found = f"{mine} against {theirs} with the same stopping rule, {oracle:.0f} if it knew the answer"
    return Goal(claim, mine <= PRODUCTS_OVER_POWER_ITERATION * theirs, found)


def _first_calls(results: dict[str, Any], workload: str, way: str) -> list[Goal]:
    added, programs, cached = (part(results, workload, f"{way} {name}") for name in ("overhead", "programs", "cached"))
    by_hand, title = part(results, workload, f"{HAND} overhead"), f"first {way} on {NETWORKS[workload]}"
    return [
        _at_most(
            f"{title}: adds ≤ {FIRST_OVER_HAND:g} times what a scan by hand does", added / by_hand, FIRST_OVER_HAND
        ),
        _at_most(f"{title}: ≤ {FIRST_PROGRAMS} programs", programs, FIRST_PROGRAMS),
        _at_most(f"{title}: adds ≤ {FIRST_CACHED:g} s where programs are kept", cached, FIRST_CACHED),
    ]


def _small_call(results: dict[str, Any], way: str) -> Goal:
    claim = f"a small second {way} ≤ {SMALL_OVER_PRODUCTS:g} times its products"
    names = (f"{way} seconds", f"{way} products", "product seconds")
    seconds, count, product = (part(results, "small_calls", name) for name in names)
    return _at_most(claim, seconds / (count * product), SMALL_OVER_PRODUCTS)


def _tracking(results: dict[str, Any], workload: str, limit: float) -> list[Goal]:
    train, whole, products, some, error, told = (
        part(results, workload, name)
        for name in (
            "train",
            "tracker seconds",
            "tracker products",
            "tracker, part seconds",
            "tracker error",
            "told",
        )
    )
    whole, some = whole / train, some / train
    tracking, a_part = f"{workload}: tracking", f"with a part of the examples ≤ {TRACKING_A_PART:.0%} over training"
    by_products = f"{whole:.0%}, by {products:.1f} products of {whole / products:.0%} each"
    return [
        _at_most(f"{tracking} ≤ {limit:.0%} over training", whole, limit, by_products),
        _at_most(f"{workload}: its median error ≤ {TRACKING_ERROR:g}", error, TRACKING_ERROR),
        _at_most(f"{tracking} {a_part}", some, TRACKING_A_PART, f"{some:.0%}, its own error told as {told:.0%}"),
    ]


def _at_most(claim: str, value: float, limit: float, found: str | None = None) -> Goal:
    """`found` says the value in other words than three digits."""
    if math.isnan(value):
        return Goal(claim, None, "not measured")
    return Goal(claim, value <= limit, found or f"{value:.3g}")
