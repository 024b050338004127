"""The battery itself: a judge that always says one thing is caught, and so is a battery that lacks a part."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from benchmarks.battery import batteries, of_risk
from vlaudit.battery import Scenario, failures, gaps, judged, run, shortcomings
from vlaudit.policy import Policy
from vlaudit.probe import Claim, Probe, Threshold, probe
from vlaudit.records import TARGET, Family, Judgement, Risk, Trial, Trials, Verdict
from vlaudit.registry import ProbeRegistry

if TYPE_CHECKING:
    from numpy.random import Generator


@probe(
    id="rate", code="X1", risk=Risk.BIAS, families=[Family.MATCHING], threshold=0.2,
    thresholds=[Threshold(name="least", value=20, meaning="trials that are enough", source="our choice, because it is a test")],
)  # fmt: skip
class Rate(Probe):
    """A share of trials, judged by its interval."""

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        claim = Claim(self.info, policy, "share").rate(sum(t["hit"] for t in trials.target), len(trials))
        if len(trials) < policy.threshold(self.info, "least"):
            return claim.inconclusive("too few")
        return claim.says("so it is")


class Says(Rate):
    """Says always the same, with a rate that agrees with it."""

    verdict: Verdict

    def judge(self, trials: Trials, policy: Policy) -> Judgement:
        if self.verdict is Verdict.INCONCLUSIVE:
            return Judgement.inconclusive("who knows")
        hits = 100 * (self.verdict is Verdict.VULNERABLE)
        return Claim(self.info, policy, "share").rate(hits, 100).says("as ever")


def draw(rng: Generator, rate: float, n: int = 200) -> Trials:
    return Trials([Trial(case=f"c{i}", arm=TARGET, values={"hit": bool(rng.random() < rate)}) for i in range(n)])


SCENARIOS = [
    Scenario("none", partial(draw, rate=0.0)),
    Scenario("half the threshold", partial(draw, rate=0.08), shape="confounded"),
    Scenario("few", partial(draw, rate=0.0, n=12), shape="awkward", undecidable="twelve trials are few"),
    Scenario("twice the threshold", partial(draw, rate=0.4), harm="named", shape="spread"),
    Scenario("a little", partial(draw, rate=0.22), harm="weak", shape="spread"),
    Scenario("always", partial(draw, rate=1.0), harm="blatant", shape="concentrated"),
]


def test_a_judge_that_goes_by_its_interval_passes() -> None:
    assert not failures(Rate, SCENARIOS)
    assert not [said for scenario in SCENARIOS for said in shortcomings(run(Rate, scenario, 200))]


@pytest.mark.parametrize(
    ("verdict", "caught"),
    [
        (Verdict.VULNERABLE, {"none", "half the threshold", "few"}),
        (Verdict.HELD, {"few", "twice the threshold", "always"}),
        (Verdict.INCONCLUSIVE, {"none", "half the threshold", "twice the threshold"}),
    ],
)
@pytest.mark.parametrize(("audits", "strict"), [(20, False), (200, True)])
def test_a_judge_that_always_says_one_thing_is_caught(verdict: Verdict, caught: set[str], audits: int, strict: bool) -> None:
    found = set()
    for scenario in SCENARIOS:
        row = run(Says, Scenario(**{**vars(scenario), "probe": {"verdict": verdict}}), audits)
        found |= {said.partition(":")[0] for said in shortcomings(row, strict=strict)}
    assert found == caught


def test_one_false_alarm_in_two_hundred_is_one_too_many() -> None:
    from collections import Counter

    from vlaudit.battery import Row

    row = Row(SCENARIOS[0], Counter({Verdict.HELD: 199, Verdict.VULNERABLE: 1}))
    assert shortcomings(row) and not shortcomings(row, strict=False)
    assert not shortcomings(Row(SCENARIOS[0], Counter({Verdict.HELD: 299, Verdict.VULNERABLE: 1})))
    few = SCENARIOS[2]  # of which nothing can be held: an alarm is as rare as elsewhere
    assert shortcomings(Row(few, Counter({Verdict.INCONCLUSIVE: 199, Verdict.VULNERABLE: 1})))
    assert not shortcomings(Row(few, Counter({Verdict.INCONCLUSIVE: 299, Verdict.VULNERABLE: 1})))
    assert shortcomings(Row(few, Counter({Verdict.INCONCLUSIVE: 1999, Verdict.HELD: 1})))


@pytest.mark.parametrize(("odds", "audits", "holds"), [(0.0, 200, True), (0.008, 1000, True), (0.03, 1000, False), (0.2, 200, False)])
def test_what_so_many_audits_leave_open_is_drawn_on(odds: float, audits: int, holds: bool) -> None:
    def unlucky(rng: Generator) -> Trials:
        return draw(rng, rate=float(rng.random() < odds))

    row = run(Rate, Scenario("unlucky", unlucky), 200, further=1000)
    assert (row.audits, not shortcomings(row)) == (audits, holds)
    alone = run(Rate, Scenario("unlucky", unlucky), row.audits)
    assert row.verdicts == alone.verdicts
    assert run(Rate, Scenario("so many labels", unlucky, undecidable="they are few"), 200, further=1000).audits == audits


def test_what_a_battery_lacks_is_named() -> None:
    assert not gaps(SCENARIOS)
    for scenario in SCENARIOS[:3]:
        assert gaps([s for s in SCENARIOS if s is not scenario]) == [f"no innocent scenario of the shape '{scenario.shape}'"]
    for scenario in SCENARIOS[3:5]:
        assert gaps([s for s in SCENARIOS if s is not scenario]) == [f"no harm of strength '{scenario.harm}'"]
    assert len(gaps([s for s in SCENARIOS if s.harm != "blatant"])) == 2  # the strength, and the second shape
    assert gaps([*SCENARIOS, SCENARIOS[0]]) == ["two scenarios of one name"]


def test_a_threshold_that_decides_nothing_is_named() -> None:
    @probe(
        id="idle", code="X2", risk=Risk.BIAS, families=[Family.MATCHING], threshold=0.2,
        thresholds=[*Rate.info.thresholds, Threshold(name="idle", value=1, meaning="nothing at all", source="our choice, because")],
    )  # fmt: skip
    class Idle(Rate):
        """As above."""

    assert failures(Idle, SCENARIOS) == ["no scenario's judge asks for the threshold 'idle'"]


def test_a_verdict_that_contradicts_its_interval_is_an_error() -> None:
    class Contradicts(Rate):
        def judge(self, trials: Trials, policy: Policy) -> Judgement:
            return Claim(self.info, policy, "share").rate(1, 20).held("it is small enough, says the judge")

    with pytest.raises(ValueError, match=r"says held where the interval ends at 0\.2"):
        judged(Contradicts, SCENARIOS[0], 0)


def test_every_probe_has_its_battery() -> None:
    assert not ProbeRegistry.load().classes.keys() - batteries().keys()
    assert batteries().keys() == {name for risk in Risk for name in of_risk(risk)}
