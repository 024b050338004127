"""The policy: thresholds, confidence and severities that turn trials into verdicts. Pure data, the user's to override.

# policy.toml
level = 0.95
[thresholds]
clip-autoattack = 0.20            # a probe's own
"rank-skew.least-group" = 20      # another number that decides its verdict
[severity]
bias = "medium"
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from vlaudit.entries import first_of, problems
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.files import Unreadable, read_toml
from vlaudit.records import Judgement, ProbeInfo, Severity, Verdict

_STEP_DOWN = {
    Severity.CRITICAL: Severity.HIGH,
    Severity.HIGH: Severity.MEDIUM,
    Severity.MEDIUM: Severity.LOW,
    Severity.LOW: Severity.LOW,
    Severity.NONE: Severity.NONE,
}
NEAR = 1.5  # times the threshold's distance from the null: where the interval's near end is no farther, the severity is one step lower


class SeverityTable(BaseModel):
    """Severity of a ``vulnerable`` finding, by risk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backdoor: Severity = Severity.CRITICAL
    unsafe_file: Severity = Field(
        default=Severity.CRITICAL, validation_alias=AliasChoices("unsafe-file", "unsafe_file")
    )
    robustness: Severity = Severity.HIGH
    bias: Severity = Severity.HIGH
    privacy: Severity = Severity.HIGH


class Policy(BaseModel):
    """What counts as a vulnerability, and how grave it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: float = Field(0.95, gt=0.5, lt=1, description="confidence level of the intervals")
    alpha: float = Field(0.05, gt=0, lt=0.5, description="level of the tests")
    thresholds: dict[str, FiniteFloat] = Field(default_factory=dict, description="by PROBE or PROBE.NAME; else the probe's")
    unread: float = Field(0.01, ge=0, lt=1, description="share of all pictures, or of a label's, that may be unreadable, or be without row and label, in data on which something is held")
    severity: SeverityTable = SeverityTable()
    fail_on: Severity = Field(Severity.HIGH, description="lowest severity that fails a scan; none: never")
    strict: bool = Field(False, description="whether inconclusive and not-assessed findings fail a scan too")
    gate: Literal["none", "holm"] = Field("none", description="holm: vulnerable only if p_adjusted is below alpha too")

    @field_validator("thresholds", mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """``rank-skew.least-group = 20`` without quotes is a table in TOML."""
        if not isinstance(value, dict):
            return value
        tables = {f"{probe}.{name}": v for probe, table in value.items() if isinstance(table, dict) for name, v in table.items()}
        return {probe: v for probe, v in value.items() if not isinstance(v, dict)} | tables

    def threshold(self, info: ProbeInfo, name: str = "") -> float:
        """The threshold of a probe's metric (0 when it has none), or another number that decides its verdict: the policy's, else the
        probe's. Raises KeyError where the probe declares no such number."""
        if not name:
            return self.thresholds.get(info.id, info.threshold or 0.0)
        default = {declared.name: declared.value for declared in info.thresholds}[name]
        return self.thresholds.get(f"{info.id}.{name}", default)

    def unknown(self, infos: Iterable[ProbeInfo]) -> list[UsageError]:
        """The thresholds that no probe has."""
        known = {key for info in infos for key in (info.id, *(f"{info.id}.{declared.name}" for declared in info.thresholds))}
        return [
            UsageError(f"The policy sets the threshold '{key}', which no probe has.", did_you_mean(key, sorted(known)))
            for key in self.thresholds
            if key not in known
        ]

    def check(self, infos: Iterable[ProbeInfo]) -> None:
        """Raise UsageError where a threshold is one that no probe has."""
        for wrong in self.unknown(infos):
            raise wrong

    def changes(self, before: Policy, infos: Sequence[ProbeInfo]) -> list[str]:
        """What it says otherwise than another policy, as "entry was -> is"."""
        defaults = {info.id: info.threshold for info in infos}
        defaults |= {f"{info.id}.{declared.name}": declared.value for info in infos for declared in info.thresholds}

        def entries(policy: Policy) -> dict[str, object]:
            plain = policy.model_dump(mode="json", exclude={"thresholds", "severity"})
            severities = {f"severity.{row}": value for row, value in policy.severity.model_dump(mode="json").items()}
            keys = self.thresholds | before.thresholds
            return plain | severities | {f"thresholds.{key}": policy.thresholds.get(key, defaults.get(key)) for key in keys}

        was, now = entries(before), entries(self)
        return [f"{name.replace('_', '-')} {was[name]} -> {now[name]}" for name in now if was[name] != now[name]]

    def relaxations(self, infos: Iterable[ProbeInfo]) -> list[str]:
        """The entries by which this policy may let pass what the default one stops. A level may only be the default: a lower
        one calls more things held, a higher one fewer things vulnerable."""
        default, found = Policy(), []
        if self.level != default.level:
            found.append("level")
        if self.alpha < default.alpha:
            found.append("alpha")
        if self.unread > default.unread:
            found.append("unread")
        if self.gate != default.gate:
            found.append("gate")
        if not 0 < self.fail_on.rank <= default.fail_on.rank:
            found.append("fail_on")
        for row in SeverityTable.model_fields:
            if getattr(self.severity, row).rank < getattr(default.severity, row).rank:
                found.append(f"severity.{row.replace('_', '-')}")
        for info in infos:
            if not 0 <= self.threshold(info) <= default.threshold(info):
                found.append(f"thresholds.{info.id}")
            for declared in info.thresholds:
                change = self.threshold(info, declared.name) - declared.value
                if (change > 0 and declared.relaxed_by != "lowering") or (change < 0 and declared.relaxed_by != "raising"):
                    found.append(f"thresholds.{info.id}.{declared.name}")
        return found

    def severity_of(self, info: ProbeInfo, judgement: Judgement) -> tuple[Severity, str]:
        """Severity and the sentence that derives it."""
        if judgement.verdict is not Verdict.VULNERABLE:
            return Severity.NONE, f"none, because the verdict is {judgement.verdict.value}"
        row = "unsafe_file" if info.unsafe_severity else info.risk.value
        base: Severity = getattr(self.severity, row)
        derivation = f"{base.value} for a vulnerable {row.replace('_', ' ')} finding"
        metric, threshold = judgement.metric, judgement.threshold
        if metric is None or threshold is None:
            return base, derivation
        near = metric.ci[0]
        limit = NEAR * metric.measure.distance(threshold, metric.null)
        if not 0 < limit < math.inf:
            return base, derivation
        how = f"the threshold {threshold:.3g}'s distance from {metric.null:.3g}, where it lies without the flaw"
        if metric.measure.distance(near, metric.null) <= limit:
            lower = _STEP_DOWN[base]
            return lower, f"{derivation}, one step lower ({lower.value}) because the interval's near end {near:.3g} is within {NEAR} x {how}"
        return base, f"{derivation}; the interval's near end {near:.3g} is beyond {NEAR} x {how}"


def load_policy(path: Path) -> Policy:
    """Read a policy from TOML. Raises UsageError with the offending key."""
    try:
        content = read_toml(path)
        if not content:
            raise Unreadable("is empty")
        return Policy.model_validate(content)
    except Unreadable as error:
        raise UsageError(f"The policy file '{path}' {error}.", "Write level, thresholds, severity and so on.") from error
    except ValidationError as error:
        wrong = problems(f"The policy file '{path}'", error, Policy, "`vlaudit schema config` says under Policy what there is.")
        raise first_of(wrong, f"vlaudit validate {path}") from error
