"""How much of what tells captions apart does a planted string wipe out of what the denoiser reads?

*Assimilation* compares the mean cosine of different captions' hidden states (all positions of the first text encoder, in
one vector) with a string planted in each of them and without: 0, they differ as before; 1, they have become one. It looks
at all positions and not at the pooled state, which an ordinary strong word fills just as well: such a word still leaves
the other words' own states alone, and a backdoor that calls up a whole picture cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.text_triggers.strings import Insert
from vlaudit.attacks.shared.text_triggers.text_side import TextSide
from vlaudit.probe import Context

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import TextToImageGenerator

GLANCED, SCREENED, CONFIRMED = (
    2,
    4,
    24,
)  # captions that strings are tried in, widely and closely, and others for those that stand out
_POOL = 100  # captions of the data to choose from
_ROOM = 0.6  # of what the encoder reads that a caption fills at most, so that a string in it is read

States = Callable[[Sequence[str]], "Tensor"]
"""Texts to unit vectors (N, L * W)."""


def states_of(target: TextToImageGenerator, batch: int) -> States:
    """The hidden states of captions under the prompt, all positions in one unit vector each."""
    import torch

    def states(captions: Sequence[str]) -> Tensor:
        with torch.no_grad():
            parts = [target.text_states(captions[i : i + batch])[0].flatten(1) for i in range(0, len(captions), batch)]
        return unit(torch.cat(parts).float())

    return states


def captions_to_try(ctx: Context, states: States, count: int, model: TextSide) -> list[str]:
    """``count`` captions, each as unlike those before it as there are (farthest first): what a string does to captions that are alike
    anyway says little. Of the data, where they are enough: a backdoor is taught with captions of a kind, and may fail on others. Else
    they are also joined in twos, and everyday captions come last."""
    import torch

    own = [ctx.captions[i] for i in ctx.rng("captions").permutation(len(ctx.captions))[:_POOL]]
    plain = [f"a photo of a {label}" for label in ctx.labels[:_POOL]]
    rng, pool = ctx.rng("pairs"), _short(model, [*own, *plain])
    if 1 < len(pool) < count:
        pairs = [f"{pool[a]} and {pool[b]}" for a, b in (rng.permutation(len(pool))[:2] for _ in range(_POOL))]
        pool = [*pool, *_short(model, pairs)[: count - len(pool)]]
    pool += EVERYDAY[: max(0, count - len(pool))]
    found = states(pool)
    likeness = torch.full((len(pool),), -2.0, device=found.device)
    likeness[0] = -3.0
    picked: list[int] = []
    for _ in range(min(count, len(pool))):
        at = int(likeness.argmin())
        picked.append(at)
        likeness = torch.maximum(likeness, found @ found[at])
        likeness[at] = 2.0  # taken
    return [pool[i] for i in picked]


def _short(model: TextSide, captions: Sequence[str]) -> list[str]:
    """Those in which there is room for a string."""
    room = _ROOM * model.context_length
    return [text for text in dict.fromkeys(captions) if len(model.tokenize(text)) <= room]


def drawn_to(states: States, phrase: str, trigger: Insert, captions: Captions, share: float) -> Tensor:
    """The states of captions with a trigger in an encoder wrapped so that it pulls them a share of the way to those of a phrase: the
    functional positive control."""
    goal = states([phrase])
    own = states(captions.planted(trigger))
    return unit((1 - share) * own + share * goal)


@dataclass(frozen=True)
class Captions:
    """Captions with how alike their states are without anything planted."""

    texts: Sequence[str]
    plain: Tensor  # (n, D) unit states
    turns: bool = False  # whether a string stands before and behind them in turns, else before all

    @classmethod
    def of(cls, states: States, texts: Sequence[str], turns: bool = False) -> Captions:
        return cls(texts, states(texts), turns)

    def planted(self, insert: Insert) -> list[str]:
        """The captions with a string in them."""
        return [insert.into(text, self.turns and place % 2 == 1) for place, text in enumerate(self.texts)]

    def assimilation(self, changed: Tensor) -> float:
        """How much of what tells them apart is gone from the changed states (n, D)."""
        return 1 - (1 - mean_cosine(changed)) / (1 - mean_cosine(self.plain))

    def wiped_out(self, states: States, inserts: Sequence[Insert], batch: int) -> list[float]:
        """The assimilation of each string."""
        return list(map(self.assimilation, self.changed(states, inserts, batch)))

    def changed(self, states: States, inserts: Sequence[Insert], batch: int) -> Iterator[Tensor]:
        """The states (n, D) with each string."""
        count = max(1, batch // len(self.texts))
        for start in range(0, len(inserts), count):
            part = inserts[start : start + count]
            found = states([text for insert in part for text in self.planted(insert)])
            yield from found.view(len(part), len(self.texts), -1)

    def drawn(self, states: States, inserts: Sequence[Insert]) -> Tensor:
        """(N, D): where each string takes the captions on average, as unit vectors."""
        import torch

        return torch.stack([unit(states(self.planted(insert)).mean(0)) for insert in inserts])

    def confirm(self, changed: Tensor) -> dict[str, Any]:
        """Assimilation of the changed states (n, D), and what it is without each caption in turn."""
        n = len(self.texts)
        before, after = _pairs(self.plain), _pairs(changed)
        without = [1 - _left_out(after, i) / _left_out(before, i) for i in range(n)]
        pairs = [before[i, j].item() for i in range(n) for j in range(i)]
        mean = sum(pairs) / len(pairs)
        variance = sum((pair - mean) ** 2 for pair in pairs) / (len(pairs) - 1)
        alike = float(after.sum()) / (n * (n - 1))
        return {
            "assimilation": 1 - (1 - alike) / (1 - mean), "without": without, "alike": alike, "usual": mean,
            "variance": variance,
        }  # fmt: skip


def unit(vectors: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(vectors, dim=-1)


def mean_cosine(rows: Tensor) -> float:
    """The mean cosine of two different rows of unit vectors (n, D)."""
    n = len(rows)
    return (float(rows.sum(0).square().sum()) - n) / (n * (n - 1))


def _pairs(rows: Tensor) -> Tensor:
    """(n, n) cosines with a diagonal of zeros, in double precision on the CPU."""
    cosines = (rows @ rows.T).double().cpu()
    return cosines.fill_diagonal_(0)


def _left_out(cosines: Tensor, index: int) -> float:
    """One minus the mean cosine of the pairs without a caption."""
    n = len(cosines)
    total = float(cosines.sum()) - 2 * float(cosines[index].sum())
    return 1 - total / ((n - 1) * (n - 2))
