"""Arithmetic on parameter trees, probes, sums and estimates."""
