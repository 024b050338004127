"""The policy that an audit was judged by, beside what its probes would have: the installed ones say what each number means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from vlaudit.details import as_fact
from vlaudit.errors import UsageError
from vlaudit.plugins import plugin
from vlaudit.policy import Policy
from vlaudit.records import Finding, ProbeInfo, Report


@dataclass(frozen=True)
class Deciding:
    """A number that decided a verdict."""

    key: str  # in the policy
    value: float
    default: float
    meaning: str
    source: str

    @property
    def departs(self) -> bool:
        """Whether the policy says otherwise than the probe."""
        return self.value != self.default


def policy_of(report: Report) -> Policy | None:
    """The policy that the audit was judged by; None where its record is none."""
    try:
        return Policy.model_validate(report.audit.policy)
    except ValidationError:
        return None


def departures(report: Report) -> list[tuple[str, str, str]]:
    """What the policy says otherwise than the default one: entry, value, default."""
    policy = policy_of(report)
    if policy is None:
        return [(name, str(as_fact(value)), "unknown") for name, value in report.audit.policy.items()]
    infos = [info for key in policy.thresholds if (info := installed(key.partition(".")[0]))]
    told = []
    for change in policy.changes(Policy(), infos):
        entry, _, values = change.partition(" ")
        default, _, value = values.partition(" -> ")
        told.append((entry, value, default if default != "None" else "unknown"))
    return told


def deciding(report: Report, findings: Iterable[Finding]) -> dict[str, list[Deciding]]:
    """All numbers that decided the verdicts of some findings, by probe: as the policy has them, with meaning and source. Of a probe that
    is not installed, the metric's own threshold."""
    policy = policy_of(report) or Policy()
    told: dict[str, list[Deciding]] = {}
    for finding in findings:
        if finding.probe in told:
            continue
        info = installed(finding.probe)
        rows = []
        if finding.threshold is not None:
            default = finding.threshold if info is None or info.threshold is None or info.id not in policy.thresholds else info.threshold
            rows.append(Deciding(finding.probe, finding.threshold, default, finding.threshold_meaning, finding.threshold_source))
        for each in info.thresholds if info else ():
            key = f"{finding.probe}.{each.name}"
            rows.append(Deciding(key, policy.thresholds.get(key, each.value), each.value, each.meaning, each.source))
        if rows:
            told[finding.probe] = rows
    return told


def installed(probe: str) -> ProbeInfo | None:
    """What an installed probe declares; None for one that is not here, or does not load."""
    try:
        found: Any = plugin("probes", probe)
        return found.info
    except (UsageError, AttributeError):
        return None
