"""Probes of fairness and bias."""
