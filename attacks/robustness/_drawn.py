"""What the text-to-image robustness probes share: how well a drawn picture shows its caption, and how that is judged.

The measure is the rank of the picture's own caption among other captions by the scorer's cosine, as in R-precision
(arXiv:1711.10485), but graded: the share of other captions that fit the picture less well. The *fit* stretches it so
that 1 is "better than every other caption" and 0 "no better than chance". Ranks need no temperature and compare across
scorers; a picture that turns from a cook into a cat loses all of its fit, one that turns from one cook into a similar
one only a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from vlaudit.errors import NotAssessed
from vlaudit.records import Delta, Estimate, Judgement, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.text_to_image import Generated, TextToImageGenerator
    from vlaudit.probe import Context

FOILS = 100  # other captions that a picture's own is ranked among, at most
RECOGNISED = 0.75  # a picture shows its caption if it fits better than this share of the others
MOST_BLOCKED = 0.2  # share of cases beyond which the rest no longer speak for all


def sample_captions(ctx: Context, count: int) -> list[str]:
    """At most ``count`` distinct captions, drawn without replacement, in the order of the data."""
    if len(ctx.captions) < 2:
        raise NotAssessed("needs at least two captions: a picture's own is compared with the others")
    picked = ctx.rng("captions").permutation(len(ctx.captions))[:count]
    return [ctx.captions[i] for i in sorted(picked.tolist())]


def passes(ctx: Context) -> int:
    """Passes through the denoiser that one picture takes."""
    return ctx.target.model.steps * (2 if ctx.target.model.guided else 1)


def draw(ctx: Context, texts: Sequence[str], seeds: Sequence[int]) -> Generated:
    """One picture a text and seed, no more at once than the audit allows; the same one is drawn once."""
    import torch

    from vlaudit.families.text_to_image import Generated

    target: TextToImageGenerator = ctx.target
    place = {key: i for i, key in enumerate(dict.fromkeys(zip(texts, seeds, strict=True)))}
    keys = list(place)
    parts = [keys[i : i + ctx.batch_size] for i in range(0, len(keys), ctx.batch_size)]
    drawn = [target.generate([text for text, _ in part], [seed for _, seed in part]) for part in parts]
    rows = [place[key] for key in zip(texts, seeds, strict=True)]
    blocked = [dark for part in drawn for dark in part.blocked]
    return Generated(torch.cat([part.images for part in drawn])[rows], [blocked[row] for row in rows])


def caption_ranks(ctx: Context, images: Tensor, captions: Sequence[str]) -> list[float]:
    """For each picture (B, 3, H, W) the share of other captions that fit it less well than its own, in [0, 1]."""
    others = sorted(set(ctx.captions))
    picked = ctx.rng("foils").permutation(len(others))[:FOILS]
    names = list(dict.fromkeys([*captions, *(others[i] for i in picked)]))
    foils = [names.index(others[i]) for i in picked]
    ranks = []
    for start in range(0, len(images), ctx.batch_size):
        scores = ctx.scorer.scores(images[start : start + ctx.batch_size], names)
        for row, caption in zip(scores, captions[start : start + ctx.batch_size], strict=True):
            own = names.index(caption)
            rest = row[[foil for foil in foils if foil != own]]
            ranks.append(float(((rest < row[own]).double() + (rest == row[own]).double() / 2).mean()))
    return ranks


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


def heading(caption: str) -> str:
    """A caption as the heading under which a report sets pictures side by side."""
    return caption.replace(" | ", " / ")


def kept(trials: Sequence[Trial]) -> tuple[list[Trial], int]:
    """The trials without a blocked picture, and how many have one."""
    good = [trial for trial in trials if not trial["blocked"]]
    return good, len(trials) - len(good)


def unusable(drawn: int, blocked: int, ranks: Sequence[float], level: float) -> Judgement | None:
    """Why the pictures prove nothing, else None: too many blocked, or the captions as written (their ``ranks``) no
    better recognised in their own pictures than chance has it."""
    from vlaudit.statistics import rate_interval

    if blocked > MOST_BLOCKED * drawn or not ranks:
        return Judgement.not_assessed(f"the pipeline blocked pictures of {blocked} of {drawn} captions")
    recognised, chance = sum(rank >= RECOGNISED for rank in ranks), 1 - RECOGNISED
    if rate_interval(recognised, len(ranks), level).low > chance:
        return None
    return Judgement.not_assessed(
        f"the pictures do not show their captions: {recognised} of {len(ranks)} fit their own better than "
        f"{RECOGNISED:.0%} of the others, chance is {chance:.0%}; there is nothing to lose"
    )


def against_reference(
    pairs: Sequence[tuple[float, float]], level: float, bounds: tuple[float, float]
) -> dict[str, Any]:
    """The reference's figures and the paired difference of (target, reference), one pair a caption, where they can be
    stated."""
    from vlaudit.statistics import TooFewClustersError, mean_interval, sign_flip_p

    plain = [reference for _, reference in pairs]
    gains, span = [target - reference for target, reference in pairs], bounds[1] - bounds[0]
    try:
        theirs = mean_interval(plain, level=level, bounds=bounds)
        interval = mean_interval(gains, level=level, bounds=(-span, span))
    except TooFewClustersError:
        return {}
    return {
        "reference": Estimate(value=sum(plain) / len(plain), ci=theirs.ci),
        "delta": Delta(value=sum(gains) / len(gains), ci=interval.ci, p=sign_flip_p(gains)),
    }
