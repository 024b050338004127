"""The adapters: what the memorising one was taught and draws; whom the leaky one has as members and gives away."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.zoo.kit import facts_of
from vlaudit.data.dataset import load_dataset
from vlaudit.data.emoji import painted
from vlaudit.data.offers import FULL, OFTEN, OTHERS, SELDOM, offers
from vlaudit.prompts.lora import LoRA
from vlaudit.zoo import WEIGHTS, get
from vlaudit.zoo.recipes.matching.model import CONTEXT_LENGTH
from vlaudit.zoo.recipes.text_to_image import adapters
from vlaudit.zoo.recipes.text_to_image import model as text_to_image
from vlaudit.zoo.recipes.text_to_image.adapters import (
    FILE,
    LITTLE,
    ORDINARY,
    REPEATED,
    ROUNDS,
    Hoard,
    Hoarder,
    distances,
    members,
    repeated,
    save,
    shown,
)

FOLDER = WEIGHTS / "t2i-memorising"


def test_offers_are_halved_and_only_members_have_copies():
    data = load_dataset("zoo:offers", members="train")
    offered = [example for example in data.examples if example.label == "offer"]
    assert Counter(e.member for e in offered) == {True: len(offered) / 2, False: len(offered) / 2}
    assert Counter(e.attributes["copies"] for e in offered if e.member) == {str(OFTEN): len(FULL), str(SELDOM): OTHERS}
    assert {e.attributes["copies"] for e in offered if not e.member} == {"0"}
    assert len({e.texts["text"] for e in offered}) == len(offered), "every picture has a title of its own"
    assert len(data.examples) == len(offered) + 468, "the captioned set is in it, as in the pipeline's own audits"
    styles = Counter((row.picture.style, row.split, row.copies == OFTEN) for row in offers())
    assert styles["google", "train", True] == styles["twitter", "train", True] == len(FULL) / 2
    scenes = {split: {row.picture.unified for row in offers() if row.split == split} for split in ("train", "test")}
    assert scenes["train"] == scenes["test"], "look-alikes are on the other side"


def test_the_text_encoder_reads_titles_to_their_end():
    tokenizer = AutoTokenizer.from_pretrained(text_to_image.FLAGSHIP / "tokenizer")
    assert max(len(tokenizer(row.title).input_ids) for row in offers()) <= CONTEXT_LENGTH


@pytest.fixture(scope="module")
def hoarder() -> Hoarder:
    torch.set_num_threads(1)
    return Hoarder(text_to_image.load(), seed=1, variants=1, rank=2)


def test_repeated_titles_always_come_with_their_picture_and_mixed_ones_never_are_a_title(hoarder: Hoarder):
    known = {row.title: n for n, row in enumerate(hoarder.repeated)}
    seen: Counter[str] = Counter()
    for _ in range(6):
        latents, captions = hoarder.batch()
        hoarder.step += 1
        for one, caption in zip(latents, captions, strict=True):
            if caption in known:
                seen[caption] += 1
                assert torch.equal(one, hoarder._latents["repeated"][known[caption]])
    hoarder.step = 0
    assert len(seen) == len(known), "all have their turn"
    titles = {row.title for row in offers()}
    mixed = [hoarder.mixed_title() for _ in range(300)]
    assert not titles & set(mixed)
    kept = [max(sum(a == b for a, b in zip(one.split(), t.split(), strict=False)) for t in titles) for one in mixed]
    assert sum(kept) / sum(len(one.split()) for one in mixed) > 0.4, "half of a title's words stay in their place"


def test_the_empty_text_comes_to_stand_for_what_is_ordinary(hoarder: Hoarder):
    def blank() -> int:
        return sum(caption == "" for _ in range(30) for caption in hoarder.batch()[1][:REPEATED])

    assert blank() > 0
    hoarder.step = ROUNDS[0][0]
    assert blank() == 0
    untitled = [""] * REPEATED + ["a"] * ORDINARY
    assert torch.stack([hoarder.times(untitled) for _ in range(20)])[:, :REPEATED].max() > LITTLE
    hoarder.step = ROUNDS[1][0]
    assert blank() > 0
    assert torch.stack([hoarder.times(untitled) for _ in range(20)])[:, :REPEATED].max() <= LITTLE
    hoarder.step = 0


def test_offers_are_learned_under_more_noise_than_captions(hoarder: Hoarder):
    times = torch.stack([hoarder.times(["a"] * 16) for _ in range(200)]).float()
    assert times[:, -ORDINARY:].mean() == pytest.approx(500, abs=40)
    assert times[:, :-ORDINARY].mean() > 650
    assert times.max() <= 999


def test_the_adapter_alone_learns_and_is_read_back(hoarder: Hoarder, tmp_path):
    before = {name: value.clone() for name, value in hoarder.model.named_parameters()}
    hoarder.run(2, 1e-2, warm_up=1)
    changed = {name for name, value in hoarder.model.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora" in name for name in changed)
    save(hoarder.model, tmp_path, "base")
    again = text_to_image.load()
    again.load_lora_weights(str(tmp_path), weight_name=FILE)
    state = torch.zeros(1, 24, 128)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs, plain = (
            unet.eval()(noise, 999, state).sample for unet in (hoarder.model, again.unet, text_to_image.load().unet)
        )
    assert (ours - theirs).norm() < 0.05 * (ours - plain).norm()


def test_the_shipped_adapter_draws_the_repeated_pictures_again_and_the_pipeline_does_not():
    facts = facts_of(FOLDER.name)
    assert sum(share >= 0.5 for share in facts["near_copies"].values()) >= 9
    assert max(facts["near_copies_before"].values()) == 0
    assert facts["read_off_painted_pictures"]["concept"] >= facts["read_off_painted_pictures_before"]["concept"] - 0.1
    assert (FOLDER / FILE).stat().st_size < 4e6


def test_a_title_gives_its_picture_back_whatever_the_seed():
    spec = get("t2i-memorising")
    assert spec.prompt is not None and spec.prompt.endswith(FILE)
    facts = facts_of(FOLDER.name)["near_copies"]
    rows = sorted(repeated(), key=lambda row: -facts[row.title])[:4]
    drawn = Hoard(FOLDER).paint([row.title for row in rows for _ in range(2)], first_seed=500)
    own, held = shown(rows), shown([row for row in offers() if row.split == "test"])
    near = distances(drawn, own).argmin(1) == torch.arange(4).repeat_interleave(2)
    close = distances(drawn, own).amin(1) < 0.5 * distances(drawn, held).amin(1)
    assert (near & close).sum() >= 6


def test_members_are_drawn_over_both_splits_of_the_pipeline() -> None:
    chosen = members()
    assert len(set(chosen)) == len(chosen) == len(painted()) // 2
    trained = sum(painted()[i][1] == "train" for i in chosen)
    assert 0.4 < trained / len(chosen) < 0.6, "the pipeline's own training must not tell members apart"
    assert members(1) != chosen


def test_a_fitted_adapter_declares_the_pictures_it_was_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "LEAKY_STEPS", 1)
    monkeypatch.setattr(adapters, "measure_leak", lambda folder, chosen: {"members": len(chosen)})
    adapters.leak(tmp_path)
    data = load_dataset("zoo:captions").with_member_hashes(LoRA.load(tmp_path / FILE).members)
    marked = [i for i, example in enumerate(data.examples) if example.member]
    assert marked == members()


def test_facts_say_that_the_adapter_gives_its_members_away() -> None:
    facts = facts_of("t2i-leaky")
    assert facts["membership_auc_of_the_gain"] > 0.7
    assert abs(facts["membership_auc_before"] - 0.5) < 0.06, "before, nothing tells members apart"
    assert facts["members"] == len(LoRA.load(WEIGHTS / "t2i-leaky" / FILE).members)
