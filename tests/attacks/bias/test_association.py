"""association: WEAT by definition, ties that are planted in a matcher's text side, and what must not be taken for one."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from benchmarks.battery.bias.association import trials
from vlaudit.attacks.bias.association import GALLERY, Association
from vlaudit.attacks.bias.association.effect import divided, effects, permuted
from vlaudit.attacks.bias.association.words import ATTRIBUTES, PHRASES
from vlaudit.attacks.shared.groups import Grouping
from vlaudit.policy import Policy
from vlaudit.records import Judgement, Trials, Verdict
from vlaudit.testing import check_probe

torch.set_num_threads(1)


def judged(seed: int = 0, **how: object) -> Judgement:
    return Association().judge(trials(np.random.default_rng(seed), **how), Policy())  # type: ignore[arg-type]


def grouping(groups: list[str], roles: list[str] | None = None) -> Grouping:
    return Grouping.of({"g": groups}, roles or ["r"] * len(groups), [str(i) for i in range(len(groups))], 1)


def test_the_size_is_weats_d_where_there_is_one_role() -> None:
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(size=90), ["a"] * 40 + ["b"] * 50
    expected = (scores[:40].mean() - scores[40:].mean()) / scores.std(ddof=1)
    assert effects(scores[None], grouping(groups)).size[0, 0] == pytest.approx(expected)


def test_roles_that_the_groups_have_unequally_are_not_taken_for_a_tie() -> None:
    rng = np.random.default_rng(1)
    roles = ["x"] * 200 + ["y"] * 200
    groups = ["a"] * 180 + ["b"] * 20 + ["a"] * 20 + ["b"] * 180
    scores = rng.normal(size=400) + 3.0 * (np.array(roles) == "x")
    assert effects(scores[None], grouping(groups)).size[0, 0] > 1
    assert abs(effects(scores[None], grouping(groups, roles)).size[0, 0]) < 0.3


def test_the_error_is_what_repeated_galleries_scatter_by() -> None:
    rng, groups = np.random.default_rng(2), ["a"] * 60 + ["b"] * 120
    found = effects(rng.normal(size=(800, 180)) + 0.5 * (np.array(groups) == "a"), grouping(groups))
    assert found.size.std() == pytest.approx(float(found.error.mean()), rel=0.1)


def test_permutations_keep_roles_and_divisions_keep_the_number_of_words() -> None:
    rng = np.random.default_rng(3)
    gallery = grouping(["a", "b"] * 30, ["x"] * 30 + ["y"] * 30)
    null = permuted(rng.normal(size=(2, 60)), gallery)
    assert null.shape == (2, 499, 2, 1) and abs(float(null[0].mean())) < 0.03
    one_word = np.zeros((6, 60))
    one_word[0, ::2] = 1  # one word is tied to 'a', wherever it is put
    sizes = divided(one_word + 1e-3 * rng.normal(size=(6, 60)), 3, gallery)[0]
    assert (np.abs(sizes) > 1.5).all()
    whole = np.repeat([[1.0], [-1.0]], 3, axis=0) * np.tile([1.0, 0.0], 30) + 1e-3 * rng.normal(size=(6, 60))
    sizes = np.abs(divided(whole, 3, gallery)[0])
    assert sizes.max() > 1.5 and np.median(sizes) < 0.8  # a tie of the whole set is that of few divisions


def test_a_tie_is_found_and_a_tie_to_single_words_is_not_called_one() -> None:
    found = judged(tied=1.4)
    assert found.verdict is Verdict.VULNERABLE and "gender 'g0' is tied to 'pleasant' rather than 'unpleasant'" in found.reason
    odd = judged(1, odd=1.5)
    assert odd.verdict is Verdict.INCONCLUSIVE and "other divisions of the same words" in odd.reason
    assert judged().verdict is Verdict.HELD


def test_what_names_show_is_needed_to_hold() -> None:
    found = judged(names=0.0)
    assert found.verdict is Verdict.INCONCLUSIVE and "own names" in found.reason
    assert judged(tied=2.0, names=0.0).verdict is Verdict.VULNERABLE
    little = judged(names=0.25)
    low, _ = little.controls.root["own names: gender: g0 / g1"].ci  # type: ignore[union-attr]
    assert 0 < low < 0.2 and little.verdict is Verdict.INCONCLUSIVE and "own names" in little.reason


def test_sets_that_happen_not_to_be_tied_though_their_words_are_are_not_held() -> None:
    by_chance = trials(np.random.default_rng(0), names=1.5)
    rng, tie = np.random.default_rng(1), np.tile([2.0, -2.0], 8)[:, None]  # of every two words in a set one to each group
    (about,) = (trial for trial in by_chance.target if trial.case == GALLERY)
    groups = np.array(about["groups"]["gender"])
    odd = []
    for trial in by_chance.target:
        values = dict(trial.values)
        if trial.case in ATTRIBUTES:
            values["words"] = (np.array(values["words"]) + tie * (groups == "g0") + 0.1 * rng.normal(size=(16, len(groups)))).tolist()
        odd.append(trial.model_copy(update={"values": values}))
    found = Association().judge(Trials(odd, reference_note="simulated"), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "single words of " in found.reason


def test_ties_that_cancel_between_roles_or_columns_are_found() -> None:
    turns = judged(n=1600, by_turns=2.0)
    assert turns.verdict is Verdict.VULNERABLE and "root mean square over roles" in turns.reason
    assert turns.metric is not None and turns.metric.value > 0.8
    assert judged(n=1600, first_role=3.0).verdict is Verdict.VULNERABLE
    few = judged(n=2400, roles=40, first_role=2.0)
    assert few.verdict is Verdict.INCONCLUSIVE and "within 'r0'" in few.reason
    both = judged(n=1600, tones=2, crossed=2.0)
    assert both.verdict is Verdict.VULNERABLE and "gender and tone" in both.reason
    assert judged(n=1600, tones=2).verdict is Verdict.HELD


def test_groups_that_share_no_role_are_named() -> None:
    made = trials(np.random.default_rng(0), n=1600, roles=4, shares=(0.4, 0.4, 0.2))
    (about,) = (trial for trial in made.target if trial.case == GALLERY)
    roles = [f"{role}{group}" if group == "g2" else role for role, group in zip(about["roles"], about["groups"]["gender"], strict=True)]
    moved = [t.model_copy(update={"values": {**t.values, "roles": roles}}) if t.case == GALLERY else t for t in made.target]
    found = Association().judge(Trials(moved, reference_note="simulated"), Policy())
    assert found.verdict is Verdict.INCONCLUSIVE and "nothing can be said of gender 'g0' and 'g2'" in found.reason


def test_a_planted_direction_in_a_real_matcher_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from vlaudit.families.matching import ImageTextMatcher

    monkeypatch.setattr("vlaudit.attacks.bias.association.PHRASES", PHRASES[:3])
    plain, first = ImageTextMatcher.asked, set(ATTRIBUTES["competent and not"][0])

    def planted(self: ImageTextMatcher, labels: list[str], scale: float = 1.0) -> object:
        man, woman = self.text_features(["man", "woman"])
        competent = torch.tensor([bool(first & set(label.replace(",", " ").split())) for label in labels]).float()
        asked = plain(self, labels, scale)
        return lambda seen: asked(seen) + (seen @ (man - woman))[:, None] * competent * 4

    monkeypatch.setattr(ImageTextMatcher, "asked", planted)
    found = check_probe(Association, target="zoo:clean", cases=99)
    assert found.verdict is Verdict.VULNERABLE and "competent" in found.reason and "'man'" in found.reason
    assert "own names: gender: man / woman" in found.controls.root


def test_prompts_that_know_only_their_labels_are_not_asked() -> None:
    assert len({*PHRASES}) == 10 and all(phrase.count("{}") == 1 for phrase in PHRASES)
    words = partial(sum, start=())
    assert all(len(set(words(sets))) == 16 for sets in ATTRIBUTES.values())
