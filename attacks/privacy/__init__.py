"""Probes of what a target reveals about its training data."""
