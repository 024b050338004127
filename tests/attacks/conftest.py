"""``pytest -k PROBE``: a probe's tests are found by its id, which is the name of their module with hyphens."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    item.extra_keyword_matches.add(item.path.stem.removeprefix("test_").replace("_", "-"))
