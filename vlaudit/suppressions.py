"""``.vlaudit-ignore.toml``: findings that somebody has accepted for a while, with a reason. Torch-free.

    [[ignore]]
    probe = "typographic"                  # id or code
    target = "matcher~*"                   # id of the target; * stands for anything
    reason = "no text in the product's pictures"
    owner = "ada@example.org"
    expires = 2027-03-01                   # within a year
    ticket = "SEC-42"                      # optional

Only a file that ``--ignore-file`` names is applied: one that lies in the folder may belong to what is audited. A suppressed finding
keeps its verdict and is shown in every report; it does not stop a pipeline. One that has expired is not applied, and one that matches
nothing is named: both are warnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from vlaudit.entries import first_of, problems
from vlaudit.errors import UsageError, did_you_mean
from vlaudit.files import Unreadable, read_toml
from vlaudit.records import Finding, Report, Suppression

IGNORE_FILE = ".vlaudit-ignore.toml"
LONGEST = timedelta(days=366)


class Entry(BaseModel):
    """One ``[[ignore]]`` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    probe: str = Field(min_length=1)
    target: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    expires: date
    ticket: str = ""
    _file: str = PrivateAttr("")

    def covers(self, finding: Finding) -> bool:
        """Whether a finding is meant."""
        return self.probe in (finding.probe, finding.code) and fnmatchcase(finding.target, self.target)

    def __str__(self) -> str:
        return f"{self.probe} on {self.target} ({self.owner}, until {self.expires})"


def read_suppressions(path: Path, today: date | None = None) -> list[Entry]:
    """The entries of a file, expired ones too. Raises UsageError with the offending entry and a cure."""
    entries, wrong = look_at_suppressions(path, today)
    if wrong:
        raise first_of(wrong, f"vlaudit validate {path}")
    return entries


def look_at_suppressions(path: Path, today: date | None = None) -> tuple[list[Entry], list[UsageError]]:
    """The entries of a file that can be read, and all that is wrong with the others. Raises UsageError for what is no TOML."""
    try:
        raw = read_toml(path)
    except Unreadable as error:
        raise UsageError(f"The file '{path}' {error}.", "Write [[ignore]] tables, see docs/ci.md.") from error
    wrong = [
        UsageError(f"The file '{path}' has an unknown entry '{name}'.", did_you_mean(name, ["ignore"])) for name in sorted(set(raw) - {"ignore"})
    ]
    tables = raw.get("ignore", [])
    if not isinstance(tables, list):
        return [], [*wrong, UsageError(f"The file '{path}' has one [ignore] table.", "Write [[ignore]], with two brackets.")]
    entries = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(_entry(path, number, table, today or _today()))
        except ValidationError as error:
            cure = "A suppression needs probe, target, reason, owner and expires."
            wrong += problems(f"[[ignore]] {number} of '{path}'", error, Entry, cure)
        except UsageError as error:
            wrong.append(error)
    return entries, wrong


def suppress(report: Report, entries: Sequence[Entry], today: date | None = None) -> tuple[Report, list[str]]:
    """The report with the suppressions that hold, and a warning for each that has expired or matches nothing."""
    today = today or _today()
    warnings = []
    findings = list(report.findings)
    for entry in entries:
        covered = [index for index, finding in enumerate(findings) if entry.covers(finding)]
        if entry.expires < today:
            warnings.append(f"The suppression of {entry} has expired: what it covered counts again.")
        elif not covered:
            warnings.append(f"The suppression of {entry} matches no finding of this audit.")
        else:
            said = Suppression(
                reason=entry.reason, owner=entry.owner, expires=entry.expires.isoformat(), ticket=entry.ticket,
                file=entry._file,
            )
            for index in covered:
                findings[index] = findings[index].model_copy(update={"suppressed": said})
    return report.model_copy(update={"findings": findings}), warnings


def _entry(path: Path, number: int, table: object, today: date) -> Entry:
    entry = Entry.model_validate(table)
    if entry.expires > today + LONGEST:
        raise UsageError(
            f"[[ignore]] {number} of '{path}' expires on {entry.expires}, more than a year from now.",
            "Accept a risk for a year at most, and look again then.",
        )
    entry._file = str(path)
    return entry


def _today() -> date:
    return datetime.now(UTC).date()
