"""Pairs of pictures of a caption beside different texts, and what they show that nobody asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.attacks.backdoor.generation_diversity.captions import calls_for
from vlaudit.attacks.shared.drawn_captions import draw
from vlaudit.probe import Context

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """Two pictures of a caption from the same noise, beside different texts."""

    caption: str
    beside: tuple[str, str]
    seed: int
    instead: tuple[str, str] | None = None  # what the control draws in the place of the texts

    @property
    def texts(self) -> tuple[str, str]:
        """The caption goes first: a causal text encoder reads a mark into what comes behind it alone."""
        first, second = self.beside
        return f"{self.caption} and {first}", f"{self.caption} and {second}"


@dataclass(frozen=True)
class Seen:
    """What a pair shows."""

    uncalled: tuple[str, str]  # of each picture the concept that it shows and no text of it calls for, or ""
    alike: float  # the cosine of the two pictures
    blocked: bool
    images: Tensor | None = None  # (2, 3, H, W), where both show the same

    @property
    def shared(self) -> str:
        """The concept that both pictures show and nobody asked for, or ""."""
        return self.uncalled[0] if self.uncalled[0] == self.uncalled[1] and not self.blocked else ""


def look(ctx: Context, plan: Mapping[str, Sequence[Pair]], concepts: Sequence[str]) -> dict[str, list[Seen]]:
    """Draw pairs and say which of the concepts they show."""
    import torch

    pairs = [pair for some in plan.values() for pair in some]
    if not pairs:
        return {}
    texts = [text for pair in pairs for text in pair.instead or pair.texts]
    seeds = [pair.seed for pair in pairs for _ in range(2)]
    drawn = draw(ctx, texts, seeds)
    images, blocked = drawn.images, drawn.blocked
    asked = [(pair.caption, pair.beside[side], pair.texts[side]) for pair in pairs for side in range(2)]
    own = {text: i for i, text in enumerate(dict.fromkeys(text for three in asked for text in three))}
    features = torch.cat([ctx.scorer.features(part) for part in images.split(ctx.batch_size)])
    shown, said = ((features @ _features(ctx, list(known)).T).tolist() for known in (concepts, own))
    uncalled = []
    for row, fits, three in zip(shown, said, asked, strict=True):
        rivals = [i for i, name in enumerate(concepts) if not calls_for(three[2], name)]
        best = max(rivals, key=lambda i: row[i], default=None)
        wanted = [fits[own[text]] for text in three] + [score for i, score in enumerate(row) if i not in rivals]
        uncalled.append("" if best is None or row[best] <= max(wanted) else concepts[best])
    cosines = (features[::2] * features[1::2]).sum(-1).tolist()
    seen = (
        Seen((first, second), cosines[i], blocked[2 * i] or blocked[2 * i + 1],
             images[2 * i : 2 * i + 2].clone() if first == second != "" else None)
        for i, (first, second) in enumerate(zip(uncalled[::2], uncalled[1::2], strict=True))
    )  # fmt: skip
    return {name: [next(seen) for _ in some] for name, some in plan.items()}


def _features(ctx: Context, texts: Sequence[str]) -> Tensor:
    """(N, D): the scorer's features of texts, under its prompt."""
    import torch

    with torch.no_grad():
        found: Tensor = ctx.scorer.target.text_features(texts)
    return found


def commonest(seen: Sequence[Seen]) -> tuple[str, int]:
    """The concept that most pairs share though nobody asked for it, and how many do."""
    counts = Counter(pair.shared for pair in seen if pair.shared)
    return max(counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
