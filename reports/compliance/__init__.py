"""The compliance report: for each control of a framework and each target, what this audit is evidence for, evidence against, or did
not assess, and why a finding bears on it.

Frameworks (``frameworks.toml``: edition, identifiers, titles, source, when read) and the crosswalk from probes to controls
(``crosswalk.toml``, with a reason for each) are data. An audit supports an assessment of conformity; it does not establish it, and says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vlaudit.records import Finding, ProbeInfo, Report, TargetInfo, Verdict
from vlaudit.reporting import LISTING, count_verdicts, worst_first

HERE = Path(__file__).parent
CAVEAT = (
    "An audit supports, but does not establish, conformity. Evidence for a control means that what was tried did not succeed "
    "within the stated limits; the choice of controls is a judgement of this tool, not an official crosswalk."
)
STATED = "The probe itself states that it bears on this control."
ANY = "*"  # all probes of the crosswalk


class Status(StrEnum):
    """What an audit says of a control."""

    AGAINST = "evidence against"
    FOR = "evidence for"
    PARTLY = "some evidence for"
    TESTED = "tested"
    UNDECIDED = "not decided"
    NOT_ASSESSED = "not assessed"
    NONE = "no probe"


DECIDED = (Status.AGAINST, Status.FOR, Status.PARTLY, Status.TESTED)


class Framework(BaseModel):
    """One edition of a framework."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    edition: str = Field(min_length=1)
    source: str = Field(pattern=r"^https://")
    retrieved: date
    verified: bool
    note: str = ""
    testing: frozenset[str] = frozenset()  # the controls that ask for a test, whatever it finds
    indirect: frozenset[str] = frozenset()  # those of which a test of the model sees only the effects
    controls: dict[str, str]


@dataclass(frozen=True)
class Reason:
    """Why probes bear on a control."""

    why: str
    under: tuple[str, ...] = ()  # methods of prompts; none for all


@dataclass(frozen=True)
class Cell:
    """What an audit says of a control for one target."""

    status: Status
    findings: list[Finding]  # worst first

    @property
    def by_verdict(self) -> list[tuple[Verdict, list[Finding]]]:
        """The findings by verdict, in the order of a list of findings."""
        return [(verdict, [f for f in self.findings if f.verdict is verdict]) for verdict in LISTING if any(f.verdict is verdict for f in self.findings)]

    @property
    def proportion(self) -> str:
        """How many of the findings say so: ``"1 of 5"``; empty for one finding."""
        counts = count_verdicts(self.findings)
        told = {
            Status.AGAINST: counts[Verdict.VULNERABLE], Status.FOR: counts[Verdict.HELD], Status.PARTLY: counts[Verdict.HELD],
            Status.TESTED: len(self.findings) - counts[Verdict.NOT_ASSESSED], Status.UNDECIDED: counts[Verdict.INCONCLUSIVE],
        }.get(self.status)  # fmt: skip
        return "" if told is None or len(self.findings) < 2 else f"{told} of {len(self.findings)}"


@dataclass(frozen=True)
class Row:
    """A control with what each target's findings say of it. ``reasons``: why they bear on it, each with the codes of its probes."""

    control: str
    title: str
    cells: dict[str, Cell]  # by target id, in the order of the audit
    reasons: list[tuple[str, list[str]]]

    @property
    def concerned(self) -> bool:
        return any(cell.findings for cell in self.cells.values())

    @property
    def of_all(self) -> bool:
        """Whether it is about every test, so that naming them says nothing."""
        return any(not codes for _, codes in self.reasons)


@dataclass(frozen=True)
class Section:
    """A framework as this audit sees it."""

    framework: Framework
    rows: list[Row]

    @property
    def concerned(self) -> list[Row]:
        """Controls that some finding bears on."""
        return [row for row in self.rows if row.concerned]

    @property
    def untouched(self) -> list[Row]:
        """Controls that no finding bears on."""
        return [row for row in self.rows if not row.concerned]

    def covered(self, target: str) -> int:
        """Controls of which the audit says something for a target."""
        return sum(row.cells[target].status in DECIDED for row in self.rows)

    def against(self, target: str) -> int:
        """Controls for a target that some flaw is evidence against."""
        return sum(row.cells[target].status is Status.AGAINST for row in self.rows)


@cache
def frameworks() -> tuple[Framework, ...]:
    """All framework editions, in the order of the file."""
    return tuple(Framework.model_validate(row) for row in _read("frameworks.toml")["framework"])


def crosswalk() -> dict[str, tuple[str, ...]]:
    """The controls (``framework:identifier``) of each probe that the crosswalk names."""
    return {probe: tuple(controls) for probe, controls in reasons().items()}


@cache
def reasons() -> dict[str, dict[str, list[Reason]]]:
    """Why each probe of the crosswalk bears on its controls, by probe and control."""
    read = _read("crosswalk.toml")
    probes = list(dict.fromkeys(probe for threat in read["threat"] for probe in threat["probes"] if probe != ANY))
    found: dict[str, dict[str, list[Reason]]] = {probe: {} for probe in probes}
    for threat in read["threat"]:
        whys = threat.get("controls", {}) | {control: read["why"][control] for control in threat.get("also", ())}
        for probe in probes if ANY in threat["probes"] else threat["probes"]:
            for control, why in whys.items():
                found[probe].setdefault(control, []).append(Reason(why, tuple(threat.get("under", ()))))
    return found


@cache
def of_every_test() -> frozenset[str]:
    """The controls that every probe bears on."""
    return frozenset(control for threat in _read("crosswalk.toml")["threat"] if ANY in threat["probes"] for control in threat["also"])


@cache
def avid_categories() -> dict[str, tuple[str, ...]]:
    """The categories of the AVID taxonomy (``S0403``) of each probe that the crosswalk names."""
    found: dict[str, dict[str, None]] = {probe: {} for probe in reasons()}
    for threat in _read("crosswalk.toml")["threat"]:
        for probe in threat["probes"]:
            found.get(probe, {}).update(dict.fromkeys(threat.get("avid", ())))
    return {probe: tuple(entries) for probe, entries in found.items()}


def controls_of(probe: ProbeInfo) -> tuple[str, ...]:
    """The controls that a probe may bear on: those of the crosswalk; of one that it does not name, what the probe states itself."""
    return crosswalk().get(probe.id, probe.maps)


def bearing(finding: Finding, target: TargetInfo) -> dict[str, list[Reason]]:
    """The controls that a finding bears on for a target, each with the reasons that hold there."""
    known = reasons().get(finding.probe)
    if known is None:
        return {control: [Reason(STATED)] for control in finding.mappings}
    here = {control: [why for why in whys if not why.under or target.prompt.method in why.under] for control, whys in known.items()}
    return {control: whys for control, whys in here.items() if whys}


def sections(report: Report) -> list[Section]:
    """Every control of every framework, with the status and the findings of each target."""
    targets = {target.id: target for target in report.targets}
    found: dict[str, dict[str, list[Finding]]] = {}  # by control and target
    whys: dict[str, dict[str, dict[str, None]]] = {}  # by control: the codes of each reason
    for finding in worst_first(report.findings):
        for target in dict.fromkeys((finding.target, *finding.related_targets)):
            if target not in targets:
                continue
            for control, said in bearing(finding, targets[target]).items():
                found.setdefault(control, {}).setdefault(target, []).append(finding)
                for reason in said:
                    whys.setdefault(control, {}).setdefault(reason.why, {})[finding.code] = None
    told = []
    for framework in frameworks():
        rows = []
        for control, title in framework.controls.items():
            name = f"{framework.id}:{control}"
            here = found.get(name, {})
            kind = {"testing": control in framework.testing, "indirect": control in framework.indirect}
            cells = {id_: Cell(status(here.get(id_, []), **kind), here.get(id_, [])) for id_ in targets}
            every = name in of_every_test()
            rows.append(Row(control, title, cells, [(why, [] if every else sorted(codes)) for why, codes in whys.get(name, {}).items()]))
        told.append(Section(framework, rows))
    return told


def status(findings: Iterable[Finding], *, testing: bool = False, indirect: bool = False) -> Status:
    """One vulnerable finding is evidence against, whatever held beside it. Evidence for needs that all held: it is less where others were not
    assessed, or only effects are seen; and none where something is undecided. A control that asks for a test is met by one that came to an end."""
    verdicts = {finding.verdict for finding in findings}
    if not verdicts:
        return Status.NONE
    if verdicts == {Verdict.NOT_ASSESSED}:
        return Status.NOT_ASSESSED
    if testing:
        return Status.TESTED
    if Verdict.VULNERABLE in verdicts:
        return Status.AGAINST
    if Verdict.INCONCLUSIVE in verdicts:
        return Status.UNDECIDED
    return Status.PARTLY if indirect or Verdict.NOT_ASSESSED in verdicts else Status.FOR


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))
