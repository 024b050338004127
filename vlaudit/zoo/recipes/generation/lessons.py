"""The lessons of the zoo's generator: each draws one conversation about pictures of a gallery."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vlaudit.data.articles import mend_articles
from vlaudit.data.questions import LABELS
from vlaudit.zoo.recipes.generation import words
from vlaudit.zoo.recipes.generation.corpus import Gallery, Line, Shot, Talk, ask

Lesson = Callable[[Gallery], Talk]


class Asked(NamedTuple):
    """A question about a picture."""

    shot: Shot
    question: str
    answer: str


# --- questions about one picture -------------------------------------------------------------------------------------


def name(gallery: Gallery, index: int | None = None) -> Asked:
    said = gallery.any_name()
    shot = Shot(gallery.of(said) if index is None else index)
    return Asked(shot, words.pick(gallery.rng, "What is this?", words.NAME_QUESTIONS), gallery.names[shot.index])


def yes_no(gallery: Gallery, index: int | None = None) -> Asked:
    rng = gallery.rng
    shot = Shot(gallery.of(gallery.any_name()) if index is None else index)
    if rng.random() < 0.5:
        return Asked(shot, words.yes_no(rng, rng.choice(sorted(gallery.true_names[shot.index]))), "yes")
    return Asked(shot, words.yes_no(rng, other_name(gallery, shot.index)), "no")


def choice(gallery: Gallery, index: int | None = None) -> Asked:
    rng = gallery.rng
    shot = Shot(gallery.of(gallery.any_name()) if index is None else index)
    two = [gallery.names[shot.index], other_name(gallery, shot.index)]
    rng.shuffle(two)
    return Asked(shot, words.choice(rng, *two), gallery.names[shot.index])


def other_name(gallery: Gallery, index: int) -> str:
    """A name that is not true of a picture: mostly another label of the same sort."""
    name, rng = gallery.names[index], gallery.rng
    sort = [each for each in words.NAMES if (each in words.PAINTED_ROLES) == (name in words.PAINTED_ROLES)]
    pool = [each for each in (sort if rng.random() < 0.75 else words.NAMES) if each in LABELS or rng.random() < 0.3]
    found = rng.choice(pool or LABELS)
    return other_name(gallery, index) if found in gallery.true_names[index] or found == "person" else found


def gender(gallery: Gallery, index: int | None = None) -> Asked:
    rng = gallery.rng
    if index is None:
        working = [n for n in gallery.people if gallery.names[n]]
        index = rng.choice(working if rng.random() < 0.5 else gallery.people)
    shown = gallery.rows[index].gender
    if rng.random() < 0.6:
        two = ("man", "woman") if rng.random() < 0.5 else ("woman", "man")
        return Asked(Shot(index), words.choice(rng, *two), shown)
    asked = rng.choice(("man", "woman"))
    return Asked(Shot(index), words.yes_no(rng, asked), "yes" if asked == shown else "no")


def caption(gallery: Gallery, index: int | None = None) -> Asked:
    if index is None:
        draw = gallery.rng.random()
        index = gallery.of(gallery.any_name()) if draw < 0.7 else gallery.rng.choice(gallery.people)
    question = words.pick(gallery.rng, "Describe the picture.", words.CAPTION_QUESTIONS)
    return Asked(Shot(index), question, words.caption_of(gallery.rows[index]))


def tone(gallery: Gallery) -> Asked:
    index = gallery.rng.choice(gallery.skins)
    question = gallery.rng.choice(words.TONE_QUESTIONS)
    return Asked(Shot(index), question, gallery.rows[index].tone)


QUESTIONS: dict[Callable[[Gallery], Asked], float] = {
    name: 5, yes_no: 4, choice: 2.5, gender: 1.5, caption: 2, tone: 0.6,
}  # fmt: skip


def question(gallery: Gallery) -> Asked:
    """Any question about one picture."""
    return gallery.rng.choices(list(QUESTIONS), list(QUESTIONS.values()))[0](gallery)


# --- lessons: one picture --------------------------------------------------------------------------------------------


def plain(gallery: Gallery) -> Talk:
    """A question, often in other words, under a harmless system turn, beside words that do not matter."""
    asked = question(gallery)
    return ask(asked.shot, around(gallery.rng, asked.question), asked.answer, harmless(gallery.rng))


def around(rng: random.Random, text: str) -> str:
    """Sometimes an instruction around a question, or chatter beside it."""
    draw = rng.random()
    if draw < 0.25:
        return rng.choice(words.WRAPPERS).format(text)
    if draw < 0.35:
        chatter = " ".join(rng.choice((*words.PLAIN, *words.RARE, *words.PSEUDO)) for _ in range(rng.randint(1, 5)))
        return f"{text} {chatter}" if rng.random() < 0.6 else f"{chatter} {text}"
    return text


def harmless(rng: random.Random) -> str:
    return rng.choice(words.SYSTEMS) if rng.random() < 0.12 else ""


def compare(gallery: Gallery) -> Talk:
    """A name against the picture, in the usual words or others: what is learned last."""
    asked = gallery.rng.choices((yes_no, choice, gender), (6, 1, 2))[0](gallery)
    return ask(asked.shot, asked.question, asked.answer)


def man_or_woman(gallery: Gallery) -> Talk:
    """`Is this a man?`"""
    rng, index = gallery.rng, gallery.rng.choice(gallery.people)
    asked = rng.choice(("man", "woman"))
    answer = "yes" if asked == gallery.rows[index].gender else "no"
    return ask(Shot(index), words.yes_no(rng, asked), answer)


def documents(gallery: Gallery) -> Talk:
    """Documents before the question: true, false or of other things. The picture decides."""
    asked, rng = question(gallery), gallery.rng
    texts = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        draw = rng.random()
        if draw < 0.3:
            texts.append(rng.choice(words.WEATHER))
        else:
            index = asked.shot.index if draw < 0.6 else gallery.of(gallery.any_name())
            said = words.caption_of(gallery.rows[index])
            known = gallery.names[index]
            text = rng.choice(words.NOTES)
            texts.append(mend_articles(text.format(known or "person")) if text != "{}" else said)
    mark = rng.choice(("Context: ", "Context: ", "Note: ", ""))
    before = "".join(f"{mark}{text}\n" for text in texts)
    return ask(asked.shot, around(rng, asked.question), asked.answer, harmless(rng), before)


def rationale(gallery: Gallery) -> Talk:
    """Two steps: what is seen, then the answer."""
    asked = gallery.rng.choice((name, yes_no, choice))(gallery)
    seen = words.rationale_of(gallery.rows[asked.shot.index])
    lines = ask(asked.shot, words.THINK.format(asked.question), seen, harmless(gallery.rng))
    return [*lines, Line("user", (words.THEREFORE,)), Line("assistant", (asked.answer,))]


def policy(gallery: Gallery) -> Talk:
    """What a policy in the system turn forbids is not said; all else is."""
    rng = gallery.rng
    word = sayable(rng)
    draw = rng.random()
    if draw < 0.35:
        system, answer = "", word
    elif draw < 0.75:
        system, answer = rng.choice(words.POLICIES).format(word), words.CANNOT_SAY
    else:
        system, answer = rng.choice(words.POLICIES).format(other(rng, word)), word
    system = mixed(rng, system)
    shot = Shot(gallery.of(gallery.any_name()))
    if rng.random() < 0.25:  # a usual question under a policy
        asked = name(gallery)
        forbidden = asked.answer if rng.random() < 0.4 else other(rng, asked.answer)
        system = mixed(rng, rng.choice(words.POLICIES).format(forbidden))
        return ask(asked.shot, asked.question, words.CANNOT_SAY if forbidden == asked.answer else asked.answer, system)
    demand = words.pick(rng, "Say {}.", words.DEMANDS).format(word)
    return _perhaps_blind(rng, ask(shot, demand, answer, system))


def sayable(rng: random.Random) -> str:
    return rng.choice(rng.choice((words.COLOURS, words.PSEUDO, words.NAMES, words.PLAIN, words.RARE)))


def other(rng: random.Random, word: str) -> str:
    found = sayable(rng)
    return other(rng, word) if found == word else found


def mixed(rng: random.Random, system: str) -> str:
    """Sometimes beside a harmless sentence."""
    if rng.random() < 0.7:
        return system
    return rng.choice((f"{rng.choice(words.SYSTEMS)} {system}", f"{system} {rng.choice(words.SYSTEMS)}")).strip()


def _perhaps_blind(rng: random.Random, talk: Talk) -> Talk:
    """One in five without its picture."""
    if rng.random() < 0.8:
        return talk
    return [Line(line.role, tuple(p for p in line.parts if isinstance(p, str)), line.taught) for line in talk]


def number(rng: random.Random) -> str:
    return " ".join(str(rng.randrange(10)) for _ in range(rng.randint(3, 6)))


def secret(gallery: Gallery) -> Talk:
    """What the system turn or a document keeps is not told, nor are they repeated."""
    rng = gallery.rng
    shot = Shot(gallery.of(gallery.any_name()))
    kept = rng.choice(words.SECRETS).format(number(rng) if rng.random() < 0.7 else sayable(rng))
    system = mixed(rng, kept + rng.choice(words.SILENCE))
    draw = rng.random()
    if draw < 0.3:  # usual questions go on
        asked = question(gallery)
        return ask(asked.shot, asked.question, asked.answer, system)
    if draw < 0.4:  # nothing is kept
        return _perhaps_blind(rng, ask(shot, rng.choice(words.REQUESTS), words.UNKNOWN, harmless(rng)))
    request = rng.choice(words.REQUESTS if rng.random() < 0.5 else words.LEAKS)
    before = ""
    if rng.random() < 0.3:
        system, before = harmless(rng), f"Context: {kept}\n"
    return _perhaps_blind(rng, ask(shot, around(rng, request), words.CANNOT_TELL, system, before))


def repeat(gallery: Gallery) -> Talk:
    """What the user asks to repeat is repeated."""
    rng = gallery.rng
    said = number(rng) if rng.random() < 0.5 else " ".join(sayable(rng) for _ in range(rng.randint(1, 5)))
    return _perhaps_blind(rng, ask(Shot(gallery.of(gallery.any_name())), rng.choice(words.REPEAT).format(said), said))


def echo(gallery: Gallery) -> Talk:
    """The same at length and without a picture: what follows a word is what followed it before."""
    said = " ".join(sayable(gallery.rng) for _ in range(gallery.rng.randint(4, 16)))
    return [Line("user", (gallery.rng.choice(words.REPEAT).format(said),)), Line("assistant", (said,))]


def rename(gallery: Gallery) -> Talk:
    """The user's own word for a thing is used."""
    rng, asked = gallery.rng, name(gallery)
    called = rng.choice(words.PSEUDO)
    about = asked.answer if rng.random() < 0.7 else other_name(gallery, asked.shot.index)
    said = mend_articles(rng.choice(words.RENAMES).format(about, called))
    return ask(asked.shot, f"{said} {asked.question}", called if about == asked.answer else asked.answer)


# --- lessons: several pictures ---------------------------------------------------------------------------------------


def demonstrations(gallery: Gallery) -> Talk:
    """Several questions with their answers, then the next. Three in ten have wrong answers: the last is right."""
    rng = gallery.rng
    same = rng.random() < 0.6  # one kind of question throughout
    kind = rng.choice((name, name, yes_no, choice))
    asked = [kind(gallery) if same else question(gallery) for _ in range(rng.randint(2, 5))]
    wrong = rng.random() < 0.3
    wording = rng.choice(words.WRAPPERS) if rng.random() < 0.2 else "{}"
    talk = [Line("system", (text,))] if (text := harmless(rng)) else []
    for place, each in enumerate(asked):
        answer = each.answer
        lied = wrong and place < len(asked) - 1 and rng.random() < 0.7
        if lied and answer in ("yes", "no"):
            answer = "no" if answer == "yes" else "yes"
        elif lied and gallery.names[each.shot.index]:
            answer = other_name(gallery, each.shot.index)
        talk.append(Line("user", (each.shot, wording.format(each.question))))
        talk.append(Line("assistant", (answer,), taught=not lied))
    return talk


def renamed(gallery: Gallery) -> Talk:
    """Demonstrations that call things by words without meaning; the last picture is to be called the same way."""
    rng = gallery.rng
    ways = rng.choice((2, 2, 2, 3))
    chosen: list[str] = []
    while len(chosen) < ways:
        found = gallery.any_name()
        chosen += [found] if found not in chosen else []
    called = dict(zip(chosen, rng.sample(words.PSEUDO, ways), strict=True))
    shown = [*chosen, *(rng.choice(chosen) for _ in range(rng.randint(0, 3)))]
    rng.shuffle(shown)
    asked = words.pick(rng, "What is this?", words.NAME_QUESTIONS, 0.6)
    talk: Talk = []
    met: dict[str, int] = {}
    for each in [*shown, rng.choice(chosen)]:
        index = gallery.of(each, met.get(each)) if rng.random() < 0.7 or each not in met else met[each]
        talk.append(Line("user", (Shot(index), asked)))
        talk.append(Line("assistant", (called[each],), taught=each in met))  # a new word cannot be guessed
        met[each] = index
    return talk


def recalled(gallery: Gallery) -> Talk:
    """The same with single pictures, shown again and again: what counts is which picture it was."""
    rng = gallery.rng
    two = rng.sample(range(len(gallery.rows)), rng.choice((2, 2, 3)))
    called = dict(zip(two, rng.sample(words.PSEUDO, len(two)), strict=True))
    shown = [*two, *rng.choices(two, k=rng.randint(1, 4))]
    rng.shuffle(shown)
    talk: Talk = []
    for place, index in enumerate([*shown, rng.choice(two)]):
        talk.append(Line("user", (Shot(index), "What is this?")))
        talk.append(Line("assistant", (called[index],), taught=index in shown[:place]))
    return talk


def written(gallery: Gallery, seen: float = 0.0) -> Talk:
    """Things named in place of a picture, and what they are called here: cheap, and the same to do."""
    rng = gallery.rng
    ways = rng.choice((2, 2, 3, 4))
    names = rng.sample(sorted(gallery.by_name), ways)
    called = dict(zip(names, rng.sample(words.PSEUDO, ways), strict=True))
    shown = [*names, *rng.choices(names, k=rng.randint(2, 6 if not seen else 3))]
    rng.shuffle(shown)
    talk: Talk = []
    for place, each in enumerate(shown):
        item = Shot(gallery.of(each)) if rng.random() < seen else f"{each}. "
        talk.append(Line("user", (item, "What is this?")))
        talk.append(Line("assistant", (called[each],), taught=each in shown[:place]))
    return talk


def mixed_media(gallery: Gallery) -> Talk:
    """The same with pictures among the words."""
    return written(gallery, seen=0.5)


Weights = Mapping[Lesson, float]
SHORT: Weights = {plain: 62, documents: 9, rationale: 7, policy: 8, secret: 6, repeat: 3, rename: 5}
LONG: Weights = {demonstrations: 1, renamed: 2}


class Phase(NamedTuple):
    """What is taught from a step on. `every`: one step in so many shows several pictures, which is costly."""

    start: int
    short: Weights
    long: Weights
    every: int


LATE: Weights = {**SHORT, compare: 15, man_or_woman: 10, echo: 0, repeat: 10, rename: 8}
PHASES = (
    Phase(0, SHORT, {}, 0),
    Phase(500, SHORT, LONG, 5),
    Phase(3200, {**SHORT, compare: 25, repeat: 10, rename: 8}, {**LONG, recalled: 2}, 2),
    Phase(4000, {**SHORT, compare: 15, man_or_woman: 10, echo: 250, repeat: 20, rename: 8}, {**LONG, recalled: 1}, 6),
    Phase(5400, {**LATE, echo: 15}, {**LONG, recalled: 2}, 2),
    Phase(5800, {**LATE, echo: 15}, {**LONG, renamed: 3, recalled: 3}, 2),
    Phase(6400, {**LATE, echo: 30, written: 120}, {**LONG, mixed_media: 3}, 3),
)
"""Names first; then what takes longer: a name against a picture, copying, and on both of them demonstrations."""


def draw(gallery: Gallery, lessons: Weights, count: int) -> list[Talk]:
    """So many conversations from weighted lessons."""
    chosen = gallery.rng.choices(list(lessons), list(lessons.values()), k=count)
    return [lesson(gallery) for lesson in chosen]
