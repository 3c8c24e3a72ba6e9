"""Curvature along a training: an operator that follows its parameters, and what is measured of it step by step."""
