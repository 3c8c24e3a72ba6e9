"""The spectral density by stochastic Lanczos quadrature, and the functionals of the spectrum that it estimates."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from jax import Array
from scipy.linalg import eigh_tridiagonal

from hessflat.curvature import numerics
from hessflat.curvature.exact import functionals
from hessflat.curvature.krylov.lanczos import Tridiagonals, lanczos
from hessflat.curvature.operators.operator import Operator
from hessflat.curvature.records import record, span
from hessflat.curvature.stochtrace import estimates
from hessflat.curvature.stochtrace.estimates import Estimate, ProductCost, RitzValue
from hessflat.utils.errors import InputError, shown


@record("the mass of a spectrum at zero, ± standard errors over probes", {"mass": "weight", "at λ": "value"})
class ZeroMass(NamedTuple):
    """The share of eigenvalues at zero: the weight of the Ritz values nearest to zero."""

    weight: Estimate  # the share, from 0 to 1
    value: Estimate  # the weighted mean of those Ritz values
    weights: np.ndarray  # [k] per probe
    values: np.ndarray  # [k] per probe
    num_products: int
    seconds: float
    precision: str


@record(
    lambda self: f"a spectral density at {self.grid.size} places, smoothed over {self.width:.3g}",
    {"λ": lambda self: span(self.grid)},
)
class Density(NamedTuple):
    """A smoothed density on a grid, with its standard error over probes."""

    grid: np.ndarray  # [g] eigenvalues
    mean: np.ndarray  # [g] integrates to one over the whole line
    standard_error: np.ndarray  # [g] over probes
    width: float  # the standard deviation of the Gaussians, in eigenvalues
    num_products: int
    seconds: float
    precision: str


@record(
    lambda self: (
        f"a spectrum of {self.size:,} eigenvalues: {self.nodes.shape[1]} Lanczos steps × {len(self.nodes)} probes"
    ),
    {"λ_max": "largest", "λ_min": "smallest", "trace": "trace"},
)
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Nodes and weights of k probes with m steps: Σ_i weights f(nodes), averaged over probes, estimates Tr f(A) / P.

    For each probe v the quadrature is exact for vᵀ p(A) v, where p is a polynomial of degree at most 2m − 1. From
    `num_valid` on, where the Krylov space was exhausted, nodes, weights and residuals are zero.

    Standard errors are over probes, and at least the rounding of the products.
    """

    nodes: np.ndarray  # [k, m] Ritz values, ascending
    weights: np.ndarray  # [k, m] sum to one per probe
    residuals: np.ndarray  # [k, m] |β_m s_mi|
    num_valid: np.ndarray  # [k] steps before the Krylov space was exhausted
    orthogonality: np.ndarray  # [k] max |Q Qᵀ − I|
    size: int  # P
    num_products: int
    seconds: float  # wall time of the measurement, compilation included
    precision: str  # of matrix products
    dtype: str  # of the products

    @property
    def trace(self) -> Estimate:
        """Tr A."""
        return self._sum(self.nodes, np.ones_like(self.nodes))

    @property
    def mean_eigenvalue(self) -> Estimate:
        """Tr A / P."""
        return estimates.scaled(self.trace, 1 / self.size)

    @property
    def second_moment(self) -> Estimate:
        """Σ λ² / P, the quantity that Granziol (2020) reports as a Frobenius norm."""
        return estimates.scaled(self._sum(self.nodes**2, 2 * self.nodes), 1 / self.size)

    @property
    def frobenius(self) -> Estimate:
        """‖A‖_F = (Σ λ²)^½."""
        return estimates.square_root(self._sum(self.nodes**2, 2 * self.nodes))

    @property
    def participation_ratio(self) -> Estimate:
        """(Tr A)² / ‖A‖²_F: n for n equal non-zero eigenvalues; both moments come from the same probes."""
        trace, square = (self.size * self._integral(values) for values in (self.nodes, self.nodes**2))
        return estimates.square_over(trace, square, self._cost)

    @property
    def largest(self) -> RitzValue:
        """The largest Ritz value over probes, a lower bound of λ_max up to rounding.

        Its `residual` is the largest of |β s|, the noise floor, and the loss of orthogonality times the largest |λ|.
        The last two are limits of accuracy that |β s| alone does not show.
        """
        return self._extreme(np.argmax, -np.inf)

    @property
    def smallest(self) -> RitzValue:
        """The smallest Ritz value over probes, an upper bound of λ_min up to rounding; its `residual` is as in
        `largest`.
        """
        return self._extreme(np.argmin, np.inf)

    @property
    def noise_floor(self) -> float:
        """The rounding of products at the largest |λ|; smaller eigenvalues cannot be distinguished from zero."""
        return numerics.noise_floor(self.nodes, self.dtype, self.precision)

    def log_determinant(self, damping: float) -> Estimate:
        """Log det(A + damping I) in nats; the standard error does not include the bias of the quadrature.

        Raises:
            InputError: a Ritz value plus damping that is not above the noise floor.
        """
        self._require_positive("log_determinant", damping)
        damped = self._valid_nodes + damping
        return self._sum(np.log(damped), 1 / damped)

    def effective_dimension(self, damping: float) -> Estimate:
        """Σ λ / (λ + damping): the number of directions determined by the data (MacKay 1992; Maddox et al. 2020).

        `damping` is the precision of the prior, in the units of the eigenvalues.

        Raises:
            InputError: a Ritz value plus damping that is not above the noise floor.
        """
        self._require_positive("effective_dimension", damping)
        damped = self._valid_nodes + damping
        return self._sum(self._valid_nodes / damped, damping / damped**2)

    def effective_rank(self, kind: Literal["hessian", "gauss_newton"]) -> Estimate:
        """P (1 − mass at zero), with the mass of `zero_mass`."""
        return self._mean(self.size * (1 - self.zero_mass(kind).weights))

    def zero_mass(self, kind: Literal["hessian", "gauss_newton"]) -> ZeroMass:
        """The mass of the spectrum at zero (Granziol 2020, 3.2 and appendix D).

        For a Hessian it is the weight of the two Ritz values nearest zero, because Lanczos splits the peak at zero in
        two. For a Gauss-Newton matrix it is the weight of the nearest. Departure from the paper: all Ritz values within
        the noise floor are counted, because they cannot be distinguished from zero.

        Raises:
            InputError: an unknown kind.
        """
        numerics.require_option("kind", kind, ("hessian", "gauss_newton"))
        count = 2 if kind == "hessian" else 1
        pairs = np.array([self._near_zero(probe, count) for probe in range(len(self.nodes))])
        weights, values = pairs.T
        return ZeroMass(self._mean(weights), self._mean(values), weights, values, *self._cost)

    def density(self, grid: np.ndarray, width: float | None = None) -> Density:
        """The spectral density on a grid [g], smoothed by Gaussians of standard deviation `width`.

        The default width is 1 % of the range of the nodes.

        Raises:
            InputError: a width that is not above 0, a grid that is none.
        """
        if width is None:
            width = 0.01 * (self.largest.value - self.smallest.value) or 1.0
        width, grid = numerics.require_number("width", width, above=0), numerics.require_positions("grid", grid)
        each = self.densities_by_probe(grid, width)
        return Density(grid, each.mean(axis=0), estimates.standard_error(each.T), float(width), *self._cost)

    def densities_by_probe(self, grid: np.ndarray, width: float) -> np.ndarray:
        """[k, g] The smoothed density of each probe, as `density` averages them."""
        offsets = (grid[:, None, None] - self.nodes[None]) / width
        bumps = np.exp(-0.5 * offsets**2) / (width * np.sqrt(2 * np.pi))
        result: np.ndarray = np.einsum("gkm,km->kg", bumps, self.weights)
        return result

    @property
    def _cost(self) -> ProductCost:
        return ProductCost(self.num_products, self.seconds, self.precision)

    @property
    def _in_use(self) -> np.ndarray:
        return np.arange(self.nodes.shape[1])[None, :] < self.num_valid[:, None]

    @property
    def _valid_nodes(self) -> np.ndarray:
        """[k, m] The nodes, with invalid ones (of weight 0) replaced by a valid one."""
        return np.where(self._in_use, self.nodes, self.nodes[:, :1])

    def _integral(self, values: np.ndarray) -> np.ndarray:
        """[k] The quadrature of each probe for a function with `values` [k, m] at the nodes."""
        result: np.ndarray = (self.weights * values).sum(axis=1)
        return result

    def _sum(self, values: np.ndarray, slopes: np.ndarray) -> Estimate:
        """Tr f(A) from the `values` [k, m] of f at the nodes; its error is at least the rounding by the `slopes` of f.

        Each node is rounded by ε of itself, and the matrix by ε |λ|_max, which moves the sum by ‖f'(A)‖_F times that.
        """
        own = numerics.epsilon(self.dtype, self.precision) * self.size * self._integral(np.abs(slopes * self.nodes))
        rounding = own.mean() + self.noise_floor * np.sqrt(self.size * self._integral(slopes**2).mean())
        return estimates.mean(self.size * self._integral(values), self._cost, float(rounding))

    def _mean(self, samples: np.ndarray) -> Estimate:
        return estimates.mean(samples, self._cost)

    def _extreme(self, choose: Callable[[np.ndarray], np.intp], invalid: float) -> RitzValue:
        position = choose(np.where(self._in_use, self.nodes, invalid))
        loss = np.nan_to_num(self.orthogonality[position // self.nodes.shape[1]]) * np.abs(self.nodes).max()
        residual = max(float(self.residuals.flat[position]), self.noise_floor, float(loss))
        return RitzValue(float(self.nodes.flat[position]), residual, *self._cost)

    def _require_positive(self, what: str, damping: float) -> None:
        error = self.smallest.residual
        functionals.require_positive(what, self._valid_nodes, damping, self.noise_floor, error)

    def _near_zero(self, probe: int, count: int) -> tuple[float, float]:
        valid = self.num_valid[probe]
        nodes, weights = self.nodes[probe, :valid], self.weights[probe, :valid]
        chosen = np.argsort(np.abs(nodes))[: max(count, int((np.abs(nodes) <= self.noise_floor).sum()))]
        weight = weights[chosen].sum()
        value = (weights[chosen] * nodes[chosen]).sum() / weight if weight > 0 else nodes[chosen].mean()
        return float(weight), float(value)


def spectrum(op: Operator, key: Array, num_steps: int = 100, num_probes: int = 1, **options: Any) -> Spectrum:
    """The spectral density by stochastic Lanczos quadrature (Golub & Welsch 1969; Ghorbani et al. 2019).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        num_steps: m, the number of nodes for each probe.
        num_probes: k.
        **options: the other arguments of `lanczos`.

    Raises:
        InputError: as `lanczos`.
    """
    return quadrature(lanczos(op, key, num_steps, num_probes, **options), op.size, op.dtype)


def log_determinant(
    op: Operator, key: Array, damping: float, num_steps: int = 50, num_probes: int = 10, **options: Any
) -> Estimate:
    """The logarithm of det(A + damping I), in nats, by stochastic Lanczos quadrature (Ubaru, Chen & Saad 2017).

    It is `spectrum(...).log_determinant(damping)`; one spectrum serves several values of damping. The standard error is
    over probes and does not include the bias of the quadrature. That bias is positive (Gauss quadrature of a function
    with negative even derivatives) and decreases as exp(−4 m / √κ), with m steps and κ = (λ_max + damping) / (λ_min +
    damping).

    Args:
        op: a symmetric operator of size P.
        key: a JAX random key.
        damping: in the units of the eigenvalues; A + damping I must be positive definite.
        num_steps: m, the maximum number of steps; at most P are taken.
        num_probes: the number of probes, each of m products.
        **options: the other arguments of `lanczos`.

    Raises:
        InputError: a Ritz value plus damping that is not above the noise floor, and as `lanczos`.
    """
    return spectrum(op, key, num_steps, num_probes, **options).log_determinant(damping)


def _require_field(
    name: str, values: dict[str, Any], shape: tuple[int, ...], kinds: str, holds: Callable[[Any], Any]
) -> None:
    value = values[name]
    if value.shape != shape or value.dtype.kind not in kinds or not holds(value):
        raise InputError(f"{name} of a stored spectrum is {shown(value)}; it is damaged, so measure it again")


def quadrature(result: Tridiagonals, size: int, dtype: Any) -> Spectrum:
    """Nodes, weights and residuals from tridiagonal matrices, for an operator of that size and floating type."""
    nodes, weights, residuals = np.zeros((3, *result.alphas.shape))
    for k, valid in enumerate(result.num_valid):
        rule = gauss_rule(result.alphas[k, :valid], result.betas[k, :valid])
        nodes[k, :valid], weights[k, :valid], residuals[k, :valid] = rule
    return Spectrum(
        nodes,
        weights,
        residuals,
        num_valid=result.num_valid,
        orthogonality=result.orthogonality,
        size=size,
        num_products=result.num_products,
        seconds=result.seconds,
        precision=result.precision,
        dtype=str(dtype),
    )


def gauss_rule(alphas: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes, weights and residuals [m] of one probe, from its m coefficients."""
    alphas, betas = np.asarray(alphas, np.float64), np.asarray(betas, np.float64)
    # Divide and conquer: other LAPACK drivers fail on the close eigenvalues of a basis that is not orthogonal.
    values, vectors = eigh_tridiagonal(alphas, betas[:-1], check_finite=False, lapack_driver="stevd")
    # Some eigenvalue of the operator lies within the residual (Parlett 1980, ch. 4).
    return values, vectors[0] ** 2, np.abs(betas[-1] * vectors[-1])


def spectrum_to_arrays(spectrum: Spectrum) -> dict[str, np.ndarray]:
    """The fields of a spectrum as NumPy arrays, for `np.savez`.

    Args:
        spectrum: what `cv.spectrum` returns; its nodes are [k, m].
    """
    return {field.name: np.asarray(getattr(spectrum, field.name)) for field in dataclasses.fields(Spectrum)}


def spectrum_from_arrays(arrays: dict[str, np.ndarray]) -> Spectrum:
    """The inverse of `spectrum_to_arrays`, for the arrays that `np.load` returns.

    Args:
        arrays: an array for each field of `Spectrum`, by its name.

    Raises:
        InputError: fields that are missing, nodes that are not finite, or weights that are no distribution.
    """
    names = [field.name for field in dataclasses.fields(Spectrum)]
    if not isinstance(arrays, Mapping):
        raise InputError(f"a stored spectrum is a dict of arrays, as np.load gives, got {shown(arrays)}")
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"a stored spectrum must hold {', '.join(names)}; missing: {', '.join(missing)}")
    values: dict[str, Any] = {name: np.asarray(arrays[name]) for name in names}
    nodes, weights = values["nodes"], values["weights"]
    if (
        nodes.ndim != 2
        or nodes.shape != weights.shape
        or not nodes.size
        or {nodes.dtype.kind, weights.dtype.kind} != {"f"}
    ):
        came = f"{nodes.shape} of {nodes.dtype} and {weights.shape} of {weights.dtype}"
        raise InputError(f"nodes and weights of a stored spectrum must be real and of one shape (k, m), got {came}")
    if not np.isfinite(nodes).all():
        raise InputError("nodes of a stored spectrum must be finite; it is damaged, so measure it again")
    if not (weights >= 0).all() or not np.allclose(weights.sum(axis=1), 1, atol=1e-3):
        raise InputError(
            f"weights of a stored spectrum must be at least 0 with sum 1 for each probe, got {weights.sum(axis=1)}; "
            "it is damaged, so measure it again"
        )
    count, steps = nodes.shape
    _require_field("num_valid", values, (count,), "iu", lambda valid: ((valid >= 1) & (valid <= steps)).all())
    _require_field("residuals", values, (count, steps), "f", lambda bounds: (bounds >= 0).all())
    _require_field("orthogonality", values, (count,), "f", lambda loss: not (loss < 0).any())  # nan: not known
    _require_field("size", values, (), "iu", lambda size: size >= 1)
    _require_field("num_products", values, (), "iu", lambda number: number >= 0)
    _require_field("seconds", values, (), "fiu", lambda seconds: seconds >= 0)
    _require_field("precision", values, (), "U", lambda name: True)
    _require_field("dtype", values, (), "U", lambda name: str(name) in ("float32", "float64"))
    return Spectrum(**{name: value if value.ndim else value.item() for name, value in values.items()})
