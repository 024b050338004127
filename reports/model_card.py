"""A block for a Hugging Face model card (``README.md``): results as ``model-index`` metadata, and a Markdown section.

For each finding that was assessed, the metadata hold the metric with its value; the interval, the verdict and what else belongs to
the figure stand in the metric's ``args``, because the ``model-index`` has no place of their own for them. The metric's name says the
verdict and that lower is better: it is all that a page shows. What was not assessed has no figure, and is in the section alone.

``merge(readme, block)`` puts both into a README: results and section of an earlier audit are replaced, everything else is kept. To
update the metadata of a repository on the Hub without a checkout, ``huggingface_hub.metadata_update`` takes the block's metadata.
Format: the Hub's specification of model cards, written and read by ``huggingface_hub``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vlaudit.errors import UsageError
from vlaudit.records import Finding, Report, TargetInfo, Verdict
from vlaudit.reporting import SYMBOLS, WORDS, counts_text, interval, log_line, number, worst_first
from vlaudit.reports._published import TASKS, audit_time, data_name, model_name, valid_sha256, verdict_text
from vlaudit.reports.markdown import escape

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

BEGIN, END = "<!-- vlaudit: begin -->", "<!-- vlaudit: end -->"
"""What stands around the section, so that the next audit can replace it."""
MAX_FINDINGS = 200  # in the metadata and in the section, worst first
MAX_LIMIT = 400  # characters of a stated limit

_SECTION = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


class ModelCardReporter:
    """A block for a Hugging Face model card: model-index metadata and a section."""

    name = "model-card"
    extension = "card.md"

    def render(self, report: Report, audit_dir: Path) -> str:
        from huggingface_hub.repocard_data import eval_results_to_model_index
        from huggingface_hub.utils import yaml_dump

        targets = {target.id: target for target in report.targets}
        several = len({target.prompt.id for target in report.targets}) > 1
        by_model: dict[str, list[EvalResult]] = {}
        for finding in worst_first(report.findings)[:MAX_FINDINGS]:
            target = targets.get(finding.target)
            if target and finding.metric and finding.verdict is not Verdict.NOT_ASSESSED:
                results = by_model.setdefault(model_name(target.model.spec), [])
                results.append(_result(finding, target, report, several))
        index = [entry for name, found in by_model.items() for entry in eval_results_to_model_index(name, found)]
        section = "\n".join((BEGIN, *_section(report), END)) + "\n"
        return f"---\n{yaml_dump({'model-index': index}, sort_keys=False)}---\n\n{section}" if index else section


def merge(readme: str, block: str) -> str:
    """The README with the results and the section of ``block`` in place of those of an earlier audit; all else is kept, but
    comments in its metadata. Raises UsageError for a block of several models, ValueError for metadata that are no YAML."""
    from huggingface_hub import ModelCard, ModelCardData

    card, new = ModelCard(readme), ModelCard(block)
    data, found = cast(ModelCardData, card.data), cast(ModelCardData, new.data).eval_results or []
    if len({_said(result, "model") for result in found}) > 1:
        raise UsageError("The block is of several models, a card of one.", "Audit that model alone.")
    kept = [result for result in data.eval_results or [] if not _said(result, "tool").startswith("vlaudit ")]
    data.eval_results = [*kept, *found] or None
    data.model_name = (data.model_name or cast(ModelCardData, new.data).model_name) if kept or found else None
    section = new.text.strip()
    text, replaced = _SECTION.subn(lambda _: section, card.text, count=1)
    card.text = text if replaced else f"{card.text.rstrip()}\n\n{section}\n"
    return str(card) if data.to_dict() else card.text.lstrip("\n")


def _said(result: EvalResult, key: str) -> str:
    return str(result.metric_args.get(key, "")) if isinstance(result.metric_args, dict) else ""


def _result(finding: Finding, target: TargetInfo, report: Report, several: bool) -> EvalResult:
    from huggingface_hub.repocard_data import EvalResult

    metric, data = finding.metric, target.data
    assert metric is not None
    name, prompt = log_line(metric.name, 200), log_line(target.prompt.id, 200)
    dataset = data_name(data.source) if data else "no data"
    said: dict[str, Any] = {
        "tool": log_line(f"vlaudit {report.tool.version}, audit {report.audit.id}", 200),
        "model": model_name(target.model.spec),
        "probe": log_line(finding.probe, 100),
        "risk": finding.risk.value,
        "verdict": verdict_text(finding),
        "severity": finding.severity.value if finding.verdict is Verdict.VULNERABLE else None,
        "interval": list(metric.ci),
        "level": metric.level,
        "n": metric.n,
        "unit": log_line(metric.unit, 40),
        "threshold": finding.threshold,
        "lower_is_better": True,
    }
    return EvalResult(
        task_type=TASKS[target.family],
        dataset_type=re.sub(r"[^A-Za-z0-9._-]+", "-", dataset).strip("-") or "data",
        dataset_name=dataset,
        dataset_revision=valid_sha256(data.sha256) if data else None,
        metric_type=log_line(finding.probe, 100) or "vlaudit",
        metric_value=metric.value,
        metric_name=f"{name}{f', prompt {prompt}' if several else ''} ({verdict_text(finding)}; lower is better)",
        metric_config=prompt or None,
        metric_args={key: value for key, value in said.items() if value is not None and value != ""},
    )


def _section(report: Report) -> Iterator[str]:
    moment = audit_time(report.audit)
    day = f" on {moment.date().isoformat()}" if moment else ""
    yield "## Audit under its prompts"
    yield ""
    yield (
        f"{escape(report.tool.name)} {escape(report.tool.version)} tried known attacks and measurements{day} (audit "
        f"{escape(report.audit.id)}, seed {report.audit.seed}, {escape(report.audit.effort)} effort): "
        f"{counts_text(report.findings)}. Lower is better for every metric; brackets hold its interval."
    )
    yield ""
    if not report.audit.complete or report.audit.errors:
        yield "**The audit did not finish: what is missing is not a pass.**"
        yield ""
    for target in report.targets:
        if target.error:
            yield f"{escape(model_name(target.model.spec))} under {escape(target.prompt.id)} could not be loaded."
            yield ""
    findings, targets = worst_first(report.findings), {target.id: target for target in report.targets}
    yield "| model and prompt | probe | verdict | measured | n | threshold |"
    yield "|---|---|---|---|---|---|"
    for finding in findings[:MAX_FINDINGS]:
        yield _row(finding, targets.get(finding.target))
    if len(findings) > MAX_FINDINGS:
        yield f"\n{len(findings) - MAX_FINDINGS} more in the audit's own report."
    yield ""
    yield from _data(report)
    limits = dict.fromkeys(f"{f.title}: {f.limits}" for f in findings[:MAX_FINDINGS] if f.limits and f.metric)
    if limits:
        yield "What the figures do not say:"
        yield ""
        yield from (f"- {escape(text, MAX_LIMIT)}" for text in limits)
        yield ""
    yield (
        "Held: what was tried did not succeed beyond the threshold. Inconclusive and not assessed are no passes. "
        "An audit shows flaws, not their absence."
    )


def _row(finding: Finding, target: TargetInfo | None) -> str:
    named = f"{model_name(target.model.spec)}, {target.prompt.id}" if target else finding.target
    verdict = f"{SYMBOLS[finding.verdict]} {WORDS[finding.verdict]}"
    if finding.verdict is Verdict.VULNERABLE:
        verdict += f" ({finding.severity.value})"
    if finding.suppressed:
        verdict += f", suppressed until {escape(finding.suppressed.expires, 40)}"
    metric = finding.metric if finding.verdict is not Verdict.NOT_ASSESSED else None
    measured = escape(f"{metric.name} {interval(metric, metric.unit)}") if metric else escape(finding.reason)
    threshold = number(finding.threshold, metric.unit) if metric and finding.threshold is not None else ""
    cells = (escape(named), f"{escape(finding.title)} ({escape(finding.code)})", verdict, measured)
    return f"| {' | '.join(cells)} | {metric.n if metric else ''} | {escape(threshold)} |"


def _data(report: Report) -> Iterator[str]:
    known = dict.fromkeys(
        f"{data_name(data.source)} ({data.examples} examples{', groups ' + ', '.join(data.groups) if data.groups else ''})"
        for data in (target.data for target in report.targets)
        if data
    )
    if known:
        yield f"Data: {'; '.join(escape(text, MAX_LIMIT) for text in known)}."
        yield ""
    notes = dict.fromkeys(note for target in report.targets for note in target.notes)
    if notes:
        yield from (f"- {escape(note, MAX_LIMIT)}" for note in notes)
        yield ""
