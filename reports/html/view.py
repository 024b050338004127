"""What the page shows, prepared: the templates only lay it out."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from vlaudit import __version__
from vlaudit.details import Bars, Curve, Details, Fact, Figure, Matrix, Series, Table, as_fact
from vlaudit.files import Unreadable, parse_json
from vlaudit.records import Finding, Report, Risk, TargetInfo, Verdict
from vlaudit.reporting import (
    SCORER_ACCURACY,
    count_verdicts,
    gating,
    headline,
    interval,
    number,
    p_text,
    release,
    side_by_side,
    web_address,
    worst_first,
    worst_verdict,
)
from vlaudit.reports._policy import deciding
from vlaudit.reports.html.pictures import Embeddable, EvidenceFiles, Gallery, PictureRow, RefusedError
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
NBSP = "\u00a0"
SECTIONS = ("summary", "matrix", "prompts", "findings", "not-assessed", "targets", "thresholds", "limits", "provenance", "controls")
FEW = 6  # inconclusive findings that stand among the flaws in the first table; more of them are folded
FEW_BARS = 12  # of a plot that is seen at once
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
    replay: str  # the command that runs it again from what the audit recorded
    stops: bool  # the release

    @property
    def title(self) -> str:
        """What happens, in plain words; of what was not found, what was asked."""
        return self.finding.headline or self.finding.title

    @property
    def status(self) -> str:
        """What a gate makes of it, and since when it is known."""
        finding = self.finding
        accepted = f"accepted until {finding.suppressed.expires}" if finding.suppressed else ""
        since = {"new": "new", "worse": "worse than the baseline", None: ""}.get(finding.change, finding.change or "")
        return ", ".join(filter(None, [accepted or ("stops the release" if self.stops else ""), since]))

    @property
    def scale(self) -> tuple[str, str]:
        """The figure and its unit, which may be long."""
        metric = self.finding.metric
        assert metric is not None
        said, _, unit = number(metric.value, metric.unit).partition(NBSP)
        return (f"{said}{NBSP}{unit}", "") if len(unit) <= 3 else (said, unit)

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
        told = [(name, fact(value)) for name, value in facts.items()]
        series += _pivoted(told)
        drawn = [_draw(item, self.links) for item in series]
        return drawn, [(name, value) for name, value in told if not any(name.startswith(f"{kind}: ") for kind in _kinds(told))]

    @property
    def series(self) -> list[Drawn]:
        return self._details[0]

    @property
    def facts(self) -> list[tuple[str, str]]:
        return self._details[1]

    @cached_property
    def exhibits(self) -> list[Exhibit]:
        return exhibits(self.rows, self.finding.evidence, self.files)

    @cached_property
    def first_exhibits(self) -> list[Exhibit]:
        """What is seen at once: of the rows of pictures, and of those of texts alone, the first whose heading says most of what the title
        says."""
        told = set(re.findall(r"\w+", self.title.lower()))
        kinds = ([row for row in self.exhibits if bool(row.pictures) is pictured] for pictured in (True, False))
        return [max(rows, key=lambda row: len(told.intersection(re.findall(r"\w+", row.heading.lower())))) for rows in kinds if rows]

    @property
    def more_exhibits(self) -> list[Exhibit]:
        first = self.first_exhibits
        return [row for row in self.exhibits if not any(row is each for each in first)]

    @property
    def shows_series(self) -> bool:
        """Whether the first plot is seen at once, because there are no pictures or texts to look at."""
        first = self.series[0] if self.series and not self.exhibits else None
        return isinstance(first, CurvePlot | HeatMap) or (isinstance(first, BarPlot) and len(first.bars) <= FEW_BARS)

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


def page(report: Report, audit_dir: Path, budget: int, shrunk: dict[tuple[str, str], Embeddable]) -> dict[str, Any]:
    """All variables of ``page.html``; ``budget``: characters of its pictures; ``shrunk``: pictures of this page that were made ready before."""
    ordered = worst_first(report.findings)
    files = EvidenceFiles(audit_dir)
    gallery = Gallery(files, budget, shrunk)
    rows = gallery.rows(ordered)
    targets = {target.id: target for target in report.targets}
    index = {name: position for position, name in enumerate(targets)}
    places_on_page = _anchors(ordered)
    anchors = dict(zip((finding.id for finding in ordered), places_on_page, strict=True))
    stopping = {finding.id for finding in gating(report)}
    alone = {finding.target: anchors[finding.id] for finding in reversed(ordered) if not finding.related_targets}
    cards = [
        Card(
            finding=finding,
            anchor=anchor,
            target_index=index.get(finding.target, -1),
            rows=rows[finding.id],
            files=files,
            reference_note="" if finding.related_targets else _reference_note(targets.get(finding.target)),
            links={
                targets[name].prompt.id: alone[name]
                for name in (finding.target, *finding.related_targets) if finding.related_targets and name in alone and name in targets
            },
            replay=shlex.join(["vlaudit", "replay", str(audit_dir), finding.id]),
            stops=finding.id in stopping,
        )
        for finding, anchor in zip(ordered, places_on_page, strict=True)
    ]
    places: dict[tuple[str, Risk], list[Card]] = {}
    for card in cards:
        for target in dict.fromkeys((card.finding.target, *card.finding.related_targets)):
            places.setdefault((target, card.finding.risk), []).append(card)
    outcome, pipeline = headline(report)
    thresholds = deciding(report, sorted(ordered, key=lambda finding: finding.title))
    return {
        "report": report,
        "verdict": release(report),
        "cards": cards,
        "at_once": [Verdict.VULNERABLE, *([Verdict.INCONCLUSIVE] if count_verdicts(ordered)[Verdict.INCONCLUSIVE] <= FEW else [])],
        "first": {card.finding.verdict: card.anchor for card in reversed(cards)},
        "thresholds": thresholds,
        "why": {probe: f"why-{place}" for place, probe in enumerate(thresholds, 1)},
        "titles": {finding.probe: finding.title for finding in ordered},
        "same_tool": report.tool.version == __version__,
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
        "accuracies": {target.id: _scorer_accuracy(report.findings, target.id) for target in report.targets},
        "environment": [(name, fact(as_fact(value))) for name, value in report.audit.environment.items()],
        "policy": [(name, fact(as_fact(value))) for name, value in report.audit.policy.items()],
    }


def _anchors(findings: Sequence[Finding]) -> list[str]:
    """The address of each finding on the page: its id, so that a link to it stays; its place where an id is no plain name."""
    anchors: list[str] = []
    for position, finding in enumerate(findings, start=1):
        plain = re.fullmatch(r"[A-Za-z0-9-]{1,60}", finding.id) and finding.id not in {*SECTIONS, *anchors} and not finding.id.startswith("why-")
        anchors.append(finding.id if plain else f"finding-{position}")
    return anchors


def _kinds(facts: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Facts that say the same of several things (``"patch: p"``, ``"blend: p"``), by what they are about."""
    about: dict[str, dict[str, str]] = {}
    for name, value in facts:
        kind, colon, quantity = name.partition(": ")
        if colon:
            about.setdefault(kind, {})[quantity] = value
    shapes = Counter(tuple(each) for each in about.values())
    return {kind: each for kind, each in about.items() if shapes[tuple(each)] > 1 and len(each) > 1}


def _pivoted(facts: Iterable[tuple[str, str]]) -> list[Table]:
    """A table for each group of such facts, a row for each thing."""
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for kind, each in _kinds(facts).items():
        groups.setdefault(tuple(each), []).append([kind, *each.values()])
    return [Table(columns=["kind", *columns], rows=rows) for columns, rows in groups.items()]


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
