"""The HTML report as text: what it holds, what it refuses, and how large it gets."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image

from tests.reports.conftest import poisoned
from vlaudit.cli.render import made_reporter, page_size
from vlaudit.details import Bars, Curve, Details, Facts, Figure, in_words
from vlaudit.files import read_bytes
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Evidence, Report, Severity, Suppression, Verdict
from vlaudit.registry import ProbeRegistry
from vlaudit.reporting import SCORER_ACCURACY, release
from vlaudit.reports.html import HTMLReporter, pictures
from vlaudit.reports.html.pictures import EvidenceFiles, Gallery
from vlaudit.reports.html.plots import bar_plot, curve_plot, interval_plot
from vlaudit.reports.html.transcripts import SHOWN_LINES, Transcript
from vlaudit.reports.html.view import fact


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def render(report: Report, audit_dir: Path) -> str:
    return HTMLReporter().render(report, audit_dir)


def with_evidence(report: Report, *evidence: Evidence) -> Report:
    return report.model_copy(update={"findings": [report.findings[0].model_copy(update={"evidence": list(evidence)})]})


def noise(store: ArtifactStore, seed: int, side: int = 32) -> Evidence:
    return store.put_image(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8), f"noise {seed}")


def test_it_holds_every_finding_with_its_figures(report: Report, audit_dir: Path) -> None:
    page = Page(render(report, audit_dir))
    text = " ".join(page.text.replace("\u00a0", " ").split())
    for finding in report.findings:
        assert finding.reason[1:] in text and finding.reproduce in text and finding.severity_derivation in text
    for expected in (
        "41.4 % [32.9, 50.4] (95 % interval, n = 128)", "+75.2 points [+51.0, +88.0], p = 0.0004",
        "p = 0.0004; p = 0.0036 after Holm’s correction over the audit", "positive control found yes",
        "3 vulnerabilities found, the worst of severity critical (backdoor).", "(exit code 1)", "a photo of a {}",
        "1 held, 1 not assessed", "atlas:AML.T0043", "14 shown in this file", "none: the target is the reference",
    ):  # fmt: skip
        assert expected in text, expected
    assert text.index("Prompt trigger inversion") < text.index("Rank skew") < text.index("What was not assessed")
    assert len([1 for tag, _ in page.tags if tag == "img"]) == 14


def test_a_reader_in_a_hurry_sees_the_verdict_and_each_finding_in_plain_words_with_a_link(report: Report, audit_dir: Path) -> None:
    named = [f.model_copy(update={"id": f"{f.code}-{n:08x}"}) for n, f in enumerate(report.findings)]
    new = named[1].model_copy(update={"change": "new"})
    text = render(report.model_copy(update={"findings": [named[0], new, *named[2:]]}), audit_dir)
    before = text[: text.index('id="findings"')]
    assert "<h1>Do not release: 2 flaws stop it, the gravest critical (backdoor).</h1>" in before
    assert '<a href="#MB1-00000000">Prompt trigger inversion turns answers</a>' in before and 'id="MB1-00000000"' in text
    assert "stops the release, new" in before and "0.812" not in before and "81.2" in before
    before = before[before.index('id="summary"') :]
    assert before.index("#MB1-") < before.index("#MR1-") < before.index("#MF1-") < before.index("#MP1-")
    card = text[text.index('id="MB1-00000000"') :]
    assert card.index("Why it matters") < card.index("What to do") < card.index("Sources:") < card.index("Measured") < card.index("controls</summary>") < card.index("Run it again")
    assert f"vlaudit replay {audit_dir} MB1-00000000" in card
    assert card.index("Thresholds and where they come from") < card.index("our choice, because fewer are noise</span></dd>")


def test_what_no_gate_stops_is_no_flaw_that_stops_a_release(report: Report) -> None:
    held = report.model_copy(update={"findings": [f for f in report.findings if f.verdict is Verdict.HELD]})
    assert release(held) == "No flaw found stops the release."
    assert release(report.model_copy(update={"audit": report.audit.model_copy(update={"fail_on": Severity.NONE})})).startswith(
        "No gate was set; 3 flaws found, the gravest critical (backdoor), and 3 questions left open"
    )
    accepted = [f.model_copy(update={"suppressed": Suppression(reason="known", owner="me", expires="2099-01-01")}) for f in report.findings]
    assert release(report.model_copy(update={"findings": accepted})).startswith("Nothing stops the release; 3 flaws below the gate, known or accepted")
    assert release(held.model_copy(update={"audit": report.audit.model_copy(update={"complete": False})})).startswith("Not decided")
    one = report.model_copy(update={"findings": report.findings[:1]})
    assert release(one) == "Do not release: 1 flaw of severity critical stops it (backdoor)."


def test_facts_that_say_the_same_of_several_things_are_a_table(report: Report, audit_dir: Path) -> None:
    facts = {"patch: label": "judge", "patch: p": 0.01, "blend: label": "cook", "blend: p": 0.5, "alone: p": 1, "searched": 12}
    text = render(report.model_copy(update={"findings": [report.findings[0].model_copy(update={"details": Details(facts)})]}), audit_dir)
    assert '<th scope="col">kind</th><th scope="col">label</th><th scope="col">p</th>' in text
    assert "<tr><td>patch</td><td>judge</td><td>0.01</td></tr>" in text and '<th scope="row">searched</th><td>12</td>' in text
    assert '<th scope="row">alone: p</th>' in text and '<th scope="row">patch: p</th>' not in text


def test_the_same_audit_renders_the_same_page(report: Report, audit_dir: Path) -> None:
    assert render(report, audit_dir) == render(Report.model_validate_json(report.model_dump_json()), audit_dir)


def test_facts_are_words_and_short_numbers() -> None:
    assert fact([1.7319753, 1.48, None, True, "pilot"]) == "1.73, 1.48, none, yes, pilot"
    assert fact(0.0030257763) == "0.00303" and fact([]) == "none"
    assert in_words({"label": "pilot", "p": 0.0030257763, "over": [1.7319753, 1.48]}) == "label: pilot; p: 0.003026; over: 1.732, 1.48"


def test_only_its_own_script_and_style_may_run(report: Report, audit_dir: Path) -> None:
    text = render(report, audit_dir)
    policy = next(a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "img-src data:;" in policy
    for tag in ("style", "script"):
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(blocks) == 1
        digest = base64.b64encode(hashlib.sha256(blocks[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert Page(text).attributes("style") == []


def test_hostile_text_is_inert(hostile_report: Report, audit_dir: Path) -> None:
    text = render(hostile_report, audit_dir)
    text.encode("utf-8")
    page = Page(text)
    counts = Counter(tag for tag, _ in page.tags)
    assert counts["script"] == counts["style"] == counts["title"] == 1 and counts["img"] == 0
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    allowed = ("#", "https://arxiv.org/", "https://example.org/paper")
    assert all(href.startswith(allowed) for href in page.attributes("href"))
    assert page.attributes("src") == []
    assert "{{7*7}}{% raw %}" in page.text, "a template in a string is shown, not run"
    assert not any(c in text for c in "\x00\x07\x08\x1b\x9b\r\u202e\u2066")


def test_the_shape_of_the_page_does_not_depend_on_its_strings(
    report: Report, hostile_report: Report, audit_dir: Path
) -> None:
    def shape(findings_of: Report) -> Counter[str]:
        bare = [f.model_copy(update={"evidence": [], "references": [], "details": Details({})}) for f in findings_of.findings]
        base = {"targets": findings_of.targets[1:], "audit": findings_of.audit.model_copy(update={"errors": []})}
        page = Page(render(findings_of.model_copy(update={"findings": bare} | base), audit_dir))
        return Counter(tag for tag, _ in page.tags)

    assert shape(hostile_report) == shape(poisoned(report, " harmless")), "of probes and of a version that are not installed either"


@pytest.mark.parametrize("path", ["report.json", "../secret.png", "artifacts/../../secret.png", "/etc/passwd", "a\0b"])
def test_pictures_outside_the_artifacts_are_refused(report: Report, audit_dir: Path, path: str) -> None:
    secret = audit_dir.parent / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    page = Page(render(with_evidence(report, Evidence(kind="image", path=path, sha256=digest)), audit_dir))
    assert page.attributes("src") == [] and "not shown: " in page.text


def test_a_link_out_of_the_artifacts_is_refused(report: Report, audit_dir: Path) -> None:
    secret = audit_dir.parent / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    (audit_dir / "artifacts" / "link.png").symlink_to(secret)
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    evidence = Evidence(kind="image", path="artifacts/link.png", sha256=digest)
    page = Page(render(with_evidence(report, evidence), audit_dir))
    assert page.attributes("src") == [] and "leaves the audit folder" in page.text


@pytest.mark.parametrize("change", ["altered", "missing", "svg"])
def test_a_picture_that_is_not_the_recorded_one_is_refused(report: Report, audit_dir: Path, change: str) -> None:
    store = ArtifactStore(audit_dir)
    picture = noise(store, 0)
    if change == "altered":
        (audit_dir / picture.path).write_bytes((audit_dir / picture.path).read_bytes() + b"x")
    elif change == "missing":
        (audit_dir / picture.path).unlink()
    else:
        picture = store.put(b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "svg", "image", "drawing")
    page = Page(render(with_evidence(report, picture), audit_dir))
    expected = {"altered": "SHA-256 differs", "missing": "missing", "svg": "not a picture that can be shown"}[change]
    assert page.attributes("src") == [] and expected in page.text


def test_pictures_are_shared_between_findings(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    first = report.findings[0].model_copy(update={"evidence": [noise(store, i).model_copy(
        update={"caption": f"row {i} | noise"}) for i in range(20)]})  # fmt: skip
    second = report.findings[1].model_copy(update={"evidence": [noise(store, 99)]})
    gallery = Gallery(EvidenceFiles(audit_dir), 30_000)
    shown = gallery.rows([first, second])
    assert gallery.left_out > 9 and shown[second.id][0].pictures[0].uri, "the second finding gets its share"


def test_the_size_of_pictures_is_capped(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    evidence = [noise(store, i, side=200) for i in range(6)]  # noise does not compress: 120 kB each, a third more in the page
    gallery = Gallery(EvidenceFiles(audit_dir), 500_000)
    gallery.rows([report.findings[0].model_copy(update={"evidence": evidence})])
    assert gallery.size <= 500_000 and gallery.embedded == 3 and gallery.left_out == 3


def test_the_page_is_no_larger_than_asked_and_says_what_it_left_out(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    own = with_evidence(report, *(noise(store, i, side=200) for i in range(3)), *(noise(store, i, side=20) for i in range(99, 300)))
    text = HTMLReporter(max_size=500_000).render(own, audit_dir)
    assert 400_000 < len(text.encode()) <= 500_000
    assert "left out, because the file would exceed 500,000 bytes" in " ".join(Page(text).text.split())


def test_a_picture_is_made_ready_once_and_few_of_those_that_find_no_room(
    report: Report, audit_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    real = pictures._smallest

    def counted(image: Image.Image, content: bytes) -> tuple[str, bytes]:
        made.append(content)
        return real(image, content)

    monkeypatch.setattr(pictures, "_smallest", counted)
    store = ArtifactStore(audit_dir)
    own = with_evidence(report, *(noise(store, i, side=100) for i in range(80)))  # 30 kB each, 40 kB in the page
    text = HTMLReporter(max_size=500_000).render(own, audit_dir)
    assert 400_000 < len(text.encode()) <= 500_000, "written twice: at first it was too large"
    shown = text.count("data:image/")
    assert len(made) == len(set(made)) and shown >= 5 and len(made) <= shown + 5 + pictures.MISFITS


def test_the_size_is_read_as_people_write_it_and_told_to_reporters_that_have_one() -> None:
    def size(text: str) -> int | None:
        return page_size(click.Context(click.Command("report")), click.Option(["--max-size"]), text)

    assert (size("800kB"), size("2.5 MB"), size("20m")) == (800_000, 2_500_000, 20_000_000)
    for wrong in ("x", "-5MB", "5", "1e9MB", "MB"):
        with pytest.raises(click.BadParameter, match="write 800kB or 20MB"):
            size(wrong)
    made = made_reporter("html", 800_000)
    assert isinstance(made, HTMLReporter) and made.max_size == 800_000
    assert not hasattr(made_reporter("json", 800_000), "max_size") and HTMLReporter().max_size == 5_000_000


def test_pictures_of_what_is_vulnerable_come_first_and_of_the_named_case_before_all(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    rows = [noise(store, i).model_copy(update={"caption": f"{name} | noise"}) for i, name in enumerate(("pilot, test/1", "teacher, test/2"))]
    grave = report.findings[0].model_copy(update={"evidence": rows, "reason": "a patch makes it say 'teacher'", "headline": ""})
    held = next(f for f in report.findings if f.verdict is Verdict.HELD).model_copy(update={"evidence": [noise(store, 9)]})
    gallery = Gallery(EvidenceFiles(audit_dir), 9_000)  # for two of three
    shown = gallery.rows([held, grave])
    assert [row.heading for row in shown[grave.id]] == ["teacher, test/2", "pilot, test/1"]
    assert all(row.pictures[0].uri for row in shown[grave.id]) and not shown[held.id][0].pictures[0].uri


def test_pictures_are_embedded_in_their_smallest_form_without_loss(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    smooth = np.add.outer(np.arange(120), np.arange(120))[..., None].repeat(3, 2).astype(np.uint8)
    (row,) = Gallery(EvidenceFiles(audit_dir)).rows([report.findings[0].model_copy(update={"evidence": [store.put_image(smooth, "smooth")]})]).popitem()[1]
    content = base64.b64decode(row.pictures[0].uri.partition(",")[2])
    (file,) = [path for path in (audit_dir / "artifacts").rglob("*.png") if Image.open(path).size == (120, 120)]
    assert len(content) < 0.9 * file.stat().st_size
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), smooth)


@pytest.mark.parametrize("kind", ["text", "image", "plot-data"])
def test_files_named_again_and_again_are_read_within_a_budget(
    report: Report, audit_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What is no picture is counted too, and what is larger than a plot may be."""
    read: list[int] = []

    def reading(path: Path, *more: int, **how: bool) -> bytes:
        content = read_bytes(path, *more, **how)
        read.append(len(content))
        return content

    monkeypatch.setattr(pictures, "MAX_READ", 1_000_000)
    monkeypatch.setattr(pictures, "read_bytes", reading)
    store = ArtifactStore(audit_dir)
    large = store.put(b"a " * 100_000, "txt", kind, "row | large")
    small = store.put(b"short", "txt", kind, "row | small")
    text = " ".join(Page(render(with_evidence(report, *[large] * 300, *[small] * 300), audit_dir)).text.split())
    refused = "left out, because this page would take too long to make"
    if kind == "text":  # what is refused for the same reason is said once, and of how many
        assert refused in text and sum(map(int, re.findall(r"(?:large|small) \((\d+) times\)", text))) >= 580
    else:
        assert text.count(refused) >= (1 if kind == "plot-data" else 550)
    assert 3 <= len(read) <= 20 and sum(read) <= 1_000_000


def test_pictures_are_decoded_within_a_budget(report: Report, audit_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_READ", 5_000_000)
    store = ArtifactStore(audit_dir)
    blank = [store.put_image(np.full((1500, 1000, 3), n, np.uint8), f"blank {n}") for n in range(6)]
    gallery = Gallery(EvidenceFiles(audit_dir))
    (row,) = gallery.rows([report.findings[0].model_copy(update={"evidence": blank})]).popitem()[1]
    assert [bool(picture.uri) for picture in row.pictures] == [True] * 3 + [False] * 3


def test_long_texts_are_compared_within_a_budget(report: Report, audit_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_READ", 2_000_000)
    store = ArtifactStore(audit_dir)
    texts = [store.put_text(f"{n} " + "word " * 30, f"row | {n}") for n in range(10)]
    page = Page(render(with_evidence(report, *texts), audit_dir))
    assert 1 <= sum(tag == "mark" for tag, _ in page.tags) < 9 and page.text.count("word " * 30) == 10


def test_large_pictures_are_made_smaller_and_small_ones_enlarged(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    page = Page(render(with_evidence(report, noise(store, 0, side=1500), noise(store, 1)), audit_dir))
    large, small = (attributes for tag, attributes in page.tags if tag == "img")
    content = base64.b64decode(large["src"].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(content)).size == (768, 768)
    assert small["width"] == "128" and small["class"] == "enlarged" and "class" not in large


def test_evidence_texts_and_plot_data_are_shown(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    note = store.put(b"an answer with \x1b[31m</pre><script>", "txt", "text", "the answer")
    plot = store.put_json({"bars": {"labels": ["noise"], "values": [2.5], "ylabel": "height"}}, "plot")
    deep = store.put(b'{"bars":' + b'{"a":' * 500 + b"1" + b"}" * 501, "json", "plot-data", "nested too deeply to be shown")
    text = render(with_evidence(report, note, plot, deep), audit_dir)
    assert "an answer with �[31m&lt;/pre&gt;&lt;script&gt;" in text
    assert "<caption>height by label</caption>" in text


def test_words_that_differ_from_the_first_text_of_a_row_are_marked(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    said = ["it is a cook.", "it is <b>a</b> pilot.", "it is a cook."]
    texts = [store.put_text(text, f"test/1 | {name}") for text, name in zip(said, "abc", strict=True)]
    alone = store.put_text("it is a judge", "of its own")
    text = render(with_evidence(report, noise(store, 0), *texts, alone), audit_dir)
    assert "<pre>it is a cook.</pre>" in text and "<pre>it is a judge</pre>" in text
    assert "it is <mark>&lt;b&gt;</mark>a" in text and "<mark>cook" not in text and "<mark>pilot</mark>." in text
    assert text.index(">test/1</p>") < text.index("it is a cook.")


def test_texts_stand_with_the_pictures_of_their_heading(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    picture = store.put_image(torch.rand(3, 8, 8), "test/1 | attacked")
    text = render(with_evidence(report, picture, store.put_text("a cook", "test/1 | answer")), audit_dir)
    assert text.count(">test/1</p>") == 1, "one row, not two"


def test_what_is_the_same_is_shown_once_and_says_of_what(report: Report, audit_dir: Path) -> None:
    """Rows of texts that agree word for word, and texts of a row that do; rows with pictures keep their places."""
    store = ArtifactStore(audit_dir)
    texts = [store.put_text(text, f"{kind} | {name}") for kind in ("patch", "blend") for name, text in (("without", "a cook"), ("with", "a judge"))]
    other = [store.put_text("a cook", "smooth | without"), store.put_text("a pilot", "smooth | with")]
    twice = [store.put_text("a moon", "row | by day"), store.put_text("a moon", "row | by night"), store.put_text("a sun", "row | at noon")]
    text = render(with_evidence(report, *texts, *other, *twice), audit_dir)
    assert text.count("<mark>judge</mark>") == 1 and "the same, word for word: blend</p>" in text and ">blend</p>" not in text
    assert text.count("<mark>pilot</mark>") == 1 and ">smooth</p>" in text, "another answer is another row"
    assert text.count("<pre>a moon</pre>") == 1 and "<figcaption>by day · by night</figcaption>" in text


def test_a_card_shows_first_what_its_title_speaks_of_and_folds_the_rest(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    rows = [store.put_image(torch.rand(3, 8, 8), f"smallest {kind} | alone") for kind in ("blend", "patch", "smooth")]
    found = with_evidence(report, *rows)
    first = found.findings[0].model_copy(update={"headline": "A patch makes the model say pilot"})
    text = render(found.model_copy(update={"findings": [first, *found.findings[1:]]}), audit_dir)
    fold = text.index("2 further rows of pictures and texts</summary>")
    assert text.index(">smallest patch</p>") < fold < text.index(">smallest blend</p>") < text.index(">smallest smooth</p>")


def test_a_long_text_folds_behind_its_first_lines_and_keeps_all_words() -> None:
    lines = "".join(f"question {n}\nanswer {n}\n" for n in range(12)).strip()
    text = Transcript("with it", "artifacts/a", [(lines[:20], False), (lines[20:50], True), (lines[50:], False)])
    first, rest, more = text.parts
    shown, folded = ("".join(piece for piece, _ in part) for part in (first, rest))
    assert f"{shown}\n{folded}" == lines and shown.count("\n") + 1 == SHOWN_LINES and folded.count("\n") + 1 == more
    assert Transcript("a", "b", [("one\ntwo", False)]).parts == ([("one\ntwo", False)], [], 0)


def test_all_numbers_that_decided_stand_in_the_appendix_with_their_sources(report: Report, audit_dir: Path) -> None:
    info = ProbeRegistry.load([]).get("rank-skew").info
    policy = report.audit.policy | {"thresholds": {"rank-skew.least-group": 5.0}}
    text = render(report.model_copy(update={"audit": report.audit.model_copy(update={"policy": policy})}), audit_dir)
    block = html.unescape(text[text.index('id="thresholds"') : text.index('id="limits"')])
    assert len(info.thresholds) > 1 and all(f"rank-skew.{each.name}" in block and each.source in block for each in info.thresholds)
    assert "least-group</code>: 5, set by the policy; the probe's own is 10" in block


def test_a_long_text_is_cut_and_not_compared(report: Report, audit_dir: Path) -> None:
    store = ArtifactStore(audit_dir)
    texts = [store.put_text(f"{word} " * 20_000, f"long | {word}") for word in ("one", "two")]
    start = time.process_time()
    text = render(with_evidence(report, *texts), audit_dir)
    assert time.process_time() - start < 10 and "characters in all" in text and "<mark>" not in text


def test_two_hundred_findings_stay_small_and_fast(many_findings: Report, audit_dir: Path) -> None:
    render(many_findings.model_copy(update={"findings": []}), audit_dir)  # imports and templates are loaded once

    def seconds(count: int) -> float:  # the better of two: other work on the machine slows one more than the other
        part, took = many_findings.model_copy(update={"findings": many_findings.findings[:count]}), []
        for _ in range(2):
            start = time.process_time()
            render(part, audit_dir)
            took.append(time.process_time() - start)
        return min(took)

    assert seconds(200) < 10 * seconds(40), "five times the findings cost about five times the time, not twenty-five"
    text = render(many_findings, audit_dir)
    assert len(text.encode()) < 1_500_000
    assert sum(len(f.model_dump_json()) for f in many_findings.findings) > 200 * 3_000, "as large as real ones"
    page = Page(text)
    assert len([1 for tag, _ in page.tags if tag == "svg"]) > 60
    assert "left out to keep this file small" in page.text[page.text.index("What was not assessed") :]
    first = page.text.index("left out to keep this file small")
    assert page.text[:first].count("Replay") > 40, "the plots of the worst findings stay"


def test_an_empty_or_partial_audit_is_no_pass(report: Report, audit_dir: Path) -> None:
    audit = report.audit.model_copy(update={"complete": False, "errors": ["typographic: out of memory"]})
    page = Page(render(report.model_copy(update={"findings": [], "targets": [], "audit": audit}), audit_dir))
    text = " ".join(page.text.split())
    assert "This report is partial." in text and "do not read it as a pass" in text and "out of memory" in text


def test_the_interval_plot_sets_target_reference_and_controls_on_one_axis(report: Report) -> None:
    arm = Facts({"permuted": {"value": 0.04, "ci": (-0.11, 0.17)}, "found": True})
    plot = interval_plot(report.findings[0].model_copy(update={"controls": arm}))
    assert plot is not None and plot.threshold is not None
    target, reference, control = plot.rows
    assert [row.kind for row in plot.rows] == ["target", "reference", "control"]
    assert reference.low < control.x < reference.x < plot.threshold.at < target.low < target.x < target.high
    held = next(f for f in report.findings if f.verdict is Verdict.HELD and f.probe == "unsafe-file")
    assert interval_plot(held.model_copy(update={"controls": Facts({})})) is None, "nothing to draw where all figures coincide"


def test_bars_beyond_the_cap_stay_in_the_table_and_marked_ones_are_drawn() -> None:
    count = 300
    series = Bars(labels=[str(i) for i in range(count)], values=[-1.0 + i for i in range(count)], highlight=[250])
    plot = bar_plot(series)
    assert len(plot.bars) == 40 and plot.left_out == 260 and len(plot.data) == count
    assert [bar.label for bar in plot.bars if bar.highlight] == ["250"]
    assert plot.bars[0].x + plot.bars[0].width == pytest.approx(plot.zero, abs=0.2), "a negative bar ends at zero"


@pytest.mark.parametrize(("xlabel", "ylabel"), [("share", "share"), ("low", "low"), ("reference", "high"), ("", "x")])
def test_the_table_of_a_curve_has_every_column_whatever_the_axes_are_called(xlabel: str, ylabel: str) -> None:
    plot = curve_plot(Curve(x=[1, 2], y=[3, 4], xlabel=xlabel, ylabel=ylabel))
    assert plot.columns == [xlabel or "x", ylabel] and plot.data == [["1", "3"], ["2", "4"]]


def test_grids_stand_side_by_side_at_one_size(report: Report, audit_dir: Path) -> None:
    """Grids of one row are enlarged alike, so far that they fit; a small picture alone keeps its full zoom."""
    store = ArtifactStore(audit_dir)
    images = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grids = [store.put_grid(images[:n], 4, f"“judge” | {name}: {n} of 12") for name, n in (("man", 10), ("woman", 2))]
    first = report.findings[0].model_copy(update={"evidence": grids})
    (row,) = Gallery(EvidenceFiles(audit_dir)).rows([first])[first.id]
    assert [(p.width, p.height) for p in row.pictures] == [(3 * 134, 3 * 100), (3 * 66, 3 * 32)]
    alone = first.model_copy(update={"evidence": [noise(store, 1)]})
    assert Gallery(EvidenceFiles(audit_dir)).rows([alone])[alone.id][0].pictures[0].width == 4 * 32


def test_a_grid_has_every_picture_and_clear_gaps(audit_dir: Path) -> None:
    images = torch.stack([torch.full((3, 8, 8), k / 10) for k in range(5)])
    item = ArtifactStore(audit_dir).put_grid(images, 3, "five")
    pixels = np.asarray(Image.open(audit_dir / item.path))
    assert pixels.shape == (18, 28, 4)
    assert [pixels[10 * (k // 3) + 3, 10 * (k % 3) + 3, 0] for k in range(5)] == [round(25.5 * k) for k in range(5)]
    assert pixels[:, 8, 3].max() == 0
    assert pixels[12, 24, 3] == 0  # no sixth picture
    large = ArtifactStore(audit_dir).put_grid(torch.rand(8, 3, 512, 512), 4, "large")
    assert max(Image.open(audit_dir / large.path).size) <= 768


def test_a_text_to_image_target_names_its_captions_and_its_scorer_with_its_error(
    report: Report, audit_dir: Path
) -> None:
    target = report.targets[0]
    assert target.data is not None
    drawn = target.model_copy(
        update={
            "data": target.data.model_copy(update={"captions": 170}),
            "scorer": "zoo:clean",
            "wordings": ["an oil painting of a judge"],
        }
    )
    controls = Facts({f"{SCORER_ACCURACY}gender": "0.94 (0.89 to 0.97)"})
    own = report.findings[0].model_copy(update={"target": drawn.id, "controls": controls})
    text = render(report.model_copy(update={"targets": [drawn], "findings": [own]}), audit_dir)
    block = text[text.index('id="targets"') : text.index('id="thresholds"')]
    assert "170 distinct captions" in block
    assert "<q>an oil painting of a judge</q> …" in block
    assert "zoo:clean" in block
    assert "balanced accuracy on gender: 0.94 (0.89 to 0.97)" in block


def test_a_figure_among_the_facts_is_written_with_its_interval() -> None:
    assert fact(Figure(value=0.6172, ci=(0.5272, 0.7017), n=1128)) == "0.617 [0.527, 0.702], n = 1,128"
    assert fact(Figure(value=-0.5, ci=(-1, 0))) == "−0.50 [−1.00, 0.00]"
    assert fact(Facts({"x": {"value": 1, "ci": [0, 1], "of": 3}})["x"]) == "value: 1; ci: 0, 1; of: 3"


def test_the_cells_of_a_table_are_words(report: Report, audit_dir: Path) -> None:
    table = {"columns": ["a", "b", "c", "d"], "rows": [[True, None, 0.123456, "x"]]}
    own = report.findings[0].model_copy(update={"details": Details({"table": table})})
    text = render(report.model_copy(update={"findings": [own]}), audit_dir)
    assert "<tr><td>yes</td><td>–</td><td>0.123</td><td>x</td></tr>" in text
