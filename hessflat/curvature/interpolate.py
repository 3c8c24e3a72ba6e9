"""Moved to `landscape`."""

from hessflat.curvature.landscape import line

__all__ = ["line"]
