"""Reports for the AI Vulnerability Database (AVID): one for each vulnerable finding, one a line.

A report is one occurrence of a failure. The database calls a measurement that a threshold or a test deems critical a *Detection*,
which is what a vulnerable finding is; what held or was not decided is no occurrence and makes no report. An accepted finding is
still one, and its description says so. Categories are those of the database's own taxonomy (``taxonomy.toml``); which of them a
probe bears on stands in the crosswalk of the compliance report, and ``maps=["avid:S0403"]`` of a probe adds to it.

The identifier, the developer and the deployer are for the database's editors and for whoever submits the report; nothing in it
tells where files lie on this machine. Format: the data models of ``avidtools``.
"""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from vlaudit.details import Figure
from vlaudit.records import Estimate, Family, Finding, Metric, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import (
    cleaned,
    counts_text,
    interval,
    log_json,
    log_line,
    number,
    p_text,
    plural,
    web_address,
    worst_first,
)
from vlaudit.reports._published import audit_time, model_name
from vlaudit.reports.compliance import avid_categories
from vlaudit.reports.markdown import code, escape

HERE = Path(__file__).parent
DOMAINS = {"S": "Security", "E": "Ethics", "P": "Performance"}
USUAL = {Risk.ROBUSTNESS: "P0201", Risk.BACKDOOR: "S0201", Risk.BIAS: "E0100", Risk.PRIVACY: "P0300"}
"""The category of a risk, for a probe that neither the crosswalk nor its own ``maps`` place."""
STAGE = "L05"  # of the lifecycle: an audit is an evaluation
MAX_TEXT = 2_000  # characters of a sentence
MAX_URL = 2_000
MAX_REPORTS = 1_000  # worst first


class AVIDReporter:
    """AVID reports (JSON Lines): one for each vulnerable finding."""

    name = "avid"
    extension = "avid.jsonl"

    def render(self, report: Report, audit_dir: Path) -> str:
        targets = {target.id: target for target in report.targets}
        vulnerable = [f for f in worst_first(report.findings) if f.verdict is Verdict.VULNERABLE][:MAX_REPORTS]
        by_target: dict[str, list[Finding]] = {}
        for finding in report.findings:
            by_target.setdefault(finding.target, []).append(finding)
        counted = {f.target: _counted(by_target[f.target]) for f in vulnerable}
        reports = (_report(f, targets.get(f.target), report, counted[f.target]) for f in vulnerable)
        return "".join(log_json(json.dumps(cleaned(said), ensure_ascii=False)) + "\n" for said in reports)


@cache
def taxonomy() -> dict[str, Any]:
    """The taxonomy: its ``edition``, and the titles of the ``effect`` and ``lifecycle`` views by identifier."""
    return tomllib.loads((HERE / "taxonomy.toml").read_text(encoding="utf-8"))


def categories(finding: Finding) -> list[str]:
    """Identifiers of the effect view that a finding bears on; at least one."""
    stated = [mapping.removeprefix("avid:") for mapping in finding.mappings if mapping.startswith("avid:")]
    found = dict.fromkeys([*avid_categories().get(finding.probe, ()), *stated])
    return [name for name in found if name in taxonomy()["effect"]] or [USUAL[finding.risk]]


def _counted(findings: list[Finding]) -> str:
    return f"Of {plural(len(findings), 'finding')} on this target: {counts_text(findings, skip_zeros=True)}."


def _report(finding: Finding, target: TargetInfo | None, report: Report, counted: str) -> dict[str, Any]:
    effect, lifecycle = taxonomy()["effect"], taxonomy()["lifecycle"]
    found = categories(finding)
    model = model_name(target.model.spec) if target else log_line(finding.target, 200)
    prompt = log_line(target.prompt.id, 200) if target else "unknown"
    generates_text = target is not None and target.family is Family.GENERATION
    sources = [(text, web_address(text)) for text in finding.references]
    moment = audit_time(report.audit)
    return {
        "data_type": "AVID",
        "affects": {
            "developer": [],
            "deployer": [],
            "artifacts": [{"type": "Model", "name": model}, {"type": "System", "name": f"{model} under {prompt}"}],
        },
        "problemtype": {
            "classof": "LLM Evaluation" if generates_text else "Undefined",
            "type": "Detection",
            "description": _text(f"{finding.title} ({finding.risk.value}) of {model} under the prompt {prompt}"),
        },
        "metrics": [_metric(finding, finding.metric)] if finding.metric else [],
        "references": [
            {"type": "source", "label": log_line(text, 300), "url": url}
            for text, url in sources
            if url and len(url) <= MAX_URL
        ],
        "description": {"lang": "eng", "value": "\n\n".join(_description(finding, prompt, report, counted))},
        "impact": {
            "avid": {
                "vuln_id": "",  # the editors' to give, as in the database
                "risk_domain": list(dict.fromkeys(DOMAINS[name[0]] for name in found)),
                "sep_view": [f"{name}: {effect[name]}" for name in found],
                "lifecycle_view": [f"{STAGE}: {lifecycle[STAGE]}"],
                "taxonomy_version": taxonomy()["edition"],
            }
        },
    } | ({"reported_date": moment.date().isoformat()} if moment else {})


def _metric(finding: Finding, metric: Metric) -> dict[str, Any]:
    """The metric on each arm, and the rule by which it is critical."""
    if finding.threshold is not None:
        rule, name = (
            "Static Threshold",
            f"the {number(metric.level, 'share')} interval lies beyond {number(finding.threshold, metric.unit)}",
        )
    else:
        rule, name = "Significance Test", p_text(finding.p_value) or "the probe's own test"
    results = _estimate(metric) | {"level": metric.level, "n": metric.n, "unit": metric.unit, "lower_is_better": True}
    figures = {"threshold": finding.threshold, "p_value": finding.p_value, "p_adjusted": finding.p_adjusted}
    results |= {key: value for key, value in figures.items() if value is not None}
    if finding.reference:
        results["reference"] = _estimate(finding.reference)
    if controls := finding.controls.figures():
        results["controls"] = {log_line(name, 100): _estimate(control) for name, control in controls.items()}
    return {"name": log_line(metric.name, 300), "detection_method": {"type": rule, "name": name}, "results": results}


def _estimate(estimate: Metric | Estimate | Figure) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.ci)}


def _text(value: str) -> dict[str, str]:
    return {"lang": "eng", "value": log_line(value, MAX_TEXT)}


def _description(finding: Finding, prompt: str, report: Report, counted: str) -> list[str]:
    """Paragraphs of Markdown, as the database shows them; texts of the audit are escaped."""
    said = [escape(finding.reason, MAX_TEXT)]
    if finding.metric:
        figures = interval(finding.metric, finding.metric.unit)
        said.append(escape(f"Measured: {finding.metric.name} {figures}, n = {finding.metric.n}.", MAX_TEXT))
    said.append(escape(f"Severity: {finding.severity_derivation or finding.severity.value}.", MAX_TEXT))
    if finding.suppressed:
        accepted = f"Suppressed: accepted until {finding.suppressed.expires}: {finding.suppressed.reason}."
        said.append(escape(accepted, MAX_TEXT))
    if finding.limits:
        said.append(escape(f"Limits: {finding.limits}", MAX_TEXT))
    if not report.audit.complete or report.audit.errors:
        said.append("The audit did not finish; other flaws may have been missed.")
    command = f"vlaudit scan TARGET --probe {finding.probe} --seed {report.audit.seed} --effort {report.audit.effort}"
    said.append(
        f"Found by {escape(report.tool.name)} {escape(report.tool.version)} with the prompt {code(prompt)}: {code(command)}. {counted}"
    )
    return said
