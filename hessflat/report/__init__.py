"""Figures, the page and the terminal's summary, from what analysis found."""
