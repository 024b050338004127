"""The stand-in behaves as generation models do, so that what is tried on it holds for them."""

from __future__ import annotations

import pytest
import torch

from tests.attacks.scripted_generator import Scripted, dataset
from vlaudit.prompts.instruction import Instruction


def test_distributions_sum_to_one_and_agree_with_the_likelihood() -> None:
    data = dataset([{"label": "cat", "question": "What is it?"}])
    model = Scripted(lambda talk: "a red cat" if "What" in talk.text else "")
    target = Instruction("Please. {}").bind(model)
    images, question = [model.preprocess(data.examples[0].open())], [data.examples[0].question]
    assert target.generate(images, question, max_new_tokens=2) == ["a red"]
    assert model.asked[0].text == "Please. What is it?"
    (table,) = target.token_log_probs(images, question, ["a red cat"])
    assert table.exp().sum(-1).tolist() == pytest.approx([1, 1, 1])
    picked = table[torch.arange(3), model.tokenize("a red cat")].sum()
    both = target.choose(images, question, ["a red cat", "a blue dog"])
    assert float(picked) == pytest.approx(float(both[0, 0]))
    assert both[0, 0] > both[0, 1]
