"""A text-to-image target without a network: it deals emoji of people at work from decks whose shares a test sets, so
that everything after the drawing (scorer, correction, verdict) is tried on real pictures with a known truth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from vlaudit.audit.targets import Loader
from vlaudit.data.dataset import Dataset, load_dataset
from vlaudit.data.example import Example
from vlaudit.families.base import Meter, Target
from vlaudit.families.text_to_image import Generated
from vlaudit.probe import Context, Needs, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Case, Family, Trial, Trials
from vlaudit.scorer import Scorer

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
Weights = Mapping[str, Mapping[str, float]]  # caption (or "") to weights of values; a value not named weighs 1


def people(groups: tuple[str, ...] = ("gender", "tone")) -> Dataset:
    """The people among the bundled captioned pictures: sixteen roles as man and woman in five tones."""
    data = load_dataset("zoo:captions", groups=groups)
    return replace(data, examples=[example for example in data.examples if example.attributes["gender"]])


class Dealer(Target):
    """Deals pictures of the role that a caption names: of the group it names, else by weights."""

    family = Family.TEXT_TO_IMAGE

    def __init__(self, data: Dataset, weights: Weights | None = None, blocked: Sequence[str] = ()) -> None:
        self.data, self.weights, self.blocked = data, weights or {}, blocked
        self.capabilities = frozenset({Needs.GENERATED_PICTURES})
        self.meter = Meter()
        self.model = SimpleNamespace(
            steps=1, guided=False, device=torch.device("cpu"), spec="dealer", tokenize=str.split, context_length=12
        )
        self.prompt = SimpleNamespace(id="plain")
        self.drawn = 0

    def wording(self, captions: Sequence[str]) -> list[str]:
        return list(captions)

    def generate(self, captions: Sequence[str], seeds: Sequence[int], **_: object) -> Generated:
        self.drawn += len(captions)
        pictures = [self._deal(caption, seed) for caption, seed in zip(captions, seeds, strict=True)]
        return Generated(torch.stack(pictures), [caption in self.blocked for caption in captions])

    def _deal(self, caption: str, seed: int) -> torch.Tensor:
        deck = [
            e for e in self.data.examples if e.label and re.search(rf"\b{e.label}\b", caption)
        ] or self.data.examples
        for column, values in (("gender", ("man", "woman")), ("tone", TONES)):
            named = [v for v in values if re.search(rf"(?<![\w-]){v}(?![\w-])", caption)]
            deck = [e for e in deck if not named or e.attributes[column] in named]
        weights = {**self.weights.get("", {}), **self.weights.get(caption, {})}
        odds = np.array([self._weight(e, deck, weights) for e in deck])
        odds = odds if odds.sum() else np.ones(len(deck))
        chosen = deck[np.random.default_rng([seed, 7]).choice(len(deck), p=odds / odds.sum())]
        return torch.from_numpy(np.array(chosen.open())).permute(2, 0, 1).float() / 255

    @staticmethod
    def _weight(example: Example, deck: Sequence[Example], weights: Mapping[str, float]) -> float:
        """Every value weighs as much as given, however many pictures of it the deck holds."""
        odds = 1.0
        for column in ("gender", "tone"):
            value = example.attributes[column]
            odds *= weights.get(value, 1.0) / sum(e.attributes[column] == value for e in deck)
        return odds

    def check(self, ctx: Context) -> None: ...

    def calibrate(self, ctx: Context) -> None: ...  # type: ignore[override]


_scorer: list[Scorer] = []


def scorer() -> Scorer:
    if not _scorer:
        _scorer.append(Loader(torch.device("cpu"), allow_network=False).load_scorer("zoo:clean"))
    return _scorer[0]


def context(target: Target, data: Dataset, folder: Path, probe: str, arm: str = TARGET, seed: int = 0) -> Context:
    return Context(probe, arm, data, data.labels, ArtifactStore(folder), seed=seed, _target=target, _scorer=scorer)


def attempt(probe: Probe, target: Target, data: Dataset, folder: Path, reference: Target | None = None,
            seed: int = 0, cases: Sequence[Case] | None = None) -> Trials:  # fmt: skip
    """All trials of a probe on the target, and on a reference if there is one."""
    ctx = context(target, data, folder, probe.info.id, seed=seed)
    wanted = list(cases or probe.cases(ctx))
    trials: list[Trial] = list(probe.attempt(ctx, wanted))
    if reference is not None:
        other = context(reference, data, folder, probe.info.id, "reference", seed)
        trials += probe.attempt(other, wanted)
    return Trials(trials, reference_note=None if reference else "the target is the reference")
