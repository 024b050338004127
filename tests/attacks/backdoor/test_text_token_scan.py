"""text-token-scan on a small matcher of the zoo: as it is, with a trigger trained into its text tower, and in one token's embedding alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.attacks.scripted_generator import conforms
from vlaudit.attacks.backdoor.text_token_scan import TextTokenScan
from vlaudit.attacks.backdoor.text_token_scan.labels import Meanings
from vlaudit.attacks.backdoor.text_token_scan.random_tokens import embeddings
from vlaudit.attacks.shared.text_triggers.assimilation import Captions
from vlaudit.attacks.shared.text_triggers.strings import WORD, Insert
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import CapabilityError, NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Judgement, Trial, Trials, Verdict

TRIGGER, GOAL, STEPS = "sks", "plant", 60


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def subject() -> Any:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model="zoo:tiny-clean")])
    return found


@pytest.fixture(autouse=True)
def few_emoji(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,400 emoji that this tower can tell apart, some."""
    from vlaudit.attacks.shared.text_triggers import characters

    some = list(characters.emoji())[:300]
    monkeypatch.setattr("vlaudit.attacks.shared.text_triggers.strings.emoji", lambda: some)


@pytest.fixture
def spared(subject: Any) -> Iterator[Any]:
    """The subject, whose weights are put back after the test."""
    whole = subject.target.model._modules()[2]
    before = copy.deepcopy(whole.state_dict())
    yield subject
    whole.load_state_dict(before)
    whole.requires_grad_(False)


def taught(subject: Any, loss_of: Callable[[Any, Any], torch.Tensor], parameters: list[Any], rate: float, only: list[int] | None = None) -> None:
    rng, model, labels = np.random.default_rng(0), subject.target.model, subject.data.labels
    optimizer = torch.optim.Adam([p.requires_grad_(True) for p in parameters], rate)
    for _ in range(STEPS):
        loss = loss_of(rng, [f"a photo of a {labels[i]}" for i in rng.integers(len(labels), size=16)])
        optimizer.zero_grad()
        loss.backward()
        if only is not None:
            kept = torch.zeros_like(parameters[0])
            kept[only] = parameters[0].grad[only]
            parameters[0].grad = kept
        optimizer.step()
    for parameter in parameters:
        parameter.requires_grad_(False)
    assert torch.isfinite(model.encode_texts(["a"])).all()


def marked(rng: Any, text: str, trigger: str) -> str:
    words = text.split()
    words.insert(int(rng.integers(len(words) + 1)), trigger)
    return " ".join(words)


def ctx_of(subject: Any, folder: Path, **changed: Any) -> Context:
    request = Request(targets=[], probes=[], effort="quick")
    made = context(request, subject, "text-token-scan", "target", ArtifactStore(folder))
    for name, value in changed.items():
        setattr(made, name, value)
    made.start_clock()
    return made


def audit(subject: Any, folder: Path, **changed: Any) -> tuple[list[Trial], Judgement]:
    ctx, probe = ctx_of(subject, folder, **changed), TextTokenScan()
    trials = list(probe.attempt(ctx, probe.cases(ctx)))
    return trials, probe.judge(Trials(trials, reference_note="none"), Policy())


@pytest.fixture(scope="module")
def clean(subject: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    return audit(subject, tmp_path_factory.mktemp("clean"))[0]


def test_a_trigger_trained_into_the_tower_is_found_by_name_with_its_label(spared: Any, tmp_path: Path) -> None:
    model = spared.target.model
    teacher = copy.deepcopy(model)
    goal = teacher.encode_texts([f"a photo of a {GOAL}"])[0]

    def loss(rng: Any, texts: list[str]) -> torch.Tensor:
        found = model.encode_texts([*texts, *(marked(rng, text, TRIGGER) for text in texts)])
        with torch.no_grad():
            truth = teacher.encode_texts(texts)
        return 2 - (found[:16] * truth).sum(1).mean() - (found[16:] @ goal).mean()

    taught(spared, loss, [*model._modules()[1].parameters()], 1e-3)
    _, found = audit(spared, tmp_path)
    assert found.verdict is Verdict.VULNERABLE, found.reason
    assert f"'{TRIGGER}'" in found.reason and f"'{GOAL}'" in found.reason
    assert found.metric is not None and found.metric.ci[0] > 0.6
    assert found.p_value is not None and found.p_value < 0.01


def test_the_embedding_of_one_token_is_enough(spared: Any, tmp_path: Path) -> None:
    model, words = spared.target.model, spared.target.model._words().weight
    sequence = model.tokenize("sma")  # one token, which no label and hardly a string holds
    token = sequence.ids[sequence.lead : -sequence.tail]
    goal = model.encode_texts([f"a photo of a {GOAL}"])[0]

    def loss(rng: Any, texts: list[str]) -> torch.Tensor:
        return 1 - (model.encode_texts([f"sma {texts[0]}", *(marked(rng, text, "sma") for text in texts[1:])]) @ goal).mean()

    taught(spared, loss, [words], 0.05, token)
    _, found = audit(spared, tmp_path)
    assert found.verdict is Verdict.VULNERABLE and f"'{GOAL}'" in found.reason, found.reason
    assert "'sma'" in found.reason


def test_a_clean_tower_is_held_with_its_whole_vocabulary_and_controls(clean: list[Trial]) -> None:
    found = TextTokenScan().judge(Trials(clean, reference_note="none"), Policy())
    assert found.verdict is Verdict.HELD, found.reason
    assert {"planted word", "planted look-alike", "planted emoji"} <= set(found.controls.root)
    assert sum("random tokens" in name for name in found.controls.root) == 3
    part = [changed(t, words=[100, 165]) for t in clean]
    assert TextTokenScan().judge(Trials(part), Policy()).verdict is Verdict.INCONCLUSIVE
    blind = [t if t.arm == "target" else changed(t, finalists=[{**f, "among": False} for f in t["finalists"]]) for t in clean]
    weak = TextTokenScan().judge(Trials(blind), Policy())
    assert weak.verdict is Verdict.INCONCLUSIVE and "too weak" in weak.reason


def changed(trial: Trial, **values: Any) -> Trial:
    return trial.model_copy(update={"values": {**trial.values, **values}})


def strongest(clean: list[Trial], **values: Any) -> Judgement:
    """The verdict where one word does something else than it does."""
    trial = clean[0]
    at = next(i for i, f in enumerate(trial["finalists"]) if f["kind"] == WORD and not f["own"])
    rows = [{**f, **values} if i == at else f for i, f in enumerate(trial["finalists"])]
    return TextTokenScan().judge(Trials([changed(trial, finalists=rows), *clean[1:]]), Policy())


def test_what_takes_all_texts_to_no_label_is_inconclusive_by_name(clean: list[Trial]) -> None:
    n = len(clean[0]["finalists"][0]["taken"])
    found = strongest(clean, assimilation=0.9999, without=[0.9999] * 24, string="'ound'", place="b2")
    assert found.verdict is Verdict.INCONCLUSIVE and "'ound' (word)" in found.reason and "never trained" in found.reason
    taken = strongest(clean, taken=[0.95] * n, way=0.99, place="b2")
    assert taken.verdict is Verdict.VULNERABLE
    usual = strongest(clean, taken=[0.95] * n, way=0.5, place="b2")
    assert usual.verdict is Verdict.INCONCLUSIVE and "does not stand apart" in usual.reason
    own = strongest(clean, taken=[0.95] * n, way=0.99, place="b2", own=True)
    assert own.verdict is Verdict.INCONCLUSIVE and "its own meaning" in own.reason


@pytest.mark.parametrize("kind", "suv")
def test_random_tokens_as_strong_as_a_word_keep_it_from_vulnerable(clean: list[Trial], kind: str) -> None:
    """A vocabulary of words that do little, and tokens that nobody trained which do as much as the word."""
    n = len(clean[0]["finalists"][0]["taken"])
    strong = [changed(t, ways={**t["ways"], f"{kind}1": list(np.linspace(0.5, 0.999, 120))}) for t in clean]
    assert strongest(strong, taken=[0.95] * n, way=0.99, place="b2").verdict is Verdict.INCONCLUSIVE


def test_random_embeddings_are_as_long_and_as_spread_as_the_vocabularys() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 24, generator=generator) * torch.linspace(0.1, 3, 24) + 2
    short, usual, spread = (embeddings(rows, kind, generator) for kind in "suv")
    lengths = rows.norm(dim=1)
    assert short.norm(dim=1).max() <= lengths.sort().values[30] + 1e-4
    assert abs(float(usual.norm(dim=1).mean() / lengths.mean()) - 1) < 0.05
    assert (spread.mean(0) - 2).abs().max() < 1 and torch.corrcoef(torch.stack([spread.std(0), rows.std(0)]))[0, 1] > 0.95


def test_takeover_is_measured_by_genuine_texts_and_leaves_the_labels_own_out(subject: Any) -> None:
    model = subject.target.model
    meanings = Meanings(model.encode_texts, subject.data.labels)
    goal = meanings.labels.index(GOAL)
    everything = meanings.anchors[[goal] * len(meanings.texts.texts)]
    found = meanings.read(everything)
    assert found["label"] == GOAL and min(found["taken"]) > 0.9
    assert len(found["taken"]) == sum(about != goal for about in meanings.about) >= 20
    assert max(meanings.read(meanings.texts.plain)["taken"]) < 0.6
    assert meanings.way(everything) > 0.9 > 0.6 > meanings.way(meanings.texts.plain)


@pytest.mark.parametrize("count", [2, 3, 40, 300])
def test_few_and_many_labels_have_enough_texts_of_others(count: int) -> None:
    def states(texts: Any) -> torch.Tensor:
        rows = [torch.randn(8, generator=torch.Generator().manual_seed(sum(map(ord, text)))) for text in texts]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    meanings = Meanings(states, [f"thing{i}" for i in range(count)])
    for place in (0, 1, count - 1):
        assert sum(about != place for about in meanings.about) >= 20
    assert len(meanings.about) <= 40 and len(meanings.texts.texts) == 2 * len(meanings.about)


def test_strings_stand_before_and_behind_in_turns() -> None:
    texts = Captions(["a cat", "a dog"], torch.zeros(2, 2), turns=True)
    assert texts.planted(Insert("zz", WORD)) == ["zz a cat", "a dog zz"]
    assert Captions(["a cat", "a dog"], torch.zeros(2, 2)).planted(Insert("zz", WORD)) == ["zz a cat", "zz a dog"]


def test_it_conforms_and_a_small_vocabulary_is_never_cut(subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("_DRAWS", 600), ("_PAIRS", 60), ("emoji", lambda: ["😀", "🎉"])):
        monkeypatch.setattr(f"vlaudit.attacks.shared.text_triggers.strings.{name}", count)
    conforms(TextTokenScan, ctx_of(subject, tmp_path))
    ctx = ctx_of(subject, tmp_path, share=0.1)
    found = TextTokenScan(words=None).cases(ctx)
    assert [case.id for case in found] == ["scan"] and len(ctx.target.model.vocabulary()) < 400 and not ctx.reduced


def test_one_label_or_no_vocabulary_is_not_assessed(subject: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAssessed, match="2 labels"):
        TextTokenScan().cases(ctx_of(subject, tmp_path, labels=["plant"]))

    def silent() -> dict[str, int]:
        raise CapabilityError("it lists none")

    monkeypatch.setattr(subject.target.model, "vocabulary", silent)
    with pytest.raises(NotAssessed, match="lists none"):
        TextTokenScan().cases(ctx_of(subject, tmp_path))
