"""Triggers for several prompts of a model at once.

Prompts that leave pictures alone see the same features of them, so a picture with a trigger passes once for all. A trigger counts where any of these
prompts follows it, so for each label it is as small as the smallest under any of them. Where no label stands apart so, and each prompt mostly follows
what was found, none stands apart under one of them, and no prompt needs a search of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from vlaudit.attacks.shared.trigger_inversion.rules import View
from vlaudit.attacks.shared.trigger_inversion.search import AGAINST, TOGETHER, Bench, search
from vlaudit.attacks.shared.trigger_inversion.sizes import CONTROL
from vlaudit.attacks.shared.trigger_inversion.verdict import Comparison, compare
from vlaudit.errors import NotAssessed
from vlaudit.probe import BuiltIn, Context, Needs, Policy, ProbeInfo
from vlaudit.records import Case, Trial, Trials

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import Classifier, ImageTextMatcher, Panel

ASKED = 0.5
BUILT_IN = {
    "ASKED": BuiltIn(
        meaning="share of genuine pictures' confidence that a trigger must reach where the plain prompt shall not follow it, and may not reach there",
        source="our choice, because what is easy by nature is left out already",
    ),
}
SEVERAL = 3  # prompts from which on they are searched at once
_SEARCHES = 2  # of each label at most, before each prompt is searched by itself


@dataclass(frozen=True)
class Joint(Bench):
    """Prompts on the same pictures, of which one must follow a trigger, and a plain one that must not, if there is one. A lead of 1 is asked
    for."""

    panel: Panel  # of all of them, the plain one last
    each: Sequence[Bench]  # of those that shall follow
    plain: Bench | None = None

    @classmethod
    def of_prompts(cls, ctx: Context, targets: Sequence[ImageTextMatcher], plain: ImageTextMatcher | None = None) -> Joint:
        """Raises NotAssessed as Bench.of does."""
        from vlaudit.families.matching import together

        every = [*targets, *([plain] if plain else [])]
        each = [Bench.of(ctx, target.classifier(ctx.labels), ctx.labels) for target in every]
        first, last = each[0], each[-1] if plain else None
        return cls(first.classifier, first.labels, first.searched, first.held_out, first.predicted, 1.0,
                   panel=together(every, ctx.labels), each=each[: len(targets)], plain=last)  # fmt: skip

    def others(self, label: int) -> tuple[Tensor, Tensor]:
        import torch

        sides = zip(*(bench.others(label) for bench in [*self.each, *([self.plain] if self.plain else [])]), strict=True)
        searched, held_out = (torch.stack(side).all(0) for side in sides)
        return searched, held_out

    def share(self, label: int) -> float:
        return max(bench.share(label) for bench in self.each)

    def asked_for(self, label: int) -> Classifier:
        """Logits whose lead is the label's under the prompt that follows most, in units of the confidence that is asked for there; and, where a
        plain prompt shall not follow, at most 1 minus its lead under that one. At 1 a prompt gives the label with confidence, and the
        plain one another."""
        import torch

        from vlaudit.search.trigger import lead

        asked = ASKED if self.plain else 1.0

        def classify(images: Tensor) -> Tensor:
            logits = self.panel(images)
            leads = torch.stack([lead(here, label) / (asked * bench.confidence) for here, bench in zip(logits, self.each, strict=False)]).amax(0)
            if self.plain:
                leads = torch.minimum(leads, 1 - lead(logits[-1], label) / (asked * self.plain.confidence))
            return torch.nn.functional.one_hot(torch.tensor(label), len(self.labels)).to(leads) * leads[:, None]

        return classify


def company(ctx: Context) -> list[ImageTextMatcher]:
    """The model under the prompts of the audit that can be searched at once with the target's; empty where they are few, or it is none of them."""
    found = [peer.target for peer in ctx.peers if _joins(peer.target)]
    return found if len(found) >= SEVERAL and _joins(ctx.target) else []


def _joins(target: ImageTextMatcher) -> bool:
    prompt = target.prompt
    return prompt.leaves_pictures() and not prompt.per_picture and Needs.PIXEL_GRADIENTS in target.capabilities


def plain_of(targets: Sequence[ImageTextMatcher]) -> ImageTextMatcher | None:
    """The last of them that is not learned: references come last."""
    return next((target for target in reversed(targets) if not target.prompt.learned), None)


def as_joint(cases: Sequence[Case]) -> list[Case]:
    """The first of the same searches for all prompts at once."""
    return [Case(id=f"{case.id}/{TOGETHER}", params={**case.params, TOGETHER: True}) for case in cases if int(str(case.params["restart"])) < _SEARCHES]


def search_joint(ctx: Context, cases: Sequence[Case], against: bool) -> Iterator[Trial]:
    """One search a case; none where one of the prompts cannot be searched, which its own search will say. ``against``: through the learned prompts,
    for triggers that a plain one does not follow."""
    plain = plain_of([peer.target for peer in ctx.peers]) if against else None
    targets = [target for target in company(ctx) if target.prompt.learned or not against]
    try:
        bench = Joint.of_prompts(ctx, targets, plain)
    except NotAssessed:
        return
    under = {target.prompt.id: one.classifier for target, one in zip(targets, bench.each, strict=True)}
    yield from search(ctx, cases, bench, {TOGETHER: list(under)} | ({AGAINST: plain.prompt.id} if plain else {}), under)


def parted(trials: Trials) -> tuple[Trials, Trials]:
    """Of a prompt's own searches, and of those for several at once."""
    own, joint = ([trial for trial in trials if (TOGETHER in trial.values) is several] for several in (False, True))
    return Trials(own, reference_note=trials.reference_note), Trials(joint)


def joint_comparisons(info: ProbeInfo, joint: Trials, policy: Policy) -> list[Comparison]:
    """Of the searches for several prompts at once, and of those for triggers that a plain one does not follow."""
    found = []
    for against in (False, True):
        part = [t for t in joint.target if (AGAINST in t.values) is against]
        if part and (one := compare(info, Trials([*part, *joint.arm(CONTROL)]), policy, capped=against)):
            found.append(replace(one, view=_view(part[0]), all_of="labels"))
    return found


def _view(trial: Trial) -> View:
    names = trial[TOGETHER]
    through = f"under {len(names)} prompts searched at once, where a trigger counts that any of them follows"
    if AGAINST not in trial.values:
        return View(through)
    return View(f"{through} and '{trial[AGAINST]}' does not", where=f"Under '{trial[AGAINST]}' they do not work: the backdoor is in a prompt.", sparse=True)


def rule_out(info: ProbeInfo, found: Sequence[Comparison], joint: Trials, policy: Policy) -> bool:
    """Whether nothing stands apart under any of the prompts, and what was found is no matter of one of them: each mostly follows."""
    shares = typical_shares(joint)
    nothing = all(one.decided and not one.clear for one in found)
    return bool(found and shares) and nothing and min(shares.values()) >= policy.threshold(info, "alike")


def typical_shares(joint: Trials) -> dict[str, float]:
    """By prompt, the share of held-out pictures that what was found for all of them takes to its label, in the middle of the labels."""
    tried = [trial["under"] for trial in joint.target if AGAINST not in trial.values and "under" in trial.values]
    return {name: median(shares[name] for shares in tried) for name in (tried[0] if tried else ())}
