"""A Markdown summary that fits a CI step summary (1 MiB) and a pull-request comment (65,536 characters).

Headline, what a pipeline makes of it, a risk matrix, the findings worst first, and the details of those that are vulnerable.
GitHub-flavoured. Labels, captions and reasons are escaped: no markup, link, mention or HTML of theirs survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from vlaudit.details import Matrix
from vlaudit.records import Estimate, Finding, Report, Risk, Verdict
from vlaudit.reporting import (
    SYMBOLS,
    WORDS,
    clean,
    counts_text,
    headline,
    interval,
    log_line,
    number,
    p_text,
    side_by_side,
    suppression_text,
    worst_first,
    worst_verdict,
)

MAX_SIZE = 60_000  # bytes, so that the same text fits a comment too
MAX_COLUMNS = 12  # of a table that compares prompts
MAX_CELL = 160  # characters of a table's cell

_PUNCTUATION = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~:^$&=\"'/])")
_MENTION = re.compile("([@#])")  # of a person or an issue: the sites look for them in what is rendered, escaped or not
_APART = r"\1<!-- -->"


class MarkdownReporter:
    """A Markdown summary for step summaries and pull requests."""

    name = "markdown"
    extension = "md"

    def render(self, report: Report, audit_dir: Path) -> str:
        text = "\n".join((*_top(report), *_matrix(report), *_table(report), *_side_by_side(report), *_matrices(report))) + "\n"
        closing = f"\n{escape(report.tool.name)} {escape(report.tool.version)}, audit {escape(report.audit.id)}, "
        closing += f"seed {report.audit.seed}, {escape(report.audit.effort)} effort. An audit shows flaws, not their absence.\n"
        left_out, space = 0, MAX_SIZE - 200 - len((text + closing).encode())
        for finding in worst_first(report.findings):
            block = _detail(finding) if finding.verdict is Verdict.VULNERABLE else ""
            size = len(block.encode())
            if size > space:
                left_out += bool(block)
                continue
            text, space = text + block, space - size
        if left_out:
            text += f"\n{left_out} more in the HTML report.\n"
        return _cut(text, MAX_SIZE - len(closing.encode())) + closing


def escape(text: str, limit: int = MAX_CELL) -> str:
    """Text as literal Markdown on one line, cut at ``limit`` characters."""
    return _MENTION.sub(_APART, _PUNCTUATION.sub(r"\\\1", log_line(text, limit)))


def code(text: str, limit: int = 300) -> str:
    """Text as inline code, which no table may hold: fenced by more backticks than it holds."""
    flat = log_line(text, limit)
    fence = "`" * (max((len(run) for run in re.findall("`+", flat)), default=0) + 1)
    pad = " " if "`" in flat else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def _top(report: Report) -> Iterator[str]:
    outcome, pipeline = headline(report)
    yield f"### vlaudit: {escape(outcome, 400)}"
    yield ""
    yield f"{escape(pipeline, 400)} {counts_text(report.findings)}."
    if not report.audit.complete:
        yield ""
        yield "**The audit did not finish: do not read it as a pass.**"
    for note in report.audit.notes:
        yield ""
        yield f"**Note:** {escape(note, 600)}"
    yield ""


def _matrix(report: Report) -> Iterator[str]:
    risks = list(Risk)
    places: dict[tuple[str, Risk], list[Finding]] = {}
    for finding in report.findings:
        for target in dict.fromkeys((finding.target, *finding.related_targets)):
            places.setdefault((target, finding.risk), []).append(finding)
    yield f"| target | {' | '.join(risk.value for risk in risks)} |"
    yield f"|---|{'---|' * len(risks)}"
    for info in report.targets:
        cells = []
        for risk in risks:
            verdict = worst_verdict(places.get((info.id, risk), []))
            cells.append(f"{SYMBOLS[verdict]} {WORDS[verdict]}" if verdict else "")
        if info.error:
            cells = ["could not be loaded"] + [""] * (len(risks) - 1)
        yield f"| {escape(info.id)} | {' | '.join(cells)} |"
    yield ""
    notes = dict.fromkeys(note for target in report.targets for note in target.notes)
    if notes:
        yield from (f"- {escape(note)}" for note in notes)
        yield ""


def _table(report: Report) -> Iterator[str]:
    yield "| verdict | severity | probe | target | measured | threshold |"
    yield "|---|---|---|---|---|---|"
    for finding in worst_first(report.findings)[:200]:
        metric = finding.metric
        unit = metric.unit if metric else ""
        figures = f"{escape(metric.name)} {escape(interval(metric, unit))}" if metric else escape(finding.reason)
        threshold = escape(number(finding.threshold, unit)) if finding.threshold is not None else ""
        severity = finding.severity.value if finding.verdict is Verdict.VULNERABLE else ""
        severity += f" ({escape(finding.change)})" if finding.change else ""
        severity += " suppressed" if finding.suppressed else ""
        yield (
            f"| {SYMBOLS[finding.verdict]} {WORDS[finding.verdict]} | {severity} | {escape(finding.title)} "
            f"({escape(finding.code)}) | {escape(finding.target)} | {figures} | {threshold} |"
        )
    if len(report.findings) > 200:
        yield f"\n{len(report.findings) - 200} more in the HTML report."
    yield ""


def _side_by_side(report: Report) -> Iterator[str]:
    for each in side_by_side(report):
        targets = each.targets[:MAX_COLUMNS]
        yield f"**Prompts of {escape(each.model)}, side by side.** {escape(each.sentence, 600)}"
        yield ""
        yield f"| probe | {' | '.join(escape(target.prompt.id, 60) for target in targets)} |"
        yield f"|---|{'---|' * len(targets)}"
        for row in each.rows:
            first = next(iter(row.values()))
            yield f"| {escape(first.title)} ({escape(first.code)}) | {' | '.join(_cell(row.get(target.id)) for target in targets)} |"
        yield ""


def _cell(finding: Finding | None) -> str:
    metric = finding.metric if finding else None
    return f"{SYMBOLS[finding.verdict]} {escape(interval(metric, metric.unit))}" if finding and metric else ""


def _matrices(report: Report) -> Iterator[str]:
    """The matrices of findings that have some, worst first."""
    for finding in worst_first(report.findings):
        for series in finding.details.series():
            if isinstance(series, Matrix):
                yield f"**{escape(finding.title)}: {escape(series.title)}.** Rows: {escape(series.ylabel)}; columns: {escape(series.xlabel)}."
                yield ""
                yield f"| | {' | '.join(escape(name, 60) for name in series.columns[:MAX_COLUMNS])} |"
                yield f"|---|{'---|' * len(series.columns[:MAX_COLUMNS])}"
                for i, name in enumerate(series.rows[:MAX_COLUMNS]):
                    yield f"| {escape(name, 60)} | {' | '.join(_value(series, i, j) for j in range(len(series.columns[:MAX_COLUMNS])))} |"
                yield ""


def _value(series: Matrix, i: int, j: int) -> str:
    value = series.values[i][j]
    low, high = (ends[i][j] if ends else None for ends in (series.low, series.high))
    if value is None or low is None or high is None:
        return "" if value is None else escape(number(value, series.unit))
    return escape(interval(Estimate(value=value, ci=(low, high)), series.unit))


def _detail(finding: Finding) -> str:
    facts = [escape(finding.reason, 1_000)]
    if finding.suppressed:
        facts.append(f"Suppressed: {escape(suppression_text(finding), 400)}.")
    if finding.metric and finding.reference:
        facts.append(f"Under the reference prompt: {escape(interval(finding.reference, finding.metric.unit))}.")
    if finding.p_value is not None:
        facts.append(f"{escape(p_text(finding.p_value))}.")
    facts.append(f"Severity: {escape(finding.severity_derivation, 400)}.")
    facts.append(f"Reproduce: {code(finding.reproduce)}")
    summary = f"{SYMBOLS[finding.verdict]} {_html(finding.title)} on {_html(finding.target)}"
    body = "\n\n".join(facts)
    return f"\n<details><summary>{summary}</summary>\n\n{body}\n\n</details>\n"


def _html(text: str) -> str:
    flat = log_line(text, MAX_CELL)
    return _MENTION.sub(_APART, flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def _cut(text: str, size: int) -> str:
    """At most ``size`` bytes of whole lines."""
    if len(text.encode()) <= size:
        return text
    kept = text.encode()[: size - 40].decode(errors="ignore").rpartition("\n")[0]
    return f"{clean(kept)}\n\n(cut; see the HTML report)\n"
