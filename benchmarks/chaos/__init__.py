"""Runs under damage: a seeded kit that damages, stops and kills them, and compares them with undisturbed ones."""
