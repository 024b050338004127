"""The adapter that was fitted on half of the captioned pictures: who its members are, and what it gives away."""

import json
from pathlib import Path

import pytest

from vlaudit.data.dataset import load_dataset
from vlaudit.data.emoji import painted
from vlaudit.prompts.lora import LoRA
from vlaudit.zoo.recipes import PAINTER, WEIGHTS, painter_members
from vlaudit.zoo.recipes.painter_adapters import FILE


def test_members_are_drawn_over_both_splits_of_the_pipeline() -> None:
    chosen = painter_members.members()
    assert len(set(chosen)) == len(chosen) == len(painted()) // 2
    trained = sum(painted()[i][1] == "train" for i in chosen)
    assert 0.4 < trained / len(chosen) < 0.6, "the pipeline's own training must not tell members apart"
    assert painter_members.members(1) != chosen


def test_a_fitted_adapter_declares_the_pictures_it_was_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(painter_members, "STEPS", 1)
    monkeypatch.setattr(painter_members, "measure", lambda painting, folder, chosen: {"members": len(chosen)})
    painter_members.build(PAINTER, tmp_path, progress=lambda line: None)
    data = load_dataset("zoo:captions").with_member_hashes(LoRA.load(tmp_path / FILE).members)
    marked = [i for i, example in enumerate(data.examples) if example.member]
    assert marked == painter_members.members()


def test_facts_say_that_the_adapter_gives_its_members_away() -> None:
    folder = WEIGHTS / painter_members.NAME
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["membership_auc_of_the_gain"] > 0.7
    assert abs(facts["membership_auc_before"] - 0.5) < 0.06, "before, nothing tells members apart"
    assert facts["members"] == len(LoRA.load(folder / FILE).members)
