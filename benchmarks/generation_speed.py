"""Pictures per second: vlaudit's batched drawing against one prompt at a time through the pipeline, on the same work.

    python benchmarks/generation_speed.py [--model TARGET] [--pictures 32] [--batch-size 16] [--steps 20]

Captions, seeds, steps and guidance are the same on both sides, and so are the pictures (checked). An audit draws many
pictures of few captions, which is what is measured. Without --model the pipeline is a random one with a denoiser of 10 million parameters,
with latents of 16 x 16: times do not depend on the weights. Times are of this process's CPU, which other processes do not
distort; on CUDA of the wall clock.

Also measured, on our side: the share of time outside the bare denoising steps (denoiser and scheduler; so texts, the
pipeline's own bookkeeping and ours, and the VAE where pictures are decoded). It must stay below 10 % for latents, which is
what probes that need no pixels draw.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vlaudit.audit.subjects import resolve_zoo
from vlaudit.audit.targets import parse_model
from vlaudit.config import TargetSpec
from vlaudit.device import pick_device
from vlaudit.families.text_to_image import TextToImageGenerator
from vlaudit.prompts.design import Design

CAPTIONS = ["a photo of a cat", "a photo of a dog", "a painting of a bird", "a red apple on a table"]
OVERHEAD = 0.10  # the largest share of time outside the denoising steps
WORDS = sorted({word for caption in CAPTIONS for word in caption.split()})


def random_pipeline(folder: Path) -> str:
    """Save a Stable Diffusion pipeline of the size of the bundled one, randomly initialised."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    vocabulary = {word: index for index, word in enumerate(["<s>", "<unk>", *WORDS, "</s>"])}
    end = len(vocabulary) - 1
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", end)]
    )
    text = CLIPTextConfig(
        vocab_size=end + 1, hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=24, bos_token_id=0, eos_token_id=end, pad_token_id=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        unet=UNet2DConditionModel(
            sample_size=16, block_out_channels=(64, 128, 128), layers_per_block=2, cross_attention_dim=128, norm_num_groups=16,
            attention_head_dim=8, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        vae=AutoencoderKL(
            block_out_channels=(32, 64), latent_channels=4, norm_num_groups=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="</s>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
            model_max_length=24,
        ),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return f"diffusers:{folder}"


class Clock:
    """CPU seconds of this process, or wall-clock seconds on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()

    def time(self, run: Callable[[], Any]) -> tuple[float, Any]:
        then = self.now()
        result = run()
        return self.now() - then, result


@contextmanager
def denoising_time(pipe: Any, denoiser: Any, clock: Clock) -> Iterator[list[float]]:
    """While open, the seconds that the denoiser and the scheduler's steps take are added up."""
    spent = [0.0]
    holders = [(denoiser, "forward"), (pipe.scheduler, "step")]

    def timed(run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            seconds, result = clock.time(lambda: run(*arguments, **named))
            spent[0] += seconds
            return result

        return wrapped

    for holder, name in holders:
        setattr(holder, name, timed(getattr(holder, name)))
    try:
        yield spent
    finally:
        for holder, name in holders:
            delattr(holder, name)


def one_at_a_time(pipe: Any, captions: list[str], seeds: list[int], steps: int, guidance: float) -> torch.Tensor:
    """What a script does: a call for each picture."""
    pictures = []
    for caption, seed in zip(captions, seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        output = pipe(
            caption, num_inference_steps=steps, guidance_scale=guidance, generator=generator, output_type="pt"
        )
        pictures.append(output.images)
    return torch.cat(pictures)


def batched(target: TextToImageGenerator, captions: list[str], seeds: list[int], steps: int, size: int,
            latents_only: bool = False) -> torch.Tensor:  # fmt: skip
    parts = [
        target.generate(captions[i : i + size], seeds[i : i + size], steps=steps, latents_only=latents_only).images
        for i in range(0, len(captions), size)
    ]
    return torch.cat(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a TARGET as for `vlaudit scan`")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = pick_device(options.device)
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        spec = resolve_zoo(TargetSpec(model=options.model)).model if options.model else random_pipeline(Path(folder))
        backend, argument = parse_model(spec)
        model: Any = backend.load(argument, device)
    target = Design().bind(model)
    captions = (CAPTIONS * options.pictures)[: options.pictures]
    seeds = list(range(options.pictures))
    size, steps = options.batch_size, options.steps
    batched(Design().bind(model), captions[:2], seeds[:2], 2, 2)  # warm up

    plain, expected = clock.time(lambda: one_at_a_time(model.pipe, captions, seeds, steps, model.guidance))
    with denoising_time(model.pipe, model.denoiser, clock) as denoising:
        ours, pictures = clock.time(lambda: batched(target, captions, seeds, steps, size))
    with denoising_time(model.pipe, model.denoiser, clock) as latent_denoising:
        latents, _ = clock.time(lambda: batched(target, captions, seeds, steps, size, latents_only=True))

    parameters = sum(parameter.numel() for parameter in model.denoiser.parameters())
    print(
        f"{options.model or 'random pipeline'}: {parameters / 1e6:.1f} M denoiser, {options.pictures} pictures, {steps} steps,"
    )
    print(f"guidance {model.guidance:g}, batch {size}, {device}, {torch.get_num_threads()} threads")
    print(f"largest difference between the pictures: {float((pictures - expected).abs().max()):.1e}")
    print(f"one at a time   {options.pictures / plain:7.2f} pictures/s")
    print(f"vlaudit         {options.pictures / ours:7.2f} pictures/s   ({plain / ours:.2f} times)")
    print(f"vlaudit latents {options.pictures / latents:7.2f} latents/s    ({plain / latents:.2f} times)")
    print(
        f"outside the denoising steps: {1 - denoising[0] / ours:.1%} of pictures, {1 - latent_denoising[0] / latents:.1%} of latents"
    )
    if 1 - latent_denoising[0] / latents > OVERHEAD:
        raise SystemExit(f"The overhead of latents is above {OVERHEAD:.0%}.")


if __name__ == "__main__":
    main()
