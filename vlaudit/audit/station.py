"""Work away from the process that planned it: in actors of Ray, and in processes with a device of their own.

A station plans the part of a model again from the manifest, keeps it loaded, and runs its units. Which unit goes to which station is
decided where the journal is written.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter, deque
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vlaudit.audit.executor import LocalExecutor, Site
from vlaudit.audit.journal import Manifest, Unit
from vlaudit.cage import network
from vlaudit.probe.artifacts import ArtifactStore

if TYPE_CHECKING:
    from vlaudit.audit.targets import Loader


class Station:
    """One worker's share of the work. It holds the models that it was asked for, as many as fit; evidence goes into ``folder``."""

    def __init__(self, site: Site, folder: Path, batch_size: int | None) -> None:
        import torch

        from vlaudit.audit.planned_again import same_version
        from vlaudit.registry import ProbeRegistry

        with contextlib.suppress(OSError):
            os.chdir(site.folder)
        network.close()
        torch.set_num_threads(1)
        self._site, self._artifacts, self._batch_size = site, ArtifactStore(folder), batch_size
        self._manifest = Manifest.model_validate_json(site.manifest)
        same_version(self._manifest, "The audit")
        self._registry = ProbeRegistry.load([Path(path) for path in site.plugins])
        self._loader: Loader | None = None
        self._models: dict[str, LocalExecutor] = {}

    def of(self, model: str) -> LocalExecutor:
        """What runs the units of a model. Raises VlauditError where it cannot be loaded, or is planned otherwise, here."""
        from vlaudit.audit.division import part_of
        from vlaudit.audit.planned_again import plan_again
        from vlaudit.audit.targets import Loader
        from vlaudit.device import Loading, pick_device

        if model not in self._models:
            site, manifest = self._site, self._manifest
            if self._loader is None:
                how = Loading(manifest.request.dtype, spread=site.spread)
                self._loader = Loader(pick_device(site.device), how, allow_network=site.allow_network, allow_borrowed=site.allow_borrowed)
            own = [unit.id for item in manifest.planned if manifest.specs[item.target].model == model for unit in item.units]
            plan = plan_again(manifest, self._registry, self._loader, part_of(manifest, own))
            self._models[model] = LocalExecutor(plan, self._artifacts, self._batch_size)
        return self._models[model]


class Waiting:
    """Units that can start and wait for a station, by the model that they need."""

    def __init__(self, site: Site) -> None:
        manifest = Manifest.model_validate_json(site.manifest)
        self._model_of = {unit.id: manifest.specs[item.target].model for item in reversed(manifest.planned) for unit in item.units}
        self._units: dict[str, deque[Unit]] = {}
        self._work: Counter[str] = Counter()  # estimated milliseconds, by model

    def __bool__(self) -> bool:
        return any(self._units.values())

    def add(self, unit: Unit) -> None:
        model = self._model_of[unit.id]
        self._units.setdefault(model, deque()).append(unit)
        self._work[model] += _milliseconds(unit)

    def of(self, model: str) -> bool:
        """Whether some need this model."""
        return bool(self._units.get(model))

    def take(self, held: str, by_others: Collection[str]) -> tuple[str, Unit]:
        """A unit for a station that holds a model, and the model: this one, else the one with most work for each station that holds
        it. ``by_others``: the models that the other stations hold."""
        model = held
        if not self.of(held):
            holders = Counter(by_others)
            model = max((m for m in self._units if self._units[m]), key=lambda m: self._work[m] / (1 + holders[m]))
        unit = self._units[model].popleft()
        self._work[model] -= _milliseconds(unit)
        return model, unit


def _milliseconds(unit: Unit) -> int:
    return round(1000 * (unit.weight + 1))
