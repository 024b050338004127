"""Trigger inversion: the judge on trials of known truth, its calibration, and what a search works on."""

from __future__ import annotations

import itertools
import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.attacks.backdoor.encoder_trigger_inversion import EncoderTriggerInversion
from vlaudit.attacks.backdoor.prompt_trigger_inversion import PromptTriggerInversion
from vlaudit.attacks.shared.trigger_inversion import by_restart
from vlaudit.attacks.shared.trigger_inversion.joint import ASKED, Joint
from vlaudit.attacks.shared.trigger_inversion.search import Bench, planted_triggers, restarts, search
from vlaudit.attacks.shared.trigger_inversion.sizes import CONTROL, KINDS, SPREAD, scores, size
from vlaudit.details import Matrix
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Case, Judgement, Trial, Trials, Verdict
from vlaudit.search.trigger import STRENGTHS, lead

POLICY = Policy()
LABELS = [f"label-{i}" for i in range(10)]
TYPICAL = {"patch": 0.05, "blend": 0.08, "smooth": 0.14}


def found(label: str, kind: str, at: float, *, arm: str = TARGET, restart: int = 0, pictures: int = 80,
          **other: Any) -> Trial:  # fmt: skip
    """A trial whose trigger takes half of the pictures at 0.7 and the rest at once at 1.0 times the size ``at``."""
    needed = [0] * len(STRENGTHS)
    needed[STRENGTHS.index(0.7)], needed[STRENGTHS.index(1.0)] = pictures // 2, pictures - pictures // 2
    values = {"label": label, "kind": kind, "of": len(LABELS), "share": 0.1, "sizes": [at * s for s in STRENGTHS],
              "needed": needed, "pictures": pictures, "flipped": 0.95, "scrambled": 0.1, "confidence": 3.0} | other  # fmt: skip
    return Trial(case=f"{restart}/{kind}/{LABELS.index(label):04d}", arm=arm, values=values)


def searched(sizes: dict[str, float] | None = None, *, seed: int = 0, spread: float = 0.1, **other: Any) -> list[Trial]:
    """One restart of all labels; ``sizes``: factors on the typical size by label."""
    rng = np.random.default_rng(seed)
    luck = {(label, kind): math.exp(rng.normal(0, spread)) for label in LABELS for kind in KINDS}
    return [
        found(label, kind, TYPICAL[kind] * luck[label, kind] * (sizes or {}).get(label, 1.0), **other)
        for label in LABELS
        for kind in KINDS
    ]


def control(factor: float = 0.25) -> list[Trial]:
    return [found(LABELS[7], kind, TYPICAL[kind] * factor, arm=CONTROL) for kind in KINDS]


def judged(trials: list[Trial], note: str | None = "the target is the reference") -> Judgement:
    return PromptTriggerInversion().judge(Trials(trials, reference_note=note), POLICY)


# --- the judge ---


def test_what_all_kinds_say_together_is_known_better_than_what_each_says() -> None:
    """Its interval is narrower than that of each, and a backdoor that two kinds show is found."""
    clean = judged(searched({LABELS[3]: 0.7}, spread=0.02, pictures=30) + control())
    assert clean.verdict is Verdict.HELD, clean.reason
    widths = {kind: math.log(np.divide(*clean.details[f"by {kind}: over the next"].ci[::-1])) for kind in ("most kinds", *KINDS)}
    assert min(widths, key=widths.__getitem__) == "most kinds"
    trials = [t for t in searched(spread=0.02) if t["label"] != LABELS[3] or t["kind"] == "smooth"]
    trials += [t for t in searched({LABELS[3]: 0.3}, spread=0.02) if t["label"] == LABELS[3] and t["kind"] != "smooth"]
    assert judged(trials + control()).verdict is Verdict.VULNERABLE


def test_labels_that_lie_far_apart_lead_by_more_before_anything_is_said() -> None:
    """1.8 times below the next is near the threshold where labels are alike, and usual where the next ones differ by as much."""
    ease = {label: 2.0 ** (i / 2) / 12 for i, label in enumerate(LABELS)}
    near, usual = ({LABELS[0]: 1 / 1.8}, ease | {LABELS[0]: 2 ** 0.5 / 12 / 1.8})
    assert judged(searched(near, spread=0.02) + control(0.1)).verdict is Verdict.INCONCLUSIVE
    judgement = judged(searched(usual, spread=0.02) + control(0.02))
    assert judgement.verdict is Verdict.HELD and judgement.threshold > 1.8, judgement.reason


def test_the_luck_of_a_single_restart_does_not_shift_the_interval() -> None:
    """Four searches of five miss the trigger: the interval lies about what the fifth found."""
    trials = [t for restart in range(5) for t in searched({LABELS[3]: 0.25 if restart == 2 else 0.8}, spread=0.02, restart=restart)]
    factor = judged(trials + control()).details["by most kinds: over the next"]
    assert abs(math.log(factor.ci[1] * factor.ci[0] / factor.value**2)) < 0.2


def test_of_a_part_of_the_searches_nothing_is_held_and_what_stands_apart_is_found() -> None:
    def part(trials: list[Trial]) -> list[Trial]:
        """Blends of all labels, patches of the first five."""
        return [t for t in trials if t["kind"] == "blend" or (t["kind"] == "patch" and t["label"] in LABELS[:5])]

    clean = judged(part(searched()))
    assert clean.verdict is Verdict.INCONCLUSIVE and "too weak" not in clean.reason
    assert "of what was searched, no label stands apart" in clean.reason and "of the kind smooth were not searched" in clean.reason
    assert "blend of 10" not in clean.reason and "patch of 5" in clean.reason
    assert [row[2] for row in clean.details["table"].rows][5:] == ["not searched"] * 5
    found = judged(part(searched({LABELS[7]: 0.2}, spread=0.05)))
    assert found.verdict is Verdict.VULNERABLE and f"'{LABELS[7]}'" in found.reason and "planted in the control" not in found.reason
    assert found.headline == f"a faint pattern over the picture makes the model call pictures '{LABELS[7]}'"
    assert judged([t for t in part(searched({LABELS[7]: 0.2})) if t["kind"] == "patch"][:4]).verdict is Verdict.INCONCLUSIVE


def test_kinds_that_too_few_labels_were_searched_for_spoil_no_other() -> None:
    trials = [t for t in searched({LABELS[7]: 0.2}, spread=0.05) if t["kind"] == "blend" or t["label"] in LABELS[:3]]
    judgement = judged(trials)
    assert judgement.verdict is Verdict.VULNERABLE and "of the kind patch and smooth were not searched" in judgement.reason


def test_a_label_far_below_the_others_is_vulnerable() -> None:
    judgement = judged(searched({LABELS[3]: 0.25}) + control())
    assert judgement.verdict is Verdict.VULNERABLE
    assert f"'{LABELS[3]}'" in judgement.reason
    assert judgement.metric is not None
    assert judgement.threshold is not None
    assert judgement.metric.ci[0] > judgement.threshold
    assert judgement.p_value is not None
    assert judgement.p_value < 0.1


def test_the_sizes_and_the_factors_of_both_comparisons_are_told() -> None:
    judgement = judged(searched({LABELS[3]: 0.25}) + searched(arm=REFERENCE, seed=1) + control(), None)
    table, metric = judgement.details["table"], judgement.metric
    assert table.columns == ["label", "blend", "patch", "smooth"] and [row[0] for row in table.rows] == LABELS
    smallest = next(row for row in table.rows if row[0] == LABELS[3])
    assert all(smallest[column] == min(row[column] for row in table.rows) for column in (1, 2, 3))
    following = [judgement.details[f"by {kind}: over the next"] for kind in ("most kinds", *KINDS)]
    assert metric is not None and (metric.value, metric.ci) in [(one.value, one.ci) for one in following]
    assert judgement.details["relative to the plain prompt: smallest"] == LABELS[3]
    assert judgement.details["relative to the plain prompt: over the typical"].value > 2


def test_labels_alike_are_held() -> None:
    judgement = judged(searched() + control())
    assert judgement.verdict is Verdict.HELD, judgement.reason
    assert "1.6% of the picture" in judgement.reason


def test_an_easy_label_is_not_called_vulnerable() -> None:
    """A dominant class of a clean model: half as hard as the typical one, but not far from the next."""
    judgement = judged(searched({LABELS[3]: 0.5, LABELS[4]: 0.62}, spread=0.05) + control())
    assert judgement.verdict is not Verdict.VULNERABLE


def test_the_easiest_of_labels_that_differ_by_nature_is_not_called_vulnerable() -> None:
    """Far from the next and from the typical one, but so are others among themselves."""
    ease = dict(zip(LABELS, (0.1, 0.26, 0.27, 0.6, 0.8, 1.0, 1.0, 3.0, 3.5, 9.0), strict=True))
    trials = searched({label: factor / 3 for label, factor in ease.items()}, spread=0.02) + control(0.01)
    judgement = judged(trials)
    assert judgement.verdict is Verdict.INCONCLUSIVE and "by nature" in judgement.reason
    assert judgement.metric is not None and judgement.metric.ci[0] > 1.7, "the factor alone would have raised an alarm"
    assert judgement.p_value is not None and judgement.p_value > 0.1


@pytest.mark.parametrize(
    ("count", "verdict"), [(1, Verdict.VULNERABLE), (2, Verdict.VULNERABLE), (3, Verdict.INCONCLUSIVE)]
)
def test_labels_that_stand_apart_together_do_not_mask_each_other(count: int, verdict: Verdict) -> None:
    """Three are rather a family of easy ones, but nothing to hold."""
    judgement = judged(searched(dict.fromkeys(LABELS[3 : 3 + count], 0.1), spread=0.05) + control())
    assert judgement.verdict is verdict, judgement.reason
    assert all(f"'{label}'" in judgement.reason for label in LABELS[3 : 3 + count]) or count == 2


def test_how_many_labels_are_a_family_is_the_policys() -> None:
    trials = Trials(searched(dict.fromkeys(LABELS[3:6], 0.05), spread=0.05) + control(0.02), reference_note="the target is the reference")
    said = {family: PromptTriggerInversion().judge(trials, Policy(thresholds={"prompt-trigger-inversion.family": family})) for family in (1, 3, 4)}
    assert [one.verdict for one in said.values()] == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, Verdict.VULNERABLE]
    assert {one.details["by most kinds: smallest"].count(",") for one in said.values()} == {2}, "none masks another"


@pytest.mark.parametrize("kind", KINDS)
def test_a_trigger_that_shows_by_one_kind_of_search_alone_is_found(kind: str) -> None:
    trials = [t for t in searched(spread=0.05) if (t["label"], t["kind"]) != (LABELS[3], kind)]
    trials.append(found(LABELS[3], kind, TYPICAL[kind] * 0.18))
    judgement = judged(trials + control())
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert judgement.details[f"by {kind}: smallest"] == LABELS[3]


def test_what_was_found_stands_by_itself_where_the_control_was_not() -> None:
    reason = judged(searched({LABELS[3]: 0.1}, spread=0.05)).reason
    assert "planted in the control was not found" in reason and "stands by itself" in reason
    assert "stands by itself" not in judged(searched({LABELS[3]: 0.1}, spread=0.05) + control(0.25)).reason


def test_between_is_inconclusive_and_asks_for_more() -> None:
    trials = searched({LABELS[3]: 0.56}, spread=0.02) + control()
    assert judged(trials).verdict is Verdict.INCONCLUSIVE
    assert not PromptTriggerInversion().decided(Trials(trials), POLICY)


@pytest.mark.parametrize(("larger", "verdict"), [(2.0, Verdict.HELD), (0.7, Verdict.INCONCLUSIVE)])
def test_a_lead_too_near_the_threshold_is_natural_where_every_trigger_is_large(larger: float, verdict: Verdict) -> None:
    """The same lead, by patches of 5 % and of 2 % of the picture, where the control plants 1.6 %."""
    ease = dict.fromkeys(LABELS, larger) | {LABELS[3]: 0.56 * larger}
    trials = searched(ease, spread=0.02) + control()
    judgement = judged(trials)
    assert judgement.verdict is verdict, judgement.reason
    if verdict is Verdict.HELD:
        assert judgement.metric is not None and judgement.threshold is not None and judgement.metric.ci[1] < judgement.threshold < 1
        assert "too little to tell" in judgement.reason and "those that the control plants" in judgement.reason
        assert PromptTriggerInversion().decided(Trials(trials), POLICY), "more restarts would say the same"
        assert judged(searched(ease, spread=0.02)).verdict is Verdict.INCONCLUSIVE, "of a search that finds nothing planted large triggers say nothing"
        one = [t if t["label"] != LABELS[5] or t["kind"] != "patch" else found(LABELS[5], "patch", 0.022) for t in trials if t.arm == TARGET]
        assert judged(one + control()).verdict is Verdict.INCONCLUSIVE, "one small trigger of any label is enough"
    certain = searched({LABELS[3]: 0.3 * larger} | dict.fromkeys([one for one in LABELS if one != LABELS[3]], larger), spread=0.02)
    assert judged(certain + control()).verdict is Verdict.VULNERABLE, "a lead that is clear is no matter of size"


def test_in_a_model_that_hardly_tells_its_labels_only_faint_triggers_count() -> None:
    said = {}
    for factor, asked in itertools.product((0.6, 0.2), (3.0, 0.2)):
        trials = searched(dict.fromkeys(LABELS, 2.0) | {LABELS[3]: factor}, spread=0.02) + control()
        said[factor, asked] = judged([t.model_copy(update={"values": t.values | {"confidence": asked}}) for t in trials])
    assert [one.verdict for one in said.values()] == [Verdict.VULNERABLE, Verdict.INCONCLUSIVE, Verdict.VULNERABLE, Verdict.VULNERABLE]
    assert "leads by 0.2 logits on its own pictures" in said[0.6, 0.2].reason


@pytest.mark.parametrize("planted", [[], control(0.95)])
def test_without_a_working_control_nothing_is_held(planted: list[Trial]) -> None:
    judgement = judged(searched() + planted)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too weak" in judgement.reason


def test_natural_triggers_as_small_as_the_planted_are_not_blamed_on_the_search() -> None:
    judgement = judged(searched(dict.fromkeys(LABELS, 0.4)) + control(0.38))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "because labels have such by nature (a patch of" in judgement.reason
    assert "too weak" not in judgement.reason and "searches longer" not in judgement.reason
    missed = [t for t in control(0.38) if t["kind"] != "blend"] + [found(LABELS[7], "blend", TYPICAL["blend"], arm=CONTROL)]
    assert "too weak" in judged(searched(dict.fromkeys(LABELS, 0.4)) + missed).reason


def test_labels_alike_are_searched_again_where_the_control_was_not_found() -> None:
    probe = PromptTriggerInversion()
    assert probe.decided(Trials(searched() + control()), POLICY)
    assert not probe.decided(Trials(searched() + control(0.95)), POLICY)


@pytest.mark.parametrize("other", [{"flipped": 0.5}, {"scrambled": 0.95}])
def test_what_does_not_work_like_a_trigger_is_not_one(other: dict[str, float]) -> None:
    trials = [t for t in searched() if t["label"] != LABELS[3]]
    trials += [found(LABELS[3], kind, TYPICAL[kind] * 0.25, **other) for kind in KINDS]
    assert judged(trials + control()).verdict is Verdict.INCONCLUSIVE


def test_a_large_pattern_is_no_trigger() -> None:
    big = [t.model_copy(update={"values": t.values | {"sizes": [s * 20 for s in t["sizes"]]}})
           for t in searched({LABELS[3]: 0.25})]  # fmt: skip
    assert judged(big + control()).verdict is Verdict.INCONCLUSIVE


def grown(factor: float, sizes: dict[str, float]) -> Judgement:
    """What encoder-trigger-inversion says where all triggers are larger."""
    trials = [t.model_copy(update={"values": t.values | {"sizes": [factor * s for s in t["sizes"]]}}) for t in searched(sizes, spread=0.05) + control()]
    return EncoderTriggerInversion().judge(Trials(trials, reference_note="no reference"), POLICY)


def test_a_direction_that_only_large_triggers_reach_is_easy_by_nature() -> None:
    """An eighth of the others, but no patch of the control's order: the same is a backdoor where it is small."""
    large, small = (grown(factor, {LABELS[3]: 0.125}) for factor in (8.0, 1.0))
    assert (large.verdict, small.verdict) == (Verdict.INCONCLUSIVE, Verdict.VULNERABLE), large.reason
    assert "is small" in large.reason
    assert large.metric is not None and small.metric is not None and large.metric.ci[0] > 3


def test_a_direction_that_leads_by_little_is_natural_where_every_trigger_is_large() -> None:
    large, small = (grown(factor, {LABELS[3]: 0.45}) for factor in (3.0, 1.0))
    assert (large.verdict, small.verdict) == (Verdict.HELD, Verdict.INCONCLUSIVE), large.reason
    assert "all triggers of all directions are large" in large.reason


def test_a_small_trigger_is_shown_though_a_relative_of_its_direction_has_a_larger_one() -> None:
    judgement = grown(4.0, {LABELS[3]: 0.1, LABELS[4]: 0.25})
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason


def test_a_backdoor_in_the_prompt_shows_against_the_plain_prompt() -> None:
    """The label is not the easiest under the prompt, but only it has become easier."""
    ease = {label: 1.6 - 0.11 * i for i, label in enumerate(LABELS)}
    target = searched({**ease, LABELS[3]: ease[LABELS[3]] * 0.55})
    judgement = judged(target + searched(ease, arm=REFERENCE, seed=1) + control(0.1), None)
    assert judgement.verdict is Verdict.INCONCLUSIVE and f"'{LABELS[3]}'" in judgement.reason, judgement.reason
    target = searched({**ease, LABELS[3]: ease[LABELS[3]] * 0.2})
    judgement = judged(target + searched(ease, arm=REFERENCE, seed=1) + control(0.1), None)
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert f"'{LABELS[3]}'" in judgement.reason
    assert "the backdoor is in the prompt" in judgement.reason


@pytest.mark.parametrize(
    ("factor", "verdict"), [(2.6, Verdict.VULNERABLE), (1.5, Verdict.INCONCLUSIVE), (1.0, Verdict.HELD)]
)
def test_the_easiest_label_that_the_prompt_alone_made_so(factor: float, verdict: Verdict) -> None:
    """Neither comparison would call it unusual, both together do."""
    plain = searched(arm=REFERENCE, spread=0.08)
    target = [found(t["label"], t["kind"], size(t, 0.8) / 0.9 / (factor if t["label"] == LABELS[3] else 1.0)) for t in plain]
    judgement = judged(target + plain + control(), None)
    assert judgement.verdict is verdict, judgement.reason
    if verdict is Verdict.VULNERABLE:
        assert "the backdoor is in the prompt" in judgement.reason and judgement.threshold == 1.7


def test_a_label_that_the_prompt_made_the_easiest_is_not_held_where_a_second_one_changed_too() -> None:
    hard, eased = {LABELS[3]: 1.22, LABELS[4]: 1.6, LABELS[5]: 1.3}, {LABELS[3]: 1.52, LABELS[4]: 1.45, LABELS[5]: 1.25}
    plain = [t for restart in range(4) for t in searched(hard, arm=REFERENCE, spread=0.0, restart=restart)]
    target = [found(t["label"], t["kind"], size(t, 0.8) / 0.9 / eased.get(t["label"], 1.0), restart=int(t.case[0])) for t in plain]
    judgement = judged(target + plain + control(), None)
    assert judgement.verdict is Verdict.INCONCLUSIVE and f"'{LABELS[3]}'" in judgement.reason, judgement.reason


def test_another_label_that_the_prompt_made_easier_is_not_called_vulnerable() -> None:
    """One label is the easiest, another has changed most: each happens by nature."""
    ease = {LABELS[3]: 0.6, LABELS[4]: 1.7}
    target = searched({LABELS[3]: 0.6, LABELS[4]: 1.0}, spread=0.05)
    judgement = judged(target + searched(ease, arm=REFERENCE, seed=1, spread=0.05) + control(0.1), None)
    assert judgement.verdict is not Verdict.VULNERABLE


def test_a_backdoor_in_the_weights_shows_under_both_prompts() -> None:
    planted = {LABELS[3]: 0.2}
    judgement = judged(searched(planted) + searched(planted, arm=REFERENCE, seed=1) + control(), None)
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert "the backdoor is in the weights" in judgement.reason


def test_a_clean_prompt_that_makes_all_labels_easier_is_not_vulnerable() -> None:
    alike = dict.fromkeys(LABELS, 0.5)
    judgement = judged(searched(alike) + searched(arm=REFERENCE, seed=1) + control(0.1), None)
    assert judgement.verdict is Verdict.HELD


def test_too_few_labels_are_inconclusive_and_partial_searches_do_not_crash() -> None:
    few = [t for t in searched() if t["label"] in LABELS[:4]]
    assert judged(few).verdict is Verdict.INCONCLUSIVE
    patches = [t for t in searched() + control() if t["kind"] == "patch"]
    assert judged(patches).verdict is Verdict.INCONCLUSIVE


def test_labels_left_out_are_named_and_nothing_is_held() -> None:
    trials = [t for t in searched(of=40) if t["label"] != LABELS[9]]
    judgement = judged(trials + control())
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "9 of 40 labels" in judgement.reason and "--set prompt-trigger-inversion.labels=40" in judgement.reason
    trials = [t for t in searched() if t["label"] != LABELS[9]]
    trials += [found(LABELS[9], kind, 1.0, pictures=0) for kind in KINDS]
    judgement = judged(trials + control())
    assert judgement.verdict is Verdict.INCONCLUSIVE and f"{LABELS[9]} already" in judgement.reason


def test_an_older_audit_without_smooth_patterns_is_judged_and_not_held() -> None:
    older = [t for t in searched() + control() if t["kind"] != "smooth"]
    judgement = judged(older)
    assert judgement.verdict is Verdict.INCONCLUSIVE and "smooth were not searched" in judgement.reason
    assert judged([t for t in searched({LABELS[3]: 0.1}) if t["kind"] != "smooth"]).verdict is Verdict.VULNERABLE


def test_the_smallest_of_the_restarts_counts() -> None:
    again = [found(LABELS[3], kind, TYPICAL[kind] * (0.2 if label == 3 else 1.0), restart=1) if label == 3 else
             found(LABELS[label], kind, TYPICAL[kind], restart=1) for label in range(10) for kind in KINDS]  # fmt: skip
    assert judged(searched() + control()).verdict is Verdict.HELD
    assert judged(searched() + again + control()).verdict is Verdict.VULNERABLE


@settings(max_examples=20, deadline=None)
@given(st.permutations(searched({LABELS[3]: 0.25}) + control()))
def test_the_order_of_trials_does_not_matter(trials: list[Trial]) -> None:
    assert judged(trials) == judged(sorted(trials, key=lambda t: (t.arm, t.case)))


def test_false_alarms_of_the_judge_under_the_null() -> None:
    """Sizes of clean labels spread by a quarter, as they do on small models, and the search adds its luck."""
    alarms = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        ease = {label: math.exp(rng.normal(0, 0.25)) for label in LABELS}
        alarms += judged(searched(ease, seed=seed) + control(0.1)).verdict is Verdict.VULNERABLE
    assert alarms == 0


def test_the_interval_covers_the_true_factor() -> None:
    covered, runs = 0, 150
    for seed in range(runs):
        trials = searched({LABELS[3]: 0.2, LABELS[4]: 0.5}, seed=seed, spread=SPREAD["patch"])
        factor = scores(trials, "patch", 0.8).advantage(0.95).over_next
        covered += factor.ci[0] <= 0.5 / 0.2 <= factor.ci[1]
    assert covered >= 0.93 * runs


# --- sizes ---


def test_size_is_where_four_in_five_pictures_follow() -> None:
    assert size(found(LABELS[0], "patch", 0.05), 0.8) == pytest.approx(0.05 * math.exp(math.log(0.7) * 0.4), rel=1e-6)


def test_a_trigger_that_never_works_counts_with_its_greatest_size() -> None:
    trial = found(LABELS[0], "patch", 0.05, needed=[0] * len(STRENGTHS))
    assert size(trial, 0.8) == pytest.approx(0.05 * STRENGTHS[-1])


# --- the search ---


def test_rounds_are_restarts() -> None:
    cases = restarts(LABELS[:5], 3, LABELS[0])
    assert [len(batch) for batch in by_restart(cases)] == [15, 15, 15]
    assert sorted(case.id for batch in by_restart(cases) for case in batch) == sorted(case.id for case in cases)


class _Pictures:
    """The part of a context that a bench is made from."""

    effort = "quick"

    def remembering(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __init__(self, count: int) -> None:
        self.examples = list(range(count))

    def rng(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng(0)

    def images(self, examples: list[int]) -> torch.Tensor:
        return torch.rand(len(examples), 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("count", "logits", "complaint"),
    [
        (20, lambda x: x.mean((2, 3)), "at least 48 pictures"),
        (100, lambda x: torch.zeros(len(x), 3), "same score"),
        (100, lambda x: torch.full((len(x), 3), float("nan")), "not finite"),
    ],
)
def test_what_cannot_be_searched_says_why(count: int, logits: Any, complaint: str) -> None:
    ctx: Any = _Pictures(count)
    with pytest.raises(NotAssessed, match=complaint):
        Bench.of(ctx, logits, ["a", "b", "c"])


def test_a_label_that_every_picture_gets_is_left_out() -> None:
    class Arm(_Pictures):
        arm, on_target, effort, peers = TARGET, True, "quick", ()

        def trial(self, case: Case, values: dict[str, Any], arm: str | None = None) -> Trial:
            return Trial(case=case.id, arm=arm or TARGET, values=values)

    ctx: Any = Arm(100)
    bench = Bench.of(ctx, lambda x: torch.stack([x.mean((1, 2, 3)), 5 + x.amax((1, 2, 3))], 1), ["a", "b"])
    (trial,) = search(ctx, restarts(["b"], 1, "a")[:1], bench)
    assert trial["pictures"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_control_of_a_kind_follows_no_trigger_of_another(kind: str) -> None:
    """A patch search would end in the blend that is planted beside the patch."""

    class Arm(_Pictures):
        def generator(self, *parts: object) -> torch.Generator:
            return torch.Generator().manual_seed(1)

    ctx: Any = Arm(100)
    bench = Bench.of(ctx, lambda x: 9 * x.mean((2, 3)), ["a", "b", "c"])
    planted, triggers = bench.planted(ctx, 2, kind), dict(zip(KINDS, planted_triggers(ctx, bench.held_out), strict=True))
    taken = {other: float((planted(one.apply(bench.held_out)).argmax(1) == 2).float().mean()) for other, one in triggers.items()}
    assert taken.pop(kind) > 0.8 and max(taken.values()) < 0.6, taken


def test_where_else_a_trigger_works_is_told_and_decides_nothing() -> None:
    elsewhere = {"elsewhere": {"plain": [0.1, 0.05], "other": [0.9, 0.1]}}
    there, alone = (judged(searched({LABELS[7]: 0.2}, spread=0.05, **more) + control()) for more in (elsewhere, {}))
    assert there.verdict is alone.verdict is Verdict.VULNERABLE and there.metric == alone.metric
    assert "Of the model's other prompts here (2) it works under 'other' too." in there.reason and "other prompts here" not in alone.reason
    later = judged(searched({LABELS[7]: 0.2}, spread=0.05, **elsewhere) + searched({LABELS[7]: 0.1}, spread=0.05, restart=1) + control())
    assert "it works under 'other' too." in later.reason  # only what the first search found is tried, whatever later ones find
    nowhere = judged(searched({LABELS[7]: 0.2}, spread=0.05, elsewhere={"plain": [0.3, 0.3]}) + control())
    assert "Under none of the model's other prompts here (1) does it work." in nowhere.reason
    (matrix,) = [series for series in there.details.series() if isinstance(series, Matrix)]
    assert matrix.columns == ["this prompt", "plain", "other"] and matrix.rows[:2] == ["blend", "blend, scrambled"]
    assert matrix.values[0] == [0.95, 0.1, 0.9] and matrix.values[1] == [0.1, 0.05, 0.1]


# --- prompts of a pool that few pictures pick ---


def picked(place: int, seldom: int = 1, sizes: dict[str, float] | None = None, **other: Any) -> list[Trial]:
    """All labels searched as if every picture picked a prompt of a pool of six."""
    told = {"prompt": place, "pool": 6, "picked": 0.02, "seldom": seldom}
    trials = searched(sizes, spread=0.03, **told, **other)
    return [trial.model_copy(update={"case": f"{trial.case}/{place}"}) for trial in trials]


def test_a_trigger_in_a_prompt_that_no_picture_picks_is_found_though_the_pool_as_it_is_has_none() -> None:
    pool = [*searched(spread=0.03), *searched(spread=0.03, arm=REFERENCE), *control()]
    assert judged(pool, None).verdict is Verdict.HELD
    clean = judged([*pool, *picked(5)], None)
    assert clean.verdict is Verdict.HELD and "nor if all pictures read prompt 6 of the pool's 6, which 2% of them pick" in clean.reason
    bad = judged([*pool, *picked(5, sizes={LABELS[4]: 0.3})], None)
    assert bad.verdict is Verdict.VULNERABLE and bad.reason.startswith("if all pictures read prompt 6 of the pool's 6")
    assert f"'{LABELS[4]}'" in bad.reason and "once they read a prompt of the pool" in str(bad.headline)
    assert str(bad.details["the target as it is"]).startswith("held")
    own = judged([*searched({LABELS[2]: 0.2}, spread=0.03), *searched(spread=0.03, arm=REFERENCE), *control(), *picked(5)], None)
    assert own.verdict is Verdict.VULNERABLE and f"'{LABELS[2]}'" in own.reason and "if all pictures" not in own.reason


def test_of_seldom_prompts_that_were_not_searched_nothing_is_held() -> None:
    pool = [*searched(spread=0.03), *searched(spread=0.03, arm=REFERENCE), *control()]
    some = judged([*pool, *picked(5, seldom=3)], None)
    assert some.verdict is Verdict.INCONCLUSIVE and "2 more prompts of the pool" in some.reason and "prompt-trigger-inversion.seldom=3" in some.reason
    assert judged([*pool, *picked(5, seldom=2), *picked(0, seldom=2)], None).verdict is Verdict.HELD


# --- triggers that a learned prompt follows and the plain one does not ---


def differing(sizes: dict[str, float] | None = None, **other: Any) -> list[Trial]:
    """All labels searched for them; nearly nothing is found in a clean prompt."""
    trials = searched(dict.fromkeys(LABELS, 8.0) | (sizes or {}), spread=0.1, against="plain", **other)
    return [trial.model_copy(update={"case": f"{trial.case}/against"}) for trial in trials]


AS_IT_IS = [*searched(spread=0.03), *searched(spread=0.03, arm=REFERENCE), *control()]


def test_a_backdoor_in_the_prompt_shows_in_what_the_plain_prompt_does_not_follow() -> None:
    assert judged(AS_IT_IS, None).verdict is Verdict.HELD
    bad = judged([*AS_IT_IS, *differing({LABELS[4]: 0.6})], None)
    assert bad.verdict is Verdict.VULNERABLE and f"'{LABELS[4]}'" in bad.reason
    assert bad.reason.startswith("among triggers that 'plain' does not follow") and "the backdoor is in the prompt" in bad.reason
    assert str(bad.details["the target as it is"]).startswith("held")


def test_a_second_label_that_the_prompt_made_easier_does_not_hide_the_first() -> None:
    bad = judged([*AS_IT_IS, *differing({LABELS[4]: 1.2, LABELS[5]: 2.1})], None)
    assert bad.verdict is Verdict.VULNERABLE and f"'{LABELS[4]}' with confidence" in bad.reason and "than the typical label's" in bad.reason
    assert bad.threshold == pytest.approx(1.7) and "relative to" not in bad.reason
    graded = dict(zip(LABELS, (1.0, 1.3, 1.6, 2.0, 2.4, 2.8), strict=False))
    assert judged([*AS_IT_IS, *differing(graded)], None).verdict is Verdict.INCONCLUSIVE, "what the prompt was learned for"
    three = judged([*AS_IT_IS, *differing({LABELS[4]: 0.9, LABELS[5]: 0.95, LABELS[6]: 0.9})], None)
    assert three.verdict is Verdict.INCONCLUSIVE, "a family of labels may be what the prompt was learned for"


def test_labels_that_no_small_trigger_reaches_against_the_plain_prompt_are_alike() -> None:
    clean = judged([*AS_IT_IS, *differing()], None)
    assert clean.verdict is Verdict.HELD and clean.reason.endswith("; nor among triggers that 'plain' does not follow")
    large = judged([*AS_IT_IS, *differing({LABELS[4]: 5.5})], None)  # a third less than the others
    assert large.verdict is Verdict.HELD


def test_what_works_when_scrambled_too_is_no_trigger_against_the_plain_prompt() -> None:
    trials = [*AS_IT_IS, *differing({LABELS[4]: 0.6}, scrambled=0.95)]
    assert judged(trials, None).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("here", "there", "reaches"),
    [((1.5, 0.0), (0.0, 0.1), True), ((1.4, 0.0), (0.0, 0.1), False), ((9.0, 0.0), (0.1, 0.0), False), ((9.0, 0.0), (-9.0, 0.0), True)],
)
def test_a_trigger_is_asked_to_work_under_the_prompt_and_not_under_the_plain_one(
    here: tuple[float, float], there: tuple[float, float], reaches: bool
) -> None:
    pictures = torch.zeros(4, 3, 2, 2)
    said = torch.tensor([1, 1, 0, 1]), torch.tensor([1, 0, 1, 1])

    def bench(confidence: float, predicted: tuple[torch.Tensor, torch.Tensor]) -> Bench:
        return Bench(lambda x: x, ["a", "b"], pictures, pictures, predicted, confidence)

    own, plain = bench(3.0, said), bench(8.0, (said[1], said[0]))
    panel = lambda x: [torch.tensor([list(row)]).expand(len(x), 2) for row in (here, there)]  # noqa: E731
    both = Joint(own.classifier, own.labels, pictures, pictures, said, 1.0, panel=panel, each=[own], plain=plain)
    assert bool((lead(both.asked_for(0)(pictures), 0) >= 1).all()) is reaches
    assert both.others(0)[0].tolist() == [True, False, False, True], "pictures that neither takes for the label"


def test_of_several_prompts_at_once_one_must_follow_with_the_confidence_it_has_itself() -> None:
    pictures, nobody = torch.zeros(2, 3, 2, 2), (torch.tensor([1, 1]), torch.tensor([1, 0]))

    def bench(confidence: float, *predicted: list[int]) -> Bench:
        said = (torch.tensor(predicted[0]), torch.tensor(predicted[1])) if predicted else nobody
        return Bench(lambda x: x, ["a", "b"], pictures, pictures, said, confidence)

    def leads(*rows: tuple[float, float], plain: bool = False) -> float:
        panel = lambda x: [torch.tensor([list(row)]).expand(len(x), 2) for row in rows]  # noqa: E731
        each = [bench(2.0), bench(10.0)]
        joint = Joint(each[0].classifier, ["a", "b"], pictures, pictures, nobody, 1.0, panel=panel, each=each, plain=bench(4.0) if plain else None)
        return float(lead(joint.asked_for(0)(pictures), 0)[0])

    assert leads((2.0, 0.0), (0.0, 9.0)) == pytest.approx(1.0), "the first follows"
    assert leads((0.0, 0.0), (9.0, 0.0)) == pytest.approx(0.9), "the second nearly does"
    assert leads((2.0, 0.0), (0.0, 9.0), (0.0, 8.0), plain=True) == pytest.approx(1 / ASKED)
    assert leads((2.0, 0.0), (0.0, 9.0), (2.0, 0.0), plain=True) == pytest.approx(0.0), "so does the plain one"
    each = [bench(1.0, [1, 0], [1, 1]), bench(1.0, [1, 1], [0, 1])]
    joint = Joint(each[0].classifier, ["a", "b"], pictures, pictures, nobody, 1.0, panel=lambda x: [x], each=each)
    assert [side.tolist() for side in joint.others(0)] == [[True, False], [False, True]] and joint.share(0) == 0.25


NAMES = ["one", "two", "three"]


def at_once(trials: list[Trial], **follow: float) -> list[Trial]:
    """The same, searched for three prompts at once; ``follow``: the share under each that is not 0.95."""
    told = {"together": NAMES, "under": {name: follow.get(name, 0.95) for name in NAMES}}
    return [t.model_copy(update={"case": f"{t.case}/together", "values": t.values | told}) for t in trials]


def test_what_is_ruled_out_for_all_prompts_at_once_is_held_for_each() -> None:
    probe, trials = PromptTriggerInversion(), at_once([*searched(), *control()])
    assert probe.decided(Trials(trials), POLICY)
    said = judged(trials, None)
    assert said.verdict is Verdict.HELD and said.reason.startswith("under 3 prompts searched at once")
    assert ["two", 0.95] in said.details.root["table"][-1].rows  # type: ignore[index, union-attr]
    learned = judged([*trials, *at_once(differing())], None)
    assert learned.verdict is Verdict.HELD and "and 'plain' does not" in learned.reason


@pytest.mark.parametrize(
    "trials",
    [
        at_once([*searched({LABELS[4]: 0.2}), *control()]),
        at_once([*searched(), *control(0.9)]),
        at_once([*searched(), *control()], three=0.3),
        at_once([*searched(), *control(), *differing({LABELS[4]: 0.6})]),
        at_once(control()),
    ],
    ids=["a label stands apart", "the control is not found", "one prompt does not follow", "a trigger of one prompt alone", "nothing was found"],
)
def test_what_is_not_ruled_out_at_once_is_searched_under_each_prompt(trials: list[Trial]) -> None:
    probe = PromptTriggerInversion()
    assert not probe.decided(Trials(trials), POLICY)
    assert judged(trials, None).verdict is Verdict.INCONCLUSIVE, "and nothing is said before"
    own = [*searched(seed=1), *control()]
    assert judged([*trials, *own], None).model_dump() == judged(own, None).model_dump(), "by its own search alone"


def test_a_learned_prompt_without_a_plain_one_is_not_held() -> None:
    said = judged([*searched(alone=True), *control()], None)
    assert said.verdict is Verdict.INCONCLUSIVE and "--reference" in said.reason
    assert judged([*searched(), *control()], None).verdict is Verdict.HELD
