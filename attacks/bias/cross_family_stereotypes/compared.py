"""From trials to what each target does with the groups under each label, and to every two targets side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from vlaudit.attacks.bias.cross_family_stereotypes.leanings import DRAWS, Rates, Row, both, reader_rates, rows_of
from vlaudit.attacks.shared.asked_pictures import guesswork
from vlaudit.attacks.shared.concentrated import each
from vlaudit.attacks.shared.groups import listed
from vlaudit.attacks.shared.scorer_readings import fate, readings_of
from vlaudit.probe import Policy, ProbeInfo
from vlaudit.records import Trial, Trials
from vlaudit.statistics import rate_interval
from vlaudit.statistics.misclassification import AIMED, corrected, on_simplex, share_draws

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pair:
    """Two targets of different models, and one attribute."""

    attribute: str
    names: tuple[str, str]
    sides: tuple[Mapping[str, Rates], Mapping[str, Rates]]
    reads: tuple[bool, bool]  # whether each is a reader
    n: int  # pictures of the one of which there are fewer
    drawn: int | None
    rows: list[Row]

    @property
    def named(self) -> str:
        return f"'{self.names[0]}' and '{self.names[1]}'"

    @property
    def people(self) -> bool:
        return all(self.reads)

    @property
    def worst(self) -> str:
        return str(max(self.rows[1:], key=lambda row: row.value).label)

    def poles(self, label: str) -> tuple[str, str]:
        """The group that both favour most under a label, and the one that both favour least."""
        import numpy as np

        mine, theirs = next((a, b) for name, a, b in both(*self.sides) if name == label)
        centred = np.stack([side.value - side.value.mean() for side in (mine, theirs)])
        return mine.groups[int(centred.min(axis=0).argmax())], mine.groups[int(centred.max(axis=0).argmin())]

    def said(self, row: Row) -> str:
        label = row.label or self.worst
        more, less = self.poles(label)
        mine, theirs = (self._does(i, label, more, less) for i in range(2))
        largest = "" if row.label else f", and largest under '{label}'"
        return f"the shared lean {where(row)} on {self.attribute} is {row.value:.3f}{largest}: there {mine}, and {theirs}"

    def _does(self, i: int, label: str, more: str, less: str) -> str:
        first, second = (_percent(self.sides[i][label], group) for group in (more, less))
        if self.reads[i]:
            return f"'{self.names[i]}' reads {first} of the pictures of '{more}' rightly and {second} of those of '{less}'"
        return f"'{self.names[i]}' draws '{more}' in {first} of its pictures and '{less}' in {second}"


def _percent(rates: Rates, group: str) -> str:
    return f"{float(rates.value[rates.groups.index(group)]):.0%}"


def where(row: Row) -> str:
    return "on average over labels" if row.label is None else f"under '{row.label}'"


@dataclass
class Found:
    """Rates by label of each target and attribute, and what was not seen."""

    rates: dict[tuple[str, str], Mapping[str, Rates]] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    drawn: list[Trial] = field(default_factory=list)
    each: int | None = None  # pictures that a pipeline drew of a label
    controls: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)  # what was not seen, and why

    @classmethod
    def of(cls, trials: Trials, info: ProbeInfo, policy: Policy) -> Found:
        found = cls()
        found.drawn = [trial for trial in trials.target if "said" in trial.values]
        found._read([trial for trial in trials.target if "right" in trial.values], info, policy)
        for name in dict.fromkeys(trial["name"] for trial in found.drawn):
            found._draw(name, trials, info, policy)
        found._name_gaps()
        return found

    def unseen(self) -> str:
        if not self.lost:
            return ""
        named = [f"{name} ({why})" for name, why in self.lost.items()]
        return f"; not seen: {listed(named)}"

    def pairs(self) -> Iterator[Pair]:
        attributes = dict.fromkeys(attribute for _, attribute in self.rates)
        for attribute in attributes:
            names = [name for name, of in self.rates if of == attribute]
            for one, other in combinations(names, 2):
                if self.models[one] != self.models[other]:
                    sides = self.rates[one, attribute], self.rates[other, attribute]
                    reads = one in self.readers, other in self.readers
                    n = min(self.counts[one, attribute], self.counts[other, attribute])
                    yield Pair(attribute, (one, other), sides, reads, n, self.each, rows_of(*sides))

    def _name_gaps(self) -> None:
        """What one target shows and another does not was not compared: a whole attribute, or single labels."""
        for attribute in dict.fromkeys(attribute for _, attribute in self.rates):
            labels = dict.fromkeys(label for (_, of), rates in self.rates.items() if of == attribute for label in rates)
            for name in [name for name in self.models if f"'{name}'" not in self.lost]:
                rates = self.rates.get((name, attribute), {})
                if missing := [label for label in labels if label not in rates]:
                    which = f"under {listed([repr(label) for label in missing])}" if rates else "under every label"
                    self.lost.setdefault(f"{attribute} of '{name}' {which}", "it says nothing there")

    def _read(self, trials: Sequence[Trial], info: ProbeInfo, policy: Policy) -> None:
        """The rates of all readers that are shown to read, with all readers looked at, and rightly often enough for a lean to show."""
        if not trials:
            return
        labels, names = [t["label"] for t in trials], trials[0]["names"]
        self.models |= dict(zip(names, trials[0]["models"], strict=True))
        kept, level, gap = [], each(policy.level, len(names)), policy.threshold(info) ** 0.5  # a gap in both, of which the lean is the product
        for i, name in enumerate(names):
            right = [bool(t["right"][i]) for t in trials]
            self.facts[f"read rightly by {name}"] = f"{sum(right)} of {len(right)}"
            if guesswork(labels, right, level):
                self.lost[f"'{name}'"] = "it is not shown to read pictures better than chance"
            elif 2 * rate_interval(sum(right), len(right), level).low < gap:  # of two groups it might know one alone
                self.lost[f"'{name}'"] = f"it reads too few pictures rightly for a gap of {gap:.2f} between groups to show"
            else:
                kept.append(i)
        if not kept:
            return
        for attribute in trials[0]["groups"]:
            cells = self._cells(trials, attribute, kept, policy.threshold(info, "least-people"))
            if not cells:
                continue
            pictures = sum(bool(t["groups"].get(attribute)) for t in trials)
            for i, rates in zip(kept, reader_rates(cells, seed=1), strict=True):
                self.rates[names[i], attribute], self.counts[names[i], attribute] = rates, pictures
                self.readers.add(names[i])

    def _cells(self, trials: Sequence[Trial], attribute: str, kept: Sequence[int], least: float) -> dict[str, dict[str, np.ndarray]]:
        """By label and group the shares (people, readers) of pictures that are read rightly."""
        import numpy as np

        people: dict[tuple[str, str], dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
        for t in trials:
            if value := t["groups"].get(attribute):
                people[t["label"], value][t["identity"]].append([float(t["right"][i]) for i in kept])
        values = sorted({value for _, value in people})
        cells: dict[str, dict[str, np.ndarray]] = {}
        for label in dict.fromkeys(t["label"] for t in trials):
            few = [value for value in values if len(people.get((label, value), ())) < least]
            if few and any(people.get((label, value)) for value in values):
                self.lost[f"{attribute} {listed([repr(value) for value in few])} under '{label}'"] = "too few people"
            groups = {value: np.array([np.mean(rows, axis=0) for rows in people[label, value].values()]) for value in values if value not in few}
            if len(groups) > 1:
                cells[label] = groups
        return cells

    def _draw(self, name: str, trials: Trials, info: ProbeInfo, policy: Policy) -> None:
        """The rates of a pipeline: shares of groups, corrected for the scorer's error."""
        import numpy as np

        scorer, explicit = ([t for t in trials.control(arm) if t["name"] == name] for arm in ("scorer", "explicit"))
        readings, unread = readings_of(scorer[0]["attributes"] if scorer else {}, explicit[0]["pairs"] if explicit else {}, info, policy, {})
        self.lost |= {f"{attribute} drawn by '{name}'": why for attribute, why in unread.items()}
        own = [t for t in self.drawn if t["name"] == name]
        self.models[name] = own[0]["model"]
        for t in own:
            seen = len(t["shows"])
            self.each = max(self.each or 0, seen + t["blocked"])
            if why := fate(seen, t["blocked"], t["shows"], info, policy):
                self.lost[f"“{t['caption']}” of '{name}'"] = why
        kept = [t for t in own if not fate(len(t["shows"]), t["blocked"], t["shows"], info, policy)]
        for one in readings:
            of = [t for t in kept if len(t["said"].get(one.attribute, ())) > 1]
            if not of:
                continue
            captions, size = [t["caption"] for t in of], len(one.values)
            counts = np.array([np.bincount(t["said"][one.attribute], minlength=size) for t in of], dtype=float)
            confusions = one.draws(DRAWS, captions, np.random.default_rng(2))
            draws = on_simplex(share_draws(counts, confusions, one.aim, AIMED, np.random.default_rng(3)))
            value = corrected(counts, one.rates_of(captions))
            self.rates[name, one.attribute] = {t["label"]: Rates(tuple(one.values), value[m], draws[:, m]) for m, t in enumerate(of)}
            self.counts[name, one.attribute] = int(counts.sum())
            self.controls |= {f"{name}: {what}": told for what, told in one.controls().items()}
            if one.left_out:
                self.lost[f"{one.attribute} {listed(one.left_out)} drawn by '{name}'"] = "too few labelled pictures"
