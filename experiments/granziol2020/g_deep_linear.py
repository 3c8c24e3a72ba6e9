"""Three weights in a row under the exponential loss: what a reparameterisation, training and L2 do to the curvature.

*Flatness is a False Friend*, §2. With the product p = w₁w₂w₃ and u = pX the loss is exp(u), and so, exactly,
∂L/∂w_i = p_i X exp(u) and H_ij = (p_i p_j X² + p_ij X) exp(u), where p_i = p / w_i, p_ij = p / (w_i w_j) off the
diagonal and p_ii = 0.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from experiments._exact import eigenvalues, first_step
from hessflat.analysis import claims
from hessflat.analysis.experiment import Claim, Drawing, Evidence, Experiment, Table
from hessflat.analysis.names import number
from hessflat.analysis.results import Run, by_setting, finished
from hessflat.analysis.statistics import kendall_tau
from hessflat.report import figures
from hessflat.report.figures.axes import legend_below
from hessflat.report.figures.style import GREY, PALETTE, STYLE, letter, new_figure, ordered_colours

Copies = dict[str, np.ndarray]

# Where exp(u) counts as small: below it the polynomial's (u² + u) is past its minimum.
LOW_LOSS = 0.1
ROUNDING = 1e-12


def copies(run: Run, step: int | None = None) -> Copies:
    """The reparameterised copies of the weights, after training by default; see `measures/reparameterised.py`."""
    return run.spectrum("reparameterised", step)


def gradient_of(weights: np.ndarray, x: float) -> np.ndarray:
    """p_i X exp(pX) at weights `[K, 3]`: `[K, 3]`."""
    product = weights.prod(1, keepdims=True)
    return product / weights * x * np.exp(product * x)


def hessian_of(weights: np.ndarray, x: float) -> np.ndarray:
    """(p_i p_j X² + p_ij X) exp(pX) at weights `[K, 3]`: `[K, 3, 3]`."""
    product, first, second = weights.prod(1)[:, None, None], *_derivatives_of_product(weights)
    return (first[:, :, None] * first[:, None, :] * x**2 + second * x) * np.exp(product * x)


def _derivatives_of_product(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product, pairs = weights.prod(1)[:, None], weights[:, :, None] * weights[:, None, :]
    return product / weights, product[:, :, None] / pairs * (1 - np.eye(3)[None])


def largest(found: Copies) -> np.ndarray:
    """λ_max of each copy, `[K]`."""
    return np.linalg.eigvalsh(found["hessian"])[:, -1]


def adaptive(found: Copies) -> np.ndarray:
    """λ_max of |w_i w_j| H_ij for each copy, `[K]`: the sharpness of steps relative to each weight."""
    sizes = np.abs(found["weights"])
    return np.linalg.eigvalsh(sizes[:, :, None] * found["hessian"] * sizes[:, None, :])[:, -1]


QUANTITIES: dict[str, tuple[str, Callable[[Copies], np.ndarray]]] = {
    "loss": ("loss", lambda found: found["loss"]),
    "gradient": ("‖∇L‖", lambda found: np.linalg.norm(found["gradient"], axis=1)),
    "lambda_max": ("λ_max(H)", largest),
    "trace": ("Tr H", lambda found: np.trace(found["hessian"], axis1=1, axis2=2)),
    "norm_scaled": ("λ_max ‖w‖²", lambda found: largest(found) * np.sum(found["weights"] ** 2, axis=1)),
    "adaptive": ("λ_max(|w| H |w|)", adaptive),
}
AXES = {
    "loss": "loss",
    "gradient": r"$\|\nabla L\|$",
    "lambda_max": r"$\lambda_{\max}(H)$",
    "trace": r"$\mathrm{Tr}\,H$",
}


def spread(run: Run, quantity: str) -> float:
    """(largest − smallest) / smallest over the copies of the weights before and after training."""
    return max(
        float(np.ptp(values) / values.min())
        for values in (QUANTITIES[quantity][1](copies(run, step)) for step in (first_step(run), None))
    )


def decades(run: Run, quantity: str) -> float:
    """log₁₀ of the largest over the smallest of the copies of the trained weights."""
    values = QUANTITIES[quantity][1](copies(run))
    return float(np.log10(values.max() / values.min()))


def misalignment(run: Run) -> float:
    """1 − |∂L/∂w_j| / ‖∇L‖ at the largest α, for the layer j that is divided; the worst pair."""
    found = copies(run)
    at = found["scale"] == found["scale"].max()
    gradient, divided = found["gradient"][at], found["divided"][at]
    own = np.abs(np.take_along_axis(gradient, divided[:, None], 1))[:, 0]
    return float(np.max(1 - own / np.linalg.norm(gradient, axis=1)))


def distance_from_closed_form(run: Run) -> float:
    """The largest relative difference of a gradient or a Hessian, before and after training."""
    worst, x = 0.0, run.setting("data.point.x")
    for found in (copies(run, first_step(run)), copies(run)):
        for measured, exact in (
            (found["gradient"], gradient_of(found["weights"], x)),
            (found["hessian"], hessian_of(found["weights"], x)),
        ):
            rows = measured.reshape(len(measured), -1), exact.reshape(len(exact), -1)
            apart = np.linalg.norm(rows[0] - rows[1], axis=1) / np.linalg.norm(rows[1], axis=1)
            worst = max(worst, float(apart.max()))
    return worst


def distance_from_trace(run: Run) -> float:
    """|Tr H / (Σ p_i² X² exp(pX)) − 1|, the worst of the copies of the trained weights."""
    found, x = copies(run), run.setting("data.point.x")
    first, _ = _derivatives_of_product(found["weights"])
    stated = np.sum(first**2, axis=1) * x**2 * np.exp(found["weights"].prod(1) * x)
    return float(np.max(np.abs(QUANTITIES["trace"][1](found) / stated - 1)))


def rest_of_trace(run: Run) -> float:
    """1 − λ_max / Tr H after training; 0 for a matrix of rank one."""
    return 1 - run.final("hessian.exact.lambda_max") / run.final("hessian.exact.trace")


def distance_from_logarithm(run: Run) -> float:
    """|(1 − λ_max / Tr H) · 3/2 · ln(1/loss) − 1| after training."""
    return abs(-rest_of_trace(run) * 1.5 * np.log(run.final("train_loss")) - 1)


def time_scaled(run: Run) -> float:
    """|λ_max · rate · steps − 1| after training."""
    return abs(run.final("hessian.exact.lambda_max") * run.setting("optim.lr") * run.metrics[-1]["step"] - 1)


def at_low_loss(run: Run, metric: str) -> np.ndarray:
    """A metric at the measured steps whose loss is below `LOW_LOSS`."""
    return run.history(metric)[run.history("train_loss") < LOW_LOSS]


def exponent(run: Run, metric: str) -> float:
    """How log(metric) grows with log(loss) while the loss is low, by least squares."""
    return float(np.polyfit(np.log(at_low_loss(run, "train_loss")), np.log(at_low_loss(run, metric)), 1)[0])


def order_of_share(run: Run) -> float:
    """Kendall's tau of λ_max / Tr H against the loss, while it is low."""
    share = at_low_loss(run, "hessian.exact.lambda_max") / at_low_loss(run, "hessian.exact.trace")
    return kendall_tau(at_low_loss(run, "train_loss").tolist(), share.tolist())


def without_l2(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.setting("optim.l2") == 0]


def draw(runs: Sequence[Run]) -> list[Drawing]:
    """What α does, what training does, and what L2 does."""
    panels = (
        figures.Panel(("hessian.exact.lambda_max", "hessian.exact.trace"), "largest eigenvalue, trace of $H$", "log"),
        figures.Panel("weight_norm"),
    )
    return [
        draw_reparameterised(runs),
        draw_training(runs),
        figures.panels_against(runs, panels=panels, name="sharpness-and-l2"),
    ]


def draw_reparameterised(runs: Sequence[Run]) -> Drawing:
    """Loss, gradient norm, λ_max and trace against α for every pair of layers, before and after training."""
    run = without_l2(finished(runs))[0]
    figure, axes = new_figure(2, 4, 1.9, sharex=True)
    columns = ("weights", "multiplied", "divided", "alpha", "quantity", "value")
    data: dict[str, list[object]] = {column: [] for column in columns}
    handles: dict[str, Line2D] = {}
    with matplotlib.rc_context(STYLE):
        for row, (when, step) in enumerate((("initial", first_step(run)), ("trained", None))):
            found = copies(run, step)
            pairs = sorted(set(zip(found["multiplied"].tolist(), found["divided"].tolist(), strict=True)))
            for axis, (quantity, label) in zip(axes[4 * row : 4 * row + 4], AXES.items(), strict=True):
                values = QUANTITIES[quantity][1](found)
                for index, (i, j) in enumerate(pairs):
                    at = (found["multiplied"] == i) & (found["divided"] == j)
                    # Curves of several pairs may be one: each has its dashes where the others have gaps.
                    dashes = (2 * index, (2, 10))
                    axis.plot(found["scale"][at], values[at], color=GREY, linewidth=0.6, zorder=1)
                    (line,) = axis.plot(
                        found["scale"][at], values[at], color=PALETTE[index], linestyle=dashes, linewidth=1.4
                    )
                    handles.setdefault(f"$w_{i + 1} α,\\; w_{j + 1} / α$", line)
                    for alpha, value in zip(found["scale"][at], values[at], strict=True):
                        cells = (when, i + 1, j + 1, float(alpha), QUANTITIES[quantity][0], float(value))
                        for column, cell in zip(columns, cells, strict=True):
                            data[column].append(cell)
                axis.set_xscale("log")
                axis.set_yscale("log")
                if quantity == "loss":
                    middle = float(np.median(values))
                    axis.set_ylim(middle / 10, middle * 10)
                    axis.set_ylabel(f"{when} weights")
                axis.set_title(label, fontsize=8)
                if row:
                    axis.set_xlabel("α")
    legend_below(figure, [Line2D([], [], color=line.get_color()) for line in handles.values()], list(handles))
    letter(axes)
    caption = (
        "Loss, gradient norm, largest eigenvalue and trace of the Hessian where one weight is multiplied by α and "
        "another divided by it, which leaves the function as it is: (a)–(d) at the initial weights, (e)–(h) after "
        "training without L2, when the weights are so nearly equal in size that the six curves lie on each other. "
        "Dashes of several colours: a curve of several pairs. In "
        f"float64; seed {run.seed}. {figures.context(runs)}"
    )
    return Drawing("reparameterised", caption, figure, data)


def draw_training(runs: Sequence[Run]) -> Drawing:
    """How near to rank one the Hessian is and how it falls, against the loss; and against the step."""
    done = finished(runs)
    groups = by_setting(done, "optim.l2")
    colours = ordered_colours(len(groups))
    figure, axes = new_figure(2, 2, 2.2)
    columns = ("l2", "seed", "step", "loss", "lambda_1", "lambda_2", "lambda_3")
    data: dict[str, list[object]] = {column: [] for column in columns}
    with matplotlib.rc_context(STYLE):
        share, ranks, falls, times = axes
        for colour, (l2, group) in zip(colours, groups.items(), strict=True):
            for run in group:
                steps, loss = run.history("step"), run.history("train_loss")
                spectra = np.array([eigenvalues(run, step=int(step))[::-1] for step in steps])
                for step, value, triple in zip(steps, loss, spectra, strict=True):
                    for column, cell in zip(columns, (l2, run.seed, int(step), float(value), *triple), strict=True):
                        data[column].append(float(cell) if column.startswith("lambda") else cell)
                low = loss < LOW_LOSS
                style: dict[str, Any] = {"color": colour, "marker": ".", "markersize": 3, "linewidth": 0.7}
                share.plot(loss[low], (spectra[:, 0] / spectra.sum(1))[low], **style)
                falls.plot(loss[low], spectra.sum(1)[low], **style)
                times.plot(steps[1:], spectra[1:, 0], **style)
                if not l2:
                    for rank in range(3):
                        own: dict[str, Any] = {"color": PALETTE[rank], "marker": ".", "markersize": 3, "linewidth": 0.7}
                        ranks.plot(loss[low], spectra[low, rank], label=rf"$\lambda_{rank + 1}$", **own)
        _guides(axes, done)
    handles = [Line2D([], [], color=colour, marker=".") for colour in colours]
    legend_below(figure, handles, [f"L2 = {number(l2)}" for l2 in groups])
    letter(axes)
    caption = (
        f"During training, at losses below {LOW_LOSS:g} (training goes to the left): (a) the largest eigenvalue's "
        "share of the trace of the Hessian, with the curve 1 − 2 / (3 ln(1/loss)) of equal weights; (b) its three "
        "eigenvalues without L2; (c) the trace, with the slope of the loss itself. (d) The largest eigenvalue at "
        "every step, with 1 / (rate · steps). Every eigenvalue exactly, products in float64; a line for each seed. "
        f"{figures.context(runs)}"
    )
    return Drawing("rank-and-loss", caption, figure, data)


def _guides(axes: Sequence[Axes], done: Sequence[Run]) -> None:
    """Scales, labels and the dashed curves that the captions name."""
    share, ranks, falls, times = axes
    lowest = min(run.history("train_loss").min() for run in done)
    loss = np.geomspace(lowest, LOW_LOSS, 100)
    dashed: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 0.9, "zorder": 0}
    share.plot(loss, 1 + 2 / (3 * np.log(loss)), **dashed)
    share.set_ylabel(r"$\lambda_{\max}(H)\,/\,\mathrm{Tr}\,H$")
    share.set_ylim(None, 1)
    falls.plot(loss, loss / lowest * min(run.final("hessian.exact.trace") for run in done), **dashed)
    falls.set_ylabel(r"$\mathrm{Tr}\,H$")
    ranks.set_ylabel("eigenvalue of $H$, L2 = 0")
    handles, labels = ranks.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    ranks.legend(unique.values(), unique.keys())
    steps = np.array([1, max(run.metrics[-1]["step"] for run in done)])
    times.plot(steps, 1 / (done[0].setting("optim.lr") * steps), **dashed)
    times.set_ylabel(r"$\lambda_{\max}(H)$")
    times.set_xlabel("step")
    for axis in (share, ranks, falls):
        axis.set_xlabel("loss")
        axis.set_xscale("log")
    for axis in (ranks, falls, times):
        axis.set_yscale("log")
    times.set_xscale("log")


def tabulate(runs: Sequence[Run]) -> list[Table]:
    """What α does to the trained weights without L2, and the trained Hessian by L2."""
    return [tabulate_reparameterised(runs), tabulate_trained(runs)]


def tabulate_reparameterised(runs: Sequence[Run]) -> Table:
    chosen = without_l2(finished(runs))
    scales = np.unique(copies(chosen[0])["scale"])
    rows = []
    for scale in scales:
        cells = []
        for _, of in QUANTITIES.values():
            values = np.concatenate([of(found)[found["scale"] == scale] for found in map(copies, chosen)])
            cells.append(number(float(np.exp(np.mean(np.log(values)))), 4))
        rows.append((number(float(scale)), *cells))
    caption = (
        f"One weight times α, another over α, after training without L2: geometric means over the six pairs and "
        f"{len(chosen)} seeds. |w| H |w| is H_ij |w_i w_j|."
    )
    return Table(caption, ("α", *(label for label, _ in QUANTITIES.values())), tuple(rows))


def tabulate_trained(runs: Sequence[Run]) -> Table:
    columns: dict[str, Callable[[Run], float]] = {
        "loss": lambda run: run.final("train_loss"),
        "‖w‖": lambda run: run.final("weight_norm"),
        "λ₁": lambda run: float(eigenvalues(run)[-1]),
        "λ₂ / λ₁": lambda run: float(eigenvalues(run)[-2] / eigenvalues(run)[-1]),
        "λ₃ / λ₁": lambda run: float(eigenvalues(run)[-3] / eigenvalues(run)[-1]),
        "Tr H": lambda run: run.final("hessian.exact.trace"),
        "λ₁ / Tr H": lambda run: 1 - rest_of_trace(run),
        "1 − 2 / (3 ln(1/loss))": lambda run: 1 + 2 / (3 * np.log(run.final("train_loss"))),
        "λ₁ · rate · steps": lambda run: (
            run.final("hessian.exact.lambda_max") * run.setting("optim.lr") * run.metrics[-1]["step"]
        ),
    }
    rows = []
    for l2, group in by_setting(finished(runs), "optim.l2").items():
        cells = (number(float(np.mean([of(run) for run in group])), 4) for of in columns.values())
        rows.append((number(l2), *cells, str(len(group))))
    return Table(
        "The Hessian after training, every eigenvalue exactly: means over seeds.",
        ("L2", *columns, "seeds"),
        tuple(rows),
    )


def is_not_invariant(runs: Sequence[Run]) -> Evidence:
    parts = ("gradient", "lambda_max", "trace")
    words = {part: f"decades that {QUANTITIES[part][0]} spans" for part in parts}
    return claims.all_of(
        *(claims.beyond(runs, partial(decades, quantity=part), 1.0, words[part]) for part in parts),
    )


def has_rank_one(runs: Sequence[Run]) -> Evidence:
    found = claims.in_every_run(runs, rest_of_trace, ROUNDING, "1 − λ_max / Tr H")
    if found.verdict != "fails":
        return found
    reason = (
        "eq. 2 leaves out the mixed derivatives p_ij of the product, which enter H as p_ij X exp(pX); with them H has "
        "three eigenvalues above 0 at low loss"
    )
    return found._replace(explanation=f"{found.explanation}; {reason}")


def is_nearly_rank_one(runs: Sequence[Run]) -> Evidence:
    chosen = without_l2(runs)
    return claims.all_of(
        claims.beyond(chosen, order_of_share, 0.0, "Kendall τ of λ_max / Tr H with the loss", "smaller"),
        claims.beyond(chosen, rest_of_trace, 0.1, "1 − λ_max / Tr H at the end", "smaller"),
    )


def falls_with_the_loss(runs: Sequence[Run]) -> Evidence:
    chosen, metrics = without_l2(runs), {"trace": "Tr H", "lambda_max": "λ_max(H)"}
    return claims.all_of(
        *(
            claims.beyond(chosen, partial(exponent, metric=f"hessian.exact.{name}"), 0.75, f"exponent of {label}")
            for name, label in metrics.items()
        )
    )


EXPERIMENT = Experiment(
    id="g_deep_linear",
    paper="G",
    question="Three weights in a row, exp(w₁w₂w₃X): what do reparameterisation, a falling loss and L2 do to ∇ and H?",
    config="g_deep_linear",
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="loss-is-invariant",
            paper="G",
            where="§2",
            statement="w_i → αw_i, w_j → w_j/α leaves the loss as it is",
            paper_value="follows from the definition",
            rule="relative spread over pairs and α, before and after training, at most 1e-12, rounding, in every run",
            decide=lambda runs: claims.in_every_run(
                runs, partial(spread, quantity="loss"), ROUNDING, "relative spread of the loss"
            ),
        ),
        Claim(
            id="curvature-is-not-invariant",
            paper="G",
            where="§2",
            statement="neither the gradient's norm nor the Hessian's trace or largest eigenvalue is invariant",
            paper_value="an argument without numbers",
            rule="log₁₀ of largest over smallest over pairs and α, trained weights: each above 1, 95 % t-intervals",
            decide=is_not_invariant,
        ),
        Claim(
            id="gradient-aligns",
            paper="G",
            where="§2",
            statement="as α grows the gradient points in the direction of the weight that is divided",
            paper_value="an argument without numbers",
            rule="1 − |∂L/∂w_j| / ‖∇L‖ at the largest α at most 1e-4, trained weights, every run",
            decide=lambda runs: claims.in_every_run(runs, misalignment, 1e-4, "1 − |∂L/∂w_j| / ‖∇L‖"),
        ),
        Claim(
            id="closed-form",
            paper="G",
            where="§2, eq. 1; eq. 2 with p_ij",
            statement="the gradient is p_i X exp(pX), the Hessian (p_i p_j X² + p_ij X) exp(pX)",
            paper_value="equations; eq. 2 has p_i p_j |X| alone",
            rule="relative distance over all copies, before and after training, at most 1e-12, rounding, in every run",
            decide=lambda runs: claims.in_every_run(runs, distance_from_closed_form, ROUNDING, "relative distance"),
        ),
        Claim(
            id="trace",
            paper="G",
            where="§2, eq. 3",
            statement="Tr H = (w₂²w₃² + w₂²w₁² + w₁²w₃²) X² exp(w₁w₂w₃X), |X| of the paper read as X²",
            paper_value="an equation",
            rule="relative distance over all copies of the trained weights at most 1e-12, rounding, in every run",
            decide=lambda runs: claims.in_every_run(runs, distance_from_trace, ROUNDING, "relative distance"),
        ),
        Claim(
            id="rank-one",
            paper="G",
            where="§2, eq. 2, 3",
            statement="H has rank one: its largest eigenvalue is its trace",
            paper_value="an equation",
            rule="1 − λ_max / Tr H after training at most 1e-12, rounding, in every run",
            decide=has_rank_one,
        ),
        Claim(
            id="nearly-rank-one",
            paper="G",
            where="§2",
            statement="one eigenvalue dominates, the more the lower the loss",
            paper_value="rank one",
            rule=(
                f"without L2, at losses below {LOW_LOSS:g}: Kendall τ of λ_max / Tr H with the loss below 0, and "
                "1 − λ_max / Tr H below 0.1 at the end; 95 % t-intervals"
            ),
            decide=is_nearly_rank_one,
        ),
        Claim(
            id="logarithmically",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "what is left of the trace falls as a logarithm: 1 − λ_max / Tr H = 2 / (3 ln(1/loss)) at equal weights"
            ),
            paper_value="not in the paper",
            rule="|(1 − λ_max / Tr H) · 3/2 · ln(1/loss) − 1| after training at most 0.02 in every run",
            decide=lambda runs: claims.in_every_run(runs, distance_from_logarithm, 0.02, "relative distance"),
        ),
        Claim(
            id="falls-with-the-loss",
            paper="G",
            where="§2",
            statement="trace and λ_max go to zero with the loss, the exponential outgrowing the polynomial",
            paper_value="an argument without numbers",
            rule=(
                f"d log(measure) / d log(loss) without L2, at losses below {LOW_LOSS:g}: above 0.75, 95 % t-intervals; "
                "the polynomial keeps it below 1"
            ),
            decide=falls_with_the_loss,
        ),
        Claim(
            id="weight-norm",
            paper="G",
            where="§2",
            statement="L2 reduces the weights",
            paper_value="an argument without numbers",
            rule="Kendall τ of ‖w‖ with L2 in each seed below 0, 95 % t-interval",
            decide=partial(claims.increases, metric="weight_norm", expect="decreases"),
        ),
        Claim(
            id="l2-sharpens",
            paper="G",
            where="§2",
            statement="L2 makes the solution sharper by trace and by λ_max",
            paper_value="an argument without numbers",
            rule="Kendall τ of each with L2 in each seed above 0, 95 % t-intervals",
            decide=lambda runs: claims.all_of(
                claims.increases(runs, metric="hessian.exact.trace"),
                claims.increases(runs, metric="hessian.exact.lambda_max"),
            ),
        ),
        Claim(
            id="adaptive-is-invariant",
            paper="hessflat",
            where="beyond the paper",
            statement="λ_max of |w_i w_j| H_ij, adaptive sharpness, is invariant; λ_max ‖w‖² is not",
            paper_value="not in the paper",
            rule=(
                "relative spread of the first at most 1e-11 in every run, before and after training; decades that the "
                "second spans, trained weights, above 1 by a 95 % t-interval"
            ),
            decide=lambda runs: claims.all_of(
                claims.in_every_run(runs, partial(spread, quantity="adaptive"), 1e-11, "relative spread of the first"),
                claims.beyond(runs, partial(decades, quantity="norm_scaled"), 1.0, "decades that λ_max ‖w‖² spans"),
            ),
        ),
        Claim(
            id="sharpness-is-time",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "without L2 sharpness says how long was trained: λ_max · rate · steps is near 1, whatever the seed"
            ),
            paper_value="not in the paper",
            rule="|λ_max · rate · steps − 1| after training without L2 at most 0.2 in every run",
            decide=lambda runs: claims.in_every_run(without_l2(runs), time_scaled, 0.2, "|λ_max · rate · steps − 1|"),
        ),
    ),
    notes=(
        "The paper's eq. 2 is the outer product of the gradient of w₁w₂w₃ alone, and has |X| where the second "
        "derivative has X². The full Hessian also has the mixed derivatives of the product, off the diagonal: the "
        "trace of eq. 3 is exact with X², its λ_max is not. With u = w₁w₂w₃X, H = exp(u) D [(u² + u) 1 1ᵀ − u I] D, "
        "D = diag(1/w_i): its rank is three but where the loss is 1 or exp(−2/3), it is positive definite below the "
        "latter, and at weights of equal size two eigenvalues are 1 / (3 ln(1/loss) − 2) of the first: rank one is "
        "reached as slowly as a logarithm. "
        "Tr H = ‖∇L‖² / L, so gradient flow has d ln L / dt = −Tr H, and without L2 the trace is about 1 / t."
    ),
)
