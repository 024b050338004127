"""What a finding came from, so that a replay can tell whether the same things are still there.

A target's info has the fingerprints of the weights, of the prompt, and of the data by their names and sizes. Here is the rest:
the bytes of the pictures and of the prompt's files, the reference prompt, the files beside the weights, and the scorer.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlaudit.audit.journal import ProbeSource
from vlaudit.audit.subjects import Subject, resolve_zoo
from vlaudit.audit.targets import parse_model
from vlaudit.config import TargetSpec
from vlaudit.data.images import DataError, StoredPicture
from vlaudit.errors import VlauditError
from vlaudit.files import PICKLE_SUFFIXES, file_sha256
from vlaudit.probe import Probe
from vlaudit.prompts.specs import prompt_files
from vlaudit.records import DataInfo, PromptInfo, TargetInfo


def fingerprints(subject: Subject, reference: Subject | None, *, loaded: bool | None = None) -> dict[str, str]:
    """SHA-256 by what it is of, such as ``pictures``. What is not there or cannot be read has none: loading or using it says so.

    The weights of a ``loaded`` model (default: whether this one is) have their hash in the target's info and are not read twice.
    """
    spec = resolve_zoo(subject.spec)
    prompts = prompt_files([*spec.prompt, *([spec.reference] if spec.reference else [])])
    if loaded is None:
        loaded = subject.target is not None
    beside = [path for path in subject.files if path not in prompts and not (loaded and _is_weights(path))]
    found = {
        "pictures": _pictures(subject),
        "prompt files": _files(prompts),
        "files beside the weights" if loaded else "model files": _files(beside),
        "scorer": _scorer(subject.info.scorer),
    }
    if reference is not None:
        found["reference prompt"] = hashlib.sha256("|".join(_of_prompt(reference.info.prompt)).encode()).hexdigest()
    return {name: value for name, value in found.items() if value is not None}


def probe_sources(probes: Mapping[str, Probe]) -> dict[str, ProbeSource]:
    """The version and the code of each probe."""
    return {
        name: ProbeSource(version=probe.info.version, code=_files(_code_of(probe))) for name, probe in probes.items()
    }


def started_in(out: Path) -> str | None:
    """The current folder as seen from ``out``: it stays right when both are moved, and names no home folder that they share."""
    try:
        return Path(os.path.relpath(Path.cwd(), out)).as_posix()
    except ValueError:  # on another drive
        return None


def changes(
    then: TargetInfo, now: TargetInfo, fingerprints_then: Mapping[str, str], fingerprints_now: Mapping[str, str]
) -> list[str]:
    """What is not as it was when the audit ran, as nouns: ``weights``, ``prompt`` ... What it did not record is not compared."""
    found = []
    if then.family is not now.family:
        found.append("family of the model")
    if then.model.sha256 and then.model.sha256 != now.model.sha256:
        found.append("weights")
    if then.error is None and _of_prompt(then.prompt) != _of_prompt(now.prompt):
        found.append("prompt")
    if then.data and now.data:
        if then.data.labels != now.data.labels:
            found.append("labels")
        if _of_data(then.data) != _of_data(now.data):
            found.append("data")
    found += [name for name, value in fingerprints_then.items() if fingerprints_now.get(name) != value]
    return found


def _of_prompt(prompt: PromptInfo) -> tuple[str, str]:
    return prompt.method, prompt.sha256 or prompt.text


def _of_data(data: DataInfo) -> dict[str, object]:
    return data.model_dump(exclude={"source", "labels", "notes"})  # the same data may lie elsewhere


def _pictures(subject: Subject) -> str | None:
    """Of the bytes of all pictures; None where they are no files: then the fingerprint of the data has their pixels."""
    digest, several = hashlib.sha256(), False
    try:
        for example in subject.data.examples:
            if isinstance(example.picture, Path | StoredPicture):
                digest.update(f"{example.id} {example.sha256()}\n".encode())
                several = True
    except DataError:
        return None
    return digest.hexdigest() if several else None


def _files(paths: Sequence[Path]) -> str | None:
    """Of the names and bytes of some files, wherever they lie; None without any."""
    try:
        lines = sorted(f"{path.name} {file_sha256(path)}\n" for path in paths if path.is_file())
    except OSError:
        return None
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest() if lines else None


def _scorer(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        spec = resolve_zoo(TargetSpec(model=name))
        backend, argument = parse_model(spec.model)
        return _files([*backend.files(argument), *prompt_files(spec.prompt)])
    except VlauditError:
        return None


def _is_weights(path: Path) -> bool:
    return path.suffix == ".safetensors" or path.suffix in PICKLE_SUFFIXES


def _code_of(probe: Probe) -> list[Path]:
    """The file of a probe, or the files of a probe that is a folder."""
    file = getattr(sys.modules.get(type(probe).__module__), "__file__", None)
    if file is None:
        return []
    return sorted(Path(file).parent.glob("*.py")) if Path(file).name == "__init__.py" else [Path(file)]
