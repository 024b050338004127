"""From specs to loaded targets: ``zoo:``, ``open_clip:``, ``hf:``; prompts; data. One model is loaded once."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

from vlaudit import cage
from vlaudit.audit.naming import target_id
from vlaudit.audit.subjects import Subject, check_context, data_info, info_of, resolve_zoo, tell_apart, unpictured
from vlaudit.cage import Phase
from vlaudit.config import TargetSpec
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, UsageError, VlauditError, VlauditWarning, foreign
from vlaudit.families.base import HARD, Prompt
from vlaudit.plugins import plugin, plugins
from vlaudit.prompts.specs import parse_prompt, prompt_files
from vlaudit.records import Family, ModelInfo, Needs, PromptInfo, TargetInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from vlaudit.backends.base import Backend
    from vlaudit.data.dataset import Dataset
    from vlaudit.families.base import Model, Target
    from vlaudit.families.passes import Cut
    from vlaudit.scorer import Scorer


K = TypeVar("K")
USELESS = "Its files do not fit together, or are damaged."
KEPT = 1_000_000_000  # bytes of files up to which models stay in memory beside the one in use
LOAD_SECONDS, LOAD_RATE = 600.0, 16e6  # a target of files may take so long, and a second for so many bytes


@dataclass
class Known:
    """What stays of a model when it leaves the memory. ``size``: bytes of its files."""

    sha256: str
    size: int
    measured: object
    cut: Cut | None = None
    targets: list[Target] = field(default_factory=list)


class Loader:
    """Loads prompts and data once each, and models when they are due: large ones leave the memory when another is asked for, and
    come back when one of their targets needs them. ``allow_network``: a spec may name a remote model, as those of an untrusted
    config may not; ``allow_borrowed``: so may the files of a folder on this disk."""

    def __init__(
        self, device: torch.device, how: Loading = PLAIN, *, allow_network: bool, allow_borrowed: bool = False
    ) -> None:
        self._device, self._how = device, how
        self._allow_network, self._allow_borrowed = allow_network, allow_borrowed
        self._models: dict[str, Model] = {}  # those kept in memory, the one that was asked for last at the end
        self._living: WeakValueDictionary[str, Model] = WeakValueDictionary()
        self._failed: dict[str, VlauditError] = {}
        self._known: dict[str, Known] = {}
        self._pixels: dict[tuple[str, str, str], dict[str, Tensor]] = {}  # by model, data and what a prompt draws
        self._data: dict[str, Dataset] = {}
        self._of_members: dict[tuple[int, frozenset[str]], Dataset] = {}  # by data and hashes of members
        self._scorers: dict[str, Scorer] = {}
        self.seconds: dict[str, float] = {}  # that loading took, by model

    def subjects(self, specs: list[TargetSpec]) -> tuple[list[Subject], dict[str, Subject]]:
        """The targets, and their reference subjects by id. Raises UsageError for whatever the user can mend first."""
        for place, spec in enumerate(specs):
            if any(other.model_dump() == spec.model_dump() for other in specs[:place]):
                raise UsageError(
                    f"The target '{spec.model}' with prompt {spec.prompt} is named twice.", "Name it once."
                )
        made: dict[int, Subject] = {}
        references: list[Subject] = []
        compared: list[tuple[Subject, Subject]] = []
        models = [spec.model for spec in specs]
        for place in sorted(range(len(specs)), key=lambda place: models.index(models[place])):  # model after model
            subject = made[place] = self._subject(specs[place])
            if reference := self._reference(subject):
                shared = next((other for other in references if other.stands_for(reference)), None)
                if shared is None:
                    references.append(reference)
                    _check_labels(reference)
                reference = shared or reference
                compared.append((subject, reference))
        targets = [made[place] for place in range(len(specs))]
        _check_scorers(targets)
        tell_apart(targets, references)
        for subject, reference in compared:
            subject.info = subject.info.model_copy(update={"reference": reference.id})
        return targets, {reference.id: reference for reference in references}

    def _subject(self, spec: TargetSpec) -> Subject:
        resolved = resolve_zoo(spec)
        backend, argument = parse_model(resolved.model)
        self._check_remote(resolved.model, backend, argument)
        unreadable: ModelError | None = None
        try:
            family = backend.family(argument)
        except ModelError as error:  # a folder that says nothing of itself still has files to check
            family, unreadable = Family.MATCHING, error
        data, labels = self.load_data(resolved, family)
        prompt_spec = resolved.prompt[0] if resolved.prompt else None
        files = [*backend.files(argument), *prompt_files(resolved.prompt)]
        cage.say(known={spec.model: family})
        size = file_bytes(files)
        cage.say(phase=Phase.LOAD, what=spec.model, limit=LOAD_SECONDS + size / LOAD_RATE if files else None)
        try:
            if unreadable is not None:
                raise unreadable
            with foreign(f"'{spec.model}' cannot be used", USELESS):
                model = self._model(resolved.model)
                prompt = parse_prompt(prompt_spec, family)
                if not data.has_members and prompt.members:
                    data = self._declared(data, prompt.members)
                target = self._bind(prompt, resolved.model)
                pixels = self._pixels.setdefault((resolved.model, data.source, prompt.drawn), {})
                info = info_of(spec, model, prompt, data, labels)
                scorer = self._scorer(resolved, family)
                subject = Subject(info.id, spec, info, data, labels, files, target, scorer, pixels=pixels)
                from vlaudit.scorer import doubt

                if scorer is not None and resolved.scorer is None and not spec.model.startswith("zoo:"):
                    subject.scorer_doubt = cache(partial(doubt, scorer, data))
                target.check(check_context(subject))
            for remark in (*model.remarks, *target.remarks):
                warnings.warn(remark, VlauditWarning, stacklevel=2)
            assert info.data is not None
            noted = info.data.model_copy(update={"notes": [*info.data.notes, *target.remarks]})
            subject.info = info.model_copy(update={"data": noted})
            return subject
        except ModelError as error:
            named = prompt_spec or HARD[family][1]
            info = TargetInfo(
                id=target_id(spec.model, named),
                family=family,
                model=ModelInfo(spec=spec.model),
                prompt=PromptInfo(id=named, method="unknown"),
                data=data_info(data, labels, family),
                declared=spec.declared,
                error=str(error),
            )
            return Subject(info.id, spec, info, data, labels, files, error=error)

    def _declared(self, data: Dataset, members: Sequence[str]) -> Dataset:
        """Data with what a prompt says it was learned on: the same for all prompts that were learned on the same."""
        key = id(data), frozenset(members)
        if key not in self._of_members:
            self._of_members[key] = data.with_member_hashes(members)
        return self._of_members[key]

    def _reference(self, subject: Subject) -> Subject | None:
        """The same model under the reference prompt, or None: where the target is that itself (noted), or did not load."""
        if subject.target is None:
            return None
        own, resolved = subject.target.prompt, resolve_zoo(subject.spec)
        spec = resolved.reference
        prompt = parse_prompt(spec, subject.target.family) if spec else own.reference()
        if (prompt.method, prompt.text) == (own.method, own.text):
            note = f"the target is the reference: the prompt is '{prompt.text}' itself"
            subject.info = subject.info.model_copy(update={"reference_note": note})
            return None
        target = self._bind(prompt, resolved.model)
        info = info_of(resolved, target.model, prompt, subject.data, subject.labels)
        pixels = self._pixels.setdefault((resolved.model, subject.data.source, prompt.drawn), {})
        return Subject(info.id, subject.spec, info, subject.data, subject.labels, subject.files, target,
                       subject.scorer, subject.scorer_doubt, pixels)  # fmt: skip

    def _scorer(self, spec: TargetSpec, family: Family) -> Callable[[], Scorer] | None:
        """How to get the scorer of a target whose pictures need one; it is loaded once, when a probe asks."""
        from vlaudit.scorer import DEFAULT

        return (lambda: self.load_scorer(spec.scorer or DEFAULT)) if family is Family.TEXT_TO_IMAGE else None

    def load_scorer(self, name: str) -> Scorer:
        """The scorer that a TARGET names: a matching model, under the prompt of its specimen or the plain one."""
        from vlaudit.families.matching import ImageTextMatcher
        from vlaudit.scorer import Scorer

        if name not in self._scorers:
            spec = resolve_zoo(TargetSpec(model=name))
            backend, argument = parse_model(spec.model)
            self._check_remote(spec.model, backend, argument)
            if backend.family(argument) is not Family.MATCHING:
                raise UsageError(f"The scorer '{name}' is no matching model.", "Name a CLIP-like one.")
            prompt = parse_prompt(spec.prompt[0] if spec.prompt else None, Family.MATCHING)
            target = prompt.bind(self._model(spec.model))
            assert isinstance(target, ImageTextMatcher)
            if Needs.FEATURES not in target.capabilities:
                raise UsageError(f"The scorer '{name}' has no {Needs.FEATURES.value}, by which scorers tell pictures apart.", "Name a CLIP-like one.")
            self._scorers[name] = Scorer(target, name)
        return self._scorers[name]

    def _check_remote(self, spec: str, backend: Backend, argument: str) -> None:
        borrowed = backend.borrows(argument)
        if borrowed is not None and not self._allow_borrowed:
            raise UsageError(
                f"'{spec}' is a folder that is made of the remote model '{borrowed}'.",
                "Add --allow-network if you trust both, or write the folder of that model into its config.",
            )
        if backend.is_remote(argument) and not self._allow_network:
            raise UsageError(
                f"'{spec}' is a remote model, named by a config that was found rather than given.",
                "Add --allow-network, or name the config with --config.",
            )

    def _bind(self, prompt: Prompt, spec: str) -> Target:
        """The prompt on a model, which the target lets go of when the loader does."""
        target = prompt.bind(self._model(spec))
        self._known[spec].targets.append(target)
        return target

    def _model(self, spec: str) -> Model:
        """A model that is in memory, or comes there now: in the place of others, where all together are large."""
        if spec in self._failed:
            raise self._failed[spec]
        model = self._living.get(spec)
        if model is None:
            backend, argument = parse_model(spec)
            known = self._known.get(spec)
            self._make_room(known.size if known else file_bytes(backend.files(argument)))
            begun = time.monotonic()
            try:
                model = backend.load(argument, self._device, replace(self._how, before=known.measured) if known else self._how)
            except ModelError as error:
                self._failed[spec] = error
                raise
            self.seconds[spec] = round(time.monotonic() - begun, 3)
            known = known or self._known.setdefault(spec, Known(model.sha256, file_bytes(model.files), model.measured))
            if model.sha256 != known.sha256:
                raise ModelError(f"The weights of '{spec}' changed while it was audited.", "Scan again.")
            self._living[spec] = model
            if known.cut is not None:
                model.cut = known.cut
            known.cut = model.cut
        self._models[spec] = self._models.pop(spec, model)
        return model

    def let_go(self) -> None:
        """Take all models out of the memory; they come back when one of their targets needs them."""
        self._make_room(KEPT + 1)

    def _make_room(self, size: int) -> None:
        """Let go of models, those first that were not asked for longest, until the others and ``size`` bytes are few."""
        import torch

        while self._models and size + sum(self._known[spec].size for spec in self._models) > KEPT:
            spec = next(iter(self._models))
            del self._models[spec]
            for target in self._known[spec].targets:
                if target.loaded:
                    target.release(partial(self._model, spec))
            gc.collect()  # of what modules and their hooks hold in circles
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    def load_data(self, spec: TargetSpec, family: Family) -> tuple[Dataset, list[str]]:
        """The data of a target and its labels in order. Raises UsageError for data that cannot be audited."""
        from vlaudit.data.dataset import Dataset, is_remote, load_dataset
        from vlaudit.data.text_files import read_captions, read_labels

        draws = family is Family.TEXT_TO_IMAGE
        if spec.captions and not draws:
            raise UsageError("--prompts is for text-to-image targets.", f"Leave it out for '{spec.model}'.")
        if spec.columns and spec.data is None:
            raise UsageError("--columns names columns of --data.", "Give --data too, or leave it out.")
        key = f"{spec.data}|{spec.columns}|{spec.groups}|{spec.members}|{spec.captions}"
        if key not in self._data:
            if spec.data is not None:
                if is_remote(spec.data) and not self._allow_network:
                    raise UsageError(
                        f"'{spec.data}' is a data set of the hub, named by a config that was found rather than given.",
                        "Add --allow-network, or name the config with --config.",
                    )
                data = load_dataset(spec.data, groups=spec.groups, members=spec.members, columns=spec.columns)
            elif spec.captions is not None and not (spec.groups or spec.members):
                data = Dataset(spec.captions, [])
            else:
                raise UsageError(
                    f"The target '{spec.model}' has no data to be audited on.",
                    "Give --prompts FILE with one caption a line, or --data DIR with captioned pictures."
                    if draws
                    else "Give --data DIR with labelled pictures (one folder a class, or a metadata.csv).",
                )
            if spec.captions is not None:
                data = replace(data, own_captions=read_captions(Path(spec.captions)))
            self._data[key] = data
        data = self._data[key]
        labels = read_labels(Path(spec.labels)) if spec.labels else data.labels
        missing = sorted(set(data.labels) - set(labels))
        if missing:
            raise UsageError(
                f"The labels file '{spec.labels}' lacks {len(missing)} labels of the data, such as '{missing[0]}'.",
                "Every label of the data must be in it.",
            )
        for note in unpictured(data, labels):
            warnings.warn(note, VlauditWarning, stacklevel=2)
        return data, labels


def file_bytes(files: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in files if path.is_file())


def parse_model(spec: str) -> tuple[Backend, str]:
    """``BACKEND:ARGUMENT`` to the backend and its argument. Raises UsageError with a did-you-mean."""
    name, colon, argument = spec.partition(":")
    if not colon or not argument:
        known = ", ".join(f"{backend}:…" for backend in plugins("backends"))
        raise UsageError(
            f"'{spec}' is not a target.", f"Write one of {known} or zoo:NAME (see vlaudit list specimens)."
        )
    return plugin("backends", name)(), argument


def _check_scorers(subjects: Sequence[Subject]) -> None:
    """One flag names the scorer of all targets, and only some of them may draw. Raises UsageError where none does."""
    used = {subject.spec.scorer for subject in subjects if subject.info.family is Family.TEXT_TO_IMAGE}
    for subject in subjects:
        if subject.spec.scorer not in used and subject.spec.scorer is not None:
            raise UsageError("--scorer is for text-to-image targets.", f"Leave it out for '{subject.spec.model}'.")


def _check_labels(reference: Subject) -> None:
    """Raise UsageError where a reference cannot tell the labels apart: it would be nothing to compare with."""
    import torch

    from vlaudit.families.matching import ImageTextMatcher

    if isinstance(reference.target, ImageTextMatcher):
        with torch.no_grad():
            reference.target.check_labels(reference.labels)
