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

from benchmarks.real_size import KINDS, Kind
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
PEAK = {False: 494e12, True: 989e12}  # operations a second of an H200, dense: in TF32 and in bf16 (NVIDIA's data sheet)
SUSTAINED = {False: 0.3, True: 0.4}  # of them that real passes are assumed to reach
BANDWIDTH = 0.5 * 4.8e12  # bytes a second, half of its peak: a token reads the weights once for a stack of answers
ROWS = 32  # answers that are written together
QUESTION = 40  # tokens of a question and its template


Pass = Callable[[Any, bool], Any]
"""A call on a model for one example; whether gradients shall flow to its input."""


@dataclass(frozen=True)
class Passes:
    """How to build a model of a configuration, and its passes: of the whole, and of the text encoder where it stands by itself."""

    build: Callable[[Any], Any]
    forward: Pass
    text: Pass | None = None


@dataclass(frozen=True)
class Counted:
    """Of one pass: operations, and bytes of activations at their peak."""

    operations: float
    bytes: float


def counted(run: Pass, model: Any, backward: bool = False) -> Counted:
    """What one call counts, and where asked for its gradient."""
    flops = FlopCounterMode(display=False)
    with Living() as living, flops, torch.set_grad_enabled(backward):
        out = run(model, backward)
        if backward:
            out.float().sum().backward()
    return Counted(float(flops.get_total_flops()), float(living.peak))


def picture(side: int, kind: torch.dtype, gradient: bool) -> torch.Tensor:
    return torch.zeros(1, 3, side, side, dtype=kind, device="meta", requires_grad=gradient)


def ids(length: int) -> torch.Tensor:
    """(1, length): what they are is not looked at."""
    return torch.zeros(1, length, dtype=torch.long, device="meta")


def _read(side: int, tokens: int, width: int) -> Pass:
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


def _denoise_sdxl(model: Any, gradient: bool) -> Any:
    more = {"text_embeds": halves(1, 1280), "time_ids": halves(1, 6)}
    return model(halves(1, 4, 128, 128).requires_grad_(gradient), torch.zeros(1, device="meta"), halves(1, 77, 2048), added_cond_kwargs=more).sample


def _denoise_flux(model: Any, gradient: bool) -> Any:
    places = (torch.zeros(length, 3, device="meta") for length in (4096, 512))
    once = torch.zeros(1, device="meta")
    return model(halves(1, 4096, 64).requires_grad_(gradient), halves(1, 512, 4096), halves(1, 768), once, *places, once).sample


def halves(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.bfloat16, device="meta")


def passes() -> dict[str, Passes]:
    """How to build each kind's part that takes the time, and its passes."""
    from diffusers import FluxTransformer2DModel, UNet2DConditionModel
    from transformers import (
        CLIPModel,
        LlavaForConditionalGeneration,
        Qwen2_5_VLForConditionalGeneration,
        SiglipModel,
    )

    plain = torch.float32
    return {
        "clip-l": Passes(
            CLIPModel, lambda m, g: m.visual_projection(m.vision_model(picture(224, plain, g)).pooler_output),
            lambda m, _: m.text_model(ids(77)).last_hidden_state,
        ),
        "so400m": Passes(
            SiglipModel, lambda m, g: m.vision_model(picture(384, plain, g)).pooler_output,
            lambda m, _: m.text_model(ids(64)).last_hidden_state,
        ),
        "llava-7b": Passes(LlavaForConditionalGeneration, _read(336, 576, 4096)),
        "qwen-7b": Passes(Qwen2_5_VLForConditionalGeneration, _read(448, 256, 3584)),
        "sdxl": Passes(lambda config: UNet2DConditionModel(**config), _denoise_sdxl),
        "flux": Passes(lambda config: FluxTransformer2DModel(**config), _denoise_flux),
    }  # fmt: skip


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
    steps = cost.gradient_steps - cost.text_steps
    work = max(cost.passes - steps, 0) * once.operations + steps * both.operations
    work += (cost.texts + 2 * cost.text_steps) * (text.operations if text else 0.0)
    return work / (SUSTAINED[kind.halves] * PEAK[kind.halves]) + cost.tokens / ROWS * weights / BANDWIDTH


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
    for name, how in passes().items():
        kind = KINDS[name]
        with torch.device("meta"):
            model = how.build(kind.config()).eval().requires_grad_(False).to(kind.dtype)
        weights = float(sum(p.numel() * p.element_size() for p in model.parameters()))
        once, both = (counted(how.forward, model, gradient) for gradient in (False, True))
        text = counted(how.text, model) if how.text else None
        hours = [_time(seconds(kind, cost, weights, once, both, text)) for family, _, _, _, cost in planned if family is kind.family]
        cells = [kind.title, _bytes(weights), *(f"{float(f'{one.operations / 1e12:.2g}'):g} TFLOP" for one in (once, both)),
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
