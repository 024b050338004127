"""``vlaudit.toml`` and the request it becomes: what to audit, with which probes, under which policy.

    [scan]
    effort = "standard"
    skip = ["typographic"]

    [[target]]
    model = "open_clip:local-dir:models/matcher"
    prompt = ["a photo of a {}", "coop:prompts/learned.safetensors"]
    data = "data/audit"
    groups = ["gender"]

    [probes.clip-autoattack]
    pictures = 256

    [policy.thresholds]
    clip-autoattack = 0.2

    [compliance]
    system = "Photo search"

Command-line flags win over the file. A file that was found, rather than named with ``--config``, may belong to the
audited repository: its paths must stay inside its folder, it reaches remote models only with ``--allow-network``, and its
policy can only tighten the gate. What it leaves out is said in the report.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from vlaudit.device import DEVICE, FORMS, Dtype
from vlaudit.entries import first_of, problems, without
from vlaudit.errors import UsageError
from vlaudit.files import Unreadable, read_text, read_toml, user_path
from vlaudit.policy import Policy
from vlaudit.records import Cover, Place

FILE_NAME = "vlaudit.toml"
PROJECT = "pyproject.toml"  # which may hold a config in its table [tool.vlaudit]
PATH_OPTIONS = {"file", "pool"}  # of the prompts' key=value that are paths
_TARGET = re.compile(r"\s*\[\[\s*(tool\.vlaudit\.)?[\"']?target[\"']?\s*\]\]")
Effort = Literal["quick", "standard", "thorough"]


BUDGETS: dict[Effort, float | None] = {"quick": 1800.0, "standard": 4 * 3600.0, "thorough": None}
"""Seconds of work that an audit may take by effort, where nothing else is asked for."""


def seconds(text: str) -> float:
    """``90``, ``90s``, ``10m`` or ``1.5h`` to seconds. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"'{text}' is not a time. Write for example 90s, 10m or 1h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TargetSpec(Closed):
    """One model with the prompts it is audited under, and the data."""

    model: str = Field(description="zoo:NAME, open_clip:…, hf:… as on the command line")
    prompt: list[str] = Field(default_factory=list, description="prompt SPECs; default: the plain prompt")
    reference: str | None = Field(None, description="SPEC of the reference prompt; default: the plain prompt")
    data: str | None = Field(None, description="folder in the Hugging Face ImageFolder convention, hf:NAME_OR_PATH or wds:SHARDS")
    columns: dict[str, str] = Field(default_factory=dict, description="by what a column means (image, label, question …), its name in the data")
    labels: str | None = Field(None, description="text file with one label a line")
    groups: list[str] = Field(default_factory=list, description="attribute columns to compare")
    captions: str | None = Field(None, description="file of captions to draw, one a line (text-to-image)")
    members: str | None = Field(None, description="'train', or the column that marks the prompt's training pictures")
    scorer: str | None = Field(None, description="matching model that says what a generated picture shows")
    _declared: Place | None = PrivateAttr(None)  # no part of what is audited

    @property
    def declared(self) -> Place | None:
        """Where a config names it; null where the command line does."""
        return self._declared


class ScanSettings(Closed):
    """Defaults of ``vlaudit scan``'s flags."""

    effort: Effort = "quick"
    budget: str | None = Field(None, description="time to divide among the probes, such as 30m, or none; default by effort")
    seed: int = Field(0, ge=0)
    device: str = "auto"
    dtype: Dtype = "auto"
    batch_size: int | None = Field(None, ge=1, description="examples a pass at most; by default as many as fit")
    probe: list[str] = Field(default_factory=list)
    skip: list[str] = Field(default_factory=list)

    @field_validator("budget")
    @classmethod
    def _is_time(cls, budget: str | None) -> str | None:
        if budget not in (None, "none"):
            seconds(budget)
        return budget

    @field_validator("device")
    @classmethod
    def _is_device(cls, device: str) -> str:
        if not re.fullmatch(DEVICE, device):
            raise ValueError(f"'{device}' is not a device. Write {FORMS}")
        return device

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds: what is set, else the effort's own; None for no end."""
        return BUDGETS[self.effort] if self.budget is None else None if self.budget == "none" else seconds(self.budget)


class Config(Closed):
    """The whole file."""

    target: list[TargetSpec] = Field(default_factory=list)
    scan: ScanSettings = ScanSettings()
    probes: dict[str, dict[str, Any]] = Field(default_factory=dict, description="parameters by probe id")
    policy: Policy = Policy()
    compliance: Cover = Cover()


class Request(Closed):
    """A resolved audit: one prompt a target, all probes named. Equal requests are the same audit."""

    targets: list[TargetSpec]
    probes: list[str]
    params: dict[str, dict[str, Any]] = Field(default_factory=dict)
    effort: Effort = "quick"
    budget: float | None = None  # seconds of work; null: all that the effort asks for
    seed: int = 0
    dtype: Dtype = "auto"
    policy: Policy = Policy()
    cover: Cover = Cover()
    plugins: list[str] = Field(default_factory=list)

    def digest(self) -> str:
        """Identity of the audit. Policy and cover are left out: they judge trials and name the file, they do not make them. So are settings of later
        versions at their defaults: an earlier audit stays itself."""
        later = {name for name in ("budget", "dtype") if getattr(self, name) == type(self).model_fields[name].default}
        return hashlib.sha256(self.model_dump_json(exclude={"policy", "cover"} | later).encode()).hexdigest()[:16]


def read_config(path: Path, *, trusted: bool) -> Config:
    """Read a config file; ``trusted`` when the user named it. Raises UsageError with the offending key and a cure."""
    config, wrong = look_at_config(path, trusted=trusted)
    if wrong:
        raise first_of(wrong, f"vlaudit validate {path}")
    return config


def found_config() -> Path | None:
    """The config of the current folder: ``vlaudit.toml``, else a ``pyproject.toml`` with a table ``[tool.vlaudit]``."""
    if os.path.lexists(FILE_NAME):
        return Path(FILE_NAME)
    try:
        return Path(PROJECT) if os.path.isfile(PROJECT) and project_table(read_toml(Path(PROJECT))) else None
    except Unreadable:
        return None  # whose it is will say so


def project_table(raw: dict[str, Any]) -> dict[str, Any]:
    """``[tool.vlaudit]`` of a ``pyproject.toml``; empty where there is none."""
    tool = raw.get("tool")
    table = tool.get("vlaudit") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else {}


def look_at_config(path: Path, *, trusted: bool) -> tuple[Config, list[UsageError]]:
    """What a config says, as far as its entries can be read, and all that is wrong with the others. Raises UsageError for what is no
    TOML."""
    try:
        raw = read_toml(path)
        lines = read_text(path).splitlines()
        if not any(map(str.strip, lines)):
            raise Unreadable("is empty")
        if path.name == PROJECT:
            raw = project_table(raw)
    except Unreadable as error:
        raise UsageError(f"The config file '{path}' {error}.", "Mend it; `vlaudit init` writes an example.") from error
    wrong: list[UsageError] = []
    for where, value in _strings(raw):
        if not value.strip() or "\0" in value:
            what = "holds a NUL character" if value.strip() else "is empty"
            wrong.append(UsageError(f"The entry '{where}' of the config file '{path}' {what}.", "Fill it in, or take it out."))
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        wrong += problems(f"The config file '{path}'", error, Config, "`vlaudit schema config` says what it may be.")
        try:
            config = Config.model_validate(without(raw, error))
        except ValidationError:
            config = Config()
    if wrong and any(not value.strip() or "\0" in value for _, value in _strings(raw)):
        return Config(probes=config.probes, policy=config.policy, scan=config.scan), wrong  # an empty name is no path
    folder, targets = Path(os.path.realpath(path)).parent, []
    for target in config.target:
        try:
            targets.append(_resolve_paths(target, folder, trusted))
        except UsageError as error:
            wrong.append(error)
    if not wrong:
        for target, place in zip(targets, _places(path, lines, len(targets)), strict=True):
            target._declared = place
    return config.model_copy(update={"target": targets}), wrong


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a config that say what to audit, with the name of their entry; an empty list counts as an empty text.
    Parameters of probes may be empty."""
    if isinstance(value, dict):
        for key, item in value.items():
            if where or key != "probes":
                yield from _strings(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list) and value:
        for number, item in enumerate(value, 1):
            yield from _strings(item, f"{where}[{number}]")
    elif isinstance(value, str | list):
        yield where, value if isinstance(value, str) else ""


def _places(path: Path, text: list[str], count: int) -> list[Place | None]:
    """Where a config declares each of its targets; null where the file lies outside the current folder, or its tables
    cannot be told apart by their headers."""
    lines = [number for number, line in enumerate(text, 1) if _TARGET.match(line)]
    try:
        file = Path(os.path.realpath(path)).relative_to(os.path.realpath(Path.cwd())).as_posix()
    except ValueError:
        return [None] * count
    return [Place(file=file, line=line) for line in lines] if len(lines) == count else [None] * count


def _resolve_paths(target: TargetSpec, folder: Path, trusted: bool) -> TargetSpec:
    """Make the file paths of a target absolute, relative to the config's folder; refuse those that leave it."""

    def resolve(value: str) -> str:
        path = Path(os.path.realpath(folder / user_path(value)))
        if not trusted and not path.is_relative_to(folder):
            raise UsageError(
                f"The config found in '{folder}' names '{value}', which lies outside its folder.",
                "Name the config with --config if you trust it.",
            )
        return str(path)

    def resolve_spec(spec: str) -> str:
        """Paths inside ``hf:DIR``, ``open_clip:local-dir:DIR`` and ``method:FILE`` specs."""
        method, colon, options = spec.partition(":")
        if colon and "{" not in method and re.match(r"\s*[\w-]+\s*=", options):
            named = [part.partition("=") for part in re.split(r",(?=\s*[\w-]+\s*=)", options)]
            return f"{method}:" + ",".join(
                f"{key}{is_}{resolve_option(key.strip(), value)}" for key, is_, value in named
            )
        if "{" in spec or spec.startswith("zoo:"):
            return spec
        head, _, tail = spec.rpartition(":")
        return f"{head}:{resolve(tail)}" if head and (head.endswith("local-dir") or is_path(tail)) else spec

    def resolve_option(key: str, value: str) -> str:
        """Paths in ``method:key=value,…``."""
        if key == "embedder":
            return resolve_spec(value)
        return resolve(value) if key in PATH_OPTIONS and not value.startswith("zoo:") else value

    def resolve_data(source: str) -> str:
        """Paths in ``DIR``, ``hf:DIR:SPLIT`` and ``wds:SHARDS``."""
        kind, colon, rest = source.partition(":")
        if not colon or kind not in ("hf", "wds", "zoo"):
            return resolve(source)
        if kind == "wds":
            return f"wds:{resolve(rest)}"
        parts = rest.split(":")
        ends = [count for count in range(len(parts), 0, -1) if os.path.exists(folder / user_path(":".join(parts[:count])))]
        count = ends[0] if ends else 1 if is_path(parts[0]) else 0
        if kind == "zoo" or not count:
            return source
        return ":".join([kind, resolve(":".join(parts[:count])), *parts[count:]])

    def is_path(value: str) -> bool:
        return value.startswith((".", "/", "~")) or os.path.exists(folder / value)

    return target.model_copy(
        update={
            "model": resolve_spec(target.model),
            "prompt": [resolve_spec(spec) for spec in target.prompt],
            "reference": resolve_spec(target.reference) if target.reference else None,
            "data": resolve_data(target.data) if target.data else None,
            "labels": resolve(target.labels) if target.labels else None,
            "captions": resolve(target.captions) if target.captions else None,
            "scorer": resolve_spec(target.scorer) if target.scorer else None,
        }
    )
