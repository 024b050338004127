"""Is it there? Yes-no questions about labels that a picture shows and labels that it does not (POPE, arXiv:2305.10355)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlaudit.answers import yes_no
from vlaudit.attacks.shared.sampling import subset
from vlaudit.data.articles import mend_articles
from vlaudit.data.example import DEFAULT_QUESTION, Example
from vlaudit.probe import Claim, Context, Needs
from vlaudit.records import Trial

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("there", "random", "popular", "adversarial")
LABELS = 40  # that the likeliest wrong one is looked for among


def pictures_to_ask(ctx: Context, count: int) -> list[Example]:
    """At most ``count`` labelled pictures, each once; none where there are fewer than three labels."""
    once = {example.id.partition("#")[0]: example for example in ctx.examples if example.label in ctx.labels}
    return subset(list(once.values()), count, ctx.rng("presence")) if len(ctx.labels) > 2 else []


def attempt(ctx: Context, cases: Mapping[str, str]) -> Iterator[Trial]:
    """One trial a case (its picture's id): what was said of each label, with the picture and without."""
    examples = {example.id: example for example in ctx.examples}
    shown = [examples[name] for name in cases.values()]
    if not shown:
        return
    images = ctx.pictures(shown)
    labels = [_labels(ctx, example, hard) for example, hard in zip(shown, _hardest(ctx, shown, images), strict=True)]
    flat = [(number, kind, label) for number, each in enumerate(labels) for kind, label in each.items()]
    asked = [mend_articles(f"Is there a {label} in the picture?") for _, _, label in flat]
    said = ctx.target.generate([images[number] for number, _, _ in flat], asked)
    unseen = dict.fromkeys(asked)  # the same question without a picture has one answer
    blank = dict(zip(unseen, ctx.target.generate([ctx.target.model.blank()] * len(unseen), list(unseen)), strict=True))
    values: list[dict[str, Any]] = [{"yes": {}, "unseen": {}} for _ in shown]
    for (number, kind, _), question, answer in zip(flat, asked, said, strict=True):
        values[number]["yes"][kind], values[number]["unseen"][kind] = yes_no(answer), yes_no(blank[question])
    for case, found in zip(cases, values, strict=True):
        yield ctx.trial(case, found)


def _labels(ctx: Context, example: Example, hardest: str | None) -> dict[str, str]:
    """The label asked about, by kind."""
    others = [label for label in ctx.labels if label != example.label]
    common = Counter(e.label for e in ctx.examples if e.label in others).most_common(1)
    drawn = others[int(ctx.rng("absent", example.id).integers(len(others)))]
    found = {"there": str(example.label), "random": drawn, "popular": str(common[0][0]) if common else drawn}
    return found | ({"adversarial": hardest} if hardest else {})


def _hardest(ctx: Context, examples: Sequence[Example], images: Sequence[Tensor]) -> list[str | None]:
    """For each picture the wrong label that the model finds likeliest; None where it gives no likelihoods."""
    import torch

    if Needs.TOKEN_LOGITS not in ctx.target.capabilities:
        return [None] * len(examples)
    labels = subset(ctx.labels, LABELS, ctx.rng("labels"))
    with torch.no_grad():
        scores = ctx.target.choose(images, [DEFAULT_QUESTION] * len(images), labels)
    found: list[str | None] = []
    for example, row in zip(examples, scores.tolist(), strict=True):
        wrong = [(score, label) for score, label in zip(row, labels, strict=True) if label != example.label]
        found.append(max(wrong)[1] if wrong else None)
    return found


def tell(claim: Claim, trials: Sequence[Trial]) -> None:
    """Accuracy, F1 and share of yes, for each kind of label that is not there, against those that are."""
    there = [trial["yes"]["there"] for trial in trials]
    rows: list[list[Any]] = []
    for kind in KINDS[1:]:
        absent = [trial["yes"][kind] for trial in trials if kind in trial["yes"]]
        if not absent:
            continue
        unseen = [trial["unseen"][k] for trial in trials for k in ("there", kind) if k in trial["unseen"]]
        hits, false, blind = (sum(said is True for said in some) for some in (there, absent, unseen))
        rejected, count = sum(said is False for said in absent), len(there) + len(absent)
        f1 = 2 * hits / (hits + false + len(there)) if hits else 0.0
        unread = sum(said is None for said in (*there, *absent))
        rows.append([kind, count, (hits + rejected) / count, f1, (hits + false) / count, unread, blind / len(unseen)])
    columns = ["label that is not there", "questions", "accuracy", "F1", "share of yes", "unreadable",
               "share of yes unseen"]  # fmt: skip
    if trials:
        claim.table("is it there? (as in POPE)", columns, rows)
