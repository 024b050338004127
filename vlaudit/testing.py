"""``check_probe``: the conformance suite that a plugin author runs in a test of their own.

from vlaudit.testing import check_probe

def test_my_probe():
    check_probe(MyProbe)

Every check has a name, with which its failure begins. One that a probe cannot pass yet is named with the reason:
``check_probe(MyProbe, expected_failed_checks={"light-imports": "its library has no lazy imports"})``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlaudit.audit.plan import compared_context, missing
from vlaudit.audit.subjects import Subject
from vlaudit.audit.targets import Loader
from vlaudit.battery import Scenario, failures
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Context, Probe
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET, Case, Judgement, Trial, Trials, Verdict, alike

HEAVY = ("torch", "transformers", "open_clip", "scipy", "fairlearn", "sklearn")


class _Checks:
    """Asserts by name, but for those that are expected to fail."""

    def __init__(self, expected: Mapping[str, str]) -> None:
        self._expected, self._made = expected, dict[str, bool]()

    def __call__(self, name: str, holds: object, sentence: str) -> None:
        self._made[name] = bool(holds)
        assert holds or name in self._expected, f"{name}: {sentence}"

    def end(self) -> None:
        for name, reason in self._expected.items():
            assert name in self._made, f"there is no check '{name}': {', '.join(sorted(self._made))}"
            assert not self._made[name], f"{name}: it was expected to fail ({reason}) and passes"


def check_probe(
    probe_class: type[Probe], *, target: str = "zoo:tiny-clean", cases: int = 6, data: str | None = None,
    groups: Sequence[str] = (), prompts: Sequence[str] = ("",), scenarios: Sequence[Scenario] = (), expected_failed_checks: Mapping[str, str] | None = None,
) -> Judgement:  # fmt: skip
    """Check a probe against its contract on a small target, and return its judgement there.

    target: any TARGET, by default the smallest specimen; ``cases``: how many are attempted; ``data`` and ``groups``: as of
    ``vlaudit scan``, for a target that does not carry its own; ``prompts``: SPECs, of which a probe that compares needs two; ``scenarios``: of innocence and of harm, which the judge must pass (see
    :mod:`vlaudit.battery`); ``expected_failed_checks``: names of checks that it does not pass
    yet, each with the reason.
    Raises AssertionError with the name of the check and a sentence that says what is wrong; also where a check that is expected to
    fail passes.
    """
    check = _Checks(expected_failed_checks or {})
    assert hasattr(probe_class, "info"), "decorate the class with @probe(...)"
    probe = probe_class()
    _check_info(check, probe_class)
    _check_imports(check, probe_class)
    specs = [TargetSpec(model=target, prompt=[p] if p else [], data=data, groups=list(groups)) for p in prompts]
    party = _subjects(specs)
    for reason in filter(None, (missing(probe, subject) for subject in party)):
        raise AssertionError(f"{target} cannot run {probe.info.id}: {reason}. Name another target.")
    with tempfile.TemporaryDirectory() as folder:
        ctx = compared_context(Request(targets=[], probes=[], effort="quick"), party, probe.info.id, ArtifactStore(Path(folder)))
        planned = _check_cases(check, probe, ctx)[:cases]
        trials = _check_attempt(check, probe, ctx, planned)
        judgement = _check_judge(check, probe, trials)
    if scenarios:
        wrong = failures(probe_class, scenarios)
        check("battery", not wrong, "\n".join(wrong))
    check.end()
    return judgement


def _subjects(specs: list[TargetSpec]) -> tuple[Subject, ...]:
    import torch

    return tuple(Loader(torch.device("cpu"), allow_network=False).subjects(specs)[0])


def _subject(spec: TargetSpec) -> Subject:
    (subject,) = _subjects([spec])
    return subject


def _check_info(check: _Checks, probe_class: type[Probe]) -> None:
    info, words = probe_class.info, probe_class.documentation().split()
    check("kebab-case-id", re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", info.id), f"the id '{info.id}' is not kebab-case")
    check("families", info.families, "name at least one family")
    check("documentation", len(words) >= 20, "the module's docstring is the probe's page: say what it does")
    check("headline", info.headline, "say in plain words what happens where the flaw is: @probe(headline=...)")
    check("impact", info.impact, "say why the flaw matters: a paragraph of the page that begins with 'Threat.', or @probe(impact=...)")
    check("remedy", info.remedy, "say what to do about the flaw: a paragraph that begins with 'What to do.', or @probe(remedy=...)")


def _check_imports(check: _Checks, probe_class: type[Probe]) -> None:
    """The plugin's module must import without the heavy libraries, so that ``vlaudit list`` stays quick."""
    path = sys.modules[probe_class.__module__].__file__
    script = f"import sys, runpy\nrunpy.run_path({path!r})\nprint(*[m for m in {HEAVY!r} if m in sys.modules], sep=', ')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"the module does not import on its own: {done.stderr.strip().splitlines()[-1:]}"
    loaded = done.stdout.splitlines()[-1]
    check("light-imports", not loaded, f"import {loaded} inside functions, not at the top of the module")


def _check_cases(check: _Checks, probe: Probe, ctx: Context) -> list[Case]:
    cases = probe.cases(ctx)
    check("some-cases", cases, "cases() found nothing to try")
    same = cases == probe.cases(ctx)
    check("same-cases", same, "cases() must give the same list every time: draw from ctx.rng(...)")
    check("unique-cases", len({case.id for case in cases}) == len(cases), "case ids must be unique")
    smaller = replace(ctx, share=0.01, reduced=[])
    try:
        less = len(probe.cases(smaller)) <= len(cases)
    except NotAssessed:
        less = True
    check("smaller-cases", less, "a smaller share of a budget must not give more cases")
    sharded = [case.id for batch in probe.rounds(cases) for shard in probe.shards(batch) for case in shard]
    every = sorted(sharded) == sorted(case.id for case in cases)
    check("shards-hold-all", every, "rounds() and shards() must hold every case once")
    return cases


def _check_attempt(check: _Checks, probe: Probe, ctx: Context, cases: list[Case]) -> list[Trial]:
    trials = list(probe.attempt(ctx, cases))
    tried = any(trial.arm == TARGET for trial in trials)
    check("target-trials", tried, "attempt() yielded no trial on the target arm: use ctx.trial(...)")
    strangers = sorted({trial.case for trial in trials} - {case.id for case in cases})
    check("own-cases", not strangers, f"attempt() yielded trials of cases it was not given: {strangers[:3]}")
    again = list(probe.attempt(replace(ctx, batch_size=2), list(reversed(cases))))
    same = alike(_values(trials), _values(again))
    check("order-and-batch", same, "a trial depends on the order of the cases or on the batch size")
    return trials


def _values(trials: Sequence[Trial]) -> dict[tuple[str, str], object]:
    return {(trial.case, trial.arm): dict(trial.values) for trial in trials}


def _check_judge(check: _Checks, probe: Probe, trials: list[Trial]) -> Judgement:
    stored = [
        Trial.model_validate(json.loads(json.dumps(trial.model_dump(mode="json"), allow_nan=False))) for trial in trials
    ]
    judgement, again = (
        probe.judge(Trials(order, reference_note="no reference in this check"), Policy()) for order in (stored, stored[::-1])
    )
    metric, decided = judgement.metric, judgement.verdict in (Verdict.VULNERABLE, Verdict.HELD)
    check("pure-judge", judgement == again, "judge() must be pure and must not depend on the order of the trials")
    check("reason", judgement.reason, "a judgement needs a reason")
    check("metric", metric or not decided, f"'{judgement.verdict}' needs a metric with its interval")
    inside = metric is None or metric.ci[0] <= metric.value <= metric.ci[1]
    check("value-in-interval", inside, f"the value {metric and metric.value} lies outside its interval {metric and metric.ci}")
    return judgement
