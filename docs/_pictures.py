"""The pictures of the pages: ``python docs/_pictures.py AUDIT_DIR`` draws the report of an audit, in light and dark, into
``docs/pictures``. Needs playwright and a Chromium (at /usr/bin/chromium or in CHROMIUM). The pages show the audit of the first page:

    vlaudit scan zoo:word-shortcut --probe typographic --probe unsafe-file --out first-audit
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "pictures"
SIZE = {"width": 1000, "height": 620}
COLOURS = 128  # of a palette, which keeps a page of text small


def draw(audit: Path) -> None:
    """Write the top of the report and its gravest finding, in both colour schemes."""
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            page = context.new_page()
            page.goto((audit / "report.html").resolve().as_uri())
            _write(page.screenshot(), f"report-{scheme}.png")
            _write(page.locator(".card").first.screenshot(), f"finding-{scheme}.png")
        browser.close()


def _write(png: bytes, name: str) -> None:
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(FOLDER / name, optimize=True)
    print(f"{FOLDER / name}: {(FOLDER / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
