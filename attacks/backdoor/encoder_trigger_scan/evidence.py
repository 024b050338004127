"""What a reader can check of a string: what prompts with it become like, and pictures of prompts without and with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlaudit.attacks.shared.drawn_captions import draw
from vlaudit.attacks.shared.everyday_captions import EVERYDAY
from vlaudit.attacks.shared.text_triggers.assimilation import Captions, States, mean_cosine
from vlaudit.attacks.shared.text_triggers.strings import WORD, Insert
from vlaudit.attacks.shared.text_triggers.verdict import stretched
from vlaudit.probe import Context
from vlaudit.probe.artifacts import heading
from vlaudit.records import Evidence

_PICTURES = 4
_NEAR = 40  # of the nearest captions, how many are looked at for words that trip the trigger
# What a reader is told of a string that was found; whether one is found does not hang on these.
_LEFT = 0.3  # of the way to a caption from which on prompts do not become like it
_TRIPS = 0.5  # of what the trigger wipes out, on the stretched scale, from which a word is a relative of it


def towards(ctx: Context, states: States, insert: Insert, first: Captions, rest: Captions) -> dict[str, Any]:
    """The caption, of the data's and everyday ones, that captions with the string come nearest to; and whether
    they come most of the way to it. Captions that trip the trigger themselves are no goals: they come near, too."""
    triggered = states(rest.planted(insert))
    wiped = first.wiped_out(states, [insert], ctx.batch_size)[0]
    goals = list(
        dict.fromkeys(
            [*ctx.captions, *first.texts, *rest.texts, *EVERYDAY, *(f"a photo of a {label}" for label in ctx.labels)]
        )
    )
    likeness = (states(goals) @ triggered.T).mean(1).tolist()
    tripped: dict[str, bool] = {}

    def trips(word: str) -> bool:
        if word not in tripped:
            tripped[word] = stretched(
                first.wiped_out(states, [Insert(word, WORD)], ctx.batch_size)[0]
            ) > _TRIPS * stretched(wiped)
        return tripped[word]

    near = sorted(range(len(goals)), key=lambda i: -likeness[i])[:_NEAR]
    clean = [
        i for i in near if insert.text.casefold() not in goals[i].casefold() and not any(map(trips, goals[i].split()))
    ]
    at = (clean or near)[0]
    before = float((states([goals[at]]) @ states(rest.texts).T).mean())
    reached = bool(clean) and 1 - likeness[at] <= _LEFT * (1 - before)
    return {"caption": goals[at], "likeness": likeness[at], "before": before, "reached": reached}


def pairs_of_pictures(
    ctx: Context, insert: Insert, captions: Sequence[str]
) -> tuple[dict[str, Evidence], dict[str, Any]]:
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
