"""Targets and their references: shared where they are the same measurement, and never another model's."""

import shutil
from pathlib import Path

import torch

from vlaudit.audit.targets import Loader, Subject
from vlaudit.config import TargetSpec
from vlaudit.zoo.recipes import WEIGHTS


def load(*specs: TargetSpec) -> tuple[list[Subject], dict[str, Subject]]:
    return Loader(torch.device("cpu"), allow_network=False).subjects(list(specs))


def test_models_of_one_name_have_references_of_their_own(tmp_path: Path) -> None:
    """Two versions of a model lie in folders of one name; each is compared with itself under the plain prompt."""
    for version, source in (("v1", "tiny-clean"), ("v2", "tiny-backdoor")):
        shutil.copytree(WEIGHTS / source, tmp_path / version / "clip")
    specs = [
        TargetSpec(model=f"hf:{tmp_path / version / 'clip'}", prompt=["an image of {}"], data="zoo:kinds")
        for version in ("v1", "v2")
    ]
    targets, references = load(*specs)
    assert len({target.id for target in targets}) == len(references) == 2
    for target in targets:
        assert target.target is not None
        reference = references[target.info.reference or ""].target
        assert reference is not None and reference.model is target.target.model
        assert reference.prompt.text == "a photo of a {}"


def test_prompts_of_one_model_share_their_reference_unless_their_data_differ() -> None:
    zoo = [TargetSpec(model=f"zoo:{name}") for name in ("poisoned-prompt", "learned-prompt", "private-prompt")]
    targets, references = load(*zoo)
    first, second, on_other_data = (target.info.reference for target in targets)
    assert first == second != on_other_data and len(references) == 2
    assert {data.source for data in (references[str(name)].data for name in (first, on_other_data))} == {
        "zoo:roles",
        "zoo:kinds",
    }
