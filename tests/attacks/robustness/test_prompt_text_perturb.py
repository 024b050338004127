"""MR3: its judge on trials of known truth, and whole runs on a small model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.attacks.robustness.matching_runs import judged, runs_and_repeats_itself
from tests.statistics.test_crossed import crossed
from vlaudit.attacks.robustness.prompt_text_perturb import PromptTextPerturb
from vlaudit.attacks.shared.text_perturbations import KINDS
from vlaudit.probe import Context
from vlaudit.prompts.coop import CoOp
from vlaudit.records import REFERENCE, TARGET, Trial, Verdict


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


def test_text_verdicts_follow_the_interval() -> None:
    rng = np.random.default_rng(0)
    verdicts = [judged(PromptTextPerturb(), asked(crossed(rng, rate))).verdict for rate in (0.01, 0.1, 0.3)]
    assert verdicts == [Verdict.HELD, Verdict.INCONCLUSIVE, Verdict.VULNERABLE]
    assert judged(PromptTextPerturb(), asked(np.zeros((60, 60)))).metric.ci[1] > 0.03  # type: ignore[union-attr]
    assert judged(PromptTextPerturb(), asked(crossed(rng, 0.3, rows=10))).verdict is Verdict.INCONCLUSIVE


def kinds_and_labels(flips: np.ndarray, labels: int = 4, kinds: int = 4) -> list[Trial]:
    """Trials whose kinds and labels come in turns."""
    about = [f"label-{i % labels}" for i in range(flips.shape[1])]
    still, *trials = asked(flips)
    trials = [t.model_copy(update={"values": {**t.values, "kind": f"template: {KINDS[i % kinds]}"}}) for i, t in enumerate(trials)]
    return [still.model_copy(update={"values": {**still.values, "labels": about}}), *trials]


def test_one_kind_that_changes_answers_is_found_among_those_that_do_not() -> None:
    flips = np.zeros((280, 128))
    flips[::7] = np.random.default_rng(0).random((40, 128)) < 0.45
    found = judged(PromptTextPerturb(), kinds_and_labels(flips, kinds=7))
    assert flips.mean() < 0.07 and found.verdict is Verdict.VULNERABLE
    assert "under 'template: swap'" in found.reason
    assert found.metric is not None and found.metric.value > 0.4 and found.metric.n == 40 * 128
    few = flips.copy()
    few[::7] = np.random.default_rng(0).random((40, 128)) < 0.108
    near = judged(PromptTextPerturb(), kinds_and_labels(few, kinds=7))
    assert near.verdict is Verdict.INCONCLUSIVE and "under 'template: swap'" in near.reason and "--set prompt-text-perturb.rewritings=560" in near.reason
    few[::7] = np.random.default_rng(0).random((40, 128)) < 0.05
    assert judged(PromptTextPerturb(), kinds_and_labels(few, kinds=7)).verdict is Verdict.HELD


def test_one_label_whose_answers_change_is_found_among_those_that_do_not() -> None:
    flips = np.zeros((280, 128))
    flips[:, ::16] = 1
    found = judged(PromptTextPerturb(), kinds_and_labels(flips, labels=16))
    assert flips.mean() < 0.07 and found.verdict is Verdict.VULNERABLE
    assert "about pictures of 'label-0'" in found.reason
    flips[:] = 0
    flips[:, [0, 64]] = 1
    few = judged(PromptTextPerturb(), kinds_and_labels(flips, labels=64))
    assert few.verdict is Verdict.INCONCLUSIVE and "2 of the 2 of 'label-0'" in few.reason
    flips[:] = 0
    flips[:, [0, 17]] = 1  # two pictures, of two labels
    assert judged(PromptTextPerturb(), kinds_and_labels(flips, labels=16)).verdict is Verdict.HELD


def test_a_label_too_small_to_show_it_is_not_held_where_nearly_all_about_it_changes() -> None:
    flips = np.zeros((280, 128))
    flips[:260, 50] = 1  # the only picture of its label
    whole = judged(PromptTextPerturb(), kinds_and_labels(flips, labels=100))
    assert whole.verdict is Verdict.INCONCLUSIVE and "nearly all answers about 'label-50' change" in whole.reason
    assert "label-50" in str(whole.details["labels of too few pictures to show that all of theirs change"])
    flips[200:, 50] = 0
    assert judged(PromptTextPerturb(), kinds_and_labels(flips, labels=100)).verdict is Verdict.HELD


def test_the_worst_text_stands_beside_a_held_finding() -> None:
    worst = Trial(case="worst", arm=TARGET, values={"steps": [{"edits": 2, "flips": [1, 1, 0, 0], "text": "a phto"}]})
    found = judged(PromptTextPerturb(), [*asked(np.zeros((60, 60))), worst])
    assert found.verdict is Verdict.HELD and found.reason.endswith("of the worst text found, within 2 edits, 50% do")


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


def test_runs_on_a_hugging_face_folder_and_repeats_itself(matching: Context) -> None:
    runs_and_repeats_itself(PromptTextPerturb(rewritings=28), matching)


def test_a_learned_context_is_shaken_and_the_plain_prompt_with_it(matching: Context) -> None:
    model = matching.target.model
    words = model.tokenize("a photo of a")
    learned = CoOp(model.token_embeddings(words.ids[words.lead : len(words.ids) - words.tail]).clone()).bind(model)
    probe = PromptTextPerturb(rewritings=20, noise=0.5)
    shaken = replace(matching, _target=learned)
    cases = probe.cases(shaken)
    assert all(case.id.startswith(("no-op", "noise-")) for case in cases)
    ours, plain = list(probe.attempt(shaken, cases)), list(probe.attempt(replace(matching, arm=REFERENCE), cases))
    assert any(any(trial["flips"]) for trial in ours)
    # a context that stands where the template's words stood, shaken in the same direction, answers the same
    assert [trial["flips"] for trial in ours] == [trial["flips"] for trial in plain]
