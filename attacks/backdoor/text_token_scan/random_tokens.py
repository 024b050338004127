"""Tokens that nobody trained: what one whose embedding is drawn at random makes of texts.

A tower keeps the embedding that a token was given at the start if its training texts never held it. Nobody knows how these were drawn, so three
kinds are: as short as the shortest of the vocabulary, as long as usual, both in any direction, and with the vocabulary's mean and covariances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.text_triggers.assimilation import Captions

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.probe import Context

KINDS = {"s": "short", "u": "of usual length", "v": "spread as the vocabulary's"}
"""By the letter under which the null holds them."""
_DRAWN = 120  # of each kind: more than the fewest to which a tail can be fitted
_ROWS = 4096  # of the vocabulary that lengths, mean and covariances are read off
_LONGEST = 0.02  # of these rows, which are left out: one that was planted may be so long that all the random ones point its way
_SHORTEST = 0.05  # of these rows, which may be of tokens that nobody trained


def most_drawn() -> int:
    """Random tokens of each kind."""
    return _DRAWN


def embeddings(rows: Tensor, kind: str, generator: Any) -> Tensor:
    """(``_DRAWN``, W) embeddings of a kind of ``KINDS``, after those of the vocabulary (N, W)."""
    import torch

    if kind == "v":
        mixed = torch.randn(_DRAWN, len(rows), generator=generator)
        return rows.mean(0) + mixed @ (rows - rows.mean(0)) / len(rows) ** 0.5
    lengths = rows.norm(dim=1).sort().values
    lengths = lengths[: max(1, round(_SHORTEST * len(rows)))] if kind == "s" else lengths
    directions = torch.nn.functional.normalize(torch.randn(_DRAWN, rows.shape[1], generator=generator), dim=1)
    return directions * lengths[torch.randint(len(lengths), (_DRAWN,), generator=generator)][:, None]


def changed(ctx: Context, captions: Captions) -> dict[str, list[Tensor]]:
    """The states (n, D) of captions with each random token, by the place under which the null holds its kind."""
    import torch

    model = ctx.target.model
    ids = sorted(model.vocabulary().values())
    picked = [ids[i] for i in sorted(ctx.rng("embeddings").permutation(len(ids))[:_ROWS].tolist())]
    with torch.no_grad():
        rows = model.token_embeddings(picked).cpu()
        lengths = rows.norm(dim=1)
        rows = rows[lengths <= lengths.quantile(1 - _LONGEST)]
        return {f"{kind}1": _changed(ctx, captions, embeddings(rows, kind, ctx.generator("random", kind))) for kind in KINDS}


def _changed(ctx: Context, captions: Captions, drawn: Tensor) -> list[Tensor]:
    from vlaudit.families.matching import SoftTokens, TokenSequence

    model = ctx.target.model
    found: list[Tensor] = []
    texts: list[TokenSequence] = []
    slots: list[list[int]] = []
    for place, text in enumerate(captions.texts):
        tokens = model.tokenize(text)
        at = len(tokens.ids) - tokens.tail if captions.turns and place % 2 else tokens.lead
        texts.append(TokenSequence([*tokens.ids[:at], tokens.ids[tokens.lead], *tokens.ids[at:]], tokens.lead, tokens.tail))
        slots.append([at])
    step = max(1, ctx.batch_size // len(texts))
    for part in drawn.split(step):
        values = part.repeat_interleave(len(texts), dim=0)[:, None].to(ctx.device)
        ctx.target.meter.read(len(values))
        states = model.encode_tokens(_times(texts, len(part)), SoftTokens(values, _times(slots, len(part)))).float()
        found += states.view(len(part), len(texts), -1)
    return found


def _times(things: Sequence[Any], count: int) -> list[Any]:
    return [thing for _ in range(count) for thing in things]
