"""Audit folders that somebody else prepared: no link leads anywhere, nothing is read beyond its bounds, junk is one sentence."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MIRROR
from vlaudit.audit.copied import copy_evidence
from vlaudit.audit.journal import Journal, read_manifest
from vlaudit.audit.replay import read_recorded
from vlaudit.audit.run import read_report
from vlaudit.checksums import sealed
from vlaudit.cli import run
from vlaudit.errors import UsageError
from vlaudit.plugins import plugins
from vlaudit.probe.artifacts import ArtifactStore

OWN = "the reader's own, one line without an end"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Path, picture_folder: Path) -> Path:
    """A finished audit with an artefact."""
    home = tmp_path_factory.mktemp("sound")
    (home / "mirror.py").write_text(MIRROR)
    words = ["scan", f"hf:{tiny_clip}", "--prompt", "the {}", "--data", str(picture_folder), "--plugin", str(home / "mirror.py"),
             "--probe", "mirror", "--probe", "unsafe-file", "--seed", "3", "--out", str(home / "audit")]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vlaudit", *words])
        assert run(words) in (0, 1)
    (home / "command.json").write_text(json.dumps(words[:-1]))
    return home


@pytest.fixture
def audit(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy, beside files of the reader that must stay as they are."""
    shutil.copytree(sound / "audit", tmp_path / "audit")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "file").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "audit"
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["file"], "written into the reader's folder"
    assert (tmp_path / "own" / "file").read_text() == OWN, "the reader's file was written"


Said = Callable[..., tuple[int, str]]


@pytest.fixture
def said(sound: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run a command: its exit code, and all that it printed."""

    def call(*words: object) -> tuple[int, str]:
        arguments = [str(word) for word in words]
        if arguments[0] in ("judge", "replay", "merge") or "--plan" in arguments:
            arguments += ["--plugin", str(sound / "mirror.py")]
        monkeypatch.setattr(sys, "argv", ["vlaudit", *arguments])
        capsys.readouterr()
        code = run(arguments)
        printed = capsys.readouterr()
        said = printed.out + printed.err
        assert "Traceback" not in said and "This is a bug" not in said, said
        return code, said

    return call


COMMANDS = {
    "report": ["report", "audit"],
    "reports": ["report", "audit", "--format", "html,markdown,junit"],
    "judge": ["judge", "audit"],
    "diff": ["diff", "audit", "audit"],
    "replay": ["replay", "audit", "unsafe-file", "--out", "again"],
}


def contents(folder: Path, names: list[str]) -> dict[str, bytes | str]:
    return {
        name: os.readlink(folder / name) if (folder / name).is_symlink() else (folder / name).read_bytes()
        for name in names
        if os.path.lexists(folder / name) and ((folder / name).is_file() or (folder / name).is_symlink())
    }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name", ["trials.jsonl", "manifest.json", "report.json", "report.html", "report.md", "report.md.part", "replay.json"]
)
def test_no_command_writes_through_a_link(said: Said, audit: Path, name: str, command: str) -> None:
    (audit / name).unlink(missing_ok=True)
    (audit / name).symlink_to(audit.parent / "own" / "file")
    code, text = said(*COMMANDS[command])
    assert OWN[:10] not in text and code in (0, 1, 2, 3)
    if name in ("trials.jsonl", "manifest.json") and command == "judge":
        assert code == 2 and "is a link" in text
    if name == "report.json" and command != "judge":
        assert code == 2 and "is a link" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_do_not_measure_leave_the_journal(said: Said, audit: Path, command: str) -> None:
    journal = audit / "trials.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"unit": "torn')
    before = contents(audit, ["trials.jsonl", "manifest.json"])
    code, _ = said(*COMMANDS[command])
    assert code in (0, 1, 3) and contents(audit, ["trials.jsonl", "manifest.json"]) == before


@pytest.mark.parametrize("name", ["trials.jsonl", "manifest.json", "report.json", "artifacts"])
def test_a_scan_that_resumes_writes_through_no_link(said: Said, sound: Path, audit: Path, name: str) -> None:
    (audit / "report.json").unlink()
    journal = (audit / "trials.jsonl").read_bytes().splitlines(keepends=True)
    (audit / "trials.jsonl").write_bytes(b"".join(journal[: len(journal) // 2]))
    if (audit / name).is_dir():
        shutil.rmtree(audit / name)
    (audit / name).unlink(missing_ok=True)
    (audit / name).symlink_to(audit.parent / "own" / ("" if name == "artifacts" else "file"))
    code, text = said(*json.loads((sound / "command.json").read_text()), "audit")
    assert code == (2 if name in ("trials.jsonl", "manifest.json") else 0), text
    assert name != "report.json" or not (audit / name).is_symlink(), "replaced"


@pytest.mark.parametrize("place", ["artifacts", "artifacts/ab", "file"])
def test_artefacts_go_through_no_link(tmp_path: Path, place: str) -> None:
    own, content = tmp_path / "own", next(str(n).encode() for n in range(999) if sha(str(n).encode())[:2] == "ab")
    own.mkdir()
    (own / "file").write_text(OWN)
    store = ArtifactStore(tmp_path / "audit")
    kept = store.put(content, "txt", "text", "a")
    path = tmp_path / "audit" / kept.path
    assert path.read_bytes() == content
    if place == "file":
        path.unlink()
        path.symlink_to(own / "file")
        store.put(content, "txt", "text", "a")
        assert path.read_bytes() == content and not path.is_symlink()
        path.write_bytes(b"altered")
        store.put(content, "txt", "text", "a")
        assert path.read_bytes() == content
    else:
        shutil.rmtree(tmp_path / "audit" / place)
        (tmp_path / "audit" / place).symlink_to(own)
        with pytest.raises(UsageError, match="not a folder of the audit's own"):
            store.put(content, "txt", "text", "a")
    assert [path.name for path in own.iterdir()] == ["file"] and (own / "file").read_text() == OWN


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    del value["checksum"]
    change(value)
    path.write_text(sealed(json.dumps(value))[0])


@pytest.mark.parametrize("path", ["../own/file", "artifacts/../../own/file", "artifacts/link", "artifacts/folder/file", "/OWN"])
def test_no_file_of_the_reader_gets_into_a_report(said: Said, audit: Path, path: str) -> None:
    """Not even one whose contents the sender knows."""
    own = audit.parent / "own"
    (audit / "artifacts").mkdir(exist_ok=True)
    (audit / "artifacts" / "link").symlink_to(own / "file")
    (audit / "artifacts" / "folder").symlink_to(own)
    path = path.replace("/OWN", str(own / "file"))
    item = {"kind": "text", "path": path, "sha256": sha(OWN.encode()), "caption": "a", "sensitive": False}
    forge(audit / "report.json", lambda report: [f.update(evidence=[item]) for f in report["findings"]])
    code, _ = said("report", "audit", "--format", "html", "--output", "page.html")
    page = Path("page.html").read_text()
    assert code == 0 and OWN not in page and "not shown: its path leaves the audit folder" in page


def test_artifacts_that_are_a_link_are_not_shown(said: Said, audit: Path) -> None:
    shutil.rmtree(audit / "artifacts", ignore_errors=True)
    (audit / "artifacts").symlink_to(audit.parent / "own")
    item = {"kind": "text", "path": "artifacts/file", "sha256": sha(OWN.encode()), "caption": "a", "sensitive": False}
    forge(audit / "report.json", lambda report: [f.update(evidence=[item]) for f in report["findings"]])
    assert said("report", "audit", "--format", "html", "--output", "page.html")[0] == 0
    assert OWN not in Path("page.html").read_text()


DEEP = "[" * 100_000
JUNK: dict[str, bytes | None] = {
    "empty": b"", "binary": b"\xff\xfe\x00", "deep": DEEP.encode(), "deep object": b'{"a":' * 50_000, "null": b"null",
    "list": b"[]", "surrogate": b'{"id": "\\ud800"}', "number": b"1" * 10_000, "fifo": None,
}  # fmt: skip


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("name", ["manifest.json", "report.json", "trials.jsonl"])
def test_junk_in_place_of_a_file_is_one_sentence(said: Said, audit: Path, name: str, junk: str) -> None:
    (audit / name).unlink()
    content = JUNK[junk]
    if content is None:
        os.mkfifo(audit / name)
    else:
        (audit / name).write_bytes(content + b"\n" * (name == "trials.jsonl" and bool(content)))
    command = "report" if name == "report.json" else "judge"
    code, text = said(command, "audit")
    if (name, junk) != ("trials.jsonl", "empty"):
        assert code == 2 and len(text.strip().splitlines()) <= 2, text
    if name == "report.json":
        assert said("judge", "audit")[0] in (0, 1), "judged again, whatever the report was"
        assert said("report", "audit")[0] == 0


@pytest.mark.parametrize("field", ["details", "controls"])
def test_a_report_whose_details_are_nested_too_deeply_is_one_sentence(said: Said, audit: Path, field: str) -> None:
    deep = json.loads('{"a":' * 500 + "1" + "}" * 500)
    forge(audit / "report.json", lambda report: report["findings"][0].update({field: deep}))
    for command in ("report", "diff"):
        code, text = said(command, *["audit"] * (1 + (command == "diff")))
        assert code == 2 and "is not a report this vlaudit can read" in text and len(text.strip().splitlines()) <= 2, text
    assert said("judge", "audit")[0] in (0, 1)


def _each_field(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ():
        yield from _each_field(item, (*path, key))


WRONG = [None, True, -1, 0.0, 1e308, 1e400, float("nan"), 10**400, "x", "\x1b[31m::error::", [], {}, [[]], {"a": {"a": []}}, ["a", "a"]]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_wrong_values_in_every_field(said: Said, audit: Path, name: str, every: bool) -> None:
    """A forger puts anything anywhere: what follows is a documented exit code and no command for a terminal."""
    kept = json.loads((audit / name).read_text())
    del kept["checksum"]
    fields = list(_each_field(kept))
    assert len(fields) > 60
    formats = ["--format", ",".join(plugins("reporters"))] if every else []
    chosen = itertools.product(fields, WRONG) if every else zip(fields, itertools.cycle(WRONG), strict=False)
    for field, wrong in chosen:
        value = json.loads(json.dumps(kept))
        place = value
        for key in field[:-1]:
            place = place[key]
        place[field[-1]] = wrong
        (audit / name).write_text(sealed(json.dumps(value))[0])
        for command in (["judge", "audit"] if name == "manifest.json" else ["report", "audit", *formats], ["diff", "audit", "audit"]):
            code, text = said(*command)
            assert code in (0, 1, 2, 3, 4) and "\x1b" not in text and "::error::" not in text, (field, text)


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
def test_each_flipped_bit_of_the_other_files_is_found(audit: Path, name: str) -> None:
    read = read_manifest if name == "manifest.json" else read_report
    true, content, draw = read(audit), (audit / name).read_bytes(), random.Random(1)
    for _ in range(300):
        place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
        (audit / name).write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        with contextlib.suppress(UsageError):
            assert read(audit) == true, (place, bit)


def test_far_too_many_targets(said: Said, audit: Path) -> None:
    forge(audit / "report.json", lambda report: report.update(targets=report["targets"] * 1001))
    assert said("report", "audit")[0] == 2

    def many(manifest: dict[str, Any]) -> None:
        manifest["request"]["targets"] *= 100_000
        manifest["targets"] *= 100_000

    forge(audit / "manifest.json", many)
    assert said("judge", "audit")[0] == 2


def test_manifests_that_do_not_fit_together(said: Said, audit: Path) -> None:
    path = audit / "manifest.json"
    kept = path.read_text()
    for change in (
        lambda m: m["planned"][0].update(target="other"),
        lambda m: m["request"].update(targets=[]),
        lambda m: m["targets"].append(m["targets"][0]) or m["request"]["targets"].append(m["request"]["targets"][0]),
    ):
        path.write_text(kept)
        forge(path, change)
        code, text = said("judge", "audit")
        assert code == 2 and ("is none of its targets" in text or "names other targets" in text)
    path.write_text(kept)
    forge(path, lambda m: m["planned"][0].update(probe="nowhere"))
    assert said("judge", "audit")[0] == 2


@pytest.mark.parametrize("folder", ["\0", "a" * 5_000, "/dev/null", "/nowhere"])
def test_a_replay_begins_in_a_folder_that_there_is(audit: Path, folder: str) -> None:
    forge(audit / "manifest.json", lambda manifest: manifest.update(folder=folder))
    assert read_recorded(audit, "unsafe-file").started_in() == Path.cwd()


def test_a_folder_without_checksums_is_read_with_a_warning(said: Said, audit: Path) -> None:
    value = json.loads((audit / "manifest.json").read_text())
    del value["checksum"]
    (audit / "manifest.json").write_text(json.dumps(value))
    code, text = said("judge", "audit")
    assert code == 2 and "has lost its checksum" in text
    (audit / "manifest.json").write_text(json.dumps(value | {"schema_version": "1.0"}))
    with pytest.warns(UserWarning, match="without checksums: whether it is damaged cannot be told"):
        assert said("judge", "audit")[0] in (0, 1)


def test_killed_audits_are_judged_and_rendered(said: Said, audit: Path) -> None:
    journal = audit / "trials.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]))
    for name in ("report.json", "report.html"):
        (audit / name).unlink()
    code, text = said("judge", "audit")
    assert code == 3 and "This report is partial" in text
    report = json.loads((audit / "report.json").read_text())
    assert report["audit"]["complete"] is False and report["audit"]["finished"] is None
    assert {f["verdict"] for f in report["findings"]} >= {"not-assessed"}


@pytest.mark.parametrize("report", ["partial", "damaged", "whole"])
def test_a_scan_that_was_killed_while_it_was_judged_goes_on(said: Said, sound: Path, audit: Path, report: str) -> None:
    """All its units are done by then, and its report is partial."""
    if report == "partial":
        forge(audit / "report.json", lambda report: report["audit"].update(complete=False, finished=None, errors=["killed"]))
    elif report == "damaged":
        (audit / "report.json").write_text("{")
    code, text = said(*json.loads((sound / "command.json").read_text()), "audit")
    assert code == (2 if report == "whole" else 0), text
    then, now = (json.loads((folder / "report.json").read_text()) for folder in (sound / "audit", audit))
    assert now["audit"]["complete"] is True and now["audit"]["errors"] == [] and now["findings"] == then["findings"]


def test_a_report_of_a_killed_audit_of_installed_probes(said: Said, audit: Path, tiny_clip: Path, picture_folder: Path) -> None:
    words = ["scan", f"hf:{tiny_clip}", "--data", picture_folder, "--probe", "unsafe-file", "--out", "killed"]
    assert said(*words)[0] == 0
    Path("killed/report.json").unlink()
    Path("killed/trials.jsonl").unlink()
    code, text = said("report", "killed")
    assert code == 0 and "This report is partial" in text and not Path("killed/report.json").exists()
    code, text = said("report", "killed", "--format", "markdown")
    assert code == 0 and "did not finish" in text
    (audit / "report.json").unlink()
    code, text = said("report", "audit")
    assert code == 2 and "--plugin" in text


def test_hostile_text_commands_nothing(said: Said, audit: Path) -> None:
    hostile = "x" * 40 + " ::error::a ##vso[b]c ##teamcity[d] :::error::e ###[f] \x1b[31m \u202e \u200b::set-output::\n::add-mask::g\n"

    def everywhere(report: dict[str, Any]) -> None:
        report["tool"]["version"] = report["audit"]["id"] = report["audit"]["command"] = hostile
        report["audit"]["errors"] = [hostile]
        for target in report["targets"]:
            target["id"] = target["model"]["spec"] = target["prompt"]["text"] = hostile
        for finding in report["findings"]:
            finding.update(target=hostile, title=hostile, code=hostile, reason=hostile, reproduce=hostile, verdict="vulnerable",
                           severity="high", limits=hostile, mappings=[hostile], references=[hostile],
                           details={hostile: hostile}, controls={hostile: hostile})  # fmt: skip
            finding["evidence"] = [{"kind": "text", "path": hostile, "sha256": "", "caption": hostile}]

    forge(audit / "report.json", everywhere)
    for words in (*(["report", "audit", "--format", name] for name in plugins("reporters")), ["diff", "audit", "audit"],
                  ["diff", "audit", "audit", "--json"], ["replay", "audit", "mirror"], ["replay", "audit", "x"]):  # fmt: skip
        _, text = said(*words)
        assert (found := re.search(r"::(error|set-output|add-mask)|##(vso|teamcity)?\[", text)) is None, (words, found)
        assert not set("\x1b\u202e\u200b") & set(text), words


def test_journal_of_the_fixture_has_a_checksum_a_line(audit: Path) -> None:
    lines = (audit / "trials.jsonl").read_text().splitlines()
    assert all("checksum" in json.loads(line) for line in lines) and len(Journal(audit).results()) > 2


def test_numbers_with_which_a_shard_would_reckon(said: Said, audit: Path) -> None:
    def unit(**changes: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda manifest: [one.update(changes) for planned in manifest["planned"] for one in planned["units"]]

    def each(field: str, value: Any) -> Callable[[dict[str, Any]], Any]:
        return lambda manifest: manifest.update({field: dict.fromkeys(manifest["loads"] or {"model": 0}, value)})

    whole = (audit / "manifest.json").read_bytes()
    for change in (
        unit(weight=-1e9), unit(weight=1e200), unit(round=-1), each("loads", -1.0), each("speeds", {"forward": -1.0, "backward": 0.0}),
        each("speeds", {"nonsense": 1.0}), each("takes", -1), lambda manifest: manifest.update(batch_size=-5), lambda manifest: manifest.update(workers=0),
    ):  # fmt: skip
        (audit / "manifest.json").write_bytes(whole)
        forge(audit / "manifest.json", change)
        code, text = said("scan", "--plan", "audit", "--shard", "1/2", "--dry-run")
        assert code == 2 and "is not a manifest this vlaudit can read" in text, text
    (audit / "manifest.json").write_bytes(whole)
    assert said("scan", "--plan", "audit", "--shard", "1/2", "--dry-run")[0] == 0


@pytest.mark.parametrize("place", ["shards", "shards/1-of-1"])
def test_a_plan_leads_no_shard_out_of_itself(said: Said, audit: Path, place: str) -> None:
    (audit / place).parent.mkdir(exist_ok=True)
    (audit / place).symlink_to(audit.parent / "own")
    code, text = said("scan", "--plan", "audit", "--shard", "1/1")
    assert code == 2 and "is a link" in text and "--out" in text


def test_a_merge_writes_through_no_link(said: Said, audit: Path) -> None:
    (audit.parent / "merged").mkdir()
    (audit.parent / "merged" / ".trials.jsonl.part").symlink_to(audit.parent / "own" / "file")
    assert said("merge", "audit", "--out", "merged")[0] in (0, 1)


@pytest.mark.parametrize("place", ["artifacts", "artifacts/AB", "artifacts/AB/FILE"])
def test_evidence_is_copied_through_no_link(tmp_path: Path, place: str) -> None:
    content, out, own = b"what was shown", tmp_path / "out", tmp_path / "own"
    name = f"{sha(content)[:2]}/{sha(content)}.txt"
    for folder in (tmp_path / "audit" / "artifacts" / name, out / "artifacts" / name, own / "any"):
        folder.parent.mkdir(parents=True)
    (tmp_path / "audit" / "artifacts" / name).write_bytes(content)
    link = out / place.replace("AB", name[:2]).replace("FILE", name[3:])
    if link.is_dir():
        shutil.rmtree(link)
    (own / "file").write_bytes(content)
    link.symlink_to(own / "file" if place.endswith("FILE") else own)
    if place.endswith("FILE"):
        assert copy_evidence(tmp_path / "audit", out, name, sha(content)) and not link.is_symlink() and link.read_bytes() == content
    else:
        with pytest.raises(UsageError, match="not a folder of the audit's own"):
            copy_evidence(tmp_path / "audit", out, name, sha(content))
    assert [path.name for path in own.iterdir()] == ["file"]


def reseal(journal: Path, change: Callable[[bytes], bytes]) -> None:
    """Write each line of a journal otherwise, with the checksum that it has then."""
    last, lines = "", b""
    for line in journal.read_bytes().splitlines():
        before = change(line[: line.rindex(b'"checksum"')])
        last = hashlib.sha256(last.encode() + before).hexdigest()[:16]
        lines += before + b'"checksum": "' + last.encode() + b'"}\n'
    journal.write_bytes(lines)


def test_journals_that_another_hand_has_written(said: Said, audit: Path) -> None:
    shutil.copytree(audit, "other")
    (spaced, wrong, endless) = (
        lambda line: line.replace(b', "arm"', b',\r "arm"').rstrip(b" "),  # JSON as any other
        lambda line: line.replace(b'"arm"', b'"leg"'),
        lambda line: re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": NaN', line),
    )
    for change, right in ((spaced, (0, 1)), (wrong, (2,)), (endless, (2,))):
        shutil.copy(audit / "trials.jsonl", "other")
        reseal(Path("other/trials.jsonl"), change)
        for folders in (["other"], ["audit", "other"]):
            code, text = said("merge", *folders, "--out", f"out-{len(list(Path().iterdir()))}")
            assert code in right and (code != 2 or "not what a scan writes" in text), text
