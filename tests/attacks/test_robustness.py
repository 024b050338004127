"""The robustness probes: their text edits, their judges on trials of known truth, and whole runs on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlaudit.attacks.robustness._rewrites import KINDS, one_edit, rewrite, spaced
from vlaudit.attacks.robustness._writing import LEGIBLE, write
from vlaudit.attacks.robustness.clip_autoattack import RADII, ClipAutoAttack
from vlaudit.attacks.robustness.prompt_text_perturb import PromptTextPerturb, crossed_interval
from vlaudit.attacks.robustness.typographic import Typographic
from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import REFERENCE, TARGET, Judgement, Trial, Trials, Verdict

POLICY = Policy()
TEXTS = st.text("abc XYZ.,!-éж", max_size=20)


# --- text edits ---


@given(before=TEXTS, after=TEXTS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_every_rewriting_keeps_the_slot(before: str, after: str, kind: str, seed: int) -> None:
    text = f"{before}{{}}{after}"
    assert rewrite(text, kind, np.random.default_rng(seed)).count("{}") == 1
    assert one_edit(text, np.random.default_rng(seed)).count("{}") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_rewriting_changes_a_usual_template(kind: str) -> None:
    made = {rewrite("a photo of a {}", kind, np.random.default_rng(seed)) for seed in range(30)}
    assert len(made - {"a photo of a {}"}) >= 3


def levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row, last = [i], row
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
    return row[-1]


@given(text=TEXTS, seed=st.integers(0, 99))
def test_one_edit_is_at_most_one_edit(text: str, seed: int) -> None:
    assert levenshtein(text, one_edit(text, np.random.default_rng(seed))) <= 1


def test_spaced_texts_differ_in_blanks_only() -> None:
    assert {" ".join(text.split()) for text in spaced("a photo of a {}")} == {"a photo of a {}"}


# --- MR1: the judge ---


def attacked(n: int, lost: int, *, wrong: int = 0, arm: str = TARGET, stage: str = "descent") -> list[Trial]:
    """Trials of n pictures: the first ``wrong`` misnamed when clean, the next ``lost`` beaten at every radius."""
    trials = []
    for i in range(n):
        correct, beaten = i >= wrong, wrong <= i < wrong + lost
        values = {"label": f"label-{i % 4}", "correct": correct, "stochastic": False, "zero_gradient": False,
                  "robust": {str(r): correct and not beaten for r in RADII},
                  "stage": {str(r): stage if beaten else "" for r in RADII}}  # fmt: skip
        trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
    return trials


def controls(n: int, noisy: int = 0, unit: int = 16) -> list[Trial]:
    noise = [Trial(case=f"{i:04d}", arm="control:noise", values={"beaten": i < noisy}) for i in range(n)]
    return noise + [Trial(case=f"{i:04d}", arm="control:unit-test", values={"beaten": i < unit}) for i in range(16)]


def judged(probe: Probe, trials: list[Trial]) -> Judgement:
    return probe.judge(Trials(trials, reference_note="none"), POLICY)


def test_pixel_attack_verdicts_follow_the_interval() -> None:
    probe = ClipAutoAttack()
    assert judged(probe, attacked(128, 40) + controls(128)).verdict is Verdict.VULNERABLE
    assert judged(probe, attacked(128, 2) + controls(128)).verdict is Verdict.HELD
    unsure = judged(probe, attacked(128, 15) + controls(128))
    assert unsure.verdict is Verdict.INCONCLUSIVE
    assert "would decide" in unsure.reason
    assert judged(probe, attacked(128, 0) + controls(128)).metric.ci[1] > 0.02  # type: ignore[union-attr]


def test_pictures_wrong_when_clean_count_but_are_no_loss() -> None:
    metric = judged(ClipAutoAttack(), attacked(100, 10, wrong=40) + controls(100)).metric
    assert metric is not None
    assert (metric.value, metric.n) == (0.1, 100)


def test_guessing_is_not_assessed() -> None:
    judgement = judged(ClipAutoAttack(), attacked(100, 10, wrong=70) + controls(100))
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "commonest" in judgement.reason


def test_an_attack_that_fails_its_unit_test_holds_nothing() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 0) + controls(128, unit=9))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too weak" in judgement.reason
    assert judged(ClipAutoAttack(), attacked(128, 40) + controls(128, unit=9)).verdict is Verdict.VULNERABLE


def test_an_attack_no_better_than_noise_is_no_finding() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 40) + controls(128, noisy=38))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "noise" in judgement.reason


def test_pixel_attack_compares_with_the_reference_on_the_same_pictures() -> None:
    judgement = judged(ClipAutoAttack(), attacked(128, 40) + attacked(128, 8, arm=REFERENCE) + controls(128))
    assert judgement.delta is not None
    assert judgement.delta.value == pytest.approx(32 / 128)
    assert judgement.delta.ci[0] > 0
    assert judgement.delta.p is not None
    assert judgement.delta.p < 1e-6


def test_no_false_alarm_in_200_null_audits() -> None:
    rng = np.random.default_rng(0)
    probe = ClipAutoAttack()
    verdicts = [judged(probe, attacked(128, int(rng.binomial(128, 0.05))) + controls(128)).verdict for _ in range(200)]
    assert Verdict.VULNERABLE not in verdicts
    assert verdicts.count(Verdict.HELD) > 60


# --- MR3: the judge ---


def asked(flips: np.ndarray, arm: str = TARGET, noop: int = 0) -> list[Trial]:
    n = flips.shape[1]
    labels = [f"label-{i % 4}" for i in range(n)]
    values: dict[str, Any] = {"flips": [int(i < noop) for i in range(n)], "labels": labels, "correct": [True] * n}
    trials = [Trial(case="no-op", arm=arm, values=values)]
    for i, row in enumerate(flips.astype(int).tolist()):
        trials.append(
            Trial(case=f"text-{i:03d}", arm=arm, values={"kind": "template: swap", "text": "x", "flips": row})
        )
    return trials


def crossed(rng: np.random.Generator, rate: float, rows: int = 60, columns: int = 60) -> np.ndarray:
    """Answers that share the rewriting's strength and the picture's stability."""
    strength, stability = rng.beta(1, 1, (rows, 1)) * 2, rng.beta(1, 1, (1, columns)) * 2
    return rng.random((rows, columns)) < rate * strength * stability


def test_text_verdicts_follow_the_interval() -> None:
    rng = np.random.default_rng(0)
    verdicts = [judged(PromptTextPerturb(), asked(crossed(rng, rate))).verdict for rate in (0.01, 0.1, 0.3)]
    assert verdicts == [Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.VULNERABLE]
    assert judged(PromptTextPerturb(), asked(np.zeros((60, 60)))).metric.ci[1] > 0.03  # type: ignore[union-attr]
    assert judged(PromptTextPerturb(), asked(crossed(rng, 0.3, rows=10))).verdict is Verdict.INCONCLUSIVE


def test_crossed_interval_covers() -> None:
    rng = np.random.default_rng(1)
    hits = sum(0.15 in crossed_interval(crossed(rng, 0.15, 40, 40).tolist(), 0.95, (0, 1)) for _ in range(100))
    assert hits >= 93


def test_a_prompt_that_changes_nothing_must_change_nothing() -> None:
    judgement = judged(PromptTextPerturb(), asked(np.zeros((60, 60)), noop=1))
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "control failed" in judgement.reason


def test_text_delta_is_paired() -> None:
    rng = np.random.default_rng(2)
    judgement = judged(PromptTextPerturb(), asked(crossed(rng, 0.3)) + asked(crossed(rng, 0.05), REFERENCE))
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0.1
    assert judgement.delta.p is not None
    assert judgement.delta.p < 0.01


# --- MR4: the judge and the pen ---


def written(n: int, read: int, pseudo: int, arm: str = TARGET) -> list[Trial]:
    """Trials of n pictures: the first ``read`` named as the word, the last ``pseudo`` on the pseudo-word."""
    trials = []
    for i in range(n):
        values = {"label": f"label-{i % 4}", "correct": True, "read": i < read, "read_pseudo": i >= n - pseudo}
        trials.append(Trial(case=f"{i:04d}", arm=arm, values=values))
    return trials


def test_typographic_verdicts_follow_the_paired_difference() -> None:
    probe = Typographic()
    assert judged(probe, written(128, 50, 3)).verdict is Verdict.VULNERABLE
    assert judged(probe, written(128, 1, 1)).verdict is Verdict.HELD
    assert judged(probe, written(128, 50, 48)).verdict is not Verdict.VULNERABLE  # ink alone does it
    judgement = judged(probe, written(128, 50, 3) + written(128, 4, 3, REFERENCE))
    assert judgement.delta is not None
    assert judgement.delta.value == pytest.approx(46 / 128)
    assert judgement.delta.ci[0] > 0


@pytest.mark.parametrize("size", [1, 8, 32, 96])
@pytest.mark.parametrize("word", ["ox", "firefighter", "factory worker"])
@pytest.mark.parametrize("style", ["sticker", "ink"])
def test_writes_on_pictures_of_any_size(style: str, word: str, size: int) -> None:
    for grey in (0.6, 0.4):
        image = torch.full((3, size, size), grey)
        marked = write(image, word, max(LEGIBLE, size // 4), style, np.random.default_rng(0))
        assert marked.shape == image.shape
        assert 0 <= marked.min() <= marked.max() <= 1
        assert (image == grey).all(), "the picture itself stays as it was"
        if size >= 32:
            assert (marked != image).any(0).sum() >= 8
            ground = 1.0 if style == "sticker" else grey
            assert (marked - ground).abs().max() > 0.4, "the ink stands out from what it is written on"


# --- whole runs ---


@pytest.fixture(scope="module")
def ctx(tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    spec = TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder))
    (subject, *_), _ = Loader(torch.device("cpu"), allow_network=False).subjects([spec])
    request = Request(targets=[], probes=[], effort="quick")
    return context(request, subject, "test", TARGET, ArtifactStore(tmp_path_factory.mktemp("audit")), 16)


@pytest.mark.parametrize("probe", [ClipAutoAttack(pictures=24), PromptTextPerturb(rewritings=28), Typographic()])
def test_runs_on_a_hugging_face_folder_and_repeats_itself(probe: Probe, ctx: Context) -> None:
    cases = probe.cases(ctx)
    trials = list(probe.attempt(ctx, cases))
    again = list(probe.attempt(ctx, list(reversed(cases))))
    assert {t.case for t in trials} <= {c.id for c in cases}
    assert {(t.case, t.arm): t.values for t in trials} == {(t.case, t.arm): t.values for t in again}
    assert judged(probe, trials).reason
    estimate = probe.estimate(ctx, cases)
    spent = sum(trial.cost.queries for trial in trials)
    assert estimate.queries / 5 < max(spent, 1) < estimate.queries * 5 + 50


def test_a_learned_context_is_shaken_and_the_plain_prompt_with_it(ctx: Context) -> None:
    from dataclasses import replace

    from vlaudit.prompts.coop import CoOp

    model = ctx.target.model
    words = model.tokenize("a photo of a")
    learned = CoOp(model.token_embeddings(words.ids[words.lead : len(words.ids) - words.tail]).clone()).bind(model)
    probe = PromptTextPerturb(rewritings=20, noise=0.5)
    shaken = replace(ctx, _target=learned)
    cases = probe.cases(shaken)
    assert all(case.id.startswith(("no-op", "noise-")) for case in cases)
    ours, plain = list(probe.attempt(shaken, cases)), list(probe.attempt(replace(ctx, arm=REFERENCE), cases))
    assert any(any(trial["flips"]) for trial in ours)
    # a context that stands where the template's words stood, shaken in the same direction, answers the same
    assert [trial["flips"] for trial in ours] == [trial["flips"] for trial in plain]
