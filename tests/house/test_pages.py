"""The page of each probe: one question, then the same headings in the same order, remedy included."""

from __future__ import annotations

import re

import pytest

from vlaudit.pages import HEADINGS, sections, thresholds
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


@pytest.mark.parametrize("name", OWN)
def test_every_number_that_decides_has_a_meaning_and_a_source(name: str) -> None:
    info = REGISTRY.classes[name].info
    assert info.threshold is not None
    for _, _, meaning, source in thresholds(info):
        assert len(meaning.split()) >= 4
        assert source.startswith("our choice, because ") or re.search(r"arXiv:|doi:|CFR|EU |ISO|NIST|\(\d{4}\)|\b(19|20)\d\d\b", source)


@pytest.mark.parametrize("name", OWN)
def test_a_finding_is_told_in_plain_words_with_a_remedy(name: str) -> None:
    info = REGISTRY.classes[name].info
    assert 5 <= len(info.headline.split()) <= 16 and info.headline != info.title and info.headline[-1] not in ".?"
    assert len(info.impact.split()) >= 10 and len(info.remedy.split()) >= 10
    assert "``" not in info.impact + info.remedy and "\n" not in info.remedy.replace("\n\n", "")
