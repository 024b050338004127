"""The documentation site: built strictly, offline and without torch; one whole page a probe; nothing fetched from elsewhere."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vlaudit.pages import HEADINGS, sections
from vlaudit.plugins import plugins
from vlaudit.records import Family
from vlaudit.registry import ProbeRegistry
from vlaudit.reports.compliance import controls_of
from vlaudit.zoo import specimens

ROOT = Path(__file__).parents[2]
PROBES = ProbeRegistry.load().classes

BUILD = """
import socket, sys
for name in ("torch", "torchvision", "transformers", "open_clip", "scipy", "diffusers"):
    sys.modules[name] = None
def refuse(*_): raise OSError("the build asked for the network")
socket.socket.connect = socket.getaddrinfo = refuse
from sphinx.cmd.build import main
sys.exit(main(["-W", "--keep-going", "-n", "-q", *sys.argv[1:]]))
"""


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BUILD, str(source), str(site)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as they stand in the repository, where nothing was generated yet."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "docs", root / "docs", ignore=shutil.ignore_patterns("probes", "reference", "__pycache__"))
    shutil.copy(ROOT / "CONTRIBUTING.md", root)
    return root / "docs"


@pytest.fixture(scope="module")
def site(source: Path) -> Path:
    done = build(source, source.parent / "site")
    assert done.returncode == 0, done.stderr
    return source.parent / "site"


def text_of(page: Path) -> str:
    """The words of a page's main part, without its markup."""
    main = re.search(r'<article role="main"[^>]*>(.*?)</article>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert main is not None, f"{page} has no main part"
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", main[1])).split())


@pytest.mark.parametrize("name", sorted(PROBES))
def test_every_probe_has_a_whole_page(site: Path, name: str) -> None:
    probe, page = PROBES[name], text_of(site / "probes" / f"{name}.html")
    titles = re.findall(r"<h2>([^<]+)<", (site / "probes" / f"{name}.html").read_text(encoding="utf-8"))
    for heading in HEADINGS:
        assert any(title.split(",")[0] == heading for title in titles), f"{name}: no section '{heading}'"
    plain = [re.sub(r"``|(?<!\w)\*|\*(?!\w)", "", section.text) for section in sections(probe.documentation())]
    for text in plain:
        assert " ".join(text.split()) in page, f"{name}: its page does not say what its docstring says"
    assert probe.info.code in page and probe.info.risk.value in page and probe.info.limits in page
    assert all(need.value in page for need in probe.info.needs)
    assert all(f"zoo:{s.name}" in page for s in specimens() if name in s.expects)
    assert all(control.partition(":")[2] in page for control in controls_of(probe.info))


def test_the_index_has_every_probe_under_its_families(site: Path) -> None:
    index = (site / "probes" / "index.html").read_text(encoding="utf-8")
    tables = dict(zip(Family, re.findall(r"<table.*?</table>", index, re.DOTALL), strict=True))
    for name, probe in PROBES.items():
        for family, rows in tables.items():
            assert (f'href="{name}.html"' in rows) == (family in probe.info.families), f"{name}, {family}"


def test_every_plugin_command_and_specimen_is_listed(site: Path) -> None:
    for group in ("prompts", "backends", "reporters"):
        titles = re.findall(r"<h2>([^<]+)<", (site / "reference" / f"{group}.html").read_text(encoding="utf-8"))
        assert titles == list(plugins(group))
    commands = text_of(site / "cli.html")
    assert "--fail-on" in commands and "vlaudit zoo build" in commands
    assert all(specimen.target in text_of(site / "reference" / "specimens.html") for specimen in specimens())


class Fetched(HTMLParser):
    """Addresses that a browser fetches by itself when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "link" and given.get("rel") not in ("next", "prev", "index", "search", "canonical"):
            self.addresses.append(given.get("href", ""))
        if tag != "a":
            self.addresses += [given[name] for name in ("src", "srcset", "data", "poster", "action") if name in given]
        self.addresses += re.findall(r"url\(([^)]*)\)", given.get("style", ""))


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages, seen = list(site.rglob("*.html")), 0
    assert len(pages) > len(PROBES)
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text(encoding="utf-8"))
        seen += len(fetched.addresses)
        for address in fetched.addresses:
            assert not re.match(r"\s*(\w+:)?//", address) or address.startswith("data:"), f"{page.name}: {address}"
            local = page.parent / re.sub(r"[?#].*", "", address)
            assert address.startswith("data:") or not address or local.exists(), f"{page.name}: {address} is not there"
    assert seen > len(pages)
    for sheet in site.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"@import|url\(\s*['\"]?(\w+:)?//", text), sheet.name


BROKEN = {
    "page": "[gone](gone.md)",
    "part": "[no such part](cli.md#no-such-part)",
    "generated-part": "[no such part](probes/cropa.md#no-such-part)",
    "picture": "![no picture](pictures/gone.png)",
    "entry": "```{toctree}\nprobes/no-such-probe\n```",
}


def test_a_broken_link_or_a_lost_page_fails_the_build(site: Path, source: Path) -> None:
    broken = source.parent / "broken"
    shutil.copytree(source, broken)
    for name, mistake in BROKEN.items():
        (broken / f"broken-{name}.md").write_text(f"# A title\n\nA paragraph.\n\n{mistake}\n", encoding="utf-8")
    with (broken / "index.md").open("a", encoding="utf-8") as index:
        index.write("\n```{toctree}\n" + "\n".join(f"broken-{name}" for name in BROKEN) + "\n```\n")
    (broken / "lost.md").write_text("# In no table of contents\n", encoding="utf-8")
    done = build(broken, broken.parent / "broken-site")
    assert done.returncode != 0
    warned = {Path(line.partition(":")[0]).stem for line in done.stderr.splitlines() if "WARNING" in line}
    assert warned == {"lost", *(f"broken-{name}" for name in BROKEN)}


@pytest.mark.browser
def test_a_browser_asks_for_nothing_but_the_sites_own_files(site: Path, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    for name in ("index.html", "probes/cropa.html", "cli.html", "search.html?q=trigger"):
        page.goto(f"{site.as_uri()}/{name}")
        page.wait_for_timeout(200)
    assert page.locator("#search-results li").count() > 3, "the search finds probes without a server"
    assert len(asked) > 10 and not [url for url in asked if not url.startswith((site.as_uri(), "data:"))]
    assert said == []
    context.close()


def test_the_list_of_thresholds_is_that_of_the_code() -> None:
    """Made again by ``python docs/_generate.py``."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from _generate import thresholds_page  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "thresholds.md").read_text(encoding="utf-8") == thresholds_page(list(PROBES.values()))
