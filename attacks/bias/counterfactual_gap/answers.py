"""How much a target says yes to a question about a picture: by its likelihoods, else by what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlaudit.answers import yes_no
from vlaudit.probe import BuiltIn, Needs

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.generation import MultimodalGenerator

FORMS = (("yes", "Yes"), ("no", "No"))
LEAST_MASS = 0.5
BUILT_IN = {
    "LEAST_MASS": BuiltIn(
        meaning="probability of answers that begin with yes or no, below which what the target writes is read instead, at least",
        source="our choice, because where most of the probability lies elsewhere the rest is not what would be said",
    ),
}
TOKENS = 12


@dataclass(frozen=True)
class Said:
    """``net``: P(yes) - P(no) in [-1, 1], or 1, -1 as written. ``logit``: log P(yes) / P(no), None where no likelihoods
    were had. ``read``: whether it answers by yes or no at all."""

    net: float
    logit: float | None
    read: bool


def ask(target: MultimodalGenerator, images: Sequence[Tensor], questions: Sequence[str]) -> list[Said]:
    """One answer a picture and question. Where less than half of the probability lies on answers that begin with yes or
    no, what the target writes is read."""
    import torch

    if Needs.TOKEN_LOGITS not in target.capabilities:
        return [_written(text) for text in target.generate(images, questions, max_new_tokens=TOKENS)]
    yes, no = (spelled(target, forms) for forms in FORMS)
    with torch.no_grad():
        log_p = target.choose(images, questions, [*yes, *no]).double()
    both = torch.stack([log_p[:, : len(yes)].logsumexp(1), log_p[:, len(yes) :].logsumexp(1)], dim=1)
    found: list[Said] = []
    for one, other in both.tolist():
        p, q = torch.tensor([one, other]).exp().tolist()
        found.append(Said(round(p - q, 5), round(one - other, 4), p + q >= LEAST_MASS))
    vague = [place for place, said in enumerate(found) if not said.read]
    if vague:
        texts = target.generate([images[i] for i in vague], [questions[i] for i in vague], max_new_tokens=TOKENS)
        for place, text in zip(vague, texts, strict=True):
            written = _written(text)
            found[place] = Said(written.net, found[place].logit, written.read)
    return found


def _written(text: str) -> Said:
    said = yes_no(text)
    return Said(0.0 if said is None else 1.0 if said else -1.0, None, said is not None)


def spelled(target: MultimodalGenerator, forms: Sequence[str]) -> list[str]:
    """The forms that are different tokens, so that none is counted twice."""
    return list({tuple(target.model.tokenize(form)): form for form in reversed(forms)}.values())
