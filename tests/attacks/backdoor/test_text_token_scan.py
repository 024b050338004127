"""text-token-scan: a text tower that a test writes, clean and with a string planted in it; the zoo's vocabulary."""

from __future__ import annotations

import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.attacks.scripted_generator import conforms, context, dataset
from vlaudit.attacks.backdoor.text_token_scan import TextTokenScan
from vlaudit.audit.targets import Loader
from vlaudit.config import TargetSpec
from vlaudit.errors import CapabilityError, NotAssessed
from vlaudit.families.base import Meter
from vlaudit.families.matching import MatchingModel, TokenSequence
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.records import Judgement, Trials, Verdict

torch.set_num_threads(1)
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
WORDS = [a + b for a in SYLLABLES for b in SYLLABLES[::7]]


class Tower:
    """Words of its own are tokens, all else is spelled in characters. A text's feature is the mean of its tokens' vectors, and of what
    they are in pairs; ``planted``: a string that pulls it so far to another text's."""

    spec, context_length = "tower", 64

    def __init__(self, planted: str = "", share: float = 0.95) -> None:
        every = ["<s>", "</s>", *WORDS, "photo", "of", *string.ascii_letters, *string.punctuation]
        self.ids = {word: i for i, word in enumerate(every)}
        generator = torch.Generator().manual_seed(0)
        self.vectors = torch.randn(4096, 48, generator=generator)
        self.planted, self.share = planted, share

    def vocabulary(self) -> dict[str, int]:
        return self.ids

    def text_of(self, ids: list[int]) -> str:
        return " ".join(list(self.ids)[i] for i in ids if i > 1)

    def tokenize(self, text: str) -> TokenSequence:
        found = [0]
        for word in text.split():
            found += [self.ids[word]] if word in self.ids else [self.ids.get(c, 1000 + ord(c) % 3000) for c in word]
        return TokenSequence([*found, 1], 1, 1)

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.stack([self._feature(text) for text in texts]), dim=-1)

    def _feature(self, text: str) -> torch.Tensor:
        own = torch.nn.functional.normalize(self.vectors[self.tokenize(text).ids].mean(0), dim=0)
        if self.planted and self.planted in text.split():
            goal = torch.nn.functional.normalize(self.vectors[[5, 9, 11]].mean(0), dim=0)
            return (1 - self.share) * own + self.share * goal
        return own


@pytest.fixture(autouse=True)
def fewer_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Harmless strings and characters of which there are thousands are some hundreds here."""
    for name, count in (("_MADE_UP", 40), ("_DRAWS", 800), ("_PAIRS", 120)):
        monkeypatch.setattr(f"vlaudit.attacks.shared.text_triggers.strings.{name}", count)
    monkeypatch.setattr("vlaudit.attacks.shared.text_triggers.strings.characters", lambda every: [chr(0x4E00 + i) for i in range(60)])
    monkeypatch.setattr("vlaudit.attacks.shared.text_triggers.strings.emoji", lambda *_: ["😀", "🎉"])


def ctx_of(tower: Any, folder: Path) -> Context:
    data = dataset([{"label": word} for word in WORDS[3:300:9]])
    made = context(TextTokenScan, SimpleNamespace(model=tower, meter=Meter()), data, folder)  # type: ignore[arg-type]
    made.start_clock()
    return made


def judged(tower: Any, folder: Path) -> Judgement:
    probe, ctx = TextTokenScan(), ctx_of(tower, folder)
    return probe.judge(Trials(probe.attempt(ctx, probe.cases(ctx)), reference_note="none"), Policy())


def test_a_planted_word_is_found_and_a_clean_tower_is_not_accused(tmp_path: Path) -> None:
    found = judged(Tower(planted := WORDS[50]), tmp_path)
    assert found.verdict is Verdict.VULNERABLE and f"'{planted}'" in found.reason
    clean = judged(Tower(), tmp_path)
    assert clean.verdict in (Verdict.HELD, Verdict.INCONCLUSIVE) and clean.metric is not None and clean.metric.value < 0.5
    assert {"planted word", "planted character"} <= set(clean.controls.root)


def test_it_conforms(tmp_path: Path) -> None:
    assert conforms(TextTokenScan, ctx_of(Tower(WORDS[50]), tmp_path)).verdict is Verdict.VULNERABLE


def test_a_model_that_lists_no_vocabulary_is_not_assessed(tmp_path: Path) -> None:
    class Silent(Tower):
        def vocabulary(self) -> dict[str, int]:
            raise CapabilityError("it lists none")

    with pytest.raises(NotAssessed, match="lists none"):
        TextTokenScan().cases(ctx_of(Silent(), tmp_path))


def test_the_zoos_vocabulary_spells_its_tokens_without_special_ones() -> None:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model="zoo:tiny-clean")])
    model: MatchingModel = found.target.model  # type: ignore[union-attr]
    names = model.vocabulary()
    ids = model.tokenize("a photo of a").ids
    assert set(ids) <= set(names.values()) and model.text_of(ids).split() == ["a", "photo", "of", "a"]
