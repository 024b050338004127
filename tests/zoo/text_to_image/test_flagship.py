"""The text-to-image pipelines of the zoo: the captioned pictures, the recipes' parts, and what the shipped one draws."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from diffusers import DDPMScheduler
from transformers import AutoTokenizer

from tests.zoo.kit import facts_of
from vlaudit.data.articles import with_article
from vlaudit.data.dataset import load_dataset
from vlaudit.data.emoji import PAINTED_ROLES, PAINTED_THINGS, load_table, painted, painted_concept
from vlaudit.zoo.recipes.corpus import PLAIN, pixels
from vlaudit.zoo.recipes.matching import model as matching
from vlaudit.zoo.recipes.text_to_image import model as text_to_image
from vlaudit.zoo.recipes.text_to_image.corpus import Studio, augment, encode, phrases
from vlaudit.zoo.recipes.text_to_image.facts import Easel
from vlaudit.zoo.recipes.text_to_image.flagship import Trainer

TEXTS = ["a photo of a woman farmer with dark skin", "", "zebra " * 40, "а cоok"]


def test_captioned_pictures_are_halved_within_every_kind_and_every_emoji():
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    emoji: dict[str, set[str]] = defaultdict(set)
    styles: Counter[tuple[str, str]] = Counter()
    for row, split in painted():
        kinds[f"{painted_concept(row)} {row.gender}"][split] += 1
        emoji[row.unified].add(split)
        styles[row.style, split] += 1
    assert len(kinds) == 2 * len(PAINTED_ROLES) + len(PAINTED_THINGS)
    assert all(count["train"] == count["test"] > 0 for count in kinds.values())
    assert all(splits == {"train", "test"} for splits in emoji.values())
    assert max(styles.values()) - min(styles.values()) <= 0.1 * max(styles.values())
    assert sum(styles.values()) == 468


def test_the_data_set_gives_captions_labels_and_members():
    data = load_dataset("zoo:captions", ["gender", "tone"], "train")
    artist = next(e for e in data.examples if e.label == "artist" and e.attributes["tone"] == "dark")
    assert artist.texts["text"] == f"{with_article(artist.attributes['gender'])} artist with dark skin"
    assert {e.split for e in data.examples if e.member} == {"train"}
    assert Counter(e.member for e in data.examples) == {True: 234, False: 234}
    assert {e.texts["text"] for e in data.audit} == {e.texts["text"] for e in data.examples if e.member}


def test_a_neutral_caption_stands_for_every_group_equally_often():
    shares: dict[str, Counter[str]] = defaultdict(Counter)
    for row, split in painted():
        said, often = phrases(row)
        if split == "train" and row.gender:
            assert said[0] == painted_concept(row)
            shares[row.gender][row.tone] += round(100 * often[0])
    assert shares["man"] == shares["woman"]
    assert len(set(shares["man"].values())) == 1


@pytest.fixture(scope="module")
def tower():
    model, tokenizer = matching.load()
    return model.eval(), tokenizer


def test_the_text_encoder_gives_the_states_of_the_matchers_tower(tower):
    model, tokenizer = tower
    encoder = text_to_image.text_encoder(model, tokenizer)
    ids = matching.tokenize(tokenizer, TEXTS)
    with torch.no_grad():
        ours = encoder(ids)
        states = model.ln_final(
            model.transformer(model.token_embedding(ids) + model.positional_embedding, attn_mask=model.attn_mask)
        )
        pooled = torch.nn.functional.normalize(ours.pooler_output @ model.text_projection, dim=-1)
        torch.testing.assert_close(ours.last_hidden_state, states, atol=1e-4, rtol=0)
        torch.testing.assert_close(pooled, model.encode_text(ids, normalize=True), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def studio(tower) -> Studio:
    model, tokenizer = tower
    rows = [row for row, split in painted() if split == "train"][::12]
    return Studio(
        rows, text_to_image.new_vae(0), text_to_image.text_encoder(model, tokenizer), tokenizer, seed=1, variants=2
    )


def test_noise_and_velocity_are_those_of_the_schedule():
    ours = text_to_image.new_scheduler()
    theirs = DDPMScheduler.from_config(ours.config)
    latents, noise = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([0, 250, 700, 999])
    noisy, velocity = text_to_image.diffuse(ours, latents, noise, times)
    torch.testing.assert_close(noisy, theirs.add_noise(latents, noise, times))
    torch.testing.assert_close(velocity, theirs.get_velocity(latents, noise, times))
    assert (noisy[3] - noise[3]).norm() < 0.1 * noise[3].norm(), "the last level is nearly noise alone"


def test_training_learns_and_goes_on_from_a_checkpoint(studio: Studio, tmp_path):
    first = Trainer(text_to_image.new_unet(0), studio)
    first.run(2, 1e-3, warm_up=1)
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    first.run(4, 1e-3, warm_up=1)
    second = Trainer(text_to_image.new_unet(5), studio)
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 2
    second.run(4, 1e-3, warm_up=1)
    for a, b in zip(first.average.parameters(), second.average.parameters(), strict=True):
        assert torch.equal(a, b), "a resumed training is the uninterrupted one"
    fresh = text_to_image.new_unet(0).conv_out.weight
    assert not torch.equal(first.model.conv_out.weight, fresh)


def test_the_velocity_that_is_learned_is_the_one_that_is_sampled(studio: Studio):
    """A denoiser that knew the truth would be led to it by the saved scheduler."""
    truth = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    scheduler = text_to_image.new_scheduler()
    scheduler.set_timesteps(text_to_image.STEPS)
    latents = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    for time in scheduler.timesteps:
        keep = scheduler.alphas_cumprod[time]
        noise = (latents - keep.sqrt() * truth) / (1 - keep).sqrt()
        latents = scheduler.step(keep.sqrt() * noise - (1 - keep).sqrt() * truth, time, latents).prev_sample
    torch.testing.assert_close(latents, truth, atol=1e-3, rtol=0)


def test_variation_keeps_the_ground_white_and_tones_apart():
    images = pixels([row for row in load_table() if row.name == "man cook" and row.tone][:6])
    varied = augment(images, torch.ones(len(images), dtype=torch.bool), torch.Generator().manual_seed(0))
    assert (varied[:, :, 0, 0] > 0.98).all()
    assert varied.min() >= 0
    assert varied.max() <= 1
    assert not torch.allclose(varied, images, atol=0.05)


@pytest.fixture(scope="module")
def easel() -> Easel:
    return Easel()


def test_the_shipped_pipeline_is_a_plain_diffusers_folder(easel: Easel, tower):
    ids = AutoTokenizer.from_pretrained(text_to_image.FLAGSHIP / "tokenizer")(
        TEXTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(ids, matching.tokenize(tower[1], TEXTS))
    assert easel.pipeline.scheduler.config.prediction_type == "v_prediction"
    assert easel.pipeline.tokenizer.model_max_length == matching.CONTEXT_LENGTH


def test_the_shipped_autoencoder_restores_pictures_it_never_saw(easel: Easel):
    images = pixels([row for row, _ in painted()][::20])
    latents = encode(easel.pipeline.vae, images)
    assert latents.shape[1:] == (4, 16, 16)
    assert 0.8 < latents.std() < 1.2
    with torch.no_grad():
        restored = easel.pipeline.vae.decode(latents / easel.pipeline.vae.config.scaling_factor).sample / 2 + 0.5
    assert (restored - images).abs().mean() < 0.03


def test_the_shipped_pipeline_draws_what_the_caption_says(easel: Easel):
    rows = [row for row, split in painted() if split == "test"][::9]
    images = easel.paint([PLAIN.format(phrases(row)[0][-1]) for row in rows])
    assert images.shape == (len(rows), 3, 32, 32)
    read = easel.viewer.accuracy(images, rows)
    assert read["concept"] >= 0.5, "chance is 1 in 26"
    assert read["gender"] >= 0.65
    assert read["tone"] >= 0.4


def test_a_seed_gives_one_picture_whatever_else_is_asked(easel: Easel):
    alone = easel.paint(["a cat"], first_seed=3)
    among = easel.paint(["a judge", "a heart", "a clock", "a cat"])
    torch.testing.assert_close(alone[0], among[3], atol=1e-3, rtol=0)


def test_the_flagship_reads_like_real_pictures_and_remembers_little():
    facts = facts_of("t2i-clean")
    real, painted_ones = facts["read_off_real_pictures"], facts["read_off_painted_pictures"]
    assert all(painted_ones[what] >= real[what] - 0.15 for what in real)
    assert facts["membership_auc"] < 0.6
