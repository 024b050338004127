"""What units of work look at: a target, or the reference prompt on a target's model, with its data; and how each is told from the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.audit.naming import digest, endings, grouped, last_part, steps, target_id, word
from vlaudit.config import TargetSpec
from vlaudit.errors import VlauditError
from vlaudit.families.base import Prompt, listed
from vlaudit.families.text_to_image import TextToImagePrompt
from vlaudit.records import TARGET, DataInfo, Family, ModelInfo, TargetInfo

if TYPE_CHECKING:
    from torch import Tensor

    from vlaudit.data.dataset import Dataset
    from vlaudit.families.base import Model, Target
    from vlaudit.probe import Context
    from vlaudit.scorer import Scorer

WORDINGS = 4  # texts of a prompt that a report shows


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
    scorer: Callable[[], Scorer] | None = None
    scorer_doubt: Callable[[], str | None] = lambda: None  # why it cannot be relied on
    pixels: dict[str, Tensor] = field(default_factory=dict)
    error: VlauditError | None = None

    def rename(self, new: str) -> None:
        self.id = new
        self.info = self.info.model_copy(update={"id": new})

    def lose(self, error: VlauditError) -> None:
        """The target turned out to be of no use."""
        self.target, self.error = None, error
        self.info = self.info.model_copy(update={"error": str(error)})

    def stands_for(self, other: Subject) -> bool:
        """Whether both are the same model under the same prompt, on the same data: what one measures holds for the other."""
        assert self.target is not None and other.target is not None
        return (
            resolve_zoo(self.spec).model == resolve_zoo(other.spec).model
            and self.info.prompt == other.info.prompt
            and self.data is other.data
            and self.labels == other.labels
            and self.info.scorer == other.info.scorer
        )


def resolve_zoo(spec: TargetSpec) -> TargetSpec:
    """Replace ``zoo:NAME`` by the specimen's model, prompt, data, groups and members; the user's own flags win."""
    if not spec.model.startswith("zoo:"):
        return spec
    from vlaudit.zoo import get

    whole = get(spec.model.removeprefix("zoo:")).target_spec()
    mine = {name: value for name, value in spec.model_dump(exclude={"model"}).items() if value}
    return whole.model_copy(update=mine)


def check_context(subject: Subject) -> Context:
    """A context outside any audit, for the checks that a target makes of itself."""
    from vlaudit.probe import Context
    from vlaudit.probe.artifacts import ArtifactStore

    return Context(
        "check",
        TARGET,
        subject.data,
        subject.labels,
        ArtifactStore(Path()),
        _target=subject.target,
        _pixels=subject.pixels,
    )


def info_of(spec: TargetSpec, model: Model, prompt: Prompt, data: Dataset, labels: list[str]) -> TargetInfo:
    from vlaudit.scorer import DEFAULT

    return TargetInfo(
        id=target_id(spec.model, prompt.id),
        family=model.family,
        model=ModelInfo(
            spec=spec.model, sha256=model.sha256 or None, revision=model.revision, dtype=model.dtype, notes=list(model.remarks)
        ),
        declared=spec.declared,
        prompt=prompt.info(),
        data=data_info(data, labels, model.family),
        scorer=(spec.scorer or DEFAULT) if model.family is Family.TEXT_TO_IMAGE else None,
        wordings=[prompt.wording(caption) for caption in data.captions[:WORDINGS]]
        if isinstance(prompt, TextToImagePrompt)
        else [],
    )


def data_info(data: Dataset, labels: list[str], family: Family) -> DataInfo:
    return DataInfo(
        source=data.source, examples=len(data.examples), labels=labels, groups=list(data.groups),
        members=sum(example.member is True for example in data.examples), sha256=data.sha256,
        captions=len(data.captions) if family is Family.TEXT_TO_IMAGE else 0,
        notes=[*data.notes, *unpictured(data, labels)], unread=data.unread.total(), unread_share=data.unread_share,
        unlisted=data.unlisted, unlisted_share=data.unlisted_share,
    )  # fmt: skip


def unpictured(data: Dataset, labels: Sequence[str]) -> list[str]:
    """A sentence on the labels that no picture has, where pictures have labels."""
    empty = [label for label in labels if label not in set(data.labels)] if data.labels else []
    return [f"{len(empty)} of {len(labels)} labels have no picture: {listed(empty)}."] if empty else []


def tell_apart(targets: Sequence[Subject], references: Sequence[Subject]) -> None:
    """Give models and prompts of one name, and what is left of one id, names by the shortest part of their paths that
    differs: all of them, so that no name depends on an order. What has a name of its own keeps it."""
    subjects = [*targets, *references]
    named = {subject.info.model.spec for subject in targets}
    models: dict[str, str] = {}
    for specs in (
        named,
        {subject.info.model.spec for subject in references} - named,
    ):  # a specimen's weights have two names
        models |= endings({spec: (last_part(spec), steps(spec), spec) for spec in specs})
    prompts = endings({key: (key[0], steps(key[1]), key[2]) for key in map(_prompt_key, subjects)})
    for subject in subjects:
        own, ending = subject.info.prompt.id, prompts[_prompt_key(subject)]
        if subject.target is not None:
            subject.target.prompt.id = own + ending
        prompt = subject.info.prompt.model_copy(update={"id": own + ending})
        subject.info = subject.info.model_copy(update={"prompt": prompt})
        model = subject.info.model.spec
        subject.rename(f"{word(last_part(model))}{models[model]}~{word(own)}{ending}")
    for group in (targets, references):
        for id_, alike in grouped(group, lambda subject: subject.id).items():
            places = endings({s.data.source: ("", steps(s.data.source), s.data.source) for s in alike})
            for subject in alike if len(alike) > 1 else ():
                subject.rename(id_ + places[subject.data.source])
        for last in (
            False,
            True,
        ):  # by what it is, which a shared reference says in any order; then by how it was named
            for id_, alike in grouped(group, lambda subject: subject.id).items():
                for subject in alike if len(alike) > 1 else ():
                    measured = {"dtype": True, "notes": True}
                    info = subject.info.model_dump_json(exclude={"id": True, "declared": True, "reference": True, "model": measured})
                    subject.rename(f"{id_}-{digest(subject.spec.model_dump_json() if last else info)}")


def _prompt_key(subject: Subject) -> tuple[str, str, str]:
    """What makes a prompt itself: its id, its file or folder, its text."""
    prompt = subject.info.prompt
    return prompt.id, os.path.abspath(prompt.path) if prompt.path else "", prompt.text
