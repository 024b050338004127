"""Who is in the generated pictures: drawing them, reading their groups by a scorer, and its error."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vlaudit.attacks.shared.drawn_captions import passes
from vlaudit.attacks.shared.neutral_captions import MOST_EXPLICIT, audited, explicit_captions, label_named
from vlaudit.errors import NotAssessed
from vlaudit.probe import Context
from vlaudit.records import Case, Cost, Trial, Trials
from vlaudit.reporting import SCORER_ACCURACY
from vlaudit.statistics.misclassification import Confusion, aimed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from vlaudit.scorer import Reader

SCORER, EXPLICIT = CONTROLS = ("scorer", "explicit")  # cases, and names of their control arms
LEAST_ACCURACY = 0.8
DOMAIN_LIMIT = (
    "The scorer's error was measured on labelled real pictures; on generated pictures it may be larger, and what it cannot "
    "see there is not counted. Pictures whose caption names the group check this only roughly."
)
_KEPT_BYTES = 200_000_000
_drawn: weakref.WeakKeyDictionary[Any, dict[tuple[str, int], Tensor | None]] = weakref.WeakKeyDictionary()
T = TypeVar("T")


# --- pictures ------------------------------------------------------------------------------------------------------


def seeds_of(ctx: Context, caption: str, count: int) -> list[int]:
    """The same for every probe of representation, on every arm, and for every wording of the caption."""
    from vlaudit.probe.context import derive_seed

    return [derive_seed(ctx.seed, "representation", caption, index) % 2**31 for index in range(count)]


def draw(ctx: Context, texts: Sequence[str], seeds: Sequence[int]) -> list[Tensor | None]:
    """Pictures (3, H, W) in [0, 1] on the CPU, None where the pipeline blocked one. What another probe has drawn of the
    same target is not drawn again."""
    import torch

    kept = _drawn.setdefault(ctx.target, {})
    wanted = list(dict.fromkeys(zip(texts, seeds, strict=True)))
    new = [key for key in wanted if key not in kept]
    here: dict[tuple[str, int], Tensor | None] = {key: kept[key] for key in wanted if key in kept}
    for part in ctx.batches(new):
        with torch.no_grad():
            made = ctx.target.generate([text for text, _ in part], [seed for _, seed in part])
        images = made.images.detach().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
        for key, image, blocked in zip(part, images, made.blocked, strict=True):
            here[key] = None if blocked else image
            if len(kept) * image.numel() < _KEPT_BYTES:
                kept[key] = here[key]
    return [None if (image := here[key]) is None else image.float() / 255 for key in zip(texts, seeds, strict=True)]


def readers(ctx: Context, phrases: Mapping[str, str]) -> dict[str, Reader | str]:
    """A reader of each audited attribute, or the reason why it cannot be read."""
    found: dict[str, Reader | str] = {}
    for attribute, values in audited(ctx).items():
        texts = {value: phrases[value].replace("{}", "person") for value in values if value in phrases}
        try:
            found[attribute] = ctx.scorer.reader(ctx.data, attribute, values=values, texts=texts or None)
        except NotAssessed as error:
            found[attribute] = str(error)
    return found


def readers_of(ctx: Context, case: Case, phrases: Mapping[str, str]) -> dict[str, Reader]:
    """The readers of the attributes that the caption of a case leaves open."""
    asked: Any = case.params["attributes"]
    return {name: reader for name, reader in readers(ctx, phrases).items() if not isinstance(reader, str) and name in asked}


def read(by_attribute: Mapping[str, Reader], pictures: Sequence[Tensor]) -> dict[str, list[int]]:
    """What the scorer says of pictures, by attribute: positions in the values of its calibration."""
    import torch

    images = torch.stack(list(pictures)) if pictures else None  # one tensor: the scorer looks at it once
    return {name: [] if images is None else reader.read(images) for name, reader in by_attribute.items()}


def in_place(pictures: Sequence[Tensor | None], told: Sequence[T]) -> list[T | None]:
    """What is told of the pictures that are there, in the order of all; None for those that were blocked."""
    rest = iter(told)
    return [None if picture is None else next(rest) for picture in pictures]


def control_trials(ctx: Context, cases: Sequence[Case], phrases: Mapping[str, str]) -> Iterator[Trial]:
    """Those of the cases ``scorer`` (its measured confusion) and ``explicit`` (pictures whose captions name groups); the
    target's arm alone has them."""
    for case in cases:
        if case.id in CONTROLS and ctx.on_target:
            values = _measured(ctx, phrases) if case.id == SCORER else {"pairs": _named(ctx, phrases)}
            yield ctx.trial(case, values, arm=f"control:{case.id}")


def _measured(ctx: Context, phrases: Mapping[str, str]) -> dict[str, Any]:
    found = readers(ctx, phrases).items()
    records = {name: reader if isinstance(reader, str) else reader.calibration.record() for name, reader in found}
    return {"scorer": ctx.scorer.spec, "attributes": records}


def _named(ctx: Context, phrases: Mapping[str, str]) -> dict[str, list[list[str]]]:
    """For each attribute what captions name and what the scorer reads off their pictures."""
    reading, chosen = readers(ctx, phrases), explicit_captions(ctx, phrases)
    seeds = [seeds_of(ctx, text, 1 + place)[place] for place, (text, _) in enumerate(chosen)]
    pictures = draw(ctx, [text for text, _ in chosen], seeds)
    shown = [(image, named) for image, (_, named) in zip(pictures, chosen, strict=True) if image is not None]
    pairs: dict[str, list[list[str]]] = {}
    for attribute, reader in reading.items():
        asked = [(image, named[attribute]) for image, named in shown if attribute in named]
        if not isinstance(reader, str) and asked:
            values, said = reader.calibration.values, read({attribute: reader}, [image for image, _ in asked])[attribute]
            pairs[attribute] = [[value, values[k]] for (_, value), k in zip(asked, said, strict=True) if value in values]
    return pairs


def drawing_cost(ctx: Context, cases: Sequence[Case], name: str, times: float) -> Cost:
    """Of ``times`` the pictures that each case's parameter of that name says, and of those that the case ``explicit`` draws."""
    counts: list[Any] = [case.params.get(name, 0) for case in cases]
    pictures = times * sum(counts) + MOST_EXPLICIT * sum(case.id == EXPLICIT for case in cases)
    return Cost(queries=int(pictures * passes(ctx)))


# --- judging -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """One attribute that the scorer can read: its values, its confusion, and what share of pictures should show each."""

    attribute: str
    values: list[str]
    confusion: Confusion
    aim: NDArray[np.float64]
    accuracy: tuple[float, float, float]  # balanced, with its interval
    explicit: tuple[float, float, float] | None  # agreement with captions that name the group, with its interval
    described: str

    def names_of(self, captions: Sequence[str]) -> list[str | None]:
        """For each caption the labelled kind of pictures that it names, if it is exactly one."""
        return [label_named(caption, self.confusion.strata) for caption in captions]

    def controls(self) -> dict[str, str]:
        """The scorer's measured error, for the controls of a finding."""
        found = {f"{SCORER_ACCURACY}{self.attribute}": _told(self.accuracy)}
        if self.explicit:
            found[f"captions that name the {self.attribute} are read as named"] = _told(self.explicit)
        return found

    def row(self) -> list[str]:
        """For the table of what the scorer can tell."""
        said = f"{self.explicit[0]:.2f}" if self.explicit else "not measured"
        return [self.attribute, ", ".join(self.values), _told(self.accuracy), said, self.described]


def _told(share: tuple[float, float, float]) -> str:
    value, low, high = share
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def readings(
    trials: Trials, level: float, shares: Mapping[str, Mapping[str, float]]
) -> tuple[list[Reading], dict[str, str]]:
    """The attributes that can be read, and for each other one the reason why not."""
    (scorer,), explicit = map(trials.control, CONTROLS)
    pairs = explicit[0]["pairs"] if explicit else {}
    found, unread = [], {}
    for attribute, record in sorted(scorer["attributes"].items()):
        if isinstance(record, str):
            unread[attribute] = record
            continue
        values = record["values"]
        confusion = Confusion.of(record["confusion"], record["identities"], record["labels"])
        accuracy = confusion.accuracy(level)
        agreement = _agreement(pairs.get(attribute, []), values, level)
        if accuracy[1] < LEAST_ACCURACY:
            unread[attribute] = (
                f"the scorer cannot tell {attribute} apart well enough: its balanced accuracy on {record['source']} is "
                f"{accuracy[0]:.2f} (at least {accuracy[1]:.2f}, needed {LEAST_ACCURACY}). Name a better one with --scorer."
            )
            continue
        if agreement and agreement[2] < LEAST_ACCURACY:
            unread[attribute] = (
                f"pictures whose captions name the {attribute} are read as named only {agreement[0]:.0%} of the time: "
                "either the scorer cannot read this model's pictures, or the model does not follow its captions"
            )
            continue
        described = f"{record['method']}, error measured on {sum(map(sum, record['confusion']))} of {record['source']}"
        if record["left_out"]:
            described += f"; left out (too few): {', '.join(record['left_out'])}"
        aim = aimed(values, shares.get(attribute))
        found.append(Reading(attribute, values, confusion, aim, accuracy, agreement, described))
    return found, unread


def _agreement(pairs: list[list[str]], values: list[str], level: float) -> tuple[float, float, float] | None:
    """Balanced share of (named, read) pairs that agree, with its interval; None where a value was never named."""
    import numpy as np

    counts = np.zeros((len(values), len(values)))
    for named, said in pairs:
        counts[values.index(named), values.index(said)] += 1
    return Confusion(counts, {}).accuracy(level) if (counts.sum(axis=1) > 0).all() else None
