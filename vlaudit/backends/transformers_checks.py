"""Loads a generation model and finds out what it can do: measured on two small conversations instead of known by its name.

The logits that the checkpoint's own ``generate`` uses are the truth. Likelihoods must agree with them, and so must an
answer after a reused key-value cache; gradients must arrive and be finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlaudit.backends.adapters import merge
from vlaudit.backends.base import refuse_oversized
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_matching import refuse_random
from vlaudit.backends.transformers_reader import FOREIGN, noise
from vlaudit.errors import ModelError, foreign, ran_out_of_memory
from vlaudit.families.generation import Conversation, Turn
from vlaudit.families.matching import SoftTokens
from vlaudit.inspection.folder import ModelFolder
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 3  # generated to compare with


def load_generator(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None = None
) -> TransformersGenerator:
    """Load an image-text-to-text model from a folder that was inspected, with an adapter in it where there is one. Raises
    ModelError."""
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BlipForQuestionAnswering
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # hints for those who write the code that calls it
    safe: Any = {"local_files_only": True, "trust_remote_code": False}
    with foreign(
        f"transformers cannot load '{argument}'",
        "The folder needs the config, weights and processor that save_pretrained writes.",
    ):
        config = AutoConfig.from_pretrained(folder.path, **safe)
        answers = "BlipForQuestionAnswering" in (config.architectures or ())
        kind: Any = BlipForQuestionAnswering if answers else AutoModelForImageTextToText
        refuse_oversized(folder, lambda: kind(config) if answers else kind.from_config(config, trust_remote_code=False))
        model, report = kind.from_pretrained(
            folder.path, dtype="float32", output_loading_info=True, use_safetensors=folder.safetensors, **safe
        )
        refuse_random(argument, report)
        processor = AutoProcessor.from_pretrained(folder.path, **safe)
        weights, files = folder.weights, folder.files
        if adapter:
            model, weights, files = merge(model, adapter), [*weights, *adapter.weights], [*files, *adapter.files]
        generator = TransformersGenerator(f"hf:{argument}", model, processor, weights, files, device)
        generator.capabilities = capabilities(generator)
        return generator


def capabilities(model: TransformersGenerator) -> frozenset[Needs]:
    """Finds out, and sets ``model.steps`` and ``model.batcher``'s ``several`` and ``shares_cache``."""
    import torch

    have = {Needs.ANSWERS}
    picture = model.preprocess(noise(72, 72))
    talk = Conversation((Turn("user", (picture, "what is this")),))
    with torch.no_grad():
        written, logits = _truth(model, talk)
        if not torch.isfinite(logits).any(dim=-1).all() or torch.isnan(logits).any():
            raise ModelError(f"'{model.spec}' yields NaN for a picture and a question.", "Its weights are damaged.")
        model.batcher.several = _reads_several(model, picture)
        for model.steps in (True, False):
            if _agrees(model, talk, written, logits):
                have.add(Needs.TOKEN_LOGITS)
                break
        if model.steps:
            both = model.batcher.several and _reuses(model, picture, (picture, "what is this"))
            model.batcher.shares_cache = model.batcher.shares_pictures = both
            if not model.batcher.shares_cache:
                model.batcher.shares_cache = _reuses(model, picture, ("what is this",))
        model.batcher.pads = _pads(model, picture)
    model.capabilities = frozenset(have)
    if Needs.TOKEN_LOGITS not in have:
        return model.capabilities
    with torch.enable_grad():
        if model._reader.differentiable and _pixels_matter(model, picture, written):
            have.add(Needs.PIXEL_GRADIENTS)
        if _embeddings_matter(model, talk, written):
            have.add(Needs.EMBEDDING_GRADIENTS)
    model.capabilities = frozenset(have | {Needs.ATTENTION})
    return frozenset(have | {Needs.ATTENTION}) if model.steps and _attends(model, talk) else frozenset(have)


def _reads_several(model: TransformersGenerator, picture: Tensor) -> bool:
    """Are two conversations of two pictures each answered once each? BLIP takes each picture for a row of its own."""
    talk = Conversation((Turn("user", (picture, "a")), Turn("assistant", ("a",)), Turn("user", (picture, "and this"))))
    try:
        ids, _ = model._generate(next(iter(model.batcher.batches([talk, talk]))), 1, False)
    except ModelError:  # a template without such turns, which says so itself
        return True
    except FOREIGN as error:
        return _lacks(error)
    return len(ids) == 2


def _truth(model: TransformersGenerator, talk: Conversation) -> tuple[Tensor, Tensor]:
    """Tokens (1, T) of an answer and the logits (1, T, V) that chose them."""
    batch = next(iter(model.batcher.batches([talk])))
    ids, logits = model._generate(batch, TOKENS, True, min_new_tokens=TOKENS + model._forced)
    assert logits is not None
    return ids, logits


def _agrees(model: TransformersGenerator, talk: Conversation, written: Tensor, logits: Tensor) -> bool:
    """Are the log distributions before each written token those of generation?"""
    batch = next(iter(model.batcher.batches([talk])))
    try:
        found = model._log_probs(batch, written[:, None])[:, 0]
    except FOREIGN as error:
        return _lacks(error)
    return close(found, logits)


def close(found: Tensor, logits: Tensor) -> bool:
    """Equal log distributions, up to what another order of summing does to floats."""
    import torch

    expected = logits.float().log_softmax(-1)
    return found.shape == expected.shape and torch.allclose(found.float(), expected, atol=1e-3, rtol=1e-3)


def _reuses(model: TransformersGenerator, picture: Tensor, first: tuple[Tensor | str, ...]) -> bool:
    """Do an answer and its likelihood, after a reused cache of the first turns, have the logits of those without?"""
    talk = Conversation((Turn("user", first), Turn("assistant", ("a",)), Turn("user", (picture.flip(-1), "and this"))))
    other = Conversation((Turn("user", (picture, "a")),))
    try:
        model.batcher.shares_cache = model.batcher.shares_pictures = False
        written, plain = _truth(model, talk)
        _truth(model, other)  # what a model keeps of its last call must not matter
        model.batcher.shares_cache = model.batcher.shares_pictures = True
        batch = next(iter(model.batcher.batches([talk, talk])))
        _, reused = model._generate(batch, TOKENS, True, min_new_tokens=TOKENS)
        _truth(model, other)
        likely = model._log_probs(batch, written[:, None].repeat(2, 1, 1))[1:, 0]
    except FOREIGN as error:
        return _lacks(error)
    finally:
        model.batcher.shares_cache = model.batcher.shares_pictures = False
        model.batcher._prefixes.clear()
    if batch.shared.length == 0 or reused is None:
        return False
    return close(reused[1:].float().log_softmax(-1), plain) and close(likely, plain)


def _pads(model: TransformersGenerator, picture: Tensor) -> bool:
    """Are conversations of two lengths answered together as each alone, also after a reused cache?"""
    short, long = (Turn("user", (picture, text)) for text in ("what is this", "what is this and what is that in the picture"))
    shared = (Turn("user", ("what is this",)), Turn("assistant", ("a",)))
    for before in ((), shared) if model.batcher.shares_cache else ((),):
        talks = [Conversation((*before, turn)) for turn in (long, short)]
        try:
            model.batcher.pads = False
            alone = [_truth(model, talk)[1] for talk in talks]
            model.batcher.pads = True
            (batch,) = model.batcher.batches(talks, new=TOKENS)
            _, together = model._generate(batch, TOKENS, True, min_new_tokens=TOKENS + model._forced)
        except (ModelError, ValueError, *FOREIGN):
            return False
        finally:
            model.batcher.pads = False
            model.batcher._prefixes.clear()
        if together is None or not all(close(together[place].float().log_softmax(-1), alone[row][0]) for place, row in enumerate(batch.rows)):
            return False
    return True


def _pixels_matter(model: TransformersGenerator, picture: Tensor, written: Tensor) -> bool:
    pixels = picture.clone().to(model.device).requires_grad_()
    batch = next(iter(model.batcher.batches([Conversation((Turn("user", (pixels, "what is this")),))])))
    return _arrives(model, batch, written, pixels)


def _embeddings_matter(model: TransformersGenerator, talk: Conversation, written: Tensor) -> bool:
    """Do a text's own embeddings, put in by hand, change nothing, and does a gradient reach them?"""
    import torch

    slots = model.slots(talk, "what is this")
    if not slots:
        return False
    ids = model.tokens(talk)
    values = model.token_embeddings([ids[slot] for slot in slots]).clone().requires_grad_()
    plain = next(iter(model.batcher.batches([talk])))
    batch = next(iter(model.batcher.batches([talk], SoftTokens(values[None], [slots]))))
    try:
        same = torch.allclose(
            model._log_probs(batch, written[:, None]), model._log_probs(plain, written[:, None]), atol=1e-4
        )
    except FOREIGN as error:
        return _lacks(error)
    return same and _arrives(model, batch, written, values)


def _arrives(model: TransformersGenerator, batch: object, written: Tensor, source: Tensor) -> bool:
    """Does a gradient of the likelihood reach the source, finite and not all zero?"""
    import torch

    try:
        table = model._log_probs(batch, written[:, None])  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(table.gather(-1, written[:, None, :, None]).sum(), source)
    except FOREIGN as error:
        return _lacks(error)
    return bool(torch.isfinite(gradient).all()) and bool(gradient.abs().max() > 0)


def _lacks(error: Exception) -> bool:
    """False, of what a model cannot do; memory that ran out says nothing of that, and is raised again."""
    if ran_out_of_memory(error):
        raise error
    return False


def _attends(model: TransformersGenerator, talk: Conversation) -> bool:
    """Are attention weights to the picture given, each between 0 and 1?"""
    try:
        found = model.attention([talk], ["a b"])[0]
    except FOREIGN as error:
        return _lacks(error)
    return found.shape[-1] > 0 and bool((found >= 0).all()) and bool((found.sum(-1) <= 1.001).all())
