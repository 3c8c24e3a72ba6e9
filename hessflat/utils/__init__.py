"""Errors, files, memory, progress and loops: what knows nothing of the project."""
