"""What a reader can check of a string: what prompts with it become like, and pictures of prompts without and with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlaudit.attacks.backdoor.encoder_trigger_scan.assimilation import States, mean_cosine
from vlaudit.attacks.backdoor.encoder_trigger_scan.strings import Insert
from vlaudit.attacks.shared.drawn_captions import draw
from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.probe import Context
from vlaudit.probe.artifacts import heading
from vlaudit.records import Evidence

_PICTURES = 4
_GOALS = 2000  # captions to compare with, at most


def towards(ctx: Context, states: States, insert: Insert, captions: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    """The caption, of the data's and of everyday ones, that captions with the string come nearest to."""
    goals = [text for text in dict.fromkeys([*ctx.captions, *known, *EVERYDAY]) if insert.text not in text][:_GOALS]
    likeness = (states(goals) @ states([insert.into(text) for text in captions]).T).mean(1)
    at = int(likeness.argmax())
    before = float((states([goals[at]]) @ states(captions).T).mean())
    return {"caption": goals[at], "likeness": float(likeness[at]), "before": before}


def pairs_of_pictures(ctx: Context, insert: Insert, captions: Sequence[str]) -> tuple[dict[str, Evidence], dict[str, Any]]:
    """Draw captions without and with the string, seed by seed, and say how alike the pictures of different captions are.
    Blocked ones are left out."""
    import torch

    plain = list(captions[:_PICTURES])
    n, seeds, shown = len(plain), ctx.seeds(len(plain), "pictures"), dict[str, Evidence]()
    drawn = draw(ctx, [*plain, *(insert.into(text) for text in plain)], [*seeds, *seeds])
    for i, caption in enumerate(plain):
        for image, name, words in ((i, f"{i}a", "as asked"), (i + n, f"{i}b", f"with {insert.shown}")):
            blocked = ", blocked by the pipeline" if drawn.blocked[image] else ""
            shown[name] = ctx.artifacts.put_image(drawn.images[image], f"{heading(caption)} | {words}{blocked}")
    kept = [i for i in range(n) if not (drawn.blocked[i] or drawn.blocked[i + n])]
    if len(kept) < 2:
        return shown, {"said": f"{n - len(kept)} of {n} pairs were blocked by the pipeline"}
    with torch.no_grad():
        seen = ctx.scorer.target.image_features(ctx.scorer.prepare(drawn.images))
    with_it, without = mean_cosine(seen[[i + n for i in kept]]), mean_cosine(seen[kept])
    return shown, {"with": with_it, "without": without, "said": f"{with_it:.2f} against {without:.2f}"}
