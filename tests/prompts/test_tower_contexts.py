"""Prompts that live in the towers, against the published equations step by step, in the files of the published code."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from tests.prompts.restated import (
    DEPTH,
    LABELS,
    TEXT_WIDTH,
    WIDTH,
    Towers,
    drawn,
    of_open_clip,
    of_transformers,
    pictures,
)
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.device import Dtype, Loading
from vlaudit.errors import UsageError
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.ivlp import IVLP, PromptSRC
from vlaudit.prompts.maple import MaPLe
from vlaudit.prompts.mvlpt import MVLPT, UPT
from vlaudit.prompts.specs import parse_prompt
from vlaudit.prompts.vpt import VisualPromptTuning
from vlaudit.records import Family

torch.set_num_threads(1)
Make = Callable[[Path], Towers]
BOTH = pytest.mark.parametrize("make", [of_transformers, of_open_clip])
NAMES = [label.replace("_", " ") for label in LABELS]
BLOCK = "transformer.resblocks."


def published(towers: Towers) -> dict[str, Tensor]:
    """The frozen towers by the names, and in the layout, of OpenAI's code, in half precision."""
    own, state = towers.state, {}
    if "visual.conv1.weight" in own:
        state = {name.replace("visual.", "image_encoder."): value for name, value in own.items() if name.startswith("visual.")}
        state |= {f"text_encoder.{name}": own[name] for name in own if name.startswith(("transformer.", "positional", "ln_final", "text_proj"))}
    else:
        names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}
        for side, theirs in (("vision", "image"), ("text", "text")):
            for place in range(DEPTH):
                before, after = f"{side}_model.encoder.layers.{place}.", f"{theirs}_encoder.{BLOCK}{place}."
                for end in ("weight", "bias"):
                    state |= {f"{after}{new}.{end}": own[f"{before}{old}.{end}"] for old, new in names.items()}
                    parts = [own[f"{before}self_attn.{kind}_proj.{end}"] for kind in "qkv"]
                    state[f"{after}attn.in_proj_{end}"] = torch.cat(parts)
        vision = "vision_model.embeddings."
        state |= {
            "image_encoder.class_embedding": own[f"{vision}class_embedding"],
            "image_encoder.positional_embedding": own[f"{vision}position_embedding.weight"],
            "image_encoder.conv1.weight": own[f"{vision}patch_embedding.weight"],
            "image_encoder.proj": own["visual_projection.weight"].T,
            "text_encoder.positional_embedding": own["text_model.embeddings.position_embedding.weight"],
            "text_encoder.text_projection": own["text_projection.weight"].T,
        }
        norms = {"vision_model.pre_layrnorm": "image_encoder.ln_pre", "vision_model.post_layernorm": "image_encoder.ln_post",
                 "text_model.final_layer_norm": "text_encoder.ln_final"}  # fmt: skip
        state |= {f"{new}.{end}": own[f"{old}.{end}"] for old, new in norms.items() for end in ("weight", "bias")}
    return {name: value.detach().half() for name, value in state.items()} | {"logit_scale": own["logit_scale"].detach()}


def saved(path: Path, state: dict[str, Any]) -> Path:
    torch.save({"state_dict": OrderedDict(state), "epoch": 5, "optimizer": None, "scheduler": None, "val_result": None}, path)
    return path


def asked(towers: Towers, size: int, init: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Embeddings of the texts as the published code makes them, where they end, and what it saves of them."""
    embeddings, ends = towers.words([f"{init} {name} ." for name in NAMES])
    kept = {"prompt_learner.token_prefix": embeddings[:, :1].half(), "prompt_learner.token_suffix": embeddings[:, 1 + size :].half()}
    return embeddings, ends, kept


def replaced(tokens: Tensor, own: Tensor, first: bool) -> Tensor:
    """Tokens (B, L, W) with others in the place of the first after the start (or the class) token, or of the last."""
    own = own.expand(len(tokens), -1, -1)
    if first:
        return torch.cat([tokens[:, :1], own, tokens[:, 1 + own.shape[1] :]], dim=1)
    return torch.cat([tokens[:, : tokens.shape[1] - own.shape[1]], own], dim=1)


def logits(towers: Towers, prompt: Any, images: Tensor, labels: list[str] = LABELS) -> Tensor:
    target = prompt.bind(towers.model)
    target.check_labels(labels)
    return target.classifier(labels)(images)


def same(found: Tensor, wanted: Tensor, towers: Towers) -> None:
    """Logits as they should be: cosines within 1e-5."""
    torch.testing.assert_close(found / towers.scale, wanted / towers.scale, atol=1e-5, rtol=0)


def maple(towers: Towers, path: Path, size: int = 2, depth: int = 3, init: str = "a photo of a") -> tuple[Path, Callable[[Tensor], Tensor]]:
    """A checkpoint of MaPLe, and its equations."""
    ctx, deep = drawn(size, TEXT_WIDTH), [drawn(size, TEXT_WIDTH, seed=10 + place) for place in range(depth - 1)]
    maps = [(drawn(WIDTH, TEXT_WIDTH, seed=20 + place, std=0.2), drawn(WIDTH, seed=30 + place)) for place in range(depth)]
    embeddings, ends, kept = asked(towers, size, init if size <= 4 else "x " * size)
    state = kept | {"prompt_learner.ctx": ctx, "prompt_learner.proj.weight": maps[0][0], "prompt_learner.proj.bias": maps[0][1]}
    for place, text in enumerate(deep):
        state[f"prompt_learner.compound_prompts_text.{place}"] = text
        for end, value in zip(("weight", "bias"), maps[place + 1], strict=True):
            state[f"prompt_learner.compound_prompt_projections.{place}.{end}"] = value

    def compute(images: Tensor) -> Tensor:
        said = replaced(embeddings, ctx, True)
        texts = towers.said(said, ends, lambda place, x: replaced(x, deep[place - 1], True) if 0 < place < depth else x)
        image = [linear(text, *pair) for text, pair in zip([ctx, *deep], maps, strict=True)]
        seen = towers.seen(
            images,
            lambda place, x: replaced(x, image[place], False) if 0 < place < depth else x,
            lambda x: torch.cat([x, image[0].expand(len(x), -1, -1)], dim=1),
        )
        return towers.scale * seen @ texts.T

    return saved(path, state | published(towers)), compute


def ivlp(towers: Towers, path: Path, more: dict[str, Tensor] | None = None) -> tuple[Path, Callable[[Tensor], Tensor]]:
    """A checkpoint of IVLP, deeper on the side of the pictures, and its equations."""
    ctx, text, image = drawn(2, TEXT_WIDTH), [drawn(2, TEXT_WIDTH, seed=3)], [drawn(5, WIDTH, seed=40 + place) for place in range(3)]
    embeddings, ends, kept = asked(towers, 2, "a photo of a")
    state = kept | {"prompt_learner.ctx": ctx, "image_encoder.VPT": image[0], f"text_encoder.{BLOCK}1.VPT_shallow": text[0]}
    state |= {f"image_encoder.{BLOCK}{place}.VPT_shallow": image[place] for place in (1, 2)}

    def compute(images: Tensor) -> Tensor:
        texts = towers.said(replaced(embeddings, ctx, True), ends, lambda place, x: replaced(x, text[0], True) if place == 1 else x)
        seen = towers.seen(
            images,
            lambda place, x: replaced(x, image[place], False) if place else x,
            lambda x: torch.cat([x, image[0].expand(len(x), -1, -1)], dim=1),
        )
        return towers.scale * seen @ texts.T

    return saved(path, state | published(towers) | (more or {})), compute


def layer(width: int) -> torch.nn.Module:
    """CLIP's own transformer block, one head, with the names of its code."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn, self.ln_1, self.ln_2 = torch.nn.MultiheadAttention(width, 1), torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
            self.mlp = torch.nn.Sequential(OrderedDict(c_fc=torch.nn.Linear(width, 4 * width), c_proj=torch.nn.Linear(4 * width, width)))

        def forward(self, x: Tensor) -> Tensor:
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            y = self.mlp.c_fc(self.ln_2(x))
            return x + self.mlp.c_proj(y * torch.sigmoid(1.702 * y))

    torch.manual_seed(5)
    return Block().requires_grad_(False)


def mvlpt(
    towers: Towers, path: Path, *, unified: bool = False, mixed: bool = False, position: str = "middle"
) -> tuple[Path, Callable[[Tensor], Tensor]]:
    """A checkpoint of MVLPT, or of UPT by the same code, and its equations. ``mixed``: attention over all tokens, as UPT's paper has it."""
    size, width = 4, 24
    ctx, shallow, deep = drawn(size, TEXT_WIDTH), drawn(1, 3, WIDTH, seed=2), drawn(DEPTH - 1, 3, WIDTH, seed=3)
    embeddings, ends, kept = asked(towers, size, "x " * size)
    state = {name.removeprefix("prompt_learner."): value for name, value in kept.items()}
    state |= {"ctx": ctx, "vpt_embeddings": shallow, "vpt_embeddings_deep": deep}
    block = layer(width)
    maps = {f"mvlpt_proj_ctx_{side}_{way}": torch.nn.Linear(*shape).requires_grad_(False) for side, way, shape in (
        ("coop", "pre", (TEXT_WIDTH, width)), ("coop", "post", (width, TEXT_WIDTH)), ("vpt", "pre", (WIDTH, width)), ("vpt", "post", (width, WIDTH)))}  # fmt: skip
    if unified:
        state |= {f"mvlpt_proj.resblocks.0.{name}": value for name, value in block.state_dict().items()}
        state |= {f"{name}.{end}": value for name, module in maps.items() for end, value in module.state_dict().items()}
    else:
        state |= {"vpt_proj.weight": drawn(WIDTH, WIDTH, seed=8, std=0.2), "vpt_proj.bias": drawn(WIDTH, seed=9)}

    def compute(images: Tensor) -> Tensor:
        text, image = ctx, torch.cat([shallow, deep])
        if unified:
            both = torch.cat([maps["mvlpt_proj_ctx_coop_pre"](text), maps["mvlpt_proj_ctx_vpt_pre"](image.reshape(-1, WIDTH))])[None]
            both = block(both.transpose(0, 1)).transpose(0, 1)[0] if mixed else block(both)[0]  # its code forgets to transpose
            text = maps["mvlpt_proj_ctx_coop_post"](both[:size])
            image = maps["mvlpt_proj_ctx_vpt_post"](both[size:]).reshape(image.shape)
        else:
            image = linear(image, state["vpt_proj.weight"], state["vpt_proj.bias"])
        rows = []
        for row, name in enumerate(NAMES):
            own = embeddings[row, 1 + size : 1 + size + len(name.split())]
            half = {"middle": size // 2, "end": size, "front": 0}[position]
            rows.append(torch.cat([embeddings[row, :1], text[:half], own, text[half:], embeddings[row, 1 + size + len(own) :]]))
        texts = towers.said(torch.stack(rows), ends)
        seen = towers.seen(
            images,
            lambda place, x: replaced(x, image[place], True) if place else torch.cat([x[:, :1], image[0].expand(len(x), -1, -1), x[:, 1:]], 1),
        )
        return towers.scale * seen @ texts.T

    return saved(path, state), compute


@BOTH
@pytest.mark.parametrize(("size", "depth"), [(2, 3), (2, 1), (5, 2)])
def test_maple_is_the_published_equations(make: Make, size: int, depth: int, tmp_path: Path) -> None:
    towers, images = make(tmp_path), pictures()
    path, compute = maple(towers, tmp_path / "model.pth.tar-5", size, depth)
    with torch.no_grad():
        wanted = compute(images)
        prompt = parse_prompt(f"maple:{path}", Family.MATCHING)
        same(logits(towers, prompt, images), wanted, towers)
        prompt.save(tmp_path / "kept.safetensors")  # type: ignore[attr-defined]
        again = MaPLe.parse(str(tmp_path / "kept.safetensors"))
        same(logits(towers, again, images), wanted, towers)
    assert ("of a" in (again.init or "")) == (size == 2)


@BOTH
def test_ivlp_and_promptsrc_are_the_published_equations(make: Make, tmp_path: Path) -> None:
    towers, images = make(tmp_path), pictures()
    path, compute = ivlp(towers, tmp_path / "model.pth.tar-5")
    teacher = {"prompt_learner.ZS_image_encoder.conv1.weight": drawn(WIDTH, 3, 8, 8)}
    drifted, _ = ivlp(towers, tmp_path / "model.pth.tar-20", teacher)
    with torch.no_grad():
        wanted = compute(images)
        for prompt in (IVLP.parse(str(path)), PromptSRC.parse(str(drifted)), PromptSRC.parse(str(path))):
            same(logits(towers, prompt, images), wanted, towers)
            prompt.save(tmp_path / "kept.safetensors")
            again = type(prompt).parse(str(tmp_path / "kept.safetensors"))
            same(logits(towers, again, images), wanted, towers)
    with pytest.raises(UsageError, match="checkpoint of PromptSRC, not of IVLP"):
        IVLP.parse(str(drifted))


@BOTH
@pytest.mark.parametrize("position", ["middle", "end", "front"])
def test_mvlpt_is_its_code(make: Make, position: str, tmp_path: Path) -> None:
    towers, images = make(tmp_path), pictures()
    path, compute = mvlpt(towers, tmp_path / "model.pth.tar-10", position=position)
    prompt = MVLPT.parse(str(path) if position == "middle" else f"file={path},position={position}")
    with torch.no_grad():
        wanted = compute(images)
        same(logits(towers, prompt, images), wanted, towers)
        prompt.save(tmp_path / "kept.safetensors")
        same(logits(towers, MVLPT.parse(str(tmp_path / "kept.safetensors")), images), wanted, towers)


@BOTH
def test_upt_is_its_code_for_a_checkpoint_and_the_paper_for_its_own(make: Make, tmp_path: Path) -> None:
    towers, images = make(tmp_path), pictures()
    path, compute = mvlpt(towers, tmp_path / "model.pth.tar-10", unified=True)
    _, paper = mvlpt(towers, tmp_path / "x", unified=True, mixed=True)
    prompt = UPT.parse(str(path))
    with torch.no_grad():
        same(logits(towers, prompt, images), compute(images), towers)
        prompt.save(tmp_path / "kept.safetensors")
        same(logits(towers, UPT.parse(str(tmp_path / "kept.safetensors")), images), compute(images), towers)
        other = UPT(prompt.ctx, prompt.parts, mixed=True, position="middle", label_style="official")
        same(logits(towers, other, images), paper(images), towers)
        other.save(tmp_path / "own.safetensors")
        same(logits(towers, UPT.parse(str(tmp_path / "own.safetensors")), images), paper(images), towers)
        assert (paper(images) - compute(images)).abs().max() > 1e-2


@BOTH
@pytest.mark.parametrize("layers", [1, 3])
def test_vpt_is_the_published_equations_in_each_file(make: Make, layers: int, tmp_path: Path) -> None:
    towers, images = make(tmp_path), pictures()
    tokens = drawn(layers, 4, WIDTH)
    plain, official = (towers.said(*towers.words(texts)) for texts in (
        [f"a photo of a {label}" for label in ("cat", "dog")], [f"a photo of a {name} ." for name in NAMES]))  # fmt: skip

    def seen(first: bool, own: Tensor) -> Tensor:
        def change(place: int, x: Tensor) -> Tensor:
            if place == 0 and first:
                return torch.cat([x[:, :1], own[0].expand(len(x), -1, -1), x[:, 1:]], dim=1)
            return replaced(x, own[place], first) if 0 < place < layers else x

        ahead = (lambda x: x) if first else (lambda x: torch.cat([x, own[0].expand(len(x), -1, -1)], dim=1))
        return towers.scale * towers.seen(images, change, ahead)

    deep = tokens[1:] if layers > 1 else None
    theirs = {"shallow_prompt": tokens[:1].numpy()} | ({} if deep is None else {"deep_prompt": deep.numpy()})
    torch.save(theirs, tmp_path / "prompt_ep100.pth")
    weight, bias = drawn(WIDTH, WIDTH, seed=8, std=0.2), drawn(WIDTH, seed=9)
    whole = {"enc.transformer.prompt_embeddings": tokens[:1], "enc.transformer.prompt_proj.weight": weight, "enc.transformer.prompt_proj.bias": bias}
    whole |= {} if deep is None else {"enc.transformer.deep_prompt_embeddings": deep}
    torch.save({"model": whole, "optimizer": None, "iteration": 5}, tmp_path / "projected.pth")
    saved(tmp_path / "mvlpt.pth", {"vpt_embeddings": tokens[:1], "token_prefix": drawn(3, 1, TEXT_WIDTH), "token_suffix": drawn(3, 19, TEXT_WIDTH)}
          | ({} if deep is None else {"vpt_embeddings_deep": deep}))  # fmt: skip
    blocks = {f"image_encoder.{BLOCK}{place}.VPT_shallow": tokens[place] for place in range(1, layers)}
    saved(tmp_path / "maple.pth", {"image_encoder.VPT": tokens[0]} | blocks | published(towers))
    with torch.no_grad():
        cases = {
            "prompt_ep100.pth": (["cat", "dog"], seen(True, tokens) @ plain.T),
            "projected.pth": (["cat", "dog"], seen(True, linear(tokens, weight, bias)) @ plain.T),
            "mvlpt.pth": (LABELS, seen(True, tokens) @ official.T),
            "maple.pth": (LABELS, seen(False, tokens) @ official.T),
        }
        for file, (labels, wanted) in cases.items():
            prompt = VisualPromptTuning.parse(str(tmp_path / file))
            same(logits(towers, prompt, images, labels), wanted, towers)
            prompt.save(tmp_path / "kept.safetensors")
            again = parse_prompt(f"vpt:{tmp_path / 'kept.safetensors'}", Family.MATCHING)
            same(logits(towers, again, images, labels), wanted, towers)


FITS: dict[type[Any], dict[str, Any]] = {
    VisualPromptTuning: {"depth": 2}, MaPLe: {"depth": 2}, IVLP: {"depth": 2}, PromptSRC: {"depth": 2}, MVLPT: {}, UPT: {"width": 24},
}  # fmt: skip


@pytest.mark.parametrize("method", FITS, ids=lambda method: method.method)
def test_fit_learns_repeats_and_is_kept(method: type[Any], tmp_path: Path) -> None:
    towers, images = of_open_clip(tmp_path), pictures(12)
    targets = (images[:, 0].mean(dim=(1, 2)) > images[:, 0].mean()).long()
    losses: list[float] = []
    fitted = [
        method.fit(towers.model, images, targets, LABELS[:2], size=2, steps=15, batch_size=12, rate=2e-2, seed=1, members=["0" * 64],
                   progress=lambda _, loss: losses.append(loss), **FITS[method])
        for _ in range(2)
    ]  # fmt: skip
    first, second = fitted
    assert losses[14] < losses[0] - 1e-3 and losses[:15] == losses[15:]
    assert all(torch.equal(value, second.tensors[name]) and not value.requires_grad for name, value in first.tensors.items())
    first.save(tmp_path / "kept.safetensors")
    again = method.parse(str(tmp_path / "kept.safetensors"))
    assert again.learned and not again.learns_anew and again.members == ["0" * 64] and again.base_model == towers.model.sha256
    assert again.reference().method == "template"
    pixels = images[:3].clone().requires_grad_()
    same(logits(towers, again, images, LABELS[:2]), logits(towers, first, images, LABELS[:2]), towers)
    scores = logits(towers, again, pixels, LABELS[:2])
    (slope,) = torch.autograd.grad((scores[:, 0] - scores[:, 1]).sum(), pixels)
    step = 1e-2 * slope / slope.norm()
    with torch.no_grad():
        up, down = (logits(towers, again, pixels + way * step, LABELS[:2]) for way in (1, -1))
    moved = ((up[:, 0] - up[:, 1]) - (down[:, 0] - down[:, 1])).sum()
    torch.testing.assert_close(moved, 2e-2 * slope.norm(), rtol=0.02, atol=1e-5)


def test_a_prompt_of_another_tower_width_depth_or_label_set_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    towers, other = of_open_clip(tmp_path / "0"), of_transformers(tmp_path / "1", seed=3)
    path, _ = maple(towers, tmp_path / "maple.pth")
    prompt = MaPLe.parse(str(path))
    with pytest.raises(UsageError, match=r"The start token in"):
        prompt.bind(other.model)
    stripped = MaPLe(prompt.ctx, prompt.parts, label_style="official", towers=published(towers), path=path)
    with pytest.raises(UsageError, match=r"The towers in .*maple.pth' are not those of 'hf:.*': \d+ of \d+ tensors differ, such as"):
        stripped.bind(other.model)
    target = prompt.bind(towers.model)
    with pytest.raises(UsageError, match="learned on 3 labels, and 1 of these 3 are not among them, such as 'dog'"):
        target.check_labels(["cat", "hot_dog", "dog"])
    assert logits(towers, MaPLe.parse(f"file={path},labels=any"), pictures(), ["cat", "dog"]).shape == (4, 2)
    narrow = VisualPromptTuning({"prompt_embeddings": drawn(1, 2, WIDTH - 1)})
    deep = VisualPromptTuning({"prompt_embeddings": drawn(1, 2, WIDTH), "deep_prompt_embeddings": drawn(DEPTH, 2, WIDTH)})
    for wrong, said in ((narrow, f"1 blocks and {WIDTH - 1} wide"), (deep, f"{DEPTH + 1} blocks and {WIDTH} wide")):
        with pytest.raises(UsageError, match=rf"{said}, but the image tower of .* has {DEPTH} blocks, {WIDTH} wide"):
            wrong.bind(towers.model)


def test_a_checkpoint_that_changes_one_weight_of_a_tower_is_no_prompt_of_the_model(tmp_path: Path) -> None:
    """What the published code would load with it is another model."""
    towers = of_transformers(tmp_path)
    path, _ = maple(towers, tmp_path / "maple.pth")
    name = f"image_encoder.{BLOCK}1.attn.in_proj_weight"
    for harm in (lambda old: old + 0.05, lambda _: torch.inf):
        whole = torch.load(path, weights_only=True)
        whole["state_dict"][name][0, 0] = harm(whole["state_dict"][name][0, 0])
        torch.save(whole, tmp_path / "poisoned.pth")
        with pytest.raises(UsageError, match=rf"1 of \d+ tensors differ, such as '{name}'"):
            MaPLe.parse(str(tmp_path / "poisoned.pth")).bind(towers.model)
    state = torch.load(path, weights_only=True)["state_dict"]
    state[f"text_encoder.{BLOCK}0.attn.out_proj.weight"] = state[f"text_encoder.{BLOCK}1.attn.out_proj.weight"]  # of the block beside it
    with pytest.raises(UsageError, match=r"1 of .* tensors differ"):
        MaPLe.parse(str(saved(tmp_path / "swapped.pth", state))).bind(towers.model)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_model_in_16_bits_has_the_towers_of_its_checkpoint(dtype: Dtype, tmp_path: Path) -> None:
    towers = of_transformers(tmp_path)
    (tmp_path / "other").mkdir()
    path, _ = maple(towers, tmp_path / "maple.pth")
    rounded = HuggingFaceBackend().load(str(tmp_path), torch.device("cpu"), Loading(dtype))
    MaPLe.parse(str(path)).bind(rounded)
    other, _ = maple(of_transformers(tmp_path / "other", seed=3), tmp_path / "other.pth")
    with pytest.raises(UsageError):
        MaPLe.parse(str(other)).bind(rounded)


@pytest.mark.parametrize(
    ("method", "change", "said"),
    [
        (MaPLe, {"prompt_learner.proj.bias": None}, "lacks 1 of MaPLe's tensors, such as 'proj.bias'"),
        (MaPLe, {"prompt_learner.compound_prompts_text.0": None}, "lacks 1 of MaPLe's tensors, such as 'compound_prompts_text.0'"),
        (MaPLe, {"prompt_learner.compound_prompts_text.1": drawn(3, TEXT_WIDTH)}, "do not fit together as MaPLe's do"),
        (MaPLe, {"prompt_learner.meta_net.linear1.weight": drawn(2, 2)}, "checkpoint of CoCoOp .*, not of MaPLe"),
        (MaPLe, {"image_encoder.VPT": drawn(2, WIDTH)}, "checkpoint of IVLP .*, not of MaPLe"),
        (MaPLe, {"prompt_learner.film": drawn(2, 2)}, "holds more than .*: film"),
        (IVLP, {}, "checkpoint of MaPLe, not of IVLP"),
        (UPT, {}, "checkpoint of MaPLe, not of UPT"),
        (VisualPromptTuning, {}, "checkpoint of MaPLe, not of VPT"),
    ],
)
def test_more_or_less_than_the_methods_tensors_is_refused(method: type[Any], change: dict[str, Any], said: str, tmp_path: Path) -> None:
    towers = of_open_clip(tmp_path)
    state = torch.load(maple(towers, tmp_path / "maple.pth")[0], weights_only=True)["state_dict"] | change
    path = saved(tmp_path / "changed.pth", {name: value for name, value in state.items() if value is not None})
    with pytest.raises(UsageError, match=said):
        method.parse(str(path))


def test_files_of_neighbours_are_refused_by_name(tmp_path: Path) -> None:
    towers = of_open_clip(tmp_path)
    both, unified, deep = mvlpt(towers, tmp_path / "m.pth")[0], mvlpt(towers, tmp_path / "u.pth", unified=True)[0], ivlp(towers, tmp_path / "i.pth")[0]
    alone = saved(tmp_path / "coop.pth", {"ctx": drawn(2, TEXT_WIDTH)})
    head = saved(tmp_path / "head.pth", {"enc.transformer.prompt_embeddings": drawn(1, 2, WIDTH), "head.last_layer.weight": drawn(3, WIDTH)})
    cases = [
        (MVLPT, unified, "checkpoint of UPT, not of MVLPT"), (UPT, both, "checkpoint of MVLPT, not of UPT"), (MVLPT, alone, "lacks 1 of MVLPT's"),
        (VisualPromptTuning, both, "checkpoint of MVLPT, not of VPT"), (VisualPromptTuning, deep, r"checkpoint of IVLP .*, not of VPT"),
        (VisualPromptTuning, head, "holds the head of a classifier"), (VisualPromptTuning, alone, "holds no VPT context|holds more"),
        (IVLP, alone, "holds a text context alone"), (CoOp, deep, r"checkpoint of IVLP .*, not of CoOp.* ivlp:"),
    ]  # fmt: skip
    for method, path, said in cases:
        with pytest.raises(UsageError, match=said):
            method.parse(str(path))


def test_arrays_that_are_no_floats_or_too_short_are_no_tokens(tmp_path: Path) -> None:
    for number, array in enumerate((np.ones((1, 2, WIDTH), dtype=np.int64), np.array([None]))):
        torch.save({"shallow_prompt": array}, tmp_path / f"{number}.pth", pickle_protocol=2)
        with pytest.raises(UsageError, match="holds no VPT context"):
            VisualPromptTuning.parse(str(tmp_path / f"{number}.pth"))
