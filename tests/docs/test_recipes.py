"""The shell of the recipes in docs/scale.md, run with a stand-in for vlaudit: each machine asks for its own shard, and nobody for another."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BLOCKS = [(token.info.strip(), token.content) for token in MarkdownIt().parse(PAGE.read_text(encoding="utf-8")) if token.type == "fence"]
STAND_IN = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" >> "$RECORD"\nexit "${CODE:-0}"\n'


def tables() -> dict[str, Any]:
    """The YAML recipes, by their first key."""
    return {next(iter(table)): table for kind, text in BLOCKS if kind == "yaml" and isinstance(table := yaml.safe_load(text), dict)}


def words(tmp_path: Path, script: str, code: int = 0, **env: str) -> list[str]:
    """What vlaudit is given by a script, which must end with the code that vlaudit gave."""
    stand_in, record = tmp_path / "bin" / "vlaudit", tmp_path / "words"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    record.unlink(missing_ok=True)
    given = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "RECORD": str(record), "CODE": str(code), **env}
    assert subprocess.run(["bash", "-c", script], env=given, cwd=tmp_path, check=False).returncode == code
    return record.read_text().splitlines()


def asked(found: list[str]) -> str:
    assert found[:2] == ["scan", "--plan"]
    return found[found.index("--shard") + 1]


@pytest.mark.parametrize("code", [0, 3])
def test_slurm(tmp_path: Path, code: int) -> None:
    script = next(text for kind, text in BLOCKS if kind == "bash" and "SBATCH" in text)
    count = int(script.split("--array=1-")[1].split()[0])
    shards = [asked(words(tmp_path, script, code, SLURM_ARRAY_TASK_ID=str(i), SLURM_ARRAY_TASK_COUNT=str(count))) for i in range(1, count + 1)]
    assert shards == [f"{i}/{count}" for i in range(1, count + 1)]
    assert words(tmp_path, script, PLAN="a plan", SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2")[2] == "a plan"


def test_kubernetes(tmp_path: Path) -> None:
    spec = tables()["apiVersion"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert container["command"] == ["bash", "-c"] and spec["completionMode"] == "Indexed"
    shards = [asked(words(tmp_path, container["args"][0], JOB_COMPLETION_INDEX=str(i))) for i in range(spec["completions"])]
    assert shards == [f"{i}/{spec['completions']}" for i in range(1, spec["completions"] + 1)], "its indices begin at 0"


def test_github(tmp_path: Path) -> None:
    jobs = tables()["jobs"]["jobs"]
    numbers = jobs["shard"]["strategy"]["matrix"]["shard"]
    run = next(step["run"] for step in jobs["shard"]["steps"] if "run" in step)
    shards = [asked(words(tmp_path, run.replace("${{ matrix.shard }}", str(number)))) for number in numbers]
    assert shards == [f"{number}/{len(numbers)}" for number in range(1, len(numbers) + 1)]
    for number in numbers:
        (tmp_path / "shards" / f"shard-{number}").mkdir(parents=True)
    merged = words(tmp_path, next(step["run"] for step in jobs["merge"]["steps"] if "run" in step))
    assert merged[0] == "merge" and merged[1 : 1 + len(numbers)] == [f"shards/shard-{number}" for number in numbers]
    assert jobs["merge"]["if"] == "always()", "what a shard did not finish is told by the merge"


def test_the_cluster_file_names_its_nodes() -> None:
    table = tables()["cluster_name"]
    assert table["head_node_type"] in table["available_node_types"] and any("vlaudit[ray]" in line for line in table["setup_commands"])
