"""The compliance report: for each control of a framework, what this audit is evidence for, evidence against, or did not assess.

Frameworks (``frameworks.toml``: edition, identifiers, titles, source, when read) and the crosswalk from probes to controls
(``crosswalk.toml``) are data. An audit supports an assessment of conformity; it does not establish it, and says so.
"""

from __future__ import annotations

import tomllib
from datetime import date
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vlaudit.records import Finding, Report, Verdict
from vlaudit.reporting import worst_first

HERE = Path(__file__).parent
CAVEAT = (
    "An audit supports, but does not establish, conformity. Evidence for a control means that what was tried did not succeed "
    "within the stated limits; the choice of controls is a judgement of this tool, not an official crosswalk."
)


class Status(StrEnum):
    """What an audit says of a control."""

    AGAINST = "evidence against"
    FOR = "evidence for"
    UNDECIDED = "not decided"
    NOT_ASSESSED = "not assessed"


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
    controls: dict[str, str]


class Row(BaseModel):
    """A control with the findings that bear on it, worst first."""

    control: str
    title: str
    status: Status
    findings: list[Finding]


class Section(BaseModel):
    """A framework as this audit sees it."""

    framework: Framework
    rows: list[Row]

    @property
    def concerned(self) -> list[Row]:
        """Controls that some finding bears on."""
        return [row for row in self.rows if row.findings]

    @property
    def untouched(self) -> list[Row]:
        """Controls that no finding bears on."""
        return [row for row in self.rows if not row.findings]

    @property
    def covered(self) -> int:
        """Controls that some finding decided."""
        return sum(row.status in (Status.FOR, Status.AGAINST) for row in self.rows)


@cache
def frameworks() -> tuple[Framework, ...]:
    """All framework editions, in the order of the file."""
    return tuple(Framework.model_validate(row) for row in _read("frameworks.toml")["framework"])


def crosswalk() -> dict[str, tuple[str, ...]]:
    """The controls (``framework:identifier``) of each probe that the crosswalk names."""
    return _by_probe("controls")


def avid_categories() -> dict[str, tuple[str, ...]]:
    """The categories of the AVID taxonomy (``S0403``) of each probe that the crosswalk names."""
    return _by_probe("avid")


@cache
def _by_probe(key: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for threat in _read("crosswalk.toml")["threat"]:
        for probe in threat["probes"]:
            found.setdefault(probe, []).extend(threat.get(key, ()))
    return {probe: tuple(dict.fromkeys(entries)) for probe, entries in found.items()}


def controls_of(finding: Finding) -> set[str]:
    """The controls that a finding bears on: those of the crosswalk, and what its probe states itself."""
    return {*crosswalk().get(finding.probe, ()), *finding.mappings}


def sections(report: Report) -> list[Section]:
    """Every control of every framework with its findings and its status."""
    by_control: dict[str, list[Finding]] = {}
    for finding in worst_first(report.findings):
        for control in controls_of(finding):
            by_control.setdefault(control, []).append(finding)
    return [
        Section(
            framework=framework,
            rows=[
                Row(control=control, title=title, status=status(found), findings=found)
                for control, title in framework.controls.items()
                for found in [by_control.get(f"{framework.id}:{control}", [])]
            ],
        )
        for framework in frameworks()
    ]


def status(findings: list[Finding]) -> Status:
    """One vulnerable finding is evidence against, whatever held beside it; evidence for needs a finding that held and none
    that is undecided."""
    verdicts = {finding.verdict for finding in findings}
    if Verdict.VULNERABLE in verdicts:
        return Status.AGAINST
    if Verdict.INCONCLUSIVE in verdicts:
        return Status.UNDECIDED
    return Status.FOR if Verdict.HELD in verdicts else Status.NOT_ASSESSED


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))
