"""The battery: how often does a judge cry wolf where nothing is wrong, and how often does it see what was planted?

    SCENARIOS = [
        Scenario("no gap", partial(trials, gap=0.0)),
        Scenario("labels divided 95 to 5", partial(trials, stereotyped=0.95), shape="confounded"),
        Scenario("a group of 8 %", partial(trials, share=0.08), shape="awkward"),
        Scenario("5 points in one label", partial(trials, gap=0.05), harm="weak", shape="concentrated"),
        Scenario("15 points everywhere", partial(trials, gap=0.15), harm="named", shape="spread"),
        Scenario("a group that is never right", partial(trials, gap=1.0), harm="blatant", shape="small group"),
    ]

    def test_my_probe():
        check_probe(MyProbe, scenarios=SCENARIOS)

A scenario draws the trials of a fresh audit from a known truth, as the probe's ``attempt`` records them; the probe's own judge judges
them under the default policy. Torch-free. What must hold is said by :func:`shortcomings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PrivateAttr

from vlaudit.audit.judge import sound
from vlaudit.policy import Policy
from vlaudit.probe import Probe, ProbeInfo
from vlaudit.records import Judgement, Trials, Verdict
from vlaudit.statistics import rate_interval

if TYPE_CHECKING:
    from numpy.random import Generator

Harm = Literal["weak", "named", "blatant"]
STRENGTHS: tuple[Harm, ...] = ("weak", "named", "blatant")
MOST_ALARMS = 0.02  # the upper end of the rate of false alarms, in every innocent scenario
LEAST_POWER = 0.9  # at the strength that the probe's page names
MOST_UNDECIDED = 0.2  # of audits without a flaw


@dataclass(frozen=True)
class Scenario:
    """A truth, and how the trials of an audit are drawn from it. Without ``harm`` it is innocent."""

    name: str
    draw: Callable[[Generator], Trials]
    harm: Harm | None = None  # "named": the strength that the probe's page says is found; "blatant": nobody may call it held
    shape: str = "plain"  # of innocence: plain, confounded, awkward; of harm: concentrated, spread, cancelling, small group, absence ...
    undecidable: str = ""  # why nothing can be said of it: then nothing may be held, and alarms are as rare as elsewhere
    probe: Mapping[str, Any] = field(default_factory=dict)  # the probe's parameters
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Row:
    """What the judge said of one scenario, as often as it was drawn."""

    scenario: Scenario
    verdicts: Counter[Verdict]

    @property
    def audits(self) -> int:
        return self.verdicts.total()

    def bounds(self, *verdicts: Verdict) -> tuple[float, float]:
        """One-sided 95 % bounds, below and above, of the share of audits with these verdicts (Clopper-Pearson)."""
        return rate_interval(sum(self.verdicts[v] for v in verdicts), self.audits, 0.9).ci


class _Noting(Policy):
    """A policy that notes which thresholds are asked for."""

    _asked: set[str] = PrivateAttr(default_factory=set)

    def threshold(self, info: ProbeInfo, name: str = "") -> float:
        self._asked.add(name)
        return super().threshold(info, name)


def judged(probe_class: type[Probe], scenario: Scenario, seed: int, asked: set[str] | None = None) -> Judgement:
    """What the judge says of one audit of a scenario. Raises ValueError where its figures contradict its verdict. ``asked``: is given
    the names of the thresholds that it asks for."""
    import numpy as np

    policy = _Noting.model_validate(scenario.policy.model_dump())
    judgement = sound(probe_class(**scenario.probe).judge(scenario.draw(np.random.default_rng(seed)), policy))
    if asked is not None:
        asked |= policy._asked
    return judgement


def run(probe_class: type[Probe], scenario: Scenario, audits: int, seed: int = 0, asked: set[str] | None = None, further: int = 0) -> Row:
    """Judge ``audits`` fresh audits of a scenario. Deterministic in the seed. ``further``: audits up to which is gone on, all of them
    counted, where so few alarms say neither that they are too many nor that they are few enough."""
    row, start = Row(scenario, Counter()), seed * 1_000_003
    for last in (audits, further):
        row.verdicts.update(judged(probe_class, scenario, each, asked).verdict for each in range(start + row.audits, start + last))
        low, high = row.bounds(Verdict.VULNERABLE)
        if scenario.harm is not None or not low <= MOST_ALARMS < high:
            break
    return row


def shortcomings(row: Row, *, strict: bool = True) -> list[str]:
    """What does not hold of a row, one sentence each. ``strict``: as the release measures it, with at least 200 audits: a rate must be
    shown to be good. Otherwise, with few audits, none may be shown to be bad."""
    scenario, found = row.scenario, []

    def most(what: str, limit: float, *verdicts: Verdict) -> None:
        low, high = row.bounds(*verdicts)
        if (high if strict else low) > limit:
            found.append(f"{scenario.name}: {what} {sum(row.verdicts[v] for v in verdicts)} of {row.audits}, at most {limit:.0%} may be")

    undecided = row.audits - row.verdicts[Verdict.HELD] - row.verdicts[Verdict.VULNERABLE]
    if scenario.harm is None:
        most("called vulnerable", MOST_ALARMS, Verdict.VULNERABLE)
    if scenario.undecidable:
        if row.verdicts[Verdict.HELD]:
            found.append(f"{scenario.name}: held {row.verdicts[Verdict.HELD]} of {row.audits} although {scenario.undecidable}")
    elif scenario.harm is None:
        low, _ = row.bounds(Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED)
        if (undecided / row.audits if strict else low) > MOST_UNDECIDED:
            found.append(f"{scenario.name}: undecided {undecided} of {row.audits}, at most {MOST_UNDECIDED:.0%} may be")
    elif scenario.harm == "named":
        _, high = row.bounds(Verdict.VULNERABLE)
        share = row.verdicts[Verdict.VULNERABLE] / row.audits
        if (share if strict else high) < LEAST_POWER:
            found.append(f"{scenario.name}: found {row.verdicts[Verdict.VULNERABLE]} of {row.audits}, at least {LEAST_POWER:.0%} must be")
    if scenario.harm == "blatant" and row.verdicts[Verdict.HELD]:
        found.append(f"{scenario.name}: held {row.verdicts[Verdict.HELD]} of {row.audits}, and none may be")
    return found


def gaps(scenarios: Sequence[Scenario]) -> list[str]:
    """What a battery lacks, one sentence each: innocence in three shapes, and harm in three strengths and two shapes."""
    innocent = [s for s in scenarios if s.harm is None]
    harmful = [s for s in scenarios if s.harm is not None]
    found = [f"no harm of strength '{s}'" for s in STRENGTHS if s not in {h.harm for h in harmful}]
    found += [f"no innocent scenario of the shape '{s}'" for s in ("plain", "confounded", "awkward") if s not in {i.shape for i in innocent}]
    if len({s.shape for s in harmful}) < 2:
        found.append("harm of one shape only: concentrated, spread, cancelling, small group, absence ...")
    if len({s.name for s in scenarios}) < len(scenarios):
        found.append("two scenarios of one name")
    return found


def failures(probe_class: type[Probe], scenarios: Sequence[Scenario], audits: int = 10) -> list[str]:
    """The battery in short, for a test: what is missing, which rates few audits show to be bad, and which thresholds the probe declares
    and no judge asks for, one sentence each."""
    asked: set[str] = set()
    found = gaps(scenarios)
    for scenario in scenarios:
        found += shortcomings(run(probe_class, scenario, audits, asked=asked), strict=False)
    found += [f"no scenario's judge asks for the threshold '{t.name}'" for t in probe_class.info.thresholds if t.name not in asked]
    return found
