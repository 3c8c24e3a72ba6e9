"""A deep linear network with three weights under the exponential loss: reparameterisation, training, and L2.

*Flatness is a False Friend*, §2; the closed forms are in `hessflat.analysis.deep_linear`.
"""

from collections.abc import Sequence
from functools import partial

from experiments.granziol2020.deep_linear_figures import draw, tabulate, without_l2
from hessflat.analysis import claims, limits
from hessflat.analysis.deep_linear import (
    LOW_LOSS,
    QUANTITIES,
    decades,
    distance_from_closed_form,
    distance_from_largest_share,
    distance_from_trace,
    exponent_of_loss,
    misalignment,
    order_of_share,
    relative_spread,
    reparameterised_copies,
    rest_of_trace,
    sharpness_times_time,
)
from hessflat.analysis.evidence import all_hold
from hessflat.analysis.experiment import Claim, Evidence, Experiment
from hessflat.analysis.results import Run

ROUNDING = 1e-12
X = "data.point.x"


def from_closed_form(run: Run) -> float:
    """The relative distance of gradient and Hessian from the closed forms; the larger of before and after training."""
    return max(
        distance_from_closed_form(reparameterised_copies(run, step), run.setting(X)) for step in (run.first_step, None)
    )


def from_trace(run: Run) -> float:
    """The relative distance of the trace after training from its closed form."""
    return distance_from_trace(reparameterised_copies(run), run.setting(X))


def is_not_invariant(runs: Sequence[Run]) -> Evidence:
    """Do gradient norm, λ_max and trace span more than a decade over reparameterised copies of the trained weights?"""
    parts = ("gradient", "lambda_max", "trace")
    words = {part: f"decades that {QUANTITIES[part].name} spans over copies of the trained weights" for part in parts}
    return all_hold(
        *(limits.exceeds(runs, partial(decades, quantity=part), 1.0, words[part]) for part in parts),
    )


def has_rank_one(runs: Sequence[Run]) -> Evidence:
    """Is 1 − λ_max / Tr H after training within rounding of 0 in every run, as §2 states?"""
    evidence = limits.in_every_run(runs, rest_of_trace, ROUNDING, "1 − λ_max / Tr H after training")
    if evidence.verdict != "fails":
        return evidence
    reason = (
        "eq. 2 leaves out the mixed derivatives p_ij of the product, which add p_ij X exp(pX) to H; with them H has "
        "three positive eigenvalues at low loss"
    )
    return evidence._replace(explanation=f"{evidence.explanation}; {reason}")


def is_nearly_rank_one(runs: Sequence[Run]) -> Evidence:
    """Does λ_max / Tr H tend to 1 as the loss falls without L2, and is it above 0.9 at the end?"""
    chosen = without_l2(runs)
    order = f"Kendall τ over training of λ_max / Tr H with the loss, at losses below {LOW_LOSS:g} without L2"
    return all_hold(
        limits.on_one_side(chosen, order_of_share, order, "smaller"),
        limits.falls_below(chosen, rest_of_trace, 0.1, "1 − λ_max / Tr H at the end without L2", "log"),
    )


def falls_with_the_loss(runs: Sequence[Run]) -> Evidence:
    """Do trace and λ_max fall at least as loss^0.75 without L2?"""
    chosen, metrics = without_l2(runs), {"trace": "Tr H", "lambda_max": "λ_max(H)"}
    return all_hold(
        *(
            limits.exceeds(
                chosen,
                partial(exponent_of_loss, metric=f"hessian.exact.{name}"),
                0.75,
                f"exponent of the loss in {label}, at losses below {LOW_LOSS:g} without L2",
            )
            for name, label in metrics.items()
        )
    )


EXPERIMENT = Experiment(
    id="g_deep_linear",
    paper="G",
    question="How do reparameterisation, training and L2 change the gradient and the Hessian of exp(w₁w₂w₃X)?",
    config="g_deep_linear",
    all_digits=True,
    draw=draw,
    tabulate=tabulate,
    claims=(
        Claim(
            id="loss-is-invariant",
            paper="G",
            where="§2",
            statement="w_i → αw_i, w_j → w_j/α leaves the loss unchanged",
            paper_value="follows from the definition",
            decide=lambda runs: limits.in_every_run(
                runs,
                partial(relative_spread, quantity="loss"),
                ROUNDING,
                "relative spread of the loss over copies, before and after training,",
            ),
        ),
        Claim(
            id="curvature-is-not-invariant",
            paper="G",
            where="§2",
            statement="neither the gradient's norm nor the Hessian's trace or largest eigenvalue is invariant",
            paper_value="an argument without numbers",
            decide=is_not_invariant,
        ),
        Claim(
            id="gradient-aligns",
            paper="G",
            where="§2",
            statement="as α grows, the gradient aligns with the weight that is divided by α",
            paper_value="an argument without numbers",
            decide=lambda runs: limits.in_every_run(
                runs,
                lambda run: misalignment(reparameterised_copies(run)),
                1e-4,
                "1 − |∂L/∂w_j| / ‖∇L‖ at the largest α, trained weights,",
            ),
        ),
        Claim(
            id="closed-form",
            paper="G",
            where="§2, eq. 1; eq. 2 with p_ij",
            statement="the gradient is p_i X exp(pX), the Hessian (p_i p_j X² + p_ij X) exp(pX)",
            paper_value="equations; eq. 2 has p_i p_j |X| alone",
            decide=lambda runs: limits.in_every_run(
                runs, from_closed_form, ROUNDING, "relative distance from the closed form, before and after training,"
            ),
        ),
        Claim(
            id="trace",
            paper="G",
            where="§2, eq. 3",
            statement="Tr H = (w₂²w₃² + w₂²w₁² + w₁²w₃²) X² exp(w₁w₂w₃X), with X² for the paper's |X|",
            paper_value="an equation",
            decide=lambda runs: limits.in_every_run(
                runs, from_trace, ROUNDING, "relative distance from the closed form of the trace, trained weights,"
            ),
        ),
        Claim(
            id="rank-one",
            paper="G",
            where="§2, eq. 2, 3",
            statement="H has rank one: its largest eigenvalue is its trace",
            paper_value="an equation",
            decide=has_rank_one,
        ),
        Claim(
            id="nearly-rank-one",
            paper="G",
            where="§2",
            statement="the lower the loss, the more one eigenvalue dominates",
            paper_value="rank one",
            decide=is_nearly_rank_one,
        ),
        Claim(
            id="logarithmically",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "the rest of the trace falls as a logarithm: 1 − λ_max / Tr H = 2 / (3 ln(1/loss)) at equal weights"
            ),
            paper_value="not in the paper",
            decide=lambda runs: limits.in_every_run(
                runs, distance_from_largest_share, 0.02, "|(1 − λ_max / Tr H) · 3/2 · ln(1/loss) − 1| after training"
            ),
        ),
        Claim(
            id="falls-with-the-loss",
            paper="G",
            where="§2",
            statement=(
                "trace and λ_max go to zero with the loss, because the exponential falls faster than the polynomial "
                "grows"
            ),
            paper_value="an argument without numbers",
            decide=falls_with_the_loss,
        ),
        Claim(
            id="weight-norm",
            paper="G",
            where="§2",
            statement="L2 reduces the weights",
            paper_value="an argument without numbers",
            decide=partial(claims.increases, metric="weight_norm", expect="decreases"),
        ),
        Claim(
            id="l2-sharpens",
            paper="G",
            where="§2",
            statement="L2 makes the solution sharper by trace and by λ_max",
            paper_value="an argument without numbers",
            decide=lambda runs: all_hold(
                claims.increases(runs, metric="hessian.exact.trace"),
                claims.increases(runs, metric="hessian.exact.lambda_max"),
            ),
        ),
        Claim(
            id="adaptive-is-invariant",
            paper="hessflat",
            where="beyond the paper",
            statement="adaptive sharpness, λ_max of |w_i w_j| H_ij, is invariant, but λ_max ‖w‖² is not",
            paper_value="not in the paper",
            decide=lambda runs: all_hold(
                limits.in_every_run(
                    runs,
                    partial(relative_spread, quantity="adaptive"),
                    1e-11,
                    "relative spread of adaptive sharpness over copies",
                ),
                limits.exceeds(
                    runs,
                    partial(decades, quantity="norm_scaled"),
                    1.0,
                    "decades that λ_max ‖w‖² spans over copies of the trained weights",
                ),
            ),
        ),
        Claim(
            id="sharpness-is-time",
            paper="hessflat",
            where="beyond the paper",
            statement=(
                "without L2, sharpness tells how long training took: λ_max · rate · steps is near 1 for every seed"
            ),
            paper_value="not in the paper",
            decide=lambda runs: limits.in_every_run(
                without_l2(runs),
                lambda run: abs(sharpness_times_time(run) - 1),
                0.2,
                "|λ_max · rate · steps − 1| without L2",
            ),
        ),
    ),
    notes=(
        "The paper's eq. 2 is the outer product of the gradient of w₁w₂w₃ alone, and has |X| where the second "
        "derivative has X². The full Hessian also has the mixed derivatives of the product, off the diagonal: the "
        "trace of eq. 3 is exact with X², its λ_max is not. With u = w₁w₂w₃X and D = diag(1/w_i), H = exp(u) D [(u² + "
        "u) 1 1ᵀ − u I] D. Its rank is three, except where the loss is 1 or exp(−2/3). It is positive definite below "
        "the latter loss. At weights of equal size two eigenvalues are 1 / (3 ln(1/loss) − 2) of the first, so that H "
        "approaches rank one only logarithmically. Tr H = ‖∇L‖² / L, so gradient flow has d ln L / dt = −Tr H. "
        "Without L2 the trace is therefore about 1 / t."
    ),
)
