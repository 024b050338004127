"""What would decide an inconclusive finding, and how the user sets it. Torch-free."""

from __future__ import annotations

from vlaudit.probe import Claim


def more(claim: Claim, units: str, parameter: str, *, near: str | None = None) -> str:
    """``"; about 120 pictures would decide (parameter pictures, or --effort)"``; nothing where the verdict stands. ``near``: what is
    said where no number would, by default that it is too near the threshold."""
    said = claim.would_decide(units) if near is None else claim.would_decide(units, near=near)
    return f"{said} (parameter {parameter}, or --effort)" if " would decide" in said else said
