"""Names of the hub with a revision: the commit that is loaded is the one that is named, and it is recorded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests import tiny_pipelines
from vlaudit.backends.base import commit_of, hub_name, local_folder
from vlaudit.backends.diffusers import DiffusersBackend
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.errors import ModelError, UsageError
from vlaudit.zoo import WEIGHTS, folder

CPU = torch.device("cpu")
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
Cached = Callable[[str, dict[str, Path]], None]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """Puts repositories into a hub cache of their own: ``main`` is the new commit, the tag ``v1`` the old one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name: str, commits: dict[str, Path]) -> None:
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        for commit, source in commits.items():
            for file in filter(Path.is_file, source.rglob("*")):
                blob = place / "blobs" / f"{commit[-4:]}-{file.relative_to(source).as_posix().replace('/', '-')}"
                link = place / "snapshots" / commit / file.relative_to(source)
                for path in (blob, link):
                    path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, blob)
                link.symlink_to(blob)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(NEW)
        (place / "refs" / "v1").write_text(OLD)

    return put


def test_the_named_commit_is_loaded_and_recorded(cached: Cached) -> None:
    cached("org/clip", {OLD: WEIGHTS / "tiny-clean", NEW: WEIGHTS / "tiny-backdoor"})
    backend = HuggingFaceBackend()
    found = {name: backend.load(name, CPU) for name in ("org/clip", "org/clip@v1", f"org/clip@{OLD}", "org/clip@main")}
    assert [model.revision for model in found.values()] == [NEW, OLD, OLD, NEW]
    assert len({model.sha256 for model in found.values()}) == 2
    assert found["org/clip@v1"].sha256 == backend.load(str(WEIGHTS / "tiny-clean"), CPU).sha256
    assert backend.is_remote("org/clip@v1") and backend.is_remote("org/clip@refs/pr/3")
    with pytest.raises(ModelError, match="org/clip@v2' could not be downloaded"):
        backend.load("org/clip@v2", CPU)


def test_open_clips_hub_names_take_a_revision(cached: Cached) -> None:
    cached("org/open", {OLD: folder("flagship"), NEW: folder("tiny-clean")})
    backend = OpenCLIPBackend()
    assert backend.is_remote("hf-hub:org/open@v1") and backend.files("hf-hub:org/open@v1") == []
    model = backend.load("hf-hub:org/open@v1", CPU)
    assert (model.revision, model.spec) == (OLD, "open_clip:hf-hub:org/open@v1")
    with pytest.raises(ModelError, match=r"open_clip_config\.json"):
        backend.load("hf-hub:org/open", CPU)


def test_pipelines_take_a_revision(cached: Cached, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = tiny_pipelines.stable_diffusion(tmp_path / "sd")
    cached("org/sd", {OLD: source})
    model = DiffusersBackend().load("org/sd@v1", CPU)
    assert model.revision == OLD
    with pytest.raises(ModelError, match="could not be downloaded"):
        DiffusersBackend().load("org/sd", CPU)  # main is not there


def test_a_folder_with_an_at_sign_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WEIGHTS / "tiny-clean", tmp_path / "org" / "clip@v1")
    assert not HuggingFaceBackend().is_remote("org/clip@v1")
    assert HuggingFaceBackend().load("org/clip@v1", CPU).revision is None
    assert local_folder("org/clip@v2") is None
    with pytest.raises(UsageError, match="does not exist"):
        local_folder("models/org/clip@v2")
    with pytest.raises(UsageError, match="names no revision"):
        hub_name("org/clip@")
    assert commit_of(Path("/cache/models--a--b/snapshots/abc")) == "abc" and commit_of(tmp_path) is None
