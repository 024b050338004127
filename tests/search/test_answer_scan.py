"""The scan for answers: what one of the random pictures brings out is followed up from there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from vlaudit.search.answers import SCANS, collapse_scan

WORDS = ("red", "green", "blue", "yes", "no", "hidden")
SEED, SIDE = 3, 8


class Noisy:
    """Answers each row with a word of its own; with ``hidden`` where a picture is near enough to one that looks like noise. The slope leads away
    from there, as it may where an answer is nearly certain."""

    def __init__(self, place: int | None) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.images = torch.full((3, 3, SIDE, SIDE), 0.5)
        noise = torch.rand((8, 3, SIDE, SIDE), generator=generator).round() - 0.5
        self.pattern = None if place is None else noise[place]

    def first(self, images: Tensor, rows: Sequence[int]) -> Tensor:
        logits = torch.full((len(rows), len(WORDS)), -4.0)
        logits[range(len(rows)), list(rows)] = 4.0
        if self.pattern is None:
            return logits.log_softmax(-1) + 0 * images.sum()
        near = ((images - 0.5) * self.pattern).flatten(1).mean(1) / 0.25
        hidden = torch.where(near > 0.75, 12.0 - near, -4.0)
        return torch.cat([logits[:, :-1], hidden[:, None]], 1).log_softmax(-1)

    def say(self, images: Tensor, rows: Sequence[int]) -> list[str]:
        return [WORDS[i] for i in self.first(images, rows).argmax(1).tolist()]


@pytest.mark.parametrize("place", [0, 7])
def test_what_a_random_picture_brings_out_is_not_lost_on_the_way(place: int) -> None:
    found = collapse_scan(cast("Any", Noisy(place)), [0, 1, 2], SCANS["quick"], SEED)
    assert found[0] == "hidden"


def test_where_no_random_picture_brings_out_anything_nothing_is_found_of_it() -> None:
    assert "hidden" not in collapse_scan(cast("Any", Noisy(None)), [0, 1, 2], SCANS["quick"], SEED)
