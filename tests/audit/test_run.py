"""Audits from the command line: the same findings whatever interrupts them, and failures that spoil only themselves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., int]
LAUNCH = [sys.executable, "-c", "from vlaudit.cli import main; main()"]


def findings(folder: Path) -> list[dict]:
    """Findings without what a clock measured."""
    report = json.loads((folder / "report.json").read_text())
    for finding in report["findings"]:
        finding["cost"].pop("seconds")
    return report["findings"]


@pytest.fixture
def scan(tiny_clip: Path, picture_folder: Path, mirror_plugin: Path) -> list[str]:
    return ["scan", f"hf:{tiny_clip}", "--prompt", "the {}", "--data", str(picture_folder), "--plugin", str(mirror_plugin), "--probe", "mirror"]  # fmt: skip


def test_kill_and_resume_gives_the_same_findings(scan: list[str], tmp_path: Path, vlaudit: Command) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert vlaudit(*scan, "--out", whole) in (0, 1)
    process = subprocess.Popen([*LAUNCH, *scan, "--out", str(killed)], env=os.environ | {"MIRROR_SLEEP": "0.1"})
    journal = killed / "trials.jsonl"
    deadline = time.time() + 90
    while not (journal.exists() and journal.read_text().count('"closed"') >= 2) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    closed = journal.read_text().count('"closed"')
    assert 2 <= closed < 12, "the kill must hit the middle of the audit"
    before = journal.read_text()
    assert vlaudit(*scan, "--out", killed) in (0, 1)
    assert journal.read_text().startswith(before[: before.rindex('"closed"')]), "closed units are not run again"
    assert findings(killed) == findings(whole)


def test_interrupt_writes_a_partial_report_and_resumes(scan: list[str], tmp_path: Path, vlaudit: Command) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"MIRROR_SLEEP": "0.1"}
    process = subprocess.Popen(
        [*LAUNCH, *scan, "--out", str(out)], env=environment, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a background job inherits it ignored
    )  # fmt: skip
    while not (out / "trials.jsonl").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "partial" in output
    report = json.loads((out / "report.json").read_text())
    assert report["audit"]["complete"] is False
    assert report["findings"][0]["verdict"] == "not-assessed" and (out / "report.html").exists()
    assert vlaudit(*scan, "--out", out) in (0, 1)
    assert json.loads((out / "report.json").read_text())["audit"]["complete"] is True


def test_finished_or_different_audit_in_out_is_a_usage_error(scan: list[str], tmp_path: Path, vlaudit: Command) -> None:
    out = tmp_path / "out"
    assert vlaudit(*scan, "--out", out) in (0, 1)
    assert vlaudit(*scan, "--out", out) == 2
    other = tmp_path / "other"
    assert vlaudit(*scan, "--out", other, "--max-time", "0.000001s") == 3
    assert vlaudit(*scan, "--seed", 1, "--out", other) == 2
    assert vlaudit(*scan, "--out", other) in (0, 1), "the same command resumes it"


def test_seed_and_order_do_not_depend_on_batch_size(scan: list[str], tmp_path: Path, vlaudit: Command) -> None:
    for size in (1, 128):
        assert vlaudit(*scan, "--batch-size", size, "--out", tmp_path / str(size)) in (0, 1)
    assert findings(tmp_path / "1") == findings(tmp_path / "128")


BROKEN = '''"""Probes that fail in their own ways."""
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict

def make(name, code, body, judge=None):
    class Broken(Probe):
        def cases(self, ctx): return [Case(id="a"), Case(id="b")]
        def attempt(self, ctx, cases): yield from body(ctx, cases)
        def judge(self, trials, policy): return (judge or held)(trials)
    return probe(id=name, code=code, risk=Risk.PRIVACY, families={Family.MATCHING})(Broken)

def held(trials): return Judgement(verdict=Verdict.HELD, reason="fine", metric=Metric(name="m", value=0.0, ci=(0.0, 0.0), n=4), threshold=0.1)
def raises(ctx, cases):
    yield ctx.trial(cases[0], {"x": 1})
    raise KeyError("lost")
def nothing(ctx, cases): return iter(())
def nan(ctx, cases): yield ctx.trial(cases[0], {"x": float("nan")})
def hungry(ctx, cases):
    own, sizes = ctx.target.model._encode_images, []
    def encode(images):
        if len(images) > 3: raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(len(images))
        return own(images)
    ctx.target.model._encode_images = encode
    try:
        ctx.target.image_features(ctx.images(ctx.examples))
    finally:
        del ctx.target.model._encode_images
    for case in cases: yield ctx.trial(case, {"largest": max(sizes)})
def always_hungry(ctx, cases):
    raise MemoryError("no room")
    yield
def bad_judge(trials): return 1 / 0
def fine(ctx, cases):
    for case in cases: yield ctx.trial(case, {"x": 1})

Raises = make("raises", "B1", raises)
Nothing = make("nothing", "B2", nothing)
NaN = make("nan", "B3", nan)
Hungry = make("hungry", "B4", hungry)
Starving = make("starving", "B5", always_hungry)
BadJudge = make("bad-judge", "B6", fine, bad_judge)
Fine = make("fine", "B7", fine)
'''


def test_a_broken_probe_spoils_only_itself(
    tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    names = ["raises", "nothing", "nan", "hungry", "starving", "bad-judge", "fine"]
    selectors = [word for name in names for word in ("--probe", name)]
    out = tmp_path / "out"
    code = vlaudit("scan", f"hf:{tiny_clip}", "--data", picture_folder, "--plugin", plugin, *selectors, "--out", out)
    assert code == 3
    by_probe = {finding["probe"]: finding for finding in findings(out)}
    assert {name: by_probe[name]["verdict"] for name in names} == {
        "raises": "not-assessed", "nothing": "not-assessed", "nan": "not-assessed", "hungry": "held",
        "starving": "not-assessed", "bad-judge": "not-assessed", "fine": "held",
    }  # fmt: skip
    assert "lost" in by_probe["raises"]["reason"] and "not finite" in by_probe["nan"]["reason"]
    assert "out of memory" in by_probe["starving"]["reason"] and "--batch-size" in by_probe["starving"]["reason"]
    trials = [json.loads(line) for line in (out / "trials.jsonl").read_text().splitlines()]
    largest = {t["trial"]["values"]["largest"] for t in trials if "largest" in t.get("trial", {}).get("values", {})}
    assert largest and max(largest) <= 3, "a pass is halved until it fits"


FAILING = '''"""A probe whose second round fails while a file is missing."""
import pathlib
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict

@probe(id="passing", code="P1", risk=Risk.BIAS, families={Family.MATCHING})
class Passing(Probe):
    def cases(self, ctx):
        if "WHERE" == "cases":
            pathlib.Path("FILE").read_text()
        return [Case(id=str(i)) for i in range(3)]
    def rounds(self, cases): return [[case] for case in cases]
    def attempt(self, ctx, cases):
        if cases[0].id == "1":
            pathlib.Path("FILE").read_text()
        yield ctx.trial(cases[0])
    def judge(self, trials, policy): return Judgement(verdict=Verdict.HELD, reason=f"{len(trials.target)} trials", metric=Metric(name="m", value=0.0, ci=(0.0, 0.0), n=4), threshold=0.1)
'''


@pytest.mark.parametrize("where", ["cases", "attempt"])
def test_what_failed_is_tried_again_by_the_same_command(
    tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command, where: str
) -> None:
    plugin, out, file = tmp_path / "failing.py", tmp_path / "out", tmp_path / "file"
    plugin.write_text(FAILING.replace("FILE", str(file)).replace("WHERE", where))
    out.mkdir()
    (out / ".0123456789abcdef.part").write_text("what a kill left of a file that was being written")
    words = ["scan", f"hf:{tiny_clip}", "--data", picture_folder, "--plugin", plugin, "--probe", "passing", "--out", out]
    for _ in range(2):
        assert vlaudit(*words) == 3
        report = json.loads((out / "report.json").read_text())
        assert report["audit"]["complete"] is False and report["audit"]["finished"] is None
        assert "No such file" in report["audit"]["errors"][0] and report["findings"][0]["verdict"] == "not-assessed"
    before = (out / "trials.jsonl").read_text() if where == "attempt" else ""
    file.write_text("")
    assert vlaudit(*words) == 0
    assert (out / "trials.jsonl").read_text().startswith(before), "what succeeded is kept"
    report = json.loads((out / "report.json").read_text())
    assert report["audit"]["complete"] is True and not report["audit"]["errors"]
    assert report["findings"][0]["reason"] == "3 trials"
    units = [json.loads(line)["unit"] for line in (out / "trials.jsonl").read_text().splitlines() if '"trial"' in line]
    assert len(units) == len(set(units)), "no unit that succeeded ran again"
    assert vlaudit(*words) == 2
    (out / "report.json").unlink()
    assert vlaudit(*words) == 0, "an audit that was killed before its report was written"


def test_judge_again_without_the_model(scan: list[str], tmp_path: Path, vlaudit: Command, mirror_plugin: Path) -> None:
    out = tmp_path / "out"
    assert vlaudit(*scan, "--out", out) in (0, 1)
    policy = tmp_path / "policy.toml"
    policy.write_text("[thresholds]\nmirror = 0.000001\n[severity]\nrobustness = 'low'\n")
    script = f"""
import sys
sys.modules['torch'] = None
from vlaudit.cli import run
code = run(['judge', {str(out)!r}, '--policy', {str(policy)!r}, '--plugin', {str(mirror_plugin)!r}])
assert code in (0, 3), code
assert run(['report', {str(out)!r}, '--format', 'html', '--output', {str(tmp_path / "r.html")!r}]) == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    finding = findings(out)[0]
    assert finding["threshold"] == 0.000001 and finding["severity"] in ("low", "none")


def test_rounds_stop_when_decided(tiny_clip: Path, picture_folder: Path, tmp_path: Path, vlaudit: Command) -> None:
    plugin = tmp_path / "rounds.py"
    plugin.write_text(
        '"""Rounds."""\n'
        "from vlaudit.probe import Probe, probe\n"
        "from vlaudit.records import Case, Family, Judgement, Metric, Risk, Verdict\n"
        "@probe(id='rounds', code='R1', risk=Risk.BIAS, families={Family.MATCHING})\n"
        "class Rounds(Probe):\n"
        "    enough: int = 2\n"
        "    def cases(self, ctx): return [Case(id=str(i)) for i in range(4)]\n"
        "    def rounds(self, cases): return [[case] for case in cases]\n"
        "    def decided(self, trials, policy): return len(trials.target) >= self.enough\n"
        "    def attempt(self, ctx, cases): yield from (ctx.trial(case) for case in cases)\n"
        "    def judge(self, trials, policy): return Judgement(verdict=Verdict.HELD, reason=f'{len(trials.target)} trials', metric=Metric(name='m', value=0.0, ci=(0.0, 0.0), n=4), threshold=0.1)\n"
    )
    out = tmp_path / "out"
    assert (
        vlaudit(
            "scan", f"hf:{tiny_clip}", "--data", picture_folder, "--plugin", plugin, "--probe", "rounds", "--out", out
        )
        == 0
    )
    report = json.loads((out / "report.json").read_text())
    assert report["findings"][0]["reason"] == "2 trials" and report["audit"]["complete"] is True
