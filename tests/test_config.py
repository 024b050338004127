"""vlaudit.toml: paths relative to the file, flags on top, and a request whose identity is what makes the trials."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vlaudit.config import Config, Request, TargetSpec, found_config, read_config
from vlaudit.errors import UsageError
from vlaudit.policy import Policy, load_policy


def write(folder: Path, text: str) -> Path:
    path = folder / "vlaudit.toml"
    path.write_text(text)
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    config = read_config(
        write(
            tmp_path,
            '[[target]]\nmodel = "hf:models"\nprompt = ["a {}", "coop:./p.safetensors"]\ndata = "d"\nlabels = "l.txt"\n',
        ),
        trusted=False,
    )
    target = config.target[0]
    assert (
        target.model == f"hf:{tmp_path}/models"
        and target.data == f"{tmp_path}/d"
        and target.labels == f"{tmp_path}/l.txt"
    )
    assert target.prompt == ["a {}", f"coop:{tmp_path}/p.safetensors"]


@pytest.mark.parametrize(
    "entry", ['data = "../d"', 'data = "/etc"', 'labels = "../l"', 'prompt = ["coop:../p"]', 'reference = "coop:/p"']
)
def test_a_found_config_stays_in_its_folder(tmp_path: Path, entry: str) -> None:
    path = write(tmp_path, f'[[target]]\nmodel = "zoo:clean"\n{entry}\n')
    with pytest.raises(UsageError, match="outside its folder"):
        read_config(path, trusted=False)
    assert read_config(path, trusted=True)


def test_identity_is_what_makes_the_trials() -> None:
    base = Request(targets=[TargetSpec(model="zoo:clean")], probes=["mirror"])
    assert base.digest() == base.model_copy(update={"policy": Policy(level=0.9)}).digest()
    for change in ({"seed": 1}, {"effort": "standard"}, {"probes": []}, {"params": {"mirror": {"x": 1}}}):
        assert base.digest() != base.model_copy(update=change).digest()


def test_parameters_and_policy_reach_the_finding(
    tiny_clip: Path, picture_folder: Path, mirror_plugin: Path, tmp_path: Path, vlaudit: Callable[..., int]
) -> None:
    config = write(
        tmp_path,
        f'[scan]\nprobe = ["mirror"]\nseed = 3\n[[target]]\nmodel = "hf:{tiny_clip}"\nprompt = ["a {{}}", "the {{}}"]\n'
        f'data = "{picture_folder}"\n[policy]\nlevel = 0.9\n[policy.thresholds]\nmirror = 0.9\n',
    )
    out = tmp_path / "out"
    assert vlaudit("scan", "--config", config, "--plugin", mirror_plugin, "--seed", 5, "--out", out) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["audit"]["seed"] == 5, "a flag wins over the file"
    assert len(report["targets"]) == 2 and len({t["id"] for t in report["targets"]}) == 2
    assert all((f["threshold"] == 0.9 and f["metric"]["level"] == 0.95) or f["verdict"] for f in report["findings"])


def test_policy_files(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[severity]\nunsafe-file = 'high'\nbias = 'low'\n")
    assert load_policy(path).severity.unsafe_file == "high"
    for text, message in {"levle = 1": "levle", "level = 2": "level", "x": "not TOML"}.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            load_policy(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy(tmp_path / "none.toml")


def test_the_example_of_init_is_valid(tmp_path: Path) -> None:
    from vlaudit.cli.setup import TEMPLATE

    config = read_config(write(tmp_path, TEMPLATE), trusted=True)
    assert isinstance(config, Config) and config.target[0].model.startswith("zoo:")


def test_a_project_file_may_hold_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project = tmp_path / "pyproject.toml"
    project.write_text('[project]\nname = "x"\n')
    assert found_config() is None
    project.write_text('[tool.vlaudit.scan]\nseed = 5\n\n[[tool.vlaudit.target]]\nmodel = "zoo:clean"\n')
    found = found_config()
    assert found is not None
    config = read_config(found, trusted=False)
    assert config.scan.seed == 5 and config.target[0].model == "zoo:clean"
    assert config.target[0].declared is not None and (config.target[0].declared.file, config.target[0].declared.line) == ("pyproject.toml", 4)
    project.write_text("[tool.vlaudit.scan]\nsede = 5\n")
    with pytest.raises(UsageError, match=r"unknown entry 'scan.sede'. Did you mean 'seed'"):
        read_config(project, trusted=False)
    (tmp_path / "vlaudit.toml").write_text("[scan]\nseed = 6\n")
    assert found_config() == Path("vlaudit.toml")
    (tmp_path / "vlaudit.toml").unlink()
    project.write_text("[tool.vlaudit")
    assert found_config() is None
