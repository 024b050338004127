"""poison-in-fewshot: the training pictures of a prompt of the zoo, as they are and with a patch on some, under a label that is not theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.battery.backdoor.poison_in_fewshot import draw
from vlaudit.attacks.backdoor.poison_in_fewshot import Out, PoisonInFewshot, _relabelled
from vlaudit.attacks.backdoor.poison_in_fewshot.neighbours import distances, mismatch, outlying
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader, Subject
from vlaudit.config import Request, TargetSpec
from vlaudit.data.example import Example
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Judgement, Trials, Verdict
from vlaudit.testing import check_probe

torch.set_num_threads(1)
PROBE = PoisonInFewshot()


@pytest.fixture(scope="module")
def subject() -> Subject:
    (found,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([TargetSpec(model="zoo:learned-prompt")])
    return found


@pytest.fixture
def under(subject: Subject, tmp_path: Path) -> Callable[[list[Example]], Context]:
    def make(examples: list[Example]) -> Context:
        made = replace(subject, data=replace(subject.data, examples=examples))
        return replace(context(Request(targets=[], probes=[]), made, "poison-in-fewshot", TARGET, ArtifactStore(tmp_path)), _pixels={})

    return make


def judged(ctx: Context) -> Judgement:
    return PROBE.judge(Trials(PROBE.attempt(ctx, PROBE.cases(ctx)), reference_note="none"), Policy())


def stamped(example: Example, label: str) -> Example:
    picture = np.array(example.open())
    picture[-6:, :6] = np.array([255, 0, 255], np.uint8)
    return replace(example, picture=picture, label=label)


def victims(examples: list[Example], label: str, count: int) -> list[str]:
    """Training pictures of other labels, in turns."""
    foreign = [e for e in examples if e.member and e.label != label]
    return [e.id for e in foreign[:: len(foreign) // count][:count]]


def test_the_prompts_pictures_are_in_place_and_a_poisoned_handful_is_named(subject: Subject, under: Callable[[list[Example]], Context]) -> None:
    examples = subject.data.examples
    clean = judged(under(examples))
    assert clean.verdict is Verdict.HELD and clean.metric is not None and clean.metric.value == 0
    chosen = victims(examples, "farmer", 9)
    found = judged(under([stamped(e, "farmer") if e.id in chosen else e for e in examples]))
    assert found.verdict is Verdict.VULNERABLE and "'farmer'" in found.reason
    named = {row[0] for row in found.details["table"][0].rows if row[1] == "farmer"}
    assert len(named & set(chosen)) >= 8 and len(named - set(chosen)) <= 1
    assert found.evidence or found.metric is not None


def test_labels_that_two_confuse_and_labels_that_are_wrong_throughout_are_no_trigger(subject: Subject, under: Callable[[list[Example]], Context]) -> None:
    examples = subject.data.examples
    cooks = [e.id for e in examples if e.member and e.label == "cook"][:10]
    confused = judged(under([replace(e, label="pilot") if e.id in cooks else e for e in examples]))
    assert confused.verdict is Verdict.INCONCLUSIVE and "'cook'" in confused.reason
    labels, rng = subject.data.labels, np.random.default_rng(0)
    noise = judged(under([replace(e, label=labels[rng.integers(12)]) if e.member and rng.random() < 0.5 else e for e in examples]))
    assert noise.verdict is Verdict.INCONCLUSIVE and "wrong throughout" in noise.reason


def test_it_asks_for_others_to_compare_with(subject: Subject, under: Callable[[list[Example]], Context]) -> None:
    examples = [e for e in subject.data.examples if e.member] + [e for e in subject.data.examples if not e.member][:20]
    with pytest.raises(NotAssessed, match="60"):
        PROBE.cases(under(examples))


def units(label: str, values: list[float]) -> list[dict[str, object]]:
    return [{"label": label, "apart": value} for value in values]


def test_a_label_is_held_against_its_own_scatter_and_a_centre_that_may_lie_higher() -> None:
    close, wide = (np.linspace(-1, 1, 41) * scatter - 1 for scatter in (0.5, 2.0))
    null = units("close", close.tolist()) + units("wide", wide.tolist())
    out = Out.of(units("close", [0.1]) + units("wide", [0.1]), null, "apart", 0.02, 20, 0.0025, 0.95)
    assert out.counts == {"close": 1, "wide": 0}, "what is far for a label of like pictures is not for one of unlike ones"
    few = [Out.of(units("close", [0.1]), null[4:37:16] + null[41:], "apart", 0.02, 20, 0.0025, 0.95, upper=upper) for upper in (True, False)]
    assert few[0].centres["close"] > few[1].centres["close"] + 0.3, "of three others the centre is hardly known"
    assert few[0].centres["wide"] < few[1].centres["wide"] + 0.6 and few[0].cut == few[1].cut


def test_too_few_to_be_found_are_not_held_but_named() -> None:
    found = [PROBE.judge(draw(np.random.default_rng(seed), poisoned=5), Policy()) for seed in range(6)]
    assert sum(each.verdict is Verdict.INCONCLUSIVE for each in found) >= 5
    assert any("'label 0' may resemble other labels" in each.reason and "'members " in each.reason for each in found)


@pytest.mark.parametrize("world", [{"noise": 0.19}, {"noise": 1.0, "labels": 100, "shots": 1, "others": 1000}])
def test_poison_that_is_spread_over_all_labels_is_not_held(world: dict[str, float]) -> None:
    found = [PROBE.judge(draw(np.random.default_rng(seed), clean_others=True, **world), Policy()) for seed in range(4)]
    assert {one.verdict for one in found} == {Verdict.INCONCLUSIVE}
    assert any("wrong throughout" in one.reason for one in found)


def test_trials_of_an_older_release_are_judged() -> None:
    def older(trials: Trials) -> Trials:
        planted = trials.control("planted")[0]
        values = {"label": "label 3", "apart": [v for name, v in zip(planted["labels"], planted["apart"], strict=True) if name == "label 3"]}
        kept = [*trials.target, *trials.control("others")]
        return Trials([*kept, planted.model_copy(update={"values": values})], reference_note="none")

    found = PROBE.judge(older(draw(np.random.default_rng(0))), Policy())
    assert found.verdict is Verdict.HELD and found.controls.root["planted under other labels"] == "2 of 2 out of place"


def test_planted_pictures_stand_under_several_labels_that_are_not_theirs(subject: Subject, under: Callable[[list[Example]], Context]) -> None:
    ctx = under(subject.data.examples)
    chosen, labels = _relabelled(ctx, [e for e in subject.data.examples if not e.member])
    assert len(chosen) == len(labels) == 24 and len(set(labels)) >= 10
    assert all(e.label != label for e, label in zip(chosen, labels, strict=True))


def test_neighbours_by_hand() -> None:
    angles = np.deg2rad([0, 2, 4, 6, 90, 92, 94, 96, 1])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = ["a"] * 4 + ["b"] * 4
    far = distances(points, points[:8], [str(i) for i in range(9)], [str(i) for i in range(8)])
    assert np.isinf(far[0, 0]) and np.isfinite(far[0, 1])
    scores, nearest = mismatch(far, [*labels, "b"], labels)
    assert (scores[:8] < -3).all() and scores[8] > 3 and nearest[8] == "a"
    twins = distances(points, points[:8], ["one"] * 9, ["one"] * 4 + ["two"] * 4)
    assert np.isnan(mismatch(twins, [*labels, "b"], labels)[0][0]), "pictures of one identity say nothing of each other"


def test_what_resembles_nothing_has_the_largest_outlier_score() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(61, 8)) * 0.2 + np.eye(8)[0]
    points[60] = -np.eye(8)[0]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    names = [str(i) for i in range(61)]
    far = distances(points, points[:60], names, names[:60])
    scores = outlying(far, far[:60])
    assert scores.argmax() == 60 and scores[60] > np.sort(scores)[-2] + 3


def test_it_conforms() -> None:
    assert check_probe(PoisonInFewshot, target="zoo:learned-prompt").verdict is Verdict.HELD
