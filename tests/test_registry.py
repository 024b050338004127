"""Plugins: a separate small package is found by its entry point, and the wheel holds what the tree holds."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from vlaudit.errors import UsageError
from vlaudit.registry import ProbeRegistry

ROOT = Path(__file__).parents[1]


def test_selectors() -> None:
    registry = ProbeRegistry.load()
    assert registry.select(["MR1"]) == ["clip-autoattack"]
    assert set(registry.select(["prompt-*"])) == {
        "prompt-text-perturb", "prompt-trigger-inversion", "prompt-mia", "prompt-intervention", "prompt-invariance", "prompt-only-leak",
    }  # fmt: skip
    bias = {name for name, found in registry.classes.items() if ".attacks.bias." in found.__module__}
    assert {"rank-skew", "representation", "counterfactual-gap"} < bias
    assert set(registry.select(["risk:bias"])) == bias
    assert set(registry.select([], ["risk:bias"])) == set(registry.classes) - bias
    with pytest.raises(UsageError, match="Did you mean 'rank-skew'"):
        registry.select(["rank-skw"])


def test_unknown_parameters_are_named() -> None:
    registry = ProbeRegistry.load()
    with pytest.raises(UsageError, match=r"no parameter 'sise'.*Did you mean 'size'"):
        registry.make("typographic", {"sise": 0.5})


def documented_plugin() -> str:
    """The plugin as CONTRIBUTING.md shows it."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = text.split("```python\n", 1)[1].split("```", 1)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20, "the documented plugin is at most 20 lines"
    return code


def test_documented_plugin_is_found_by_entry_point_and_conforms(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "mirrored.py").write_text(documented_plugin())
    (package / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["setuptools>=77"]
        build-backend = "setuptools.build_meta"
        [project]
        name = "vlaudit-mirrored"
        version = "1.0"
        [project.entry-points."vlaudit.probes"]
        mirrored = "mirrored:Mirrored"
        [tool.setuptools]
        py-modules = ["mirrored"]
        """)
    )
    site = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(site),
        str(package),
    ]
    subprocess.run(install, check=True, capture_output=True)
    script = """
from vlaudit.registry import ProbeRegistry
from vlaudit.testing import check_probe
registry = ProbeRegistry.load()
assert registry.origins["mirrored"] == "vlaudit-mirrored 1.0", registry.origins
print(check_probe(registry.get("mirrored")).verdict)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in ("vulnerable", "held", "inconclusive")


def test_a_third_partys_broken_plugin_spoils_only_itself(tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vlaudit.probes]\nbroken = nothing_like_this:Broken\n")
    script = """
import sys
from vlaudit.registry import ProbeRegistry
registry = ProbeRegistry.load()
assert "typographic" in registry.classes and "fails to load" in registry.broken["broken"]
from vlaudit.cli import run
sys.exit(run(["scan", "zoo:clean", "--probe", "broken", "--dry-run"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 2 and "broken 1.0" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_holds_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "vlaudit", "attacks", "reports"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    expected = {
        name if name.startswith("vlaudit/") else f"vlaudit/{name}"
        for name in tracked.stdout.splitlines()
        if (ROOT / name).is_file()
    }
    missing = expected - set(wheel.namelist())
    assert not missing, sorted(missing)[:10]


def test_dependencies_keep_requests_modern() -> None:
    from importlib.metadata import version

    assert tuple(map(int, version("requests").split(".")[:2])) >= (2, 33)
    assert version("torchattacks") == "3.3.0"
