"""Judges are plugins: whatever one says or raises spoils its own finding, is named, and never passes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from vlaudit.audit.journal import Manifest, PlannedProbe, Unit, UnitResult
from vlaudit.audit.judge import Judged, judge_audit, rounds_needed
from vlaudit.config import Request, TargetSpec
from vlaudit.details import Figure
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Probe, probe
from vlaudit.records import (
    Cost,
    DataInfo,
    Delta,
    Estimate,
    Evidence,
    Family,
    Finding,
    Judgement,
    Metric,
    ModelInfo,
    Needs,
    PromptInfo,
    Reduced,
    Risk,
    Severity,
    TargetInfo,
    Trial,
    Trials,
    Verdict,
)  # fmt: skip
from vlaudit.registry import ProbeRegistry

NAN, INF = float("nan"), float("inf")


def unit(probe: str, number: int = 0, arm: str = "target") -> Unit:
    return Unit(id=f"{probe}{number}{arm[0]}", subject="t", probe=probe, arm=arm, cases=["a"], round=number)


def done(unit: Unit, *trials: Trial, **fields: Any) -> UnitResult:
    return UnitResult(unit=unit.id, trials=list(trials or [Trial(case="a", arm=unit.arm)]), **fields)


def audit(
    probes: dict[str, type[Probe]], planned: list[PlannedProbe], results: Iterable[UnitResult], policy: Policy | None = None,
    spec: TargetSpec | None = None, data: DataInfo | None = None, **request: Any,
) -> Judged:  # fmt: skip
    """What is judged of these results of this plan."""
    registry = ProbeRegistry()
    registry.classes |= probes
    target = TargetInfo(id="t", family=Family.MATCHING, model=ModelInfo(spec="hf:m"), prompt=PromptInfo(id="p", method="hard"), data=data)
    manifest = Manifest(version="0", id="a", digest="", command="", started="", targets=[target], planned=planned,
                        request=Request(targets=[spec or TargetSpec(model="hf:m")], probes=list(probes), **request))  # fmt: skip
    return judge_audit(manifest, {result.unit: result for result in results}, registry, policy or Policy())


def named(name: str, **info: Any) -> Callable[[type[Probe]], type[Probe]]:
    return probe(id=name, code=name, risk=Risk.BIAS, families={Family.MATCHING}, **info)


def saying(said: Callable[[Trials, Policy], object], decided: Callable[[Trials, Policy], object] = lambda *_: False, **info: Any) -> type[Probe]:
    """A probe whose judge says this."""

    @named("asked", **info)
    class Asked(Probe):
        def judge(self, trials: Trials, policy: Policy) -> Judgement:
            return said(trials, policy)  # type: ignore[return-value]

        def decided(self, trials: Trials, policy: Policy) -> bool:
            return decided(trials, policy)  # type: ignore[return-value]

    return Asked


def metric(value: float, low: float, high: float) -> Metric:
    return Metric(name="m", value=value, ci=(low, high), n=3)


HELD = Judgement(verdict=Verdict.HELD, reason="fine", metric=metric(0, 0, 0.1), threshold=0.2)


@named("held")
class Held(Probe):
    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        return HELD


def judged(judge: Callable[[Trials], object], decided: Callable[[Trials], object] = lambda _: False) -> Judged:
    """A probe of two rounds with this judge, beside one that held."""
    asked = saying(lambda trials, _: judge(trials), lambda trials, _: decided(trials))
    planned = [PlannedProbe(target="t", probe=name, units=[unit(name, 0), unit(name, 1)]) for name in ("asked", "held")]
    return audit({"asked": asked, "held": Held}, planned, [done(each) for item in planned for each in item.units])


def says(**figures: object) -> Callable[[Trials], Judgement]:
    told = {"metric": metric(0, 0, 1), "threshold": 1e6} | figures
    return lambda _: Judgement(verdict=Verdict.HELD, reason="so", **told)  # type: ignore[arg-type]


def raises(error: BaseException) -> Callable[[Trials], object]:
    def judge(_: Trials) -> object:
        raise error

    return judge


BAD = {
    "exit": raises(SystemExit(0)), "generator exit": raises(GeneratorExit()), "base": raises(BaseException("x")),
    "error": raises(KeyError("x")), "nothing": lambda _: None, "text": lambda _: "held", "dict": lambda _: {"verdict": "held"},
    "nan": says(metric=metric(NAN, 0, 1)), "nan interval": says(metric=metric(0, NAN, 1)), "inf": says(metric=metric(INF, 0, INF)),
    "outside": says(metric=metric(0.5, 0.6, 0.7)), "upside down": says(metric=metric(0.5, 0.7, 0.3)),
    "threshold": says(threshold=NAN), "reference": says(reference=Estimate(value=0, ci=(1, 2))), "p": says(p_value=1.5),
    "delta": says(delta=Delta(value=0, ci=(0, INF))), "details": says(details={"x": [{"y": NAN}]}), "p nan": says(p_value=NAN),
    "controls": says(controls={"x": INF}), "huge": says(details={"x": 10**400}),
    "delta p": says(delta=Delta(value=0, ci=(-1, 1), p=7)), "array's nan": says(details={"x": np.float32("nan")}),
    "held beyond": says(metric=metric(0.1, 0, 0.3), threshold=0.2), "held without a metric": says(metric=None),
    "held without a threshold": says(threshold=None),
    "vulnerable within": lambda _: says(metric=metric(0.3, 0.1, 0.4), threshold=0.2)(_).model_copy(update={"verdict": Verdict.VULNERABLE}),
    "reversed": lambda _: says(controls={"x": Figure(value=0.5, ci=(0.6, 0.4))})(_),
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


@pytest.mark.parametrize(
    ("value", "low", "high", "sound"),
    [
        (0.5, 0.5 + 0.9e-6, 1, True), (0.5, 0.5 + 1.1e-6, 1, False), (0.5, 0, 0.5 - 0.9e-6, True), (0.5, 0, 0.5 - 1.1e-6, False),
        (1000, 1000 + 0.9e-3, 2000, True), (1000, 1000 + 1.1e-3, 2000, False), (-1000, -2000, -1000 - 0.9e-3, True),
        (0, 0, 1, True), (1, 0, 1, True), (0.5, 0.5, 0.5, True), (1e-6, 0, 0, True), (0, 1e-6, 1, True),
    ],
)  # fmt: skip
def test_a_value_lies_in_its_interval_but_for_the_last_bits(value: float, low: float, high: float, sound: bool) -> None:
    for figure in ({"metric": metric(value, low, high)}, {"delta": Delta(value=value, ci=(low, high))}):
        result = judged(says(**figure))
        assert (result.findings[0].verdict is Verdict.HELD) == sound
        assert sound or (f"lies outside its interval [{low:g}, {high:g}]" in result.errors[0] and next(iter(figure)) in result.errors[0])


@pytest.mark.parametrize(("p", "sound"), [(0.0, True), (0.3, True), (1.0, True), (-1e-9, False), (1 + 1e-9, False), (2.0, False)])
def test_a_p_value_is_a_probability(p: float, sound: bool) -> None:
    result = judged(says(p_value=p))
    assert (result.findings[0].verdict is Verdict.HELD) == sound
    assert sound or "the p-value is" in result.errors[0]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (raises(KeyError("x")), "KeyError: 'x'"), (lambda _: [1], "list, which is no Judgement"),
        (says(details={"gap": [{"low": NAN}]}), "details.gap.low' is nan"), (says(p_value=INF), "'judgement.p_value' is inf"),
    ],
)  # fmt: skip
def test_the_error_says_what_was_wrong(said: Callable[[Trials], object], why: str) -> None:
    assert why in judged(said).errors[0] and why in judged(said).findings[0].reason


# --- what did not run ----------------------------------------------------------------------------------------------

PLAN = PlannedProbe(target="t", probe="asked", units=[unit("asked"), unit("asked", arm="reference")])
REST = PlannedProbe(target="t", probe="held", units=[unit("held")])
ALWAYS_HELD = {"asked": saying(lambda *_: HELD), "held": Held}


@pytest.mark.parametrize("first", [True, False])
def test_a_failed_unit_spoils_its_finding_alone(first: bool) -> None:
    target, reference = PLAN.units
    results = [done(target), done(reference, error="out of memory"), done(REST.units[0])]
    result = audit(ALWAYS_HELD, [PLAN, REST] if first else [REST, PLAN], results)
    assert not result.complete and result.errors == ["asked on t (reference): out of memory"]
    verdicts = {finding.probe: (finding.verdict, finding.reason) for finding in result.findings}
    assert verdicts == {"asked": (Verdict.NOT_ASSESSED, "the probe failed: out of memory"), "held": (Verdict.HELD, "fine")}


def test_the_first_of_several_errors_is_the_reason_and_each_is_named_once() -> None:
    target, reference = PLAN.units
    result = audit(ALWAYS_HELD, [PLAN], [done(target, error="one"), done(reference, error="two")])
    assert result.errors == ["asked on t (target): one", "asked on t (reference): two"]
    assert result.findings[0].reason == "the probe failed: one"
    plan = PlannedProbe(target="t", probe="asked", units=[unit("asked"), unit("asked").model_copy(update={"id": "other"})])
    result = audit(ALWAYS_HELD, [plan], [done(each, error="one") for each in plan.units])
    assert result.errors == ["asked on t (target): one"]


@pytest.mark.parametrize("first", [True, False])
def test_what_was_not_run_is_not_assessed_and_no_error(first: bool) -> None:
    result = audit(ALWAYS_HELD, [PLAN, REST] if first else [REST, PLAN], [done(PLAN.units[0]), done(REST.units[0])])
    (asked,) = (finding for finding in result.findings if finding.probe == "asked")
    assert asked.verdict is Verdict.NOT_ASSESSED and "1 of 2 units" in asked.reason
    assert not result.complete and not result.errors


def test_a_lack_is_a_reason_and_a_failed_plan_an_error() -> None:
    lack = PlannedProbe(target="t", probe="asked", reason="it needs a group column")
    result = audit(ALWAYS_HELD, [lack], [])
    assert result.findings[0].reason == "it needs a group column" and result.findings[0].verdict is Verdict.NOT_ASSESSED
    assert result.complete and not result.errors
    for plans in ([lack.model_copy(update={"failed": True}), REST], [REST, lack.model_copy(update={"failed": True})]):
        result = audit(ALWAYS_HELD, plans, [done(REST.units[0])])
        assert not result.complete and result.errors == ["asked on t: it needs a group column"]


def test_no_trial_of_the_target_is_no_pass() -> None:
    target, reference = PLAN.units
    empty = UnitResult(unit=target.id, trials=[Trial(case="a", arm="control:x")])
    result = audit(ALWAYS_HELD, [PLAN], [empty, done(reference)])
    assert result.findings[0].verdict is Verdict.NOT_ASSESSED and "no trials" in result.findings[0].reason
    assert result.complete


def test_a_judge_gets_its_parameters_its_trials_and_the_policy() -> None:
    seen: list[tuple[Any, ...]] = []

    @named("asked")
    class Sized(Probe):
        size: int = 1
        kept: ClassVar = seen

        def judge(self, trials: Trials, policy: Policy) -> Judgement:
            self.kept.append((self.size, [t.arm for t in trials], trials.reference_note, policy))
            return HELD

    plan, policy = PLAN.model_copy(update={"reference_note": "it is its own reference"}), Policy(level=0.9)
    audit({"asked": Sized}, [plan], map(done, plan.units), policy, params={"asked": {"size": 3}})
    assert seen == [(3, ["target", "reference"], "it is its own reference", policy)]


# --- rounds --------------------------------------------------------------------------------------------------------

ROUNDS = PlannedProbe(target="t", probe="asked", units=[unit("asked", n) for n in (2, 0, 1)])


def test_a_decided_probe_needs_no_further_round() -> None:
    asked: list[tuple[int, Policy]] = []
    policy = Policy(level=0.9)

    def decided(trials: Trials, policy: Policy) -> bool:
        asked.append((len(trials), policy))
        return len(trials) == 2

    by_round = sorted(ROUNDS.units, key=lambda each: each.round)
    probes = {"asked": saying(lambda trials, _: HELD.model_copy(update={"reason": f"{len(trials)} trials"}), decided)}
    early = audit(probes, [ROUNDS], map(done, by_round[:2]), policy)
    assert early.complete and early.findings[0].reason == "2 trials" and asked == [(1, policy), (2, policy)]
    late = audit(probes, [ROUNDS], map(done, by_round), policy)
    assert late.findings[0].reason == "2 trials", "what ran beyond does not count"


def test_who_never_decides_needs_all_rounds_and_is_not_asked_after_the_last() -> None:
    asked: list[int] = []
    probes = {"asked": saying(lambda trials, _: HELD, lambda trials, _: asked.append(len(trials)))}
    assert audit(probes, [ROUNDS], map(done, ROUNDS.units)).complete and asked == [1, 2]
    units = {each.round: each for each in ROUNDS.units}
    missing = audit(probes, [ROUNDS], [done(units[0]), done(units[2])])
    assert not missing.complete and "1 of 2 units" in missing.findings[0].reason, "no round counts beyond one that is not done"
    failed = audit(probes, [ROUNDS], [done(units[0]), done(units[1], error="x"), done(units[2])])
    assert failed.errors == ["asked on t (target): x"]


def test_the_executor_goes_on_where_a_probe_cannot_say_whether_it_is_decided() -> None:
    probes = saying(lambda *_: HELD, lambda *_: raises(ValueError("x"))(Trials([])))
    results = {each.id: done(each) for each in ROUNDS.units}
    needed = rounds_needed(probes(), ROUNDS, results, Policy())
    assert [[each.round for each in batch] for batch in needed] == [[0], [1], [2]]
    with pytest.raises(KeyboardInterrupt):
        rounds_needed(saying(lambda *_: HELD, lambda *_: raises(KeyboardInterrupt())(Trials([])))(), ROUNDS, results, Policy())


def test_the_error_names_what_the_question_raised() -> None:
    assert "ValueError: no" in judged(says(), raises(ValueError("no"))).errors[0]


# --- findings ------------------------------------------------------------------------------------------------------


def evidence(name: str) -> Evidence:
    return Evidence(kind="text", path=f"artifacts/{name}", sha256=name)


def test_a_finding_carries_its_probes_facts_its_cost_and_what_the_target_showed() -> None:
    target, reference = PLAN.units
    shown = {"first": evidence("a"), "again": evidence("a"), "second": evidence("b")}
    results = [
        done(target, Trial(case="a", arm="target", artifacts=shown, cost=Cost(queries=3, gradient_steps=1, texts=2, seconds=9)), seconds=1.234),
        done(reference, Trial(case="a", arm="reference", artifacts={"x": evidence("c")}, cost=Cost(queries=4)), seconds=2.0),
    ]
    facts = {"title": "A title", "references": ["arXiv:1"], "maps": ["atlas:AML.T0043"], "limits": "Says little.", "threshold": 0.1}
    facts |= {"headline": "It happens", "impact": "It matters.", "remedy": "Mend it."}
    said = Judgement(verdict=Verdict.VULNERABLE, reason="so", metric=metric(0.5, 0.4, 0.6), threshold=0.1, controls={"x": 1}, details={"y": 2}, headline="It turns")
    (finding,) = audit({"asked": saying(lambda *_: said, **facts)}, [PLAN], results).findings
    assert finding.model_dump(include=set(Judgement.model_fields) - {"evidence"}) == said.model_dump(exclude={"evidence"})
    assert (finding.headline, finding.impact, finding.remedy) == ("It turns", "It matters.", "Mend it.")
    assert (finding.title, finding.references, finding.mappings, finding.limits) == ("A title", ["arXiv:1"], ["atlas:AML.T0043"], "Says little.")
    assert (finding.probe, finding.code, finding.target, finding.risk) == ("asked", "asked", "t", Risk.BIAS)
    assert finding.severity is Severity.HIGH and finding.severity_derivation.startswith("high for a vulnerable bias finding")
    assert finding.cost == Cost(queries=7, gradient_steps=1, texts=2, seconds=3.23)
    assert finding.evidence == [evidence("a"), evidence("b")]
    assert finding.id == "asked-89338e5a"  # printf 't/asked' | sha256sum: baselines and suppressions know it by this
    own = said.model_copy(update={"evidence": [evidence("own")]})
    (finding,) = audit({"asked": saying(lambda *_: own)}, [PLAN], results).findings
    assert finding.evidence == [evidence("own")]


def test_the_command_runs_the_finding_again() -> None:
    spec = TargetSpec(model="hf:m", prompt=["a {}", "coop:my file"], reference="the {}", data="d", labels="l", captions="c", scorer="s",
                      groups=["sex", "age"], members="train")  # fmt: skip
    (finding,) = audit({"held": Held}, [REST], [done(REST.units[0])], spec=spec, plugins=["p.py"], effort="standard", seed=7).findings
    assert shlex.split(finding.reproduce) == [
        "vlaudit", "scan", "hf:m", "--prompt", "a {}", "--prompt", "coop:my file", "--reference", "the {}", "--data", "d", "--labels", "l",
        "--prompts", "c", "--scorer", "s", "--group", "sex", "--group", "age", "--members", "train", "--plugin", "p.py", "--probe", "held",
        "--effort", "standard", "--budget", "none", "--seed", "7",
    ]  # fmt: skip
    (finding,) = audit({"held": Held}, [REST], [done(REST.units[0])]).findings
    assert shlex.split(finding.reproduce) == ["vlaudit", "scan", "hf:m", "--probe", "held", "--effort", "quick", "--budget", "none", "--seed", "0"]
    (finding,) = audit({"held": Held}, [REST], [done(REST.units[0])], params={"held": {}, "other": {"n": 1}}).findings
    assert "--set" not in finding.reproduce


# --- many tests ----------------------------------------------------------------------------------------------------


def with_p_values(policy: Policy, *said: tuple[float | None, Verdict]) -> list[Finding]:
    """Findings of probes that say these p-values and verdicts, by their number."""
    probes, plans = {}, []
    for number, (p, verdict) in enumerate(said):
        judgement = Judgement(verdict=verdict, reason="so", p_value=p, metric=FIGURES[verdict], threshold=0.2)
        probes[f"p{number}"] = named(f"p{number}")(saying(lambda *_, j=judgement: j))
        plans.append(PlannedProbe(target="t", probe=f"p{number}", units=[unit(f"p{number}")]))
    return audit(probes, plans, [done(plan.units[0]) for plan in plans], policy).findings


FOUND, CALM = Verdict.VULNERABLE, Verdict.HELD
FIGURES = {FOUND: metric(0.5, 0.4, 0.6), CALM: metric(0, 0, 0.1)}


def test_p_values_are_adjusted_over_the_findings_that_have_one() -> None:
    found = with_p_values(Policy(), (0.01, FOUND), (None, CALM), (0.04, FOUND), (0.03, CALM), (0.005, FOUND))
    assert [f.p_adjusted for f in found] == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06), pytest.approx(0.02)]
    assert [f.verdict for f in found] == [FOUND, CALM, FOUND, CALM, FOUND], "without the gate they decide nothing"
    assert [f.p_adjusted for f in with_p_values(Policy(), (0.0, FOUND), (0.9, CALM))] == [0.0, 0.9]


def test_the_gate_asks_for_an_adjusted_p_below_alpha() -> None:
    policy = Policy(gate="holm", alpha=0.05)
    found = with_p_values(policy, (0.02, FOUND), (0.025, FOUND), (0.9, CALM), (None, FOUND))
    assert [f.p_adjusted for f in found] == [pytest.approx(0.06), pytest.approx(0.06), pytest.approx(0.9), None]
    assert [f.verdict for f in found] == [Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, CALM, FOUND]
    assert [f.severity for f in found] == [Severity.NONE, Severity.NONE, Severity.NONE, Severity.HIGH]
    assert found[0].reason.startswith("so (Holm-adjusted p = 0.06 is not below 0.05") and found[3].reason == "so"
    assert [f.verdict for f in with_p_values(policy, (0.05, FOUND))] == [Verdict.INCONCLUSIVE], "alpha itself is not below alpha"
    assert [f.verdict for f in with_p_values(policy, (0.0499, FOUND))] == [FOUND]


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


def cut(*reduced: Reduced) -> list[PlannedProbe]:
    return [PlannedProbe(target="t", probe="asked", units=[unit("asked")], reduced=list(reduced), share=0.5)]


def within(verdict: Verdict, reduced: Reduced, value: float = 0.0) -> Finding:
    told = Judgement(verdict=verdict, reason="so it is", metric=metric(value, value, value), threshold=0.2, details={"x": 1})
    planned = cut(reduced)
    return audit({"asked": saying(lambda *_: told)}, planned, [done(planned[0].units[0])], budget=1800.0).findings[0]


def test_nothing_is_held_where_something_was_not_searched() -> None:
    labels = Reduced(what="labels", tried=3, of=14, searched=True)
    found = within(Verdict.HELD, labels)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reason == "so it is; but only 3 of 14 labels were tried within the budget of 30m (--budget none tries all)"
    assert within(Verdict.VULNERABLE, labels, 0.5).verdict is Verdict.VULNERABLE
    assert "3 of 14 labels were tried" in within(Verdict.INCONCLUSIVE, labels).reason


def test_a_smaller_sample_decides_where_its_interval_does_and_is_told() -> None:
    pictures = Reduced(what="pictures", tried=64, of=1280)
    found = within(Verdict.HELD, pictures)
    assert found.verdict is Verdict.HELD and found.reason == "so it is"
    assert found.details.facts() == {"x": 1, "within the budget": "64 of 1,280 pictures"}
    assert "; 64 of 1,280 pictures were tried within the budget of 30m" in within(Verdict.INCONCLUSIVE, pictures).reason


@pytest.mark.parametrize("needs, share, verdict", [
    ({Needs.LABELS}, 0.04, Verdict.INCONCLUSIVE), ({Needs.SCORES, Needs.CAPTIONS}, 0.04, Verdict.INCONCLUSIVE),
    ({Needs.LABELS}, 0.01, Verdict.HELD), ({Needs.FILES}, 0.04, Verdict.HELD),
])  # fmt: skip
def test_nothing_is_held_on_data_of_which_a_part_could_not_be_read(needs: set[Needs], share: float, verdict: Verdict) -> None:
    data = DataInfo(source="d", examples=24, unread=1, unread_share=share)
    (said,) = audit({"asked": saying(lambda *_: HELD, needs=needs)}, cut(), [done(unit("asked"))], data=data).findings
    assert said.verdict is verdict
    assert ("1 picture of the data could not be read, 4.0% of all or of a label's" in said.reason) == (verdict is not Verdict.HELD)
    lax = audit({"asked": saying(lambda *_: HELD, needs=needs)}, cut(), [done(unit("asked"))], Policy(unread=0.05), data=data)
    assert lax.findings[0].verdict is Verdict.HELD and Policy(unread=0.05).relaxations([]) == ["unread"]


@pytest.mark.parametrize("needs, share, verdict", [
    ({Needs.GROUPS, Needs.IMAGES}, 0.25, Verdict.INCONCLUSIVE), ({Needs.MEMBERS}, 0.25, Verdict.INCONCLUSIVE),
    ({Needs.LABELS}, 0.01, Verdict.HELD), ({Needs.IMAGES}, 0.25, Verdict.HELD), ({Needs.FILES}, 0.25, Verdict.HELD),
])  # fmt: skip
def test_nothing_is_held_of_groups_or_labels_where_nothing_is_said_of_a_part(needs: set[Needs], share: float, verdict: Verdict) -> None:
    data = DataInfo(source="d", examples=24, unlisted=8, unlisted_share=share)
    (said,) = audit({"asked": saying(lambda *_: HELD, needs=needs)}, cut(), [done(unit("asked"))], data=data).findings
    assert said.verdict is verdict
    assert ("8 pictures of the data have no row in the metadata or lie outside" in said.reason) == (verdict is not Verdict.HELD)
    lax = audit({"asked": saying(lambda *_: HELD, needs=needs)}, cut(), [done(unit("asked"))], Policy(unread=0.3), data=data)
    assert lax.findings[0].verdict is Verdict.HELD


def test_the_command_gives_a_reduced_design_its_own_time() -> None:
    planned = cut(Reduced(what="pictures", tried=1, of=2))
    planned[0].units[0] = planned[0].units[0].model_copy(update={"weight": 100.0})
    (found,) = audit({"asked": saying(lambda *_: HELD)}, planned, [done(planned[0].units[0])], budget=1800.0).findings
    assert "--budget 100s" in found.reproduce
    (found,) = audit({"held": Held}, [REST], [done(REST.units[0])], budget=1800.0).findings
    assert "--budget" not in found.reproduce, "it is the effort's own"


def test_a_headline_tells_of_a_flaw_that_was_found() -> None:
    def headline(verdict: Verdict, *interval: float) -> str:
        said = Judgement(verdict=verdict, reason="so", metric=metric(*interval), threshold=0.3)
        facts = {"threshold": 0.3, "headline": "It happens"}
        return audit({"asked": saying(lambda *_: said, **facts)}, [PLAN], [done(unit, Trial(case="a", arm=unit.arm)) for unit in PLAN.units]).findings[0].headline

    assert headline(Verdict.VULNERABLE, 0.5, 0.4, 0.6) == "It happens"
    assert headline(Verdict.HELD, 0.1, 0.0, 0.2) == headline(Verdict.INCONCLUSIVE, 0.3, 0.2, 0.4) == ""
