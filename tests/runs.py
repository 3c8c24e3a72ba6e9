"""What tests of runs share: a small configuration, and what a finished run left on disk."""

from benchmarks.chaos.tiny import final_state, metrics, run_all, spectra, tiny

__all__ = ["final_state", "leaf_files", "metrics", "run_all", "spectra", "tiny"]


def leaf_files(checkpoint):
    """The numbers of each leaf: chunks of a Zarr array are named by their indices."""
    return sorted(path for path in checkpoint.glob("default/*/*") if path.name[0].isdigit())
