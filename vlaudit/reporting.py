"""What every report shares: the reporter contract, the order of findings, wording, and series that a report can plot.

A reporter is a class found by the entry-point group ``vlaudit.reporters``; it reads the report and the files under
``artifacts/`` of the audit folder, and never touches a model.

For probe authors: what a report makes of a judgement
-----------------------------------------------------
``details`` and ``controls`` are typed, see `vlaudit.details`. A figure among the controls becomes a further row of the interval
plot; anything else stands in the controls table under its name.

``Metric.unit``: ``"share"`` is shown in percent; any other text follows the number.

Evidence captions: pictures whose captions agree before a ``" | "`` form one row under that heading, in the order given:
``"farmer, test/0042 | clean"``, ``"farmer, test/0042 | attacked: read as judge"``, ``"farmer, test/0042 | change x16"``. Texts of the same heading stand below them, and the words in which they differ from the
heading's first text are marked.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vlaudit.checksums import sealed
from vlaudit.details import Figure
from vlaudit.records import Delta, Estimate, Finding, Metric, Report, Risk, Severity, TargetInfo, Verdict
from vlaudit.secrets import redact

SCORER_ACCURACY = "scorer's balanced accuracy on "
"""What controls are called that state a scorer's measured error, before the attribute: a report gathers them."""


class Reporter(Protocol):
    """Renders an audit as text. Made without arguments."""

    name: str
    extension: str  # of the file it is written to: "json", "html", "txt"

    def render(self, report: Report, audit_dir: Path) -> str:
        """The whole rendering. Artefacts are read from ``audit_dir``; a missing one is said, never an error."""
        ...


# --- order and counts -------------------------------------------------------------------------------------------------

CONCERN = (Verdict.VULNERABLE, Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED, Verdict.HELD)
"""Verdicts by how much they ask of the reader. ``held`` comes last: a group is held only if all of it was assessed."""
LISTING = (Verdict.VULNERABLE, Verdict.INCONCLUSIVE, Verdict.HELD, Verdict.NOT_ASSESSED)
"""Verdicts in the order of a list of findings."""
SYMBOLS = {Verdict.VULNERABLE: "✗", Verdict.INCONCLUSIVE: "?", Verdict.NOT_ASSESSED: "–", Verdict.HELD: "✓"}
STOPPING = ("new", "worse", "established")
WORDS = {verdict: verdict.value.replace("-", " ") for verdict in Verdict}


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Findings by verdict, then severity; those that agree keep a stable order by risk, target and id."""
    risks = list(Risk)
    return sorted(
        findings, key=lambda f: (LISTING.index(f.verdict), -f.severity.rank, risks.index(f.risk), f.target, f.id)
    )


def risk_order(findings: Iterable[Finding]) -> list[Risk]:
    """The risks that have findings, the one with the worst finding first."""
    return list(dict.fromkeys(finding.risk for finding in worst_first(findings)))


def worst_verdict(findings: Iterable[Finding]) -> Verdict | None:
    """The verdict that asks most of the reader (see ``CONCERN``); None without findings."""
    return min((finding.verdict for finding in findings), key=CONCERN.index, default=None)


def count_verdicts(findings: Iterable[Finding]) -> dict[Verdict, int]:
    """How many findings have each verdict, zeros included, in the order of ``LISTING``."""
    counts = Counter(finding.verdict for finding in findings)
    return {verdict: counts[verdict] for verdict in LISTING}


def counts_text(findings: Iterable[Finding], *, skip_zeros: bool = False) -> str:
    """``"1 vulnerable, 2 inconclusive, 3 held, 0 not assessed"``."""
    counts = count_verdicts(findings)
    return ", ".join(f"{count} {WORDS[verdict]}" for verdict, count in counts.items() if count or not skip_zeros)


def exit_code(report: Report) -> int:
    """The exit code of a scan that ended by itself: 4 a target did not load, 1 a vulnerable finding at or above
    the audit's ``fail_on`` (none: never), 3 a unit did not finish, nothing was assessed or, when ``strict``, something
    is undecided; else 0."""
    undecided = {Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED}
    if any(target.error for target in report.targets):
        return 4
    if gating(report):
        return 1
    return (
        3
        if _incomplete(report) or (report.audit.strict and any(f.verdict in undecided for f in report.findings))
        else 0
    )


def _incomplete(report: Report) -> bool:
    """Whether a unit did not finish or nothing was assessed."""
    nothing = all(finding.verdict is Verdict.NOT_ASSESSED for finding in report.findings)
    return nothing or bool(report.audit.errors) or not report.audit.complete


def gating(report: Report) -> list[Finding]:
    """The vulnerable findings that stop a release at the audit's ``fail_on``; with ``only_new``, those of them that the
    baseline did not call vulnerable, or that got worse. Suppressed ones stop nothing."""
    fail_on = report.audit.fail_on
    if fail_on is Severity.NONE:
        return []
    vulnerable = (f for f in report.findings if f.verdict is Verdict.VULNERABLE and f.suppressed is None)
    grave = [f for f in worst_first(vulnerable) if f.severity.rank >= fail_on.rank]
    return [f for f in grave if f.change in STOPPING] if report.audit.only_new else grave


@dataclass(frozen=True)
class SideBySide:
    """What was found of one model under several prompts: the findings of each probe that measured something under two of them."""

    model: str
    targets: list[TargetInfo]
    rows: list[dict[str, Finding]]  # by target id; all of one probe

    @property
    def sentence(self) -> str:
        """Which prompts add to a risk, and which take from it, beyond the interval of their difference from the reference."""
        told = []
        for target in self.targets:
            deltas = [(row[target.id].title, row[target.id].delta) for row in self.rows if target.id in row and row[target.id].delta]
            more, less = ([title for title, delta in deltas if delta and of(delta)] for of in (_adds, _takes))
            parts = [f"{word} {', '.join(titles)}" for word, titles in (("more of", more), ("less of", less)) if titles]
            if parts:
                told.append(f"{target.prompt.id}: {' and '.join(parts)}")
        return f"Beyond chance, against the reference prompt: {'; '.join(told)}." if told else (
            "No prompt is shown to add to a risk of the reference prompt, or to take from it."
        )  # fmt: skip


def _adds(delta: Delta) -> bool:
    return delta.ci[0] > 0


def _takes(delta: Delta) -> bool:
    return delta.ci[1] < 0


def side_by_side(report: Report) -> list[SideBySide]:
    """The models of an audit that have several prompts on the same data, in the order of the audit."""
    groups: dict[tuple[str, str], list[TargetInfo]] = {}
    for target in (target for target in report.targets if not target.error):
        groups.setdefault((target.model.spec, target.data.source if target.data else ""), []).append(target)
    found: dict[str, dict[str, Finding]] = {}
    for finding in report.findings:
        if finding.metric is not None and not finding.related_targets:
            found.setdefault(finding.probe, {})[finding.target] = finding
    compared = []
    for (model, _), targets in groups.items():
        ids = {target.id for target in targets}
        rows = [{id_: finding for id_, finding in each.items() if id_ in ids} for each in found.values()]
        if len(targets) > 1 and (rows := [row for row in rows if len(row) > 1]):
            compared.append(SideBySide(model, targets, rows))
    return compared


# --- wording ----------------------------------------------------------------------------------------------------------

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1, but newline and tab
_REORDERING = "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_UNENCODABLE = "\ud800-\udfff\ufeff\ufffe\uffff"  # lone surrogates and non-characters
_INVISIBLE = "\u180e\u200b\u2060-\u2064\u206a-\u206f\ufff9-\ufffb"  # but joiners, which letters and emoji need
_NBSP = "\u00a0"  # keeps a number and its unit on one line
_SURROGATES = re.compile("[\ud800-\udfff]")
_UNSAFE = re.compile(f"[{_CONTROLS}{_REORDERING}{_UNENCODABLE}{_INVISIBLE}]")
COMMANDS = re.compile(
    r"([:#])(?=\1)"  # GitHub's ::name:: and ##[name], ##vso[ of Azure, ##teamcity[
    r"|([-+~^])(?=\2\2)"  # the groups of Buildkite: ---, +++, ~~~, ^^^
    r"|(?<=section)_(?=(?:start|end):)|(?<=travis)_(?=(?:fold|time):)"  # the folds of GitLab and Travis
)
_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)")
_LINK = re.compile(r"https://[A-Za-z0-9][A-Za-z0-9.-]*(?::\d+)?(?:/[^\s<>\"'`\\]*)?")


def clean(text: str) -> str:
    """Text that cannot steer a terminal, reorder a line or break an encoder (such characters become ``�``), without secrets."""
    return _inert(redact(text))


def _inert(text: str) -> str:
    return text if text.isprintable() else _UNSAFE.sub("\ufffd", text)


def cleaned(value: Any) -> Any:
    """A JSON value whose texts, names of fields included, are ``clean``; numbers that JSON lacks become texts."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {clean(key): cleaned(item) for key, item in value.items()}
    return [cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def log_line(text: str, limit: int = 2_000) -> str:
    """Text that others wrote, for a line of a terminal, a log or a report: ``clean``, on one line, cut at ``limit`` characters. What
    would command a CI server is broken by a space wherever it stands, since lines may be wrapped before it."""
    flat = COMMANDS.sub(r"\g<0> ", " ".join(_inert(redact(text)[: 4 * limit]).split()))
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def log_json(text: str) -> str:
    """The same for the text of a JSON value: what could steer a terminal, reorder a line or command a CI server is written as
    escapes, which read back as the same value."""
    return COMMANDS.sub(_escaped, _UNSAFE.sub(_escaped, text))


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def report_json(report: Report, indent: int) -> str:
    """``report.json``, with its checksum: ``log_json`` of what is ``without_surrogates``."""
    from pydantic_core import to_json

    whole = to_json(without_surrogates(report.model_dump(mode="json", exclude={"checksum"})), indent=indent).decode()
    return sealed(log_json(whole))[0] + "\n"


def without_surrogates(value: Any) -> Any:
    """A JSON value whose texts hold no lone surrogates, which no reader takes: they become ``�``."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return [without_surrogates(item) for item in value] if isinstance(value, list) else value


def number(value: float, unit: str = "") -> str:
    """A number with three significant digits and its unit: ``42.3 %`` for a share, ``0.03 nats``, ``12,345``."""
    if unit == "share":
        return f"{_plain(100 * value)}{_NBSP}%"
    return f"{_plain(value)}{_NBSP}{log_line(unit, 40)}" if unit else _plain(value)


def _plain(value: float) -> str:
    if not math.isfinite(value) or 0 < abs(value) < 1e-4:
        return f"{value:.2g}"
    digits = _decimals(value)
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def _decimals(value: float) -> int:
    """Decimals that show three significant digits."""
    return max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0


def interval(
    estimate: Metric | Estimate | Figure | Delta, unit: str = "", *, difference: bool = False, scale: float | None = None
) -> str:
    """``42.3 % [38.0, 46.9]``; a ``difference`` has signs, and shares are in points: ``+4.3 points [−1.0, +9.6]``.
    Decimals follow ``scale``, the largest number it stands among; by default the largest of its own."""
    factor, name = (100, "points" if difference else "%") if unit == "share" else (1, log_line(unit, 40))
    values = [float(factor * value) for value in (estimate.value, *estimate.ci)]
    largest = scale or max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    whole = all(value.is_integer() for value in values)  # a count
    digits = 1 if unit == "share" else 0 if whole else min(_decimals(largest), 6)
    sign = "+" if difference else ""
    middle, low, high = (f"{value:{sign},.{digits}f}".replace("-", "−") for value in values)
    return f"{middle}{_NBSP}{name} [{low}, {high}]" if name else f"{middle} [{low}, {high}]"


def suppression_text(finding: Finding) -> str:
    """``accepted by ada until 2027-03-01: no text in our pictures (SEC-42), as ignore.toml says``, or nothing."""
    said = finding.suppressed
    if said is None:
        return ""
    ticket = f" ({said.ticket})" if said.ticket else ""
    file = f", as {said.file} says" if said.file else ""
    return f"accepted by {said.owner} until {said.expires}: {said.reason}{ticket}{file}"


def p_text(p: float | None) -> str:
    """``p = 0.012``, ``p < 0.0001``, or nothing."""
    if p is None:
        return ""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 0.01 else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """``850 ms``, ``12.3 s``, ``4 min 05 s``, ``2 h 10 min``."""
    if seconds < 1:
        return f"{1000 * max(seconds, 0):.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def time_text(seconds: float) -> str:
    """A time as flags take it, rounded up: ``90s``, ``10m``, ``1.5h``."""
    if seconds < 120:
        return f"{math.ceil(seconds)}s"
    return f"{math.ceil(seconds / 60)}m" if seconds < 7200 else f"{math.ceil(seconds / 1800) / 2:g}h"


def web_address(reference: str) -> str:
    """Where a reference is read, an arXiv id or an https address; empty for anything else (``javascript:`` and so on)."""
    if arxiv := _ARXIV.fullmatch(reference):
        return f"https://arxiv.org/abs/{arxiv[1]}"
    return reference if _LINK.fullmatch(reference) else ""


def plural(count: int, noun: str) -> str:
    """``1 finding``, ``2 findings``, ``2 vulnerabilities``."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else several}"


def release(report: Report) -> str:
    """The verdict in one sentence, for whoever decides on a release."""
    stopping, code = gating(report), exit_code(report)
    if code == 1:
        count, worst = len(stopping), stopping[0]
        if count == 1:
            return f"Do not release: 1 flaw of severity {worst.severity.value} stops it ({worst.risk.value})."
        return f"Do not release: {count:,} flaws stop it, the gravest {worst.severity.value} ({worst.risk.value})."
    if code:
        return "Not decided: a model could not be loaded." if code == 4 else "Not decided, so no pass: the audit could not answer all that it asks."
    flaws = worst_first(finding for finding in report.findings if finding.verdict is Verdict.VULNERABLE)
    undecided = sum(finding.verdict in (Verdict.INCONCLUSIVE, Verdict.NOT_ASSESSED) for finding in report.findings)
    said = "No flaw found stops the release"
    if flaws and report.audit.fail_on is Severity.NONE:
        said = f"No gate was set; {plural(len(flaws), 'flaw')} found, the gravest {flaws[0].severity.value} ({flaws[0].risk.value})"
    elif flaws:
        said = f"Nothing stops the release; {plural(len(flaws), 'flaw')} below the gate, known or accepted"
    return f"{said}, and {plural(undecided, 'question')} left open." if undecided else f"{said}."


def headline(report: Report) -> tuple[str, str]:
    """What a release manager reads first: the outcome in words, and what a pipeline makes of it."""
    vulnerable = worst_first(f for f in report.findings if f.verdict is Verdict.VULNERABLE)
    outcome = []
    if vulnerable:
        worst = vulnerable[0]
        found, accepted = plural(len(vulnerable), "vulnerability"), sum(finding.suppressed is not None for finding in vulnerable)
        outcome.append(f"{found} found{f', {accepted} of them accepted' * bool(accepted)}, the worst of severity {worst.severity.value} ({worst.risk.value}).")
    if any(target.error for target in report.targets):
        outcome.append("A model could not be loaded.")
    elif _incomplete(report):
        outcome.append("The audit is incomplete: do not read it as a pass.")
    elif not vulnerable:
        outcome.append("No vulnerability found by the probes that could decide.")
    meaning = {
        0: "lets it pass (exit code 0)",
        1: "stops here (exit code 1)",
        3: "stops here because not everything was decided (exit code 3)",
        4: "stops here because a model is missing (exit code 4)",
    }[exit_code(report)]
    gate = f"--fail-on {'new' if report.audit.only_new else report.audit.fail_on.value}" + (" --strict" if report.audit.strict else "")
    if report.audit.only_new:
        gate += f" (severity {report.audit.fail_on.value} or above, not in the baseline {log_line(report.audit.baseline or '', 40)})"
    return " ".join(outcome), f"A pipeline with {gate} {meaning}."
