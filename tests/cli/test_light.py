"""Commands that need no model import no torch and answer in about a second; every plugin module imports lightly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlaudit.registry import plugins

BLOCKED = ("torch", "torchvision", "transformers", "open_clip", "scipy", "fairlearn", "sklearn", "diffusers")
BLOCK = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["scan", "--help"], ["replay", "--help"], ["list", "probes", "--json"], ["list", "specimens"], ["list", "prompts"],
     ["list", "backends"], ["list", "reporters"], ["explain", "MR1"], ["explain", "coop"], ["schema"], ["schema", "config"]],
    ids=" ".join,
)  # fmt: skip
def test_commands_without_torch(arguments: list[str]) -> None:
    done = run(f"{BLOCK}from vlaudit.cli import run\nsys.exit(run({arguments!r}))")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 100


def test_every_plugin_imports_without_heavy_libraries() -> None:
    modules = sorted(
        {
            p._entry.value.split(":")[0]
            for g in ("probes", "prompts", "backends", "reporters", "executors")
            for p in plugins(g).values()
            if p._entry
        }
    )
    done = run(BLOCK + "".join(f"import {module}\n" for module in modules))
    assert done.returncode == 0, done.stderr


def test_help_answers_in_about_a_second() -> None:
    def seconds() -> float:
        then = time.perf_counter()
        run("from vlaudit.cli import run\nrun(['list', 'probes'])")
        return time.perf_counter() - then

    assert min(seconds() for _ in range(3)) < 2.0  # a bare interpreter on a busy core is given the other second


def test_report_validates_against_the_printed_schema(tmp_path: Path) -> None:
    import jsonschema

    done = run("from vlaudit.cli import run\nrun(['schema'])")
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    smallest = {
        "schema_version": "1.0", "tool": {"name": "vlaudit", "version": "0"},
        "audit": {"id": "a", "started": "2026-01-01T00:00:00+00:00"}, "targets": [], "findings": [],
    }  # fmt: skip
    jsonschema.validate(smallest, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(smallest | {"findings": [{"verdict": "fine"}]}, schema)


def test_list_probes_names_what_the_contract_asks_for() -> None:
    rows = json.loads(run("from vlaudit.cli import run\nrun(['list', 'probes', '--json'])").stdout)
    assert {"MR1", "MR3", "MR4", "MB1", "MB2", "MF1", "MF2", "MP1", "SC1"} <= {row["code"] for row in rows}
    assert all({"name", "code", "risk", "families", "needs"} <= set(row) for row in rows)
    specimens = json.loads(run("from vlaudit.cli import run\nrun(['list', 'specimens', '--json'])").stdout)
    assert all({"name", "family", "target", "planted", "expects"} <= set(row) for row in specimens)
    known = {row["name"] for row in rows}
    assert all(set(row["expects"]) <= known for row in specimens)
