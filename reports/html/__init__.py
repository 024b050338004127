"""The HTML report: one file that needs no network, no server and no JavaScript.

Captions, labels and model output are hostile: everything is escaped, control characters are replaced, and a
Content-Security-Policy allows only this page's own script and style, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.comparison import Comparison, Listed
from vlaudit.records import Delta, Report
from vlaudit.reporting import (
    COMMANDS,
    SYMBOLS,
    WORDS,
    clean,
    counts_text,
    duration,
    headline,
    interval,
    number,
    plural,
    suppression_text,
)
from vlaudit.reports.html.pictures import MAX_BYTES

if TYPE_CHECKING:
    from jinja2 import Environment

    from vlaudit.reports.html.pictures import Embeddable
    from vlaudit.reports.html.view import Card

HERE = Path(__file__).parent
TRIES = 3  # to leave out as many pictures as must be
MOST_NAMED = 5  # targets of an audit in a list of audits
MAX_DRAWN = 500_000  # characters of all plots and tables, so that 200 findings are laid out at once


class HTMLReporter:
    """One page for people: offline, with the pictures inside."""

    name = "html"
    extension = "html"

    def __init__(self, max_size: int = MAX_BYTES) -> None:
        self.max_size = max_size  # bytes of the page; pictures that do not fit are left out

    def render(self, report: Report, audit_dir: Path) -> str:
        shrunk: dict[tuple[str, str], Embeddable] = {}
        made, pictures = self._render(report, audit_dir, self.max_size, shrunk)
        for _ in range(TRIES):  # what is left out is named, which takes a little of the room that it made
            over = len(made.encode()) - self.max_size
            if over <= 0 or not pictures:
                break
            made, pictures = self._render(report, audit_dir, max(pictures - over, 0), shrunk)
        return made

    def _render(self, report: Report, audit_dir: Path, budget: int, shrunk: dict[tuple[str, str], Embeddable]) -> tuple[str, int]:
        """The page, and how much of it are pictures."""
        from vlaudit.reports.html.view import page

        script = (HERE / "script.js").read_text(encoding="utf-8")
        environment, shown = page_environment(HERE), page(report, audit_dir, budget, shrunk)
        made = environment.get_template("page.html").render(
            **shared_style(script),
            symbols=SYMBOLS,
            words=WORDS,
            plural=plural,
            suppression_text=suppression_text,
            drawings=_drawings(environment, [*shown["assessed"], *shown["not_assessed"]]),
            max_size=self.max_size,
            **shown,
        )
        return made, shown["gallery"].size

    def compare(self, found: Comparison, links: Mapping[str, str]) -> str:
        """A page of several audits side by side. ``links``: to their own pages, by the names of their folders."""
        template = page_environment(HERE).get_template("compare.html")
        return template.render(**shared_style(), symbols=SYMBOLS, words=WORDS, found=found, links=dict(links))

    def contents(self, found: Sequence[Listed], folder: str, more: int) -> str:
        """A page of links to the reports of the audits in ``folder``, in which ``more`` folders were not looked into."""
        template = page_environment(HERE).get_template("contents.html")
        return template.render(
            **shared_style(), found=found, folder=folder, more=more, plural=plural, headline=headline, counts_text=counts_text, most=MOST_NAMED
        )

    def is_contents(self, text: str) -> bool:
        """Whether a page is one that ``contents`` has made."""
        return '<meta name="generator" content="vlaudit view">' in text[:2_000]


def _drawings(environment: Environment, cards: list[Card]) -> dict[str, list[str] | None]:
    """The plots and tables of each card, by its anchor: None for those of the least grave findings that would make the page larger
    than ``MAX_DRAWN``."""
    macros: Any = environment.get_template("plots.html").module
    drawn: dict[str, list[str] | None] = {}
    size = 0
    for card in cards:
        parts = [macros.interval(card.plot, card.finding.verdict)] if card.plot else []
        parts += [macros.series(series) for series in card.series]
        length = sum(map(len, parts))
        fits = size + length <= MAX_DRAWN
        drawn[card.anchor] = parts if fits else None
        size += length if fits else 0
    return drawn


def page_environment(folder: Path) -> Environment:
    """Templates of ``folder`` in which everything printed is cleaned and escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from vlaudit.reports.html.view import fact

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"fact": fact, "number": number, "interval": interval, "difference": _difference, "duration": duration, "sentence": _sentence}
    return environment


def shared_style(script: str = "") -> dict[str, str]:
    """The style that all pages share, a page's own script, and the policy that allows just these."""
    from markupsafe import Markup

    style = (HERE / "style.css").read_text(encoding="utf-8")
    policy = _content_security_policy(style, script)
    return {"style": Markup(style), "script": Markup(script), "policy_header": policy}


def _finalize(value: Any) -> Any:
    """Clean every string that a template prints, its commands for a CI server that logs the page as character references; a
    macro's markup is made of such strings."""
    from markupsafe import Markup, escape

    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return Markup(COMMANDS.sub(lambda found: f"&#{ord(found[0])};", str(escape(clean(value)))))


def _difference(delta: Delta, unit: str) -> str:
    return interval(delta, unit, difference=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _content_security_policy(style: str, script: str) -> str:
    """Nothing is fetched, and nothing but our own script and style is run: hashes, unlike a nonce, allow no other text
    and keep the page the same at every rendering."""
    style_hash, script_hash = (
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
