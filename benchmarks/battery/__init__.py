"""Scenarios of innocence and of harm for every probe's judge: ``benchmarks/battery/RISK/PROBE.py`` holds ``PROBE`` and ``SCENARIOS``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path

from vlaudit.battery import Scenario
from vlaudit.probe import Probe

_ROOM = Path(__file__).parent


def modules() -> list[str]:
    """The dotted names of all that hold scenarios, as ``bias.rank_skew``."""
    return sorted(".".join(path.relative_to(_ROOM).with_suffix("").parts) for path in _ROOM.glob("*/*.py") if path.stem != "__init__")


def battery(module: str) -> tuple[type[Probe], list[Scenario]]:
    """A probe and its scenarios."""
    found = importlib.import_module(f"{__name__}.{module}")
    return found.PROBE, found.SCENARIOS


def batteries(only: Iterable[str] = ()) -> dict[str, tuple[type[Probe], list[Scenario]]]:
    """All of them by probe id, or those of ``only``."""
    every = {probe.info.id: (probe, scenarios) for probe, scenarios in map(battery, modules())}
    return {name: every[name] for name in (list(only) or every)}


def of_risk(risk: str) -> dict[str, tuple[type[Probe], list[Scenario]]]:
    """Those of the probes of one risk."""
    return {name: found for name, found in batteries().items() if found[0].info.risk == risk}
