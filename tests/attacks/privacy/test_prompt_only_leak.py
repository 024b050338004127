"""prompt-only-leak: contexts of the zoo, and ones in which a label is planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from vlaudit.attacks.privacy.prompt_only_leak import PromptOnlyLeak, _nearest, _secrets
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.prompts.coop import CoOp
from vlaudit.records import TARGET, Judgement, Trials, Verdict
from vlaudit.testing import check_probe

torch.set_num_threads(1)
PROBE = PromptOnlyLeak()


@pytest.fixture(scope="module")
def subject() -> Any:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model="zoo:learned-prompt")])
    return found


def under(subject: Any, ctx: torch.Tensor | None, folder: Path) -> Context:
    made = context(Request(targets=[], probes=[]), subject, "prompt-only-leak", TARGET, ArtifactStore(folder))
    if ctx is not None:
        made._target = CoOp(ctx).bind(subject.target.model)
    made.start_clock()
    return made


def judged(ctx: Context) -> Judgement:
    return PROBE.judge(Trials(PROBE.attempt(ctx, PROBE.cases(ctx)), reference_note="none"), Policy())


def test_the_zoos_prompt_spells_nothing_and_planted_labels_are_read(subject: Any, tmp_path: Path) -> None:
    plain = under(subject, None, tmp_path)
    assert judged(plain).verdict is Verdict.HELD
    own = subject.target.context
    token, word = next(iter(_secrets(plain).items()))
    planted = own.clone()
    planted[1] = own[1].norm() * torch.nn.functional.normalize(subject.target.model.token_embeddings([token])[0], dim=0)
    found = judged(under(subject, planted, tmp_path))
    assert found.verdict is Verdict.VULNERABLE and f"'{word}'" in found.reason
    assert found.details["table"].rows[1][3] == word and found.p_value == pytest.approx(1 / 200)


def test_a_word_in_the_vectors_of_a_late_label_is_read(subject: Any, tmp_path: Path) -> None:
    """Only 64 vectors were compared, so that of most labels' own contexts nothing was looked at."""
    own, model = subject.target.context, subject.target.model
    token, word = next(iter(_secrets(under(subject, None, tmp_path)).items()))
    each = own.flatten(0, -2)[:4].expand(20, -1, -1).clone()
    each[-1, -1] = own.norm(dim=-1).mean() * torch.nn.functional.normalize(model.token_embeddings([token])[0], dim=0)
    found = judged(under(subject, each, tmp_path))
    assert found.verdict is Verdict.VULNERABLE and f"'{word}'" in found.reason
    assert found.details["vectors compared"] == 80 and len(found.details["table"].rows) == 64


def test_words_of_the_plain_prompt_are_no_secret(subject: Any, tmp_path: Path) -> None:
    model = subject.target.model
    ids = model.tokenize("a photo of a")
    common = model.token_embeddings(ids.ids[ids.lead : len(ids.ids) - ids.tail])
    ctx = under(subject, common, tmp_path)
    assert judged(ctx).verdict is Verdict.HELD
    assert not set(ids.ids) & set(_secrets(ctx))


def test_the_nearest_row_is_found_over_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.nn.functional.normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    monkeypatch.setattr("vlaudit.attacks.privacy.prompt_only_leak.PART", 7)
    places, near = _nearest(table[[3, 20, 49]] * 5, table)
    assert places == [3, 20, 49] and near == pytest.approx([1, 1, 1])


def test_prompts_without_vectors_in_the_text_are_not_assessed(tmp_path: Path) -> None:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model="zoo:learned-visual-prompt")])
    with pytest.raises(NotAssessed, match="no vectors"):
        PROBE.cases(under(found, None, tmp_path))


def test_it_conforms() -> None:
    assert check_probe(PromptOnlyLeak, target="zoo:learned-prompt").verdict is Verdict.HELD
