"""Optimisers that several probes share. Each takes a plain classifier, never a target."""
