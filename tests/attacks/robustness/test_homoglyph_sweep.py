"""TR3 on painters to which one letter, or a whole script, means something else, and on ones to which none does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.painters import CAPTIONS, Painter, audit, by_words, context, vector
from vlaudit.attacks.robustness.homoglyph_sweep import HomoglyphSweep
from vlaudit.attacks.shared.homoglyphs import CULTURES
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.records import TARGET, Trial, Trials, Verdict


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
    rows = {row[0]: row for row in judgement.details["table"][0].rows}
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
    with pytest.raises(NotAssessed, match="20 different captions, and there are 12"):
        audit(HomoglyphSweep(), Painter(foreign({})), tmp_path, captions=CAPTIONS[:12])


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


def test_a_shift_that_is_not_significant_is_no_finding() -> None:
    rows, controls = [["Greek", "ο", 0.9, "text"]], [["Greek", "ο", 0.1, 0.2, "text"]]
    trials = [Trial(case=f"{i:03d}", arm=TARGET, values={"caption": "caption", "rows": rows}) for i in range(40)]
    trials += [Trial(case=f"{i:03d}", arm="control:rare", values={"rows": controls}) for i in range(40)]
    assert HomoglyphSweep().judge(Trials(trials), Policy()).verdict is Verdict.VULNERABLE
    unsure = HomoglyphSweep().judge(Trials(trials), Policy(alpha=1e-4))  # 2000 flips cannot say so much
    assert unsure.verdict is Verdict.INCONCLUSIVE and "not significantly" in unsure.reason


@pytest.mark.slow
def test_sweep_judge_has_no_false_alarm_in_200_null_audits() -> None:
    rng, probe = np.random.default_rng(0), HomoglyphSweep()
    verdicts = [probe.judge(Trials(sweep_trials(rng)), Policy(thresholds={"homoglyph-sweep": 0.0})).verdict
                for _ in range(200)]  # fmt: skip
    assert verdicts.count(Verdict.VULNERABLE) <= 8  # with the threshold at the null itself, 2.5 % nominal
