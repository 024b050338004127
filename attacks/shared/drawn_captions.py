"""Captions drawn with equal seeds: how well a drawn picture shows its caption, and whether the pictures say anything.

The measure is the rank of the picture's own caption among other captions by the scorer's cosine, as in R-precision
(arXiv:1711.10485), but graded: the share of other captions that fit the picture less well. The *fit* stretches it so
that 1 is "better than every other caption" and 0 "no better than chance". Ranks need no temperature and compare across
scorers; a picture that turns from a cook into a cat loses all of its fit, one that turns from one cook into a similar
one only a little. Where there are few other captions, everyday ones stand beside them: among two, chance would do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.sampling import subset, watched
from vlaudit.probe import Context
from vlaudit.records import Case, Cost, Trial
from vlaudit.scorer import ranks
from vlaudit.statistics import rate_interval

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import Generated

FOILS = 100  # other captions that a picture's own is ranked among, at most
FEW = 20  # of the data's, below which everyday captions are foils too
RECOGNISED = 0.75  # a picture shows its caption if it fits better than this share of the others
MOST_BLOCKED = 0.2  # share of cases beyond which the rest no longer speak for all


def sample_captions(ctx: Context, count: int, least: int = 2) -> list[str]:
    """At most ``count`` distinct captions, in the order of the data; as many as the budget affords. Raises NotAssessed for fewer than
    ``least``."""
    ctx.require(len(ctx.captions), least, "different captions", "Give more with --prompts FILE.")
    return subset(ctx.captions, ctx.afford(min(count, len(ctx.captions)), "captions", least), ctx.rng("captions"))


def caption_cases(ctx: Context, count: int, shown: int, least: int = 2) -> list[Case]:
    """A case for each of a sample of captions, of which about ``shown`` are watched: they leave pictures as evidence."""
    captions = sample_captions(ctx, count, least)
    pairs = zip(captions, watched(len(captions), shown), strict=True)
    return [Case(id=f"{i:03d}", params={"caption": caption, "watched": w}) for i, (caption, w) in enumerate(pairs)]


def passes(ctx: Context) -> int:
    """Passes through the denoiser that one picture takes."""
    return ctx.target.model.steps * (2 if ctx.target.model.guided else 1)


def drawing(ctx: Context, pictures: float) -> Cost:
    """The cost of drawing so many pictures."""
    return Cost(queries=round(pictures * passes(ctx)), decoded=round(pictures))


def draw(ctx: Context, texts: Sequence[str], seeds: Sequence[int]) -> Generated:
    """One picture a text and seed, no more at once than the audit allows; the same one is drawn once."""
    import torch

    from vlaudit.families.text_to_image import Generated

    wanted = list(zip(texts, seeds, strict=True))
    place = {key: i for i, key in enumerate(dict.fromkeys(wanted))}
    drawn = [ctx.target.generate(*map(list, zip(*part, strict=True))) for part in ctx.batches(list(place))]
    rows = [place[key] for key in wanted]
    blocked = [dark for part in drawn for dark in part.blocked]
    return Generated(torch.cat([part.images for part in drawn])[rows], [blocked[row] for row in rows])


def caption_ranks(ctx: Context, images: Tensor, captions: Sequence[str], others: Sequence[str] = ()) -> list[float]:
    """For each picture (B, 3, H, W) the share of other captions that fit it less well than its own, in [0, 1]. ``others``: by
    default the audit's captions."""
    others = sorted(set(others or ctx.captions))
    if len(others) <= FEW:
        others += [text for text in EVERYDAY if text not in others]
    picked = ctx.rng("foils").permutation(len(others))[:FOILS]
    names = list(dict.fromkeys([*captions, *(others[i] for i in picked)]))
    foils = [names.index(others[i]) for i in picked]
    found = []
    for part in ctx.batches(range(len(images))):
        scores = ctx.scorer.scores(images[list(part)], names)
        for row, place in zip(scores, part, strict=True):
            own = names.index(captions[place])
            found += ranks(row[[own, *(foil for foil in foils if foil != own)]][None], [0])
    return found


def fit(rank: float) -> float:
    """The fit in [0, 1] of a rank in [0, 1]; worse than chance is as bad as chance."""
    return max(0.0, 2 * rank - 1)


def same_conditioning(ctx: Context, first: str, second: str, seed: int) -> bool:
    """Whether the denoiser reads the same of two captions, so that their pictures cannot differ."""
    import torch

    a, b = (ctx.target.encode([text], seeds=[seed]).tensors for text in (first, second))
    return all(torch.equal(a[name], b[name]) for name in a)


def marked(before: str, after: str) -> str:
    """The text with its changes in brackets: ``a ph[o→0]to of a cat[+ #9k]``."""
    parts = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        old, new = before[i:j], after[k:m]
        parts.append({"equal": new, "insert": f"[+{new}]", "delete": f"[−{old}]", "replace": f"[{old}→{new}]"}[kind])
    return "".join(parts)


def kept(
    trials: Sequence[Trial],
    rank: Callable[[Trial], float],
    level: float,
    most_blocked: float,
    recognised: float,
) -> tuple[list[Trial], str | None]:
    """The trials without a blocked picture; and why they prove nothing, else None: too many are blocked, or the captions as
    written (whose ``rank`` a trial tells) are no better recognised in their own pictures than chance has it."""
    good = [trial for trial in trials if not trial["blocked"]]
    blocked = len(trials) - len(good)
    if blocked > most_blocked * len(trials) or not good:
        return good, f"the pipeline blocked pictures of {blocked} of {len(trials)} captions"
    shown, chance = sum(rank(trial) >= recognised for trial in good), 1 - recognised
    if rate_interval(shown, len(good), level).low > chance:
        return good, None
    return good, (
        f"the pictures do not show their captions: {shown} of {len(good)} fit their own better than "
        f"{recognised:.0%} of the others, chance is {chance:.0%}; there is nothing to lose"
    )
