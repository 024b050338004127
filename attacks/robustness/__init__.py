"""Probes of adversarial robustness."""
