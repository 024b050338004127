"""A small matcher for the probes that attack one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vlaudit.audit.plan import context
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import TARGET


@pytest.fixture(scope="session")
def matching(tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Context:
    spec = TargetSpec(model=f"hf:{tiny_clip}", data=str(picture_folder))
    (subject, *_), _ = Loader(torch.device("cpu"), allow_network=False).subjects([spec])
    request = Request(targets=[], probes=[], effort="quick")
    return context(request, subject, "test", TARGET, ArtifactStore(tmp_path_factory.mktemp("audit")), 16)
