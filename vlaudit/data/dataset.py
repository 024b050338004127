"""Data sets to audit on: a folder in the Hugging Face ImageFolder convention, or a bundled set.

    DIR/cat/1.png, DIR/dog/2.png              a folder a label
    DIR/train/cat/1.png, DIR/test/cat/2.png   the same, with splits
    DIR/metadata.csv or metadata.jsonl        rows with file_name and any of label, text, question, answer, choices,
                                              pair, and attribute columns; also inside DIR/train and DIR/test

``choices`` are a JSON list, or separated by ``|``; two rows with the same ``pair`` are each other's counterfactuals.
Where metadata has no label column, the folder that a file lies in is its label. Pictures are opened when they are asked
for; the order of the examples depends on the names alone. Only what the metadata lists is used; pictures that are left
out are counted, and said.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from vlaudit.data.bundled import read_bundled
from vlaudit.data.example import Example
from vlaudit.data.folder import METADATA, read_folder
from vlaudit.data.images import DataError, StoredPicture
from vlaudit.data.left_out import Omissions, left_out
from vlaudit.data.sifting import sift
from vlaudit.data.text_files import look_alikes
from vlaudit.errors import VlauditWarning, did_you_mean

_YES, _NO = {"1", "true", "yes", "member"}, {"0", "false", "no", "non-member", "nonmember"}


@dataclass(frozen=True)
class Dataset:
    """Examples in a fixed order. ``groups`` are the attribute columns that an audit compares."""

    source: str
    examples: list[Example]
    groups: tuple[str, ...] = ()
    own_captions: tuple[str, ...] | None = None  # of --prompts; else the pictures' own are audited
    notes: tuple[str, ...] = ()  # sentences on what lies beside the examples and was left out
    unread: Counter[str] = field(default_factory=Counter)  # pictures that could not be read, by label; "" where that is not known
    unlisted: int = 0  # pictures beside the examples that have no row in the metadata, or lie outside the folders of the labels

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def unread_share(self) -> float:
        """The greatest share of pictures that could not be read: of all, or of those of one label."""
        read = Counter(example.label or "" for example in self.examples)
        shares = [count / (count + read[label]) for label, count in self.unread.items() if label in read]
        return max([*shares, self.unread.total() / (self.unread.total() + len(self))]) if self.unread else 0.0

    @property
    def unlisted_share(self) -> float:
        """The share of all pictures of which nothing is said."""
        return self.unlisted / (self.unlisted + len(self)) if self.unlisted else 0.0

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """The distinct texts to draw pictures from, in order: those of ``--prompts``, else what the audit's pictures
        say (their ``text``, else their label)."""
        if self.own_captions is not None:
            return self.own_captions
        said = (example.texts.get("text") or example.label or "" for example in self.audit)
        return tuple(dict.fromkeys(text for text in said if text))

    @property
    def captioned(self) -> list[Example]:
        """The pictures with a ``text``: what a text-to-image model may have been trained on."""
        return [example for example in self.examples if example.texts.get("text")]

    @property
    def questions(self) -> list[Example]:
        """The pictures to ask about whose right answer is known."""
        return [example for example in self.audit if example.answer]

    @cached_property
    def pairs(self) -> list[tuple[Example, Example]]:
        """Counterfactuals: two examples of the audit with the same ``pair``, in their order. Raises DataError."""
        found: dict[str, list[Example]] = {}
        for example in self.audit:
            if example.texts.get("pair"):
                found.setdefault(example.texts["pair"], []).append(example)
        for name, members in found.items():
            if len(members) != 2:
                raise DataError(
                    f"The pair '{name}' of the data '{self.source}' has {len(members)} members to be audited.",
                    "A pair is two rows with the same value in the column pair.",
                )
        return [(first, second) for first, second in found.values()]

    @cached_property
    def labels(self) -> list[str]:
        """The labels that occur, sorted."""
        return sorted({example.label for example in self.examples if example.label is not None})

    @property
    def has_members(self) -> bool:
        """Whether both members and non-members are declared."""
        return {True, False} <= {example.member for example in self.examples}

    @cached_property
    def audit(self) -> list[Example]:
        """The examples to measure behaviour on: not what the prompt learned from. Members are left out, and so is all
        but the ``test`` split where there is one; if nothing remains, all examples."""
        split = "test" if any(example.split == "test" for example in self.examples) else None
        kept = [e for e in self.examples if e.member is not True and (split is None or e.split == split)]
        return kept or self.examples

    def audits_as(self, other: Dataset) -> bool:
        """Whether both audit the same pictures, whatever prompts have learned from the others."""
        return self is other or (self.source, self.groups, self._audited) == (other.source, other.groups, other._audited)

    @cached_property
    def _audited(self) -> list[tuple[object, ...]]:
        return [(e.id, e.label, e.attributes, e.texts) for e in self.audit]

    def with_member_hashes(self, hashes: Sequence[str]) -> Dataset:
        """Declare as members the examples with one of these hashes (of file bytes or of pixels), the others as
        non-members. Unchanged where no example matches."""
        wanted = {value.lower() for value in hashes}
        found = [example.sha256() in wanted for example in self.examples]
        if sum(found) < len(wanted):  # decode only where the files' own hashes don't account for all of them
            found = [hit or e.pixel_sha256() in wanted for hit, e in zip(found, self.examples, strict=True)]
        if not any(found):
            return self
        return replace(self, examples=[replace(e, member=m) for e, m in zip(self.examples, found, strict=True)])

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of names, labels, attributes and file sizes; it opens no picture."""
        digest = hashlib.sha256()
        for e in self.examples:
            size = e.size if isinstance(e.picture, Path | StoredPicture) else hashlib.sha256(e.picture.tobytes()).hexdigest()
            digest.update(json.dumps([e.id, e.label, e.split, e.attributes, e.texts, e.member, size]).encode())
        if self.own_captions is not None:
            digest.update(json.dumps(self.own_captions).encode())
        return digest.hexdigest()


def load_dataset(
    source: str | Path, groups: Sequence[str] = (), members: str | None = None, columns: Mapping[str, str] | None = None
) -> Dataset:
    """Read a data set: a folder, a bundled set ``zoo:NAME``, one of the package datasets ``hf:…``, or shards ``wds:…``.

    ``groups``: attribute columns to compare. ``members``: ``train`` (that split against the others) or a column of
    yes and no. ``columns``: by the name that it has here (``image``, ``label`` …), the data's own name of a column. Raises
    DataError, one sentence for whatever is wrong.
    """
    name = str(source)
    examples, omitted = _read(name, columns or {})
    notes = omitted.notes
    notes += look_alikes(sorted({example.label for example in examples if example.label is not None}), name)
    for note in notes:
        warnings.warn(note, VlauditWarning, stacklevel=2)
    known = sorted({column for example in examples for column in example.attributes})
    for group in groups:
        if group not in known:
            raise DataError(
                f"The data '{name}' have no column '{group}' to group by.",
                did_you_mean(group, known) if known else "They have no attribute columns: add a metadata.csv.",
            )
    if members is not None:
        examples = [replace(example, member=_is_member(example, members, known, name)) for example in examples]
        if not {True, False} <= {example.member for example in examples}:
            raise DataError(
                f"--members {members} does not divide the data '{name}' into members and non-members.",
                "Both are needed to compare.",
            )
    return Dataset(name, examples, tuple(groups), notes=tuple(notes), unread=omitted.unread, unlisted=omitted.unlisted)


def _read(name: str, columns: Mapping[str, str]) -> tuple[list[Example], Omissions]:
    """The examples whose pictures can be read, and what was left out."""
    if name.startswith("zoo:"):
        if columns:
            raise DataError(f"--columns is for your own data, not for '{name}'.", "Leave it out.")
        return list(read_bundled(name)), Omissions()
    if name.startswith("hf:"):
        from vlaudit.data.hub import read_hub  # here, so that commands that read none start quickly

        examples, omitted = read_hub(name, columns)
    elif name.startswith("wds:"):
        from vlaudit.data.shards import read_shards

        examples, omitted = read_shards(name, columns)
    else:
        examples = list(read_folder(Path(name), columns))
        omitted = left_out(Path(name), METADATA, [e.picture for e in examples if isinstance(e.picture, Path)])
    kept, more = sift(examples, name)
    return kept, omitted + more


def look_for(source: str) -> None:
    """Raise DataError where a data set is named that is not there; what is on the hub is not asked for."""
    kind = source.partition(":")[0]
    if kind == "zoo":
        next(iter(read_bundled(source)))
    elif kind == "wds":
        from vlaudit.data.shards import shards

        shards(source)
    elif kind == "hf":
        is_remote(source)
    else:
        next(iter(read_folder(Path(source))), None)


def is_remote(source: str) -> bool:
    """Whether reading a data set may ask the network: of the hub, not on this disk."""
    from vlaudit.data.hub import local_part

    return source.startswith("hf:") and local_part(source) is None


def _is_member(example: Example, members: str, columns: list[str], name: str) -> bool | None:
    if members == "train":
        return example.split == "train"
    if members not in columns:
        raise DataError(
            f"The data '{name}' have no column '{members}' that marks members.",
            did_you_mean(members, ["train", *columns]),
        )
    value = example.attributes.get(members, "").lower()
    if value and value not in _YES | _NO:
        raise DataError(
            f"The column '{members}' says '{value}' for '{example.id}'.",
            "Write yes or no (or leave it empty for neither).",
        )
    return value in _YES if value else None
