"""TR2 on painters that heed the spelling of a caption, and on ones that do not."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np

from tests.painters import CAPTIONS, Painter, audit, by_words, context, vector
from vlaudit.attacks.robustness.probabilistic_prompt_robustness import ProbabilisticPromptRobustness
from vlaudit.attacks.shared.text_perturbations import CHARACTER_KINDS
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Trial, Trials, Verdict


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
    assert judgement.metric.n == 49
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
    assert all(len(t["drops"]) == 2 and not t["adversarial"] for t in unmoved)


def test_shared_captions_are_clustered(tmp_path: Path) -> None:
    few = CAPTIONS[:6]
    judgement = audit(ProbabilisticPromptRobustness(prompts=24), Painter(by_words), tmp_path, captions=few)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "6 clusters" in judgement.reason


def test_a_trial_does_not_depend_on_the_other_cases(tmp_path: Path) -> None:
    probe = ProbabilisticPromptRobustness(prompts=8)
    ctx = context(probe, Painter(by_words), tmp_path, view=by_words, captions=CAPTIONS[:8])
    cases = probe.cases(ctx)
    together = {t.case: t.values for t in probe.attempt(ctx, cases)}
    ctx.batch_size = 3
    alone = {t.case: t.values for case in cases for t in probe.attempt(ctx, [case])}
    assert together == alone


def slips(rng: np.random.Generator, harmful: float, n: int = 20, arm: str = TARGET) -> list[Trial]:
    """Trials of prompts of which a share is adversarial, as the plan finds them."""
    trials = []
    for i in range(n):
        hit = bool(rng.random() < harmful)
        values: dict[str, Any] = {
            "kind": CHARACTER_KINDS[i % 4], "text": "t", "caption": f"c{i}", "unchanged": False, "blocked": False,
            "looks": [2, 3, 4, 5, 6], "drops": [0.8, 0.7, 0.9] if hit else [0.0, 0.02], "drop": 0.8 if hit else 0.01,
            "p": 0.01 if hit else 0.9, "adversarial": hit, "undecided": False, "rank": 0.99,
        }  # fmt: skip
        trials.append(Trial(case=f"{i:03d}", arm=arm, values=values))
    return trials


def test_slips_judge_has_no_false_alarm_in_200_null_audits() -> None:
    """The worst null: a share of adversarial prompts just at the threshold, for an interval of 95 %."""
    rng, probe = np.random.default_rng(0), ProbabilisticPromptRobustness()
    at = [probe.judge(Trials(slips(rng, 0.2)), Policy()).verdict for _ in range(200)]
    assert at.count(Verdict.VULNERABLE) <= 10  # 2.5 % nominal


def test_slips_judge_counts_the_undecided_against_holding() -> None:
    rng, probe = np.random.default_rng(0), ProbabilisticPromptRobustness()
    trials = slips(rng, 0.0)
    assert probe.judge(Trials(trials), Policy()).verdict is Verdict.HELD
    unsure = [t.model_copy(update={"values": {**t.values, "undecided": i < 5}}) for i, t in enumerate(trials)]
    assert probe.judge(Trials(unsure), Policy()).verdict is Verdict.INCONCLUSIVE


def test_slips_judge_pairs_the_reference() -> None:
    rng, probe = np.random.default_rng(0), ProbabilisticPromptRobustness()
    judgement = probe.judge(Trials(slips(rng, 0.7) + slips(rng, 0.1, arm=REFERENCE)), Policy())
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0
