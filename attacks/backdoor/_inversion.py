"""What the two probes of trigger inversion share: the pictures, one search with its controls, and its cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.backdoor._sizes import KINDS
from vlaudit.errors import NotAssessed
from vlaudit.records import Case, Cost, Evidence, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import Classifier
    from vlaudit.probe import Context
    from vlaudit.search.trigger import Effort, Kind, Trigger

SEARCHED, HELD_OUT = 128, 96  # pictures at most
LEAST = 24  # of each kind that are not taken for the label
PLANTED_EDGE = 0.125  # of the patch planted in the control, as a share of the picture's side
PLANTED_RMS = 0.03  # of the blend planted in it, in units of the pixel range
_CHUNK = 64  # pictures a pass without gradients; fixed, so that results do not depend on the audit's batch size
CONTROL = "control:planted"


def restarts(labels: Sequence[str], count: int, planted: str) -> list[Case]:
    """One case a restart, kind and label. The control rides on the cases of one label."""
    return [
        Case(
            id=f"{restart}/{kind}/{index:04d}",
            params={"label": label, "kind": kind, "restart": restart, "planted": label == planted},
        )
        for restart in range(count)
        for kind in KINDS
        for index, label in enumerate(labels)
    ]


def by_restart(cases: Sequence[Case]) -> list[list[Case]]:
    numbers = sorted({int(str(case.params["restart"])) for case in cases})
    return [[case for case in cases if case.params["restart"] == number] for number in numbers]


def search_cost(ctx: Context, cases: Sequence[Case]) -> Cost:
    """Passes of the searches, and of measuring what they find."""
    from vlaudit.search.trigger import EFFORTS, HALVINGS, passes

    side, effort = ctx.target.model.resolution, EFFORTS[ctx.effort]
    kinds = [case.params["kind"] for case in cases] + [case.params["kind"] for case in cases if case.params["planted"]]
    steps = sum(passes(effort, "patch" if kind == "patch" else "blend", side) for kind in kinds)
    return Cost(queries=steps + len(kinds) * HELD_OUT * (HALVINGS + 2), gradient_steps=steps)


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

        order = ctx.rng("pictures").permutation(len(ctx.examples))
        picked = [ctx.examples[i] for i in order[: SEARCHED + HELD_OUT]]
        if len(picked) < 2 * LEAST:
            raise NotAssessed(f"trigger inversion needs at least {2 * LEAST} pictures, and there are {len(picked)}")
        cut = min(SEARCHED, len(picked) * 3 // 5)
        images = ctx.images(picked).float().contiguous()
        with torch.no_grad():
            logits = torch.cat([classifier(part) for part in images.split(_CHUNK)])
        if not torch.isfinite(logits).all():
            raise NotAssessed("the model yields scores that are not finite")
        first, second = logits.topk(2, dim=1).values.unbind(1)
        confidence = float((first - second).median())
        if confidence <= 1e-6 * float(logits.abs().amax()):
            raise NotAssessed("the model gives its labels the same score on most pictures: there is nothing to invert")
        predicted = logits.argmax(1)
        return cls(
            classifier, labels, images[:cut], images[cut:], (predicted[:cut], predicted[cut:]), min(confidence, most)
        )

    def others(self, label: int) -> tuple[Tensor, Tensor]:
        """Pictures to search on and pictures held out that are not taken for the label."""
        return self.searched[self.predicted[0] != label], self.held_out[self.predicted[1] != label]

    def share(self, label: int) -> float:
        """How many pictures are taken for the label without a trigger."""
        import torch

        return float((torch.cat(self.predicted) == label).float().mean())


def search(ctx: Context, cases: Sequence[Case], bench: Bench) -> Iterator[Trial]:
    """One search a case, and for the planted label on the target arm one more in the wrapped classifier."""
    for case in cases:
        yield _trial(ctx, case, bench, bench.classifier, ctx.arm)
        if case.params["planted"] and ctx.on_target:
            yield _trial(ctx, case, bench, _planted(ctx, bench, str(case.params["label"])), CONTROL)


def _planted(ctx: Context, bench: Bench, label: str) -> Classifier:
    """The classifier with a small patch and a faint blend planted for the label, at a place drawn at random."""
    import torch

    from vlaudit.search.trigger import Blend, Patch, planted

    generator, shape = ctx.generator("planted"), bench.searched.shape[1:]
    side = shape[-1]
    edge = max(2, round(side * PLANTED_EDGE))
    top, left = torch.randint(0, side - edge + 1, (2,), generator=generator).tolist()
    mask = torch.zeros(shape[1:])
    mask[top : top + edge, left : left + edge] = 1
    device = bench.searched.device
    patch = Patch(mask.to(device), torch.rand(shape, generator=generator).round().to(device))
    blend = Blend((torch.rand(shape, generator=generator).round() * 2 - 1).to(device) * PLANTED_RMS)
    images = torch.cat([bench.searched, bench.held_out])
    return planted(bench.classifier, (patch, blend), bench.labels.index(label), bench.confidence, images)


def _trial(ctx: Context, case: Case, bench: Bench, classifier: Classifier, arm: str) -> Trial:
    from vlaudit.search.trigger import EFFORTS, flipped, invert, measure

    label = bench.labels.index(str(case.params["label"]))
    kind: Kind = "patch" if case.params["kind"] == "patch" else "blend"
    images, held_out = bench.others(label)
    values: dict[str, Any] = {
        "label": bench.labels[label], "kind": kind, "of": len(bench.labels), "share": bench.share(label),
    }  # fmt: skip
    if min(len(images), len(held_out)) < LEAST // 2:  # nearly every picture is taken for the label already
        return ctx.trial(case, {**values, "pictures": 0}, arm=arm)
    effort: Effort = EFFORTS[ctx.effort]
    seed = int(ctx.rng(case, "search").integers(2**62))
    trigger = invert(classifier, images, label, kind, confidence=bench.confidence, effort=effort, seed=seed)
    found = measure(classifier, trigger, held_out, label, bench.confidence)
    scrambled = trigger.scrambled(ctx.generator(case, "scramble"))
    values |= {
        "sizes": found.sizes, "needed": found.needed, "pictures": found.pictures, "confidence": bench.confidence,
        "flipped": flipped(classifier, trigger, held_out, label),
        "scrambled": flipped(classifier, scrambled, held_out, label),
    }  # fmt: skip
    shown = _show(ctx, trigger, held_out[0], bench.labels[label]) if arm == "target" else {}
    return ctx.trial(case, values, arm=arm, artifacts=shown)


def _show(ctx: Context, trigger: Trigger, picture: Tensor, label: str) -> dict[str, Evidence]:
    """The trigger alone, and a held-out picture without and with it."""
    from vlaudit.search.trigger import Patch

    if isinstance(trigger, Patch):
        alone, name = trigger.apply(picture.new_full(picture.shape, 0.5)), "patch"
    else:
        alone, name = 0.5 + 0.5 * trigger.delta / trigger.delta.abs().amax().clamp(min=1e-6), "blend, amplified"
    return {
        "trigger": ctx.artifacts.put_image(alone, f"the smallest {name} found for '{label}'"),
        "clean": ctx.artifacts.put_image(picture, "a held-out picture"),
        "triggered": ctx.artifacts.put_image(trigger.apply(picture), f"the same with the trigger of '{label}'"),
    }
