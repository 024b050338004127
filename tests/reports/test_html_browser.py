"""The HTML report in a real browser: silent, inert, legible, and whole without JavaScript and on paper."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.reports.browsing import Visit
from vlaudit.details import Facts
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.records import Report, Severity, Verdict
from vlaudit.reports.html import HTMLReporter

pytestmark = pytest.mark.browser

# WCAG 2.2, 1.4.3: text against what is painted behind it; 4.5, or 3 for large text (24 px, or 18.66 px and bold).
CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]);
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.unshift(parse(getComputedStyle(e).backgroundColor));
    return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = { checked: 0, poor: [] };
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility() || element.matches("script, style, option, .hash span")) continue;
    const style = getComputedStyle(element);
    const paper = behind(element);
    const ink = over(parse(element.closest("svg") ? style.fill : style.color), paper);
    const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    found.checked += 1;
    if (ratio < needed) found.poor.push(`${ratio.toFixed(2)} ${element.tagName} ${text.slice(0, 40)}`);
  }
  return found;
}"""


@pytest.fixture
def visit(browser: Any, report: Report, audit_dir: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def call(shown: Report = report, **options: Any) -> Visit:
        file = audit_dir / "report.html"
        file.write_text(HTMLReporter().render(shown, audit_dir), encoding="utf-8")
        visits.append(Visit(browser, file, **options))
        return visits[-1]

    yield call
    for opened in visits:
        opened.context.close()


def shown_cards(page: Any) -> int:
    return int(page.locator(".card:visible").count())


def test_it_says_nothing_and_asks_for_nothing(visit: Callable[..., Visit]) -> None:
    opened = visit()
    assert shown_cards(opened.page) == 9
    assert opened.page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    opened.assert_silent()


def test_hostile_text_runs_nothing(visit: Callable[..., Visit], hostile_report: Report) -> None:
    opened = visit(hostile_report)
    opened.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert shown_cards(opened.page) == 9
    assert opened.page.evaluate("document.scripts.length") == 1
    opened.assert_silent()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible(visit: Callable[..., Visit], scheme: str) -> None:
    opened = visit(color_scheme=scheme)
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    found = opened.page.evaluate(CONTRAST)
    assert found["poor"] == [] and found["checked"] > 300
    assert (paper == "rgb(251, 250, 248)") == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_threshold_is_legible_on_its_shade(visit: Callable[..., Visit], scheme: str) -> None:
    """Figures never stand on the shaded part of a plot, so the page's contrast check holds for all SVG text."""
    overlaps = """() => [...document.querySelectorAll("svg")].flatMap((svg) => {
      const shade = svg.querySelector(".beyond")?.getBoundingClientRect();
      return shade ? [...svg.querySelectorAll("text")].filter((text) => {
        const box = text.getBoundingClientRect();
        const beside = box.bottom <= shade.top + 3 || box.top >= shade.bottom;
        return box.width && !beside && box.right > shade.left && box.left < shade.right;
      }) : [];
    }).length"""
    assert visit(color_scheme=scheme).page.evaluate(overlaps) == 0


def test_filter_and_sort(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.locator("input[value=held]").uncheck()
    assert shown_cards(page) == 6 and page.locator("output").inner_text() == "6 of 9 shown"
    page.locator("select[name=risk]").select_option("privacy")
    assert shown_cards(page) == 2
    page.locator("select[name=risk]").select_option("")
    page.locator("input[name=text]").fill("PITCH that is not there")
    assert shown_cards(page) == 0
    page.locator("input[name=text]").fill("more often than 999")
    assert shown_cards(page) == 1
    page.locator("input[name=text]").fill("")
    page.locator("select[name=order]").select_option("risk")
    risks = page.evaluate("[...document.querySelectorAll('#findings .card')].map((card) => card.dataset.risk)")
    assert risks == sorted(risks)
    page.locator("select[name=order]").select_option("order")
    order = page.evaluate("[...document.querySelectorAll('.card')].map((card) => Number(card.dataset.order))")
    assert order == list(range(1, 10))


def test_the_matrix_leads_to_the_finding(visit: Callable[..., Visit]) -> None:
    page = visit().page
    page.locator(".matrix td.held a").click()
    body = page.locator(".card.held[open]", has_text="Typographic").locator(".body")
    body.wait_for()  # the page opens it when the address has changed
    assert body.is_visible()


def test_it_is_whole_without_javascript(visit: Callable[..., Visit]) -> None:
    opened = visit(java_script_enabled=False)
    page = opened.page
    assert shown_cards(page) == 9 and not page.locator("#controls").is_visible()
    held = page.locator(".card.held").first
    assert not held.locator(".body").is_visible()
    held.locator("h3").click()
    assert held.locator(".body").is_visible()
    opened.assert_silent()


@pytest.mark.parametrize("javascript", [True, False])
def test_sensitive_pictures_are_veiled_until_asked_for(visit: Callable[..., Visit], javascript: bool) -> None:
    page = visit(java_script_enabled=javascript).page
    page.locator(".card:has(.veil) h3").click()
    veil = page.locator(".veil")
    look = "image => getComputedStyle(image).filter"
    assert veil.count() == 1 and "blur" in veil.locator("img").evaluate(look)
    veil.locator("input").check()
    assert veil.locator("img").evaluate(look) == "none"


def test_paper_has_what_is_open_dark_on_white_and_of_the_rest_the_reason(visit: Callable[..., Visit]) -> None:
    page = visit(color_scheme="dark").page
    assert page.pdf().startswith(b"%PDF-")
    page.emulate_media(media="print", color_scheme="dark")
    shown = "(parts) => parts.every((part) => part.checkVisibility({ contentVisibilityAuto: true }) && part.getBoundingClientRect().height > 5)"
    assert page.locator(".card:not([open])").count() > 3 and page.locator(".card[open]").count() == 3
    assert page.locator(".card .reason, .card[open] .advice").evaluate_all(shown)
    assert not page.locator(".card:not([open]) .body").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("#controls").is_visible() and not page.locator("nav").is_visible() and not page.locator(".copy").first.is_visible()
    assert page.evaluate(CONTRAST)["poor"] == []


# Text that sticks out of the box that it stands in: of the page, a cell of the matrix, a tile, a cell of a table or a plot.
STICKS_OUT = """(width) => {
  document.querySelectorAll("details").forEach((d) => { d.open = true; });
  const boxes = ".tally li, .matrix td, .matrix th, .glance td, .glance th, .plot, .curve, .plot th, .plot td:not(.track), .card, .card summary, .badge, button";
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  let checked = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode, around = [];
    for (let e = node.parentElement; e; e = e.parentElement) if (e.matches(boxes)) around.push(e.getBoundingClientRect());
    if (!around.length || !node.textContent.trim() || !node.parentElement.checkVisibility()) continue;
    if (node.parentElement.closest(".skip, option, .hash span, .scroll") || (width < 640 && node.parentElement.closest(".glance thead"))) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    checked += 1;
    for (const text of range.getClientRects()) {
      if (text.right > width || text.left < 0 || around.some((box) => text.left < box.left - 1 || text.right > box.right + 1)) {
        found.push(`${node.parentElement.outerHTML.slice(0, 40)}: ${node.textContent.trim().slice(0, 40)}`);
        break;
      }
    }
  }
  return { checked, found };
}"""


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_every_label_is_whole_inside_its_box(visit: Callable[..., Visit], width: int, full_report: Report) -> None:
    long = Facts({"an arm with a long name, as probes have them, and more": {"value": 0.2, "ci": (0.1, 0.9)}})
    first = full_report.findings[0].model_copy(update={"controls": long})
    page = visit(full_report.model_copy(update={"findings": [first, *full_report.findings[1:]]}), viewport={"width": width, "height": 900}).page
    told = page.evaluate(STICKS_OUT, width)
    assert told["checked"] > 200 and told["found"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("svg text").first.evaluate("(text) => parseFloat(getComputedStyle(text).fontSize)") >= 11


@pytest.mark.parametrize("width", [820, 1280])
def test_no_word_of_a_header_and_no_severity_is_broken(visit: Callable[..., Visit], report: Report, width: int) -> None:
    metric = report.findings[0].metric
    assert metric is not None
    long = metric.model_copy(update={"name": "how much smaller the smallest triggers are than those of the next answer, " * 3})
    findings = [f.model_copy(update={"verdict": Verdict.INCONCLUSIVE, "headline": "what happens to a picture, " * 8, "metric": long}) for f in report.findings[:4]]
    page = visit(report.model_copy(update={"findings": findings}), viewport={"width": width, "height": 900}).page
    lines = """(cells) => cells.filter((cell) => cell.checkVisibility()).map((cell) => {
      const range = document.createRange();
      range.selectNodeContents(cell);
      return [cell.textContent.trim(), new Set([...range.getClientRects()].map((box) => box.top)).size];
    })"""
    told = page.locator(".glance thead th").evaluate_all(lines)
    assert told == [["Severity", 1], ["What happens", 1], ["Measured", 1], ["Status", 1]]
    grave = [finding.model_copy(update={"verdict": Verdict.VULNERABLE, "severity": Severity.CRITICAL}) for finding in findings]
    page = visit(report.model_copy(update={"findings": grave}), viewport={"width": width, "height": 900}).page
    told = page.locator(".glance .severity").evaluate_all(lines)
    assert told == [["critical", 1]] * 4


def test_the_last_sheet_of_paper_holds_more_than_a_line(visit: Callable[..., Visit], report: Report) -> None:
    from pypdf import PdfReader

    page = visit(report.model_copy(update={"findings": report.findings[:1]})).page
    page.evaluate("document.getElementById('provenance').before(document.createElement('div'))")
    for height in range(0, 1000, 45):  # wherever a sheet may end
        page.evaluate("(height) => { document.getElementById('provenance').previousElementSibling.style.height = `${height}px`; }", height)
        last = PdfReader(io.BytesIO(page.pdf(format="A4", prefer_css_page_size=True))).pages[-1].extract_text()
        assert "Nothing is fetched" in last and "Provenance" in last, height


def test_filters_stand_in_the_address_and_an_address_is_obeyed(visit: Callable[..., Visit]) -> None:
    opened = visit()
    page = opened.page
    page.locator("input[value=held]").uncheck()
    page.locator("select[name=risk]").select_option("privacy")
    assert page.url.endswith("#verdict=vulnerable%2Cinconclusive%2Cnot-assessed&risk=privacy")
    assert shown_cards(page) == 2
    page.goto(f"{opened.file.as_uri()}#verdict=held&order=risk")
    page.reload()
    assert shown_cards(page) == 3 and not page.locator("input[value=vulnerable]").is_checked()
    page.goto(f"{opened.file.as_uri()}#risk=%zz&verdict=%00&order=nothing&text=")
    page.reload()
    assert shown_cards(page) == 0
    page.locator(".tally .vulnerable a").click()
    page.wait_for_function("location.hash === '#verdict=vulnerable'")
    assert shown_cards(page) == 3
    opened.assert_silent()


def test_a_finding_has_an_address_of_its_own_that_unfolds_it(visit: Callable[..., Visit], report: Report) -> None:
    named = [f.model_copy(update={"id": f"{f.code}-{n:08x}"}) for n, f in enumerate(report.findings)]
    opened = visit(report.model_copy(update={"findings": named}), reduced_motion="reduce")
    held = next(f.id for f in named if f.verdict == "held")
    opened.page.goto(f"{opened.file.as_uri()}#{held}")
    opened.page.locator(f"[id='{held}'] .body").wait_for()
    assert opened.page.locator(f"[id='{held}']").evaluate("(card) => card.getBoundingClientRect().top < innerHeight")


def test_a_threshold_leads_to_its_source(visit: Callable[..., Visit]) -> None:
    page = visit(reduced_motion="reduce").page
    link = page.locator(".card[open] a", has_text="why").first
    name = str(link.get_attribute("href"))
    assert not page.locator(name).is_visible()
    link.click()
    page.locator(name).wait_for()


def test_a_card_of_a_flaw_fits_about_a_screen_and_unfolds_to_all_of_it(visit: Callable[..., Visit]) -> None:
    page = visit(viewport={"width": 1280, "height": 900}).page
    heights = page.evaluate("[...document.querySelectorAll('.card[open]')].map((card) => card.getBoundingClientRect().height)")
    assert len(heights) == 3 and max(heights) < 1_400
    assert page.locator("details:not([open]) .copied:visible").count() == 0
    page.locator("button[name=unfold]").click()
    assert page.locator("details:not([open])").count() == page.locator("details.sensitive").count() + page.locator("dd > details").count()


def test_all_cards_unfold_and_commands_are_copied(visit: Callable[..., Visit]) -> None:
    opened = visit(permissions=["clipboard-read", "clipboard-write"])
    page = opened.page
    page.locator("button[name=unfold]").click()
    assert page.locator(".card:not([open])").count() == 0
    first = page.locator(".card .copied").first
    first.locator("button").click()
    page.wait_for_function("(button) => button.textContent !== 'Copy'", arg=first.locator("button").element_handle())
    assert page.evaluate("navigator.clipboard.readText()") == first.locator("code").inner_text()
    page.locator("button[name=unfold]").click()
    assert page.locator(".card[open]").count() == 0
    opened.assert_silent()


def test_sensitive_evidence_stays_veiled_on_paper(visit: Callable[..., Visit], report: Report, audit_dir: Path) -> None:
    secret = ArtifactStore(audit_dir).put(b"a name", "txt", "text", "an answer", sensitive=True)
    findings = [item.model_copy(update={"evidence": [*item.evidence, secret]}) for item in report.findings]
    page = visit(report.model_copy(update={"findings": findings})).page
    page.emulate_media(media="print")
    assert page.locator("pre", has_text="a name").count() == 9
    assert page.evaluate("[...document.querySelectorAll('.sensitive pre')].every((text) => !text.checkVisibility())")
    assert "blur" in page.locator(".veil img").evaluate("image => getComputedStyle(image).filter")


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_never_scrolls_sideways(
    visit: Callable[..., Visit], width: int, hostile_report: Report, report: Report
) -> None:
    for shown in (report, hostile_report):
        page = visit(shown, viewport={"width": width, "height": 800}).page
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_headings_and_names_for_readers_by_ear(visit: Callable[..., Visit]) -> None:
    page = visit().page
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => Number(heading.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    drawn = "[...document.querySelectorAll('svg')].every((s) => s.closest('[aria-hidden=true]') || s.textContent.trim())"
    assert page.evaluate(drawn), "what is drawn is hidden from readers by ear, for its figures stand beside it"
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    names = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(set(names)) == len(names)
