"""Image-text-to-text models of transformers, encoder-decoder and decoder-only, through their own processor.

What all conversations of a call begin with (system turn, demonstrations with their pictures, learned prefix) runs once,
and its key-value cache is reused, also by later calls. Whether a kind can do this, and how likelihoods are read off it,
is measured when it is loaded: see ``transformers_checks.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vlaudit.answers import marks_thought, opens_thought
from vlaudit.backends.base import placed, reading
from vlaudit.backends.transformers_batches import ROWS, Batch, Batcher, common
from vlaudit.backends.transformers_reader import Reader
from vlaudit.errors import CapabilityError, UsageError
from vlaudit.families.generation import (
    MAX_NEW_TOKENS,
    Answer,
    ChatTemplates,
    Conversation,
    GenerationModel,
    LearnedPrefix,
    Turn,
)
from vlaudit.families.matching import SoftTokens
from vlaudit.files import fingerprint
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor


BEGINNING = 2  # tokens of an answer whose memory is measured
TOGETHER = 4  # short answers that go on from a conversation that was read once, and with it take one pass; of large models more


class TransformersGenerator(GenerationModel):
    """A loaded image-text-to-text model with its own processor and chat template."""

    def __init__(self, spec: str, model: Any, processor: Any, weights: list[Path], files: list[Path],
                 device: torch.device) -> None:  # fmt: skip
        self.spec, self.files, self.device = spec, files, device
        self.sha256 = fingerprint(weights)
        self._model = placed(model, device)
        self._reader = Reader(spec, processor, model.config)
        self._tokenizer = self._reader.tokenizer
        special = [(i, token) for i, token in self._tokenizer.added_tokens_decoder.items() if token.special]
        self._thought_marks = {i for i, token in special if marks_thought(token.content)}
        text = model.config.get_text_config()
        self.context_length = int(getattr(text, "max_position_embeddings", None) or 1_000_000)
        self._captioner = model.config.model_type == "blip" and not hasattr(model, "text_encoder")
        self._answerer = model.config.model_type == "blip" and hasattr(model, "text_encoder")
        language = getattr(model, "language_model", None)
        own = bool(
            model.config.is_encoder_decoder or getattr(getattr(language, "config", None), "is_encoder_decoder", False)
        )
        self._two_streams = own or self._answerer  # the answer has a stream of its own, the decoder's
        self.fusion: Literal["encoder-decoder", "decoder-only"] = (
            "encoder-decoder" if self._two_streams or self._captioner else "decoder-only"
        )
        settings = model.generation_config
        ends = [
            settings.eos_token_id,
            getattr(text, "sep_token_id", None) if model.config.model_type == "blip" else None,
        ]
        self._ends = {i for end in ends if end is not None for i in (end if isinstance(end, list) else [end])}
        self._pad = self._tokenizer.pad_token_id if self._tokenizer.pad_token_id is not None else min(self._ends or {0})
        self._forced = int(self._two_streams and settings.forced_bos_token_id is not None)  # tokens it does not choose
        for part in (model, language, getattr(model, "text_decoder", None)):
            if part is not None and getattr(part, "generation_config", None) is not None:
                for name in ("temperature", "top_p", "top_k", "min_p", "typical_p", "max_length"):
                    setattr(part.generation_config, name, None)  # of sampling, which greedy answers do without
                part.generation_config.pad_token_id = self._pad
        self.batcher = Batcher(model, self._reader, self._pad, self.context_length, device)
        self.embedding_width = int(self.batcher.table.weight.shape[1])
        self.steps = False
        self.capabilities: frozenset[Needs] = frozenset()

    @property
    def exact(self) -> bool:
        """Whether equal inputs give equal outputs but for the last bits of float32."""
        import torch

        return self._model.dtype == torch.float32 and not getattr(self._model, "is_quantized", False)

    def preprocess(self, picture: Image) -> Tensor:
        return self._reader.preprocess(picture)

    def tokens(self, conversation: Conversation) -> list[int]:
        ids = self.batcher.ids(conversation.turns, conversation.prefix)["input_ids"][0].tolist()
        return [self._model.config.text_config.bos_token_id, *ids[1:-1]] if self._captioner else ids

    def slots(self, conversation: Conversation, text: str) -> list[int]:
        *before, last = conversation.turns
        parts = tuple(p.replace(text, "", 1) if isinstance(p, str) else p for p in last.parts)
        with_it = self.tokens(conversation)
        without = self.tokens(Conversation((*before, Turn(last.role, parts)), conversation.prefix))
        start = common(with_it, without)
        end = min(common(with_it[::-1], without[::-1]), len(without) - start)
        return list(range(start, len(with_it) - end))

    # --- answers --------------------------------------------------------------------------------------------------

    def generate(
        self, conversations: Sequence[Conversation], *, max_new_tokens: int = MAX_NEW_TOKENS, log_probs: bool = False
    ) -> list[Answer]:
        import torch

        answers: dict[int, Answer] = {}
        with torch.no_grad():
            for batch in self.batcher.batches(conversations, new=max_new_tokens):

                def run(rows: slice, *floats: Tensor, batch: Batch = batch) -> list[Answer]:
                    return self._answers(batch.part(rows, floats), max_new_tokens, log_probs)

                def begin(rows: slice, *floats: Tensor, batch: Batch = batch) -> None:
                    self._generate(batch.part(rows, floats), min(BEGINNING, max_new_tokens), log_probs)

                length = batch.ids.shape[1]
                said = self.cut("answers", run, *batch.floats, count=len(batch.rows), weight=length + max_new_tokens,
                                trial=begin, tried=length + min(BEGINNING, max_new_tokens))  # fmt: skip
                answers |= zip(batch.rows, said, strict=True)
        return [answers[index] for index in range(len(conversations))]

    def _answers(self, batch: Batch, max_new_tokens: int, log_probs: bool) -> list[Answer]:
        ids, logits = self._generate(batch, max_new_tokens, log_probs)
        answers = []
        for number, row in enumerate(ids.tolist()):
            end = next((i for i, token in enumerate(row) if token in self._ends), None)
            text = self._tokenizer.decode(row[:end], skip_special_tokens=not self._thought_marks & set(row))
            if opens_thought(self._tokenizer.decode(batch.ids[number, -8:].tolist())):
                text = f"<think>{text}"
            score = None
            if logits is not None:
                kept = row if end is None else row[: end + 1]
                table = logits[number, : len(kept)].log_softmax(-1)
                score = float(table.gather(1, ids[number, : len(kept), None]).sum())
            answers.append(Answer.read(text, max_new_tokens, end is not None, score))
        return answers

    def _generate(self, batch: Batch, count: int, logits: bool, **settings: Any) -> tuple[Tensor, Tensor | None]:
        """New tokens (B, T), and their logits (B, T, V) where asked for: the checkpoint's own greedy ``generate``."""
        import torch

        if not self._two_streams:
            count = min(count, self.context_length - batch.ids.shape[1])
        cache = batch.shared.copy(len(batch.rows), batch.ids.shape[1] - batch.shared.length + count)
        more = {} if cache is None else {"past_key_values": cache}
        start = 1 + self._forced if self._two_streams else batch.ids.shape[1] - (1 if self._captioner else 0)
        with self.batcher.embedded(batch.soft):
            out = self._model.generate(
                input_ids=batch.ids.clone(), **batch.tokens, **batch.pictures, **more, do_sample=False, num_beams=1,
                max_new_tokens=count + self._forced, return_dict_in_generate=True, output_logits=logits, **settings,
            )  # fmt: skip
        return out.sequences[:, start:], torch.stack(out.logits[self._forced :], dim=1) if logits else None

    # --- likelihoods ----------------------------------------------------------------------------------------------

    def log_likelihood(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[Sequence[str]],
        *,
        soft: SoftTokens | None = None,
        end: bool = False,
        weakest: bool = False,
    ) -> Tensor:
        import torch

        def read(tables: Tensor, targets: Tensor) -> Tensor:
            picked = tables.gather(-1, targets.clamp(min=0)[..., None])[..., 0].masked_fill(targets < 0, 0.0)
            return picked.amin(-1) if weakest else picked.sum(-1)

        rows = {row: value for row, value, _ in self._scored(conversations, answers, soft, end, read)}
        return torch.stack([rows[index] for index in range(len(conversations))])

    def passes(self, answers: int) -> int:
        return math.ceil(answers / TOGETHER) if self.steps and not self._two_streams else answers

    def token_log_probs(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Tensor]:
        found = self._scored(conversations, [[answer] for answer in answers], None, False, lambda tables, _: tables)
        tables = {row: table[0, targets[0] >= 0] for row, table, targets in found}
        return [tables[index] for index in range(len(conversations))]

    def _scored(
        self,
        conversations: Sequence[Conversation],
        answers: Sequence[Sequence[str]],
        soft: SoftTokens | None,
        end: bool,
        read: Callable[[Tensor, Tensor], Tensor],
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each conversation: which one, what ``read`` makes of the log distributions (B, K, T, V) before the tokens (B, K, T) of
        its answers, and these tokens, -1 where there are none."""
        import torch

        if Needs.TOKEN_LOGITS not in self.capabilities:
            raise CapabilityError(f"'{self.spec}' gives no likelihoods that agree with what it generates.")
        counts = {len(each) for each in answers}
        if len(counts) != 1:
            raise UsageError("Every conversation needs the same number of answers.")
        choices, left = counts.pop(), len(conversations)
        for batch in self.batcher.batches(conversations, soft, max(1, ROWS // choices)):
            coded = [[self._coded(conversations[row], answer, end) for answer in answers[row]] for row in batch.rows]
            width = max(len(ids) for each in coded for ids in each)
            targets = torch.tensor(
                [[ids + [-1] * (width - len(ids)) for ids in each] for each in coded], device=self.device
            )

            def run(rows: slice, *floats: Tensor, batch: Batch = batch, targets: Tensor = targets) -> Tensor:
                return read(self._log_probs(batch.part(rows, floats), targets[rows]), targets[rows])

            left -= len(batch.rows)
            if batch.shared.learns:  # what all rows share is learned: their gradients meet there
                values = run(slice(None), *batch.floats)
            else:
                values = self.cut(
                    "likelihoods", run, *batch.floats, count=len(batch.rows),
                    weight=choices * (batch.ids.shape[1] + width), following=left,
                )  # fmt: skip
            yield from zip(batch.rows, values, targets, strict=True)

    def _coded(self, conversation: Conversation, answer: str, end: bool) -> list[int]:
        if self._two_streams:
            ids = list(self._tokenizer(answer, add_special_tokens=False)["input_ids"])
        else:
            ids = self._reader.answer_ids(conversation, answer)
        ids = [*ids, min(self._ends)] if end and self._ends else ids
        if not ids:
            raise UsageError(f"The answer {answer!r} has no tokens.", "Give answers that are not empty.")
        return ids

    def _log_probs(self, batch: Batch, targets: Tensor) -> Tensor:
        """(B, K, T, V): log distributions before each of the target tokens (B, K, T)."""
        count, choices, width = targets.shape
        flat = targets.clamp(min=0).flatten(0, 1)  # -1 follows an answer's end, where nothing looks back from
        if self._two_streams:
            logits = self._decoded(batch, flat, choices)
        elif self.steps:
            logits = self._stepwise(batch, flat, choices)
        else:
            logits = self._at_once(batch, flat, choices)
        return logits.float().log_softmax(-1).view(count, choices, width, -1)

    def _stepwise(self, batch: Batch, flat: Tensor, choices: int, collect: list[Any] | None = None) -> Tensor:
        """The prompt once, then each answer after its key-value cache, as in generation."""
        import torch

        past, cache = batch.shared.length, batch.shared.copy(len(batch.rows))
        tokens = {k: v[:, past:] for k, v in batch.tokens.items() if k != "attention_mask"}
        show = {"output_attentions": True} if collect is not None else {}
        with self.batcher.embedded(batch.soft):
            out = self._model(
                input_ids=batch.ids[:, past:], **tokens, **batch.pictures, past_key_values=cache, use_cache=True, **show,
                **self.batcher.last_logit(),
            )  # fmt: skip
        logits = out.logits[:, -1:].repeat_interleave(choices, dim=0)
        outs = [out]
        if flat.shape[1] > 1:
            cache = out.past_key_values
            if choices > 1:
                cache.batch_repeat_interleave(choices)
            outs.append(self._model(input_ids=flat[:, :-1], past_key_values=cache, use_cache=True, **show))
            logits = torch.cat([logits, outs[-1].logits], dim=1)
        if collect is not None:
            collect += outs
        return logits

    def _at_once(self, batch: Batch, flat: Tensor, choices: int) -> Tensor:
        """Prompt and answer in one pass, for kinds that cannot go on from a cache."""
        import torch

        ids = batch.ids
        if self._captioner:  # the prompt begins with the decoder's own start and is not closed
            start = ids.new_full((len(ids), 1), self._model.config.text_config.bos_token_id)
            ids = torch.cat([start, ids[:, 1:-1]], dim=1)
        whole = torch.cat([ids.repeat_interleave(choices, dim=0), flat[:, :-1]], dim=1)
        inputs = {"attention_mask": torch.ones_like(whole)}
        for name, value in batch.tokens.items():
            if name != "attention_mask":
                tail = torch.ones_like(flat[:, :-1]) if name == "token_type_ids" else torch.zeros_like(flat[:, :-1])
                inputs[name] = torch.cat([value.repeat_interleave(choices, dim=0), tail], dim=1)
        pictures = batch.repeated_pictures(choices)
        for name, value in pictures.items():
            if value.dim() == 3 and value.shape[1] == ids.shape[1] and not value.is_floating_point():  # which pictures each token sees
                pictures[name] = torch.cat([value, value[:, -1:].expand(-1, whole.shape[1] - ids.shape[1], -1)], dim=1)
        with self.batcher.embedded(batch.repeated_soft(choices)):
            out = self._model(input_ids=whole, **inputs, **pictures)
        return out.logits[:, ids.shape[1] - 1 :]

    def _decoded(self, batch: Batch, flat: Tensor, choices: int) -> Tensor:
        """The encoder reads the conversation, the decoder the answer."""
        import torch

        text = self._model.config.get_text_config()
        settings = self._model.generation_config
        start = text.bos_token_id if self._answerer else settings.decoder_start_token_id or text.decoder_start_token_id
        lead = [start, settings.forced_bos_token_id] if self._forced else [start]
        decoder = torch.cat([flat.new_tensor([lead]).expand(len(flat), -1), flat[:, :-1]], dim=1)
        tokens = {k: v.repeat_interleave(choices, dim=0) for k, v in batch.tokens.items()}
        inputs = {
            "input_ids": batch.ids.repeat_interleave(choices, dim=0),
            **tokens,
            **batch.repeated_pictures(choices),
        }
        seen: list[Any] = []
        catch = self._model.text_decoder.register_forward_hook(lambda *a: seen.append(a[2])) if self._answerer else None
        try:
            with self.batcher.embedded(batch.repeated_soft(choices)):
                out = self._model(**inputs, decoder_input_ids=decoder)
        finally:
            if catch is not None:
                catch.remove()
        return (seen[0] if seen else out).logits[:, len(lead) - 1 :]

    def attention(self, conversations: Sequence[Conversation], answers: Sequence[str]) -> list[Tensor]:
        import torch

        if Needs.ATTENTION not in self.capabilities:
            return super().attention(conversations, answers)
        found: dict[int, Tensor] = {}
        with torch.no_grad(), self._eager():
            for number, (talk, answer) in enumerate(zip(conversations, answers, strict=True)):
                batch = next(iter(self.batcher.batches([talk])))
                collect: list[Any] = []
                self._stepwise(batch, torch.tensor([self._coded(talk, answer, False)], device=self.device), 1, collect)
                columns = (batch.ids[0] == torch.tensor(self._reader.image_token_id)).nonzero()[:, 0]
                first = torch.stack(collect[0].attentions)[:, 0, :, -1:, columns]
                rest = [torch.stack(out.attentions)[:, 0, :, :, columns] for out in collect[1:]]
                found[number] = torch.cat([first, *rest], dim=2)
        return [found[index].float() for index in range(len(conversations))]

    @contextmanager
    def _eager(self) -> Iterator[None]:
        """While open, attention weights are computed; the fused kernels do not show them."""
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    # --- tokens ---------------------------------------------------------------------------------------------------

    def chat_templates(self) -> ChatTemplates:
        return self._reader.chat_templates()

    def written(self, turns: Sequence[Turn], ask: bool = True) -> str:
        return self._reader.render(turns, ask)

    def control_tokens(self) -> dict[str, int]:
        return {token.content: i for i, token in sorted(self._tokenizer.added_tokens_decoder.items()) if token.content.strip()}

    def tokenize(self, text: str) -> list[int]:
        with reading(self.spec):
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def vocabulary(self) -> list[str]:
        special = set(self._tokenizer.all_special_ids)
        ids = [[i] if i not in special else [] for i in range(len(self._tokenizer))]
        return list(self._tokenizer.batch_decode(ids))

    def token_embeddings(self, ids: Sequence[int]) -> Tensor:
        import torch

        return self.batcher.table(torch.tensor(list(ids), dtype=torch.long, device=self.device)).float()

    def keys_values(self, ids: Sequence[int]) -> Tensor:
        import torch

        if not self.batcher.shares_cache:
            raise CapabilityError(f"'{self.spec}' cannot go on from given keys and values.")
        with torch.no_grad():
            out = self._model(input_ids=torch.tensor([list(ids)], device=self.device), use_cache=True)
        layers = [torch.stack([layer.keys[0], layer.values[0]]) for layer in out.past_key_values.layers]
        return torch.stack([layer.float().to(self.device) for layer in layers])

    def check_prefix(self, prefix: LearnedPrefix) -> None:
        text = self._model.config.get_text_config()
        if prefix.embeddings is not None:
            if Needs.EMBEDDING_GRADIENTS not in self.capabilities:
                raise UsageError(f"'{self.spec}' has no place before its text for a learned prompt.")
            if prefix.embeddings.shape[-1] != self.embedding_width:
                raise UsageError(
                    f"The learned prompt is {prefix.embeddings.shape[-1]} wide, the token embeddings of '{self.spec}' are "
                    f"{self.embedding_width}.",
                    "It was learned on another model.",
                )
            return
        assert prefix.keys_values is not None
        if not self.batcher.shares_cache:
            raise UsageError(f"'{self.spec}' cannot go on from given keys and values, which prefix tuning needs.")
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        layers, _, mine, _, depth = prefix.keys_values.shape
        if (layers, mine, depth) != (text.num_hidden_layers, heads, width):
            raise UsageError(
                f"The learned prefix is for {layers} layers with {mine} heads of {depth}; '{self.spec}' has "
                f"{text.num_hidden_layers} with {heads} of {width}.",
                "It was learned on another model.",
            )
