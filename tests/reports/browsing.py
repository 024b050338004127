"""A report page in a real browser, with all that it says and asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Visit:
    """A page that was opened, with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(120_000)  # a busy machine is no failure
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(file.as_uri())
        self.file = file

    def _dismiss(self, dialog: Any) -> None:
        self.said.append(dialog.message)
        dialog.dismiss()

    def assert_silent(self) -> None:
        self.page.wait_for_timeout(100)
        assert self.said == []
        assert [url for url in self.requests if url != self.file.as_uri() and not url.startswith("data:image/")] == []
