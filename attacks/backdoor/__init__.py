"""Probes for backdoors in weights and in learned prompts."""
