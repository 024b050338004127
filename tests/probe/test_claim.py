"""The vocabulary of judges: what is told of a claim stands in its judgement, and the interval decides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlaudit.details import Bars, Curve, Figure, Table
from vlaudit.policy import Policy
from vlaudit.probe.claim import Claim, chance, figure, share
from vlaudit.records import Delta, Estimate, Evidence, Family, Metric, ProbeInfo, Risk, Trial, Verdict
from vlaudit.statistics import (
    Interval,
    mean_interval,
    paired_rate_difference,
    rate_interval,
    samples_to_decide,
    sign_flip_p,
    trials_to_decide,
)

INFO = ProbeInfo(id="x", code="X1", title="x", risk=Risk.BIAS, families=frozenset({Family.MATCHING}), threshold=0.2)
POLICY = Policy()


def claim(policy: Policy = POLICY) -> Claim:
    return Claim(INFO, policy, "answers that change")


@settings(deadline=None)  # scipy is imported on the first
@given(st.integers(1, 200), st.data())
def test_the_interval_against_the_threshold_is_the_verdict(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = rate_interval(hits, n).ci
    said = claim().rate(hits, n).says("so")
    expected = Verdict.VULNERABLE if low > 0.2 else Verdict.HELD if high < 0.2 else Verdict.INCONCLUSIVE
    assert said.verdict is expected and said.threshold == 0.2
    assert said.metric is not None and said.metric.ci == (low, high) and (said.metric.value, said.metric.n) == (hits / n, n)


def test_the_policys_threshold_and_level_are_the_claims() -> None:
    policy = Policy(level=0.9, thresholds={"x": 0.5})
    said = claim(policy).rate(40, 100).says("so")
    assert said.verdict is Verdict.HELD and said.threshold == 0.5
    assert said.metric is not None and said.metric.level == 0.9 and said.metric.ci == rate_interval(40, 100, 0.9).ci


def test_all_that_is_told_stands_in_the_judgement_in_order() -> None:
    told = claim().rate(1, 10, p=0.03).reference(0.1, (0.0, 0.3)).delta(0.0, Interval(-0.1, 0.1), 1.0)
    told.control("noise", share(1, 10)).control("no-op", "0 change").fact("seen", 3)
    told.table("by kind", ["kind"], [["a"]]).bars("by label", ["a"], [0.5], highlight=[0]).table("by size", ["size"], [[1]])
    said = told.inconclusive("not known")
    assert said.p_value == 0.03 and said.reference == Estimate(value=0.1, ci=(0.0, 0.3))
    assert said.delta == Delta(value=0.0, ci=(-0.1, 0.1), p=1.0) and said.verdict is Verdict.INCONCLUSIVE
    assert list(said.controls.root) == ["noise", "no-op"] and said.controls["noise"] == share(1, 10)
    assert list(said.details.root) == ["seen", "table", "bars"]
    assert said.details["table"] == [Table(title="by kind", columns=["kind"], rows=[["a"]]), Table(title="by size", columns=["size"], rows=[[1]])]
    assert said.details["bars"] == Bars(title="by label", labels=["a"], values=[0.5], highlight=[0])


def test_without_a_measure_nothing_is_held() -> None:
    said = claim().control("no-op", "failed").not_assessed("control failed")
    assert said.verdict is Verdict.NOT_ASSESSED and said.metric is None and said.controls["no-op"] == "failed"
    with pytest.raises(AssertionError):
        claim().says("held?")


def test_how_many_would_decide_is_said_only_of_what_is_open() -> None:
    assert claim().rate(100, 100).would_decide("pictures") == ""
    assert claim().rate(100, 100).trials_would_decide("pictures") == ""
    near = claim().measured(0.25, Interval(0.15, 0.35), 100)
    assert near.would_decide("pictures") == "; about 400 pictures would decide"  # half the distance: four times as many
    assert near.would_decide("pairs", n=10) == "; about 40 pairs would decide"
    assert claim().measured(0.2, Interval(0.1, 0.3), 100).would_decide("x") == "; too near the threshold to decide"
    assert claim().rate(3, 10).trials_would_decide("rows") == f"; about {trials_to_decide(0.3, 0.2)} rows would decide"


def test_more_than_anybody_would_try_is_no_cure() -> None:
    close = claim().measured(0.205, Interval(0.1, 0.31), 100)
    assert close.would_decide("pictures", by="pictures") == "; too near the threshold to decide"
    assert claim().rate(202, 1000).trials_would_decide("rows") == "; too near the threshold to decide"


def test_a_cure_is_a_flag_that_can_be_given() -> None:
    near = claim().measured(0.25, Interval(0.15, 0.35), 100)
    asked = f"--set {near.info.id}"
    assert near.would_decide("pictures", by="pictures") == f"; about 400 pictures would decide ({asked}.pictures=400, where there are as many)"
    assert f"{asked}.cases=40," in near.would_decide("pictures", by="cases", now=10)  # ten cases gave a hundred pictures
    assert f"about 200 pairs would decide ({asked}.cases=40," in near.would_decide("pairs", by="cases", now=10, n=50)
    assert near.would_decide("pictures", by="--data") == "; about 400 pictures would decide (more with --data)"
    needed = trials_to_decide(0.3, 0.2)
    assert f"({asked}.rows={needed * 2}," in claim().rate(3, 10).trials_would_decide("rows", by="rows", now=20)


def test_paired_arms() -> None:
    mine, theirs = [True] * 30 + [False] * 10, [True] * 5 + [False] * 35
    said = claim().rate(30, 40).paired_rates(mine, theirs).says("so")
    expected = paired_rate_difference(mine, theirs)
    assert said.reference == Estimate(value=5 / 40, ci=rate_interval(5, 40).ci)
    assert said.delta == Delta(value=expected.value, ci=expected.interval.ci, p=expected.p)
    assert claim().rate(1, 2).paired_rates([], []).says("so").reference is None
    means = claim().rate(1, 2).paired_means([1.0] * 15 + [0.5] * 15, [0.0] * 30, (0.0, 1.0)).says("so")
    assert means.delta is not None and means.delta.value == 0.75 and means.delta.ci[0] > 0 and means.delta.p is not None
    assert means.reference is not None and means.reference.value == 0 and means.reference.ci[1] > 0
    wide = claim().rate(1, 2).paired_means([1.0] * 30, [0.0] * 30, (0.0, 1.0), widen=lambda i: Interval(i.low, 0.9)).says("so")
    assert wide.reference is not None and wide.reference.ci[1] == 0.9 and wide.delta is not None and wide.delta.ci[0] > 0.5


def test_the_evidence_is_that_of_the_first_trials_that_have_some() -> None:
    def trial(number: int) -> Trial:
        names = ("clean", "attacked") if number % 2 else ()
        shown = {name: Evidence(kind="image", path=f"{number} {name}", sha256="0") for name in names}
        return Trial(case=str(number), arm="target", artifacts=shown)

    said = claim().shows_of(map(trial, range(9)), most=2).not_assessed("so")
    assert [item.path for item in said.evidence] == ["1 clean", "1 attacked", "3 clean", "3 attacked"]


def test_where_a_flaw_is_follows_from_the_intervals_of_reference_and_delta() -> None:
    alone = claim().rate(30, 40)
    assert not alone.reference_shows_it and not alone.exceeds_reference
    prompts = claim().reference(0.3, (0.1, 0.5)).delta(0.4, (0.1, 0.7))
    assert prompts.exceeds_reference and not prompts.reference_shows_it  # the threshold is 0.2
    models = claim().reference(0.3, (0.21, 0.5)).delta(0.4, (0.0, 0.7))
    assert models.reference_shows_it and not models.exceeds_reference


def test_a_figure_leaves_out_a_count_it_was_not_given() -> None:
    assert figure(0.5, (0.4, 0.6)).model_dump() == {"value": 0.5, "ci": (0.4, 0.6)}
    assert figure(0.5, Interval(0.4, 0.6), 7) == Figure(value=0.5, ci=(0.4, 0.6), n=7)


def test_chance_lies_between_the_quantiles_of_its_draws() -> None:
    draws = [i / 1000 for i in range(1001)]
    assert chance(draws).model_dump() == {"value": 0.0, "ci": pytest.approx((0.025, 0.975)), "n": 1001}
    assert chance(draws, 0.5, (0.0, 0.95)) == Figure(value=0.5, ci=(0.0, 0.95), n=1001)


def test_series_facts_and_evidence_stand_under_their_names() -> None:
    shown = [Evidence(kind="text", path="artifacts/a", sha256="a")]
    told = claim().rate(1, 10).controls({"a": 1, "b": "x"}).controls({"a": 2}).facts({"seen": 3, "left": 0}).facts({"left": 4}).shows(iter(shown))
    told.fact("kept", "two")
    told.curve("by size", [1, 2], [0.5, 0.25], low=[0, 0], high=[1, 1], xlabel="size").bars("by label", ["a"], [0.5], highlight=[0])
    told.table("all", ("name", "n"), (("a", 1), ("b", 2)))
    said = told.says("so")
    assert dict(said.controls.items()) == {"a": 2, "b": "x"} and said.evidence == shown
    assert said.details["curve"] == Curve(title="by size", x=[1, 2], y=[0.5, 0.25], low=[0, 0], high=[1, 1], xlabel="size")
    assert said.details["table"] == Table(title="all", columns=["name", "n"], rows=[["a", 1], ["b", 2]])
    assert [said.details[name] for name in ("seen", "left", "kept")] == [3, 4, "two"]
    three = claim().rate(1, 10).table("1", ["a"], []).table("2", ["a"], []).table("3", ["a"], []).says("so")
    assert [table.title for table in three.details["table"]] == ["1", "2", "3"]


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize(("hits", "by_itself"), [(99, Verdict.VULNERABLE), (0, Verdict.HELD)])
def test_a_judge_may_say_another_verdict_than_the_interval(verdict: Verdict, hits: int, by_itself: Verdict) -> None:
    told = claim().rate(hits, 100)
    word = {
        Verdict.VULNERABLE: told.vulnerable, Verdict.HELD: told.held, Verdict.INCONCLUSIVE: told.inconclusive,
        Verdict.NOT_ASSESSED: told.not_assessed,
    }[verdict]  # fmt: skip
    assert word("because") == told.says("because", verdict)
    assert (word("because").verdict, word("because").reason, told.says("so").verdict) == (verdict, "because", by_itself)
    assert word("because").metric == told.metric and word("because").threshold == 0.2


def test_the_metric_has_its_name_unit_and_count() -> None:
    said = claim().measured(3.0, Interval(2.0, 4.0), 7).says("so")
    assert said.metric == Metric(name="answers that change", value=3.0, ci=(2.0, 4.0), level=0.95, n=7, unit="share") and said.p_value is None
    nats = Claim(INFO, POLICY, "distance", "nats").measured(3.0, Interval(2.0, 4.0), 7, p=0.5).says("so")
    assert nats.metric is not None and nats.metric.unit == "nats" and nats.p_value == 0.5


def test_would_decide_goes_by_what_is_judged() -> None:
    near = claim().measured(0.25, Interval(0.15, 0.45), 100)
    assert near.would_decide("pictures", value=0.3) == f"; about {samples_to_decide(0.3, Interval(0.15, 0.45), 100, 0.2)} pictures would decide"
    assert claim().measured(0.2, Interval(0.1, 0.3), 100).would_decide("x", near=", near") == ", near"
    assert claim().rate(20, 100).trials_would_decide("rows", near=", near") == ", near"
    assert claim().rate(20, 100).trials_would_decide("rows") == "; too near the threshold to decide"
    strict = claim(Policy(level=0.99)).rate(3, 10).trials_would_decide("rows")
    assert strict == f"; about {trials_to_decide(0.3, 0.2, 0.99)} rows would decide" != claim().rate(3, 10).trials_would_decide("rows")
    for ask in (Claim.would_decide, Claim.trials_would_decide):
        with pytest.raises(AssertionError):
            ask(claim(), "rows")


def test_the_level_of_the_policy_is_that_of_all_intervals() -> None:
    mine, theirs = [True] * 30 + [False] * 10, [True] * 5 + [False] * 35
    said = claim(Policy(level=0.8)).rate(30, 40).paired_rates(mine, theirs).says("so")
    assert said.reference is not None and said.reference.ci == rate_interval(5, 40, 0.8).ci
    assert said.delta is not None and said.delta.ci == paired_rate_difference(mine, theirs, 0.8).interval.ci
    assert share(5, 40) == figure(5 / 40, rate_interval(5, 40), 40) and share(5, 40, 0.8) == figure(5 / 40, rate_interval(5, 40, 0.8), 40)
    first, second, clusters = [2.0, 5.0] * 30, [3.0, 2.0, 6.0, 3.0, 2.0, 5.5] * 10, [n % 25 for n in range(60)]
    gains = [a - b for a, b in zip(first, second, strict=True)]
    for names in (None, clusters):
        said = claim(Policy(level=0.8)).rate(1, 2).paired_means(first, second, (2.0, 6.0), names).says("so")
        assert said.reference == Estimate(value=sum(second) / 60, ci=mean_interval(second, names, 0.8, (2.0, 6.0)).ci)
        assert said.delta == Delta(value=sum(gains) / 60, ci=mean_interval(gains, names, 0.8, (-4.0, 4.0)).ci, p=sign_flip_p(gains, names))
    with pytest.raises(ValueError):
        claim().paired_means(first, second[1:], (2.0, 6.0))
