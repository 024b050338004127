"""Matchers of transformers that fuse picture and text: BLIP, BLIP-2, FLAVA and BridgeTower, ``hf:REPO_OR_DIR`` for the contrastive score
where there is one, ``hf:REPO_OR_DIR#matching`` for that of the matching head.

A score is put together of the checkpoint's own parts, so that what is seen of a picture is computed once for all texts; at load it is
held against the checkpoint's own forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from vlaudit.backends.base import pad
from vlaudit.backends.transformers_matching import TransformersModel, unit
from vlaudit.errors import CapabilityError, ModelError
from vlaudit.families.pairs import PairModel
from vlaudit.records import Needs

if TYPE_CHECKING:
    from torch import Tensor

MATCHING = "matching"
TRIED = ("a photo of a cat", "the red dog and this")  # texts that a score is held against the checkpoint's own on


class Fusing(TransformersModel):
    """Of whom the checkpoint's class holds both towers, without a temperature."""

    def _scale(self) -> float:
        return 1.0

    def _words(self) -> Any:
        return self._model.get_input_embeddings()

    def _modules(self) -> NoReturn:
        raise CapabilityError(f"No learned tokens can stand in the towers of '{self.spec}', which fuses them.")


class BlipContrastive(Fusing):
    """BLIP's first token of each tower, projected (arXiv:2201.12086)."""

    architecture = "BlipForImageTextRetrieval"

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        return unit(self._model.vision_proj(self._model.vision_model(**inputs).last_hidden_state[:, 0]))

    def _written(self, inputs: dict[str, Tensor]) -> Tensor:
        return unit(self._model.text_proj(self._model.text_encoder(**inputs).last_hidden_state[:, 0]))


class Flava(Fusing):
    """FLAVA's first token of each tower, projected (arXiv:2112.04482)."""

    def _scale(self) -> float:
        return float(self._model.logit_scale.exp())

    def _side(self) -> int:
        return int(self._model.config.image_config.image_size)

    def _words(self) -> Any:
        return self._model.text_model.get_input_embeddings()


class BridgeTowerContrastive(Fusing):
    """BridgeTower's towers before they meet (arXiv:2206.08657), of which the checkpoint's class runs both at once: the other one reads
    nothing."""

    architecture = "BridgeTowerForContrastiveLearning"

    def _scale(self) -> float:
        return float(self._model.logit_scale.exp())

    def _positions(self) -> int:
        return _positions_behind_padding(self._model.config.text_config)

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = self._padded([self.tokenize("").ids] * len(inputs["pixel_values"]), None)
        return unit(self._model(**inputs, **ids).image_embeds)

    def _written(self, inputs: dict[str, Tensor]) -> Tensor:
        shape = (len(inputs["input_ids"]), 3, self.resolution, self.resolution)
        nothing = next(self._model.parameters()).new_zeros(shape)
        return unit(self._model(**inputs, pixel_values=nothing).text_embeds)


class Pairs(PairModel, Fusing):
    """Scores pairs. A kind says what is seen of a picture, and what its head makes of that and a text."""

    def measure(self) -> None:
        """Hold the scores of two pictures and two texts against the checkpoint's own, and see whether gradients reach the pixels."""
        import torch

        shape = (2, 3, self.resolution, self.resolution)
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(self.device).requires_grad_()
        with torch.enable_grad():
            mine = self.pairing(TRIED)(self.encode_images(images))
            (slope,) = torch.autograd.grad(mine.sum(), images, allow_unused=True)
        pixels = self.normalised(images.detach()).to(self._model.dtype)
        with torch.no_grad():
            theirs = torch.stack([self._official_scores(pixels, self._ids([text] * len(images))) for text in TRIED], dim=1).float()
        if not torch.isfinite(mine).all() or not torch.isfinite(theirs).all():
            raise ModelError(f"'{self.spec}' yields NaN or infinite scores for noise.", "Its weights are damaged.")
        loose = 1e-3 if self._model.dtype == torch.float32 else 0.1 * float(theirs.abs().max())
        if not torch.allclose(mine.detach(), theirs, atol=loose, rtol=1e-3):
            raise ModelError(f"What vlaudit makes of the parts of '{self.spec}' is not what its own forward pass makes of a pair.",
                             "Its config asks for something that vlaudit does not know.")  # fmt: skip
        found = {Needs.SCORES, Needs.FILES}
        if slope is not None and bool(torch.isfinite(slope).all()) and bool(slope.abs().amax(dim=(1, 2, 3)).gt(0).all()):
            found.add(Needs.PIXEL_GRADIENTS)
        self.capabilities = frozenset(found)

    def _ids(self, texts: Sequence[str]) -> dict[str, Tensor]:
        rows, lengths = pad([self.tokenize(text) for text in texts], self.context_length, self._pad_id(), False)
        return self._padded(rows, lengths)

    def pairing(self, texts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        inputs = self._ids(texts)

        def pairs(_: slice, seen: Tensor) -> Tensor:
            count = len(seen)
            pictures = seen.repeat_interleave(len(texts), dim=0)
            read = {name: value.repeat(count, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
            return self._together(pictures, read).float().view(count, len(texts))

        return lambda seen: self.cut("pairs", pairs, seen, weight=len(texts) * seen[:1].numel())

    def _together(self, seen: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Log-odds (B,) that each text belongs to what was seen of its picture."""
        raise NotImplementedError

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The same (B,) by the checkpoint's own forward pass."""
        raise NotImplementedError


class BlipMatching(Pairs):
    """BLIP's text encoder with cross-attention to the picture."""

    architecture = "BlipForImageTextRetrieval"

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._model.vision_model(**inputs).last_hidden_state

    def _together(self, seen: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        states = self._model.text_encoder(**inputs, encoder_hidden_states=seen, encoder_attention_mask=_ones(seen)).last_hidden_state
        return log_odds(self._model.itm_head(states[:, 0]))

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return log_odds(self._model(pixel_values=pixels, **inputs, use_itm_head=True).itm_score)


class Blip2(Pairs):
    """BLIP-2's queries, each compared with the text: the best counts (arXiv:2301.12597)."""

    architecture = "Blip2ForImageTextRetrieval"
    fuses = False

    def _positions(self) -> int:
        return int(self._model.config.qformer_config.max_position_embeddings)

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        model, states = self._model, self._model.vision_model(**inputs)[0]
        queries = model.query_tokens.expand(len(states), -1, -1)
        read = model.qformer(query_embeds=queries, encoder_hidden_states=states, encoder_attention_mask=_ones(states))
        return _unit_rows(model.vision_projection(read.last_hidden_state.to(model.vision_projection.weight.dtype)))

    def pairing(self, texts: Sequence[str]) -> Callable[[Tensor], Tensor]:
        import torch

        model, inputs = self._model, self._ids(texts)
        with torch.no_grad():
            read = model.qformer(query_embeds=model.embeddings(input_ids=inputs["input_ids"]), query_length=0,
                                 attention_mask=inputs["attention_mask"])  # fmt: skip
            features = _unit_rows(model.text_projection(read.last_hidden_state[:, 0].to(model.text_projection.weight.dtype)))
        return lambda seen: (seen @ features.T).amax(dim=1).float()

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return self._model(pixel_values=pixels, **self._spaced(inputs)).logits_per_image.diagonal()

    def _spaced(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the places that the processor leaves for the queries before the text, which the model takes away again."""
        import torch

        if self._model.config.image_token_index is None:
            return inputs
        places = (len(inputs["input_ids"]), self._model.config.num_query_tokens)
        return {name: torch.cat([value.new_ones(places), value], dim=1) for name, value in inputs.items()}


class Blip2Matching(Blip2):
    """BLIP-2's matching head: queries and text attend to each other, and the head's mean over the queries counts."""

    fuses = True
    pairing = Pairs.pairing

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        return self._model.vision_model(**inputs)[0]

    def _together(self, seen: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        import torch

        model = self._model
        queries = model.query_tokens.expand(len(seen), -1, -1)
        states = model.embeddings(input_ids=inputs["input_ids"], query_embeds=queries)
        mask = torch.cat([_ones(queries), inputs["attention_mask"]], dim=1)
        read = model.qformer(query_embeds=states, query_length=queries.shape[1], attention_mask=mask, encoder_hidden_states=seen,
                             encoder_attention_mask=_ones(seen)).last_hidden_state  # fmt: skip
        return log_odds(model.itm_head(read[:, : queries.shape[1]].to(model.itm_head.weight.dtype)).mean(dim=1))

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        own = self._spaced(inputs)  # of the mask it takes nothing away, and has it as long as queries and text
        return log_odds(self._model(pixel_values=pixels, **own, use_image_text_matching_head=True).logits_per_image)


class FlavaMatching(Pairs):
    """FLAVA's multimodal encoder over both towers' states."""

    architecture = "FlavaForPreTraining"

    def _side(self) -> int:
        return int(self._model.config.image_config.image_size)

    def _words(self) -> Any:
        return self._model.flava.text_model.get_input_embeddings()

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        flava = self._model.flava
        return flava.image_to_mm_projection(flava.image_model(**inputs, output_hidden_states=True).hidden_states[-1])

    def _together(self, seen: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        import torch

        flava = self._model.flava
        text = flava.text_to_mm_projection(flava.text_model(**inputs, output_hidden_states=True).hidden_states[-1])
        own = flava.multimodal_model.use_cls_token
        mask = torch.cat([inputs["attention_mask"].new_ones(len(seen), seen.shape[1] + own), inputs["attention_mask"]], dim=1)
        return log_odds(self._model.itm_head(flava.multimodal_model(torch.cat([seen, text], dim=1), attention_mask=mask)[0]))

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return log_odds(self._model(pixel_values=pixels, **inputs, input_ids_masked=inputs["input_ids"], return_loss=False).itm_logits)


class BridgeTowerMatching(Pairs):
    """BridgeTower's matching head (arXiv:2206.08657). Its towers meet in every layer, so a pair passes as a whole."""

    architecture = "BridgeTowerForImageAndTextRetrieval"

    def _positions(self) -> int:
        return _positions_behind_padding(self._model.config.text_config)

    def _pictured(self, inputs: dict[str, Tensor]) -> Tensor:
        return inputs["pixel_values"]

    def _together(self, seen: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return self._official_scores(seen, inputs)

    def _official_scores(self, pixels: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return log_odds(self._model(pixel_values=pixels, **inputs).logits)


KINDS: dict[str, dict[str, type[TransformersModel]]] = {  # by class of the checkpoint, then by score; the first is the default
    "BlipForImageTextRetrieval": {"contrastive": BlipContrastive, MATCHING: BlipMatching},
    "Blip2ForImageTextRetrieval": {"contrastive": Blip2, MATCHING: Blip2Matching},
    "FlavaForPreTraining": {"contrastive": Flava, MATCHING: FlavaMatching},
    "FlavaModel": {"contrastive": Flava},
    "BridgeTowerForContrastiveLearning": {"contrastive": BridgeTowerContrastive},
    "BridgeTowerForImageAndTextRetrieval": {MATCHING: BridgeTowerMatching},
}


def kind_of(config: dict[str, object], argument: str, score: str) -> type[TransformersModel] | None:
    """How a checkpoint that fuses is read for a score ("": its first); None for dual encoders. Raises ModelError for a score that it
    does not have."""
    named = config.get("architectures")
    kinds = next((KINDS[name] for name in (named if isinstance(named, list) else []) if isinstance(name, str) and name in KINDS), {})
    if score and score not in kinds:
        has = f"it has {' and '.join(kinds)}" if kinds else "its pictures and texts have features, whose cosine it is"
        raise ModelError(f"'{argument}' has no {score} score: {has}.", "Leave the '#' and what follows it out.")
    return kinds[score or next(iter(kinds))] if kinds else None


def _positions_behind_padding(config: Any) -> int:
    """Tokens that a text tower of RoBERTa's kind has positions for, which begin behind the padding's id."""
    return int(config.max_position_embeddings) - int(config.pad_token_id) - 1


def log_odds(logits: Tensor) -> Tensor:
    """Logits (B, 2) of "no" and "yes" to the log-odds (B,) of "yes"."""
    return logits[:, 1] - logits[:, 0]


def _unit_rows(features: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(features.float(), dim=-1)


def _ones(states: Tensor) -> Tensor:
    """A mask that hides nothing."""
    import torch

    return torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
