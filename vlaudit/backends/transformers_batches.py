"""From conversations to batches of inputs, and the key-value cache of what the conversations of a call begin with.

The shared part (system turn, demonstrations with their pictures, learned prefix) runs once; later calls that begin alike
reuse its cache. Conversations are grouped by shape. Those that are only answered are padded on the left to one length where
the model is measured to answer the same then; nothing else is padded.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlaudit.backends.base import soft_tokens
from vlaudit.backends.transformers_reader import Reader, Recent, pictures_of
from vlaudit.errors import CapabilityError, UsageError
from vlaudit.families.generation import Conversation, LearnedPrefix, Turn
from vlaudit.families.matching import SoftTokens

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ROWS = 32  # conversations (or answers) a pass
LOOSE = 64  # tokens by which the lengths of conversations that are padded to one may differ
CPU_BYTES = 16_000_000  # of one layer's keys: beyond, the C allocator maps memory anew at every token


@dataclass(frozen=True)
class Shared:
    """What several conversations begin with: ``turns`` of them, ``length`` tokens, and their key-value cache. ``learns``: gradients
    flow into it."""

    turns: int = 0
    length: int = 0
    cache: Any = None
    learns: bool = False

    def rows(self, device: torch.device) -> int:
        """How many copies of the cache are quick to go on from at once."""
        keys = getattr(self.cache.layers[0], "keys", None) if self.cache is not None else None
        if keys is None or device.type != "cpu":
            return ROWS
        return max(1, CPU_BYTES // (keys.numel() * keys.element_size()))

    def copy(self, rows: int, room: int = 0) -> Any:
        """A cache of so many rows to go on from; None where there is nothing to share. ``room``: for so many tokens,
        without gradients."""
        if self.cache is None:
            return None
        cache = copy.copy(self.cache)
        if room and all(type(layer).__name__ == "DynamicLayer" and layer.is_initialized for layer in cache.layers):
            from vlaudit.backends.transformers_cache import RoomyLayer

            cache.layers = [RoomyLayer(layer, rows, room) for layer in cache.layers]
            return cache
        plain = all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer") for layer in cache.layers)
        if plain:  # these replace their tensors, never write into them
            cache.layers = [copy.copy(layer) for layer in cache.layers]
        else:
            cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


@dataclass
class Batch:
    """Conversations whose inputs stack; padding, if any, stands right after what is ``shared``."""

    rows: list[int]  # which conversations
    ids: Tensor  # (B, L), shared tokens included
    tokens: dict[str, Tensor]  # (B, L) each: attention_mask and the like
    pictures: dict[str, Tensor]
    soft: SoftTokens | None
    shared: Shared

    def part(self, rows: slice, floats: Sequence[Tensor]) -> Batch:
        """Some of the conversations, with ``floats`` of these in the place of ``self.floats``."""
        given = iter(floats)
        pictures = {
            name: next(given).flatten(0, 1) if value.is_floating_point() else self._blocks(value)[rows].flatten(0, 1)
            for name, value in self.pictures.items()
        }
        soft = None if self.soft is None else SoftTokens(next(given), self.soft.slots[rows])
        tokens = {name: value[rows] for name, value in self.tokens.items()}
        return Batch(self.rows[rows], self.ids[rows], tokens, pictures, soft, self.shared)

    @property
    def floats(self) -> list[Tensor]:
        """The inputs that gradients may flow into, with a row for each conversation."""
        found = [self._blocks(value) for value in self.pictures.values() if value.is_floating_point()]
        return found if self.soft is None else [*found, self.soft.values]

    def _blocks(self, value: Tensor) -> Tensor:
        return value.unflatten(0, (len(self.rows), -1))

    def repeated_pictures(self, times: int) -> dict[str, Tensor]:
        """The picture inputs with each conversation's repeated in place."""
        return {k: self._blocks(v).repeat_interleave(times, dim=0).flatten(0, 1) for k, v in self.pictures.items()}

    def repeated_soft(self, times: int) -> SoftTokens | None:
        """The same of the embeddings that are put in."""
        if self.soft is None:
            return None
        slots = [slots for slots in self.soft.slots for _ in range(times)]
        return SoftTokens(self.soft.values.repeat_interleave(times, dim=0), slots)


class Batcher:
    """Makes a model's inputs. ``shares_cache``: it can go on from a cache; ``shares_pictures``: one with pictures in it;
    ``several``: it reads more than one picture in a conversation; ``pads``: padding changes nothing that it answers."""

    def __init__(self, model: Any, reader: Reader, pad: int, limit: int, device: torch.device) -> None:
        self._model, self._reader, self._pad, self._limit, self._device = model, reader, pad, limit, device
        self.table: Any = model.get_input_embeddings()
        self.shares_cache = self.shares_pictures = False
        self.several, self.pads = True, False
        self._prefixes = Recent(2)

    def ids(self, turns: Sequence[Turn], prefix: LearnedPrefix | None, ask: bool = True) -> dict[str, Tensor]:
        """``input_ids`` (1, L) and its companions, with filler tokens where a learned prefix stands."""
        import torch

        size = prefix.size if prefix else 0
        found = self._reader.texts(turns, ask)
        if not size:
            return found
        fill = {"input_ids": self._pad, "attention_mask": 1}
        return {k: torch.cat([v.new_full((1, size), fill.get(k, 0)), v], dim=1) for k, v in found.items()}

    def batches(
        self, conversations: Sequence[Conversation], soft: SoftTokens | None = None, rows: int = ROWS, new: int | None = None
    ) -> Iterator[Batch]:
        """Conversations grouped so that each group's inputs stack, after what they all begin with. ``new``: they are only to be
        answered, with at most so many tokens, and may be padded."""
        import torch

        groups: dict[Any, list[tuple[int, dict[str, Tensor], dict[str, Tensor]]]] = {}
        shares: dict[int, Shared] = {}
        for prefix in {id(talk.prefix): talk.prefix for talk in conversations}.values():
            mine = [talk for talk in conversations if talk.prefix is prefix]
            shares[id(prefix)] = self._share(mine, soft)
        for position, talk in enumerate(conversations):
            if not self.several and len(pictures_of(talk.turns)) > 1:
                raise UsageError(
                    f"'{self._reader.spec}' reads one picture, and this conversation has {len(pictures_of(talk.turns))}.",
                    "Use a prompt without demonstrations, or one whose demonstrations have no pictures.",
                )
            shared = shares[id(talk.prefix)]
            tokens = self.ids(talk.turns, talk.prefix)
            length = tokens["input_ids"].shape[1]
            if length + 1 > self._limit:
                raise UsageError(
                    f"The prompt has {length} tokens with its pictures; '{self._reader.spec}' reads at most {self._limit}.",
                    "Use fewer demonstrations or a shorter text.",
                )
            pictures = self._reader.pictures(talk.turns[shared.turns :], self._device)
            learned = talk.prefix is not None and shared.length == 0
            padded = self.pads and new is not None and not learned and length + LOOSE + new <= self._limit
            shapes = ((k, v.shape, v.dtype) for k, v in sorted(pictures.items()))
            key = (id(talk.prefix), None if padded else length, *shapes)
            groups.setdefault(key, []).append((position, tokens, pictures))
        for group in groups.values():
            group.sort(key=lambda one: one[1]["input_ids"].shape[1])
            most = min(rows, shares[id(conversations[group[0][0]].prefix)].rows(self._device))
            while group:
                longest = group[0][1]["input_ids"].shape[1] + LOOSE
                part = [one for one in group[:most] if one[1]["input_ids"].shape[1] <= longest]
                group = group[len(part) :]
                index = [i for i, _, _ in part]
                talk = conversations[index[0]]
                shared = shares[id(talk.prefix)]
                width = part[-1][1]["input_ids"].shape[1]
                wide = [self._padded(tokens, shared.length, width) for _, tokens, _ in part]
                stack = {k: torch.cat([tokens[k] for tokens in wide]).to(self._device) for k in wide[0]}
                shown = {k: self._moved(torch.cat([shown[k] for _, _, shown in part])) for k in part[0][2]}
                yield Batch(
                    index, stack.pop("input_ids"), stack, shown, self._soft(talk.prefix, soft, index, shared), shared
                )

    def _moved(self, pictures: Tensor) -> Tensor:
        """On the device; pixels in the precision of the model."""
        return pictures.to(self._device, self._model.dtype if pictures.is_floating_point() else pictures.dtype)

    def _padded(self, tokens: dict[str, Tensor], start: int, width: int) -> dict[str, Tensor]:
        """The tokens of a conversation (1, L) with padding at ``start``, up to ``width``; it is masked."""
        import torch

        missing = width - tokens["input_ids"].shape[1]
        if not missing:
            return tokens
        fill = {"input_ids": self._pad}
        parts = {k: (v[:, :start], v.new_full((1, missing), fill.get(k, 0)), v[:, start:]) for k, v in tokens.items()}
        return {k: torch.cat(part, dim=1) for k, part in parts.items()}

    def _soft(
        self, prefix: LearnedPrefix | None, soft: SoftTokens | None, rows: list[int], shared: Shared
    ) -> SoftTokens | None:
        """The embeddings to put in: the caller's, and those of a learned prefix that is not in the shared cache."""
        import torch

        values, slots = [], [list[int]() for _ in rows]
        if prefix is not None and prefix.embeddings is not None and shared.length == 0:
            values.append(prefix.embeddings.to(self._device).expand(len(rows), -1, -1))
            slots = [list(range(prefix.size)) for _ in rows]
        if soft is not None:
            values.append(soft.values[rows] if soft.values.dim() == 3 else soft.values.expand(len(rows), -1, -1))
            slots = [mine + [s - shared.length for s in soft.slots[row]] for mine, row in zip(slots, rows, strict=True)]
        return SoftTokens(torch.cat(values, dim=1), slots) if values else None

    # --- what conversations begin with ----------------------------------------------------------------------------

    def _share(self, talks: Sequence[Conversation], soft: SoftTokens | None) -> Shared:
        """The key-value cache of the turns that all of these begin with, and of their learned prefix."""
        import torch

        prefix, first = talks[0].prefix, talks[0].turns
        turns = min(len(talk.turns) for talk in talks) - 1
        for talk in talks[1:]:
            turns = next((i for i in range(turns) if not _same(first[i], talk.turns[i])), turns)
        if not self.shares_pictures:
            turns = next((i for i in range(turns) if pictures_of(first[i : i + 1])), turns)
        given = prefix is not None and prefix.keys_values is not None
        if (turns == 0 and not given) or not (self.shares_cache or given):
            return Shared()
        length = prefix.size if given and prefix is not None else 0
        tokens: dict[str, Tensor] = {}
        if turns and self.shares_cache:
            tokens = self.ids(first[:turns], prefix, ask=False)
            begin = tokens["input_ids"][0].tolist()
            wholes = [self.ids(talk.turns, prefix)["input_ids"] for talk in talks]
            alike = min(common(begin, whole[0].tolist()) for whole in wholes)
            same = self._marks(tokens["input_ids"]) == self._marks(tokens["input_ids"][:, :alike])
            if not same or alike >= min(whole.shape[1] for whole in wholes):
                return self._share([Conversation(first[-1:], prefix)], soft) if given else Shared()
            length = max(length, alike)
        else:
            turns = 0
        if soft is not None and min(min(slots) for slots in soft.slots) < length:
            if not given:
                return Shared()
            raise CapabilityError("These positions lie in what the conversations share.")
        seen = pictures_of(first[:turns])
        learns = prefix is not None and any(
            t is not None and t.requires_grad for t in (prefix.embeddings, prefix.keys_values)
        )
        if learns or any(picture.requires_grad for picture in seen):
            return replace(self._run_shared(first[:turns], prefix, tokens, length), learns=torch.is_grad_enabled())
        digest = hashlib.blake2b(b"".join(picture.detach().cpu().numpy().tobytes() for picture in seen)).digest()
        ids = tokens["input_ids"][0, :length].tolist() if tokens else []

        def run() -> Shared:
            with torch.no_grad():
                return self._run_shared(first[:turns], prefix, tokens, length)

        _prefix, shared = self._prefixes.get_or((id(prefix), tuple(ids), digest), lambda: (prefix, run()))
        return shared  # the entry holds the prefix, so that its id is nobody else's

    def _run_shared(
        self, turns: Sequence[Turn], prefix: LearnedPrefix | None, tokens: dict[str, Tensor], length: int
    ) -> Shared:
        import torch
        from transformers import DynamicCache

        cache, past = None, 0
        if prefix is not None and prefix.keys_values is not None:
            cache, past = DynamicCache(config=self._model.config), prefix.size
            for layer, (keys, values) in enumerate(prefix.keys_values.to(self._device, self._model.dtype)):
                cache.update(keys[None], values[None], layer)
        if length > past:
            inputs = {k: v[:, past:length].to(self._device) for k, v in tokens.items() if k != "attention_mask"}
            soft = self._soft(prefix, None, [0], Shared())
            if past:
                inputs["attention_mask"] = torch.ones(1, length, dtype=torch.long, device=self._device)
            inputs |= {k: self._moved(v) for k, v in self._reader.pictures(turns, self._device).items()}
            with self.embedded(soft):
                cache = self._model(
                    **inputs, past_key_values=cache, use_cache=True, **self.last_logit()
                ).past_key_values
        return Shared(len(turns), length, cache)

    def _marks(self, ids: Tensor) -> int:
        """How many tokens stand for pictures."""
        return int((ids == self._reader.image_token_id).sum()) if self._reader.image_token_id is not None else 0

    @contextmanager
    def embedded(self, soft: SoftTokens | None) -> Iterator[None]:
        """While open, the first texts that are embedded get ``soft.values`` at ``soft.slots``; gradients flow in."""
        if soft is None:
            yield
            return
        with soft_tokens(self.table, soft, once=True):
            yield

    def last_logit(self) -> dict[str, int]:
        return {"logits_to_keep": 1} if self._model._supports_logits_to_keep() else {}


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many elements two sequences begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def _same(first: Turn, second: Turn) -> bool:
    if first is second:
        return True
    if first.role != second.role or len(first.parts) != len(second.parts):
        return False
    for a, b in zip(first.parts, second.parts, strict=True):
        if isinstance(a, str) or isinstance(b, str):
            if not (isinstance(a, str) and isinstance(b, str) and a == b):
                return False
        elif a is not b and not (a.shape == b.shape and not a.requires_grad and bool((a == b).all())):
            return False
    return True
