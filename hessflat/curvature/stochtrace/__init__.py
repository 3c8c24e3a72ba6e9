"""Stochastic estimates of traces."""
