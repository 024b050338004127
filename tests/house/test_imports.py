"""The house stands: no circle of imports, no arrow upwards through the floors of `docs/architecture.md`, and no core that knows a plugin."""

from __future__ import annotations

import re

import pytest

from tests.house.imports import ROOT, circles, graph

EDGES = graph()
PLUGINS = ("vlaudit.attacks", "vlaudit.reports")


def floors() -> list[list[str]]:
    """The rooms of each row of the table, from the ground up, as dotted names."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.split("## The floors")[1].split("\n## ")[0], re.MULTILINE)
    return [[_dotted(room) for room in re.findall(r"`([^`]+)`", row)] for row in rows]


def _dotted(room: str) -> str:
    path = room.removesuffix(".py").strip("/")
    return ".".join(part for part in (path if path.startswith("vlaudit") else f"vlaudit/{path}").split("/"))


def floor_of(module: str, table: list[list[str]]) -> int:
    """The floor of the room with the longest name that holds a module."""
    holding = [(len(room), number) for number, row in enumerate(table) for room in row if f"{module}.".startswith(f"{room}.")]
    assert holding, f"docs/architecture.md has no floor for {module}"
    return max(holding)[1]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(EDGES) == []


def test_no_import_goes_up_through_the_floors() -> None:
    table = floors()
    assert len(table) > 8, "the table was not read"
    bottom = {"vlaudit"}  # the package itself holds its version alone
    level = {module: floor_of(module, table) for module in EDGES if module not in bottom}
    upward = [
        f"{module} (floor {level[module]}) imports {other} (floor {level[other]})"
        for module, others in EDGES.items()
        for other in others - bottom
        if module not in bottom and level[other] > level[module]
    ]
    assert upward == []


def test_every_room_of_the_table_exists() -> None:
    rooms = [room for row in floors() for room in row]
    assert [room for room in rooms if not any(f"{module}.".startswith(f"{room}.") for module in EDGES)] == []
    assert len(rooms) == len(set(rooms))


def test_the_core_knows_no_plugin() -> None:
    core = {module: others for module, others in EDGES.items() if not module.startswith(PLUGINS)}
    assert {module: found for module, others in core.items() if (found := [o for o in others if o.startswith(PLUGINS)])} == {}


def test_a_probe_imports_no_other_probe() -> None:
    """What two probes share stands in `attacks/shared/`."""
    from vlaudit.plugins import plugins

    homes = {str(found._entry.module) for found in plugins("probes").values() if found._entry and found.origin.startswith("vlaudit ")}
    assert len(homes) > 30
    for home in homes:
        inside = [module for module in EDGES if f"{module}.".startswith(f"{home}.")]
        foreign = {other for module in inside for other in EDGES[module] if other.startswith("vlaudit.attacks")}
        strangers = [other for other in foreign if not f"{other}.".startswith((f"{home}.", "vlaudit.attacks.shared."))]
        assert strangers == [], f"{home} imports {strangers}"


def test_attacks_hold_probes_and_named_rooms_alone() -> None:
    hidden = [path.name for path in (ROOT / "attacks").rglob("_*.py") if path.name != "__init__.py"]
    assert hidden == []


@pytest.mark.parametrize("edges", [{"a": {"b"}, "b": {"c"}, "c": {"a"}}, {"a": {"b"}, "b": {"a"}, "c": {"a"}}])
def test_a_circle_is_seen(edges: dict[str, set[str]]) -> None:
    assert len(circles(edges)) == 1 and circles({"a": {"b"}, "b": set()}) == []
