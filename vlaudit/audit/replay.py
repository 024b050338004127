"""One finding of an audit run again from its recorded seed, cases and parameters, and compared with what was found then.

*Reproduced*: the same verdict, and the same figure or each figure within the other's interval. *In part*: the same verdict, the
figure elsewhere. Beside the outcome stand the share of trials that came out equally, by arm, and of artefacts with the same
bytes: in a search, the very same trigger or picture was found again.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from vlaudit import __version__
from vlaudit.audit.journal import Journal, Manifest, PlannedProbe, UnitResult, read_manifest
from vlaudit.audit.judge import adjust, gather, judge_audit, rounds_needed
from vlaudit.audit.provenance import changes, fingerprints, probe_sources
from vlaudit.audit.run import read_report
from vlaudit.config import Request, TargetSpec
from vlaudit.errors import UsageError
from vlaudit.policy import Policy
from vlaudit.records import REFERENCE, Evidence, Finding, Record, Report, TargetInfo, Trial, Verdict, alike
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import WORDS, interval

if TYPE_CHECKING:
    from vlaudit.audit.plan import Plan
    from vlaudit.audit.subjects import Subject

LISTED = 6  # findings that an error names
ENVIRONMENT = ("device", "gpu", "torch", "torchvision", "transformers", "open_clip_torch", "fairlearn", "scipy", "numpy",
               "pillow", "python", "system")  # fmt: skip


class Outcome(StrEnum):
    """Whether a finding came out again."""

    REPRODUCED = "reproduced"
    IN_PART = "reproduced in part"
    NOT_REPRODUCED = "not reproduced"


class Agreement(Record):
    """How many came out equally, of all that either run has."""

    same: int
    of: int


class Replay(Record):
    """The result, as ``--json`` prints it and ``replay.json`` holds it."""

    schema_version: str = "1.0"
    outcome: Outcome | None  # null: it did not finish
    reason: str
    audit: str
    finding: str
    probe: str
    target: str
    changed: list[str] = Field(default_factory=list)  # what is not as it was then, and was allowed to differ
    notes: list[str] = Field(default_factory=list)  # what else differs, one sentence each
    then: Finding
    now: Finding | None = None
    trials: dict[str, Agreement] = Field(default_factory=dict)  # by arm
    artifacts: Agreement | None = None
    folder: str  # of the new run

    @property
    def all_trials(self) -> Agreement:
        return Agreement(same=sum(a.same for a in self.trials.values()), of=sum(a.of for a in self.trials.values()))


@dataclass
class Recorded:
    """One finding with all that the audit folder holds of it. ``finding`` is what ``report.json`` says."""

    folder: Path
    manifest: Manifest
    report: Report
    finding: Finding
    planned: PlannedProbe
    info: TargetInfo
    spec: TargetSpec
    policy: Policy
    results: dict[str, UnitResult]
    contradictions: list[str] = field(default_factory=list)

    @property
    def trials(self) -> list[Trial]:
        return list(gather(self.planned, self.planned.units, self.results))

    @property
    def others(self) -> list[TargetInfo]:
        """The targets that the finding compares with its own, or under whose prompts it tried what it found."""
        return [info for info in self.manifest.targets if info.id in {*self.planned.related, *self.planned.beside} - {self.info.id}]

    @property
    def specs(self) -> list[TargetSpec]:
        """What its target and the others were made from."""
        return [self.spec, *(self.manifest.specs[other.id] for other in self.others)]

    def request(self) -> Request:
        """The audit of this finding alone. Corrections for many findings are made when it is compared."""
        request, probe = self.manifest.request, self.finding.probe
        return request.model_copy(
            update={
                "targets": self.specs,
                "probes": [probe],
                "params": {name: params for name, params in request.params.items() if name == probe},
                "policy": self.policy.model_copy(update={"gate": "none"}),
            }
        )

    def among_the_others(self, finding: Finding) -> Finding:
        """A finding in the place of the recorded one, corrected for the audit's other findings as that one was."""
        others = [other for other in self.report.findings if other.id != self.finding.id]
        return adjust([finding, *others], self.policy)[0]

    def started_in(self) -> Path:
        """Where the target's relative paths begin: the folder that the audit was started in, or the current one if more of them
        lie there."""
        here = then = Path.cwd()
        if self.manifest.folder:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # a name that no folder can have, a loop of links
                named = (self.folder / self.manifest.folder).resolve()
                then = named if named.is_dir() and os.access(named, os.X_OK) else here
        return max((then, here), key=lambda folder: sum(_exist(folder, spec) for spec in self.specs))


def find(report: Report, word: str) -> Finding:
    """The finding with this id, or beginning of one, or of this probe. Raises UsageError that names near ones."""
    wanted = word.strip().casefold()
    for matches in (
        [f for f in report.findings if f.id.casefold() == wanted],
        [f for f in report.findings if wanted and f.id.casefold().startswith(wanted)],
        [f for f in report.findings if f.probe.casefold() == wanted],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UsageError(f"'{word}' names {len(matches)} findings.", f"Give one id: {listed(matches)}.")
    if not report.findings:
        raise UsageError("The audit has no findings.", "Scan again.")
    if not wanted:
        raise UsageError("No finding is named.", f"The audit has {listed(report.findings)}.")
    names = {name.casefold(): f for f in report.findings for name in (f.probe, f.id)}
    close = [names[name] for name in difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)]
    near = list({f.id: f for f in close}.values())
    raise UsageError(
        f"The audit has no finding '{word}'.",
        f"{'Did you mean' if near else 'It has'} {listed(near or report.findings)}{'?' if near else '.'}",
    )


def read_recorded(folder: Path, word: str) -> Recorded:
    """A finding with its plan, target and trials, from the folder alone; nothing in it is changed.

    Raises UsageError where the folder is no finished audit of it, or nothing was measured.
    """
    manifest, report = read_manifest(folder), read_report(folder)
    finding = find(report, word)
    planned = [p for p in manifest.planned if (p.target, p.probe) == (finding.target, finding.probe)]
    places = [place for place, info in enumerate(manifest.targets) if info.id == finding.target]
    if report.audit.id != manifest.id or len(planned) != 1 or len(places) != 1:
        raise UsageError(f"report.json and manifest.json of '{folder}' are not of the same audit.", _MEND)
    try:
        policy = Policy.model_validate(report.audit.policy)
    except ValidationError as error:
        raise UsageError(f"report.json of '{folder}' has no policy that this vlaudit can read.", _MEND) from error
    recorded = Recorded(
        folder.absolute(), manifest, report, finding, planned[0], manifest.targets[places[0]],
        manifest.request.targets[places[0]], policy, Journal(folder).results(),
    )  # fmt: skip
    if planned[0].reason is not None or not recorded.trials:
        raise _nothing(recorded, f"was not assessed ({planned[0].reason or finding.reason})")
    if manifest.digest != manifest.request.digest():
        recorded.contradictions.append("manifest.json is not as the scan wrote it")
    if (report.audit.seed, report.audit.effort) != (manifest.request.seed, manifest.request.effort):
        recorded.contradictions.append("report.json names another seed or effort than manifest.json")
    return recorded


def load_registry(recorded: Recorded, plugin_files: Sequence[Path]) -> ProbeRegistry:
    """The probes, with the recorded trials judged again. A folder cannot name plugins: they are code.

    Raises UsageError where the probe is missing or its units had failed.
    """
    registry, name, manifest = ProbeRegistry.load(plugin_files), recorded.finding.probe, recorded.manifest
    if name not in registry.classes and manifest.request.plugins:
        raise UsageError(
            f"The probe '{name}' is not installed; the audit had it from {', '.join(manifest.request.plugins)}.",
            "Name its file with --plugin: it is code, and it is run.",
        )
    probe = registry.make(name, manifest.request.params.get(name))
    needed = [u for batch in rounds_needed(probe, recorded.planned, recorded.results, recorded.policy) for u in batch]
    if failed := [r.error for u in needed if (r := recorded.results.get(u.id)) and r.error]:
        raise _nothing(recorded, f"ended in an error ({failed[0]})")
    if any(unit.id not in recorded.results for unit in needed):
        raise UsageError(
            f"The audit had not finished {recorded.finding.id}.",
            "Finish it first: the command it was made with and the same --out go on.",
        )
    said = judge_again(recorded, registry)
    if (said.verdict, said.metric is None) != (recorded.finding.verdict, recorded.finding.metric is None) or not (
        said.metric is None or _same_figure(said, recorded.finding)
    ):
        recorded.contradictions.append(f"report.json says {_claim(recorded.finding)}, its trials say {_claim(said)}")
    return registry


def judge_again(recorded: Recorded, registry: ProbeRegistry) -> Finding:
    """What the recorded trials say under the report's policy."""
    manifest = recorded.manifest.model_copy(update={"planned": [recorded.planned]})
    ungated = recorded.policy.model_copy(update={"gate": "none"})
    return recorded.among_the_others(judge_audit(manifest, recorded.results, registry, ungated).findings[0])


def differences(recorded: Recorded, plan: Plan, environment: Mapping[str, object]) -> list[str]:
    """What differs beside the target and its data, one sentence each: it may change the outcome, and does not prevent a replay."""
    return list(_differences(recorded, plan, environment))


def changed(recorded: Recorded, info: TargetInfo, subject: Subject, reference: Subject | None) -> list[str]:
    """What of a target, its prompt and its data is not as it was. ``info``: what was recorded of it."""
    then = recorded.manifest.fingerprints.get(info.id, {})
    now = fingerprints(subject, reference, loaded=info.error is None)
    return changes(info, subject.info, then, now)


def compare(
    recorded: Recorded, finding: Finding, trials: Iterable[Trial], *, changed: Sequence[str], notes: Sequence[str], folder: str
) -> Replay:  # fmt: skip
    """The recorded finding against the one of a whole new run."""
    then, now = recorded.finding, recorded.among_the_others(finding)
    outcome, reason = outcome_of(then, now)
    trials = list(trials)
    return Replay(
        outcome=outcome, reason=reason, audit=recorded.manifest.id, finding=then.id, probe=then.probe, target=then.target,
        changed=list(changed), notes=list(notes), then=then, now=now, trials=_agreement(recorded.trials, trials),
        artifacts=_same_artifacts(recorded.trials, then, trials, now), folder=folder,
    )  # fmt: skip


_MEND = "Give an audit folder as a scan left it."


def _nothing(recorded: Recorded, why: str) -> UsageError:
    return UsageError(
        f"{recorded.finding.id} {why}: there is nothing to reproduce.",
        f"Mend the cause and scan again: {recorded.finding.reproduce}",
    )


def listed(findings: Sequence[Finding]) -> str:
    """Findings as an error names them."""
    named = [f"{f.id} ({f.probe} on {f.target})" for f in findings[:LISTED]]
    more = len(findings) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _exist(folder: Path, spec: TargetSpec) -> int:
    """How many of the relative paths that a spec may name are there."""
    texts = [spec.model, *spec.prompt, spec.reference, spec.data, spec.labels, spec.captions, spec.scorer]
    words = {word for text in texts if text for word in (text, *re.split(r"[:=,]", text)) if word}
    count = 0
    for word in words:
        try:
            count += not Path(word).is_absolute() and (folder / word).exists()
        except (OSError, ValueError):  # a text, too long for a name
            continue
    return count


def _differences(recorded: Recorded, plan: Plan, environment: Mapping[str, object]) -> Iterator[str]:
    manifest, name = recorded.manifest, recorded.finding.probe
    if manifest.version != __version__:
        yield f"The version of vlaudit differs: {manifest.version} then, {__version__} now."
    then, now = manifest.probes.get(name), probe_sources(plan.probes)[name]
    if then and then.version != now.version:
        yield f"The version of the probe differs: {then.version} then, {now.version} now."
    elif then and then.code != now.code:
        yield "The probe's code differs, though its version is the same."
    for key in ENVIRONMENT:
        old, new = manifest.environment.get(key), environment.get(key)
        if old != new and (old is not None or key in manifest.environment):
            what = key if key in ("device", "gpu", "system") else f"version of {key}"
            yield f"The {what} differs: {old or 'none'} then, {new or 'none'} now."
    if recorded.info.error is None and recorded.info.model.sha256 is None:
        yield "The model has no fingerprint, so whether it changed cannot be told."
    before, after = ([unit.id for unit in p.units if unit.id not in p.borrowed] for p in (recorded.planned, plan.planned[0]))
    if before != [id_ for id_ in after if not recorded.planned.borrowed or id_ in before]:
        old_cases, new_cases = (Counter(_cases(p)) for p in (recorded.planned, plan.planned[0]))
        same = (old_cases & new_cases).total()
        if old_cases != new_cases:
            yield f"The probe plans other cases: {same} of then {old_cases.total()} are among now {new_cases.total()}."
        else:
            yield "The probe plans the same cases with other parameters, on other data, or in another way."


def _cases(planned: PlannedProbe) -> list[tuple[str, str]]:
    return [(REFERENCE if unit.id in planned.borrowed else unit.arm, case) for unit in planned.units for case in unit.cases]


def outcome_of(then: Finding, now: Finding) -> tuple[Outcome, str]:
    """The outcome, and why in a few words."""
    if then.verdict is not now.verdict:
        why = f" ({now.reason})" if now.verdict is Verdict.NOT_ASSESSED else ""
        return Outcome.NOT_REPRODUCED, f"it was {WORDS[then.verdict]} and is {WORDS[now.verdict]} now{why}"
    if then.metric is None and now.metric is None:
        if _without_numbers(then.reason) == _without_numbers(now.reason):
            return Outcome.REPRODUCED, "the same verdict for the same reason, with no figure to compare"
        return Outcome.IN_PART, f"the same verdict for another reason: {now.reason}"
    if then.metric is None or now.metric is None or then.metric.name != now.metric.name:
        return Outcome.IN_PART, "the same verdict on another figure"
    if _same_figure(then, now):
        return Outcome.REPRODUCED, "the same verdict and the same figure"
    if _within(then.metric.value, now.metric.ci) and _within(now.metric.value, then.metric.ci):
        return Outcome.REPRODUCED, "the same verdict, and each figure within the other's interval"
    return Outcome.IN_PART, "the same verdict, but the figures lie outside each other's intervals"


def _same_figure(first: Finding, second: Finding) -> bool:
    if first.metric is None or second.metric is None:
        return False
    figures = [(m.name, m.value, *m.ci) for m in (first.metric, second.metric)]
    return alike(*figures)


def _within(value: float, ci: tuple[float, float]) -> bool:
    return ci[0] <= value <= ci[1]


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(?:[.,]\d+)*", "#", text)


def _claim(finding: Finding) -> str:
    figure = f", {interval(finding.metric, finding.metric.unit)}" if finding.metric else ""
    return WORDS[finding.verdict] + figure


def _agreement(then: Iterable[Trial], now: Iterable[Trial]) -> dict[str, Agreement]:
    """By arm, the trials whose values are equal but for the last bits, of those that either run has."""
    before, after = _by_place(then), _by_place(now)
    counts: dict[str, list[int]] = {}
    for place in before | after:
        count = counts.setdefault(place[0], [0, 0])
        count[0] += place in before and place in after and alike(before[place], after[place])
        count[1] += 1
    return {arm: Agreement(same=same, of=of) for arm, (same, of) in counts.items()}


def _by_place(trials: Iterable[Trial]) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Values by arm, case, and which of the trials of that case it is."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for trial in trials:
        place = (trial.arm, trial.case)
        found[(*place, seen[place])] = dict(trial.values)
        seen[place] += 1
    return found


def _same_artifacts(
    trials_then: Iterable[Trial], then: Finding, trials_now: Iterable[Trial], now: Finding
) -> Agreement | None:
    def hashes(trials: Iterable[Trial], finding: Finding) -> set[str]:
        kept: list[Evidence] = [item for trial in trials for item in trial.artifacts.values()]
        return {item.sha256 for item in (*kept, *finding.evidence)}

    before, after = hashes(trials_then, then), hashes(trials_now, now)
    return Agreement(same=len(before & after), of=len(before | after)) if before | after else None
