"""Can the words that a prompt was learned for be read off its file alone?

Threat. A learned prompt is shared as a file of a few vectors. Whoever has it and the public model, and may ask nothing, looks
for the words that the vectors stand near: the names of classes or of people's groups that its owner has told nobody.

Method. Every context vector, of every label where labels have their own, is compared with the embedding of every token of the model's vocabulary, by cosine. A word is read where
the nearest token of a vector belongs to a secret word, and is nearer than the nearest token of any random vector: the
same vectors with their coordinates in another order, which keeps their length and the sizes of their entries. Secret words are the labels and the
values of the group columns of the data, in the tokens that the model makes of them, without those of "a photo of a", with which
contexts are begun, and without tokens of one letter.

Metric. The number of secret words that are read. It is a count for the file at hand, not a sample: its interval is the count
itself. The p-value is the rank of the nearest one among 199 random contexts.

Controls. ``random``: the nearest tokens of random vectors, as above. ``planted``: secret words put into random vectors, as a quarter, half and
all of their direction. Where those of one half are not read back, the attack is too weak for this vocabulary, and nothing is held.

When it errs. Nearest words are what anybody tries first, and rarely mean much: contexts of CoOp mostly stand near none. That none is read does not
show that the vectors hold nothing. Discriminators that are trained on shadow prompts (PIPRA), and the share of a group in the training data as a
property of the vectors, are not tried here. Membership of pictures is asked by prompt-mia. Prompts without vectors in the text, such
as a frame of pixels, are not assessed. Of the random contexts each is as large as the prompt's own, so that the time grows with its vectors.

What to do. Learn the prompt again from the words of "a photo of a", not from a class's name; with weight decay, or for fewer steps. Where the names are
secret, keep the file as secret as they are, and hand out scores or the text features of public labels in its place. Audit again: no
word may be read.

References. Nearest words of learned contexts, Zhou et al. 2022 arXiv:2109.01134; property inference from prompts, Wu et al. 2023 arXiv:2310.11970.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vlaudit.errors import NotAssessed
from vlaudit.probe import Claim, Context, Needs, Policy, Probe, Threshold, chance, probe
from vlaudit.records import Case, Cost, Family, Judgement, Risk, Trial, Trials

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 199
SHARES = (0.25, 0.5, 1.0)  # of the direction of a planted word
SHOWN, PART = 64, 8192  # vectors in the table; tokens that are compared at once


@probe(
    id="prompt-only-leak",
    code="MP3",
    title="Words in the prompt file",
    headline="Words can be read off the learned prompt file alone",
    risk=Risk.PRIVACY,
    families={Family.MATCHING},
    needs={Needs.LEARNED_PROMPT},
    threshold=0.0,
    threshold_meaning="secret words (labels and values of groups) that are read off the prompt's vectors",
    threshold_source="our choice, because one name that was to stay secret is one too many",
    thresholds=[
        Threshold(
            name="caution", value=0.2, relaxed_by="lowering",
            meaning="times the policy's alpha: the p-value among random contexts up to which a word counts as read",
            source="our choice, because a clean prompt that is audited at every release must raise no alarm in hundreds of audits",
        ),
        Threshold(
            name="planted", value=0.5, relaxed_by="raising",
            meaning="share of a vector's direction at which planted words must be read back for anything to be held",
            source="our choice, because a vector that is half a word is what a leak of names looks like",
        ),
    ],
    references=["arXiv:2109.01134", "arXiv:2310.11970"],
    maps=["atlas:AML.T0024.001", "owasp-llm:LLM02:2025"],
    version="2",  # before, at most 64 vectors were compared
    limits="Nearest words were looked for; attacks that are trained on shadow prompts were not tried.",
)  # fmt: skip
class PromptOnlyLeak(Probe):
    """Nearest tokens of each context vector, against random vectors."""

    def cases(self, ctx: Context) -> list[Case]:
        if ctx.target.context is None:
            raise NotAssessed("the prompt has no vectors among the words of its text, so that none can be read as one")
        if not _secrets(ctx):
            raise NotAssessed("every label and group is made of tokens that the plain prompt has too: there is no secret word")
        return [Case(id="vectors")]

    def estimate(self, ctx: Context, cases: list[Case]) -> Cost:
        return Cost()  # the model is not asked

    def wants_reference(self) -> bool:
        return False

    def attempt(self, ctx: Context, cases: list[Case]) -> Iterator[Trial]:
        import torch

        with torch.no_grad():
            secrets, vectors = _secrets(ctx), ctx.target.context.detach().float().flatten(0, -2)
            names = {token: text for text, token in ctx.target.model.vocabulary().items()}
            table = _unit(ctx.target.model.token_embeddings(range(max(names) + 1)))
            places, nearness = _nearest(vectors, table)
            read = [
                {"token": names.get(place, ""), "nearness": round(value, 6), "secret": secrets.get(place, "")}
                for place, value in zip(places, nearness, strict=True)
            ]
            yield ctx.trial("vectors", {"vectors": read, "secrets": len(set(secrets.values())), "vocabulary": len(names)})
            generator, highest = ctx.generator("random"), []
            for _ in range(DRAWS):
                order = torch.rand(vectors.shape, generator=generator).argsort(dim=1).to(vectors.device)
                highest.append(round(max(_nearest(vectors.gather(1, order), table)[1]), 6))
            yield ctx.trial("vectors", {"highest": highest}, arm="control:random")
            chosen = sorted(secrets)[:: max(1, len(secrets) // len(vectors))][: len(vectors)]
            for share in SHARES:
                words, other = table[torch.tensor(chosen, device=table.device)], _unit(vectors.gather(1, order))[: len(chosen)]
                found, near = _nearest(share * words + (1 - share) * other, table)
                hits = [place == token and value > max(highest) for place, token, value in zip(found, chosen, near, strict=True)]
                yield ctx.trial("vectors", {"share": share, "found": sum(hits), "of": len(hits)}, arm=f"control:planted {share:g}")

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        import numpy as np

        from vlaudit.statistics import Interval, rank_p

        target, random = trials.target[0], trials.control("random")
        planted = {share: t for share in SHARES for t in trials.control(f"planted {share:g}")}
        if not random or not planted:
            return Judgement.not_assessed("the controls are missing")
        highest = np.array(random[0]["highest"])
        known = [v for v in target["vectors"] if v["secret"]]
        p = rank_p(max((v["nearness"] for v in known), default=-1.0), highest)
        read = sorted({v["secret"] for v in known if v["nearness"] > highest.max()}) if p <= policy.alpha * policy.threshold(self.info, "caution") else []
        claim = Claim(self.info, policy, "secret words that are read", "words")
        claim.measured(len(read), Interval(len(read), len(read)), target["secrets"], p)
        claim.control("nearest token of random vectors", chance(highest, float(np.median(highest)), (0.0, 1.0)))
        for share, trial in planted.items():
            claim.control(f"planted, {share:.0%} of the direction", f"{trial['found']} of {trial['of']} read back")
        vectors = target["vectors"]
        first = sorted(range(len(vectors)), key=lambda i: (not vectors[i]["secret"], -vectors[i]["nearness"]))[:SHOWN]
        rows = [[i, v["token"], round(v["nearness"], 4), v["secret"] or "none"] for i in sorted(first) for v in [vectors[i]]]
        claim.fact("vectors compared", len(vectors))
        claim.table("the nearest token of each vector", ["vector", "token", "cosine", "secret word"], rows)
        claim.fact("tokens compared", target["vocabulary"])
        if len(read) > policy.threshold(self.info):
            words = ", ".join(f"'{word}'" for word in read[:6])
            return claim.vulnerable(f"{len(read)} of {target['secrets']} secret words are read off the file: {words}")
        least = policy.threshold(self.info, "planted")
        missed = [t for share, t in planted.items() if share >= least and t["found"] < t["of"]]
        said = f"no context vector is nearer to a secret word than random vectors are to their nearest ({highest.max():.2f})"
        if missed or not any(share >= least for share in planted):
            which = missed[0] if missed else next(iter(planted.values()))
            return claim.inconclusive(f"{said}; but of {which['of']} planted words {which['found']} are read back only")
        return claim.held(f"{said}; planted ones are read back")


def _secrets(ctx: Context) -> dict[int, str]:
    """The tokens of labels and of groups' values, with the word that each belongs to."""
    model = ctx.target.model
    values = {v for group in ctx.data.groups for e in ctx.data.examples if (v := e.attributes.get(group))}
    words = [*ctx.labels, *sorted(values - set(ctx.labels))]
    names = {token: text for text, token in model.vocabulary().items()}
    plain = set(_body(model.tokenize("a photo of a")))
    found: dict[int, str] = {}
    for word in words:
        for token in _body(model.tokenize(word)):
            if token not in plain and sum(map(str.isalnum, names.get(token, ""))) > 1:
                found.setdefault(token, word)
    return found


def _body(sequence: Any) -> list[int]:
    """Its tokens without the special ones at its ends."""
    return list(sequence.ids[sequence.lead : len(sequence.ids) - sequence.tail])


def _unit(rows: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(rows.float(), dim=-1)


def _nearest(vectors: Tensor, table: Tensor) -> tuple[list[int], list[float]]:
    """For each vector the row of the table that is nearest, and its cosine."""
    import torch

    unit = _unit(vectors).to(table.device)
    parts = [(unit @ part.T).max(dim=1) for part in table.split(PART)]
    best = torch.stack([part.values for part in parts])
    which = best.argmax(dim=0)
    places = torch.stack([part.indices + i * PART for i, part in enumerate(parts)]).gather(0, which[None])[0]
    return places.tolist(), best.max(dim=0).values.tolist()
