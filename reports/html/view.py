"""What the page shows, prepared: the templates only lay it out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from vlaudit.details import Bars, Curve, Details, Fact, Figure, Matrix, Series, as_fact
from vlaudit.files import Unreadable, parse_json
from vlaudit.records import Finding, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import (
    SCORER_ACCURACY,
    count_verdicts,
    headline,
    interval,
    number,
    p_text,
    side_by_side,
    web_address,
    worst_first,
    worst_verdict,
)
from vlaudit.reports.html.pictures import (
    MAX_BYTES,
    MAX_PICTURES,
    EvidenceFiles,
    Gallery,
    PictureRow,
    RefusedError,
)
from vlaudit.reports.html.plots import (
    BarPlot,
    CurvePlot,
    HeatMap,
    IntervalPlot,
    bar_plot,
    curve_plot,
    heat_map,
    interval_plot,
)
from vlaudit.reports.html.transcripts import Exhibit, exhibits

GENERAL_LIMITS = (
    "An audit shows the presence of flaws, not their absence: attacks that were not tried may still work.",
    "The figures hold for the pictures, labels and groups listed above. Other data may behave differently.",
    "The verdict is about a model under one prompt. Another prompt, a fine-tune or another version is another target.",
    "Inconclusive and not assessed are not passes: nothing is claimed about those threats, in either direction.",
    "Intervals cover the sampling of cases at the stated level; they do not cover wrong labels in the data.",
)
Drawn: TypeAlias = BarPlot | CurvePlot | HeatMap | Series
MAX_PLOT = 2_000_000  # bytes of a file of plot data; what is larger would not fit the page


@dataclass(frozen=True)
class Link:
    text: str
    href: str = ""  # empty: plain text


@dataclass(frozen=True)
class Cell:
    """A cell of the risk matrix: the verdict that asks most of the reader, where it stands, and all counts."""

    verdict: Verdict
    anchor: str
    counts: dict[Verdict, int]


@dataclass(frozen=True)
class Card:
    """One finding with all that is shown of it."""

    finding: Finding
    anchor: str
    target_index: int
    rows: list[PictureRow]
    files: EvidenceFiles
    reference_note: str
    links: dict[str, str]  # anchors of the worst finding of each target that it is about, by the prompt's id

    @cached_property
    def plot(self) -> IntervalPlot | None:
        return interval_plot(self.finding)

    @cached_property
    def controls(self) -> list[tuple[str, str]]:
        """Controls that are no arm of the metric, as name and text."""
        return [(name, fact(value)) for name, value in self.finding.controls.items() if not isinstance(value, Figure)]

    @cached_property
    def _details(self) -> tuple[list[Drawn], list[tuple[str, str]]]:
        series, facts = self.finding.details.series(), self.finding.details.facts()
        for item in self.finding.evidence:
            if item.kind == "plot-data":
                try:
                    series += _plot_data(self.files.read(item, MAX_PLOT))
                except RefusedError as refusal:
                    facts[item.caption or item.path] = f"not shown: {refusal}"
        drawn = [_draw(item, self.links) for item in series]
        return drawn, [(name, fact(value)) for name, value in facts.items()]

    @property
    def series(self) -> list[Drawn]:
        return self._details[0]

    @property
    def facts(self) -> list[tuple[str, str]]:
        return self._details[1]

    @cached_property
    def exhibits(self) -> list[Exhibit]:
        return exhibits(self.rows, self.finding.evidence, self.files)

    @property
    def comparison(self) -> str:
        """How the target differs from its reference, or why that is not known."""
        delta = self.finding.delta
        if delta is None:
            return f"none: {self.reference_note}" if self.reference_note else ""
        unit = self.finding.metric.unit if self.finding.metric else ""
        return ", ".join(filter(None, [interval(delta, unit, difference=True), p_text(delta.p)]))

    @property
    def p_values(self) -> str:
        own, adjusted = p_text(self.finding.p_value), p_text(self.finding.p_adjusted)
        return f"{own}; {adjusted} after Holm’s correction over the audit" if own and adjusted else own

    @cached_property
    def references(self) -> list[Link]:
        return [link(text) for text in self.finding.references]


def page(report: Report, audit_dir: Path) -> dict[str, Any]:
    """All variables of ``page.html``."""
    ordered = worst_first(report.findings)
    files = EvidenceFiles(audit_dir)
    gallery = Gallery(files)
    rows = gallery.rows(ordered)
    targets = {target.id: target for target in report.targets}
    index = {name: position for position, name in enumerate(targets)}
    anchors = {finding.id: f"finding-{position}" for position, finding in enumerate(ordered, start=1)}
    alone = {finding.target: anchors[finding.id] for finding in reversed(ordered) if not finding.related_targets}
    cards = [
        Card(
            finding=finding,
            anchor=f"finding-{position}",
            target_index=index.get(finding.target, -1),
            rows=rows[finding.id],
            files=files,
            reference_note="" if finding.related_targets else _reference_note(targets.get(finding.target)),
            links={
                targets[name].prompt.id: alone[name]
                for name in (finding.target, *finding.related_targets) if finding.related_targets and name in alone and name in targets
            },
        )
        for position, finding in enumerate(ordered, start=1)
    ]
    places: dict[tuple[str, Risk], list[Card]] = {}
    for card in cards:
        for target in dict.fromkeys((card.finding.target, *card.finding.related_targets)):
            places.setdefault((target, card.finding.risk), []).append(card)
    outcome, pipeline = headline(report)
    return {
        "report": report,
        "outcome": outcome,
        "pipeline": pipeline,
        "worst": worst_verdict(report.findings),
        "counts": count_verdicts(report.findings),
        "risks": list(Risk),
        "matrix": [(target, [_cell(places.get((target.id, risk), [])) for risk in Risk]) for target in report.targets],
        "side_by_side": side_by_side(report),
        "anchors": anchors,
        "assessed": [card for card in cards if card.finding.verdict is not Verdict.NOT_ASSESSED],
        "not_assessed": [card for card in cards if card.finding.verdict is Verdict.NOT_ASSESSED],
        "limits": _limits(report.findings),
        "general_limits": GENERAL_LIMITS,
        "gallery": gallery,
        "budget": f"{MAX_PICTURES} pictures or {MAX_BYTES // 1_000_000} MB",
        "accuracies": {target.id: _scorer_accuracy(report.findings, target.id) for target in report.targets},
        "environment": [(name, fact(as_fact(value))) for name, value in report.audit.environment.items()],
        "policy": [(name, fact(as_fact(value))) for name, value in report.audit.policy.items()],
    }


def link(text: str) -> Link:
    """An arXiv id or an https address as a link; anything else as plain text."""
    return Link(text, web_address(text))


def fact(value: Fact) -> str:
    """A fact in words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Figure):
        return interval(value) + ("" if value.n is None else f", n = {fact(value.n)}")
    return ", ".join(fact(item) for item in value) or "none"


def _plot_data(content: bytes) -> list[Series]:
    try:
        details = parse_json(content)
    except Unreadable:
        return []
    try:
        return Details.model_validate(details).series()
    except ValidationError:
        return []


def _draw(series: Series, links: Mapping[str, str]) -> Drawn:
    if isinstance(series, Bars):
        return bar_plot(series)
    if isinstance(series, Matrix):
        return heat_map(series, links)
    return curve_plot(series) if isinstance(series, Curve) else series


def _cell(here: list[Card]) -> Cell | None:
    worst = worst_verdict(card.finding for card in here)
    if worst is None:
        return None
    anchor = next(card.anchor for card in here if card.finding.verdict is worst)
    counts = count_verdicts(card.finding for card in here)
    return Cell(worst, anchor, {verdict: count for verdict, count in counts.items() if count})


def _limits(findings: Iterable[Finding]) -> list[tuple[str, str]]:
    """Each distinct limit once, with the probes it belongs to."""
    probes: dict[str, dict[str, None]] = {}
    for finding in findings:
        probes.setdefault(finding.limits, {})[finding.title] = None
    return [(", ".join(titles), text) for text, titles in probes.items() if text]


def _scorer_accuracy(findings: Iterable[Finding], target: str) -> list[tuple[str, str]]:
    """What the findings of a target say of its scorer's error, by attribute."""
    found = {
        name.removeprefix(SCORER_ACCURACY): fact(value)
        for finding in findings
        if finding.target == target
        for name, value in finding.controls.items()
        if name.startswith(SCORER_ACCURACY)
    }
    return sorted(found.items())


def _reference_note(target: TargetInfo | None) -> str:
    return (target.reference_note or "") if target else ""
