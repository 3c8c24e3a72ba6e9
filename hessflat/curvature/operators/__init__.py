"""Curvature matrices as linear maps on parameter trees."""
