"""SARIF 2.1.0 for code scanning: one result for each vulnerable finding, at the line that declares the audited target.

Sources: the OASIS standard (sarif-v2.1.0), and what GitHub reads of it (docs.github.com, "SARIF support for code scanning").
Weights lie outside the repository, so a result points at the table of ``vlaudit.toml`` that names the target, or at that file's
first line where the command line named it. Fingerprints hold what is audited and by which probe, never figures, seeds or
times: a finding that stays is the same alert. Targets of one model and prompt (on other data) also differ by their ids.
Suppressed findings are left out: code scanning would show them as open. Inconclusive and not-assessed findings are counted as notifications of the run.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from vlaudit.records import Finding, Place, Report, Severity, TargetInfo, Verdict
from vlaudit.reporting import clean, cleaned, counts_text, interval, log_json, log_line, worst_first

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
INFORMATION = "https://arxiv.org/abs/2307.12980"
ELSEWHERE = Place(file="vlaudit.toml", line=1)  # where a target that no config declares would be
MAX_TEXT = 1_024  # characters of a rule's texts
MAX_RESULTS = 5_000  # that are kept of a run
SCORES = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "2.0",
    Severity.NONE: "0.0",
}
LEVELS = {Severity.CRITICAL: "error", Severity.HIGH: "error", Severity.MEDIUM: "warning", Severity.LOW: "note"}


class SARIFReporter:
    """SARIF 2.1.0 for code scanning."""

    name = "sarif"
    extension = "sarif"

    def render(self, report: Report, audit_dir: Path) -> str:
        targets = {target.id: target for target in report.targets}
        alike = shared_names(report)
        vulnerable = [f for f in worst_first(report.findings) if f.verdict is Verdict.VULNERABLE and not f.suppressed][
            :MAX_RESULTS
        ]
        rules = {finding.probe: _rule(finding) for finding in reversed(vulnerable)}  # the worst finding says how grave
        order = {probe: index for index, probe in enumerate(rules)}
        run = {
            "tool": {
                "driver": {
                    "name": report.tool.name,
                    "version": report.tool.version,
                    "informationUri": INFORMATION,
                    "rules": list(rules.values()),
                }
            },
            "automationDetails": {"id": f"vlaudit/{report.audit.id}"},
            "invocations": [_invocation(report)],
            "results": [_result(f, targets.get(f.target), order[f.probe], alike) for f in vulnerable],
        }
        document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
        return log_json(json.dumps(_without_links(cleaned(document)), indent=2, ensure_ascii=False)) + "\n"


def _without_links(value: Any) -> Any:
    """Every text without what a viewer would show as an embedded link (SARIF 2.1.0, 3.11.6)."""
    if isinstance(value, str):
        return value.replace("](", "] (")
    if isinstance(value, dict):
        return {key: _without_links(item) for key, item in value.items()}
    return [_without_links(item) for item in value] if isinstance(value, list) else value


def _rule(finding: Finding) -> dict[str, Any]:
    title = log_line(finding.title, 200) or finding.probe
    limits = log_line(finding.limits, MAX_TEXT) or "See the finding in the audit's report."
    return {
        "id": finding.probe,
        "name": log_line(finding.code, 100) or finding.probe,
        "shortDescription": {"text": title},
        "fullDescription": {"text": f"{title} ({finding.risk.value} of a model under a prompt)"},
        "help": {"text": log_line(f"{limits} Sources: {', '.join(finding.references) or 'none'}.", MAX_TEXT)},
        "properties": {
            "security-severity": SCORES[finding.severity],
            "precision": "high",
            "tags": list(dict.fromkeys([finding.risk.value, *(log_line(tag, 100) for tag in finding.mappings)]))[:20],
        },
    }


def _result(finding: Finding, target: TargetInfo | None, rule: int, alike: set[str]) -> dict[str, Any]:
    place = (target.declared if target else None) or ELSEWHERE
    region = {"startLine": place.line, "startColumn": 1, "endLine": place.line, "endColumn": 2}
    spec = log_line(target.model.spec if target else finding.target, 300)
    name = f"{spec}/{log_line(finding.target, 200)}/{finding.probe}"
    return {
        "ruleId": finding.probe,
        "ruleIndex": rule,
        "level": LEVELS.get(finding.severity, "note"),
        "message": {"text": _message(finding)},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": _uri(place.file)}, "region": region},
                "logicalLocations": [{"fullyQualifiedName": name, "kind": "module"}],
            }
        ],
        "partialFingerprints": {"primaryLocationLineHash": fingerprint(finding, target, alike)},
        "properties": {"target": log_line(finding.target, 300), "severity": finding.severity.value},
    }


def shared_names(report: Report) -> set[str]:
    """Ids of the targets whose model and prompt are another target's too."""
    pairs = Counter((target.model.spec, target.prompt.id) for target in report.targets)
    return {target.id for target in report.targets if pairs[target.model.spec, target.prompt.id] > 1}


def fingerprint(finding: Finding, target: TargetInfo | None, alike: set[str]) -> str:
    """What stays the same from audit to audit: the model's and the prompt's names, and the probe; the target's own name where
    these are ``alike``."""
    prompt = target.prompt.id if target else finding.target
    parts = [target.model.spec if target else finding.target, prompt, finding.probe]
    parts += [finding.target] if finding.target in alike else []
    return hashlib.sha256("\x1f".join(clean(part) for part in parts).encode()).hexdigest()[:32]


def _message(finding: Finding) -> str:
    figures = ""
    if finding.metric:
        figures = (
            f" Measured: {finding.metric.name} {interval(finding.metric, finding.metric.unit)}, n = {finding.metric.n}."
        )
    return log_line(f"{finding.target}: {finding.reason}.{figures} Reproduce: {finding.reproduce}", 2_000)


def _invocation(report: Report) -> dict[str, Any]:
    undecided = [f for f in report.findings if f.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED)]
    notes = [
        {"level": "error", "message": {"text": log_line(error, MAX_TEXT)}} for error in report.audit.errors if error
    ]
    if suppressed := [f for f in report.findings if f.suppressed]:
        notes.append({"level": "note", "message": {"text": f"Suppressed and left out: {len(suppressed)}."}})
    if undecided:
        text = f"Not passes: {counts_text(undecided, skip_zeros=True)}."
        notes.append({"level": "note", "message": {"text": text}})
    return {
        "executionSuccessful": report.audit.complete and not report.audit.errors,
        "toolExecutionNotifications": notes,
    }


def _uri(file: str) -> str:
    from urllib.parse import quote

    return quote(clean(file).lstrip("/"))
