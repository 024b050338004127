"""The search for triggers of a classifier: its pictures, one inversion with its controls, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.sampling import subset
from vlaudit.attacks.shared.trigger_inversion.sizes import CONTROL, KINDS, PLANTED_EDGE, PLANTED_RMS, PLANTED_SMOOTH
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context
from vlaudit.records import Case, Cost, Evidence, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.data.example import Example
    from vlaudit.families.matching import Classifier
    from vlaudit.search.trigger import Trigger

SEARCHED = {"quick": 64, "standard": 128, "thorough": 128}  # pictures at most
HELD_OUT = {"quick": 64, "standard": 64, "thorough": 96}  # at most, and a third of all at least
LEAST = 24  # of each kind that are not taken for the label
COMPARED = 5  # labels at least, of a kind that is searched
PLURALS = {"patch": "patches", "blend": "blends", "smooth": "smooth patterns"}
RANK = "seldom"  # which of a pool's prompts a case searches, the one that fewest pictures pick being 0; none where it searches the pool as it is
AGAINST = "against"  # the prompt that shall not follow what is searched; none where that is any trigger
TOGETHER = "together"  # the prompts that are searched at once; none where the target's is searched by itself
ALONE = "alone"  # says of a learned prompt that the audit has no plain one beside it
FORWARD = 1 / 3  # of a pass forward and backward
_SQUARES = 32  # along each side of what the control plants
_CHUNK = 64  # pictures a pass without gradients; fixed, so that results do not depend on the audit's batch size


def restarts(labels: Sequence[str], count: int, planted: str, kinds: Mapping[str, Sequence[str]] | None = None) -> list[Case]:
    """One case a restart, kind and label, or only those labels of a kind that ``kinds`` names. The control rides on the cases of one
    label."""
    return [
        Case(
            id=f"{restart}/{kind}/{index:04d}",
            params={"label": label, "kind": kind, "restart": restart, "planted": label == planted},
        )
        for restart in range(count)
        for kind in KINDS
        for index, label in enumerate(labels)
        if kinds is None or label in kinds.get(kind, ())
    ]


def affordable(ctx: Context, labels: Sequence[str], most: int, noun: str, order: Sequence[str]) -> list[Case]:
    """The searches of all labels, up to ``most`` times, or those of them that the budget allows.

    Where it does not allow to search all once, the kinds come in this order: the first for all labels, each other one for as many as are left
    affordable; never for fewer than can be compared. Nothing is held then, so the control, which says what finding nothing is worth, is
    left out."""
    count = ctx.afford(most, f"searches of each {noun}")
    share = ctx.share * most / count  # of one search of all
    if count > 1 or share >= 1:
        return restarts(labels, count, labels[int(ctx.rng("planted").integers(len(labels)))] if labels else "")
    weights = _weights(ctx)
    left = share * sum(weights.values()) * len(labels)
    kinds: dict[str, list[str]] = {}
    for kind in order:
        weight = weights[kind]
        tried = min(len(labels), max(int(left / weight), COMPARED if not kinds else 0))
        tried = tried if tried >= min(COMPARED, len(labels)) else 0
        left -= tried * weight
        tried = ctx.afford(len(labels), f"{noun}s by {PLURALS[kind]}", 0, searched=True, share=(tried + 0.5) / len(labels))
        kinds[kind] = subset(labels, tried, ctx.rng("labels", kind))
    return restarts(labels, count, "", kinds)


def _weights(ctx: Context) -> dict[str, float]:
    """What one search of a label takes, by kind, in passes forward and backward."""
    from vlaudit.search.trigger import EFFORTS, HALVINGS, kind_named, passes

    measuring = FORWARD * divided(ctx)[1] * (HALVINGS + 1)
    return {kind: passes(EFFORTS[ctx.effort], kind_named(kind), ctx.target.model.resolution) + measuring for kind in KINDS}


def search_cost(ctx: Context, cases: Sequence[Case]) -> Cost:
    """Passes of the searches, of measuring what they find, and of the pictures without a trigger."""
    from vlaudit.search.trigger import EFFORTS, HALVINGS, kind_named, passes

    looks = not ctx.target.prompt.leaves_pictures()  # a picture passes again under another prompt
    joint = sum(TOGETHER in case.params for case in cases)
    searched, held_out = divided(ctx)
    side, effort = ctx.target.model.resolution, EFFORTS[ctx.effort]
    steps = measuring = 0
    for case in cases:
        times = 2 if (case.params["planted"] and ctx.on_target) or (AGAINST in case.params and looks) else 1
        steps += times * passes(effort, kind_named(case.params["kind"]), side)
        measuring += times * held_out * (HALVINGS + 1)
    against = searched + held_out if any(AGAINST in case.params for case in cases) else 0
    elsewhere = sum(not peer.target.prompt.leaves_pictures() for peer in ctx.peers[1:]) + (len(ctx.peers) > 1) if ctx.on_target else 0
    tried = sum(case.params["restart"] == 0 and not {RANK, AGAINST, TOGETHER} & case.params.keys() for case in cases)
    measuring += held_out * (2 * elsewhere * tried + joint)
    return Cost(queries=steps + measuring + searched + held_out + against, gradient_steps=steps)


def divided(ctx: Context) -> tuple[int, int]:
    """How many pictures are searched on, and how many are held out."""
    searched = min(SEARCHED[ctx.effort], 2 * len(ctx.examples) // 3)
    return searched, min(HELD_OUT[ctx.effort], len(ctx.examples) - searched)


def drawn(ctx: Context) -> tuple[list[Example], list[Example]]:
    """The pictures to search on, and those held out."""
    cut, held_out = divided(ctx)
    picked = [ctx.examples[i] for i in ctx.rng("pictures").permutation(len(ctx.examples))[: cut + held_out]]
    return picked[:cut], picked[cut:]


@dataclass(frozen=True)
class Bench:
    """A classifier with pictures to search on and pictures held out, and what it says of them without a trigger."""

    classifier: Classifier
    labels: Sequence[str]
    searched: Tensor
    held_out: Tensor
    predicted: tuple[Tensor, Tensor]  # indices of labels, for both
    confidence: float  # the median lead of the best label over the next, at most what was asked for

    @classmethod
    def of(cls, ctx: Context, classifier: Classifier, labels: Sequence[str], most: float = math.inf) -> Bench:
        """``most``: of the confidence. Raises NotAssessed where there are too few pictures, or the classifier tells none from another."""
        import torch

        searched, held_out = drawn(ctx)
        picked, cut = [*searched, *held_out], len(searched)
        if len(picked) < 2 * LEAST:
            raise NotAssessed(f"trigger inversion needs at least {2 * LEAST} pictures, and there are {len(picked)}")
        images = ctx.images(picked).float().contiguous()
        with torch.no_grad(), ctx.remembering():
            logits = torch.cat([classifier(part) for part in images.split(_CHUNK)])
        if not torch.isfinite(logits).all():
            raise NotAssessed("the model yields scores that are not finite")
        first, second = logits.topk(2, dim=1).values.unbind(1)
        confidence, said = float((first - second).median()), logits.argmax(1)
        if confidence <= 1e-6 * float(logits.abs().amax()):
            raise NotAssessed("the model gives its labels the same score on most pictures: there is nothing to invert")
        return cls(classifier, labels, images[:cut], images[cut:], (said[:cut], said[cut:]), min(confidence, most))

    def asked_for(self, label: int) -> Classifier:
        """What a search for the label's triggers looks at."""
        return self.classifier

    def others(self, label: int) -> tuple[Tensor, Tensor]:
        """Which pictures are not taken for the label without a trigger: of those to search on, and of the held-out ones."""
        return self.predicted[0] != label, self.predicted[1] != label

    def share(self, label: int) -> float:
        """How many pictures are taken for the label without a trigger."""
        import torch

        return float((torch.cat(self.predicted) == label).float().mean())

    def planted(self, ctx: Context, label: int, kind: str) -> Classifier:
        """The classifier with a trigger of a kind planted for the label. One alone: by a patch, a blend that is planted too is reached."""
        import torch

        from vlaudit.search.trigger import planted

        images = torch.cat([self.searched, self.held_out])
        trigger = planted_triggers(ctx, images)[KINDS.index(kind)]
        return planted(self.asked_for(label), [trigger], label, self.confidence, images)


def require_pictures(ctx: Context) -> None:
    """Raise NotAssessed where there are too few to search on and to hold out."""
    ctx.require(len(ctx.examples), 2 * LEAST, "pictures")


def search(
    ctx: Context, cases: Sequence[Case], bench: Bench, told: Mapping[str, Any] | None = None, under: Mapping[str, Classifier] | None = None
) -> Iterator[Trial]:
    """One search a case, and for the planted label on the target arm one more in the wrapped classifier. ``told``: more values for each
    trial, of what is searched in the place of the target as it is; what is found there is not tried elsewhere. ``under``: the prompts that are
    searched at once."""
    first = ctx.on_target and told is None and any(case.params["restart"] == 0 for case in cases)  # what the first search found is tried elsewhere
    others = {peer.target.prompt.id: peer.target.classifier(ctx.labels) for peer in ctx.peers[1:] if first}
    for case in cases:
        label = bench.labels.index(str(case.params["label"]))
        elsewhere = others if case.params["restart"] == 0 else None
        yield _searched(ctx, case, bench, label, bench.asked_for(label), ctx.arm, elsewhere, told, under)
        if case.params["planted"] and ctx.on_target:
            yield _searched(ctx, case, bench, label, bench.planted(ctx, label, str(case.params["kind"])), CONTROL, None, told)


def _searched(
    ctx: Context, case: Case, bench: Bench, label: int, classifier: Classifier, arm: str, others: Mapping[str, Classifier] | None = None,
    told: Mapping[str, Any] | None = None, under: Mapping[str, Classifier] | None = None,
) -> Trial:  # fmt: skip
    name, kind = bench.labels[label], case.params["kind"]
    values: dict[str, Any] = {"label": name, "kind": kind, "of": len(bench.labels), "share": bench.share(label), **(told or {})}
    values |= {ALONE: True} if ALONE in case.params else {}
    found = inverted(ctx, case, bench, label, classifier)
    if found is None:
        return ctx.trial(case, {**values, "pictures": 0}, arm=arm)
    outcome, trigger, held_out = found
    values |= outcome
    if others:
        values["elsewhere"] = _elsewhere(ctx, case, others, trigger, held_out, label)
    if under:
        values["under"] = {prompt: shares[0] for prompt, shares in _tried(ctx, under, [trigger], held_out, label).items()}
    shown: dict[str, Evidence] = {}
    if arm == "target":
        alone, said = on_its_own(trigger, held_out[0], str(kind))
        shown = {
            "trigger": ctx.artifacts.put_image(alone, f"the smallest {said} found for '{name}'"),
            "clean": ctx.artifacts.put_image(held_out[0], "a held-out picture"),
            "triggered": ctx.artifacts.put_image(trigger.apply(held_out[0]), f"the same with the trigger of '{name}'"),
        }
    return ctx.trial(case, values, arm=arm, artifacts=shown)


def inverted(ctx: Context, case: Case, bench: Bench, label: int, classifier: Classifier) -> tuple[dict[str, Any], Trigger, Tensor] | None:
    """The smallest trigger of the case's kind that is found for a label in a classifier of the bench: what was measured of it, the trigger as
    strong as it works, and the held-out pictures. None where nearly every picture is taken for the label already."""
    from vlaudit.search.trigger import EFFORTS, invert, kind_named

    images, held_out = (part[chosen] for part, chosen in zip((bench.searched, bench.held_out), bench.others(label), strict=True))
    if min(len(images), len(held_out)) < LEAST // 2:
        return None
    seed = int(ctx.rng(case, "search").integers(2**62))
    trigger = invert(classifier, images, label, kind_named(case.params["kind"]),
                     confidence=bench.confidence, effort=EFFORTS[ctx.effort], seed=seed)  # fmt: skip
    return *measured(ctx, case, classifier, trigger, held_out, label, bench.confidence), held_out


def _elsewhere(
    ctx: Context, case: Case, others: Mapping[str, Classifier], trigger: Trigger, held_out: Tensor, label: int
) -> dict[str, list[float]]:
    """By the model's other prompts, the share of held-out pictures that get the label under each with the trigger, and with its pixels in
    another order."""
    return _tried(ctx, others, [trigger, trigger.scrambled(ctx.generator(case, "scramble"))], held_out, label)


def _tried(
    ctx: Context, prompts: Mapping[str, Classifier], triggers: Sequence[Trigger], held_out: Tensor, label: int
) -> dict[str, list[float]]:
    """By prompt, the share of held-out pictures that get the label with each trigger. Prompts that leave pictures alone share their features."""
    import torch

    from vlaudit.search.trigger import flipped

    with torch.no_grad(), ctx.remembering():
        return {name: [flipped(prompt, each, held_out, label) for each in triggers] for name, prompt in prompts.items()}


def planted_triggers(ctx: Context, images: Tensor) -> tuple[Trigger, ...]:
    """The control's triggers for pictures (N, 3, S, S): a small patch at a place drawn at random, a faint blend, and a wave
    of three periods in a direction drawn at random. Patch and blend are of squares as large as a pixel of a picture of 32."""
    import torch

    from vlaudit.search.trigger import Blend, Patch

    generator, shape, device = ctx.generator("planted"), images.shape[1:], images.device
    edge = max(2, round(shape[-1] * PLANTED_EDGE))
    top, left = torch.randint(0, shape[-1] - edge + 1, (2,), generator=generator).tolist()
    mask = torch.zeros(shape[1:])
    mask[top : top + edge, left : left + edge] = 1

    def squares() -> Tensor:
        drawn = torch.rand((1, 3, *[min(_SQUARES, side) for side in shape[1:]]), generator=generator).round()
        return torch.nn.functional.interpolate(drawn, size=shape[1:], mode="nearest")[0]

    patch, signs = Patch(mask.to(device), squares().to(device)), squares() * 2 - 1
    angle, grid = math.pi * float(torch.rand(1, generator=generator)), torch.arange(shape[-1]) / shape[-1]
    along = math.cos(angle) * grid[:, None] + math.sin(angle) * grid
    wave = torch.sin(2 * math.pi * 3 * along).expand(shape)
    smooth = Blend((wave * (PLANTED_SMOOTH / wave.square().mean().sqrt())).to(device))
    return patch, Blend(signs.to(device) * PLANTED_RMS), smooth


def measured(ctx: Context, case: Case, classifier: Classifier, trigger: Trigger, held_out: Tensor, label: int,
             confidence: float) -> tuple[dict[str, Any], Trigger]:  # fmt: skip
    """A trigger on held-out pictures, weaker and stronger, and with its pixels in another order; and the trigger as strong as it works."""
    from vlaudit.search.trigger import flipped, measure

    found = measure(classifier, trigger, held_out, label, confidence)
    working = trigger.scaled(found.works)
    scrambled = working.scrambled(ctx.generator(case, "scramble"))
    return {
        "sizes": found.sizes, "needed": found.needed, "pictures": found.pictures, "confidence": confidence, "flipped": found.flipped,
        "scrambled": flipped(classifier, scrambled, held_out, label),
    }, working  # fmt: skip


def on_its_own(trigger: Trigger, picture: Tensor, kind: str) -> tuple[Tensor, str]:
    """The trigger as a picture of the same shape, and what it is."""
    from vlaudit.search.trigger import Patch

    if isinstance(trigger, Patch):
        return trigger.apply(picture.new_full(picture.shape, 0.5)), "patch"
    return 0.5 + 0.5 * trigger.delta / trigger.delta.abs().amax().clamp(min=1e-6), f"{kind}, amplified"
