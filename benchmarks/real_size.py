"""Models of real size with random weights, and what a scan of each takes on this machine's GPU.

    python -m benchmarks.real_size [--kind NAME]... [--budget 20s] [--device cuda] [--layers N] [--out FILE]

Each model is built on the device from its true configuration, saved as a folder as its makers would publish it (in 16 bits where
they do), and scanned through the command line, with every probe of its family and a small budget. Printed, a row each, in
Markdown: seconds in all, the most memory that the device had in use, passes a second, the share of the time in which it had
nothing to do, and how many findings were assessed. Random weights say nothing, so no verdict is looked at. ``--layers``: so many
layers in each stack, to try the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests import generators
from vlaudit.backends.transformers_reader import noise
from vlaudit.records import Family

CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14}
CLIP_L_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G_TEXT = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20, "hidden_act": "gelu"}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
WORDS = ("cat", "dog", "car", "picture", "user")


@dataclass(frozen=True)
class Kind:
    """A model of real size. ``config``: of the part that takes the time; ``save``: the whole, as a folder."""

    family: Family
    title: str
    halves: bool  # whether it is published in 16 bits
    config: Callable[[], Any]
    save: Callable[[Path, Any], None]

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.halves else torch.float32


def _clip_config() -> Any:
    from transformers import CLIPConfig

    ends = {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    return CLIPConfig(vision_config=dict(CLIP_L), text_config={**CLIP_L_TEXT, **ends}, projection_dim=768)


def save_clip(folder: Path, config: Any) -> None:
    from transformers import CLIPImageProcessor, CLIPModel

    side = config.vision_config.image_size
    CLIPModel(config).save_pretrained(folder)
    _words(77, end=True).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder)


def _siglip_config() -> Any:
    from transformers import SiglipConfig

    vision, text = {**SO400M, "patch_size": 14, "image_size": 384}, {**SO400M, "vocab_size": 256000}
    return SiglipConfig(vision_config=vision, text_config=text)


def _save_siglip(folder: Path, config: Any) -> None:
    from transformers import SiglipImageProcessor, SiglipModel

    SiglipModel(config).save_pretrained(folder)
    _words(64, start=False, end=True).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 384, "width": 384}).save_pretrained(folder)


def _llava_config() -> Any:
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP_L, "image_size": 336, "projection_dim": 768},
        text_config={"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096,
                     "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        image_token_id=len(generators.tokenizer()),
    )  # fmt: skip


def _save_llava(folder: Path, config: Any) -> None:
    from transformers import CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor

    words = generators.tokenizer(image_token="<image>")
    pictures = CLIPImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    processor = LlavaProcessor(pictures, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                               chat_template=generators.CHAT.replace("IMAGE", "<image>"))  # fmt: skip
    _speaking(LlavaForConditionalGeneration(config), words).save_pretrained(folder)
    processor.save_pretrained(folder)


def _speaking(model: Any, words: Any) -> Any:
    """The model, whose likeliest token is one of the tokenizer's words."""
    model.lm_head.weight.data[:4] = 0
    model.lm_head.weight.data[len(words) - 4 :] = 0
    return model


QWEN_MARKS = ["<|vision_start|>", "<|vision_end|>"]
QWEN_PADS = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}


def _qwen_config() -> Any:
    from transformers import Qwen2_5_VLConfig

    ids = generators.tokenizer(QWEN_MARKS, **QWEN_PADS).convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
        text_config={"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                     "num_key_value_heads": 4, "vocab_size": 152064, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
                     "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip


def _save_qwen(folder: Path, config: Any) -> None:
    from transformers import (
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    words = generators.tokenizer(QWEN_MARKS, **QWEN_PADS)
    sizes = {"size": {"shortest_edge": 56 * 56, "longest_edge": 448 * 448}}
    chat = generators.CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    pictures, videos = Qwen2VLImageProcessor(**sizes), Qwen2VLVideoProcessor(**sizes)
    _speaking(Qwen2_5_VLForConditionalGeneration(config), words).save_pretrained(folder)
    Qwen2_5_VLProcessor(pictures, words, videos, chat_template=chat).save_pretrained(folder)


def _sdxl_config() -> dict[str, Any]:
    return {
        "sample_size": 128, "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), "use_linear_projection": True,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }  # fmt: skip


def _save_sdxl(folder: Path, config: dict[str, Any]) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    words = _words(77, end=True)
    schedule = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                                      timestep_spacing="leading")  # fmt: skip
    StableDiffusionXLPipeline(
        unet=UNet2DConditionModel(**config), vae=_vae(4, 0.13025, force_upcast=True), scheduler=schedule, tokenizer=words, tokenizer_2=words,
        text_encoder=CLIPTextModel(_text(CLIP_L_TEXT)), text_encoder_2=CLIPTextModelWithProjection(_text(CLIP_G_TEXT, 1280)),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip


def _save_flux(folder: Path, config: dict[str, Any]) -> None:
    """Its second text encoder has two layers of its 24: texts take little of the time, and it would be a third of the memory."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    words = _words(77, end=True)
    second = T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64, feed_forward_proj="gated-gelu")
    FluxPipeline(
        transformer=FluxTransformer2DModel(**config), vae=_vae(16, 0.3611, shift_factor=0.1159), tokenizer=words, tokenizer_2=_words(512, end=True),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), text_encoder=CLIPTextModel(_text(CLIP_L_TEXT)),
        text_encoder_2=T5EncoderModel(second),
    ).save_pretrained(folder)  # fmt: skip


def _text(tower: dict[str, Any], projection: int = 768) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(**tower, projection_dim=projection, eos_token_id=3, bos_token_id=2, pad_token_id=0)


def _vae(channels: int, scale: float, **more: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2, latent_channels=channels, sample_size=1024, scaling_factor=scale, **more,
    )  # fmt: skip


def _words(length: int, **marks: bool) -> Any:
    words = generators.tokenizer(**marks)
    words.model_max_length, words.padding_side = length, "right"
    return words


KINDS = {
    "clip-l": Kind(Family.MATCHING, "CLIP ViT-L/14, 224 pixels", False, _clip_config, save_clip),
    "so400m": Kind(Family.MATCHING, "SigLIP 2 so400m/14, 384 pixels", False, _siglip_config, _save_siglip),
    "llava-7b": Kind(Family.GENERATION, "LLaVA-1.5-7B", True, _llava_config, _save_llava),
    "qwen-7b": Kind(Family.GENERATION, "Qwen2.5-VL-7B, 448 pixels", True, _qwen_config, _save_qwen),
    "sdxl": Kind(Family.TEXT_TO_IMAGE, "SDXL, 1024 pixels", True, _sdxl_config, _save_sdxl),
    "flux": Kind(Family.TEXT_TO_IMAGE, "Flux.1-dev, 1024 pixels", True, lambda: {"guidance_embeds": True}, _save_flux),
}


def shrunk(config: Any, layers: int) -> Any:
    """The same with so many layers in each stack."""
    if isinstance(config, dict):
        fewer = {"num_layers": layers, "num_single_layers": layers} if "guidance_embeds" in config else {}
        return {**config, **fewer, **({"transformer_layers_per_block": 1} if "sample_size" in config else {})}
    for part in (config.vision_config, config.text_config):
        for name in ("num_hidden_layers", "depth"):
            if hasattr(part, name):
                setattr(part, name, layers)
        if hasattr(part, "layer_types"):
            part.layer_types = part.layer_types[:layers]
    return config


def save(kind: Kind, folder: Path, device: torch.device, layers: int | None = None) -> None:
    """Build a model on the device, with random weights, and save it."""
    config = kind.config()
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind.dtype)
    torch.manual_seed(0)
    try:
        with device:
            kind.save(folder, shrunk(config, layers) if layers else config)
    finally:
        torch.set_default_dtype(before)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def make_data(folder: Path, count: int = 240) -> None:
    """Pictures of noise with labels, groups, captions, questions and members: something for every probe."""
    rows = []
    for number in range(count):
        name, label = f"{number:03}.png", WORDS[number % len(WORDS)]
        shade = ("red", "blue")[number // len(WORDS) % 2]
        noise(64, 64, seed=number).resize((256, 256)).save(folder / name)
        rows.append({"file_name": name, "label": label, "text": f"a picture of the {label} and a {shade} car {number}",
                     "question": "what is this ?", "answer": label, "shade": shade, "seen": ("yes", "no")[number // 2 % 2]})  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


@dataclass
class Watched:
    """What a GPU did meanwhile: megabytes in use, and the share of each moment in which a kernel ran."""

    megabytes: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


@contextmanager
def watching(on: bool) -> Any:
    """While open, nvidia-smi looks twice a second."""
    found = Watched()
    if not on:
        yield found
        return
    ask = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
    with tempfile.TemporaryFile("w+") as file:
        looker = subprocess.Popen(ask, stdout=file)
        try:
            yield found
        finally:
            looker.terminate()
            looker.wait()
            file.seek(0)
            seen = [line.split(",") for line in file if line.count(",") == 1]
            found.megabytes, found.busy = [float(memory) for memory, _ in seen], [float(share) / 100 for _, share in seen]


def scan(folder: Path, kind: Kind, device: str, budget: str) -> dict[str, Any]:
    """Scan a folder through the command line; what came out, in numbers."""
    with ExitStack() as stack:
        data, out = (Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in range(2))
        make_data(data)
        backend = "diffusers" if kind.family is Family.TEXT_TO_IMAGE else "hf"
        command = [sys.executable, "-m", "vlaudit", "scan", f"{backend}:{folder}", "--data", str(data), "--group", "shade", "--members", "seen",
                   "--device", device, "--budget", budget, "--fail-on", "none", "--out", str(out / "audit")]  # fmt: skip
        if kind.family is Family.TEXT_TO_IMAGE:
            command += ["--scorer", "zoo:clean"]
        then = time.perf_counter()
        with watching(device == "cuda") as watched:
            ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        took = time.perf_counter() - then
        try:
            report = json.loads((out / "audit" / "report.json").read_text())
        except OSError:
            return {"error": (ended.stderr or ended.stdout)[-600:], "code": ended.returncode}
    findings = report["findings"]
    passes = sum(finding["cost"]["queries"] + finding["cost"].get("tokens", 0) for finding in findings)
    work = sum(finding["cost"]["seconds"] for finding in findings)
    failed = [f"{f['probe']}: {f['reason']}" for f in findings if "memory" in f["reason"] or "failed" in f["reason"] or "Error" in f["reason"]]
    return {
        "code": ended.returncode, "seconds": round(took), "gigabytes": round(max(watched.megabytes, default=0) / 1000, 1),
        "passes a second": round(passes / max(work, 1e-9)), "idle": round(1 - sum(watched.busy) / max(len(watched.busy), 1), 2),
        "assessed": sum(f["verdict"] != "not-assessed" for f in findings), "findings": len(findings), "failed": failed,
        "errors": report["audit"]["errors"],
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--kind", action="append", choices=list(KINDS))
    options.add_argument("--budget", default="20s")
    options.add_argument("--device", default="cuda")
    options.add_argument("--layers", type=int)
    options.add_argument("--out", type=Path, help="JSON with the same and what failed")
    chosen = options.parse_args()
    print("| model | seconds | memory in use | passes a second | idle | findings assessed |\n|---|---|---|---|---|---|")
    everything = {}
    for name in chosen.kind or KINDS:
        with tempfile.TemporaryDirectory() as folder:
            save(KINDS[name], Path(folder), torch.device(chosen.device), chosen.layers)
            everything[name] = found = scan(Path(folder), KINDS[name], chosen.device, chosen.budget)
        if "error" in found:
            print(f"| {KINDS[name].title} | ended with {found['code']} | | | | |", flush=True)
        else:
            print(f"| {KINDS[name].title} | {found['seconds']} | {found['gigabytes']} GB | {found['passes a second']:,} | {found['idle']:.0%} | "
                  f"{found['assessed']} of {found['findings']} |", flush=True)  # fmt: skip
        if chosen.out:
            chosen.out.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
