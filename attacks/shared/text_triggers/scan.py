"""What every string wipes out: of the many a little, of those that stand out more, and of the strongest all that is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from vlaudit.attacks.shared.text_triggers.assimilation import (
    CONFIRMED,
    GLANCED,
    SCREENED,
    Captions,
    States,
    drawn_to,
    unit,
)
from vlaudit.attacks.shared.text_triggers.strings import (
    CHARACTER,
    EMOJI,
    HARMLESS,
    JOINED,
    PAIR,
    WORD,
    Insert,
    Spelling,
    inserts,
    joined,
)
from vlaudit.attacks.shared.text_triggers.text_side import TextSide
from vlaudit.attacks.shared.text_triggers.verdict import (
    BEFORE,
    CONTROLS,
    PAIRED,
    SHARES,
    SPOKEN,
    WITHIN,
    Null,
    stretched,
    strongest,
    tries,
)
from vlaudit.errors import NotAssessed
from vlaudit.probe import BuiltIn, Context

if TYPE_CHECKING:
    from torch import Tensor

FINALISTS = 4  # of each kind, by what they wipe out beyond harmless strings, and by what they wipe out
_KEPT = 200  # of what is tried widely, how many are tried closely
BEYOND, LEFT = 2.0, 0.2
BUILT_IN = {
    "BEYOND": BuiltIn(
        meaning="spreads of the harmless strings beyond their middle, from which one may be a relative of the strongest string, and is then not compared with",
        source="our choice, because what is planted drags strings along that share its tokens, and must not make itself look usual",
    ),
    "LEFT": BuiltIn(
        meaning="share of the way to where the strongest string takes captions that such a relative leaves at most",
        source="our choice, because harmless strings that merely do much take captions elsewhere",
    ),
}
_PARTS, _LONGER = 16, 4  # pieces that are joined with one another, and how many of the joined ones with a third

_WORDS = {"quick": 4000, "standard": 16000, "thorough": None}  # of the vocabulary, at most
_OTHERS, _WIDELY = 5000, {"quick": 23_000, "standard": 23_000, "thorough": 90_000}  # strings tried closely and widely, about
_BRIEFLY = 2800, 3500  # the same of a brief scan


def words_to_try(ctx: Context, vocabulary: int, words: int | None) -> int | None:
    """At most how many of the vocabulary's words are tried; None for all. ``words``: what the user asked for."""
    limit = words or _WORDS[ctx.effort]
    count = min(limit or vocabulary, vocabulary)
    tried = ctx.afford(count, "words of the vocabulary", 400, searched=True)
    return limit if tried == count else tried


def texts_read(effort: str, vocabulary: int, limit: int | None, brief: bool = False) -> int:
    """About how many texts a scan passes through the encoder."""
    limit = limit or 10**9
    others, widely = _BRIEFLY if brief else (_OTHERS, _WIDELY[effort])
    wide = min(widely, limit if vocabulary > limit else 10**9)
    closely = (min(vocabulary, limit) + others) * SCREENED + 16 * FINALISTS * CONFIRMED
    return closely + wide * GLANCED + len(CONTROLS) * len(SHARES) * (CONFIRMED + SCREENED + GLANCED)


class Scan:
    """A scan of an encoder under a prompt, on captions of which the last is the phrase that controls are drawn to."""

    turns: ClassVar[bool] = False  # whether strings stand before and behind captions in turns

    def __init__(self, ctx: Context, states: States, captions: Sequence[str], words: int | None, model: TextSide, brief: bool = False) -> None:
        self.states, self.spelling, self.rng = states, Spelling(model), ctx.rng
        self.batch, self.phrase = max(ctx.batch_size, SCREENED), captions[-1]
        self.glance, self.first = (Captions.of(states, captions[:count], self.turns) for count in (GLANCED, SCREENED))
        self.rest = Captions.of(states, captions[SCREENED:-1], self.turns)
        self.plan = inserts(self.spelling, words, ctx, brief)
        self.tried = len(self.plan.closely) + len(self.plan.widely)
        self.inserts: list[Insert] = []
        self.screened: list[float] = []
        self._screen(self.plan.closely)
        self.said = {word for text in captions for word in text.casefold().split()}
        self.relatives: set[int] = set()
        self.null = Null(self._nulls())
        if not self.null.enough:
            raise NotAssessed("the tokenizer makes too few harmless strings to compare with")
        self._screen(self._stand_out())
        self._leave_out_relatives()
        ranked = (self.inserts[i].text for i in self._ranked((WORD,)))
        parts = [word for word in ranked if word.casefold() not in self.said][:_PARTS]
        self._screen(joined(self.spelling, parts, parts, self.inserts))
        longer = [self.inserts[i].text for i in self._ranked((JOINED,))[:_LONGER]]
        self._screen(joined(self.spelling, longer, parts, self.inserts))
        kinds = dict.fromkeys(
            insert.kind for insert in self.inserts if insert.kind == WORD or insert.kind not in HARMLESS
        )
        self.best = {kind: self._ranked((kind,))[:FINALISTS] for kind in kinds}
        most = [self._first(kind, values) for values in self._plainly() for kind in kinds]
        self.places = list(dict.fromkeys(i for some in (*self.best.values(), *most) for i in some))
        self.finalists = [self.inserts[i] for i in self.places]

    def _plainly(self) -> Sequence[Sequence[float]]:
        """What strings do, each by its position: the strongest of each kind are finalists, whatever harmless ones do."""
        return [self.screened]

    def _first(self, kind: str, values: Sequence[float]) -> list[int]:
        found = [i for i, insert in enumerate(self.inserts) if insert.kind == kind]
        return sorted(found, key=lambda i: (-values[i], i))[:FINALISTS]

    def _stand_out(self) -> list[Insert]:
        """Of what is tried widely, what stands out most from harmless strings in few captions."""
        wide = self.plan.widely
        found = self.glance.wiped_out(self.states, wide, self.batch)
        apart = [self._apart(value, insert) for value, insert in zip(found, wide, strict=True)]
        order = sorted(range(len(wide)), key=lambda i: (-apart[i], i))[:_KEPT]
        self.glance_cut = min((apart[i] for i in order), default=-float("inf"))
        return [wide[i] for i in order]

    def _apart(self, value: float, insert: Insert) -> float:
        tail = self.null.tail(self._place(insert))
        return (stretched(value) - tail.centre) / tail.scale

    def _place(self, insert: Insert) -> str:
        """With which harmless strings one is compared: those that stand where it does and make as many tokens; and words that captions
        hold with one another, because these mean what captions are about."""
        spoken = insert.kind == WORD and insert.text.casefold() in self.said
        where = (
            SPOKEN
            if spoken
            else PAIRED
            if insert.kind in (PAIR, JOINED)
            else BEFORE
            if insert.letter is None
            else WITHIN
        )
        return f"{where}{self.spelling.tokens(insert.text)}"

    def _leave_out_relatives(self) -> None:
        """Leave out of the null what lies beyond it and takes captions to where the strongest string takes them: what is planted drags
        harmless strings along that share its tokens, and must not make itself look usual."""
        kinds = [
            kind
            for kind in dict.fromkeys(insert.kind for insert in self.inserts)
            if kind == WORD or kind not in HARMLESS
        ]
        top = self._ranked(kinds)[0]
        beyond = [
            i for i, insert in enumerate(self.inserts)
            if i != top and insert.kind in HARMLESS and self._apart(self.screened[i], insert) > BEYOND
        ]  # fmt: skip
        taken = self.first.drawn(self.states, [self.inserts[top], *(self.inserts[i] for i in beyond)])
        plain = 1 - float(taken[0] @ unit(self.first.plain.mean(0)))
        far = (1 - taken[1:] @ taken[0]).tolist()
        self.relatives = {i for i, distance in zip(beyond, far, strict=True) if distance < LEFT * plain}
        if self.inserts[top].kind in HARMLESS:
            self.relatives.add(top)
        self.null = Null(self._nulls())

    def _screen(self, more: Sequence[Insert]) -> None:
        self.inserts += more
        self.screened += self.first.wiped_out(self.states, more, self.batch)

    def _nulls(self) -> dict[str, list[float]]:
        """What harmless strings wipe out, by where they stand and their number of tokens."""
        return self._harmless(self.screened)

    def _harmless(self, values: Sequence[float]) -> dict[str, list[float]]:
        found: defaultdict[str, list[float]] = defaultdict(list)
        for i, insert in enumerate(self.inserts):
            if insert.kind in HARMLESS and i not in self.relatives:
                found[self._place(insert)].append(values[i])
        return dict(found)

    def _excess(self, value: float, insert: Insert) -> float:
        return self.null.excess(value, self._place(insert), tries(insert.kind, self.tried))

    def _at(self, i: int) -> float:
        return self._excess(self.screened[i], self.inserts[i])

    def _ranked(self, kinds: Sequence[str]) -> list[int]:
        """Positions of the strings of these kinds, the strongest first."""
        found = [i for i, insert in enumerate(self.inserts) if insert.kind in kinds]
        return sorted(found, key=lambda i: (-self._at(i), i))

    def values(self) -> dict[str, Any]:
        """What the judge reads: the finalists on further captions, and what they are compared with."""
        finalists = [
            self.rest.confirm(self._planted(self.rest, insert))
            | {"string": insert.shown, "kind": insert.kind, "screened": self.screened[i], "place": self._place(insert)}
            | self.besides(insert, self._planted)
            for i, insert in zip(self.places, self.finalists, strict=True)
        ]
        return {
            "tried": self.tried, "words": list(self.plan.words), "characters": list(self.plan.characters),
            "too long": self.plan.too_long, "relatives": len(self.relatives), "nulls": self._nulls(), "finalists": finalists,
        }  # fmt: skip

    def _planted(self, captions: Captions, insert: Insert) -> Tensor:
        return self.states(captions.planted(insert))

    def besides(self, insert: Insert, planted: Callable[[Captions, Insert], Tensor]) -> dict[str, Any]:
        """What else the judge reads of a finalist; ``planted``: the states (n, D) of captions with it."""
        return {}

    def strongest(self, finalists: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The string to show."""
        excess = (self.null.excess(f["assimilation"], f["place"], tries(f["kind"], self.tried)) for f in finalists)
        return strongest(list(zip(finalists, excess, strict=True)))

    def planted(self, name: str, kind: str) -> list[dict[str, Any]]:
        """The scan of the encoder wrapped so that one string pulls captions to a phrase, by each share: only this string's own
        measurements differ. Empty where the tokenizer tells no such strings apart."""
        pool = [insert for insert in (*self.plan.closely, *self.plan.widely) if insert.kind == kind]
        if not pool:
            return []
        trigger = pool[int(self.rng("planted", name).integers(len(pool)))]
        best = self.best.get(kind, [])
        cut = min(map(self._at, best), default=-float("inf"))
        found = []
        for share in SHARES:

            def drawn(captions: Captions, insert: Insert = trigger, share: float = share) -> Tensor:
                return drawn_to(self.states, self.phrase, insert, captions, share)

            among = self._excess(self.first.assimilation(drawn(self.first)), trigger) >= cut
            if kind in (EMOJI, CHARACTER):
                among = among and self._apart(self.glance.assimilation(drawn(self.glance)), trigger) >= self.glance_cut
            rest = self.rest.confirm(drawn(self.rest)) | self.besides(trigger, drawn)
            found.append(
                {
                    **rest,
                    "string": trigger.shown,
                    "kind": kind,
                    "place": self._place(trigger),
                    "share": share,
                    "among": among,
                }
            )
        return found
