"""The matcher with real weights, built once and kept where VLAUDIT_REAL says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.real.matcher import build


@pytest.fixture(scope="session")
def real_matcher() -> Path:
    """A folder with ``model`` and ``data``."""
    kept = Path(os.environ.get("VLAUDIT_REAL", Path.home() / ".cache" / "vlaudit-real"))
    return build(kept, kept / "packages")
