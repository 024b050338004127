"""The pages for those who see little, use no mouse, or read on paper: axe-core's rules, the Tab key, and the printed page."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reports.browsing import Visit
from vlaudit.details import Details
from vlaudit.plugins import plugin, plugins
from vlaudit.records import Report

pytestmark = pytest.mark.browser

PAGES = [name for name in plugins("reporters") if plugin("reporters", name)().extension.endswith("html")]
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
UNFOLD = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
A4 = (182, 265)  # mm inside the margins of the style sheet


@pytest.fixture
def opened(browser: Any, audit_dir: Path) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def call(name: str, report: Report, **options: Any) -> Visit:
        file = audit_dir / f"{name}.html"
        file.write_text(plugin("reporters", name)().render(report, audit_dir), encoding="utf-8")
        visits.append(Visit(browser, file, **options))
        return visits[-1]

    yield call
    for visit in visits:
        visit.context.close()


def assert_accessible(page: Any) -> None:
    """axe-core finds nothing. It is injected, which the page's own security policy forbids: contexts of these tests, and only of
    these, have it off."""
    from axe_playwright_python.sync_playwright import Axe

    options = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": RULES}}
    result = Axe().run(page, options=options).response
    assert len(result["passes"]) > 8, "axe ran"
    found = {rule["id"]: [node["html"][:200] for node in rule["nodes"][:3]] for rule in result["violations"]}
    assert found == {}, json.dumps(found, indent=1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_no_rule_of_wcag_aa_is_broken(
    opened: Callable[..., Visit], name: str, scheme: str, full_report: Report
) -> None:
    """An audit with everything; also on a narrow screen."""
    page = opened(name, full_report, color_scheme=scheme, bypass_csp=True).page
    page.evaluate(UNFOLD)
    assert_accessible(page)
    if scheme == "light":
        page.set_viewport_size({"width": 390, "height": 800})
        assert_accessible(page)


@pytest.mark.parametrize("name", PAGES)
def test_no_rule_of_wcag_aa_is_broken_where_nothing_was_audited(
    opened: Callable[..., Visit], name: str, full_report: Report
) -> None:
    empty = full_report.model_copy(update={"targets": [], "findings": []})
    assert_accessible(opened(name, empty, bypass_csp=True).page)


@pytest.mark.parametrize("name", PAGES)
def test_no_rule_of_wcag_aa_is_broken_by_two_hundred_findings(
    opened: Callable[..., Visit], name: str, many_findings: Report
) -> None:
    assert_accessible(opened(name, many_findings, color_scheme="dark", bypass_csp=True).page)


# --- the keyboard ----------------------------------------------------------------------------------------------------

STOPS = """() => {
  const all = [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")];
  const stops = all.filter((e) => e.checkVisibility({ contentVisibilityAuto: true }) && !e.disabled);
  stops.forEach((e, i) => { e.dataset.stop = i; });
  return stops.length;
}"""
FOCUSED = """() => {
  const e = document.activeElement, style = getComputedStyle(e), box = e.getBoundingClientRect();
  return { stop: e.dataset.stop ?? e.tagName, ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
           seen: box.width > 0 && box.bottom > 0 && box.top < innerHeight && box.left >= -1 && box.right <= innerWidth + 1 };
}"""


@pytest.mark.parametrize("name", PAGES)
def test_tab_reaches_everything_in_order_with_a_visible_focus(
    opened: Callable[..., Visit], name: str, full_report: Report
) -> None:
    page = opened(name, full_report, reduced_motion="reduce").page
    page.evaluate(UNFOLD)
    count = page.evaluate(STOPS)
    assert count > (60 if name == "html" else 12)
    for stop in range(count):
        page.keyboard.press("Tab")
        at = page.evaluate(FOCUSED)
        assert at == {"stop": str(stop), "ring": True, "seen": True}, page.evaluate(
            "document.activeElement.outerHTML.slice(0, 200)"
        )
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(FOCUSED)["stop"] == str(count - 2), "no trap"


def test_cards_filters_and_veils_work_by_keyboard(opened: Callable[..., Visit], full_report: Report) -> None:
    page = opened("html", full_report).page
    page.keyboard.press("Tab")
    assert page.locator(".skip").bounding_box()["x"] >= 0, "the link that skips is seen when it has the focus"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "vulnerable", "it leads to the findings"
    before = page.locator(".card:visible").count()
    page.keyboard.press("Space")
    assert page.locator(".card.vulnerable:visible").count() == 0 and page.locator(".card:visible").count() < before
    page.keyboard.press("Space")
    page.locator("select[name=risk]").focus()
    page.keyboard.press("ArrowDown")
    assert {card.get_attribute("data-risk") for card in page.locator(".card:visible").all()} == {"robustness"}
    page.keyboard.press("ArrowUp")
    page.locator("input[name=text]").focus()
    page.keyboard.type("poisoned demonstrations")
    assert page.locator(".card:visible").count() == 1
    page.locator(".card:visible > summary").focus()
    page.keyboard.press("Enter")
    assert not page.locator(".card:visible .body").is_visible()
    page.locator("input[name=text]").fill("")
    page.evaluate(UNFOLD)
    veil = page.locator(".veil input")
    veil.focus()
    page.keyboard.press("Space")
    assert page.locator(".veil img").evaluate("image => getComputedStyle(image).filter") == "none"
    secret = page.locator("details.sensitive")
    page.evaluate(UNFOLD + "; document.querySelectorAll('.sensitive').forEach((d) => { d.open = false; })")
    secret.locator("summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("pre", has_text="xylophone").is_visible()


# --- paper -----------------------------------------------------------------------------------------------------------


def squeezed(text: str) -> str:
    """Letters and digits alone: a PDF breaks lines, and joins and parts words, as it likes."""
    return "".join(character for character in unicodedata.normalize("NFKC", text).lower() if character.isalnum())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_printed_page_has_everything_that_is_unfolded(opened: Callable[..., Visit], full_report: Report, scheme: str) -> None:
    from pypdf import PdfReader

    page = opened("html", full_report, color_scheme=scheme).page
    page.evaluate(UNFOLD + "; document.querySelectorAll('.sensitive').forEach((d) => { d.open = false; })")
    pdf = PdfReader(io.BytesIO(page.pdf(format="A4", prefer_css_page_size=True)))
    text = squeezed("".join(sheet.extract_text() for sheet in pdf.pages))
    for finding in full_report.findings:
        for said in (finding.reason, finding.reproduce, finding.limits, *finding.controls):
            assert squeezed(said) in text, said
    for shown in (
        "wearsawhitehat",
        "0.414",
        "APGD-CE",
        "concept drawn",
        "permuted-labels",
        "a photo of a judge",
        full_report.audit.command,
    ):
        assert squeezed(shown) in text, shown
    assert "xylophone" not in text and squeezed("Sensitive text") in text, "named, and not shown"
    drawn = b"".join(sheet.get_contents().get_data() for sheet in pdf.pages)
    for soft in ("#fbebe6", "#fbf1d9", "#e3f1f6", "#eceef0"):  # the grounds of the verdicts
        red, green, blue = (int(soft[i : i + 2], 16) / 255 for i in (1, 3, 5))
        wanted = [f"{red:.5f}"[:5], f"{green:.5f}"[:5], f"{blue:.5f}"[:5]]
        assert all(part.lstrip("0").encode() in drawn for part in wanted), soft


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_on_paper(opened: Callable[..., Visit], name: str, full_report: Report) -> None:
    wide = {
        "table": {"columns": [f"column number {i}" for i in range(14)], "rows": [[0.123456 * i for i in range(14)]] * 3}
    }
    first = full_report.findings[0].model_copy(update={"details": Details(wide), "reproduce": "vlaudit scan " + "x" * 400})
    width = round(A4[0] / 25.4 * 96)
    page = opened(
        name,
        full_report.model_copy(update={"findings": [first, *full_report.findings[1:]]}),
        viewport={"width": width, "height": 1000},
    ).page
    page.emulate_media(media="print")
    cut = """(width) => [...document.body.querySelectorAll("*")].filter((e) => {
      if (!e.checkVisibility() || e.closest("svg") !== e && e.closest("svg")) return false;
      const box = e.getBoundingClientRect(), style = getComputedStyle(e);
      const clips = style.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0;
      return box.right > width + 1 || box.left < -1 || clips;
    }).map((e) => e.outerHTML.slice(0, 120))"""
    assert page.evaluate(cut, width) == []


# --- large audits ----------------------------------------------------------------------------------------------------


def test_two_hundred_findings_are_drawn_in_two_seconds(
    opened: Callable[..., Visit], many_findings: Report, browser: Any
) -> None:
    """Seconds of the renderer's own thread, so that a busy machine does not count."""
    context = browser.new_context()
    try:
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        visit = opened("html", many_findings)
        assert visit.page.locator(".card").count() == len(many_findings.findings) == 200
        page.goto(visit.file.as_uri())
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        spent = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
        assert page.evaluate("performance.getEntriesByName('first-contentful-paint').length") == 1
        assert 0 < spent["TaskDuration"] < 2, spent
    finally:
        context.close()
