"""Loss curvature in JAX: spectra of Hessians, Gauss-Newton matrices and Jacobians, with error bars."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessflat.report.frames import load
    from hessflat.utils.compiled import compile_cache

__all__ = ["compile_cache", "load"]

__version__ = "0.2.0"

_MODULES = {"compile_cache": "hessflat.utils.compiled", "load": "hessflat.report.frames"}


def __getattr__(name: str) -> Any:
    """What most who use the library do not need is imported when it is asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'hessflat' has no attribute {name!r}")
