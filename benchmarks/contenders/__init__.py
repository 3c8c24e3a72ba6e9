"""Who takes part. A contender is a class in a module of its own, imported only in that contender's process.

Contender(problem, arrays, workload, steps, batch)
    run() -> Result                    what is timed, from arrays on the device to numbers on the host
    prepared() -> product of a vector  the matrix times a flat vector of the contender's own, prepared as in a run
    gradient()                         one full-data gradient, waited for
    loss_and_gradient()                of the same data, the gradient flat in JAX's layout
    product(vector)                    the matrix times a flat vector, both in JAX's layout
    release()                          between two turns
    device_kind(), peak_bytes()        where, and the device's own count of memory or None
reduced(problem, workload)         examples and steps of a smaller run where the whole would take too long, or None
A product is a sum over batches of `batch` examples; `batch_sizes` are those that a contender chooses among.
"""

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.workloads import Workload


class Result(NamedTuple):
    """What a run gives."""

    values: list[float]  # the largest Ritz value, that of each block, or every eigenvalue, ascending
    num_products: int
    parts: dict[str, float] = {}  # noqa: RUF012 (what else it measured)


# A product of all examples, or in so many batches.
SPLITS = (1, 2, 4, 8, 16)
SMALLEST = 12


def batch_sizes(examples: int) -> list[int]:
    """The sizes of a batch that a contender tries: those that divide the examples."""
    sizes = [examples // split for split in SPLITS if examples % split == 0]
    return [size for size in sizes if size == examples or size >= SMALLEST]


OURS = "hessflat"
HAND = "scan by hand"  # what first calls are beside
_JAX, _TORCH = "JAX", "PyTorch"


@dataclass(frozen=True)
class Entry:
    """A contender by name: where it is, what must be installed, what it can do."""

    name: str
    module: str
    class_name: str
    packages: tuple[str, ...]
    framework: str
    does: frozenset[str]
    matrices: tuple[str, ...] = ("hessian", "gauss_newton")
    published: bool = False  # a library of others, not written by hand here
    note: str = ""

    def takes(self, workload: Workload) -> bool:
        able = workload.task in self.does and workload.matrix in self.matrices
        return able and (workload.problem != "language" or self.framework == _JAX)

    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if not _is_installed(package)]

    def load(self) -> Any:
        return getattr(importlib.import_module(f"benchmarks.{self.module}"), self.class_name)


_EVERYTHING = frozenset({"lanczos", "exact", "largest", "blocks"})
_SEARCH = frozenset({"lanczos", "largest"})

ENTRIES = [
    Entry(OURS, "contenders.ours", "Ours", (), _JAX, _EVERYTHING),
    Entry(
        "JAX by hand",
        "contenders.jax_by_hand",
        "JaxByHand",
        (),
        _JAX,
        _EVERYTHING,
        note="a jitted product, NumPy Lanczos on the host; λ_max by SciPy's eigsh; `jax.hessian` and NumPy's eigvalsh",
    ),
    Entry(
        "JAX power iteration",
        "contenders.power_iteration",
        "PowerIteration",
        (),
        _JAX,
        frozenset({"largest"}),
        note="stops when the residual is within 1e-3 of the value",
    ),
    Entry(
        "matfree",
        "contenders.with_matfree",
        "WithMatfree",
        ("matfree",),
        _JAX,
        frozenset({"lanczos"}),
        published=True,
        note="its `tridiag_sym` with full re-orthogonalisation around a product written by hand, in one compiled loop",
    ),
    Entry(
        "PyTorch by hand",
        "contenders.torch_by_hand",
        "TorchByHand",
        ("torch",),
        _TORCH,
        _EVERYTHING,
        note="double backward with the gradient's graph kept, Lanczos with full re-orthogonalisation",
    ),
    Entry(
        "PyHessian, one batch",
        "contenders.with_pyhessian",
        "OneBatch",
        ("torch", "PyHessian"),
        _TORCH,
        _SEARCH,
        ("hessian",),
        published=True,
        note="keeps the gradient's graph; λ_max by its power iteration with its own stopping rule, tolerance 1e-3",
    ),
    Entry(
        "PyHessian, data loader",
        "contenders.with_pyhessian",
        "DataLoader",
        ("torch", "PyHessian"),
        _TORCH,
        _SEARCH,
        ("hessian",),
        published=True,
        note="four batches",
    ),
    Entry(
        "hessian-eigenthings",
        "contenders.with_eigenthings",
        "WithEigenthings",
        ("torch", "hessian-eigenthings"),
        _TORCH,
        _SEARCH,
        published=True,
        note="its re-orthogonalised Lanczos; λ_max by its power iteration, tolerance 1e-3",
    ),
    Entry(
        "curvlinops",
        "contenders.with_curvlinops",
        "WithCurvlinops",
        ("torch", "curvlinops-for-pytorch"),
        _TORCH,
        _EVERYTHING,
        published=True,
        note="its operators, with the Lanczos of `PyTorch by hand`, since its own does not re-orthogonalise; "
        "λ_max by SciPy's eigsh, as its documentation does; its determinism check off",
    ),
    Entry(f"{OURS} products", "own.products", "Products", (), _JAX, frozenset({"products"})),
    Entry(f"{OURS} basis", "own.basis", "Basis", (), _JAX, frozenset({"basis"})),
    Entry(f"{OURS} blocks", "own.blocks", "Blocks", (), _JAX, frozenset({"block_cost"})),
    Entry(f"{OURS} tracking", "own.tracking", "Tracking", (), _JAX, frozenset({"tracking"})),
    Entry(f"{OURS} first calls", "own.first_calls", "FirstCalls", (), _JAX, frozenset({"first_calls"})),
    Entry(f"{OURS} small calls", "own.first_calls", "SmallCalls", (), _JAX, frozenset({"small_calls"})),
    Entry(f"{OURS} device", "own.device", "Device", (), _JAX, frozenset({"device"})),
]
BY_NAME = {entry.name: entry for entry in ENTRIES}


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
