"""Articles agree with the names behind them."""

from __future__ import annotations

from vlaudit.data.articles import mend_articles, with_article


def test_the_article_follows_the_first_letter_in_any_case() -> None:
    assert [with_article(name) for name in ("judge", "artist", "Artist")] == ["a judge", "an artist", "an Artist"]


def test_articles_in_a_text_are_mended_and_nothing_else_is() -> None:
    assert mend_articles("Is this a artist or a cook?") == "Is this an artist or a cook?"
    assert mend_articles("an idea of a lava lamp") == "an idea of a lava lamp"
