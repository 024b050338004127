"""From specs to loaded targets: ``zoo:``, ``open_clip:``, ``hf:``; prompts; data. One model is loaded once."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.config import TargetSpec
from vlaudit.errors import ModelError, UnsafeFileError, UsageError, VlauditError
from vlaudit.prompts.base import Prompt
from vlaudit.prompts.template import PLAIN, Template
from vlaudit.records import DataInfo, Family, ModelInfo, PromptInfo, TargetInfo
from vlaudit.registry import plugin, plugins

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.backends.base import Backend
    from vlaudit.data.dataset import Dataset
    from vlaudit.families.base import Model, Target


@dataclass
class Subject:
    """What a unit of work loads: a target, or the reference prompt on a target's model, with its data."""

    id: str
    spec: TargetSpec
    info: TargetInfo
    data: Dataset
    labels: list[str]
    files: list[Path]
    target: Target | None = None
    pixels: dict[str, Tensor] = field(default_factory=dict)
    error: VlauditError | None = None

    def rename(self, new: str) -> None:
        self.id = new
        self.info = self.info.model_copy(update={"id": new})


class Loader:
    """Loads models, prompts and data once each. ``allow_network`` is needed for remote specs of an untrusted config."""

    def __init__(self, device: torch.device, *, allow_network: bool) -> None:
        self._device = device
        self._allow_network = allow_network
        self._models: dict[str, Model | VlauditError] = {}
        self._pixels: dict[tuple[str, str], dict[str, Tensor]] = {}
        self._data: dict[str, Dataset] = {}

    def subjects(self, specs: list[TargetSpec]) -> tuple[list[Subject], dict[str, Subject]]:
        """The targets, and their reference subjects by id. Raises UsageError for whatever the user can mend first."""
        targets: list[Subject] = []
        references: dict[str, Subject] = {}
        for spec in specs:
            subject = self._subject(spec)
            if any(other.spec == spec for other in targets):
                raise UsageError(
                    f"The target '{spec.model}' with prompt {spec.prompt} is named twice.", "Name it once."
                )
            if any(other.id == subject.id for other in targets):
                subject.rename(f"{subject.id}-{hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:6]}")
            targets.append(subject)
            if subject.target is not None:
                reference = self._reference(subject)
                if reference is not None:
                    references.setdefault(reference.id, reference)
        return targets, references

    def _subject(self, spec: TargetSpec) -> Subject:
        resolved = resolve_zoo(spec)
        data, labels = self.load_data(resolved)
        backend, argument = parse_model(resolved.model)
        files = [*backend.files(argument), *prompt_files(resolved.prompt)]
        try:
            model = self._model(resolved.model)
            prompt = parse_prompt(resolved.prompt[0] if resolved.prompt else PLAIN)
            if not data.has_members and prompt.members:
                data = data.with_member_hashes(prompt.members)
            target = prompt.bind(model)
            pixels = self._pixels.setdefault((resolved.model, data.source), {})
            info = _info(spec, model, prompt, data, labels)
            subject = Subject(info.id, spec, info, data, labels, files, target, pixels)
            check_output(subject)
            return subject
        except (ModelError, UnsafeFileError) as error:
            info = TargetInfo(
                id=_slug(spec.model, resolved.prompt[0] if resolved.prompt else PLAIN),
                family=Family.MATCHING,
                model=ModelInfo(spec=spec.model),
                prompt=PromptInfo(id=resolved.prompt[0] if resolved.prompt else PLAIN, method="unknown"),
                data=_data_info(data, labels),
                error=str(error),
            )
            return Subject(info.id, spec, info, data, labels, files, error=error)

    def _reference(self, subject: Subject) -> Subject | None:
        """The same model under the reference prompt, or None (with a note) when that is the target itself."""
        assert subject.target is not None
        spec = resolve_zoo(subject.spec).reference
        prompt = parse_prompt(spec) if spec else Template(PLAIN)
        if (prompt.method, prompt.text) == (subject.target.prompt.method, subject.target.prompt.text):
            note = f"the target is the reference: the prompt is '{prompt.text}' itself"
            subject.info = subject.info.model_copy(update={"reference_note": note})
            return None
        target = prompt.bind(subject.target.model)
        info = _info(subject.spec, subject.target.model, prompt, subject.data, subject.labels)
        subject.info = subject.info.model_copy(update={"reference": info.id})
        return Subject(info.id, subject.spec, info, subject.data, subject.labels, subject.files, target, subject.pixels)

    def _model(self, spec: str) -> Model:
        if spec not in self._models:
            backend, argument = parse_model(spec)
            if backend.is_remote(argument) and not self._allow_network:
                raise UsageError(
                    f"'{spec}' is a remote model, named by a config that was found rather than given.",
                    "Add --allow-network, or name the config with --config.",
                )
            try:
                self._models[spec] = backend.load(argument, self._device)
            except ModelError as error:
                self._models[spec] = error
        loaded = self._models[spec]
        if isinstance(loaded, VlauditError):
            raise loaded
        return loaded

    def load_data(self, spec: TargetSpec) -> tuple[Dataset, list[str]]:
        """The data of a target and its labels in order. Raises UsageError for data that cannot be audited."""
        from vlaudit.data.dataset import load_dataset, read_labels

        key = f"{spec.data}|{spec.groups}|{spec.members}|{spec.labels}"
        if key not in self._data:
            if spec.data is None:
                raise UsageError(
                    f"The target '{spec.model}' has no data to be audited on.",
                    "Give --data DIR with labelled pictures (one folder a class, or a metadata.csv).",
                )
            self._data[key] = load_dataset(spec.data, groups=spec.groups, members=spec.members)
        data = self._data[key]
        labels = read_labels(Path(spec.labels)) if spec.labels else data.labels
        missing = sorted(set(data.labels) - set(labels))
        if missing:
            raise UsageError(
                f"The labels file '{spec.labels}' lacks {len(missing)} labels of the data, such as '{missing[0]}'.",
                "Every label of the data must be in it.",
            )
        return data, labels


def resolve_zoo(spec: TargetSpec) -> TargetSpec:
    """Replace ``zoo:NAME`` by the specimen's model, prompt, data, groups and members; the user's own flags win."""
    if not spec.model.startswith("zoo:"):
        return spec
    from vlaudit.zoo import get

    whole = get(spec.model.removeprefix("zoo:")).target_spec()
    mine = {name: value for name, value in spec.model_dump(exclude={"model"}).items() if value}
    return whole.model_copy(update=mine)


def parse_model(spec: str) -> tuple[Backend, str]:
    """``BACKEND:ARGUMENT`` to the backend and its argument. Raises UsageError with a did-you-mean."""
    name, colon, argument = spec.partition(":")
    if not colon or not argument:
        known = ", ".join(f"{backend}:…" for backend in plugins("backends"))
        raise UsageError(
            f"'{spec}' is not a target.", f"Write one of {known} or zoo:NAME (see vlaudit list specimens)."
        )
    return plugin("backends", name)(), argument


def parse_prompt(spec: str) -> Prompt:
    """A prompt SPEC: text with ``{`` is a template, otherwise ``method:FILE`` or ``method:key=value,…``."""
    method, colon, argument = spec.partition(":")
    if colon and method in plugins("prompts") and "{" not in method:
        return plugin("prompts", method).parse(argument)
    if "{" in spec:
        return Template(spec)
    if colon:
        return plugin("prompts", method).parse(argument)  # raises with a did-you-mean
    raise UsageError(
        f"'{spec}' is not a prompt.",
        f"Write a template such as '{PLAIN}', or METHOD:FILE with {', '.join(plugins('prompts'))}.",
    )


def prompt_files(specs: list[str]) -> list[Path]:
    """The files that prompt SPECs name."""
    paths = [Path(spec.partition(":")[2]) for spec in specs if "{" not in spec and ":" in spec]
    return [path for path in paths if path.is_file()]


def check_output(subject: Subject) -> None:
    """Raise ModelError when the target yields NaN, or the same features for different labels: nothing it says would
    mean anything."""
    import torch

    from vlaudit.audit.context import ArtifactStore, Context

    target = subject.target
    ctx = Context(
        "check", "target", subject.data, subject.labels, ArtifactStore(Path()), _target=target, _pixels=subject.pixels
    )
    examples = subject.data.audit[:16]
    with torch.no_grad():
        logits = ctx.target.classifier(subject.labels)(ctx.images(examples))
    if not torch.isfinite(logits).all():
        raise ModelError(
            f"'{subject.spec.model}' yields NaN or infinite scores for its pictures.", "Its weights are damaged."
        )
    if len(subject.labels) > 1 and bool((logits.std(dim=1) < 1e-6).all()):
        raise ModelError(
            f"'{subject.spec.model}' gives every label the same score.",
            "Its tokenizer does not fit its text tower, or the labels are unknown words.",
        )


def _info(spec: TargetSpec, model: Model, prompt: Prompt, data: Dataset, labels: list[str]) -> TargetInfo:
    return TargetInfo(
        id=_slug(spec.model, prompt.id),
        family=model.family,
        model=ModelInfo(spec=spec.model, sha256=model.sha256),
        prompt=prompt.info(),
        data=_data_info(data, labels),
    )


def _data_info(data: Dataset, labels: list[str]) -> DataInfo:
    return DataInfo(
        source=data.source, examples=len(data.examples), labels=labels, groups=list(data.groups),
        members=sum(example.member is True for example in data.examples), sha256=data.sha256,
    )  # fmt: skip


def _slug(model: str, prompt: str) -> str:
    """A readable id, safe in file names: the model's last part and the prompt."""
    name = model.rstrip("/").rpartition("/")[2] if "/" in model else model.rpartition(":")[2]
    return "~".join(re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip("-")[:48] or "x" for part in (name, prompt))
