"""Pictures that a probe asks about: which, whether the answers mean anything, and what they say beyond a control. Torch-free."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from vlaudit.attacks.shared.sampling import subset, watched
from vlaudit.data.example import Example
from vlaudit.probe import Claim, Context, Threshold
from vlaudit.records import Case, Trial, Trials
from vlaudit.statistics import TooFewClustersError, mean_interval, paired_rate_difference, rate_interval, sign_flip_p

LEAST_PICTURES = Threshold(
    name="least-pictures", value=40, relaxed_by="lowering",
    meaning="pictures that must be asked about for there to be a verdict",
    source="our choice, because of fewer not even none being harmed shows that less than 10 % are",
)  # fmt: skip


def sample(ctx: Context, count: int) -> list[Example]:
    """At most ``count`` labelled pictures, in the order of the data set."""
    return subset([e for e in ctx.examples if e.label in ctx.labels], count, ctx.rng("pictures"))


def picture_cases(ctx: Context, count: int, shown: int) -> list[Case]:
    """A case for each of such a sample, of which about ``shown`` are watched: they leave pictures as evidence."""
    examples = sample(ctx, count)
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
