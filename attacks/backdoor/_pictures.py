"""Pictures of prompts without and with a string, at the same seeds: what a reader can check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.records import Evidence

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.probe import Context


def features(ctx: Context, images: Tensor) -> Tensor:
    """(B, D) unit features of generated pictures by the scorer's image encoder."""
    import torch

    with torch.no_grad():
        return ctx.scorer.target.image_features(ctx.scorer.prepare(images))


def heading(caption: str) -> str:
    """A caption as a heading under which a report sets pictures side by side."""
    return caption.replace(" | ", " / ")


def pairs_of_pictures(ctx: Context, plain: Sequence[str], changed: Sequence[str],
                      what: str) -> tuple[dict[str, Evidence], dict[str, Any]]:  # fmt: skip
    """Draw both, seed by seed, and say how alike the pictures of different captions are. Blocked ones are left out."""
    from vlaudit.attacks.backdoor._assimilation import mean_cosine

    seeds = ctx.seeds(len(plain), "pictures")
    drawn = ctx.target.generate([*plain, *changed], [*seeds, *seeds])
    n, shown = len(plain), {}
    for i, caption in enumerate(plain):
        for image, name, words in (
            (i, f"{i}a", "as asked"),
            (i + n, f"{i}b", f"with {what}"),
        ):
            blocked = ", blocked by the pipeline" if drawn.blocked[image] else ""
            text = f"{heading(caption)} | {words}{blocked}"
            shown[name] = ctx.artifacts.put_image(drawn.images[image], text)
    kept = [i for i in range(n) if not (drawn.blocked[i] or drawn.blocked[i + n])]
    if len(kept) < 2:
        return shown, {"said": f"{n - len(kept)} of {n} pairs were blocked by the pipeline"}
    seen = features(ctx, drawn.images)
    with_it, without = mean_cosine(seen[[i + n for i in kept]]), mean_cosine(seen[kept])
    return shown, {"with": with_it, "without": without, "said": f"{with_it:.2f} against {without:.2f}"}
