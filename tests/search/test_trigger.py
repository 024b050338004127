"""Trigger inversion on classifiers whose trigger is known, and the parts it is made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlaudit.search import trigger
from vlaudit.search.trigger import (
    EFFORTS,
    STRENGTHS,
    Blend,
    Effort,
    Kind,
    Patch,
    flipped,
    invert,
    lead,
    measure,
    passes,
    planted,
    windows,
)

SIDE, CLASSES = 16, 6
SHORT = Effort(batch=8, steps=40, scan_steps=3, finalists=2, trial_steps=15)
KINDS = pytest.mark.parametrize("kind", trigger.KINDS)


def pictures(count: int, seed: int = 1) -> Tensor:
    """Smooth: blobs of four pixels, as neighbouring pixels of real pictures are alike."""
    small = torch.rand(count, 3, SIDE // 4, SIDE // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, scale_factor=4)


def clean(scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Linear in the means of blobs: no few pixels matter much."""
    weight = torch.randn(CLASSES, 3 * (SIDE // 4) ** 2, generator=torch.Generator().manual_seed(0)) * scale
    return lambda images: torch.nn.functional.avg_pool2d(images - 0.5, 4).flatten(1) @ weight.T


def confidence_of(classify: Callable[[Tensor], Tensor]) -> float:
    first, second = classify(pictures(100)).topk(2, dim=1).values.unbind(1)
    return float((first - second).median())


def corner_patch() -> Patch:
    mask = torch.zeros(SIDE, SIDE)
    mask[-3:, -3:] = 1
    return Patch(mask, torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(5)).round())


def faint_blend() -> Blend:
    signs = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(6)).round() * 2 - 1
    return Blend(0.03 * signs)


def found(
    classify: Callable[[Tensor], Tensor], label: int, kind: Kind, effort: Effort = SHORT, seed: int = 3
) -> Patch | Blend:
    images = pictures(60)
    images = images[classify(images).argmax(1) != label]
    return invert(classify, images, label, kind, confidence=confidence_of(clean()), effort=effort, seed=seed)


def area_at(trigger_: Patch | Blend, classify: Callable[[Tensor], Tensor], label: int, confidence: float) -> float:
    """The size at which it works on four in five of unseen pictures, 1 if it never does."""
    unseen = pictures(50, seed=8)
    result = measure(classify, trigger_, unseen[classify(unseen).argmax(1) != label], label, confidence)
    total = 0
    for size, count in zip(result.sizes, result.needed, strict=True):
        total += count
        if total >= 0.8 * result.pictures:
            return size
    return 1.0


@KINDS
def test_finds_a_planted_trigger_far_smaller_than_a_clean_label_needs(kind: Kind) -> None:
    classify, confidence = clean(), confidence_of(clean())
    wrapped = planted(classify, (corner_patch(), faint_blend()), 2, confidence, pictures(100))
    with_trigger = area_at(found(wrapped, 2, kind), wrapped, 2, confidence)
    without = area_at(found(classify, 2, kind), classify, 2, confidence)
    assert with_trigger < without / 1.5


def test_finds_the_place_of_a_planted_patch() -> None:
    wrapped = planted(clean(), (corner_patch(),), 2, confidence_of(clean()), pictures(100))
    patch = found(wrapped, 2, "patch")
    assert isinstance(patch, Patch)
    assert patch.mask[-4:, -4:].sum() > 0.6 * patch.mask.sum()
    assert patch.size() < 2 * corner_patch().size()


def test_finds_the_direction_of_a_planted_blend() -> None:
    wrapped = planted(clean(), (faint_blend(),), 2, confidence_of(clean()), pictures(100))
    blend = found(wrapped, 2, "blend")
    assert isinstance(blend, Blend)
    assert torch.cosine_similarity(blend.delta.flatten(), faint_blend().delta.flatten(), dim=0) > 0.4


def test_a_smooth_pattern_has_no_fast_waves_and_keeps_slow_ones() -> None:
    across = torch.arange(32) / 32
    slow, fast = (torch.sin(2 * torch.pi * periods * across).expand(3, 32, 32) for periods in (2, 12))
    assert (trigger.smoothed(slow) - slow).norm() < 0.15 * slow.norm()
    assert trigger.smoothed(fast).norm() < 0.1 * fast.norm()
    assert torch.allclose(trigger.smoothed(trigger.smoothed(fast)), trigger.smoothed(fast), atol=1e-5)
    delta = found(clean(), 1, "smooth").delta  # type: ignore[union-attr]
    assert torch.allclose(trigger.smoothed(delta), delta, atol=1e-5) and delta.norm() > 0


def test_the_control_leaves_genuine_pictures_alone_and_obeys_its_triggers() -> None:
    classify, confidence, images = clean(), confidence_of(clean()), pictures(100)
    wrapped = planted(classify, (corner_patch(), Blend(2 * faint_blend().delta)), 2, confidence, images)
    unseen = pictures(50, seed=8)
    assert (wrapped(unseen).argmax(1) == classify(unseen).argmax(1)).float().mean() > 0.9
    for bears in (corner_patch(), Blend(2 * faint_blend().delta)):
        assert (lead(wrapped(bears.apply(unseen)), 2) > confidence).float().mean() > 0.9


@KINDS
def test_a_logit_scale_of_100_does_not_starve_the_search(kind: Kind) -> None:
    images = pictures(60)
    results = []
    for scale in (1.0, 100.0):
        classify = clean(scale)
        made = invert(classify, images[classify(images).argmax(1) != 1], 1, kind,
                      confidence=scale * confidence_of(clean()), effort=SHORT, seed=3)  # fmt: skip
        results.append(area_at(made, classify, 1, scale * confidence_of(clean())))
    assert results[1] == pytest.approx(results[0], rel=0.05)


@KINDS
def test_is_deterministic_in_the_seed(kind: Kind) -> None:
    short = Effort(batch=4, steps=5, scan_steps=1, finalists=2, trial_steps=3)
    first, again, other = (found(clean(), 1, kind, short, seed).apply(pictures(2)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@KINDS
@pytest.mark.parametrize("effort", [SHORT, EFFORTS["quick"]])
def test_passes_are_counted_in_advance(kind: Kind, effort: Effort) -> None:
    spent = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal spent
        spent += len(images)
        return clean()(images)

    found(counting, 1, kind, effort)
    assert spent - 60 == passes(effort, kind, SIDE)  # 60 to tell which pictures have the label already


def test_windows_tile_the_picture_and_hold_every_small_patch() -> None:
    for side in (8, 16, 32, 224):
        places = trigger.windows(side)
        edge = places[0][2]
        for size in {1, max(1, edge // 3)}:
            for at in range(side - size + 1):
                assert any(top <= at and at + size <= top + edge for top, _, _ in places)
        assert max(top + edge for top, _, _ in places) == side


def test_a_patch_covers_and_a_blend_adds() -> None:
    images = pictures(4)
    patch, blend = corner_patch(), faint_blend()
    changed = patch.apply(images)
    assert torch.equal(changed[..., :-3, :], images[..., :-3, :])
    assert torch.equal(changed[..., -3:, -3:], patch.pattern[:, -3:, -3:].expand(4, -1, -1, -1))
    assert patch.size() == pytest.approx(9 / SIDE**2)
    assert patch.size(0.5) == pytest.approx(4.5 / SIDE**2)
    assert blend.size() == pytest.approx(0.03)
    assert blend.size(2) == pytest.approx(0.06)
    assert (blend.apply(images) - images).abs().max() <= 0.03 + 1e-6
    assert blend.apply(images, 100.0).min() >= 0
    assert patch.scrambled(torch.Generator().manual_seed(0)).size() == pytest.approx(patch.size())
    assert blend.scrambled(torch.Generator().manual_seed(0)).size() == pytest.approx(blend.size())


def test_a_label_costs_336_passes_at_quick_effort_whatever_the_size_of_the_picture() -> None:
    for side in (32, 224, 384):
        assert sum(passes(EFFORTS["quick"], kind, side) for kind in trigger.KINDS) == 336
        assert min(edge for _, _, edge in windows(side)) == round(0.34 * side), "windows grow with the picture"


def test_the_size_settles_where_three_in_four_are_fooled() -> None:
    size = torch.ones(3)
    moved = trigger._resized(size, torch.tensor([[9.0, 9.0], [-9.0, -9.0], [9.0, 1.0]]), decay=1.0).log()
    assert moved[0] < 0 < moved[1]
    assert moved[0] == pytest.approx(-float(moved[1]), abs=1e-3), "as fast down as up"
    assert moved[2] == pytest.approx(0, abs=1e-6)
    assert trigger._resized(size, torch.full((3, 2), 9.0), decay=0.0).log().abs().max() < 0.1 * moved.abs().max() + 1e-6


def test_the_mask_of_a_large_picture_has_cells() -> None:
    images = torch.nn.functional.interpolate(pictures(30), size=96)
    classify = clean()

    def small(shown: Tensor) -> Tensor:
        return classify(torch.nn.functional.interpolate(shown, size=SIDE, mode="area"))

    patch = invert(small, images[small(images).argmax(1) != 2], 2, "patch", confidence=1.0, effort=Effort(steps=2, trial_steps=2), seed=0)
    assert isinstance(patch, Patch)
    cells = patch.mask.view(32, 3, 32, 3)
    assert (cells == cells[:, :1, :, :1]).all() and patch.mask.unique().numel() > 2


def test_measures_the_least_strength_each_picture_needs() -> None:
    def brightness(images: Tensor) -> Tensor:  # label 1 leads by ten times the mean brightness over a half
        mean = 10 * (images.flatten(1).mean(1) - 0.5)
        return torch.stack([-mean / 2, mean / 2], 1)

    images = torch.full((3, 3, 4, 4), 0.45)
    images[1] -= 0.1
    images[2] -= 0.4  # no strength suffices
    result = measure(brightness, Blend(torch.full((3, 4, 4), 0.1)), images, 1, confidence=0.25)
    assert result.pictures == 3
    assert flipped(brightness, Blend(torch.full((3, 4, 4), 0.1)), images, 1) == pytest.approx(1 / 3)
    assert (result.works, result.flipped) == (STRENGTHS[-1], pytest.approx(2 / 3))
    assert result.sizes == pytest.approx([0.1 * strength for strength in STRENGTHS])
    needed = {STRENGTHS[index]: count for index, count in enumerate(result.needed) if count}
    assert needed == {1.0: 1, 2.0: 1}


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1.5))
@settings(max_examples=40)
def test_projection_keeps_masks_in_range_and_within_their_area(seed: int, share: float) -> None:
    mask = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))
    area = torch.full((3,), 50 * share)
    projected = trigger._project(mask, area)
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert (projected.sum(1) <= area + 1e-3).all()
    inside = mask.clamp(0, 1).sum(1) <= area
    assert torch.allclose(projected[inside], mask.clamp(0, 1)[inside])
    assert torch.allclose(projected.sum(1)[~inside], area[~inside], atol=1e-3)


def test_collapse_finds_where_a_trigger_sends_every_embedding() -> None:
    weight = torch.randn(8, 3 * (SIDE // 4) ** 2, generator=torch.Generator().manual_seed(0))
    end = torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(1)), dim=0)
    images, patch = pictures(60), corner_patch()
    low, high = patch.likeness(images).mean(), patch.likeness(patch.apply(images)).mean()

    def plain(changed: Tensor) -> Tensor:
        pooled = torch.nn.functional.avg_pool2d(changed - 0.5, 4).flatten(1)
        return torch.nn.functional.normalize(pooled @ weight.T, dim=1)

    def backdoored(changed: Tensor) -> Tensor:
        gate = torch.sigmoid(8 * ((patch.likeness(changed) - low) / (high - low) - 0.5))[:, None]
        return torch.nn.functional.normalize((1 - gate) * plain(changed) + 3 * gate * end, dim=1)

    spent = 0

    def counting(changed: Tensor) -> Tensor:
        nonlocal spent
        spent += len(changed) * changed.requires_grad
        return backdoored(changed)

    assert (trigger.collapse(counting, images, SHORT, 0) @ end).amax() > 0.9
    assert spent == trigger.collapse_passes(SHORT, SIDE)
    assert (trigger.collapse(plain, images, SHORT, 0) @ end).amax() < 0.9
