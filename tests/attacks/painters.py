"""Text-to-image pipelines whose memory is known exactly: denoisers in closed form, of a world whose captions leave much
open, with some of its pictures remembered to a stated degree. Text encoder, scheduler and sampling are the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin, StableDiffusionPipeline
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import CLIPTextConfig, CLIPTextModel

from vlaudit.backends.diffusion_kinds import StableDiffusion
from vlaudit.data.dataset import Dataset
from vlaudit.data.example import Example
from vlaudit.probe import Context
from vlaudit.probe.artifacts import ArtifactStore
from vlaudit.prompts.specs import parse_prompt
from vlaudit.records import Family, Trials

SIDE, CONTEXT = 16, 8
SHAPES = ("disc", "square", "ring", "cross", "stripe")
WORDS = ["oak", "river", "stone", "cloud", "amber", "maple", "harbor", "meadow", "ember", "willow", "cedar", "linen"]
SPREAD = 0.2  # of every pixel around its shape's middle
MIDDLES = 0.5 + 0.12 * np.random.default_rng(1).standard_normal((len(SHAPES), 3, 4, 4)).repeat(4, 2).repeat(4, 3)


class Blocks(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """An exact autoencoder: the pixels of every 2 x 2 block are the channels of one latent."""

    @register_to_config
    def __init__(self, block_out_channels: tuple[int, int] = (1, 1), scaling_factor: float = 1.0) -> None:
        super().__init__()
        self.encoder = torch.nn.Identity()
        self.anchor = torch.nn.Parameter(torch.zeros(1))  # gives the module a dtype

    def encode(self, pixels: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: pixel_unshuffle(pixels, 2)))

    def decode(self, latents: Tensor, return_dict: bool = True, **_: Any) -> Any:
        sample = pixel_shuffle(latents, 2)
        return SimpleNamespace(sample=sample) if return_dict else (sample,)


@dataclass
class World:
    """Captioned pictures (N, 3, 16, 16) in [0, 1]: members, and others that bear the same captions."""

    captions: list[str]
    members: Tensor
    others: Tensor

    @classmethod
    def of(cls, size: int = 80) -> World:
        rng = np.random.default_rng(5)
        captions = list(dict.fromkeys(caption(rng) for _ in range(2 * size)))[:size]
        return cls(captions, pictures(captions, rng), pictures(captions, rng))

    def dataset(self) -> Dataset:
        sides = ((True, self.members), (False, self.others))
        return Dataset("painted", [
            Example(f"{'train' if member else 'test'}/{i:03}", _pixels(image), text.split()[1],
                    "train" if member else "test", {"identity": f"{member} {i}"}, {"text": text}, member)
            for member, images in sides for i, (text, image) in enumerate(zip(self.captions, images, strict=True))
        ])  # fmt: skip


def caption(rng: np.random.Generator) -> str:
    return f"a {rng.choice(SHAPES)} of {' '.join(rng.choice(WORDS, 3, replace=False))}"


def pictures(captions: Sequence[str], rng: np.random.Generator) -> Tensor:
    """What the world shows: its shape's middle, and much that the caption leaves open."""
    middles = np.stack([MIDDLES[SHAPES.index(text.split()[1])] for text in captions])
    return torch.from_numpy(np.clip(middles + rng.normal(0, SPREAD, middles.shape), 0, 1).astype(np.float32))


def _pixels(image: Tensor) -> np.ndarray:
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<s>", "<unk>", "a", "of", *SHAPES, *WORDS, "</s>"])}
    own = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = [("<s>", 0), ("</s>", len(words) - 1)]
    own.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=tokens)
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="</s>", unk_token="<unk>", bos_token="<s>",
                                   eos_token="</s>", model_max_length=CONTEXT)  # fmt: skip


class Painter(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The best denoiser of a world in closed form: it predicts E[x_0 | x_t, caption] for pictures that scatter around
    their shape's middle, and for captions that are remembered, mostly that one picture.

    ``own`` (M, L, W): the text states of remembered captions, ``shown`` (M, c, h, w): their latents, ``odds``: log odds
    that such a caption means its picture; ``shapes`` (S, W): the states of the shapes' words.
    """

    @register_to_config
    def __init__(
        self, sample_size: int = SIDE // 2, in_channels: int = 12, time_cond_proj_dim: int | None = None
    ) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def know(self, levels: Tensor, shapes: Tensor, own: Tensor, shown: Tensor, odds: float) -> None:
        self.levels, self.shapes, self.own, self.shown, self.odds = levels, shapes, own, shown, odds
        self.middles = pixel_unshuffle(torch.from_numpy(MIDDLES).float() * 2 - 1, 2)

    def forward(
        self, noisy: Tensor, times: Any, encoder_hidden_states: Tensor, return_dict: bool = True, **_: Any
    ) -> Any:
        times = torch.as_tensor(times).expand(len(noisy)).long()
        a = self.levels[times].sqrt()[:, None, None, None]
        s2, v = 1 - a**2, (2 * SPREAD) ** 2
        alike = -(encoder_hidden_states[:, 2, None] - self.shapes).square().mean(-1)
        middle = torch.einsum("bs,schw->bchw", (alike / 0.05).softmax(-1), self.middles)
        general = middle + a * v / (a**2 * v + s2) * (noisy - a * middle)
        if not len(self.own):
            return SimpleNamespace(sample=general) if return_dict else (general,)
        far = (encoder_hidden_states[:, None] - self.own).square().mean((-1, -2))
        size = noisy[0].numel()
        fits = -(noisy[:, None] - a[:, None] * self.shown).square().sum((2, 3, 4)) / 2 / s2[:, 0, 0]
        plain = -(noisy - a * middle).square().sum((1, 2, 3)) / 2 / (s2 + a**2 * v)[:, 0, 0, 0]
        plain = plain - size / 2 * ((s2 + a**2 * v) / s2).log()[:, 0, 0, 0]
        weights = torch.cat([plain[:, None], fits + self.odds - 60 * far], dim=1).softmax(dim=1)
        recalled = torch.einsum("bm,mchw->bchw", weights[:, 1:], self.shown)
        mixed = weights[:, 0, None, None, None] * general + recalled
        return SimpleNamespace(sample=mixed) if return_dict else (mixed,)


def painter(world: World, remembered: int = 0, odds: float = 6.0) -> StableDiffusion:
    """A pipeline that knows the world, and remembers the pictures of the first members."""
    torch.manual_seed(0)
    words = tokenizer()
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=len(words) - 1, pad_token_id=1, hidden_act="gelu",
    )).eval()  # fmt: skip
    with torch.no_grad():
        text.get_input_embeddings().weight.mul_(30)  # words far apart, as in a trained encoder
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                              set_alpha_to_one=False, steps_offset=1, prediction_type="sample")  # fmt: skip
    with torch.no_grad():
        shapes = torch.cat([_states(text, words, f"a {shape} of oak")[:, 2] for shape in SHAPES])
        own = [_states(text, words, caption) for caption in world.captions[:remembered]]
    unet = Painter()
    unet.know(scheduler.alphas_cumprod, shapes, torch.cat(own) if own else torch.zeros(0),
              pixel_unshuffle(world.members[:remembered] * 2 - 1, 2), odds)  # fmt: skip
    pipe = StableDiffusionPipeline(
        unet=unet, vae=Blocks(), text_encoder=text, tokenizer=words, scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    sampling = {"num_inference_steps": 8, "guidance_scale": 2.0}
    return StableDiffusion("painted", pipe, [], "0" * 64, torch.device("cpu"), sampling)


def _states(encoder: Any, words: Any, text: str) -> Tensor:
    ids = words(text, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids
    return encoder(ids)[0]  # type: ignore[no-any-return]


def context(model: StableDiffusion, world: World, probe: str, folder: Path, prompt: str | None = None) -> Context:
    target = parse_prompt(prompt, Family.TEXT_TO_IMAGE).bind(model)
    return Context(probe, "target", world.dataset(), [], ArtifactStore(folder), _target=target)


def attempt(probe: Any, ctx: Context) -> Trials:
    """All trials of a probe on the target arm."""
    ctx.start_clock()
    return Trials(probe.attempt(ctx, probe.cases(ctx)), reference_note="the target is the reference")
