"""Lanczos recurrences, and what is read off them: spectra and extremal eigenpairs."""
