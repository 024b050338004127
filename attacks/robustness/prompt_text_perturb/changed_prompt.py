"""A prompt that is changed again and again: its words, the names of the labels, or the vectors that it learned."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.shared.text_perturbations import one_edit, perturb, spaced
from vlaudit.data.example import Example
from vlaudit.families.matching import SoftTokens, cosines
from vlaudit.probe import Context
from vlaudit.records import Case

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.families.matching import MatchingModel, MatchingPrompt

_DRAWS = 10  # tries to find a rewriting that changes the tokens
_BEAM = 3
_EDITS = 3


def worst_changes(ctx: Context) -> int:
    """How many texts the search for the worst one tries, about."""
    return sum((1 if edits == 0 else _BEAM) * (_width(ctx) + 1) + 1 for edits in range(_edits(ctx)))


def _width(ctx: Context) -> int:
    return ctx.by_effort(12, 24, 48)


def _edits(ctx: Context) -> int:
    return ctx.by_effort(2, _EDITS, _EDITS)


def noise_kind(size: float) -> str:
    """What a trial calls noise of this size."""
    return f"noise of {size:g} of each vector"


class ChangedPrompt:
    """Pictures whose features are known, asked again and again under changed prompts."""

    def __init__(self, ctx: Context, examples: Sequence[Example]) -> None:
        import torch

        self.ctx, self.labels = ctx, [str(example.label) for example in examples]
        self.model: MatchingModel = ctx.target.model
        self.prompt: MatchingPrompt = ctx.target.prompt
        with torch.no_grad(), ctx.remembering():
            self.seen = torch.cat([ctx.target.seen(ctx.images(part)) for part in ctx.batches(examples)])
        self.usual = self.answers(self.features())

    def features(self, prompt: MatchingPrompt | None = None) -> Tensor:
        """Of the labels under the prompt, or a changed one."""
        import torch

        with torch.no_grad():
            return self.ctx.target.features_for(self.ctx.labels, self.seen, prompt)

    def answers(self, texts: Tensor) -> Tensor:
        return cosines(self.seen, texts).argmax(dim=1)

    def flips(self, texts: Tensor) -> list[int]:
        """For each picture whether the answer is another than the usual one (1) or not (0)."""
        return (self.answers(texts) != self.usual).int().tolist()

    def values(self, case: Case) -> dict[str, Any] | None:
        """The outcome of a case, or None where this arm's prompt has nothing that the case could change."""
        if case.id == "no-op":
            return self.no_op()
        if case.id == "worst":
            return {"steps": self.worst()} if len(self.prompt.templates) == 1 else None
        if "noise" in case.params:
            return self.noisy(case)
        return self.rewritten(case)

    def no_op(self) -> dict[str, Any]:
        templates = list(self.prompt.templates)
        for spacing in zip(*map(spaced, templates), strict=True) if templates else []:
            if self.tokens(spacing, self.ctx.labels) == self.tokens(templates, self.ctx.labels):
                flips = self.flips(self.encode(spacing, self.ctx.labels))
                break
        else:
            flips = self.flips(self.features())
        correct = [self.ctx.labels[i] == label for i, label in zip(self.usual.tolist(), self.labels, strict=True)]
        return {"flips": flips, "labels": self.labels, "correct": correct}

    def rewritten(self, case: Case) -> dict[str, Any] | None:
        """The template, or the names of the labels, rewritten so that the model reads other tokens."""
        rng, templates, names = self.ctx.rng(case), list(self.prompt.templates), self.ctx.labels
        usual, of = self.tokens(templates, names), "name" if "name" in case.params else "template"
        kind = str(case.params["name" if of == "name" else "text"])
        for _ in range(_DRAWS):
            changed = [perturb(text, kind, rng) for text in (names if of == "name" else templates)]
            texts, asked = (templates, changed) if of == "name" else (changed, names)
            if self.tokens(texts, asked) != usual:
                return {"kind": f"{of}: {kind}", "text": changed[0], "flips": self.flips(self.encode(texts, asked))}
        return None

    def noisy(self, case: Case) -> dict[str, Any] | None:
        """Random directions added to the learned context, or to the tokens that all the labels' texts begin with."""
        import torch

        size, context = float(str(case.params["noise"])), self.prompt.context
        places, sequences = (
            None,
            [self.model.tokenize(t) for t in self.texts(self.prompt.templates[:1], self.ctx.labels)],
        )
        if context is None:
            columns = zip(*(sequence.ids for sequence in sequences), strict=False)
            lead, shared = (
                sequences[0].lead if sequences else 0,
                len(list(takewhile(lambda c: len(set(c)) == 1, columns))),
            )
            if shared <= lead:
                return None
            context = self.model.token_embeddings(sequences[0].ids[lead:shared])
            places = [list(range(lead, shared))] * len(sequences)
        direction = torch.randn(context.shape, generator=self.ctx.generator(case)).to(context)
        direction *= size * context.norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True)
        if places is None:
            prompt: Any = copy.copy(self.prompt)
            prompt.ctx = context + direction
            texts = self.features(prompt)
        else:
            with torch.no_grad():
                texts = self.model.encode_tokens(sequences, SoftTokens(context + direction, places))
            self.ctx.target.meter.read(len(texts))
        return {"kind": noise_kind(size), "text": f"{len(direction)} vectors", "flips": self.flips(texts)}

    def worst(self) -> list[dict[str, Any]]:
        """Beam search over single edits of the template, for the text under which the usual answers lead by least."""
        rng, width = self.ctx.rng("worst"), _width(self.ctx)
        beam, names, steps = [self.prompt.templates[0]], self.ctx.labels, []
        for edits in range(1, _edits(self.ctx) + 1):
            tried = sorted({one_edit(text, rng) for text in beam for _ in range(width)} | set(beam))
            scored = sorted((self.lead(self.encode([text], names)), text) for text in tried)
            beam = [text for _, text in scored[:_BEAM]]
            steps.append({"edits": edits, "text": beam[0], "flips": self.flips(self.encode(beam[:1], names))[1::2]})
        return steps

    def lead(self, texts: Tensor) -> float:
        """Mean lead of the usual answers over the next on every other picture."""
        from vlaudit.search.gradient import margins

        return float(margins(cosines(self.seen, texts)[::2], self.usual[::2]).mean())

    def texts(self, templates: Sequence[str], names: Sequence[str]) -> list[str]:
        return [self.prompt.fill(template, name) for template in templates for name in names]

    def tokens(self, templates: Sequence[str], names: Sequence[str]) -> list[list[int]]:
        return [self.model.tokenize(text).ids for text in self.texts(templates, names)]

    def encode(self, templates: Sequence[str], names: Sequence[str]) -> Tensor:
        import torch

        texts = self.texts(templates, names)
        self.ctx.target.meter.read(len(texts))
        with torch.no_grad():
            features = self.model.encode_texts(texts)
        mean = features.view(len(templates), len(names), -1).mean(dim=0)
        return torch.nn.functional.normalize(mean, dim=-1)
