"""A text that notes what it is compared with, so that what a program looks for in it is known without reading the program. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

LONGEST = 500  # characters of a text that is worth trying
MOST = 2000  # texts that are noted


class Watched(str):
    """A text whose comparisons and searches add what it was held against to ``heard``. What is cut out of it, or made of it by
    trimming, splitting or another case, is watched too."""

    heard: dict[str, None]

    def __new__(cls, text: str, heard: dict[str, None]) -> Watched:
        watched = super().__new__(cls, text)
        watched.heard = heard
        return watched

    def _note(self, values: tuple[Any, ...]) -> None:
        for value in values:
            if isinstance(value, tuple):
                self._note(value)
            elif isinstance(value, str) and 0 < len(value) <= LONGEST and len(self.heard) < MOST:
                self.heard[str(value)] = None

    def _like(self, value: Any) -> Any:
        if isinstance(value, str):
            return Watched(value, self.heard)
        return type(value)(map(self._like, value)) if isinstance(value, list | tuple) else value

    def __hash__(self) -> int:
        return super().__hash__()

    def __iter__(self) -> Iterator[str]:
        return map(self._like, super().__iter__())

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        return Watched(super().__getitem__(place), self.heard)


def _method(name: str, noted: bool) -> Callable[..., Any]:
    plain = getattr(str, name)

    def method(self: Watched, *values: Any, **more: Any) -> Any:
        if noted:
            self._note(values)
        return self._like(plain(self, *values, **more))

    return method


_ASKING = (
    "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__contains__", "startswith", "endswith", "find", "rfind", "index", "rindex",
    "count", "replace", "split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix",
)  # fmt: skip
_CHANGING = (
    "lower", "upper", "casefold", "title", "capitalize", "swapcase", "strip", "lstrip", "rstrip", "splitlines", "__add__", "__mul__", "__rmul__",
)  # fmt: skip
for _name in (*_ASKING, *_CHANGING):
    setattr(Watched, _name, _method(_name, _name in _ASKING))
