"""The search: what a chat template writes besides the messages, and what makes it write something else.

A template is somebody else's program. Everything here is called in a cell (``vlaudit.cage.cell``), with a deadline, and nothing of
the template is looked at outside it. The environment is the one in which transformers renders templates.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from markupsafe import escape

from vlaudit.attacks.backdoor.chat_template.branches import Ways, constants, mark_branches
from vlaudit.attacks.backdoor.chat_template.conversations import (
    KNOWN,
    USUAL,
    Message,
    Shape,
    long_talks,
    shape_named,
)
from vlaudit.attacks.backdoor.chat_template.watched import Watched

LENGTHS = (*range(1, 49), 64, 96, 100, 128, 200, 256, 300, 400, 500, 512, 777, 1000, 1024, 2000, 2048, 4000, 4096, 5000, 8192, 10_000, 32_768)
WORD_COUNTS = (*range(1, 25), 32, 40, 50, 64, 80, 100, 128, 200, 256, 500, 1000)
LARGEST = 65_536  # a length that is worth trying
MOST_CONSTANTS, MOST_NUMBERS, MOST_FOUND, MOST_WORDS = 400, 60, 12, 60
SHOWN = 300  # characters of what is told
NOON = datetime(2026, 3, 10, 12, 34, 56)
FORMS = "aAbBcdHIjmMpSUwWxXyYZGVu"
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SPACE = re.compile(r"\s+")
_MARK = re.compile(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{2,32}\]")
Found = dict[str, Any]


class Template:
    """A template, with the branches that depend on words marked."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        from transformers.utils.chat_template_utils import _compile_jinja_template

        environment = _compile_jinja_template(source).environment
        self.variables, self.ways = variables, Ways()
        tree = environment.parse(source)
        self.texts, self.numbers = constants(tree)
        mark = f"way_{secrets.token_hex(8)}"  # which a template cannot know
        self.branches = mark_branches(tree, mark)
        self.conditions = [self._constants_of(node) for node in tree.find_all(_call()) if getattr(node.node, "name", "") == mark]
        self._template = environment.from_string(tree, globals={mark: self.ways})

    @staticmethod
    def _constants_of(node: Any) -> list[str]:
        from jinja2 import nodes

        return [str(const.value) for const in node.find_all(nodes.Const) if isinstance(const.value, str) and const.value.strip()]

    def write(self, messages: list[Message], ask: bool = True, **options: Any) -> str:
        given = {"tools": None, "documents": None, **self.variables, **options}
        return str(self._template.render(messages=messages, add_generation_prompt=ask, **given))


def _call() -> Any:
    from jinja2 import nodes

    return nodes.Call


def options_of(source: str, variables: dict[str, str]) -> list[str]:
    """The names that a template asks for beside what every template is given."""
    from jinja2 import meta, nodes
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(source).environment
    tree = environment.parse(source)
    set_here = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    asked = {test.node.name for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)}
    names = meta.find_undeclared_variables(tree) - (set_here - asked)
    return sorted(names - KNOWN - set(variables) - set(environment.globals))


# --- what differs -----------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """What of a text could tell a model something: words, and signs that are no punctuation, in small letters."""
    return [token.casefold() for token in _TOKEN.findall(text) if any(map(_tells, token))]


def _tells(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character) in ("Cf", "Co", "Cn", "Cs", "So")


def bare(text: str) -> str:
    """A text without its marks."""
    return _MARK.sub(" ", text)


def _signs(text: str) -> str:
    return "".join(words(text))


def _left_of(part: str, whole: str) -> bool:
    """Whether leaving something out of ``whole`` makes ``part``."""
    rest = iter(whole)
    return all(character in rest for character in part)


def change(written: str, plain: str, held: str, said: str) -> tuple[str, list[str], list[str]]:
    """What is written beyond what should be, where ``plain`` is what is written of the text ``held`` and nothing but that should be
    another, ``said``: the kind of change, and the words that are too many and too few. Spaces and punctuation are no words; quoting is
    no change. Kinds: ``""``; ``words``; ``marks`` where only marks such as <end> differ; ``cleaned`` where only marks that the text held are
    left out."""
    best = "words", [""] * len(written), [""]
    for text in dict.fromkeys((said, json.dumps(said, ensure_ascii=False)[1:-1], json.dumps(said)[1:-1], str(escape(said)))):
        expected = plain.replace(held, text)
        if _SPACE.sub("", expected) == _SPACE.sub("", written):
            return "", [], []
        got, due = Counter(words(bare(written))), Counter(words(bare(expected)))
        more, less = list((got - due).elements()), list((due - got).elements())
        ours, theirs = _signs(bare(written)), _signs(bare(expected))
        if _left_of(ours, theirs):  # what was apart is joined
            more, less = [], less if ours != theirs else []
        if not more and not Counter(less) - Counter(words(text)) and _SPACE.sub("", text) in _SPACE.sub("", written):
            less = []  # it leaves out what the text says itself
        if more or less:
            if len(more) + len(less) < len(best[1]) + len(best[2]):
                best = "words", more, less
            continue
        whole, owed = Counter(words(written)), Counter(words(expected))
        if whole == owed:
            return "", [], []
        cleaned = _left_of(_signs(written), _signs(expected)) and not (owed - whole) - Counter(words(text))
        best = "cleaned" if cleaned else "marks", list((whole - owed).elements()), list((owed - whole).elements())
        if cleaned:
            return best
    return best


def shown(text: str, most: int = SHOWN) -> str:
    """A text of a template for people: on one line, what cannot be seen as escapes."""
    line = _SPACE.sub(" ", text).strip()
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line[:most]) + "…" * (len(line) > most)
    return line


def part_that_differs(written: str, plain: str) -> str:
    """What stands in the one text between what both begin and end with."""
    start = next((i for i, (a, b) in enumerate(zip(written, plain, strict=False)) if a != b), min(len(written), len(plain)))
    end = 0
    while end < min(len(written), len(plain)) - start and written[-1 - end] == plain[-1 - end]:
        end += 1
    return written[start : len(written) - end]


# --- what is tried ----------------------------------------------------------------------------------------------------


def placed(text: str, held: str, everywhere: bool) -> Iterator[str]:
    """A text alone, before and behind words that mean nothing; and ``everywhere``: at every place among them, and in other letters."""
    first, second, third = (held.split() * 3)[:3]
    yield text
    yield f"{held} {text}"
    yield f"{text} {held}"
    yield f"{text} {held} {text}"
    if not everywhere:
        return
    yield f"{text}. What is this?"
    yield f"What is this? {text}"
    for before in range(1, 9):
        yield " ".join([*([first, second, third] * 3)[:before], text, first, second])
    for other in dict.fromkeys((text.lower(), text.upper(), text.title(), text.strip())):
        yield f"{other} {held}"
        yield other
    yield f"{first}{text}{second}"
    yield f"{first}\n{text}\n{second}"


def lengths(numbers: Sequence[int], held: str) -> Iterator[str]:
    """Texts that mean nothing, of many lengths in characters and in words."""
    near = {size + step for size in numbers[:MOST_NUMBERS] for step in (-1, 0, 1) if 0 < size + step <= LARGEST}
    first = held.split()[0]
    for size in sorted({*LENGTHS, *near}):
        yield (first * (size // len(first) + 1))[:size]
    for count in sorted({*WORD_COUNTS, *(size for size in near if size <= 5000)}):
        yield " ".join((held.split() * (count // 3 + 1))[:count])


def swapped(text: str, held: str) -> str:
    """A text of the same form and length, all of whose letters and digits are others."""
    return "".join(
        chr((ord(c) - 97 + 11) % 26 + 97) if "a" <= c <= "z" else chr((ord(c) - 65 + 11) % 26 + 65) if "A" <= c <= "Z"
        else chr((ord(c) - 48 + 5) % 10 + 48) if "0" <= c <= "9" else c
        for c in text
    )  # fmt: skip


def explore(source: str, variables: dict[str, str], name: str, held: str, seconds: float, goal: Sequence[str] = ()) -> Found:
    """What the shape of conversation of this name writes, and the texts that change more of it than their own words. Within about ``seconds``;
    ``cut`` says that not all was tried. Ends where something is written that has all words of the ``goal``, if there is one."""
    return _Exploration(Template(source, variables), shape_named(name), held, time.monotonic() + seconds, goal).found


class _Exploration:
    """One shape of conversation under a template, and what was tried of it."""

    def __init__(self, template: Template, shape: Shape, held: str, end: float, goal: Sequence[str]) -> None:
        self.template, self.shape, self.held, self.end, self.goal = template, shape, held, end, goal
        self.heard: dict[str, None] = dict.fromkeys(template.texts)  # what the template looks for in texts
        self.behind: dict[str, str] = {}  # what is looked for once another text is there
        self.changes: dict[tuple[str, ...], Found] = {}
        self.done, self.tried = {held}, set[str]()
        self.found: Found = {"rendered": 0, "failed": 0, "refused": "", "always": "", "found": [], "texts": 0, "cut": False, "went": [], "would": []}
        self.plain = self._plain()
        if not self.found["refused"]:
            self._explore()

    def write(self, text: str) -> str:
        watched: Any = Watched(text, self.heard)
        return self.template.write(self.shape.messages(watched), self.shape.ask, **self.shape.options(watched))

    def _plain(self) -> str:
        """What is written of the text that means nothing; notes where it is refused."""
        try:
            plain = self.write(self.held)
        except Exception as error:  # noqa: BLE001 (whatever a template raises: it does not take this conversation)
            self.found["refused"] = shown(f"{type(error).__name__}: {error}", 120)
            return ""
        plain = re.sub(re.escape(self.held), self.held, plain, flags=re.IGNORECASE)  # letters may all be made large, say
        if self.held not in plain:
            self.found["refused"] = "it does not write this text"
        return plain

    def _explore(self) -> None:
        shape, held, found = self.shape, self.held, self.found
        found["always"] = shown(self.plain.replace(held, "…"))
        self.told = set(words(json.dumps([shape.messages(held), shape.options(held)], ensure_ascii=False)))
        all(map(self._attempt, self._texts()))
        found["texts"], found["cut"] = len(self.tried), found["cut"] or len(self.heard) > MOST_CONSTANTS
        found["rendered"] = len(self.done) - found["failed"]
        found["found"] = list(self.changes.values())
        found["went"] = sorted([number, way] for number, way in self.template.ways.went)
        found["would"] = list(self._would())

    def _texts(self) -> Iterator[str]:
        """What is tried, in order; trying one may show what else the template looks for."""
        yield from USUAL
        yield from lengths(self.template.numbers, self.held)
        together = [" ".join(dict.fromkeys(each[::way])) for each in self.template.conditions for way in (1, -1)]
        yield from filter(None, together)
        yield from (f"{text} {self.held}" for text in together)
        while new := [text for text in list(self.heard)[:MOST_CONSTANTS] if text not in self.tried]:
            for text in new:
                self.tried.add(text)
                first = self.behind.get(text, self.held)
                yield from placed(text, self.held, self.shape.first)
                yield from (f"{first} {text}", f"{text} {first}")
            everything = " ".join(list(self.tried)[:100])
            yield from (everything, f"{everything} {self.held}")

    def _attempt(self, text: str) -> bool:
        """Try a text, unless it was tried; whether to go on."""
        if text in self.done:
            return True
        if time.monotonic() > self.end:
            self.found["cut"] = True
            return False
        self.done.add(text)
        known = len(self.heard)
        try:
            written = self.write(text)
        except Exception:  # noqa: BLE001 (an answer that a template refuses is no prompt)
            self.found["failed"] += 1
            more = True
        else:
            more = self._compare(text, written)
        self.behind.update(dict.fromkeys(list(self.heard)[known:], text))
        return more

    def _compare(self, text: str, written: str) -> bool:
        """Note what is written beyond the text itself; whether that is not the goal yet."""
        kind, more, less = change(written, self.plain, self.held, text)
        if kind == "words" and set(more) <= self.told and not Counter(less) - Counter(words(text)):
            kind = "marks"  # what the conversation says elsewhere is shown, no words of the template's
        if not kind:
            return True
        key = (kind, *sorted(set(more)), "|", *sorted(set(less) - set(words(text))))[:MOST_WORDS]
        if key not in self.changes and len(self.changes) < MOST_FOUND:
            due = self.plain.replace(self.held, text)
            self.changes[key] = {
                "kind": kind, "text": shown(text.replace(self.held, "…"), 80), "written": shown(part_that_differs(written, due)),
                "more": more[:MOST_WORDS], "less": less[:MOST_WORDS], "count": 0, "by": _why(self.write, text, self.held, self.plain, more),
                "whole": shown(written, 2000), "plain": shown(due, 2000),
            }  # fmt: skip
        if key in self.changes:
            self.changes[key]["count"] += 1
        return not (self.goal and set(self.goal) <= set(more))

    def _would(self) -> Iterator[list[Any]]:
        """What branches would write that no text was found to take: number, way and text."""
        for number, way in self.template.ways.untried(self.template.branches):
            try:
                written = self.template.ways.force(number, way, lambda: self.write(self.held))
            except Exception:  # noqa: BLE001 (it cannot go that way here)
                continue
            new = set(words(bare(written))) - set(words(bare(self.plain))) - self.told
            text = shown(part_that_differs(written, self.plain))  # none where it only leaves something out
            if text and any(len(word) > 1 and not word.isdigit() for word in new):  # single letters are words taken apart
                yield [number, way, text]


def _why(write: Callable[[str], str], text: str, held: str, plain: str, more: list[str]) -> str:
    """Whether words or the length and form of a text make the difference: another of the same form is written too."""
    other = swapped(text, held)
    try:
        _, same, less = change(write(other), plain, held, other)
    except Exception:  # noqa: BLE001 (it refuses that one)
        return "words"
    return "length or form" if (same or less) and set(same) == set(more) else "words"


# --- dates and lengths of conversations --------------------------------------------------------------------------------


def explore_dates(source: str, variables: dict[str, str], name: str, held: str, seconds: float) -> Found:
    """The same conversation on many days and at many hours: what is written beside the date. ``asks``: whether the template looks at
    the clock at all."""
    end, shape = time.monotonic() + seconds, shape_named(name)
    template = Template(source, variables)
    heard: dict[str, None] = {}
    forms: set[str] = set()
    found: Found = {"rendered": 0, "failed": 0, "refused": "", "found": [], "cut": False, "asks": False}

    def write(when: datetime) -> str:
        def now(form: str) -> str:
            forms.add(str(form))
            return Watched(when.strftime(str(form)), heard)

        return template.write(shape.messages(held), shape.ask, **shape.options(held), strftime_now=now)

    try:
        plain = write(NOON)
    except Exception as error:  # noqa: BLE001 (it does not take this conversation)
        return {**found, "refused": shown(f"{type(error).__name__}: {error}", 120)}
    found["rendered"], found["asks"] = 1, bool(forms)
    usual = Counter(words(plain))
    days = [NOON + timedelta(days=d) for d in (*range(1, 8), *range(14, 1500, 27), 2000, 3650, 4600, 9000, -30, -200, -400, -800, -1500, -3000)]
    days += [NOON.replace(hour=hour, minute=minute) for hour in range(24) for minute in (0, 30)]
    for _ in range(2):  # what the dates were held against in the first round is tried in the second
        for when in days if forms else []:
            if time.monotonic() > end:
                return {**found, "cut": True}
            try:
                written = write(when)
            except Exception:  # noqa: BLE001 (it refuses that day)
                found["failed"] += 1
                continue
            found["rendered"] += 1
            got = Counter(words(written))
            more = [w for w in (got - usual).elements() if w not in _date_words(when)]
            less = [w for w in (usual - got).elements() if w not in _date_words(NOON)]
            if (more or less) and len(found["found"]) < MOST_FOUND:
                found["found"].append({
                    "kind": "words", "text": f"{when:%Y-%m-%d %H:%M}", "written": shown(part_that_differs(written, plain)), "more": more[:MOST_WORDS],
                    "less": less[:MOST_WORDS], "count": 1, "by": "the date", "whole": shown(written, 2000), "plain": shown(plain, 2000),
                })  # fmt: skip
        days = [day + timedelta(days=d) for text in heard for form in forms for day in _read(text, form) for d in (-1, 0, 1)]
    return found


def _read(text: str, form: str) -> Iterator[datetime]:
    for each in (form, "%Y-%m-%d", "%Y", "%Y-%m", "%d %b %Y"):
        try:
            yield datetime.strptime(text, each)
        except ValueError:
            continue


def _date_words(when: datetime) -> set[str]:
    parts = {word for form in FORMS for word in words(when.strftime(f"%{form}"))}
    return parts | {part.lstrip("0") for part in parts} | {when.strftime("%Y%m%d")}


def explore_turns(source: str, variables: dict[str, str], name: str, held: str, seconds: float) -> Found:
    """The same conversation one to a hundred times over: words of which the shorter ones have none."""
    end, shape = time.monotonic() + seconds, shape_named(name)
    template = Template(source, variables)
    known: set[str] = set()
    plain = refused = ""
    found: Found = {"rendered": 0, "failed": 0, "refused": "", "found": [], "cut": False}
    for messages in long_talks(shape.messages(held)):
        if time.monotonic() > end:
            return {**found, "cut": True}
        try:
            written = template.write(messages, shape.ask, **shape.options(held))
        except Exception as error:  # noqa: BLE001 (it does not take this conversation)
            found["failed"] += 1
            refused = refused or shown(f"{type(error).__name__}: {error}", 120)
            continue
        found["rendered"] += 1
        more = [word for word in words(re.sub(r"\d", "", written)) if word not in known]
        if found["rendered"] <= 3:
            known |= set(more)
            plain = written
        elif more:
            found["found"].append({
                "kind": "words", "text": f"{len(messages)} messages", "written": shown(part_that_differs(written, plain)), "more": more[:MOST_WORDS],
                "less": [], "count": 1, "by": "the number of turns", "whole": shown(written, 2000), "plain": shown(plain, 2000),
            })  # fmt: skip
            break
    return found if found["rendered"] else {**found, "refused": refused}
