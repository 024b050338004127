"""The pictures of the pages, drawn into ``docs/pictures``. Needs playwright and a Chromium (at /usr/bin/chromium or in CHROMIUM).

``python docs/_pictures.py first-audit`` draws the report that the pages show, in light and dark:

    vlaudit scan zoo:word-shortcut --probe typographic --probe unsafe-file --out first-audit

``python docs/_pictures.py --first-scan DIR`` draws the top of the report of a scan without a target, for the README.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent / "pictures"
SIZE = {"width": 1000, "height": 620}
COLOURS = 128  # of a palette, which keeps a page of text small


def draw(audit: Path) -> None:
    """Write the top of the report and its gravest finding, in both colour schemes."""
    for scheme in ("light", "dark"):
        with _page(audit, scheme, SIZE) as page:
            _write(page.screenshot(), f"report-{scheme}.png")
            _write(page.locator(".card").first.screenshot(), f"finding-{scheme}.png")


def draw_first_scan(audit: Path) -> None:
    """Write the top of the report, down to its matrix of risks."""
    with _page(audit, "light", SIZE | {"height": 720}) as page:
        _write(page.screenshot(), "first-scan.png")


@contextmanager
def _page(audit: Path, scheme: str, size: dict[str, int]) -> Iterator[Page]:
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce").new_page()
        page.goto((audit / "report.html").resolve().as_uri())
        yield page
        browser.close()


def _write(png: bytes, name: str) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(FOLDER / name, optimize=True)
    print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    (draw_first_scan if sys.argv[1] == "--first-scan" else draw)(Path(sys.argv[-1]))
