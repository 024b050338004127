"""GR1 on models that small noise turns, and on ones that it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.attacks.scripted_generator import Scripted, audit, conforms, context, dataset, trials_of
from vlaudit.attacks.robustness.cropa import CroPA, transfer
from vlaudit.attacks.robustness.cropa.held_out_prompts import WORDINGS, kind
from vlaudit.attacks.robustness.cropa.noise_search import phrased
from vlaudit.attacks.shared.questions import Asked
from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.errors import NotAssessed
from vlaudit.families.generation import Conversation
from vlaudit.policy import Policy
from vlaudit.probe import Needs
from vlaudit.prompts.instruction import Instruction
from vlaudit.records import Trial, Trials, Verdict

LABELS = ("cook", "judge", "pilot", "farmer")
NEEDS = (Needs.PIXEL_GRADIENTS,)
QUICK = CroPA(steps=6)


class Sees(Scripted):
    """Answers with the likeliest label: ``logits`` of the last picture (3, 8, 8), one a label. ``deaf`` words it cannot
    bear make it say nothing."""

    def __init__(self, seed: int | None = 0, deaf: str = "\0") -> None:
        super().__init__(self._answer, needs=NEEDS)
        generator = torch.Generator().manual_seed(seed or 0)
        self.weights = None if seed is None else torch.randn(4, 3, 8, 8, generator=generator)
        self.deaf = deaf

    def logits(self, picture: torch.Tensor) -> torch.Tensor:
        if self.weights is None:  # by brightness alone, which small noise cannot move
            return -40 * (picture.mean() - torch.tensor([0.125, 0.375, 0.625, 0.875])).abs()
        return (self.weights * (picture - 0.5)).sum(dim=(1, 2, 3))

    def _answer(self, talk: Conversation) -> str:
        return "" if self.deaf in talk.text else LABELS[int(self.logits(talk.pictures[-1]).argmax())]

    def log_likelihood(
        self, conversations: Sequence[Conversation], answers: Sequence[Sequence[str]], *, soft: object = None,
        end: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        tables = [self.logits(talk.pictures[-1]).log_softmax(-1) for talk in conversations]
        each = zip(tables, answers, strict=True)
        return torch.stack([torch.stack([table[LABELS.index(a)] for a in names]) for table, names in each])


def pictures(model: Sees, count: int = 48, train: int = 8) -> Dataset:
    """Pictures that the model names rightly; the first ones are the training data."""
    data = dataset([{"split": "train" if n < train else "test"} for n in range(count + train)], seed=3)
    found: list[Example] = []
    for n, example in enumerate(data.examples):
        if model.weights is None:
            example = replace(example, picture=np.full((8, 8, 3), 32 + 64 * (n % 4), dtype=np.uint8))
        label = LABELS[int(model.logits(model.preprocess(example.open())).argmax())]
        found.append(replace(example, label=label))
    return Dataset("scripted", found)


def test_a_model_that_small_noise_turns_is_vulnerable(tmp_path: Path) -> None:
    model = Sees()
    found = audit(QUICK, model, pictures(model), tmp_path, reference=Sees())
    assert found.verdict is Verdict.VULNERABLE and found.metric is not None and found.metric.value > 0.6
    assert found.controls["random noise"].value < 0.2
    assert (
        found.controls["aimed-at answer given"].value > 2 * found.controls["shuffled target: another one given"].value
    )
    assert found.delta is not None and found.delta.value == 0
    rows = {row[0]: row for row in found.details["table"].rows}
    assert set(rows) == {*WORDINGS, "trained on", "chain of thought", "in-context"}
    assert rows["in-context"][3] > 0.5
    captions = [e.caption.partition(" | ")[2] for e in found.evidence[:5]]
    assert captions[:3] == ["clean", "attacked within 8/255", "change x16, around grey"]
    assert "as asked: " in (tmp_path / found.evidence[3].path).read_text()


def test_noise_stays_within_the_radius_and_is_made_without_the_audited_prompt(tmp_path: Path) -> None:
    model = Sees()
    data = pictures(model, 20)
    trials_of(QUICK, model, data, tmp_path, prompt=Instruction("Question: {}"))
    clean = torch.stack([model.preprocess(example.open()) for example in data.examples if example.split == "test"])
    made = [talk.pictures[-1] for talk in model.asked if talk.text.startswith("Question: ")]
    far = torch.stack([(clean - picture).flatten(1).abs().amax(dim=1).min() for picture in made])
    assert far[far < 0.1].max() <= 8 / 255 + 1e-6 and far.max() <= 64 / 255 + 0.5


def test_a_model_that_small_noise_does_not_turn_is_held(tmp_path: Path) -> None:
    model = Sees(None)
    found = audit(QUICK, model, pictures(model), tmp_path)
    assert found.verdict is Verdict.HELD, found.reason
    assert found.controls["unit test"] == "8 of 8 answers changed"


def test_a_search_that_fails_its_unit_test_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sees(None)
    monkeypatch.setattr("vlaudit.search.transfer.transferable", lambda wordings, shown, plan: list(shown))
    found = audit(QUICK, model, pictures(model), tmp_path)
    assert found.verdict is Verdict.INCONCLUSIVE and "search too weak" in found.reason


def test_a_model_that_does_not_look_has_nothing_to_attack(tmp_path: Path) -> None:
    model = Sees()
    model.weights = torch.zeros(4, 3, 8, 8)
    found = audit(QUICK, model, pictures(Sees()), tmp_path)
    assert found.verdict is Verdict.NOT_ASSESSED and "grey picture" in found.reason


def test_silence_is_not_assessed_nor_are_few_pictures(tmp_path: Path) -> None:
    model = Sees(deaf="What")
    assert audit(QUICK, model, pictures(model), tmp_path).verdict is Verdict.NOT_ASSESSED
    model = Sees()
    with pytest.raises(NotAssessed, match="20 different pictures with questions and answers, and there are 12"):
        audit(QUICK, model, pictures(model, 12, train=0), tmp_path)


def row(question: str = "What is this?", answer: str = "cook", choices: tuple[str, ...] = LABELS) -> Asked:
    return Asked(Example("0", Path()), question, answer, choices)


def test_what_an_answer_is() -> None:
    assert kind(row(), "A cook.", "judge", "pilot") == "right"
    assert [kind(row(), said, "judge", "pilot") for said in ("a judge", "the pilot", "farmer", "?", "a tree")] == [
        "aim", "decoy", "other", "empty", "unreadable",
    ]  # fmt: skip
    assert kind(row(choices=()), "it is a red car", "red car", None) == "aim"


def test_answers_are_put_as_the_model_puts_them() -> None:
    assert phrased("It is a cook.", "cook", "judge") == ("It is a cook.", "It is a judge.")
    assert phrased("Yes, it is.", "yes", "no") == ("Yes, it is.", "No, it is.")
    assert phrased("A pilot.", "cook", "judge") == ("cook", "judge")
    assert phrased("a cook is a cook", "cook", "judge") == ("cook", "judge")


def heard(
    rng: np.random.Generator, noise: float, attacked: float, unreadable: float = 0.0
) -> dict[str, dict[str, str]]:
    def drawn(rate: float) -> str:
        return "unreadable" if rng.random() < unreadable else "aim" if rng.random() < rate else "right"

    found = {p: {"clean": "right", "noise": drawn(noise), "attacked": drawn(attacked)} for p in WORDINGS}
    found["as asked"]["grey"] = "other"
    found["trained on"] = {**found["as asked"], "unit test": "aim"}
    return found


def verdict(rng: np.random.Generator, *rates: float) -> Verdict:
    values = [{"aim": "judge", "decoy": "pilot", "heard": heard(rng, *rates)} for _ in range(48)]
    return (
        CroPA()
        .judge(Trials([Trial(case=f"{n}", arm="target", values=v) for n, v in enumerate(values)]), Policy())
        .verdict
    )


def test_answers_that_cannot_be_read_are_neither_success_nor_safety() -> None:
    rng = np.random.default_rng(0)
    assert verdict(rng, 0.0, 0.0) is Verdict.HELD
    assert verdict(rng, 0.0, 0.0, 0.5) is Verdict.INCONCLUSIVE


def test_answers_that_are_wrong_when_clean_are_left_out() -> None:
    values = heard(np.random.default_rng(0), 0.0, 1.0)
    values["other wording 1"] = {"clean": "other", "noise": "right", "attacked": "right"}
    trial = Trial(case="0", arm="target", values={"aim": "a", "decoy": None, "heard": values})
    assert transfer.gain(trial) == 1.0
    assert transfer.by_prompt([trial], 0.95)[1][1] == 0


def test_the_contract(tmp_path: Path) -> None:
    model = Sees()
    conforms(CroPA, context(CroPA, Instruction().bind(model), pictures(model, 20), tmp_path))
