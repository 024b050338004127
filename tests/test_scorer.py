"""The scorer: what it reads off pictures, and the error it states of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_tensor

from tests.attacks.people import people, scorer
from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.errors import NotAssessed
from vlaudit.scorer import Scorer, doubt, ranks


def pixels(examples: list[Example]) -> torch.Tensor:
    return torch.stack([to_tensor(example.open()) for example in examples])


@pytest.mark.parametrize("attribute", ["gender", "tone"])
def test_the_confusion_is_what_the_reader_says_of_pictures_that_it_has_not_learned_from(attribute: str) -> None:
    data = people()
    reader = scorer().reader(data, attribute)
    known = reader.calibration
    said = reader.read(pixels(data.audit))
    counts = np.zeros((len(known.values), len(known.values)), dtype=int)
    for example, k in zip(data.audit, said, strict=True):
        counts[known.values.index(example.attributes[attribute]), k] += 1
    assert known.confusion == counts.tolist()
    assert (np.diag(counts) / counts.sum(axis=1)).mean() > 0.8
    assert np.sum(list(known.labels.values()), axis=0).tolist() == known.confusion
    assert sum(known.identities) == len({e.identity for e in data.audit})


def test_without_a_training_split_no_picture_is_read_by_a_head_that_saw_its_identity() -> None:
    """Attributes drawn at random have nothing to be read by: only leakage would tell them apart."""
    rng = np.random.default_rng(0)
    data = people(())
    codes = {e.identity: str(rng.integers(2)) for e in data.examples}
    examples = [replace(e, split="", attributes={**e.attributes, "coin": codes[e.identity]}) for e in data.examples]
    known = scorer().reader(Dataset("coins", examples), "coin").calibration
    assert "cross-fitted" in known.method
    counts = np.array(known.confusion)
    assert abs((np.diag(counts) / counts.sum(axis=1)).mean() - 0.5) < 0.12


def test_rare_values_are_left_out_and_too_few_are_no_attribute() -> None:
    data = people()
    few = [e for e in data.examples if e.attributes["tone"] != "dark" or e.split == "train"]
    few += [e for e in data.audit if e.attributes["tone"] == "dark"][:5]
    known = scorer().reader(Dataset("few", few), "tone").calibration
    assert known.left_out == ["dark"]
    assert "dark" not in known.values
    only = [e for e in data.examples if e.attributes["tone"] == "dark"]
    with pytest.raises(NotAssessed, match="fewer than two of its values have 10 labelled pictures"):
        scorer().reader(Dataset("only", only), "tone")


def test_phrases_name_values_zero_shot() -> None:
    data = people()
    reader = scorer().reader(data, "gender", texts={"man": "a man", "woman": "a woman"})
    assert reader.calibration.method == "zero-shot texts"
    shown = pixels(data.audit[:20])
    assert reader.read(shown) == scorer().name(shown, ["a man", "a woman"])


def test_bundled_pictures_stand_in_where_the_data_lack_the_attribute() -> None:
    nameless = [replace(e, attributes={}) for e in people().examples]
    known = scorer().reader(Dataset("nameless", nameless), "gender", values=["man", "woman"]).calibration
    assert known.source == "zoo:captions"
    assert known.values == ["man", "woman"]


def test_pictures_of_any_size_are_read_and_batches_change_nothing() -> None:
    data = people()
    reader = scorer().reader(data, "gender")
    shown = torch.nn.functional.interpolate(pixels(data.audit[:12]), size=(64, 96))
    assert reader.read(shown) == [reader.read(picture[None])[0] for picture in shown]
    assert scorer().features(shown).norm(dim=1).numpy() == pytest.approx(1, abs=1e-4)


def test_the_bundled_matcher_is_relied_on_only_where_it_recognises_the_data() -> None:
    data = people()
    assert doubt(scorer, data) is None
    rng = np.random.default_rng(0)
    noise = [replace(e, picture=rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for e in data.audit[:40]]
    said = str(doubt(scorer, Dataset("noise", noise)))
    assert "the bundled one recognises" in said and "of 40 labelled pictures of noise" in said and "--scorer" in said

    def unasked() -> Scorer:
        raise AssertionError("there is nothing to measure it on")

    nameless = Dataset("nameless", [replace(e, label=None, texts={}) for e in data.examples])
    for lacking in (nameless, Dataset("captions", [], own_captions=("a cook",))):
        said = str(doubt(unasked, lacking))
        assert "no scorer is named" in said and "--scorer" in said


def test_ranks_count_ties_as_half() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.9], [0.1, 0.1, 0.1]])
    assert ranks(scores, [0, 0, 1]) == [1.0, 0.25, 0.5]
    assert ranks(scores[:1, :1], [0]) == [0.0]
