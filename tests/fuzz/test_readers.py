"""Hostile files given to the readers themselves: whatever is in them, a reader returns or says one sentence."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from PIL import Image
from safetensors.torch import save_file

from tests.fuzz.harness import SEEDS, hostile, reading, share
from tests.fuzz.mutator import mutate, put
from vlaudit.config import read_config
from vlaudit.data.dataset import load_dataset
from vlaudit.data.images import FORMATS, open_picture
from vlaudit.data.text_files import read_captions, read_labels
from vlaudit.policy import load_policy
from vlaudit.prompts.cocoop import META, CoCoOp
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.custom_diffusion import CustomDiffusion
from vlaudit.prompts.evp import EVP
from vlaudit.prompts.keyed_pool import KeyedPool
from vlaudit.prompts.pgn import PGN, small_resnet
from vlaudit.prompts.soft import PrefixTuning, PromptTuning
from vlaudit.prompts.specs import parse_prompt
from vlaudit.prompts.textual_inversion import TextualInversion
from vlaudit.prompts.visual import VisualPrompt
from vlaudit.records import Family
from vlaudit.suppressions import read_suppressions

CONFIG = b"""[scan]
effort = "standard"
seed = 3
device = "cpu"
batch_size = 8
probe = ["unsafe-file", "risk:bias"]
skip = ["typographic"]
[[target]]
model = "hf:model"
prompt = ["a photo of a {}", "coop:prompts/p.safetensors", "retrieval:pool=data,k=2,embedder=hf:model"]
reference = "a {}"
data = "data"
labels = "labels.txt"
groups = ["gender"]
members = "train"
scorer = "zoo:clean"
[probes.clip-autoattack]
pictures = 256
[policy]
level = 0.95
fail_on = "high"
[policy.thresholds]
clip-autoattack = 0.2
[policy.severity]
unsafe-file = "critical"
"""
POLICY = b'level = 0.9\nalpha = 0.05\nfail_on = "low"\nstrict = true\ngate = "none"\n[thresholds]\nmirror = 0.2\n[severity]\nbias = "low"\n'
IGNORE = b'[[ignore]]\nprobe = "SC1"\ntarget = "*"\nreason = "why"\nowner = "ada"\nexpires = 2027-03-01\nticket = "S-1"\n' * 2
CSV = b'file_name,label,text,question,answer,choices,pair,gender\ncat/0.png,cat,"a cat, here",what?,cat,cat|dog,p,f\ndog/0.png,dog,x,what?,dog,"[""cat""]",p,m\n'
JSONL = b"".join(
    json.dumps({"file_name": f"{name}/0.png", "label": name, "text": "x", "answer": name, "choices": [name, "b"], "n": 1}).encode() + b"\n"
    for name in ("cat", "dog")
)


@share(0.1)
@given(SEEDS)
def test_configs_policies_and_suppressions(seed: int) -> None:
    readers: list[tuple[bytes, Any]] = [
        (CONFIG, lambda path: read_config(path, trusted=random.random() < 0.5)),
        (POLICY, load_policy),
        (IGNORE, read_suppressions),
    ]
    with hostile(seed) as (random, place), reading():
        content, reader = random.choice(readers)
        put(place / "file.toml", mutate(content, random), random)
        reader(place / "file.toml")


@share(0.12)
@given(SEEDS)
def test_data_folders(picture_folder: Path, seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        for name in ("cat", "dog"):
            (place / name).mkdir()
            shutil.copy(picture_folder / "test" / name / "0.png", place / name)
        name, content = random.choice((("metadata.csv", CSV), ("metadata.jsonl", JSONL)))
        put(place / name, mutate(content, random), random)
        data = load_dataset(place, groups=random.choice(((), ("gender",))), members=random.choice((None, "gender", "train")))
        assert data.labels is not None and data.sha256 and data.pairs is not None and data.captions is not None
        assert all(example.choices is not None and example.sha256() for example in data.examples)


@pytest.fixture(scope="module")
def shard(picture_folder: Path) -> bytes:
    content, buffer = (picture_folder / "test" / "cat" / "0.png").read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for key in ("a", "b"):
            for field, held in (("png", content), ("cls", b"1"), ("txt", b"a cat"), ("json", b'{"gender": "f", "n": [1, 2], "label": 0}')):
                member = tarfile.TarInfo(f"{key}.{field}")
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    return buffer.getvalue()


@share(0.1)
@given(SEEDS)
def test_shards(shard: bytes, seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        put(place / "0.tar", mutate(shard, random), random)
        put(place / "classnames.txt", mutate(b"cat\ndog\n", random) if random.random() < 0.3 else b"cat\ndog\n", random)
        columns = random.choice(({}, {"label": "gender"}, {"image": "png"}))
        data = load_dataset(f"wds:{place}{random.choice(('', '/0.tar', '/{0..0}.tar'))}", columns=columns)
        assert data.sha256 and all(example.sha256() and example.size is not None for example in data.examples)


@pytest.fixture(scope="module")
def saved(picture_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    place = tmp_path_factory.mktemp("saved")
    content = (picture_folder / "test" / "cat" / "0.png").read_bytes()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "n": datasets.Value("int64")})
    rows = {"image": [{"bytes": content, "path": "x.png"}] * 3, "label": [0, 1, 0], "n": [1, 2, 3]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(place / "a"))
    return place / "a"


@share(0.06)
@given(SEEDS)
def test_saved_datasets(saved: Path, seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        shutil.copytree(saved, place / "a")
        file = random.choice(sorted((place / "a").iterdir()))
        put(file, mutate(file.read_bytes(), random), random)
        data = load_dataset(f"hf:{place / 'a'}")
        assert data.sha256 and all(example.sha256() for example in data.examples)


@share(0.05)
@given(SEEDS)
def test_labels_and_captions(seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        if random.random() < 0.5:
            put(place / "labels.txt", mutate(b"cat\ndog\n\nfire truck\n", random), random)
            assert len(read_labels(place / "labels.txt")) > 1
        else:
            name, content = random.choice((("c.txt", b"a cat\na dog\n"), ("c.csv", b'text,n\n"a cat, here",1\na dog,2\n')))
            put(place / name, mutate(content, random), random)
            assert read_captions(place / name)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """A small picture of every format, with the extras that each can carry."""
    random, found = Random(0), []
    noise = Image.frombytes("RGB", (24, 20), random.randbytes(24 * 20 * 3))
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a picture"
    extras: dict[str, list[dict[str, Any]]] = {
        "PNG": [{"exif": exif, "icc_profile": b"junk" * 40}, {"save_all": True, "append_images": [noise, noise]}],
        "JPEG": [{"exif": exif, "progressive": True}, {"icc_profile": b"junk" * 40}],
        "GIF": [{"save_all": True, "append_images": [noise, noise], "duration": 5}],
        "WEBP": [{"exif": exif, "lossless": True}, {"save_all": True, "append_images": [noise]}],
        "TIFF": [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate", "exif": exif}, {"compression": "jpeg"}],
    }
    for format in FORMATS:
        for more in [{}, *extras.get(format, [])]:
            for picture in (noise, noise.convert("P"), noise.convert("L"), noise.convert("RGBA")):
                buffer = io.BytesIO()
                try:
                    picture.save(buffer, format, **more)
                except OSError:  # a mode that the format does not have
                    continue
                found.append(buffer.getvalue())
    return found


@share(0.16)
@given(SEEDS)
def test_pictures(pictures: list[bytes], seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        path = place / f"x.{random.choice(('png', 'jpg', 'tiff', 'txt'))}"
        put(path, mutate(random.choice(pictures), random), random)
        picture = open_picture(path)
        assert picture.mode == "RGB" and picture.width * picture.height > 1


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Family, Path]]:
    """A prompt of every method that reads files: its method, its family, and the file or folder."""
    from vlaudit.families.generation import LearnedPrefix

    place, found = tmp_path_factory.mktemp("prompts"), []
    members = ["0" * 64]

    def add(method: str, family: Family, name: str, content: str | None = None) -> None:
        if content is not None:
            (place / name).write_text(content)
        found.append((method, family, place / name))

    VisualPrompt(torch.rand(3, 32, 32), torch.ones(32, 32), members=members).save(place / "vp.safetensors")
    CoOp(torch.rand(4, 32), members=members, position="middle").save(place / "coop.safetensors")
    TextualInversion([torch.rand(2, 32)], "<toy>", noun="toy", members=members).save(place / "toy.safetensors")
    torch.save({"string_to_param": {"*": torch.rand(2, 32)}, "name": "toy"}, place / "toy.pt")
    torch.save({"state_dict": {"ctx": torch.rand(4, 32)}}, place / "coop.pth")
    meta = {name: torch.rand(shape) for name, shape in zip(META, ((2, 8), (2,), (32, 2), (32,)), strict=True)}
    CoCoOp(torch.rand(4, 32), meta, members=members).save(place / "cocoop.safetensors")
    torch.save({"state_dict": {"ctx": torch.rand(4, 32), **meta}}, place / "cocoop.pth")
    EVP(torch.rand(3, 32, 32), 24, members=members).save(place / "evp.safetensors")
    torch.save({"perturbation": torch.nn.functional.pad(torch.zeros(3, 24, 24), (4,) * 4, value=1.0)}, place / "evp.pth")
    network = small_resnet([4, 8], [1], 10, False).state_dict()
    PGN(torch.rand(5, 32), network, settings={"maxpool": "no"}, members=members).save(place / "pgn.safetensors")
    torch.save({"tl_vectors": torch.rand(5, 32), **{f"model.{name}": value for name, value in network.items()}}, place / "pgn.pt")
    KeyedPool(torch.rand(4, 2, 32), torch.rand(4, 32), members=members).save(place / "pool.safetensors")
    torch.save({"prompt": torch.rand(4, 2, 32), "prompt_key": torch.rand(4, 32)}, place / "pool.pth")
    tower = {"image_encoder.conv1.weight": torch.rand(8, 3, 4, 4), "image_encoder.transformer.resblocks.0.ln_1.weight": torch.rand(8)}
    maps = {"proj.weight": (8, 32), "proj.bias": (8,), "compound_prompt_projections.0.weight": (8, 32), "compound_prompt_projections.0.bias": (8,)}
    layer = {"attn.in_proj_weight": (12, 4), "attn.in_proj_bias": (12,), "attn.out_proj.weight": (4, 4), "attn.out_proj.bias": (4,),
             "ln_1.weight": (4,), "ln_1.bias": (4,), "ln_2.weight": (4,), "ln_2.bias": (4,), "mlp.c_fc.weight": (16, 4),
             "mlp.c_fc.bias": (16,), "mlp.c_proj.weight": (4, 16), "mlp.c_proj.bias": (4,)}  # fmt: skip
    ways = {f"mvlpt_proj_ctx_{side}_{way}.{end}": shape for side, width in (("coop", 32), ("vpt", 8))
            for way, pair in (("pre", (4, width)), ("post", (width, 4))) for end, shape in (("weight", pair), ("bias", pair[:1]))}  # fmt: skip
    deep: dict[str, dict[str, Any]] = {
        "vpt": {"prompt_embeddings": (1, 2, 8), "deep_prompt_embeddings": (3, 2, 8)},
        "maple": {"compound_prompts_text.0": (4, 32)} | maps,
        "ivlp": {"image_encoder.VPT": (2, 8), "text_encoder.transformer.resblocks.1.VPT_shallow": (4, 32)},
        "mvlpt": {"vpt_embeddings": (1, 2, 8), "vpt_embeddings_deep": (3, 2, 8)},
        "upt": {"vpt_embeddings": (1, 2, 8)} | {f"mvlpt_proj.resblocks.0.{name}": shape for name, shape in layer.items()} | ways,
    }
    for method, shapes in deep.items():
        state = {name: torch.rand(shape) for name, shape in shapes.items()}
        state |= {} if method == "vpt" else {"ctx": torch.rand(4, 32)}
        torch.save({"state_dict": state | (tower if method in ("maple", "ivlp") else {})}, place / f"{method}.pth")
        parse_prompt(f"{method}:{place / f'{method}.pth'}", Family.MATCHING).save(place / f"{method}.safetensors")  # type: ignore[attr-defined]
    torch.save({"shallow_prompt": torch.rand(1, 2, 8).numpy()}, place / "arrays.pth")
    PromptTuning(LearnedPrefix(embeddings=torch.rand(4, 32)), members=members).save(place / "tuning")
    PrefixTuning(LearnedPrefix(keys_values=torch.rand(2, 2, 2, 4, 8)), members=members).save(place / "prefix")
    lora = {f"unet.mid_block.to_q.lora_{side}.weight": torch.rand(4, 8) for side in "AB"}
    save_file(lora, str(place / "lora.safetensors"), metadata={"members": json.dumps(members)})
    (place / "peft").mkdir()
    save_file({f"base_model.model.{name[5:]}": value for name, value in lora.items()}, str(place / "peft/adapter_model.safetensors"))
    (place / "peft/adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": false}')
    add("lora", Family.TEXT_TO_IMAGE, "lora.safetensors")
    add("lora", Family.TEXT_TO_IMAGE, "peft")
    weights = {f"mid_block.attn2.to_{side}.weight": torch.rand(8, 32) for side in "kv"}
    CustomDiffusion(weights, {"<new1>": torch.rand(1, 32)}, members=members).save(place / "custom")
    torch.save({"unet": weights, "modifier_token": {"<new1>": torch.rand(32)}}, place / "delta.bin")
    add("custom-diffusion", Family.TEXT_TO_IMAGE, "custom")
    add("custom-diffusion", Family.TEXT_TO_IMAGE, "delta.bin")
    add("vp", Family.MATCHING, "vp.safetensors")
    add("coop", Family.MATCHING, "coop.safetensors")
    add("coop", Family.MATCHING, "coop.pth")
    add("vpt", Family.MATCHING, "arrays.pth")
    files = (("cocoop", "cocoop.pth"), ("evp", "evp.pth"), ("pgn", "pgn.pt"), ("pool", "pool.pth"), *((own, f"{own}.pth") for own in deep))
    for method, name in files:
        add(method, Family.MATCHING, name)
        add(method, Family.MATCHING, f"{method}.safetensors")
    add("tpt", Family.MATCHING, "coop.pth")
    add("textual-inversion", Family.TEXT_TO_IMAGE, "toy.safetensors")
    add("textual-inversion", Family.TEXT_TO_IMAGE, "toy.pt")
    add("prompt-tuning", Family.GENERATION, "tuning")
    add("prefix-tuning", Family.GENERATION, "prefix")
    add("ensemble", Family.MATCHING, "e.txt", "# two\na photo of a {}\na drawing of a {}\n")
    add("modifiers", Family.TEXT_TO_IMAGE, "m.txt", "in oil\n{} at night\n")
    add("instruction", Family.GENERATION, "i.txt", "You are brief.\n---\nAnswer: {}\n")
    add("chain-of-thought", Family.GENERATION, "t.txt", "{} Think.\nSo?\n")
    return found


@share(0.19)
@given(SEEDS)
def test_prompt_files(prompts: list[tuple[str, Family, Path]], seed: int) -> None:
    with hostile(seed) as (random, place), reading():
        method, family, source = random.choice(prompts)
        path = place / source.name
        if source.is_dir():
            shutil.copytree(source, path)
        else:
            shutil.copy(source, path)
        file = random.choice(sorted(p for p in path.iterdir() if p.suffix != ".md")) if source.is_dir() else path
        put(file, mutate(file.read_bytes(), random), random)
        prompt = parse_prompt(f"{method}:{path}", family)
        assert prompt.id and prompt.text is not None and prompt.info().method == method
        assert all(isinstance(member, str) for member in prompt.members)


@share(0.05)
@given(SEEDS)
def test_prompt_specs(prompts: list[tuple[str, Family, Path]], seed: int) -> None:
    specs = [
        *((f"{method}:{path}", family) for method, family, path in prompts),
        ("a photo of a {}", Family.MATCHING),
        ("adjective=moody,noun=photograph,artist=Monet,lighting=soft", Family.TEXT_TO_IMAGE),
        ("design:adjective=moody,noun=photograph,artist=Monet", Family.TEXT_TO_IMAGE),
        ("prompt-to-prompt:edit=an oil painting of {},source={},cross=0.8,self=0.4", Family.TEXT_TO_IMAGE),
        ("image-to-image:file=x.png,strength=0.6", Family.TEXT_TO_IMAGE),
        ("controlnet:file=x,picture=x.png,scale=0.8", Family.TEXT_TO_IMAGE),
        ("inpainting:file=x.png,mask=y.png,strength=0.6", Family.TEXT_TO_IMAGE),
        ("custom-diffusion:file=x,token=<new1>,noun=cat,text={} by <new1>", Family.TEXT_TO_IMAGE),
        ("textual-inversion:file=x.pt,token=<toy>,noun=toy,text={} with a <toy>", Family.TEXT_TO_IMAGE),
        ("lora:file=x,scale=0.8,token=sks,noun=dog", Family.TEXT_TO_IMAGE),
        ("retrieval:pool=nowhere,k=4,embedder=hf:x,instruction=say {}", Family.GENERATION),
        ("in-context:pool=nowhere,k=8,seed=0,order=drawn", Family.GENERATION),
        ("chain-of-thought:file=zero-shot,tokens=9", Family.GENERATION),
    ]
    with hostile(seed) as (random, _), reading():
        spec, family = random.choice(specs)
        assert parse_prompt(mutate(spec.encode(), random).decode("utf-8", "replace"), family).id is not None
