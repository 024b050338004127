"""Folders to break, a payload that leaves a mark, and a watch over sockets."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vlaudit.zoo import WEIGHTS

CPU = torch.device("cpu")
KINDS = {
    "clip": ("hf", "tiny-clean"), "open_clip": ("open_clip", "flagship"), "generator": ("hf", "gen-clean"),
    "adapter": ("hf", "gen-leaks-context"), "pipeline": ("diffusers", "t2i-clean"),
}  # fmt: skip
_asked: list[str] = []
_watching = [False]


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching[0] and event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}:
        _asked.append(f"{event} {arguments[-1] if event == 'socket.connect' else arguments[0]}")


sys.addaudithook(_watch)


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What asks for the network while the test runs; the hub's own offline switch is off, so that it would be asked."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    _asked.clear()
    _watching[0] = True
    yield _asked
    _watching[0] = False


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A writable copy of a small model's folder, of one of KINDS."""

    def make(kind: str) -> Path:
        folder = Path(shutil.copytree(WEIGHTS / KINDS[kind][1], tmp_path / kind, symlinks=True))
        if kind == "adapter":
            edit(folder / "adapter_config.json", base_model_name_or_path=str(WEIGHTS / "gen-clean"))
        return folder

    return make


def load(kind: str, folder: Path) -> Any:
    """What the backend of a kind makes of a folder."""
    from vlaudit.plugins import plugin

    backend = plugin("backends", KINDS[kind][0])()
    argument = f"local-dir:{folder}" if kind == "open_clip" else str(folder)
    assert not backend.is_remote(argument)
    backend.family(argument)
    assert backend.files(argument)
    return backend.load(argument, CPU)


def edit(path: Path, **changes: Any) -> None:
    """Set entries of a JSON file; ``a__b`` is b of a."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        *owners, last = key.split("__")
        place = content
        for owner in owners:
            place = place.setdefault(owner, {})
        place[last] = value
    path.write_text(json.dumps(content))
