"""Loads a generation model and finds out what it can do: measured on two small conversations instead of known by its name.

The logits that the checkpoint's own ``generate`` uses are the truth. Likelihoods must agree with them, and so must an
answer after a reused key-value cache; gradients must arrive and be finite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vlaudit.backends.adapters import merge
from vlaudit.backends.base import placing, refuse_oversized
from vlaudit.backends.precision import FP32, even_out, in_precision
from vlaudit.backends.transformers_generation import TransformersGenerator
from vlaudit.backends.transformers_matching import refuse_random, unread
from vlaudit.backends.transformers_reader import FOREIGN, noise
from vlaudit.device import PLAIN, Loading
from vlaudit.errors import ModelError, foreign, ran_out_of_memory
from vlaudit.families.generation import Conversation, Turn
from vlaudit.families.matching import SoftTokens
from vlaudit.inspection.folder import ModelFolder
from vlaudit.records import Needs

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOKENS = 3  # generated to compare with
ROUGH = 0.1  # of the spread of log probabilities: how far another order of summing moves them in 16 bits, or in quantised weights


def load_generator(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None = None, how: Loading = PLAIN
) -> TransformersGenerator:
    """Load an image-text-to-text model from a folder that was inspected, with an adapter in it where there is one. Raises
    ModelError."""
    import torch

    dtype, spec = how.precision(device, folder.stored), f"hf:{argument}"
    where = placing(folder, device, how, spec)
    before: list[Measured] = []

    def build(dtype: torch.dtype) -> TransformersGenerator:
        generator = _load(argument, folder, device, adapter, dtype, where)
        if isinstance(how.before, Measured):
            how.before.tell(generator)
            return generator
        with foreign(f"'{spec}' cannot answer", FP32 if dtype != torch.float32 else "Its files do not fit together."):
            generator.capabilities = capabilities(generator)
        measured = Measured.of(generator)
        for exact in before:  # in float32, where equal numbers say more
            measured = measured.both(exact)
            if lost := sorted(need.value for need in exact.capabilities - measured.capabilities):
                said = f"'{spec}' has no {' and no '.join(lost)} in this precision, and has in float32."
                generator.remarks = [*generator.remarks, said]
        measured.tell(generator)
        before[:] = [measured]
        return generator

    return in_precision(spec, build, dtype, folder, device, replace(how, spread=where.get("device_map") == "auto"))


def _load(
    argument: str, folder: ModelFolder, device: torch.device, adapter: ModelFolder | None, dtype: torch.dtype,
    where: dict[str, Any],
) -> TransformersGenerator:  # fmt: skip
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
            folder.path, dtype=dtype, output_loading_info=True, use_safetensors=folder.safetensors, **where, **safe
        )
        refuse_random(argument, report)
        if folder.quantised:
            even_out(model, dtype)
        processor = AutoProcessor.from_pretrained(folder.path, **safe)
        weights, files = folder.weights, folder.files
        if adapter:
            model, weights, files = merge(model, adapter), [*weights, *adapter.weights], [*files, *adapter.files]
        generator = TransformersGenerator(f"hf:{argument}", model, processor, weights, files, device)
        generator.remarks = unread(argument, report)
        return generator


@dataclass(frozen=True)
class Measured:
    """What was found that a model can do."""

    capabilities: frozenset[Needs]
    steps: bool
    batches: dict[str, bool]

    @classmethod
    def of(cls, model: TransformersGenerator) -> Measured:
        batches = {name: getattr(model.batcher, name) for name in ("several", "shares_cache", "shares_pictures", "pads")}
        return cls(model.capabilities, model.steps, batches)

    def both(self, other: Measured) -> Measured:
        """What was found each time."""
        capabilities = self.capabilities & other.capabilities
        if self.steps != other.steps:
            capabilities -= {Needs.TOKEN_LOGITS, Needs.PIXEL_GRADIENTS, Needs.EMBEDDING_GRADIENTS, Needs.ATTENTION}
        batches = {name: found and other.batches[name] for name, found in self.batches.items()}
        return Measured(capabilities, self.steps, batches)

    def tell(self, model: TransformersGenerator) -> None:
        model.capabilities, model.steps, model.measured = self.capabilities, self.steps, self
        for name, found in self.batches.items():
            setattr(model.batcher, name, found)


def capabilities(model: TransformersGenerator) -> frozenset[Needs]:
    """Finds out, and sets ``model.steps`` and ``model.batcher``'s ``several`` and ``shares_cache``."""
    import torch

    have = {Needs.ANSWERS, Needs.CHAT_TEMPLATE} if model._reader.has_template else {Needs.ANSWERS}
    picture = model.preprocess(noise(72, 72))
    talk = Conversation((Turn("user", (picture, "what is this")),))
    with torch.no_grad():
        written, logits = _truth(model, talk)
        if not torch.isfinite(logits).any(dim=-1).all() or torch.isnan(logits).any():
            cure = "Its weights are damaged." if model.exact else f"{FP32[:-1]}, or look for damage in its weights."
            raise ModelError(f"'{model.spec}' yields NaN for a picture and a question.", cure)
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
    return close(found, logits, model.exact)


def close(found: Tensor, logits: Tensor, exact: bool = True) -> bool:
    """Equal log distributions, up to what another order of summing does to float32, or to fewer bits where it is not ``exact``."""
    import torch

    expected = logits.float().log_softmax(-1)
    if found.shape != expected.shape or exact:
        return found.shape == expected.shape and torch.allclose(found.float(), expected, atol=1e-3, rtol=1e-3)
    whole = torch.isfinite(expected)
    off = (found.float() - expected)[whole].square().mean().sqrt()
    return bool(off <= ROUGH * expected[whole].std()) and bool((torch.isfinite(found) == whole).all())


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
    return close(reused[1:].float().log_softmax(-1), plain, model.exact) and close(likely, plain, model.exact)


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
        if together is None or not all(close(together[place].float().log_softmax(-1), alone[row][0], model.exact) for place, row in enumerate(batch.rows)):
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
    if not torch.isfinite(gradient).all():
        said = f"Gradients of '{model.spec}' are not finite, so what searches by them is left out; weights that were never trained do this."
        model.remarks = list(dict.fromkeys([*model.remarks, said]))
        return False
    return bool(gradient.abs().max() > 0)


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
    return found.shape[-1] > 0 and bool((found >= 0).all()) and bool((found.sum(-1) <= (1.001 if model.exact else 1.05)).all())
