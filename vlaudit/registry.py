"""The probes of a run: installed plugins and those of ``--plugin`` files, by id, code, risk, family or glob."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from vlaudit.errors import UsageError, did_you_mean, first_line
from vlaudit.plugins import plugins
from vlaudit.probe import Probe
from vlaudit.records import Family, Risk


@dataclass
class ProbeRegistry:
    """The probes of this run: installed ones and those of ``--plugin`` files."""

    classes: dict[str, type[Probe]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # third-party probes that failed to load: name to reason

    @classmethod
    def load(cls, files: Iterable[Path] = ()) -> ProbeRegistry:
        registry = cls()
        for name, found in plugins("probes").items():
            try:
                probe_class = found.load()
            except UsageError as error:
                registry.broken[name] = str(error)
            else:
                registry._add(probe_class, found.origin)
        for path in files:
            for probe_class in probes_in(path):
                registry._add(probe_class, str(path))
        return registry

    def _add(self, probe_class: type[Probe], origin: str) -> None:
        if not (isinstance(probe_class, type) and issubclass(probe_class, Probe) and hasattr(probe_class, "info")):
            raise UsageError(
                f"The plugin from {origin} is not a probe class.", "Decorate a Probe subclass with @probe(...)."
            )
        name = probe_class.info.id
        if name in self.classes:
            raise UsageError(
                f"Two probes have the id '{name}' (from {self.origins[name]} and {origin}).", "Rename or remove one."
            )
        self.classes[name] = probe_class
        self.origins[name] = origin

    def get(self, name: str) -> type[Probe]:
        """A probe class by id or code."""
        for probe_class in self.classes.values():
            if name in (probe_class.info.id, probe_class.info.code):
                return probe_class
        if name in self.broken:
            raise UsageError(self.broken[name])
        raise UsageError(f"Unknown probe '{name}'.", did_you_mean(name, list(self.classes)))

    def select(self, selectors: Iterable[str], skip: Iterable[str] = ()) -> list[str]:
        """Ids of the probes that a selector names (all when there are none) and no ``skip`` does."""
        selectors = list(selectors)
        chosen = set().union(*(self._match(s) for s in selectors)) if selectors else set(self.classes)
        left_out = set().union(*(self._match(s) for s in skip))
        return [name for name in self.classes if name in chosen - left_out]

    def named(self, selectors: Iterable[str]) -> set[str]:
        """Ids of the probes that a selector names by id or code, not as one of a group."""
        return set().union(*(self._match(s) for s in selectors if not set(s) & set(":*?[")))

    def _match(self, selector: str) -> set[str]:
        kind, _, value = selector.partition(":")
        infos = [c.info for c in self.classes.values()]
        if kind == "risk" and value:
            if value not in list(Risk):
                raise UsageError(f"Unknown risk '{value}'.", did_you_mean(value, list(Risk)))
            return {info.id for info in infos if info.risk == value}
        if kind == "family" and value:
            if value not in list(Family):
                raise UsageError(f"Unknown family '{value}'.", did_you_mean(value, list(Family)))
            return {info.id for info in infos if Family(value) in info.families}
        matched = {info.id for info in infos if fnmatch.fnmatchcase(info.id, selector) or info.code == selector}
        if not matched:
            return {self.get(selector).info.id}
        return matched

    def make(self, name: str, params: dict[str, Any] | None = None) -> Probe:
        """A probe with parameters. Raises UsageError for a parameter it does not have or that does not fit."""
        probe_class = self.get(name)
        try:
            return probe_class(**(params or {}))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            if first["type"] == "extra_forbidden":
                raise UsageError(f"The probe '{name}' has no parameter '{key}'.", did_you_mean(key, list(probe_class.model_fields))) from error
            raise UsageError(f"The probe '{name}' cannot take '{key}': {first['msg']}.") from error


def probes_in(path: Path) -> list[type[Probe]]:
    """Probe classes defined in a plugin file. The file is code: it is run, which is why only a flag can name it."""
    if not os.path.isfile(path):
        what = "is not a file" if os.path.lexists(path) else "does not exist"
        raise UsageError(f"The plugin file '{path}' {what}.", "Name a Python file that defines probes.")
    module = _import_file(path)
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Probe) and "info" in vars(value)
    ]
    if not found:
        raise UsageError(f"The plugin file '{path}' defines no probe.", "Decorate a Probe subclass with @probe(...).")
    return found


def _import_file(path: Path) -> ModuleType:
    name = f"vlaudit_plugin_{hashlib.sha256(os.path.realpath(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"The plugin file '{path}' is not a Python file.", "Its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit too: what a plugin does is no exit code of ours
        raise UsageError(
            f"The plugin file '{path}' fails to load ({type(error).__name__}: {first_line(error)}).", "Mend it."
        ) from error
    return module
