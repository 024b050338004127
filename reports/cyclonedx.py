"""CycloneDX 1.6 ML-BOM: the audited models with their measurements, the prompts, the data sets, and what depends on what.

A model is a ``machine-learning-model`` component. Its model card holds, for each finding that was assessed, the metric with its
interval on each arm (``slice`` says verdict, probe, arm, prompt and target); a prompt is a component of its own, and one that was
learned depends on its model. A vulnerable finding is also an entry of ``vulnerabilities``, as tools for such documents read it; an
accepted one carries the reason in its analysis. What was not decided is a stated limitation, never a figure that could pass for
a pass. Source: the specification's ``bom-1.6.schema.json``. The same audit gives the same bytes: the serial number is derived from
the content, the time is the audit's.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vlaudit.details import Figure
from vlaudit.records import DataInfo, Estimate, Family, Finding, Metric, ModelInfo, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import (
    clean,
    cleaned,
    counts_text,
    interval,
    log_json,
    log_line,
    suppression_text,
    worst_first,
)
from vlaudit.reports._published import TASKS, audit_time, data_name, is_learned, model_name, valid_sha256, verdict_text
from vlaudit.reports.sarif import fingerprint, shared_names

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MAX_TEXT = 1_000  # characters of a sentence
MAX_PROMPT = 20_000  # characters of a prompt's text
MAX_FINDINGS = 2_000  # worst first: the document stays below what the usual servers take
ROOT, TOOL = "audit", "tool"
FORMATS = {
    Family.MATCHING: (("image", "text"), ("text",)),
    Family.GENERATION: (("image", "text"), ("text",)),
    Family.TEXT_TO_IMAGE: (("text",), ("image",)),
}
"""What goes into a model of a family, and what comes out."""
HASH_NOTE = "of the file; of several files, of their sorted lines 'path sha256'"


class CycloneDXReporter:
    """CycloneDX 1.6 ML-BOM (JSON): models, prompts and data with what was measured."""

    name = "cyclonedx"
    extension = "cdx.json"

    def render(self, report: Report, audit_dir: Path) -> str:
        findings = worst_first(report.findings)[:MAX_FINDINGS]
        document = cleaned(_document(report, findings))
        digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()
        serial = uuid.uuid5(uuid.NAMESPACE_URL, f"vlaudit:{digest}").urn
        head = {"$schema": SCHEMA, "bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": serial, "version": 1}
        return log_json(json.dumps(head | document, indent=2, ensure_ascii=False)) + "\n"


def _document(report: Report, findings: list[Finding]) -> dict[str, Any]:
    targets, alike = {target.id: target for target in report.targets}, shared_names(report)
    models: dict[str, list[TargetInfo]] = {}
    for target in report.targets:
        models.setdefault(_model_ref(target), []).append(target)
    prompts = {_prompt_ref(target): target for target in report.targets}
    data = {_data_ref(target.data): target.data for target in report.targets if target.data}
    components = [
        *(_model(ref, found, findings) for ref, found in models.items()),
        *(_prompt(ref, target) for ref, target in prompts.items()),
        *(_data(ref, info) for ref, info in data.items()),
    ]
    needs = {ref: [_model_ref(target)] for ref, target in prompts.items() if is_learned(target.prompt)}
    needs[ROOT] = [*models, *prompts]
    refs = [ROOT, *(component["bom-ref"] for component in components)]
    dependencies = [{"ref": ref} | ({"dependsOn": needs[ref]} if needs.get(ref) else {}) for ref in refs]
    return {
        "metadata": _metadata(report, findings),
        "components": components,
        "dependencies": dependencies,
        "compositions": [{"aggregate": "incomplete", "assemblies": [ROOT]}],  # what a model was trained on is not known
        "vulnerabilities": [_vulnerability(f, targets.get(f.target), alike) for f in findings if _is_vulnerable(f)],
    }


def _metadata(report: Report, findings: list[Finding]) -> dict[str, Any]:
    audit, moment = report.audit, audit_time(report.audit)
    said = {
        "audit:id": audit.id,
        "audit:complete": "true" if audit.complete and not audit.errors else "false",
        "audit:seed": str(audit.seed),
        "audit:effort": audit.effort,
        "audit:findings": counts_text(report.findings),
    }
    if left_out := len(report.findings) - len(findings):
        said["audit:findings-left-out"] = str(left_out)
    errors = [_property("audit:error", error) for error in audit.errors]
    return ({"timestamp": moment.isoformat()} if moment else {}) | {
        "tools": {
            "components": [
                {"type": "application", "bom-ref": TOOL, "name": report.tool.name, "version": report.tool.version}
            ]
        },
        "component": {
            "type": "application",
            "bom-ref": ROOT,
            "name": log_line(", ".join(target.id for target in report.targets), MAX_TEXT) or "nothing",
            "description": "Vision-language models under the prompts that they were audited with",
        },
        "properties": [*(_property(name, value) for name, value in said.items()), *errors],
    }


# --- components -------------------------------------------------------------------------------------------------------


def _model(ref: str, targets: Sequence[TargetInfo], findings: list[Finding]) -> dict[str, Any]:
    first, ids = targets[0], {target.id: target for target in targets}
    own = [finding for finding in findings if finding.target in ids]
    inputs, outputs = FORMATS[first.family]
    failed = [f"{t.id} could not be loaded: {t.error}" for t in targets if t.error]
    refs = dict.fromkeys(_data_ref(target.data) for target in targets if target.data)
    card = {
        "modelParameters": {
            "task": TASKS[first.family],
            "datasets": [{"ref": data} for data in refs],
            "inputs": [{"format": name} for name in inputs],
            "outputs": [{"format": name} for name in outputs],
        },
        "quantitativeAnalysis": {"performanceMetrics": [m for f in own for m in _metrics(f, ids[f.target])]},
        "considerations": {
            "technicalLimitations": [*(log_line(text, MAX_TEXT) for text in failed), *_limitations(own)],
            "ethicalConsiderations": [
                {"name": _claim(f)} | _accepted(f) for f in own if _is_vulnerable(f) and f.risk is Risk.PRIVACY
            ],
            "fairnessAssessments": [
                {"groupAtRisk": _groups(ids[f.target]), "harms": _claim(f)} | _accepted(f)
                for f in own
                if _is_vulnerable(f) and f.risk is Risk.BIAS
            ],
        },
        "properties": [_property(f"finding:{f.verdict.value}", _claim(f)) for f in own],
    }
    named = {"type": "machine-learning-model", "bom-ref": ref, "name": model_name(first.model.spec)}
    return named | _hashes(first.model.sha256, _made_from(first.model)) | {"modelCard": card}


def _prompt(ref: str, target: TargetInfo) -> dict[str, Any]:
    prompt = target.prompt
    name, described = log_line(prompt.id, 200) or "prompt", f"{prompt.method} prompt"
    if is_learned(prompt):
        described += f", learned for {model_name(target.model.spec)}"
    named = {"bom-ref": ref, "name": name, "description": log_line(described, MAX_TEXT)}
    text = {"contentType": "text/plain", "content": clean(prompt.text)[:MAX_PROMPT]}
    if prompt.sha256:
        return (
            {"type": "file"} | named | _hashes(prompt.sha256, [_property("prompt", prompt.text)] if prompt.text else [])
        )
    content = {"contents": {"attachment": text}} if prompt.text else {}
    return {"type": "data"} | named | {"data": [{"type": "configuration", "name": name} | content]}


def _data(ref: str, info: DataInfo) -> dict[str, Any]:
    counted = {
        "examples": info.examples,
        "labels": len(info.labels),
        "members": info.members,
        "captions": info.captions,
    }
    properties = [_property(f"data:{name}", str(count)) for name, count in counted.items() if count]
    properties += [_property("data:group", group) for group in info.groups[:100]]
    if digest := valid_sha256(info.sha256):
        properties.append(_property("data:sha256-of-examples", digest))
    name = data_name(info.source)
    return {
        "type": "data",
        "bom-ref": ref,
        "name": name,
        "data": [{"type": "dataset", "name": name}],
        "properties": properties,
    }


def _made_from(model: ModelInfo) -> list[dict[str, str]]:
    named = {"spec": model.spec, "revision": model.revision, "precision": model.dtype}
    return [_property(name, value) for name, value in named.items() if value]


def _hashes(sha256: str | None, properties: list[dict[str, str]]) -> dict[str, Any]:
    if digest := valid_sha256(sha256):
        properties = [*properties, _property("sha256", HASH_NOTE)]
        return {"hashes": [{"alg": "SHA-256", "content": digest}], "properties": properties}
    return {"properties": properties}


def _ref(kind: str, *parts: str | None) -> str:
    identity = "\x1f".join(clean(part or "") for part in parts)
    return f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _model_ref(target: TargetInfo) -> str:
    return _ref("model", target.family.value, target.model.spec, target.model.sha256)


def _prompt_ref(target: TargetInfo) -> str:
    """A learned prompt belongs to one model; a text is the same under any."""
    prompt = target.prompt
    base = _model_ref(target) if is_learned(prompt) else None
    return _ref("prompt", prompt.method, prompt.id, prompt.text, prompt.sha256, base)


def _data_ref(info: DataInfo) -> str:
    return _ref("data", info.source, info.sha256, *info.groups)


# --- what was measured ------------------------------------------------------------------------------------------------


def _metrics(finding: Finding, target: TargetInfo) -> Iterator[dict[str, Any]]:
    """The metric on each arm that has an interval; nothing of a finding that was not assessed."""
    metric = finding.metric
    if metric is None or finding.verdict is Verdict.NOT_ASSESSED:
        return
    unit = f" ({log_line(metric.unit, 40)})" if metric.unit else ""
    kind = f"{log_line(metric.name, 200)}{unit}, lower is better"
    yield _metric(kind, metric, finding, target, "target")
    if finding.reference:
        yield _metric(kind, finding.reference, finding, target, "reference")
    for name, estimate in finding.controls.figures().items():
        yield _metric(kind, estimate, finding, target, f"control:{name}")


def _metric(kind: str, measured: Metric | Estimate | Figure, finding: Finding, target: TargetInfo, arm: str) -> dict[str, Any]:
    low, high = measured.ci
    said = {"arm": arm, "probe": finding.probe, "prompt": target.prompt.id, "target": target.id}
    if isinstance(measured, Metric):
        said = {"verdict": verdict_text(finding), "n": str(measured.n), "level": str(measured.level)} | said
    if arm == "reference":
        said["prompt"] = f"that of {target.reference}" if target.reference else "the reference"
    return {
        "type": kind,
        "value": str(measured.value),
        "slice": "; ".join(f"{key}={log_line(text, 200).replace(';', ',')}" for key, text in said.items()),
        "confidenceInterval": {"lowerBound": str(low), "upperBound": str(high)},
    }


def _limitations(findings: list[Finding]) -> list[str]:
    """What is wrong with the model, what was not decided, and what a held finding does not say; each once."""
    flaws = (Risk.ROBUSTNESS, Risk.BACKDOOR)
    said = [_claim(f) for f in findings if (_is_vulnerable(f) and f.risk in flaws) or not _is_decided(f)]
    said += [
        log_line(f"{f.title} held: {f.limits}", MAX_TEXT) for f in findings if f.verdict is Verdict.HELD and f.limits
    ]
    return list(dict.fromkeys(said))


def _claim(finding: Finding) -> str:
    """One sentence: the verdict, what was tried on what, and why."""
    figures = f" ({finding.metric.name} {interval(finding.metric, finding.metric.unit)})" if finding.metric else ""
    said = f"{verdict_text(finding)}: {finding.title} ({finding.code}) on {finding.target}: {finding.reason}"
    return log_line(said, MAX_TEXT) + log_line(figures, 300)


def _is_vulnerable(finding: Finding) -> bool:
    return finding.verdict is Verdict.VULNERABLE


def _is_decided(finding: Finding) -> bool:
    return finding.verdict in (Verdict.VULNERABLE, Verdict.HELD)


def _accepted(finding: Finding) -> dict[str, str]:
    text = log_line(suppression_text(finding), MAX_TEXT)
    return {"mitigationStrategy": text} if text else {}


def _groups(target: TargetInfo) -> str:
    columns = target.data.groups if target.data else []
    return log_line(f"groups of {', '.join(columns)}" if columns else "groups that the probe compares", MAX_TEXT)


def _vulnerability(finding: Finding, target: TargetInfo | None, alike: set[str]) -> dict[str, Any]:
    refs = dict.fromkeys([_model_ref(target), _prompt_ref(target)]) if target else {ROOT: None}
    mark = fingerprint(finding, target, alike)
    analysis: dict[str, Any] = {"state": "exploitable"}
    if finding.suppressed:
        analysis |= {"response": ["will_not_fix"], "detail": log_line(suppression_text(finding), MAX_TEXT)}
    return {
        "bom-ref": _ref("finding", finding.id, mark),
        "id": f"vlaudit-{finding.code}-{mark[:12]}",
        "source": {"name": "vlaudit"},
        "ratings": [
            {
                "source": {"name": "vlaudit"},
                "severity": finding.severity.value,
                "method": "other",
                "justification": log_line(finding.severity_derivation, MAX_TEXT),
            }
        ],
        "description": _claim(finding),
        "proofOfConcept": {"reproductionSteps": log_line(finding.reproduce, MAX_TEXT)},
        "analysis": analysis,
        "affects": [{"ref": ref} for ref in refs],
        "properties": [
            _property("probe", finding.probe),
            _property("risk", finding.risk.value),
            *(_property("mapping", mapping) for mapping in finding.mappings[:50]),
        ],
    }


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"vlaudit:{name}", "value": log_line(value, MAX_TEXT + 300)}
