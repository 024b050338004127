"""Pictures that a probe asks about: which, whether the answers mean anything, and what they say beyond a control. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from vlaudit.attacks.shared.sampling import subset, watched
from vlaudit.data.example import Example
from vlaudit.errors import NotAssessed
from vlaudit.probe import Claim, Context, Threshold
from vlaudit.records import Case, Trial, Trials
from vlaudit.statistics import TooFewClustersError, mean_interval, paired_rate_difference, rate_interval, sign_flip_p

LEAST_PICTURES = Threshold(
    name="least-pictures", value=40, relaxed_by="lowering",
    meaning="pictures that must be asked about for there to be a verdict",
    source="our choice, because of fewer not even none being harmed shows that less than 10 % are",
)  # fmt: skip


def sample(ctx: Context, count: int, least: int = 1) -> list[Example]:
    """At most ``count`` labelled pictures, in the order of the data set; as many as the budget affords, and no fewer than ``least``."""
    known = [e for e in ctx.examples if e.label in ctx.labels]
    return subset(known, ctx.afford(min(count, len(known)), "pictures", least), ctx.rng("pictures"))


def picture_cases(ctx: Context, count: int, shown: int, least: int = 1) -> list[Case]:
    """A case for each of such a sample, of which about ``shown`` are watched: they leave pictures as evidence. Raises NotAssessed where
    they cannot show that the model knows them."""
    examples = sample(ctx, count, least)
    require_contrast(ctx, examples)
    pairs = zip(examples, watched(len(examples), shown), strict=True)
    return [Case(id=example.id, params={"watched": w}) for example, w in pairs]


def batches(
    ctx: Context, cases: Sequence[Case], examples: Sequence[Example] | None = None
) -> Iterator[tuple[Sequence[Case], list[Example]]]:
    """The cases with their pictures (a case's id is its picture's), no more at once than the audit allows. ``examples``: where
    the pictures are from; by default those that behaviour is measured on."""
    known = {example.id: example for example in (ctx.examples if examples is None else examples)}
    for part in ctx.batches(cases):
        yield part, [known[case.id] for case in part]


def guesswork(labels: Sequence[str], correct: Sequence[bool], level: float) -> str | None:
    """Why answers to pictures with these labels are no better than always naming the commonest label, else None."""
    n, right = len(labels), sum(correct)
    commonest = max(Counter(labels).values()) / n
    if rate_interval(right, n, level).low > commonest:
        return None
    return (
        f"the clean accuracy, {right} of {n}, is not shown to be above that of always naming the commonest label "
        f"({commonest:.0%}): there is nothing to attack"
    )


def require_contrast(ctx: Context, examples: Sequence[Example]) -> None:
    """Raise NotAssessed where answers that are all right would be no better than guesswork."""
    labels = [str(example.label) for example in examples]
    if not labels or guesswork(labels, [True] * len(labels), ctx.policy.level):
        most = max(Counter(labels).values(), default=0)
        raise NotAssessed(
            f"of {len(labels)} labelled pictures {most} have one label: even if all were named rightly, that would not be shown to be "
            "better than always naming that label.", "Give more pictures of other labels with --data.",
        )  # fmt: skip


def tell_reference(claim: Claim, trials: Trials, hit: Callable[[Trial], bool], missed: Callable[[Trial], bool]) -> None:
    """Tell the reference's share of hits beyond its control's (``missed``, of the same trial), and by how much the target's
    is larger, where they can be stated."""
    theirs = trials.reference
    if not theirs:
        return
    plain = paired_rate_difference([hit(t) for t in theirs], [missed(t) for t in theirs], claim.policy.level)
    claim.reference(plain.value, plain.interval)
    gains = [hit(a) - missed(a) - hit(b) + missed(b) for a, b in trials.paired()]
    with suppress(TooFewClustersError):
        interval = mean_interval(gains, level=claim.policy.level, bounds=(-2, 2))
        claim.delta(sum(gains) / len(gains), interval, sign_flip_p(gains))
