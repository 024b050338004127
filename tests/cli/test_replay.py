"""Replays: what comes out again is said to, what does not is not, and what changed since is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.cli.test_light import BLOCK
from tests.conftest import MIRROR, save_tiny_clip
from vlaudit.audit.journal import Journal
from vlaudit.audit.replay import Outcome, outcome_of
from vlaudit.checksums import sealed
from vlaudit.cli import run
from vlaudit.records import Family, Finding, Metric, Risk, Severity, Verdict

FAILING = '''"""A probe that fails."""
from vlaudit.probe import Probe, probe
from vlaudit.records import Case, Family, Risk

@probe(id="failing", code="X2", risk=Risk.BIAS, families={Family.MATCHING})
class Failing(Probe):
    def cases(self, ctx): return [Case(id="a")]
    def attempt(self, ctx, cases):
        raise KeyError("lost")
        yield
'''


def call(*words: object) -> int:
    """A command line in this process."""
    arguments = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vlaudit", *arguments])
        return run(arguments)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, picture_folder: Path) -> Path:
    """A folder with a model, a prompt file, pictures and plugins, and an audit of them whose paths are relative to it."""
    home = tmp_path_factory.mktemp("home")
    save_tiny_clip(home / "model")
    shutil.copytree(picture_folder / "test", home / "data")
    with Image.open(home / "data" / "cat" / "0.png") as picture:
        picture.save(home / "data" / "cat" / "0.bmp")  # uncompressed: its size does not tell what it shows
    (home / "data" / "cat" / "0.png").unlink()
    (home / "prompts.txt").write_text("the {}\na photo of the {}\n")
    (home / "mirror.py").write_text(MIRROR)
    (home / "failing.py").write_text(FAILING)
    (home / "ignore.toml").write_text(
        '[[ignore]]\nprobe = "X1"\ntarget = "*"\nreason = "known"\nowner = "ada"\nexpires = 2999-01-01\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        probes = [word for name in ("mirror", "failing", "rank-skew", "unsafe-file") for word in ("--probe", name)]
        code = call("scan", "hf:model", "--prompt", "ensemble:prompts.txt", "--data", "data", "--out", "audit", "--seed", 3,
                    "--plugin", "mirror.py", "--plugin", "failing.py", *probes)  # fmt: skip
    assert code == 3, "one probe fails"
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, in another place; the current folder is yet another."""
    shutil.copytree(original, tmp_path / "home")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


Replaying = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def replay(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Replaying]:
    """Replay a finding: the exit code, the result, and what was said on stderr. The audit itself must stay as it is."""

    def call_replay(finding: str = "mirror", *flags: object) -> tuple[int, dict[str, Any], str]:
        before = contents(home / "audit")
        capsys.readouterr()
        code = call("replay", home / "audit", finding, "--json", "--plugin", home / "mirror.py", *flags)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        assert contents(home / "audit") == before, "the audit was altered"
        return code, json.loads(printed.out) if printed.out else {}, printed.err

    yield call_replay


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """As a forger would, who can compute checksums too."""
    value = json.loads(path.read_text())
    value.pop("checksum", None)
    change(value)
    path.write_text(sealed(json.dumps(value))[0])


def edit_trials(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    text, checksum = "", ""
    for line in (folder / "trials.jsonl").read_text().splitlines():
        entry = json.loads(line)
        del entry["checksum"]
        if "flipped" in entry.get("trial", {}).get("values", {}):
            change(entry["trial"]["values"])
        line, checksum = sealed(json.dumps(entry), checksum)
        text += line + "\n"
    (folder / "trials.jsonl").write_text(text)


def test_specimen_reproduces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("scan", "zoo:tiny-clean", "--probe", "typographic", "--probe", "unsafe-file", "--out", "audit") in (
        0,
        1,
    )
    capsys.readouterr()
    assert call("replay", "audit", "MR4") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "reproduced: the same verdict and the same figure." in printed and "128 of 128 trials" in printed
    assert call("replay", "audit", "unsafe-file", "--out", "again", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads(Path("again/replay.json").read_text())
    assert result["outcome"] == "reproduced" and result["now"]["metric"] == result["then"]["metric"]
    assert not result["changed"] and not result["notes"] and result["trials"]["target"] == {"same": 6, "of": 6}


def test_seed_parameters_prompt_and_both_arms_are_those_of_the_audit(replay: Replaying, home: Path) -> None:
    code, result, said = replay("mirror", "--out", "new")
    assert code == 0 and result["outcome"] == "reproduced", said
    assert result["trials"] == {"target": {"same": 24, "of": 24}, "reference": {"same": 24, "of": 24}}
    assert not result["changed"] and not result["notes"] and result["folder"] == "new"
    assert "replay: started, about" in said
    manifest = json.loads(Path("new/manifest.json").read_text())
    assert manifest["request"]["seed"] == 3 and manifest["request"]["targets"][0]["prompt"] == ["ensemble:prompts.txt"]
    code, _, said = replay("mirror", "--out", "new")
    assert code == 2 and "finished" in said


def test_interrupted_replay_goes_on(replay: Replaying, monkeypatch: pytest.MonkeyPatch) -> None:
    real, closed = Journal.append, []

    def append(self: Journal, result: Any) -> None:
        if len(closed) == 3:
            raise KeyboardInterrupt
        closed.append(result.unit)
        real(self, result)

    monkeypatch.setattr(Journal, "append", append)
    code, result, said = replay("mirror", "--out", "new")
    assert code == 130 and result["outcome"] is None and "--out new goes on" in said
    monkeypatch.setattr(Journal, "append", real)
    code, result, said = replay("mirror", "--out", "new")
    assert code == 0 and "resuming: 3 of" in said and result["outcome"] == "reproduced"


@pytest.mark.parametrize("what", ["weights", "files beside the weights", "prompt", "pictures", "labels"])
def test_what_changed_is_refused(replay: Replaying, home: Path, what: str) -> None:
    if what == "weights":
        other = save_tiny_clip(home / "other", seed=1)
        shutil.copy(other / "model.safetensors", home / "model" / "model.safetensors")
    elif what == "files beside the weights":
        edit(home / "model" / "tokenizer_config.json", lambda config: config.update(model_max_length=12))
    elif what == "prompt":
        (home / "prompts.txt").write_text("the {}\na picture of the {}\n")
    elif what == "labels":
        (home / "data" / "cat").rename(home / "data" / "lion")
    else:
        path = home / "data" / "cat" / "0.bmp"
        content = bytearray(path.read_bytes())
        content[-1] ^= 255
        path.write_bytes(content)
    code, result, said = replay("mirror", "--out", "new")
    assert code == 2 and not result and what in said and "--allow-changed" in said
    assert not Path("new").exists()


def test_changed_weights_are_said_first_where_they_are_allowed(replay: Replaying, home: Path) -> None:
    other = save_tiny_clip(home / "other", seed=1)
    shutil.copy(other / "model.safetensors", home / "model" / "model.safetensors")
    code, result, said = replay("mirror", "--allow-changed")
    assert said.startswith("Not as it was in the audit: weights.")
    assert result["changed"] == ["weights"] and result["trials"]["target"]["same"] < 24
    assert code == (0 if result["outcome"] == "reproduced" else 1)


def test_missing_data_model_and_plugin_are_said(
    replay: Replaying, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("replay", home / "audit", "mirror") == 2
    assert "mirror.py" in (said := capsys.readouterr().err) and "--plugin" in said
    (home / "data").rename(home / "gone")
    code, _, said = replay()
    assert code == 2 and "does not exist" in said
    (home / "gone").rename(home / "data")
    (home / "model" / "model.safetensors").unlink()
    code, _, said = replay()
    assert code == 4 and "holds no weights" in said


def test_tampered_trials_are_refused_and_never_reproduce(replay: Replaying, home: Path) -> None:
    edit_trials(home / "audit", lambda values: values.update(flipped=not values["flipped"]))
    code, _, said = replay()
    assert code == 2 and "contradicts itself" in said and "its trials say" in said
    code, result, said = replay("mirror", "--allow-changed")
    assert said.startswith("The audit contradicts itself") and result["trials"]["target"] == {"same": 0, "of": 24}
    edit_trials(home / "audit", lambda values: values.update(flipped=True))
    assert call("judge", home / "audit", "--plugin", home / "mirror.py", "--plugin", home / "failing.py") in (1, 3)
    code, result, said = replay()  # now the folder is of one piece, and wrong
    assert code == 1 and result["outcome"] == "not reproduced" and result["then"]["verdict"] == "vulnerable"
    assert result["trials"]["target"]["same"] < 24


def test_tampered_report_manifest_and_damaged_journal(replay: Replaying, home: Path) -> None:
    def only(report: dict[str, Any]) -> dict[str, Any]:
        return next(finding for finding in report["findings"] if finding["probe"] == "mirror")

    report, manifest = home / "audit" / "report.json", home / "audit" / "manifest.json"
    kept = {path: path.read_text() for path in (report, manifest)}
    edit(report, lambda value: only(value).update(verdict="inconclusive"))
    code, _, said = replay()
    assert code == 2 and "report.json says inconclusive" in said
    edit(report, lambda value: value["audit"].update(id="other"))
    assert "not of the same audit" in replay()[2]
    report.write_text(kept[report])
    edit(manifest, lambda value: value["request"].update(seed=4))
    code, _, said = replay()
    assert code == 2 and "not as the scan wrote it" in said
    edit(manifest, lambda value: value["request"]["targets"][0].update(model="openai:http://localhost:1#m"))
    code, _, said = replay("mirror", "--allow-changed")
    assert code == 2 and "remote" in said and "--allow-network" in said
    manifest.write_text(kept[manifest])
    journal = home / "audit" / "trials.jsonl"
    journal.write_text(journal.read_text() + '{"unit": "torn')
    assert replay("unsafe-file")[0] == 0, "a torn line is skipped, and not cut off"
    journal.write_text("{}\n")
    code, _, said = replay()
    assert code == 2 and "damaged" in said


def test_other_versions_are_said_first_and_older_audits_are_read(replay: Replaying, home: Path) -> None:
    def older(manifest: dict[str, Any]) -> None:
        manifest["version"] = "0.0.1"
        manifest["environment"] |= {"torch": "1.0", "device": "cuda:7"}
        manifest["probes"]["mirror"]["version"] = "0"

    def oldest(manifest: dict[str, Any]) -> None:
        for name in ("folder", "batch_size", "probes", "fingerprints", "replays"):
            del manifest[name]

    edit(home / "audit" / "manifest.json", older)
    code, result, said = replay()
    assert code == 0 and said.startswith("The version of vlaudit differs: 0.0.1 then")
    assert [note.split(":")[0] for note in result["notes"]] == [
        "The version of vlaudit differs", "The version of the probe differs", "The device differs", "The version of torch differs",
    ]  # fmt: skip
    edit(home / "audit" / "manifest.json", oldest)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert replay()[0] == 0


def test_nothing_measured_is_nothing_to_reproduce(replay: Replaying, home: Path) -> None:
    code, _, said = replay("failing", "--plugin", home / "failing.py")
    assert code == 2 and "lost" in said and "nothing to reproduce" in said
    code, _, said = replay("rank-skew")
    assert code == 2 and "group column" in said and "vlaudit scan" in said


def test_suppressed_finding_is_replayed_as_any(replay: Replaying, home: Path) -> None:
    def suppress(report: dict[str, Any]) -> None:
        for finding in report["findings"]:
            finding["suppressed"] = {"reason": "known", "owner": "ada", "expires": "2999-01-01"}

    edit(home / "audit" / "report.json", suppress)
    code, result, said = replay("X1")
    assert code == 0 and "accepted by ada" in said and result["outcome"] == "reproduced"


@pytest.mark.parametrize(
    "finding, message",
    [
        ("miror", "Did you mean X1-"), ("", "FINDING is empty"), ("X", "names 2 findings"), ("../../etc/passwd", "no finding"),
        ("\x1b[31mred\n", "no finding"), ("x" * 5000, "no finding"), ("*", "no finding"),
    ],
)  # fmt: skip
def test_unknown_findings(replay: Replaying, finding: str, message: str) -> None:
    code, _, said = replay(finding)
    assert code == 2 and message in said and "\x1b" not in said and len(said) < 1500


def test_out_is_never_in_the_audit(replay: Replaying, home: Path) -> None:
    for out in (home / "audit", home / "audit" / "replays"):
        code, _, said = replay("mirror", "--out", out)
        assert code == 2 and "lies in the audit" in said
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home / "audit")
        code, _, said = replay()
        assert code == 2 and "lies in the audit" in said
    edit(
        home / "audit" / "report.json",
        lambda report: [
            finding.update(id="../../../evil") for finding in report["findings"] if finding["code"] == "X1"
        ],
    )
    code, result, _ = replay()
    folder = Path(result["folder"])
    assert code == 0 and folder.parent == Path("vlaudit-out") and folder.is_dir()


def test_help_and_wrong_arguments_need_no_torch(home: Path) -> None:
    script = f"""{BLOCK}
from vlaudit.cli import run
assert run(["replay", "--help"]) == 0
assert run(["replay", {str(home / "audit")!r}]) == 2
assert run(["replay", {str(home / "audit")!r}, "miror"]) == 2
assert run(["replay", {str(home / "audit")!r}, "mirror"]) == 2
assert run(["replay", {str(home)!r}, "mirror"]) == 2
assert run(["replay", {str(home / "audit")!r}, "unsafe-file", "--out", {str(home / "audit")!r}]) == 2
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit codes" in done.stdout and "Did you mean" in done.stderr and "not an audit folder" in done.stderr


def claim(
    verdict: Verdict, value: float | None = None, half: float = 0.1, reason: str = "", name: str = "x"
) -> Finding:
    metric = None if value is None else Metric(name=name, value=value, ci=(value - half, value + half), n=10)
    return Finding(id="a", probe="p", code="X", title="", risk=Risk.BIAS, target="t", verdict=verdict, reason=reason,
                   severity=Severity.NONE, metric=metric)  # fmt: skip


@pytest.mark.parametrize(
    "then, now, outcome",
    [
        (claim(Verdict.HELD, 0.2), claim(Verdict.HELD, 0.2), Outcome.REPRODUCED),
        (claim(Verdict.HELD, 0.2, 0.0), claim(Verdict.HELD, 0.20005, 0.0), Outcome.REPRODUCED),
        (claim(Verdict.HELD, 0.2), claim(Verdict.HELD, 0.29), Outcome.REPRODUCED),
        (claim(Verdict.HELD, 0.2), claim(Verdict.HELD, 0.29, 0.01), Outcome.IN_PART),
        (claim(Verdict.HELD, 0.2, 0.01), claim(Verdict.HELD, 0.29), Outcome.IN_PART),
        (claim(Verdict.HELD, 0.2), claim(Verdict.HELD, 0.2, name="y"), Outcome.IN_PART),
        (claim(Verdict.HELD, 0.2), claim(Verdict.HELD), Outcome.IN_PART),
        (claim(Verdict.HELD, 0.2), claim(Verdict.VULNERABLE, 0.2), Outcome.NOT_REPRODUCED),
        (claim(Verdict.HELD, 0.2), claim(Verdict.NOT_ASSESSED), Outcome.NOT_REPRODUCED),
        (claim(Verdict.NOT_ASSESSED, reason="AUC 0.71"), claim(Verdict.NOT_ASSESSED, reason="AUC 0.7"), Outcome.REPRODUCED),
        (claim(Verdict.NOT_ASSESSED, reason="a"), claim(Verdict.NOT_ASSESSED, reason="b"), Outcome.IN_PART),
    ],
)  # fmt: skip
def test_outcomes(then: Finding, now: Finding, outcome: Outcome) -> None:
    assert outcome_of(then, now)[0] is outcome


def test_correction_for_the_other_findings_is_that_of_the_audit(replay: Replaying, home: Path) -> None:
    """A verdict that Holm's correction took back is taken back in the replay too, where the finding stands alone."""
    from vlaudit.audit.replay import read_recorded

    def gate(report: dict[str, Any]) -> None:
        report["audit"]["policy"]["gate"] = "holm"
        for finding in report["findings"]:
            finding["p_value"] = 0.04

    edit(home / "audit" / "report.json", gate)
    recorded = read_recorded(home / "audit", "mirror")
    fresh = recorded.finding.model_copy(update={"verdict": Verdict.VULNERABLE, "p_value": 0.04})
    among = recorded.among_the_others(fresh)
    assert among.verdict is Verdict.INCONCLUSIVE and among.p_adjusted == pytest.approx(0.16)
    assert recorded.request().policy.gate == "none" and Family.MATCHING is recorded.info.family
