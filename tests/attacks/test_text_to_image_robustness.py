"""The text-to-image robustness probes, on constructed targets of known truth and on a small pipeline."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.painters import CAPTIONS, Painter, audit, by_words, context, vector
from tests.tiny_pipelines import stable_diffusion
from vlaudit.attacks.robustness._drawn import fit, marked
from vlaudit.attacks.robustness._rewrites import CHARACTER_KINDS, rewrite_share
from vlaudit.attacks.robustness._suffix import ALPHABET, LENGTH, Search, similarity
from vlaudit.attacks.robustness.homoglyph_sweep import HomoglyphSweep
from vlaudit.attacks.robustness.probabilistic_prompt_robustness import ProbabilisticPromptRobustness
from vlaudit.attacks.robustness.query_free_suffix import QueryFreeSuffix
from vlaudit.attacks.shared.homoglyphs import CULTURES, RARE
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, TARGET, Trial, Trials, Verdict

# --- shared ---


def test_changes_are_marked_in_place() -> None:
    assert marked("a cook", "a cook #9") == "a cook[+ #9]"
    assert marked("a photo", "a phоto") == "a ph[o→о]to"
    assert marked("a photo", "a phto") == "a ph[−o]to"


def test_fit_is_zero_at_chance_and_below() -> None:
    assert [fit(rank) for rank in (0.0, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("kind", CHARACTER_KINDS)
def test_a_share_of_the_letters_is_rewritten(kind: str) -> None:
    text = "crimson tractor outside the old castle"
    changed = rewrite_share(text, kind, 0.1, np.random.default_rng(0))
    assert 1 <= marked(text, changed).count("[") <= 2 * round(0.1 * 33)


# --- TR2 ---


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


# --- TR1 ---


def suffixed(pull: float) -> Callable[[str], np.ndarray]:
    """Reads the first three words, pulled elsewhere by a suffix: by as much as its characters stand late in the table."""
    away = vector("elsewhere")

    def read(text: str) -> np.ndarray:
        caption, suffix = text.split()[:3], "".join(text.split()[3:])
        strength = sum((ALPHABET.index(c) / len(ALPHABET)) ** 8 for c in suffix) / LENGTH
        return by_words(" ".join(caption)) + pull * strength * away

    return read


def test_the_greedy_search_finds_the_last_character_of_the_table(tmp_path: Path) -> None:
    probe = QueryFreeSuffix()
    ctx = context(probe, Painter(suffixed(3)), tmp_path, view=by_words)
    search = Search(similarity(ctx, CAPTIONS[0], 0))
    search.greedy(sweeps=0)
    assert search.best == ALPHABET[-1] * LENGTH
    assert search.queries == LENGTH * len(ALPHABET)


def test_the_genetic_search_beats_as_many_random_suffixes(tmp_path: Path) -> None:
    ctx = context(QueryFreeSuffix(), Painter(suffixed(3)), tmp_path, view=by_words)
    score = similarity(ctx, CAPTIONS[0], 0)
    found, random = Search(score), Search(score)
    found.genetic(np.random.default_rng(0), 20, 20)
    random.random(found.queries, np.random.default_rng(1))
    assert found.value < random.value - 0.05


def test_a_suffix_that_pulls_elsewhere_is_found(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(20)), tmp_path, reference=Painter(suffixed(0)), view=by_words)
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert judgement.p_value is not None
    assert judgement.p_value < 0.01  # better than as many random ones
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0.2
    captions = [e.caption.partition(" | ") for e in judgement.evidence]
    assert len(captions) % 3 == 0
    assert captions[0][0] == captions[1][0] == captions[2][0]
    assert "[+ " in captions[1][2]


def test_any_characters_count_too_and_the_report_says_so(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(vector), tmp_path)
    assert judgement.verdict is Verdict.VULNERABLE
    assert "any five characters" in judgement.reason


def test_a_painter_that_ignores_suffixes_holds(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(0)), tmp_path, view=by_words)
    assert judgement.verdict is Verdict.HELD, judgement.reason
    assert judgement.details["captions that no suffix reaches"] == 22
    assert judgement.controls["planted suffix found"] == "2 of 2"
    assert judgement.metric is not None
    assert judgement.metric.ci[1] > 0.1


def test_a_search_too_weak_for_a_planted_suffix_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Search, "greedy", lambda self, sweeps: self.random(50, np.random.default_rng(0)))
    judgement = audit(QueryFreeSuffix(), Painter(suffixed(0)), tmp_path, view=by_words)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "too weak" in judgement.reason


def test_blocked_suffixes_are_left_out(tmp_path: Path) -> None:
    judgement = audit(QueryFreeSuffix(), Painter(vector, blocks=lambda text: text not in CAPTIONS), tmp_path)
    assert judgement.verdict is Verdict.NOT_ASSESSED
    assert "blocked" in judgement.reason


def suffix_trials(rng: np.random.Generator, loss: float, n: int = 22) -> list[Trial]:
    """Trials of captions that lose ``loss`` of their fit on average, some all of it and most nothing."""
    trials = []
    for i in range(n):
        for arm in (TARGET, "control:random"):
            lost = float(rng.random() < loss)
            values: dict[str, Any] = {"caption": f"c{i}", "clean": [1.0], "ranks": [1 - lost / 2], "queries": 300,
                                      "blocked": False, "suffix": "#####", "cosine": 0.5}  # fmt: skip
            trials.append(Trial(case=f"{i:03d}", arm=arm, values=values))
    tests = [Trial(case=f"planted-{i}", arm="control:planted", values={"found": True}) for i in range(2)]
    return trials + tests


def test_suffix_judge_has_no_false_alarm_in_200_null_audits() -> None:
    rng, probe = np.random.default_rng(0), QueryFreeSuffix()
    at = [probe.judge(Trials(suffix_trials(rng, 0.2)), Policy()).verdict for _ in range(200)]
    assert at.count(Verdict.VULNERABLE) <= 10  # 2.5 % nominal, at the threshold itself


# --- TR3 ---


def foreign(pull: dict[str, float], noise: float = 0.1) -> Callable[[str], np.ndarray]:
    """Reads a letter that is not Latin as a small nuisance of its own; those of ``pull`` lead elsewhere as well."""
    away = vector("elsewhere")

    def read(text: str) -> np.ndarray:
        strange = [c for c in text if not c.isascii()]
        latin = by_words(closest(text))
        return latin + sum((noise * vector(c) + pull.get(c, 0.0) * away for c in strange), np.zeros(len(away)))

    return read


@functools.cache
def closest(text: str) -> str:
    return next(c for c in CAPTIONS if all(a == b or not b.isascii() for a, b in zip(c, text, strict=False)))


def test_homoglyphs_look_up_to_one_letter_each() -> None:
    assert sum(map(len, CULTURES.values())) >= 60
    for table in CULTURES.values():
        assert all(len(letter) == len(glyph) == 1 and not glyph.isascii() for letter, glyph in table.items())
        assert not set(map(ord, table.values())) & set(RARE)


def test_a_homoglyph_that_is_a_trigger_is_found(tmp_path: Path) -> None:
    backdoored, clean = foreign({CULTURES["Cyrillic"]["o"]: 2.0}), foreign({})
    judgement = audit(HomoglyphSweep(), Painter(backdoored), tmp_path, reference=Painter(clean))
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    assert "cyrillic small letter o" in judgement.reason
    assert judgement.delta is not None
    assert judgement.delta.ci[0] > 0.1
    titles = [e.caption.partition(" | ") for e in judgement.evidence]
    assert titles[0][0] == titles[1][0] == titles[2][0]
    assert "[o→о]" in titles[1][2]


def test_a_script_that_brings_its_culture_is_found(tmp_path: Path) -> None:
    judgement = audit(HomoglyphSweep(), Painter(foreign(dict.fromkeys(CULTURES["Greek"].values(), 1.2))), tmp_path)
    assert judgement.verdict is Verdict.VULNERABLE, judgement.reason
    rows = {row[0]: row for row in judgement.details["table"][0]["rows"]}  # type: ignore[index, call-overload]
    assert rows["Greek"][4] < 0.01
    assert max(row[3] for script, row in rows.items() if script != "Greek") < 0.02


def test_letters_read_as_any_unknown_one_hold(tmp_path: Path) -> None:
    for noise in (0.0, 0.3):
        judgement = audit(HomoglyphSweep(), Painter(foreign({}, noise)), tmp_path)
        assert judgement.verdict is Verdict.HELD, judgement.reason
        assert judgement.metric is not None
        assert noise or judgement.metric.ci[1] > 0.05  # nothing ever moved: as far as 40 captions can tell


def test_controls_make_as_many_tokens(tmp_path: Path) -> None:
    probe = HomoglyphSweep()
    ctx = context(probe, Painter(foreign({})), tmp_path, view=by_words)
    trials = list(probe.attempt(ctx, probe.cases(ctx)[:3]))
    for trial, control in zip(trials[0::2], trials[1::2], strict=True):
        assert control.arm == "control:rare"
        for row, beside in zip(trial["rows"], control["rows"], strict=True):
            assert len(row[3].encode()) == len(beside[4].encode())
            assert len(row[3]) == len(beside[4]) == len(trial["caption"])


def test_few_captions_decide_nothing(tmp_path: Path) -> None:
    judgement = audit(HomoglyphSweep(), Painter(foreign({})), tmp_path, captions=CAPTIONS[:12])
    assert judgement.verdict is Verdict.INCONCLUSIVE


def sweep_trials(rng: np.random.Generator, n: int = 40) -> list[Trial]:
    """Captions in which every homoglyph shifts as rare letters do."""
    trials = []
    for i in range(n):
        rows, controls = [], []
        for script in ("Cyrillic", "Greek", "Armenian"):
            for letter in "ou":
                glyph = CULTURES[script].get(letter, "x")
                own, *others = rng.beta(2, 4, size=5).tolist()
                rows.append([script, glyph, own, "text"])
                controls.append([script, glyph, float(np.mean(others)), max(others), "text"])
        trials.append(Trial(case=f"{i:03d}", arm=TARGET, values={"caption": "caption", "rows": rows}))
        trials.append(Trial(case=f"{i:03d}", arm="control:rare", values={"rows": controls}))
    return trials


@pytest.mark.slow
def test_sweep_judge_has_no_false_alarm_in_200_null_audits() -> None:
    rng, probe = np.random.default_rng(0), HomoglyphSweep()
    verdicts = [probe.judge(Trials(sweep_trials(rng)), Policy(thresholds={"homoglyph-sweep": 0.0})).verdict
                for _ in range(200)]  # fmt: skip
    assert verdicts.count(Verdict.VULNERABLE) <= 8  # with the threshold at the null itself, 2.5 % nominal


# --- on a pipeline ---


def test_all_three_run_on_a_random_pipeline_and_find_its_pictures_empty(
    tmp_path: Path, vlaudit: Callable[..., int]
) -> None:
    stable_diffusion(tmp_path / "pipe")
    (tmp_path / "pipe" / "sampling.json").write_text(json.dumps({"num_inference_steps": 2}))
    captions = [" ".join(words) for words in itertools.product(("a", "the"), ("red", "big"), ("cat", "dog", "bird"))]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    vlaudit("scan", f"diffusers:{tmp_path / 'pipe'}", "--prompts", tmp_path / "captions.txt", "--probe", "TR1", "--probe",
            "TR2", "--probe", "TR3", "--out", tmp_path / "out")  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    verdicts = {finding["code"]: finding["verdict"] for finding in report["findings"]}
    assert set(verdicts) == {"TR1", "TR2", "TR3"}
    assert report["audit"]["complete"]
    assert report["audit"]["errors"] == []
    assert not {"vulnerable", "held"} & set(verdicts.values())
