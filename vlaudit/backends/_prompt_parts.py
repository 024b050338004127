"""What a prompt adds to a diffusers pipeline while it is active: tokens, adapters. Afterwards nothing of it is left to see."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlaudit.errors import UsageError, first_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from vlaudit.families.text_to_image import AttentionControl

_DOWN = re.compile(r"(lora_A|lora_down|lora\.down|_lora\.down|lora_linear_layer\.down)\.weight$")


def unknown_token(tokenizer: Any, token: str) -> bool:
    """Whether the tokenizer has no entry of its own for the token."""
    ids = tokenizer(token, add_special_tokens=False, verbose=False).input_ids
    return len(ids) != 1 or ids[0] == tokenizer.unk_token_id


def spell(token: str, count: int) -> list[str]:
    """The tokens of a concept of ``count`` vectors, named as diffusers does: its pipelines write ``token token_1 …`` for
    ``token`` by themselves."""
    return [token, *(f"{token}_{index}" for index in range(1, count))]


@contextmanager
def token_vectors(encoder: Any, first: int, vectors: Tensor) -> Iterator[None]:
    """While open, the embedding table answers ids from ``first`` on with the rows of ``vectors``, which may require
    gradients; the table itself keeps its size."""
    table: nn.Module = encoder.get_input_embeddings()
    found: list[Tensor] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found[:] = [inputs[0]]
        return (inputs[0].where(inputs[0] < first, 0), *inputs[1:])

    def answer(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        ids = found[0]
        mine = (ids >= first)[..., None]
        rows = vectors.to(output)[(ids - first).clamp(0, len(vectors) - 1)]
        return rows.where(mine, output)

    handles = [table.register_forward_pre_hook(look), table.register_forward_hook(answer)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class AddedTokens:
    """The tokens that prompts add to a pipeline's text sides (tokenizer, encoder)."""

    def __init__(self, pipe: Any, sides: Sequence[tuple[str, str]]) -> None:
        self._pipe = pipe
        self._sides = sides
        self._tokenizers: dict[tuple[str, ...], Any] = {}

    @contextmanager
    def on(self, token: str, vectors: Sequence[Tensor]) -> Iterator[None]:
        """While open, the text sides know the token; ``vectors``: (K, E) for each of the first sides."""
        with ExitStack() as stack:
            for (tokenizer, encoder), rows in zip(self._sides, vectors, strict=False):
                own = getattr(self._pipe, tokenizer)
                if unknown_token(own, token):  # else it is on already
                    setattr(self._pipe, tokenizer, self._grown(tokenizer, own, spell(token, len(rows))))
                    stack.callback(setattr, self._pipe, tokenizer, own)
                    stack.enter_context(token_vectors(getattr(self._pipe, encoder), len(own), rows))
            yield

    def _grown(self, name: str, tokenizer: Any, tokens: list[str]) -> Any:
        """A copy of a tokenizer that knows the tokens, with ids above all its own. Copying is slow, so kept."""
        from tokenizers import AddedToken

        key = (name, *tokens)
        if key not in self._tokenizers:
            grown = copy.deepcopy(tokenizer)
            grown.add_tokens([AddedToken(token, normalized=False) for token in tokens])
            self._tokenizers[key] = grown
        return self._tokenizers[key]


class Adapters:
    """The LoRA adapters of a pipeline: loaded once, switched off unless one is in use."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._loaded: set[str] = set()
        self._stack: list[tuple[str, float]] = []

    def load(self, name: str, source: dict[str, Tensor], path: Path) -> None:
        """Load tensors in diffusers' or kohya's naming, switched off.

        ``path``: what an error names. Raises UsageError for what does not fit the pipeline.
        """
        if name in self._loaded:
            return
        if not hasattr(self._pipe, "load_lora_weights"):
            raise UsageError(f"The pipeline class {type(self._pipe).__name__} takes no LoRA adapters.", "Leave it out.")
        try:
            self._pipe.load_lora_weights(dict(source), adapter_name=name)
        except (ValueError, RuntimeError, KeyError, TypeError, OSError, AttributeError, IndexError) as error:
            self._forget(name)
            raise UsageError(
                f"The adapter '{path}' does not fit the pipeline: {first_line(error)[:200]}.",
                "It was made for another model, or is damaged.",
            ) from error
        if not any(name in names for names in self._pipe.get_list_adapters().values()):
            raise UsageError(
                f"The adapter '{path}' names no part of this pipeline.", "It was made for another kind of model."
            )
        lost = len({key for key in source if _DOWN.search(key)}) - self._modules(name)
        if lost > 0:
            self._forget(name)
            raise UsageError(
                f"The adapter '{path}' changes {lost} modules that this pipeline does not have, or has under other names.",
                "It was made for another model; without them another adapter would be audited.",
            )
        self._loaded.add(name)
        self._apply()

    def _modules(self, name: str) -> int:
        """How many modules an adapter changes; one that was split is several."""
        import torch
        from peft.tuners.lora import LoraLayer

        parts = [part for part in self._pipe.components.values() if isinstance(part, torch.nn.Module)]
        return sum(isinstance(module, LoraLayer) and name in module.lora_A for part in parts for module in part.modules())

    def _forget(self, name: str) -> None:
        """Take a half-loaded adapter out again."""
        import torch
        from peft.tuners.tuners_utils import BaseTunerLayer

        for part in self._pipe.components.values():
            if isinstance(part, torch.nn.Module):
                for module in part.modules():
                    if isinstance(module, BaseTunerLayer):
                        module.delete_adapter(name)
                getattr(part, "peft_config", {}).pop(name, None)

    @contextmanager
    def training(self, part: str, rank: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """While open, a part of the pipeline carries a fresh trainable adapter on its attention layers: its parameters, in
        diffusers' naming, which change in place."""
        import torch
        from peft import LoraConfig

        name, module = "vlaudit_training", getattr(self._pipe, part)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
        module.add_adapter(config, adapter_name=name)
        try:
            module.set_adapter(name)
            module.enable_adapters()
            module.requires_grad_(False)
            mine = f".{name}."
            found = {key.replace(mine, "."): value for key, value in module.named_parameters() if mine in key}
            generator = torch.Generator().manual_seed(seed)
            for key, value in sorted(found.items()):
                if "lora_A" in key:  # peft's own start, drawn so that it can be repeated; lora_B starts at zero
                    draw = torch.rand(value.shape, generator=generator) * 2 - 1
                    value.copy_(draw / value.shape[-1] ** 0.5)
                value.requires_grad_(True)
            yield {f"{part}.{key}": value for key, value in sorted(found.items())}
        finally:
            self._forget(name)
            if self._loaded:
                self._apply()

    @contextmanager
    def on(self, name: str, scale: float) -> Iterator[None]:
        """While open, this adapter alone is in use."""
        self._stack.append((name, scale))
        self._apply()
        try:
            yield
        finally:
            self._stack.pop()
            self._apply()

    def _apply(self) -> None:
        if self._stack:
            name, scale = self._stack[-1]
            self._pipe.enable_lora()
            self._pipe.set_adapters([name], adapter_weights=[scale])
        else:
            self._pipe.disable_lora()
        for part in self._pipe.components.values():
            if hasattr(part, "requires_grad_"):
                part.requires_grad_(False)  # peft makes what it activates trainable


def text_layers(unet: Any) -> dict[str, tuple[nn.Module, str]]:
    """The layers of a U-Net that attend to the text and the name of each weight in them, by the weight's name in the state dict."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for name, module in unet.named_modules():
        if not name.endswith(".attn2"):
            continue
        for place in ("to_q", "to_k", "to_v", "to_out.0"):
            layer = module.get_submodule(place)
            layer = getattr(layer, "base_layer", layer)  # below an adapter
            found |= {f"{name}.{place}.{key}": (layer, key) for key in ("weight", "bias") if getattr(layer, key, None) is not None}
    return found


@contextmanager
def reweighted(unet: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """While open, these weights of ``text_layers`` stand for the U-Net's own."""
    layers, own = text_layers(unet), []
    try:
        for name, value in weights.items():
            layer, key = layers[name]
            plain = getattr(layer, key)
            own.append((layer, key, layer._parameters.pop(key, None), plain))
            setattr(layer, key, value.to(plain))
        yield
    finally:
        for layer, key, parameter, plain in reversed(own):
            delattr(layer, key)
            if parameter is None:
                setattr(layer, key, plain)  # of an outer use
            else:
                layer.register_parameter(key, parameter)


@contextmanager
def attention_control(unet: Any, control: AttentionControl) -> Iterator[None]:
    """While open, the U-Net's attention maps go through ``control``."""
    from diffusers.models.attention_processor import AttnProcessor

    timesteps: list[Tensor] = []

    def look(_module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        import torch

        sample = arguments[0] if arguments else named["sample"]
        t = torch.as_tensor(arguments[1] if len(arguments) > 1 else named["timestep"], device=sample.device)
        timesteps[:] = [t.expand(len(sample)) if t.dim() == 0 else t]

    class Controlled(AttnProcessor):
        """The plain processor, which computes its maps explicitly, with the maps intercepted."""

        def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                     *arguments: Any, **named: Any) -> Tensor:  # fmt: skip
            plain = attn.get_attention_scores

            def scores(*inputs: Any) -> Tensor:
                maps = plain(*inputs)
                rows = maps.unflatten(0, (-1, attn.heads))
                return control(rows, encoder_hidden_states is not None, timesteps[0]).flatten(0, 1)

            attn.get_attention_scores = scores
            try:
                return super().__call__(attn, hidden_states, encoder_hidden_states, *arguments, **named)
            finally:
                del attn.get_attention_scores

    own = dict(unet.attn_processors)
    unet.set_attn_processor(Controlled())
    handle = unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        unet.set_attn_processor(own)
