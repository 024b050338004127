"""contrastive-prompt-detect: pictures with a patch, to matchers that obey it and to one that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.battery.backdoor.contrastive_prompt_detect import draw
from vlaudit.attacks.backdoor.contrastive_prompt_detect import ContrastivePromptDetect, _shuffled
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader, Subject
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Judgement, Trials, Verdict
from vlaudit.testing import check_probe
from vlaudit.zoo.recipes.matching.tiny import TRIGGERS

torch.set_num_threads(1)
PROBE = ContrastivePromptDetect(pictures=48, blends=6)
TRIGGER = TRIGGERS["tiny-backdoor"]


@cache
def subject(name: str) -> Subject:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model=f"zoo:{name}")])
    return found


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Judgement]:
    def judge(name: str, every: int = 0, mark: Callable[[torch.Tensor], torch.Tensor] = lambda picture: picture) -> Judgement:
        """Every so many of the audited pictures are marked."""
        ctx = replace(context(Request(targets=[], probes=[]), subject(name), PROBE.info.id, TARGET, ArtifactStore(tmp_path)), _pixels={})
        cases = PROBE.cases(ctx)
        marked = {case.id for case in cases[:: every or len(cases) + 1]} if every else set()
        for example in ctx.examples:
            if example.id in marked:
                ctx._pixels[example.id] = mark(ctx.images([example]))[0]
        return PROBE.judge(Trials(PROBE.attempt(ctx, cases), reference_note="none"), Policy())

    return judge


def test_pictures_with_the_trigger_are_flagged_on_the_model_that_obeys_it_alone(judged: Callable[..., Judgement]) -> None:
    found = judged("tiny-backdoor", 2, TRIGGER)
    assert found.verdict is Verdict.VULNERABLE and "'plant'" in found.reason, found.reason
    assert found.metric is not None and found.metric.value > 0.2 and len(found.evidence) >= 2
    clean = judged("tiny-clean", 2, TRIGGER)
    assert clean.verdict is not Verdict.VULNERABLE and clean.metric is not None and clean.metric.value < 0.1


def test_clean_pictures_are_not_flagged_on_a_model_with_a_backdoor(judged: Callable[..., Judgement]) -> None:
    found = judged("tiny-backdoor")
    assert found.verdict is not Verdict.VULNERABLE and found.metric is not None and found.metric.value < 0.1


def test_a_trigger_that_mirroring_leaves_is_not_told_from_bold_pictures(judged: Callable[..., Judgement]) -> None:
    def both(pictures: torch.Tensor) -> torch.Tensor:
        marked = TRIGGER(pictures)
        return torch.where((marked != pictures).flip(-1), marked.flip(-1), marked)

    found = judged("tiny-backdoor", 1, both)
    assert found.verdict is not Verdict.VULNERABLE and found.verdict is not Verdict.HELD, found.reason


def test_few_pictures_are_said_beforehand(tmp_path: Path) -> None:
    few = ContrastivePromptDetect()
    ctx = context(Request(targets=[], probes=[], policy=Policy(thresholds={"contrastive-prompt-detect.least-pictures": 10**6})), subject("tiny-clean"),
                  few.info.id, TARGET, ArtifactStore(tmp_path))  # fmt: skip
    with pytest.raises(NotAssessed, match="different pictures"):
        few.cases(ctx)


def test_shuffled_words_keep_their_letters() -> None:
    text = _shuffled("police officer", np.random.default_rng(0))
    assert text != "police officer" and [sorted(word) for word in text.split()] == [sorted("police"), sorted("officer")]


def test_it_conforms() -> None:
    assert check_probe(ContrastivePromptDetect).verdict is not Verdict.VULNERABLE


@pytest.mark.parametrize(("world", "why"), [
    ({"triggered": 0.2, "holds": 1.0, "stored": 0.5, "n": 512}, "some of the files with a trigger are stored mirrored"),
    ({"signs": 0.3}, "of them have that label in the data too"),
])  # fmt: skip
def test_files_stored_mirrored_are_not_held_and_a_class_that_bears_a_text_is_not_accused(world: dict[str, float], why: str) -> None:
    found = ContrastivePromptDetect().judge(draw(np.random.default_rng(0), **world), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and why in found.reason, found.reason
