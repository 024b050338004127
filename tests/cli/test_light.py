"""Commands that need no model import no torch and answer in about a second; every plugin module imports lightly."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from vlaudit.cli import COMMANDS
from vlaudit.plugins import plugins

MODELS = (
    "torch",
    "torchvision",
    "transformers",
    "open_clip",
    "diffusers",
    "peft",
    "accelerate",
    "torchattacks",
    "datasets",
)
BLOCKED = (*MODELS, "scipy", "fairlearn", "sklearn")
BLOCK = f"import sys\nfor name in {BLOCKED!r}: sys.modules[name] = None\n"
WITHOUT_MODELS = f"import sys\nfor name in {MODELS!r}: sys.modules[name] = None\n"
HEAVY = {"scan", "plan", "selftest", "replay", "zoo", "doctor"}  # run or load models, or look whether these can be imported
AUDITS = {  # commands on an audit folder: its formats, another audit, and judging it again, which computes intervals
    **{f"report {name}": ["report", "AUDIT", "--format", name] for name in plugins("reporters")},
    "diff": ["diff", "AUDIT", "AUDIT"],
    "compare": ["compare", "AUDIT", "--output", "compared.html"],
    "view": ["view", "AUDIT/..", "--no-open"],
    "judge": ["judge", "AUDIT"],
    "validate": ["validate", "AUDIT/vlaudit.toml", "AUDIT/ignore.toml"],
    "init": ["init", "--force"],
}


def run(script: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=env)


LIGHT = [
    ["--help"], ["scan", "--help"], ["replay", "--help"], ["list", "probes", "--json"], ["list", "specimens"], ["list", "prompts"], ["list", "backends"],
    ["list", "reporters"], ["explain", "MR1"], ["explain", "coop"], ["schema"], ["schema", "config"], ["report", "--help"],
    ["judge", "--help"], ["diff", "--help"], ["validate", "--help"], ["init", "--help"], ["selftest", "--help"],
    ["doctor", "--help"], ["zoo", "build", "--help"], ["new", "probe", "--help"], ["plan", "--help"], ["merge", "--help"],
]  # fmt: skip
SLOWEST = 7.0  # times a bare interpreter with click, rich and pydantic, which takes about 0.2 s on a free core
JUDGING = 25.0  # likewise: judging again also imports scipy and computes every interval


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
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


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit of three probes, with a config and suppressions beside it."""
    folder = tmp_path_factory.mktemp("light") / "audit"
    probes = ["--probe", "unsafe-file", "--probe", "typographic", "--probe", "group-performance"]
    done = run(f"from vlaudit.cli import run\nrun({['scan', 'zoo:tiny-clean', *probes, '--out', str(folder)]!r})")
    assert (folder / "report.json").exists(), done.stderr
    (folder / "vlaudit.toml").write_text('[[target]]\nmodel = "hf:model"\n')
    (folder / "ignore.toml").write_text("")
    return folder


def test_every_command_is_light_or_known_to_be_heavy() -> None:
    light = {words[0] for words in [*LIGHT, *AUDITS.values()]}
    assert light - {"--help"} | HEAVY == set(COMMANDS), "state of a new command whether it needs a model"


@pytest.mark.parametrize("name", list(AUDITS))
def test_commands_on_audits_need_no_model(name: str, audit: Path, tmp_path: Path) -> None:
    words = [word.replace("AUDIT", str(audit)) for word in AUDITS[name]]
    done = run(
        f"{WITHOUT_MODELS}import os\nos.chdir({str(tmp_path)!r})\nfrom vlaudit.cli import run\nsys.exit(run({words!r}))"
    )
    assert done.returncode == (3 if name == "judge" else 0) or done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr and done.stdout


WITHOUT_POSIX = """
import os, signal, sys
import click, html, jinja2, multiprocessing, pydantic, subprocess, tempfile, webbrowser, zipfile
sys.modules |= dict.fromkeys(["fcntl", "grp", "pwd", "resource", "termios"])
for module, names in {
    os: ["fork", "register_at_fork", "getppid", "killpg", "setpgid", "sysconf", "getuid", "geteuid", "O_CLOEXEC", "O_DIRECTORY",
         "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"],
    signal: ["SIGHUP", "SIGKILL", "SIGCHLD", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGSTOP", "SIGCONT", "pthread_sigmask", "setitimer"],
}.items():
    for name in names:
        delattr(module, name)
"""


@pytest.mark.parametrize("name", list(AUDITS))
def test_audits_are_read_without_what_windows_lacks(name: str, audit: Path, tmp_path: Path) -> None:
    words = [word.replace("AUDIT", str(audit)) for word in AUDITS[name]]
    done = run(f"{WITHOUT_POSIX}os.chdir({str(tmp_path)!r})\nsys.argv[1:] = {words!r}\nfrom vlaudit.cli import main\nmain()")
    assert done.returncode in ((0, 1, 3) if name == "judge" else (0,)) and done.stdout, done.stderr
    assert "Traceback" not in done.stderr and "bug" not in done.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment that keeps bytecode, as an installation does, even where this one's says not to write it."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return env | {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}


def seconds(script: str, env: dict[str, str]) -> float:
    """CPU seconds of a fresh interpreter, which a busy machine leaves nearly as they are."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(script, env).returncode in (0, 1, 3)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("words", [["--help"], ["list", "probes"], ["explain", "MR1"], *AUDITS.values()], ids=" ".join)
def test_commands_start_in_about_a_second(
    words: list[str], audit: Path, tmp_path: Path, compiled: dict[str, str]
) -> None:
    """By the time that importing click, rich and pydantic takes; the best of four tries counts (the first compiles)."""
    words = [word.replace("AUDIT", str(audit)) for word in words]
    script = f"import os, sys\nos.chdir({str(tmp_path)!r})\nfrom vlaudit.cli import run\nsys.exit(run({words!r}))"
    tries: list[float] = []
    limit = JUDGING if words[0] == "judge" else SLOWEST
    while not tries or (min(tries) >= limit and len(tries) < 4):
        tries.append(seconds(script, compiled) / bare(tuple(compiled.items())))
    assert min(tries) < limit


@cache
def bare(env: tuple[tuple[str, str], ...]) -> float:
    return min(seconds("import click, rich.console, pydantic", dict(env)) for _ in range(3))


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
