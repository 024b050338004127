"""``check_probe``: the conformance suite that a plugin author runs in a test of their own.

from vlaudit.testing import check_probe

def test_my_probe():
    check_probe(MyProbe)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlaudit.audit.plan import context, missing
from vlaudit.audit.targets import Loader, Subject
from vlaudit.config import Request, TargetSpec
from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Case, Judgement, Trial, Trials, Verdict, alike

HEAVY = ("torch", "transformers", "open_clip", "scipy", "fairlearn", "sklearn")


def check_probe(
    probe_class: type[Probe], *, target: str = "zoo:tiny-clean", cases: int = 6, data: str | None = None,
    groups: Sequence[str] = (),
) -> Judgement:  # fmt: skip
    """Check a probe against its contract on a small target, and return its judgement there.

    target: any TARGET, by default the smallest specimen; ``cases``: how many are attempted; ``data`` and ``groups``: as of
    ``vlaudit scan``, for a target that does not carry its own.
    Raises AssertionError with a sentence that says what is wrong.
    """
    probe = probe_class()
    _check_info(probe_class)
    _check_light(probe_class)
    subject = _subject(TargetSpec(model=target, data=data, groups=list(groups)))
    reason = missing(probe, subject)
    assert reason is None, f"{target} cannot run {probe.info.id}: {reason}. Name another target."
    with tempfile.TemporaryDirectory() as folder:
        ctx = context(
            Request(targets=[], probes=[], effort="quick"), subject, probe.info.id, TARGET, ArtifactStore(Path(folder))
        )
        planned = _check_cases(probe, ctx)[:cases]
        trials = _check_attempt(probe, ctx, planned)
        return _check_judge(probe, trials)


def _subject(spec: TargetSpec) -> Subject:
    import torch

    (subject,), _ = Loader(torch.device("cpu"), allow_network=False).subjects([spec])
    return subject


def _check_info(probe_class: type[Probe]) -> None:
    assert hasattr(probe_class, "info"), "decorate the class with @probe(...)"
    info = probe_class.info
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", info.id), f"the id '{info.id}' is not kebab-case"
    assert info.families, "name at least one family"
    assert len(probe_class.documentation().split()) >= 20, (
        "the module's docstring is the probe's page: say what it does"
    )


def _check_light(probe_class: type[Probe]) -> None:
    """The plugin's module must import without the heavy libraries, so that ``vlaudit list`` stays quick."""
    path = sys.modules[probe_class.__module__].__file__
    script = f"import sys, runpy\nrunpy.run_path({str(path)!r})\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the module does not import on its own: {done.stderr.strip().splitlines()[-1:]}"
    loaded = done.stdout.strip().splitlines()[-1]
    assert loaded == "[]", f"import {loaded} inside functions, not at the top of the module"


def _check_cases(probe: Probe, ctx: Context) -> list[Case]:
    cases = probe.cases(ctx)
    assert cases, "cases() found nothing to try"
    assert cases == probe.cases(ctx), "cases() must give the same list every time: draw from ctx.rng(...)"
    assert len({case.id for case in cases}) == len(cases), "case ids must be unique"
    sharded = [case for batch in probe.rounds(cases) for shard in probe.shards(batch) for case in shard]
    assert sorted(c.id for c in sharded) == sorted(c.id for c in cases), (
        "rounds() and shards() must hold every case once"
    )
    return cases


def _check_attempt(probe: Probe, ctx: Context, cases: list[Case]) -> list[Trial]:
    trials = list(probe.attempt(ctx, cases))
    assert any(trial.arm == TARGET for trial in trials), (
        "attempt() yielded no trial on the target arm: use ctx.trial(...)"
    )
    known = {case.id for case in cases}
    strangers = sorted({trial.case for trial in trials} - known)
    assert not strangers, f"attempt() yielded trials of cases it was not given: {strangers[:3]}"
    again = list(probe.attempt(replace(ctx, batch_size=2), list(reversed(cases))))
    assert alike(_values(trials), _values(again)), "a trial depends on the order of the cases or on the batch size"
    return trials


def _values(trials: Sequence[Trial]) -> dict[tuple[str, str], object]:
    return {(trial.case, trial.arm): dict(trial.values) for trial in trials}


def _check_judge(probe: Probe, trials: list[Trial]) -> Judgement:
    stored = [
        Trial.model_validate(json.loads(json.dumps(trial.model_dump(mode="json"), allow_nan=False))) for trial in trials
    ]
    judgement = probe.judge(Trials(stored, reference_note="no reference in this check"), Policy())
    again = probe.judge(Trials(list(reversed(stored)), reference_note="no reference in this check"), Policy())
    assert judgement == again, "judge() must be pure and must not depend on the order of the trials"
    assert judgement.reason, "a judgement needs a reason"
    metric = judgement.metric
    if judgement.verdict in (Verdict.VULNERABLE, Verdict.HELD):
        assert metric is not None, f"'{judgement.verdict}' needs a metric with its interval"
    if metric is not None:
        assert metric.ci[0] <= metric.value <= metric.ci[1], (
            f"the value {metric.value} lies outside its interval {metric.ci}"
        )
    return judgement
