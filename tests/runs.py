"""What tests of runs share: a small configuration, what a command says, and what a finished run left on disk."""

import re

from benchmarks.chaos.tiny import final_state, metrics, run_all, spectra, tiny

__all__ = ["final_state", "leaf_files", "lines_but_progress", "metrics", "run_all", "spectra", "tiny"]


def leaf_files(checkpoint):
    """The numbers of each leaf: chunks of a Zarr array are named by their indices."""
    return sorted(path for path in checkpoint.glob("default/*/*") if path.name[0].isdigit())


def lines_but_progress(errors):
    """The lines of a command's standard error, but for those that a slow one says of its progress every ten seconds."""
    return [line for line in errors.splitlines() if not re.match(r" *\d+%  ", line)]
