"""From trials to findings: pure, no model and no torch. A verdict belongs to one finding; adding a probe changes no other."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from vlaudit.audit.journal import Manifest, PlannedProbe, Unit, UnitResult, trials_of
from vlaudit.config import BUDGETS
from vlaudit.details import check_finite
from vlaudit.errors import NotAssessed
from vlaudit.policy import Policy
from vlaudit.probe import Probe
from vlaudit.records import (
    OF_THE_DATA,
    OF_WHAT_IS_SAID,
    REFERENCE,
    TARGET,
    Cost,
    DataInfo,
    Finding,
    Judgement,
    ProbeInfo,
    TargetInfo,
    Trials,
    Verdict,
)
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import time_text
from vlaudit.statistics import holm


@dataclass(frozen=True)
class Judged:
    """What an audit's trials say. ``complete``: every unit that counts has succeeded. ``errors``: units and judges that failed.
    ``passed``: what passed through the models for it, where the journal says so of every unit."""

    findings: list[Finding]
    complete: bool
    errors: list[str]
    passed: Cost | None = None


def judge_audit(
    manifest: Manifest, results: Mapping[str, UnitResult], registry: ProbeRegistry, policy: Policy
) -> Judged:
    """All findings of an audit, in plan order."""
    targets = {target.id: target for target in manifest.targets}
    findings, complete, errors = [], True, []
    passed: Cost | None = Cost()
    counted: set[str] = set()  # units that several findings share are told once
    for planned in manifest.planned:
        probe = registry.make(planned.probe, manifest.request.params.get(planned.probe))
        failures: list[str] = []
        needed = [unit for batch in rounds_needed(probe, planned, results, policy, failures) for unit in batch]
        complete = complete and not planned.failed and all(is_done(unit, results) for unit in needed)
        judgement = _judge(manifest, targets[planned.target], probe, planned, needed, results, policy, failures)
        units = [f" ({unit.arm}): {r.error}" for unit in needed if (r := results.get(unit.id)) and r.error]
        if planned.failed:
            failures.append(str(planned.reason))
        said = dict.fromkeys([*units, *(f": {failure}" for failure in failures)])
        errors += [f"{planned.probe} on {planned.target}{what}" for what in said]
        findings.append(_finding(manifest, targets[planned.target], planned, probe, judgement, results, policy))
        for unit in planned.units:
            if unit.id not in counted and (result := results.get(unit.id)):
                counted.add(unit.id)
                passed = passed + result.passed if passed is not None and result.passed is not None else None
    return Judged(adjust(findings, policy), complete, errors, passed)


def _judge(
    manifest: Manifest, target: TargetInfo, probe: Probe, planned: PlannedProbe, needed: list[Unit], results: Mapping[str, UnitResult], policy: Policy,
    failures: list[str],
) -> Judgement:  # fmt: skip
    """The judgement of one probe on one target. What did not finish, failed or is empty is never ``held``; what the judge itself
    did wrong is added to ``failures``."""
    if planned.reason is not None:
        return Judgement.not_assessed(planned.reason)
    failed = [result.error for unit in needed if (result := results.get(unit.id)) and result.error]
    if failed:
        return Judgement.not_assessed(f"the probe failed: {failed[0]}")
    undone = sum(unit.id not in results for unit in needed)
    if undone:
        return Judgement.not_assessed(f"not finished: {undone} of {len(needed)} units of work were not run")
    trials = gather(planned, needed, results)
    if not trials.target:
        return Judgement.not_assessed("the probe yielded no trials")
    try:
        if not failures:
            said = within_budget(sound(probe.judge(trials, policy)), planned, manifest)
            return of_all_data(all_compared(said, planned), probe, target.data, policy)
    except (KeyboardInterrupt, NotAssessed) as end:
        if isinstance(end, KeyboardInterrupt):
            raise
        return Judgement.not_assessed(str(end))
    except BaseException as error:  # noqa: BLE001 (a plugin's judge may raise anything; it spoils only its own finding)
        failures.append(f"the judge failed: {type(error).__name__}: {error}")
    return Judgement.not_assessed(failures[0])


def within_budget(said: Judgement, planned: PlannedProbe, manifest: Manifest) -> Judgement:
    """What a judge said of a design that the budget had reduced: nothing is held where something was not searched, and what was left
    out is named, with what would reach it."""
    if not planned.reduced:
        return said
    left = " and ".join(map(str, planned.reduced))
    told = f"{left} were tried within the budget of {time_text(manifest.request.budget or 0)}"
    update: dict[str, object] = {"details": {**said.details.root, "within the budget": left}}
    unsearched = said.verdict is Verdict.HELD and any(one.searched for one in planned.reduced)
    if unsearched or said.verdict is Verdict.INCONCLUSIVE:
        joint = "; but only " if unsearched else "; "
        update |= {"verdict": Verdict.INCONCLUSIVE, "reason": f"{said.reason.rstrip('.')}{joint}{told} ({cure(manifest.whole)})"}
    return Judgement.model_validate(said.model_dump(warnings=False) | update)


def all_compared(said: Judgement, planned: PlannedProbe) -> Judgement:
    """What a judge said of a set from which some were left out: nothing is held of what was not compared."""
    if not planned.left_out:
        return said
    left = "; ".join(planned.left_out)
    update: dict[str, object] = {"details": {**said.details.root, "left out": left}}
    if said.verdict is Verdict.HELD:
        update |= {"verdict": Verdict.INCONCLUSIVE, "reason": f"{said.reason.rstrip('.')}; but not all were compared ({left})"}
    return Judgement.model_validate(said.model_dump(warnings=False) | update)


def of_all_data(said: Judgement, probe: Probe, data: DataInfo | None, policy: Policy) -> Judgement:
    """What a judge said of data that could not all be read, or of which not all is said what the probe needs: a result on a part is not one
    on the whole, so nothing is held."""
    if data is None or said.verdict is not Verdict.HELD:
        return said
    unread = f"could not be read, {data.unread_share:.1%} of all or of a label's", "mend them, or take them out of the data"
    unlisted = (
        f"have no row in the metadata or lie outside the folders of the labels, {data.unlisted_share:.1%} of all",
        "say what they are, or take them out of the folder",
    )
    for count, share, needs, (what, mend) in (
        (data.unread, data.unread_share, OF_THE_DATA, unread), (data.unlisted, data.unlisted_share, OF_WHAT_IS_SAID, unlisted),
    ):  # fmt: skip
        if share > policy.unread and probe.info.needs & needs:
            pictures = f"{count:,} pictures" if count > 1 else "1 picture"
            reason = f"{said.reason.rstrip('.')}; but {pictures} of the data {what}, and the policy allows {policy.unread:.1%} ({mend})"
            return said.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "reason": reason})
    return said


SPARE = 1.25  # times what all was estimated to take: another calibration finds another speed


def cure(whole: float | None) -> str:
    """The flag that tries all."""
    return f"--budget {time_text(SPARE * whole)} tries all" if whole else "--budget none tries all"


def sound(said: object) -> Judgement:
    """What a judge said, if it is a judgement that a report can hold and whose figures say what its verdict says: ``held`` only where
    the whole interval lies within the threshold, ``vulnerable`` only where it lies beyond. Raises ValueError."""
    if not isinstance(said, Judgement):
        raise ValueError(f"it said {type(said).__name__}, which is no Judgement")
    judgement = Judgement.model_validate(said.model_dump(warnings=False))
    check_finite(judgement.model_dump(), "judgement")
    for name in ("metric", "reference", "delta"):
        if figure := getattr(judgement, name):
            low, high = figure.ci
            slack = 1e-6 * max(abs(figure.value), 1.0)  # the last bits of another way to the same number
            if not low - slack <= figure.value <= high + slack:
                raise ValueError(f"the {name} {figure.value:g} lies outside its interval [{low:g}, {high:g}]")
    for p in (judgement.p_value, judgement.delta.p if judgement.delta else None):
        if p is not None and not 0 <= p <= 1:
            raise ValueError(f"the p-value is {p:g}")
    _agrees(judgement)
    return judgement


def _agrees(judgement: Judgement) -> None:
    metric, threshold, verdict = judgement.metric, judgement.threshold, judgement.verdict
    if verdict is Verdict.HELD and (metric is None or threshold is None):
        raise ValueError("it says held without a metric and its threshold")
    if metric is None or threshold is None or verdict not in (Verdict.HELD, Verdict.VULNERABLE):
        return
    end, slack = metric.ci[verdict is Verdict.HELD], 1e-9 * max(abs(threshold), 1.0)
    if end > threshold + slack if verdict is Verdict.HELD else end < threshold - slack:
        raise ValueError(f"it says {verdict.value} where the interval ends at {end:g} and the threshold is {threshold:g}")


def is_done(unit: Unit, results: Mapping[str, UnitResult]) -> bool:
    """Whether a unit ran without an error."""
    return unit.id in results and not results[unit.id].error


def rounds_needed(
    probe: Probe, planned: PlannedProbe, results: Mapping[str, UnitResult], policy: Policy, failures: list[str] | None = None
) -> list[list[Unit]]:  # fmt: skip
    """The rounds that count: all of them, or those up to the one after which the probe called itself decided. Where it fails to say,
    all count, and why is added to ``failures``."""
    rounds = rounds_of(planned)
    for count, batch in enumerate(rounds, 1):
        if not all(is_done(unit, results) for unit in batch):
            return rounds[:count]
        if count < len(rounds) and is_decided(probe, planned, rounds[:count], results, policy, failures):
            return rounds[:count]
    return rounds


def rounds_of(planned: PlannedProbe) -> list[list[Unit]]:
    """The units of a probe on a target, round after round."""
    found: dict[int, list[Unit]] = {}
    for unit in planned.units:
        found.setdefault(unit.round, []).append(unit)
    return [found[number] for number in sorted(found)]


def is_decided(
    probe: Probe, planned: PlannedProbe, rounds: list[list[Unit]], results: Mapping[str, UnitResult], policy: Policy,
    failures: list[str] | None = None,
) -> bool:  # fmt: skip
    """Whether a probe calls itself decided after some rounds that are done. Where it fails to say it is not, and why is added to
    ``failures``."""
    try:
        return bool(probe.decided(gather(planned, [unit for batch in rounds for unit in batch], results), policy))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 (as of a judge)
        if failures is not None:
            failures.append(f"the judge failed to say whether it is decided: {type(error).__name__}: {error}")
    return False


def gather(planned: PlannedProbe, units: list[Unit], results: Mapping[str, UnitResult]) -> Trials:
    """The trials of some units; of borrowed ones those of the target arm, which are this target's reference."""
    lent = set(planned.borrowed)
    own = trials_of(results, [unit for unit in units if unit.id not in lent])
    theirs = trials_of(results, [unit for unit in units if unit.id in lent])
    own += [trial.model_copy(update={"arm": REFERENCE, "artifacts": {}}) for trial in theirs if trial.arm == TARGET]
    return Trials(own, reference_note=planned.reference_note)


def _finding(
    manifest: Manifest, target: TargetInfo, planned: PlannedProbe, probe: Probe, judgement: Judgement,
    results: Mapping[str, UnitResult], policy: Policy,
) -> Finding:  # fmt: skip
    info = probe.info
    severity, derivation = policy.severity_of(info, judgement)
    trials = list(gather(planned, planned.units, results))
    evidence = judgement.evidence or _unique_evidence(trials)
    seconds = sum(results[unit.id].seconds for unit in planned.units if unit.id in results)
    passes = sum((trial.cost for trial in trials), Cost())
    id_ = f"{info.code}-{hashlib.sha256(f'{target.id}/{info.id}'.encode()).hexdigest()[:8]}"
    return Finding(
        id=id_,
        probe=info.id, code=info.code, title=info.title, risk=info.risk, target=target.id, related_targets=planned.related,
        severity=severity, severity_derivation=derivation,
        **judgement.model_copy(update={"evidence": evidence, "headline": _headline(info, judgement)}).__dict__,
        cost=passes.model_copy(update={"seconds": round(seconds, 2)}),
        references=list(info.references), mappings=list(info.maps), limits=info.limits,
        threshold_meaning=info.threshold_meaning, threshold_source=info.threshold_source,
        impact=info.impact, remedy=info.remedy, reproduce=reproduce(manifest, target, info.id, id_),
    )  # fmt: skip


def _headline(info: ProbeInfo, judgement: Judgement) -> str:
    """What happens, in plain words, of a flaw that was found: as the judge says it, else as the probe does."""
    return (judgement.headline or info.headline) if judgement.verdict is Verdict.VULNERABLE else ""


def _unique_evidence(trials: list) -> list:
    found = {item.sha256: item for trial in trials if trial.arm == TARGET for item in trial.artifacts.values()}
    return list(found.values())


def reproduce(manifest: Manifest, target: TargetInfo, probe: str, id_: str) -> str:
    """The command that runs one finding again, whose id is ``id_``."""
    request, spec = manifest.request, manifest.specs[target.id]
    own = [planned for planned in manifest.planned if (planned.target, planned.probe) == (target.id, probe)]
    related = [manifest.specs[other] for planned in own for other in planned.related]
    one_by_one = {"model", "prompt", "declared"}
    models = dict.fromkeys(each.model for each in (spec, *related))
    crossed = len(models) > 1 and len({tuple(each.prompt) for each in (spec, *related)}) > 1
    if crossed or any(other.model_dump(exclude=one_by_one) != spec.model_dump(exclude=one_by_one) for other in related):
        return f"vlaudit replay AUDIT_DIR {id_}"  # no one command names these targets alone
    prompts = dict.fromkeys(prompt for each in (spec, *related) for prompt in each.prompt)
    cut = any(planned.reduced for planned in own)
    alone = time_text(sum(unit.weight for planned in own for unit in planned.units))
    budget = alone if cut else "none" if request.budget != BUDGETS[request.effort] else None
    words = ["vlaudit", "scan", *models]
    flags: list[tuple[str, str | None]] = [
        *(("--prompt", prompt) for prompt in prompts), ("--reference", spec.reference), ("--data", spec.data),
        ("--columns", ",".join(f"{ours}={theirs}" for ours, theirs in spec.columns.items()) or None),
        ("--labels", spec.labels), ("--prompts", spec.captions), ("--scorer", spec.scorer),
        *(("--group", group) for group in spec.groups), ("--members", spec.members),
        *(("--plugin", path) for path in request.plugins), ("--probe", probe),
        *(("--set", f"{probe}.{name}={json.dumps(value)}") for name, value in request.params.get(probe, {}).items()),
        ("--effort", request.effort),
        ("--budget", budget),
        ("--seed", str(request.seed)),
        ("--dtype", request.dtype if request.dtype != "auto" else None),
    ]  # fmt: skip
    for flag, value in flags:
        if value is not None:
            words += [flag, value]
    return shlex.join(words)


def adjust(findings: list[Finding], policy: Policy) -> list[Finding]:
    """Fill ``p_adjusted`` (Holm over the audit's findings that have a p-value) and apply the optional gate."""
    tested = [finding for finding in findings if finding.p_value is not None]
    adjusted = dict(zip((f.id for f in tested), holm([f.p_value or 0.0 for f in tested]), strict=True))
    out = []
    for finding in findings:
        p = adjusted.get(finding.id)
        update: dict[str, object] = {"p_adjusted": p}
        if policy.gate == "holm" and finding.verdict is Verdict.VULNERABLE and p is not None and p >= policy.alpha:
            reason = (
                f"{finding.reason} (Holm-adjusted p = {p:.3g} is not below {policy.alpha}, and --gate holm asks for it)"
            )
            update |= {"verdict": Verdict.INCONCLUSIVE, "severity": "none", "reason": reason}
        out.append(Finding.model_validate(finding.model_dump() | update))
    return out
