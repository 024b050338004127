"""What an audit of models of real size takes: passes, memory and hours, by counting. Nothing of that size is run.

    python -m benchmarks.sizing [--write] [--efforts quick standard thorough]

Three counts make an estimate. The *passes* are those that the plan of a specimen of the same family names, at each effort and
without a budget: they depend on how many pictures, labels and questions there are, hardly on the model. The *operations* and
the *bytes* of one pass are counted on the model itself, built from its true configuration without memory (torch's meta
device). The *hours* are the operations over a rate that a device is assumed to sustain; the rates are printed with the table, and are
the least certain of the three. ``--write`` puts the tables into docs/sizing.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vlaudit.audit.plan import make_plan
from vlaudit.audit.targets import Loader
from vlaudit.config import Request, TargetSpec
from vlaudit.families.passes import Living
from vlaudit.policy import Policy
from vlaudit.records import Cost, Family
from vlaudit.registry import ProbeRegistry

PAGE = Path(__file__).parents[1] / "docs" / "sizing.md"
MARKS = "<!-- sizing -->", "<!-- /sizing -->"
SPECIMENS = {Family.MATCHING: "zoo:clean", Family.GENERATION: "zoo:gen-clean", Family.TEXT_TO_IMAGE: "zoo:t2i-clean"}
SUSTAINED = {4: 60e12, 2: 300e12}  # operations a second, by bytes a number: TF32 and bf16 with the losses of real passes
BANDWIDTH = 2.5e12  # bytes a second that a device reads its weights with, at each token of a stack of answers
ROWS = 32  # answers that are written together
QUESTION = 40  # tokens of a question and its template


@dataclass
class Kind:
    """A model of real size: how to build it, and its passes, each a call on the model and a batch size of one."""

    name: str
    family: Family
    size: int  # bytes a number
    build: Callable[[], Any]
    forward: Callable[[Any, bool], Any]  # model, and whether gradients shall flow to the input
    text: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Counted:
    """Of one pass: operations, and bytes of activations at their peak."""

    operations: float
    bytes: float


def counted(run: Callable[[], Any], backward: bool = False) -> Counted:
    """What one call counts, and where asked for its gradient."""
    flops = FlopCounterMode(display=False)
    with Living() as living, flops, torch.set_grad_enabled(backward):
        out = run()
        if backward:
            out.float().sum().backward()
    return Counted(float(flops.get_total_flops()), float(living.peak))


def picture(side: int, kind: torch.dtype, gradient: bool) -> torch.Tensor:
    return torch.zeros(1, 3, side, side, dtype=kind, device="meta", requires_grad=gradient)


def ids(length: int) -> torch.Tensor:
    """(1, length): what they are is not looked at."""
    return torch.zeros(1, length, dtype=torch.long, device="meta")


def clip_l() -> Kind:
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "patch_size": 14},
        text_config={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        projection_dim=768,
    )
    return Kind(
        "CLIP ViT-L/14, 224 pixels", Family.MATCHING, 4, lambda: CLIPModel(config),
        lambda m, g: m.visual_projection(m.vision_model(picture(224, torch.float32, g)).pooler_output),
        lambda m: m.text_model(ids(77)).last_hidden_state,
    )  # fmt: skip


def so400m() -> Kind:
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    config = SiglipConfig(
        vision_config={**tower, "patch_size": 14, "image_size": 384}, text_config={**tower, "vocab_size": 256000}
    )
    return Kind(
        "SigLIP 2 so400m/14, 384 pixels", Family.MATCHING, 4, lambda: SiglipModel(config),
        lambda m, g: m.vision_model(picture(384, torch.float32, g)).pooler_output,
        lambda m: m.text_model(ids(64)).last_hidden_state,
    )  # fmt: skip


def llava_7b() -> Kind:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                       "num_attention_heads": 16, "patch_size": 14, "image_size": 336, "projection_dim": 768},
        text_config={"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064},
    )  # fmt: skip
    return Kind("LLaVA-1.5-7B", Family.GENERATION, 2, lambda: LlavaForConditionalGeneration(config), _read(336, 576, 4096))


def qwen_7b() -> Kind:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        vision_config={"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584},
        text_config={"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                     "num_key_value_heads": 4, "vocab_size": 152064, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}},
    )  # fmt: skip
    return Kind("Qwen2.5-VL-7B, 448 pixels", Family.GENERATION, 2, lambda: Qwen2_5_VLForConditionalGeneration(config),
                _read(448, 256, 3584))  # fmt: skip


def _read(side: int, tokens: int, width: int) -> Callable[[Any, bool], Any]:
    """The tower on one picture, and the language model on its tokens and a question. The way between them is small."""

    def run(model: Any, gradient: bool) -> Any:
        inner = model.model
        if hasattr(inner, "visual"):
            patch = inner.config.vision_config
            grid = side // patch.patch_size
            flat = torch.zeros(grid * grid, 3 * patch.temporal_patch_size * patch.patch_size**2, dtype=torch.bfloat16,
                               device="meta", requires_grad=gradient)  # fmt: skip
            seen = flat @ torch.zeros(flat.shape[1], patch.hidden_size, dtype=torch.bfloat16, device="meta")
            angles = torch.zeros(grid * grid, patch.hidden_size // patch.num_heads, device="meta")
            lengths = torch.tensor([0, grid * grid], dtype=torch.int32)
            for block in inner.visual.blocks:
                seen = block(seen, cu_seqlens=lengths, position_embeddings=(angles.cos(), angles.sin()))
            merge = patch.spatial_merge_size**2
            shown = inner.visual.merger(seen)[None]
            assert shown.shape[1] == grid * grid // merge == tokens
        else:
            seen = inner.vision_tower(picture(side, torch.bfloat16, gradient)).last_hidden_state[:, 1:]
            shown = inner.multi_modal_projector(seen)
        asked = torch.zeros(1, QUESTION, width, dtype=torch.bfloat16, device="meta")
        read = torch.cat([shown, asked], dim=1)
        mask = torch.zeros(1, 1, read.shape[1], read.shape[1], dtype=torch.bfloat16, device="meta")
        out = inner.language_model(inputs_embeds=read, attention_mask=mask, use_cache=False).last_hidden_state
        return model.lm_head(out[:, -1:])

    return run


def sdxl() -> Kind:
    from diffusers import UNet2DConditionModel

    def build() -> Any:
        return UNet2DConditionModel(
            sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, transformer_layers_per_block=(1, 2, 10),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip

    def denoise(model: Any, gradient: bool) -> Any:
        kind = {"dtype": torch.bfloat16, "device": "meta"}
        more = {"text_embeds": torch.zeros(1, 1280, **kind), "time_ids": torch.zeros(1, 6, **kind)}  # type: ignore[arg-type]
        latents = torch.zeros(1, 4, 128, 128, **kind, requires_grad=gradient)  # type: ignore[arg-type]
        states = torch.zeros(1, 77, 2048, **kind)  # type: ignore[arg-type]
        return model(latents, torch.zeros(1, device="meta"), states, added_cond_kwargs=more).sample

    return Kind("SDXL, 1024 pixels", Family.TEXT_TO_IMAGE, 2, build, denoise)


def flux() -> Kind:
    from diffusers import FluxTransformer2DModel

    def denoise(model: Any, gradient: bool) -> Any:
        kind = {"dtype": torch.bfloat16, "device": "meta"}
        latents = torch.zeros(1, 4096, 64, **kind, requires_grad=gradient)  # type: ignore[arg-type]
        return model(
            latents, torch.zeros(1, 512, 4096, **kind), torch.zeros(1, 768, **kind), torch.zeros(1, device="meta"),  # type: ignore[arg-type]
            torch.zeros(4096, 3, device="meta"), torch.zeros(512, 3, device="meta"), torch.zeros(1, device="meta"),
        ).sample  # fmt: skip

    return Kind("Flux.1-dev, 1024 pixels", Family.TEXT_TO_IMAGE, 2, lambda: FluxTransformer2DModel(guidance_embeds=True), denoise)


def plans(efforts: Sequence[str]) -> Iterator[tuple[Family, str, int, int, Cost]]:
    """For each family and effort: pictures (or captions) and labels of the data, and what all probes' plans sum to."""
    registry = ProbeRegistry.load()
    for family, spec in SPECIMENS.items():
        loader = Loader(torch.device("cpu"), allow_network=False)
        targets, references = loader.subjects([TargetSpec(model=spec)])
        probes = [name for name, probe in registry.classes.items() if family in probe.info.families]
        for effort in efforts:
            request = Request(targets=[TargetSpec(model=spec)], probes=probes, effort=effort, policy=Policy())
            plan = make_plan(request, registry, targets, references)
            data = targets[0].data
            yield family, effort, len(data.audit) or len(data.captions), len(targets[0].labels), sum(plan.costs.values(), Cost())


def seconds(kind: Kind, cost: Cost, weights: float, once: Counted, both: Counted, text: Counted | None) -> float:
    rate = SUSTAINED[kind.size]
    steps = cost.gradient_steps - cost.text_steps
    work = max(cost.passes - steps, 0) * once.operations + steps * both.operations
    work += (cost.texts + 2 * cost.text_steps) * (text.operations if text else 0.0)
    return work / rate + cost.tokens / ROWS * weights / BANDWIDTH


def tables(efforts: Sequence[str]) -> str:
    """Both tables in Markdown."""
    planned = list(plans(efforts))
    lines = ["| family | effort | data | passes forward | with gradient | texts | tokens |", "|---|---|---|---|---|---|---|"]
    for family, effort, pictures, labels, cost in planned:
        steps = cost.gradient_steps - cost.text_steps
        what = f"{pictures} captions" if family is Family.TEXT_TO_IMAGE else f"{pictures} pictures, {labels} labels"
        lines.append(f"| {family.value} | {effort} | {what} | {cost.passes:,} | {steps:,} | {cost.texts:,} | {cost.tokens:,} |")
    head = "| model | weights | a pass | with gradient | memory of a pass | with gradient | " + " | ".join(efforts) + " |"
    lines += ["", head, "|" + "---|" * (6 + len(efforts))]
    for make in (clip_l, so400m, llava_7b, qwen_7b, sdxl, flux):
        kind = make()
        with torch.device("meta"):
            model = kind.build().eval().requires_grad_(False).to(torch.float32 if kind.size == 4 else torch.bfloat16)
        weights = kind.size * float(sum(p.numel() for p in model.parameters()))
        once, both = counted(lambda: kind.forward(model, False)), counted(lambda: kind.forward(model, True), True)
        text = counted(lambda: kind.text(model)) if kind.text else None  # type: ignore[misc]
        hours = [_time(seconds(kind, cost, weights, once, both, text)) for family, _, _, _, cost in planned if family is kind.family]
        cells = [kind.name, _bytes(weights), *(f"{one.operations / 1e12:.2g} TFLOP" for one in (once, both)),
                 *(_bytes(one.bytes) for one in (once, both)), *hours]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _time(took: float) -> str:
    return f"{took / 3600:.2g} h" if took >= 3600 else f"{max(took / 60, 0.1):.2g} min"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--efforts", nargs="+", default=["quick", "standard", "thorough"])
    options.add_argument("--write", action="store_true")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    found = tables(chosen.efforts)
    print(found)
    if chosen.write:
        before, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(f"{before}{MARKS[0]}\n\n{found}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


if __name__ == "__main__":
    main()
