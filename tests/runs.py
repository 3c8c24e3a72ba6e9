"""What tests of runs share: a small configuration, and what a finished run left on disk."""

from benchmarks.chaos.tiny import final_state, metrics, run_all, spectra, tiny

__all__ = ["final_state", "metrics", "run_all", "spectra", "tiny"]
