"""Loss curvature in JAX: spectra of Hessians, Gauss-Newton matrices and Jacobians, with error bars."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessflat.report.frames import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What most who use the library do not need is imported when it is asked for."""
    if name == "load":
        from hessflat.report.frames import load

        return load
    raise AttributeError(f"module 'hessflat' has no attribute {name!r}")
