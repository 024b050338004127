"""Judges are plugins: whatever one says or raises spoils its own finding, is named, and never passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.audit.journal import Manifest, PlannedProbe, Unit, UnitResult
from vlaudit.audit.judge import Judged, judge_audit
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Probe, probe
from vlaudit.records import (
    Delta,
    Estimate,
    Family,
    Judgement,
    Metric,
    ModelInfo,
    PromptInfo,
    Risk,
    TargetInfo,
    Trial,
    Trials,
    Verdict,
)  # fmt: skip
from vlaudit.registry import ProbeRegistry

NAN, INF = float("nan"), float("inf")


def judged(judge: Callable[[Trials], object], decided: Callable[[Trials], object] = lambda _: False) -> Judged:
    """A probe of two rounds with this judge, beside one that held."""

    class Held(Probe):
        def judge(self, trials: Trials, policy: Policy) -> Judgement:
            return Judgement(verdict=Verdict.HELD, reason="fine")

    class Asked(Probe):
        def judge(self, trials: Trials, policy: Policy) -> Judgement:
            return judge(trials)  # type: ignore[return-value]

        def decided(self, trials: Trials, policy: Policy) -> bool:
            return decided(trials)  # type: ignore[return-value]

    registry = ProbeRegistry()
    for name, cls in (("asked", Asked), ("held", Held)):
        registry.classes[name] = probe(id=name, code=name, risk=Risk.BIAS, families={Family.MATCHING})(cls)
    planned = [
        PlannedProbe(target="t", probe=name, units=[
            Unit(id=f"{name}{n}", subject="t", probe=name, arm="target", cases=["a"], round=n) for n in range(2)
        ]) for name in ("asked", "held")
    ]  # fmt: skip
    target = TargetInfo(id="t", family=Family.MATCHING, model=ModelInfo(spec="hf:m"), prompt=PromptInfo(id="p", method="hard"))
    manifest = Manifest(version="0", id="a", digest="", command="", started="", targets=[target], planned=planned,
                        request=Request(targets=[TargetSpec(model="hf:m")], probes=["asked", "held"]))  # fmt: skip
    results = {
        unit.id: UnitResult(unit=unit.id, trials=[Trial(case="a", arm="target")]) for item in planned for unit in item.units
    }
    return judge_audit(manifest, results, registry, Policy())


def says(**figures: object) -> Callable[[Trials], Judgement]:
    return lambda _: Judgement(verdict=Verdict.HELD, reason="so", **figures)  # type: ignore[arg-type]


def raises(error: BaseException) -> Callable[[Trials], object]:
    def judge(_: Trials) -> object:
        raise error

    return judge


def metric(value: float, low: float, high: float) -> Metric:
    return Metric(name="m", value=value, ci=(low, high), n=3)


BAD = {
    "exit": raises(SystemExit(0)), "generator exit": raises(GeneratorExit()), "base": raises(BaseException("x")),
    "error": raises(KeyError("x")), "nothing": lambda _: None, "text": lambda _: "held", "dict": lambda _: {"verdict": "held"},
    "nan": says(metric=metric(NAN, 0, 1)), "nan interval": says(metric=metric(0, NAN, 1)), "inf": says(metric=metric(INF, 0, INF)),
    "outside": says(metric=metric(0.5, 0.6, 0.7)), "upside down": says(metric=metric(0.5, 0.7, 0.3)),
    "threshold": says(threshold=NAN), "reference": says(reference=Estimate(value=0, ci=(1, 2))), "p": says(p_value=1.5),
    "delta": says(delta=Delta(value=0, ci=(0, INF))), "details": says(details={"x": [{"y": NAN}]}), "p nan": says(p_value=NAN),
    "controls": says(controls={"x": INF}), "huge": says(details={"x": 10**400}),
    "unchecked": lambda _: Judgement.model_construct(verdict="fine", reason=3), "level": lambda _: says(metric=Metric(name="m", value=0, ci=(0, 0), n=1, level=NAN))(_),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_a_judge_must_not_say(name: str) -> None:
    result = judged(BAD[name])
    asked, held = result.findings
    assert asked.verdict is Verdict.NOT_ASSESSED and asked.metric is None and "the judge failed" in asked.reason
    assert held.verdict is Verdict.HELD and result.complete
    assert len(result.errors) == 1 and result.errors[0].startswith("asked on t: the judge failed: ")


@pytest.mark.parametrize("said", [raises(SystemExit(0)), raises(GeneratorExit()), raises(ValueError("x"))])
def test_a_probe_that_fails_to_say_whether_it_is_decided(said: Callable[[Trials], object]) -> None:
    result = judged(says(), said)
    assert [f.verdict for f in result.findings] == [Verdict.NOT_ASSESSED, Verdict.HELD]
    assert "decided" in result.errors[0] and len(result.errors) == 1


def test_what_a_judge_may_say() -> None:
    fine = judged(says(metric=metric(0.3, 0.3 + 1e-12, 0.5), p_value=1.0, reference=Estimate(value=0, ci=(0, 0))))
    assert [f.verdict for f in fine.findings] == [Verdict.HELD, Verdict.HELD] and not fine.errors
    refused = judged(raises(NotAssessed("too few")))
    assert refused.findings[0].reason == "too few" and not refused.errors
    with pytest.raises(KeyboardInterrupt):
        judged(raises(KeyboardInterrupt()))


def test_exit_code_is_3(tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Callable[..., int]) -> None:
    (tmp_path / "plugin.py").write_text(
        '"""A judge that leaves."""\n'
        "import sys\n"
        "from vlaudit.probe import Probe, probe\n"
        "from vlaudit.records import Case, Family, Risk\n"
        "@probe(id='leaving', code='L1', risk=Risk.BIAS, families={Family.MATCHING})\n"
        "class Leaving(Probe):\n"
        "    def cases(self, ctx): return [Case(id='a')]\n"
        "    def attempt(self, ctx, cases): yield ctx.trial(cases[0])\n"
        "    def judge(self, trials, policy): sys.exit(0)\n"
    )
    words = ["scan", f"hf:{tiny_clip}", "--data", picture_folder, "--plugin", tmp_path / "plugin.py", "--probe", "leaving",
             "--probe", "unsafe-file", "--out", tmp_path / "out"]  # fmt: skip
    assert vlaudit(*words) == 3
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["audit"]["errors"] == [f"leaving on {report['targets'][0]['id']}: the judge failed: SystemExit: 0"]
    assert {f["probe"]: f["verdict"] for f in report["findings"]} == {"leaving": "not-assessed", "unsafe-file": "held"}
