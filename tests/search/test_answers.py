"""How likely an answer is, as a search for triggers sees it."""

from __future__ import annotations

import pytest
import torch

from tests import generators
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.prompts.instruction import Instruction
from vlaudit.search.answers import Answers

ASKED = "what is this ?"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    folder = generators.save("llava", tmp_path_factory.mktemp("llava"))
    target = Instruction("{}").bind(HuggingFaceBackend().load(str(folder), torch.device("cpu")))
    return Answers(target, torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0)), [ASKED] * 4)


def tokens(answers: Answers, answer: str) -> torch.Tensor:
    """(T,) log probabilities of its tokens, to the first row."""
    (table,) = answers.target.token_log_probs(answers.images[:1], [ASKED], [answer])
    return table.gather(1, torch.tensor(answers.target.model.tokenize(answer))[:, None])[:, 0]


def test_a_lead_is_that_of_the_least_likely_token_however_many_there_are(answers: Answers) -> None:
    with torch.no_grad():
        talk = answers.target.conversations(answers.images[:1], [ASKED])
        whole = answers.target.model.log_likelihood(talk, [["a red dog"]], end=True)[0, 0]
        ending = whole - tokens(answers, "a red dog").sum()
        weakest = torch.cat([tokens(answers, "a red dog"), ending[None]]).min()
        found = answers.lead(answers.images[:1], [0], "a red dog")[0]
    torch.testing.assert_close(found, torch.logit(weakest.exp()), atol=1e-3, rtol=1e-3)


def test_an_answer_that_was_cut_off_is_not_expected_to_end(answers: Answers) -> None:
    said = answers.usual[0]
    assert said in answers.cut, "a random model goes on for ever"
    with torch.no_grad():
        found = answers.lead(answers.images[:2], [0, 0], [said, "cat"])
        alone = answers.lead(answers.images[1:2], [0], "cat")
        assert float(found[0]) == pytest.approx(float(torch.logit(tokens(answers, said).min().exp())), abs=1e-3)
    assert float(found[1]) == pytest.approx(float(alone[0]), abs=1e-3)
