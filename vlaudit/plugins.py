"""Plugins by entry point: probes, prompts, backends, reporters, executors. What implements one is found by its name alone.

A built-in plugin that fails to load is an error; a third party's is reported by name and left out. Two plugins of one
name are an error: which of them ran would depend on the installation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, EntryPoint, entry_points
from typing import Any

from vlaudit.errors import UsageError, did_you_mean, first_line

GROUPS = ("probes", "prompts", "backends", "reporters", "executors")
OWN_PACKAGE = "vlaudit"


@dataclass(frozen=True)
class Plugin:
    """One named implementation and where it came from."""

    name: str
    group: str
    origin: str  # "package version", or the file's path
    _entry: EntryPoint | None = None
    _value: Any = None

    def load(self) -> Any:
        """The plugin's class. Raises UsageError with the plugin's name when its import fails."""
        if self._entry is None:
            return self._value
        try:
            return self._entry.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit too: what a plugin does is no exit code of ours
            if self.origin.split()[0] == OWN_PACKAGE:
                raise
            raise UsageError(
                f"The plugin '{self.name}' of {self.origin} fails to load ({type(error).__name__}: {first_line(error)}).",
                "Update or uninstall that package, or leave the probe out with --skip.",
            ) from error


@cache
def _origin(package: Distribution) -> str:
    """Once a package: each look at its name parses the whole metadata, readme included."""
    return f"{package.name} {package.version}"


@cache
def plugins(group: str) -> dict[str, Plugin]:
    """All installed plugins of a group by name. Raises UsageError for a name that two packages claim."""
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=f"vlaudit.{group}"):
        origin = _origin(entry.dist) if entry.dist else "unknown"
        if entry.name in found and found[entry.name].origin != origin:
            raise UsageError(
                f"Two packages bring a plugin '{entry.name}' ({found[entry.name].origin} and {origin}).",
                "Uninstall one.",
            )
        found[entry.name] = Plugin(entry.name, group, origin, _entry=entry)
    if not found:
        raise UsageError("vlaudit's own plugins are not registered.", "Install it: pip install -e . in the clone.")
    return dict(sorted(found.items()))


def plugin(group: str, name: str) -> Any:
    """The class of one plugin. Raises UsageError with a did-you-mean."""
    known = plugins(group)
    if name not in known:
        raise UsageError(f"Unknown {group.removesuffix('s')} '{name}'.", did_you_mean(name, list(known)))
    return known[name].load()
