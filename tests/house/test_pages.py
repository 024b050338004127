"""The page of each probe: one question, then the same headings in the same order, remedy included."""

from __future__ import annotations

import pytest

from vlaudit.pages import HEADINGS, sections
from vlaudit.plugins import OWN_PACKAGE
from vlaudit.registry import ProbeRegistry

REGISTRY = ProbeRegistry.load()
OWN = [name for name, origin in REGISTRY.origins.items() if origin.split()[0] == OWN_PACKAGE]


@pytest.mark.parametrize("name", OWN)
def test_each_page_has_the_same_headings(name: str) -> None:
    question, *rest = sections(REGISTRY.classes[name].documentation())
    assert question.text.split("\n\n")[0].rstrip().endswith("?"), "a page begins with the question that the probe answers"
    titles = [section.title.split(",")[0] for section in rest]
    once = list(dict.fromkeys(titles))
    assert once == [heading for heading in HEADINGS if heading in once], "the order is that of HEADINGS"
    assert set(HEADINGS) <= set(once)
    assert all(len(section.text.split()) >= 5 for section in rest if section.title != "References")
