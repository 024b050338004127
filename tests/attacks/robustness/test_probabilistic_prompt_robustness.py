"""TR2 on painters that heed the spelling of a caption, and on ones that do not."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.battery.robustness.probabilistic_prompt_robustness import NONE, even
from benchmarks.battery.robustness.probabilistic_prompt_robustness import audit as audit_of
from tests.painters import CAPTIONS, Painter, audit, by_words, context, vector
from vlaudit.attacks.robustness.probabilistic_prompt_robustness import ProbabilisticPromptRobustness
from vlaudit.attacks.robustness.probabilistic_prompt_robustness.comparison import told
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.records import Judgement, Trials, Verdict


def corrected(text: str) -> np.ndarray:
    """Reads the caption that is meant, however it is spelled."""
    return vector(difflib.get_close_matches(text, CAPTIONS, n=1, cutoff=0)[0])


def test_slips_spoil_the_pictures_of_a_painter_that_knows_whole_captions_only(tmp_path: Path) -> None:
    judgement = audit(ProbabilisticPromptRobustness(), Painter(vector), tmp_path, reference=Painter(corrected))
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0.3
    pictures = judgement.evidence
    assert len(pictures) >= 2
    titles = [p.caption.partition(" | ")[0] for p in pictures]
    assert titles[0::2] == titles[1::2]  # pairs of one caption, side by side
    assert "[" in pictures[1].caption


def test_a_painter_that_ignores_spelling_holds(tmp_path: Path) -> None:
    judgement = audit(ProbabilisticPromptRobustness(), Painter(corrected), tmp_path, view=vector)
    assert judgement.verdict is Verdict.HELD, judgement.reason
    assert judgement.metric is not None
    assert judgement.metric.ci[1] > 0.1  # never degenerate


def test_pictures_of_nothing_are_not_assessed(tmp_path: Path) -> None:
    judgement = audit(ProbabilisticPromptRobustness(), Painter(by_words, noise=1e3), tmp_path)
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "nothing to lose" in judgement.reason


def test_blocked_pictures_are_never_a_pass(tmp_path: Path) -> None:
    def some(text: str) -> bool:
        return text.startswith("golden dragon")

    judgement = audit(ProbabilisticPromptRobustness(prompts=50), Painter(by_words, blocks=some), tmp_path)
    assert judgement.details["prompts with a blocked picture"] == 1
    assert judgement.metric is not None
    assert judgement.metric.n == 50, "left out of what is seen, not of what is claimed"
    every = audit(
        ProbabilisticPromptRobustness(), Painter(by_words, blocks=lambda text: text not in CAPTIONS), tmp_path
    )
    assert every.verdict is Verdict.NOT_ASSESSED
    assert "blocked" in every.reason


def test_harmless_prompts_are_given_up_early(tmp_path: Path) -> None:
    def constant(text: str) -> np.ndarray:
        return by_words(next(c for c in CAPTIONS if c.split()[1][:2] in text or c.split()[0][:2] in text))

    probe, painter = ProbabilisticPromptRobustness(prompts=50), Painter(constant)
    ctx = context(probe, painter, tmp_path, view=constant)
    trials = list(probe.attempt(ctx, probe.cases(ctx)))
    unmoved = [t for t in trials if t["unchanged"]]
    assert unmoved
    assert all(len(t["drops"]) == 3 and not t["adversarial"] for t in unmoved)


def test_shared_captions_are_clustered(tmp_path: Path) -> None:
    few = CAPTIONS[:6]
    with pytest.raises(NotAssessed, match="20 different captions, and there are 6"):
        audit(ProbabilisticPromptRobustness(prompts=24), Painter(by_words), tmp_path, captions=few)


def test_a_trial_does_not_depend_on_the_other_cases(tmp_path: Path) -> None:
    probe = ProbabilisticPromptRobustness(prompts=8)
    ctx = context(probe, Painter(by_words), tmp_path, view=by_words, captions=CAPTIONS[:8])
    cases = probe.cases(ctx)
    together = {t.case: t.values for t in probe.attempt(ctx, cases)}
    ctx.batch_size = 3
    alone = {t.case: t.values for case in cases for t in probe.attempt(ctx, [case])}
    assert together == alone


def judged(*trials: Trials, policy: Policy | None = None) -> Judgement:
    return ProbabilisticPromptRobustness().judge(Trials([trial for each in trials for trial in each]), policy or Policy())


def test_a_prompt_is_given_up_only_where_its_loss_is_shown_to_be_small(tmp_path: Path) -> None:
    """Of prompts that lose twice the margin, three seeds in which the loss is small say nothing."""
    rng = np.random.default_rng(0)
    twice = Trials(t for _ in range(10) for t in audit_of(rng, even(0.2, 0.2)))
    given_up = [t for t in twice if told(t["drops"], t["looks"], 0.1, 2.0, 0.1, 0.05).futile]
    assert len(given_up) < 0.08 * len(twice)
    assert sum(len(t["drops"]) == t["looks"][-1] for t in twice) > 0.4 * len(twice), "open ones go on to the last look"
    assert all(told(t["drops"], t["looks"], 0.1, 2.0, 0.1, 0.05).futile for t in audit_of(rng, even(0.0, 0.02)))


def test_what_is_not_shown_to_be_harmless_counts_against_holding() -> None:
    calm = list(audit_of(np.random.default_rng(0), NONE))
    assert judged(calm).verdict is Verdict.HELD
    for change, why in [
        ({"drops": [0.02, 0.05, 0.12]}, "not shown to be harmless"),  # an audit of old: given up at the first look
        ({"blocked": True}, "12 blocked"),
        ({"rank": 0.6}, "12 not recognised as they were written"),
        ({"text": "caption 1", "caption": "caption 1"}, "12 without a letter to change"),
    ]:
        some = [t.model_copy(update={"values": {**t.values, **change}}) if i % 5 == 0 else t for i, t in enumerate(calm)]
        found = judged(some)
        assert found.verdict is Verdict.INCONCLUSIVE, change
        assert "12 more are not shown to be harmless" in found.reason and why in found.reason
        assert found.metric is not None and found.metric.value == 0 and found.metric.ci[1] > 0.3


def test_a_kind_of_slip_that_spoils_half_of_its_captions_is_no_pass() -> None:
    found = judged(audit_of(np.random.default_rng(0), NONE, harmed=even(0.9, 0.1), share=0.5, kinds=1, prompts=200))
    assert found.verdict is Verdict.INCONCLUSIVE and found.metric is not None and found.metric.ci[1] < 0.2
    assert "of the 50 of 'swap', and far fewer of the others" in found.reason


def test_the_policy_says_what_is_harmless() -> None:
    trials = list(audit_of(np.random.default_rng(0), even(0.1, 0.05)))
    assert judged(trials).verdict is Verdict.HELD
    for name, value in (("harmless", 1.2), ("least-spread", 0.5), ("recognised", 0.999)):
        stricter = Policy(thresholds={f"probabilistic-prompt-robustness.{name}": value})
        assert judged(trials, policy=stricter).verdict is not Verdict.HELD, name
    dark = [t.model_copy(update={"values": {**t.values, "blocked": True}}) if i < 6 else t for i, t in enumerate(trials)]
    none = Policy(thresholds={"probabilistic-prompt-robustness.most-blocked": 0.05})
    assert judged(dark).verdict is not Verdict.NOT_ASSESSED and judged(dark, policy=none).verdict is Verdict.NOT_ASSESSED


@pytest.mark.parametrize(("usual", "cure"), [(even(0.12, 0.1), "--effort thorough"), (even(0.0, 0.05), "--set probabilistic-prompt-robustness.prompts=")])
def test_a_cure_can_be_carried_out(usual: Any, cure: str) -> None:
    rng = np.random.default_rng(3)
    found = judged(list(audit_of(rng, usual, harmed=even(0.9, 0.1), share=0.15)))
    assert found.verdict is Verdict.INCONCLUSIVE and cure in found.reason


def test_a_kind_that_finds_nothing_to_change_gives_way_to_another(tmp_path: Path) -> None:
    probe, captions = ProbabilisticPromptRobustness(prompts=24), tuple(f"猫と犬{i}の絵本" for i in range(24))
    ctx = context(probe, Painter(by_words), tmp_path, view=by_words, captions=captions)
    trials = list(probe.attempt(ctx, probe.cases(ctx)))
    assert all(t["text"] != t["caption"] for t in trials)
    assert {t["kind"] for t in trials} == {"swap", "drop"}, "no key and no look-alike for these letters"


def test_slips_judge_pairs_the_reference() -> None:
    found = judged(list(audit_of(np.random.default_rng(0), even(0.6, 0.1), plain=NONE)))
    assert found.delta is not None and found.delta.ci[0] > 0.5
    assert found.reference is not None and found.reference.value == 0


def test_a_run_records_what_the_battery_draws(tmp_path: Path) -> None:
    probe = ProbabilisticPromptRobustness(prompts=4)
    ctx = context(probe, Painter(by_words), tmp_path, view=by_words)
    run = list(probe.attempt(ctx, probe.cases(ctx)))
    assert [t.case for t in run] == [t.case for t in audit_of(np.random.default_rng(0), prompts=4)]
    assert {frozenset(t.values) for t in run} == {frozenset(t.values) for t in audit_of(np.random.default_rng(0))}
