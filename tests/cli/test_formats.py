"""Every report format on a whole audit, scanned, judged again and rendered from its folder; the page of formats is complete."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from avidtools.datamodels.report import Report as AVIDReport
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import ModelCard

from tests.cli.test_light import BLOCK
from tests.conftest import MIRROR
from vlaudit.audit.run import read_report
from vlaudit.files import file_sha256
from vlaudit.plugins import plugin, plugins
from vlaudit.records import Verdict

Command = Callable[..., int]
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"
NEW = "cyclonedx,model-card,avid"


@pytest.fixture(scope="module")
def audit(tiny_clip: Path, picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of one model under a hard and a learned prompt, scanned, then judged under a policy that nothing meets."""
    import torch

    from vlaudit.cli import run
    from vlaudit.prompts.coop import CoOp

    folder = tmp_path_factory.mktemp("formats")
    (folder / "mirror.py").write_text(MIRROR)
    (folder / "strict.toml").write_text("[thresholds]\nmirror = 1e-9\n")
    CoOp(0.1 * torch.randn(4, 32, generator=torch.Generator().manual_seed(0))).save(folder / "learned.safetensors")
    prompts = ["--prompt", "the {}", "--prompt", f"coop:{folder / 'learned.safetensors'}"]
    probes = ["--probe", "mirror", "--probe", "unsafe-file", "--probe", "rank-skew"]
    plugin_file = ["--plugin", str(folder / "mirror.py")]
    data = ["--data", str(picture_folder), "--format", NEW, "--out", str(folder / "out")]
    assert run(["scan", f"hf:{tiny_clip}", *prompts, *probes, *plugin_file, *data]) in (0, 1)
    assert run(["judge", str(folder / "out"), *plugin_file, "--policy", str(folder / "strict.toml")]) == 1
    return folder / "out"


def test_the_three_formats_of_a_scanned_and_judged_audit(audit: Path, tiny_clip: Path, vlaudit: Command) -> None:
    names = ("report.cdx.json", "report.card.md", "report.avid.jsonl")
    before = {name: (audit / name).read_bytes() for name in names}  # the scan wrote them, before it was judged again
    assert vlaudit("report", audit, "--format", NEW) == 0
    after = {name: (audit / name).read_text(encoding="utf-8") for name in names}
    assert all(after[name].encode() != before[name] for name in names)
    report = read_report(audit)
    assert report.audit.notes == ["Judged under another policy than it was scanned with: thresholds.mirror 0.5 -> 1e-09."]
    vulnerable = [f for f in report.findings if f.verdict is Verdict.VULNERABLE]
    assert {f.probe for f in vulnerable} == {"mirror"}
    assert {f.verdict for f in report.findings} >= {Verdict.HELD, Verdict.NOT_ASSESSED}

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(after["report.cdx.json"]) is None
    document = json.loads(after["report.cdx.json"])
    hashes = {c["type"]: c["hashes"][0]["content"] for c in document["components"] if "hashes" in c}
    assert hashes == {
        "machine-learning-model": file_sha256(tiny_clip / "model.safetensors"),
        "file": file_sha256(audit.parent / "learned.safetensors"),
    }
    assert len(document["vulnerabilities"]) == len(vulnerable)

    results = ModelCard(after["report.card.md"]).data.eval_results
    assert sum("(vulnerable" in result.metric_name for result in results) == len(vulnerable)
    assert {result.metric_config for result in results} == {target.prompt.id for target in report.targets}

    lines = after["report.avid.jsonl"].splitlines()
    assert [AVIDReport.model_validate_json(line).problemtype.type for line in lines] == ["Detection"] * len(vulnerable)


@pytest.mark.parametrize("name", NEW.split(","))
def test_a_report_needs_no_heavy_library(audit: Path, name: str) -> None:
    script = f"{BLOCK}from vlaudit.cli import run\nsys.exit(run(['report', {str(audit)!r}, '--format', {name!r}]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 500


def test_the_page_names_every_format_and_its_file() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| `report\.([a-z.]+)` \|", text, re.MULTILINE))
    assert rows == {name: plugin("reporters", name)().extension for name in plugins("reporters")}
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    assert all(re.search(rf"--format (\S+,)?{name}\b", commands) or name == "terminal" for name in rows)


def test_the_documented_merge_runs(audit: Path, tmp_path: Path, vlaudit: Command) -> None:
    assert vlaudit("report", audit, "--format", "model-card", "--output", tmp_path / "block.md") == 0
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# My model\n")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and card.data.eval_results and "# My model" in card.text
