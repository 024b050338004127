"""What the reports for others' registries share: names that say nothing of this machine, hashes, the time, one order."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from vlaudit.plugins import plugins
from vlaudit.records import AuditInfo, Family, Finding, PromptInfo
from vlaudit.reporting import log_line

TASKS = {
    Family.MATCHING: "zero-shot-image-classification",
    Family.GENERATION: "image-text-to-text",
    Family.TEXT_TO_IMAGE: "text-to-image",
}
"""The Hugging Face Hub's names of the families' tasks."""
MAX_NAME = 200  # characters

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def model_name(spec: str) -> str:
    """The name of a model without its backend; of a path only the last part: ``hf:org/name`` is ``org/name``,
    ``hf:/home/ada/secret/clip`` is ``clip``, ``openai:https://host/v1#name`` is ``name``."""
    argument = spec.partition(":")[2] or spec
    name = argument.removeprefix("local-dir:").removeprefix("hf-hub:")
    name = name.rpartition("#")[2].partition("?")[0] or name
    parts = [part for part in re.split(r"[\\/]+", name) if part]
    is_path = argument.startswith(("local-dir:", ".", "/", "~")) or "\\" in name or name.count("/") > 1
    return log_line(parts[-1] if parts and is_path else name, MAX_NAME) or "model"


def data_name(source: str) -> str:
    """The name of a data set: bundled ones as they are called (``zoo:NAME``), of a folder only the last part."""
    parts = [part for part in re.split(r"[\\/]+", source) if part]
    return log_line(source if source.startswith("zoo:") or not parts else parts[-1], MAX_NAME) or "data"


def valid_sha256(text: str | None) -> str | None:
    """The hash in lower case, or None for what is none."""
    return text.lower() if text and _SHA256.fullmatch(text) else None


def audit_time(audit: AuditInfo) -> datetime | None:
    """When the audit ended (began, if it did not end), in UTC; None if its record does not say."""
    try:
        moment = datetime.fromisoformat(audit.finished or audit.started)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def is_learned(prompt: PromptInfo) -> bool:
    """Whether the prompt is a file that was learned for one model, as its method says; one of an unknown method is not
    known to be."""
    known = plugins("prompts").get(prompt.method)
    return prompt.sha256 is not None and known is not None and bool(known.load().learned)


def verdict_text(finding: Finding) -> str:
    """The verdict, and that it is suppressed: ``vulnerable, suppressed``."""
    return finding.verdict.value + (", suppressed" if finding.suppressed else "")
