"""What a scan was asked for: the flags on top of ``vlaudit.toml``, and what a file that was merely found may say."""

from __future__ import annotations

import os
import shlex
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit import cage
from vlaudit.cli import new_folder
from vlaudit.cli.render import reporter_names
from vlaudit.config import FILE_NAME, Config, Request, ScanSettings, TargetSpec, found_config, read_config
from vlaudit.device import FORMS
from vlaudit.errors import UsageError
from vlaudit.policy import Policy
from vlaudit.suppressions import IGNORE_FILE, Entry, read_suppressions

if TYPE_CHECKING:
    from vlaudit.records import Family, Report
    from vlaudit.registry import ProbeRegistry


@dataclass(frozen=True)
class Asked:
    """All that flags and files ask of one scan, read and checked before any plugin or model is loaded."""

    flags: dict[str, Any]  # of the command, by their Python names
    config: Config
    trusted: bool  # whether the user vouches for what the config names (no config names nothing)
    settings: ScanSettings
    policy: Policy
    specs: list[TargetSpec]  # one a target and prompt
    is_default: bool  # whether they are the bundled ones, because none was named
    baseline: Report | None
    accepted: list[Entry]
    notes: list[str]  # what the report says of files that were found
    out: Path
    command: str
    deadline: float | None  # on the clock of ``time.monotonic``

    @property
    def first_look(self) -> dict[str, dict[str, Any]]:
        """The probes of a first scan of the bundled specimens, where nothing is chosen, with what shortens them: they show what is planted
        and a little of each risk. Empty for any other scan."""
        from vlaudit.zoo import FIRST_LOOK

        return FIRST_LOOK if self.is_default and not self.settings.probe and self.flags["effort"] is None else {}

    @property
    def chosen(self) -> list[str]:
        """Selectors of the probes; none for all."""
        return list(self.first_look) or self.settings.probe

    def request(self, registry: ProbeRegistry) -> Request:
        """What is to be planned; of the probes, every one that is chosen. Raises UsageError."""
        given, first = _params(self.config.probes, self.flags["settings"]), self.first_look
        params = {name: {**first.get(name, {}), **given.get(name, {})} for name in {**first, **given}}
        try:
            chosen = registry.select(self.chosen, self.settings.skip)
            for name, values in params.items():
                registry.make(name, values)  # a misspelt probe or parameter is said now, before a model is loaded
        except UsageError:
            if not (cage.ended and cage.ended.only_say):
                raise
            chosen = self.settings.probe  # a plugin's, whose file is not read again
        if not chosen:
            raise UsageError("No probe is left to run.", "Take back a --skip.")
        for name in _params({}, self.flags["settings"]):
            if name not in chosen and not cage.ended:
                raise UsageError(f"--set gives a parameter to {name}, which is not run.", "Choose the probe too, or take it out.")
        return Request(
            targets=self.specs, probes=chosen, params={name: params[name] for name in chosen if params.get(name)},
            effort=self.settings.effort, budget=self.settings.budget_seconds, seed=self.settings.seed, dtype=self.settings.dtype,
            policy=self.policy, cover=self.config.compliance,
            plugins=[str(path) for path in self.flags["plugins"]],
        )  # fmt: skip

    def check_policy(self, registry: ProbeRegistry) -> None:
        """Raise UsageError where the policy sets what no probe has, or where a config that was found, and so may belong to what is
        audited, lowers the gate."""
        infos = [probe.info for probe in registry.classes.values()]
        self.policy.check(infos)
        relaxed = [] if self.trusted else self.config.policy.relaxations(infos)
        if relaxed:
            raise UsageError(
                f"The {FILE_NAME} found here may belong to what is audited, and its policy lowers the gate: {', '.join(relaxed)}.",
                f"If you trust it, name it with --config {FILE_NAME}; else take these entries out.",
            )

    def narrowed(self, request: Request, registry: ProbeRegistry, families: set[Family]) -> list[str]:
        """What a config that was found leaves out of the audit, or sets otherwise, one sentence each."""
        if self.trusted:
            return []
        named, said = self.flags["probes"], []
        asked = registry.select(named, self.flags["skip"])
        asked = [name for name in asked if named or registry.get(name).info.families & families]
        left_out = [name for name in asked if name not in request.probes]
        if left_out:
            names = ", ".join(left_out[:8]) + (f" and {len(left_out) - 8} more" if len(left_out) > 8 else "")
            said.append(f"The {FILE_NAME} found here leaves out {len(left_out)} of {len(asked)} probes: {names}.")
        if request.seed != ScanSettings().seed and self.flags["seed"] is None:
            said.append(f"The {FILE_NAME} found here sets the seed {request.seed}.")
        if request.dtype != ScanSettings().dtype and self.flags["dtype"] is None:
            said.append(f"The {FILE_NAME} found here sets the precision {request.dtype}.")
        for name, params in request.params.items():
            found = self.config.probes.get(name, {})
            values = ", ".join(f"{key} = {value!r}" for key, value in params.items() if key in found and found[key] == value)
            if values:
                said.append(f"The {FILE_NAME} found here sets parameters of {name}: {values}.")
        return said


def read_flags(flags: dict[str, Any]) -> Asked:
    """What ``flags`` and the config ask for. From here on the time of ``--max-time`` runs. Raises UsageError."""
    deadline = time.monotonic() + flags["max_time"] if flags["max_time"] is not None else None
    cage.say(until=deadline)
    config, trusted = _config(flags["config"])
    settings = _settings(config.scan, flags)
    reporter_names(flags["formats"])  # a misspelt one is said now, not after an hour
    baseline = earlier_report(flags)
    accepted, notes = accepted_findings(flags["ignore_file"])
    specs, is_default = _targets(config, flags)
    return Asked(
        flags=flags, config=config, trusted=trusted, settings=settings, policy=_policy(config.policy, flags), specs=specs,
        is_default=is_default, baseline=baseline, accepted=accepted, notes=notes, out=flags["out"] or new_folder(),
        command=shlex.join(["vlaudit", *sys.argv[1:]]), deadline=deadline,
    )  # fmt: skip


def _config(path: Path | None) -> tuple[Config, bool]:
    """The config, and whether it is trusted."""
    if path is not None:
        return read_config(path, trusted=True), True
    found = found_config()
    return (read_config(found, trusted=False), False) if found else (Config(), True)


def _settings(settings: ScanSettings, flags: dict[str, Any]) -> ScanSettings:
    """The config's scan settings with the flags that were given on top."""
    scalars = ("effort", "budget", "seed", "device", "dtype", "batch_size")
    given = {name: flags[name] for name in scalars if flags[name] is not None}
    if flags["probes"]:
        given["probe"] = list(flags["probes"])
    if flags["skip"]:
        given["skip"] = list(flags["skip"])
    try:
        return ScanSettings.model_validate(settings.model_dump() | given)
    except ValueError as error:
        raise UsageError(f"'{flags['device']}' is not a device.", f"Write {FORMS}.") from error


def _params(config: dict[str, dict[str, Any]], settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The config's parameters by probe, with those of ``--set PROBE.NAME=VALUE`` on top. A value is read as in TOML, else as a text."""
    params = {probe: dict(values) for probe, values in config.items()}
    for text in settings:
        key, given, value = text.partition("=")
        probe, dot, name = key.strip().partition(".")
        if not (given and dot and probe and name):
            raise UsageError(f"--set cannot read '{text}'.", "Write PROBE.NAME=VALUE, such as rank-skew.pictures=5000.")
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value
        params.setdefault(probe, {})[name] = read
    return params


def _policy(policy: Policy, flags: dict[str, Any]) -> Policy:
    """The config's policy with the flags that were given on top."""
    given = {name: flags[name] for name in ("gate", "fail_on", "strict") if flags[name] not in (None, "new")}
    return Policy.model_validate(policy.model_dump() | given)


def _targets(config: Config, flags: dict[str, Any]) -> tuple[list[TargetSpec], bool]:
    """One spec a target and prompt. The flags fill in or replace what the config says."""
    from vlaudit.zoo import DEFAULTS

    specs = [TargetSpec(model=model) for model in flags["targets"]] or config.target
    is_default = not specs
    given: dict[str, Any] = {
        "reference": flags["reference"],
        "data": flags["data"],
        "columns": _columns(flags["columns"]) if flags["columns"] else None,
        "labels": flags["labels"] and str(flags["labels"]),
        "groups": list(flags["groups"]) or None,
        "captions": flags["captions"] and str(flags["captions"]),
        "members": flags["members"],
        "scorer": flags["scorer"],
    }
    given = {name: value for name, value in given.items() if value is not None}
    prompts = list(flags["prompts"])
    if is_default:
        specs = [TargetSpec(model=f"zoo:{name}") for name in DEFAULTS]
        specs = specs[:1] if prompts or given else specs
    merged = [spec.model_copy(update=given) for spec in specs]
    return [
        spec.model_copy(update={"prompt": [] if prompt is None else [prompt]})
        for spec in merged
        for prompt in (prompts or spec.prompt or [None])
    ], is_default


def _columns(texts: Sequence[str]) -> dict[str, str]:
    """``image=img,label=category`` by what a column means here. Raises UsageError."""
    found: dict[str, str] = {}
    for pair in (pair for text in texts for pair in text.split(",")):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (equals and ours and theirs) or ours in found:
            what = f"names '{ours}' twice" if ours in found else f"cannot read '{pair}'"
            raise UsageError(f"--columns {what}.", "Write NAME=COLUMN,…, such as image=img,label=category.")
        found[ours] = theirs
    return found


def accepted_findings(path: Path | None) -> tuple[list[Entry], list[str]]:
    """The entries of the file that a flag names. One that was found is not applied, and that is said."""
    if path is not None:
        return read_suppressions(path), []
    if not os.path.lexists(IGNORE_FILE):
        return [], []
    return [], [
        f"The {IGNORE_FILE} found here may belong to what is audited, so nothing is accepted by it; "
        f"--ignore-file {IGNORE_FILE} applies it."
    ]


def earlier_report(flags: dict[str, Any]) -> Report | None:
    """The report to compare with. Raises UsageError where there is none."""
    from vlaudit.audit.run import read_report

    if flags["baseline"] is None:
        if flags["fail_on"] == "new":
            raise UsageError("--fail-on new needs something to compare with.", "Add --baseline AUDIT_DIR.")
        return None
    return read_report(flags["baseline"])
