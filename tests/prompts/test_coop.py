"""CoOp checkpoints: the text is the one that the published code makes, and what is not CoOp's, or of other labels or another
model, is refused by name."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conftest import save_tiny_clip, word_tokenizer
from vlaudit.backends.huggingface import HuggingFaceBackend
from vlaudit.backends.open_clip import OpenCLIPBackend
from vlaudit.errors import UsageError
from vlaudit.families.matching import MatchingModel
from vlaudit.prompts.coop import CoOp
from vlaudit.prompts.files import PromptFile, write_prompt_file

torch.set_num_threads(1)
LABELS = ["cat", "hot_dog", "big_red_car"]
WORDS = ["x", ".", "hot", "big", "red", "a", "photo", "of", "cat", "dog", "car"]
START, END, SIZE = 2, 3, 4
CPU = torch.device("cpu")
Tower = Callable[[Tensor, Tensor], Tensor]  # embeddings (C, L, W) and end positions (C,) to features (C, D)


def of_transformers(folder: Path, seed: int = 0) -> tuple[MatchingModel, Tensor, Tower]:
    """A random CLIP, its token embeddings, and its text tower step by step."""
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": word_tokenizer(WORDS, folder), "max_position_embeddings": 16, "eos_token_id": END, "pad_token_id": 0}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=tower | text, vision_config=tower | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    own = CLIPModel.from_pretrained(folder).eval()

    def encode(embeddings: Tensor, ends: Tensor) -> Tensor:
        length = embeddings.shape[1]
        hidden = embeddings + own.text_model.embeddings.position_embedding.weight[:length]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        for layer in own.text_model.encoder.layers:
            hidden = layer(hidden, mask)
        hidden = own.text_model.final_layer_norm(hidden)
        return own.text_projection(hidden[torch.arange(len(ends)), ends])

    table = own.text_model.embeddings.token_embedding.weight.detach()
    return HuggingFaceBackend().load(str(folder), CPU), table, encode


def of_open_clip(folder: Path) -> tuple[MatchingModel, Tensor, Tower]:
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": word_tokenizer(WORDS, folder), "width": 32, "heads": 2, "layers": 2,
                     "hf_tokenizer_name": "own", "pool_type": "eos", "eos_id": END, "tokenizer_kwargs": {}},
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    own = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file({k: v.contiguous() for k, v in own.state_dict().items()}, folder / "open_clip_model.safetensors")

    def encode(embeddings: Tensor, ends: Tensor) -> Tensor:
        hidden = own.transformer(embeddings + own.positional_embedding, attn_mask=own.attn_mask)
        return own.ln_final(hidden)[torch.arange(len(ends)), ends] @ own.text_projection

    return OpenCLIPBackend().load(f"local-dir:{folder}", CPU), own.token_embedding.weight.detach(), encode


def learned(table: Tensor, ctx: Tensor, labels: Sequence[str], position: str = "end") -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What the method's own code makes: embeddings of the texts, where they end, and the state that it saves."""
    names = [label.replace("_", " ") for label in labels]
    lengths = [len(name.split()) for name in names]
    texts = [f"{'x ' * ctx.shape[-2]}{name} .".split() for name in names]
    ids = torch.zeros(len(texts), 16, dtype=torch.long)
    for row, words in enumerate(texts):
        ids[row, : len(words) + 2] = torch.tensor([START, *(WORDS.index(word) + 4 for word in words), END])
    embedded = table[ids]
    prefix, suffix = embedded[:, :1], embedded[:, 1 + ctx.shape[-2] :]
    every = ctx.expand(len(labels), -1, -1) if ctx.dim() == 2 else ctx
    rows = []
    for row, length in enumerate(lengths):
        name, rest = suffix[row, :length], suffix[row, length:]
        half = ctx.shape[-2] // 2
        middle = {
            "end": [every[row], name],
            "middle": [every[row, :half], name, every[row, half:]],
            "front": [name, every[row]],
        }[position]
        rows.append(torch.cat([prefix[row], *middle, rest]))
    state = OrderedDict(ctx=ctx, token_prefix=prefix.half(), token_suffix=suffix.half())  # as on a GPU
    return torch.stack(rows), (ids == END).int().argmax(dim=1), state


def save(path: Path, state: dict[str, Any], **more: Any) -> Path:
    torch.save({"state_dict": state, "epoch": 50, "optimizer": None, "scheduler": None, "val_result": None} | more, path)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[MatchingModel, Tensor, Tower]:
    return of_transformers(tmp_path_factory.mktemp("clip"))


def context(*shape: int) -> Tensor:
    return 0.5 * torch.randn(*shape, SIZE, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("rows", [(), (3,)], ids=["shared", "class-specific"])
@pytest.mark.parametrize("tower", [of_transformers, of_open_clip])
def test_features_are_those_of_the_code_that_learned_the_context(
    tmp_path: Path, tower: Callable[[Path], tuple[MatchingModel, Tensor, Tower]], rows: tuple[int, ...], position: str
) -> None:
    model, table, encode = tower(tmp_path)
    embeddings, ends, state = learned(table, context(*rows), LABELS, position)
    path = save(tmp_path / "model.pth.tar-50", state)
    prompt = CoOp.parse(f"file={path},position={position}")
    prompt.check(model)
    prompt.check_labels(model, LABELS[::-1])
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(encode(embeddings, ends), dim=-1)
        found = prompt.label_features(model, LABELS[::-1]).flip(0)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_the_published_text_survives_a_prompt_file_and_others_keep_theirs(clip: Any, tmp_path: Path) -> None:
    model, table, _ = clip
    read = CoOp.parse(str(save(tmp_path / "model.pth.tar-50", learned(table, context(), LABELS)[2])))
    read.save(tmp_path / "kept.safetensors")
    again = CoOp.parse(str(tmp_path / "kept.safetensors"))
    torch.testing.assert_close(again.label_features(model, LABELS), read.label_features(model, LABELS))
    assert "full stop" in again.text
    write_prompt_file(tmp_path / "old.safetensors", PromptFile("coop", {"ctx": context()}))
    plain = CoOp.parse(str(tmp_path / "old.safetensors"))
    ids = plain.tokens(model, ["hot_dog"], plain.ctx)[0][0].ids
    assert ids[-2:] == [model.tokenize("hot_dog").ids[-2], END] and WORDS.index(".") + 4 not in ids
    write_prompt_file(tmp_path / "bad.safetensors", PromptFile("coop", {"ctx": context()}, extra={"label_style": "loud"}))
    with pytest.raises(UsageError, match="label_style 'loud'"):
        CoOp.parse(str(tmp_path / "bad.safetensors"))


def test_other_labels_than_the_learned_ones_are_refused_by_name(clip: Any, tmp_path: Path) -> None:
    model, table, _ = clip
    path = save(tmp_path / "model.pth.tar-50", learned(table, context(), LABELS)[2])
    prompt = CoOp.parse(str(path))
    with pytest.raises(UsageError, match="learned on 3 labels, and 1 of these 3 are not among them, such as 'photo'"):
        prompt.check_labels(model, [*LABELS[:2], "photo"])
    with pytest.raises(UsageError, match="learned on 3 labels, and 2 are given"):
        prompt.check_labels(model, LABELS[:2])
    other = CoOp.parse(f"file={path},labels=any")
    other.check_labels(model, ["photo", "car"])
    assert "other labels" in other.text
    rows = save(tmp_path / "rows.pth", learned(table, context(3), LABELS)[2])
    with pytest.raises(UsageError, match="'photo'"):
        CoOp.parse(f"file={rows},labels=any").check_labels(model, [*LABELS[:2], "photo"])


def test_rows_go_with_their_labels_whatever_the_order_and_alone(clip: Any, tmp_path: Path) -> None:
    model, table, _ = clip
    prompt = CoOp.parse(str(save(tmp_path / "rows.pth", learned(table, context(3), LABELS)[2])))
    prompt.check_labels(model, [LABELS[1], LABELS[2], LABELS[0]])
    assert prompt.labels == LABELS
    whole = prompt.label_features(model, LABELS)
    torch.testing.assert_close(prompt.label_features(model, [LABELS[2]]), whole[2:])
    with pytest.raises(UsageError, match="one text"):
        CoOp.parse(str(save(tmp_path / "two.pth", learned(table, context(3), ["cat", "hot_dog", "hot dog"])[2]))).check_labels(
            model, ["cat", "hot_dog", "hot dog"]
        )


@pytest.mark.parametrize(("rows", "position", "style"), [((), "middle", "plain"), ((3,), "end", "official")])
def test_learned_anew_it_is_of_the_same_shape_and_on_those_pictures(clip: Any, rows: tuple[int, ...], position: str, style: str) -> None:
    model = clip[0]
    first = CoOp(context(*rows), position=position, labels=LABELS if rows else None, label_style=style)
    features = torch.nn.functional.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    targets = torch.arange(12) % 3
    again = first.learned_anew(model, features, targets, LABELS, steps=30, seed=0)
    assert (again.ctx.shape, again.position, again.label_style, again.labels) == (first.ctx.shape, position, style, first.labels)
    loss = [torch.nn.functional.cross_entropy(features @ p.label_features(model, LABELS).T, targets) for p in (first, again)]
    assert loss[1] < loss[0]
    assert not torch.equal(again.ctx, first.learned_anew(model, features, targets.roll(1), LABELS, steps=30, seed=0).ctx)


def test_another_base_model_is_refused(clip: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "model.pth.tar-50", learned(clip[1], context(), LABELS)[2])
    model, _, _ = of_transformers(tmp_path, seed=1)
    with pytest.raises(UsageError, match="start token"):
        CoOp.parse(str(path)).bind(model)


def test_a_label_too_long_for_the_published_code_is_refused(clip: Any, tmp_path: Path) -> None:
    prompt = CoOp.parse(str(save(tmp_path / "model.pth", {"ctx": context()})))
    prompt.check_labels(clip[0], ["cat", "dog " * 9])
    with pytest.raises(UsageError, match="longer than the 16 tokens"):
        prompt.check_labels(clip[0], ["cat", "dog " * 10])


META = {f"meta_net.linear{i}.weight": torch.zeros(2, 2) for i in (1, 2)}


@pytest.mark.parametrize(
    ("more", "method"),
    [
        (META, "CoCoOp"),
        ({f"module.prompt_learner.{name}": value for name, value in META.items()}, "CoCoOp"),
        ({"prompt_learner.compound_prompts_text.0": torch.zeros(4, 32)}, "MaPLe"),
        ({"proj.weight": torch.zeros(48, 32)}, "MaPLe"),
        ({"text_encoder.transformer.resblocks.1.VPT_shallow": torch.zeros(4, 32)}, "IVLP"),
        ({"prompt_learner.ZS_image_encoder.conv1.weight": torch.zeros(4, 32)}, "PromptSRC"),
        ({"image_encoder.conv1.weight": torch.zeros(8, 3)}, "image tower"),
        ({"bias_for_later": torch.zeros(8)}, "bias_for_later"),
        ({"prompt_learner.ctx": torch.zeros(4, 32)}, "prompt_learner.ctx"),
    ],
)
def test_what_coop_does_not_have_is_refused_by_name(tmp_path: Path, more: dict[str, Tensor], method: str) -> None:
    with pytest.raises(UsageError, match=method):
        CoOp.parse(str(save(tmp_path / "model.pth.tar-5", {"ctx": context()} | more)))


def test_parts_beside_the_state_are_refused_too(tmp_path: Path) -> None:
    for extra in ({"ema": {"ctx": context()}}, {"pixels": context()}):
        with pytest.raises(UsageError, match=next(iter(extra))):
            CoOp.parse(str(save(tmp_path / "model.pth.tar-5", {"ctx": context()}, **extra)))
    state = {"ctx": context(4), "token_prefix": torch.zeros(12, 1, 32), "token_suffix": torch.zeros(12, 11, 32)}
    with pytest.raises(UsageError, match="PLOT"):
        CoOp.parse(str(save(tmp_path / "plot.pth", state)))


@pytest.mark.parametrize("prefix", ["", "prompt_learner.", "module.prompt_learner."])
@pytest.mark.parametrize("name", ["model.pth.tar-50", "best", "step=50.ckpt"])
def test_a_checkpoint_is_known_by_its_content(tmp_path: Path, prefix: str, name: str) -> None:
    path = save(tmp_path / name, {f"{prefix}ctx": context()})
    assert torch.equal(CoOp.parse(str(path)).ctx, context())


def test_a_path_may_hold_what_looks_like_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "lr=0.1,seed=2").mkdir(parents=True)
    save(tmp_path / "out" / "lr=0.1,seed=2" / "model.pth", {"ctx": context()})
    assert torch.equal(CoOp.parse("out/lr=0.1,seed=2/model.pth").ctx, context())


def test_a_prompt_file_is_known_by_its_content(tmp_path: Path) -> None:
    write_prompt_file(tmp_path / "model.pth", PromptFile("coop", {"ctx": context()}, class_token_position="front"))
    assert CoOp.parse(str(tmp_path / "model.pth")).position == "front"
    with pytest.raises(UsageError, match="at the front, not at the end"):
        CoOp.parse(f"file={tmp_path / 'model.pth'},position=end")


@pytest.mark.parametrize("argument", ["position=end", "file=x,labels=some", "file=x,place=end"])
def test_options_that_say_nothing_are_refused(argument: str) -> None:
    with pytest.raises(UsageError):
        CoOp.parse(argument)


def test_a_scan_with_the_wrong_labels_ends_before_it_measures(
    tmp_path: Path, picture_folder: Path, vlaudit: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_clip(tmp_path / "clip")
    table = HuggingFaceBackend().load(str(model), CPU).token_embeddings(range(12)).detach()
    texts = [[START, 1, 1, 1, 1, word, 1, END] for word in (9, 10, 4)]  # car, cat, and no label
    embedded = table[torch.tensor(texts)]
    state = {"ctx": context(), "token_prefix": embedded[:, :1], "token_suffix": embedded[:, 5:]}
    prompt, out = f"coop:{save(tmp_path / 'model.pth.tar-50', state)}", tmp_path / "out"
    assert vlaudit("scan", f"hf:{model}", "--prompt", prompt, "--data", picture_folder, "--probe", "MR4", "--out", out) == 2
    said = capsys.readouterr().err
    assert "learned on 3 labels, and 1 of these 3 are not among them, such as 'dog'" in said and not out.exists()


@pytest.mark.parametrize("before", ["module.", "module.prompt_learner.", "prompt_learner.module.", "_orig_mod.prompt_learner.", "model.prompt_learner."])
def test_what_wrappers_put_before_names_is_taken_off(clip: Any, tmp_path: Path, before: str) -> None:
    model, table, encode = clip
    embeddings, ends, state = learned(table, context(), LABELS)
    half = {before + name: value.half() for name, value in state.items()}
    prompt = CoOp.parse(str(save(tmp_path / "model.pth.tar-50", half)))
    prompt.check_labels(model, LABELS)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(encode(embeddings, ends), dim=-1)
        torch.testing.assert_close(prompt.label_features(model, LABELS), wanted, atol=1e-3, rtol=0)


def test_buffers_that_are_not_those_of_coop_are_refused(clip: Any, tmp_path: Path) -> None:
    model, table, _ = clip
    state = learned(table, context(), LABELS)[2]
    prefix, suffix = state["token_prefix"], state["token_suffix"]
    changes = {
        "one of token_prefix and token_suffix": {"token_suffix": None},
        "do not fit together": {"token_prefix": prefix.repeat(1, 2, 1)},
        "fit together": {"token_prefix": prefix[:2]},
        "together as CoOp's": {"token_suffix": suffix[..., :16]},
        "TCP": {"class_context": suffix, "meta_net.linear1.weight": suffix},
        "DePT": {"film_lin_s_img.scale": suffix},
        "TPT": {"ctx_init_state": suffix},
    }
    for said, change in changes.items():
        held = {name: value for name, value in ({**state, **change}).items() if value is not None}
        with pytest.raises(UsageError, match=said):
            CoOp.parse(str(save(tmp_path / "model.pth.tar-50", held)))
    short = CoOp.parse(str(save(tmp_path / "model.pth.tar-50", {**state, "token_suffix": suffix[:, :3]})))
    with pytest.raises(UsageError, match="are not among them"):
        short.check_labels(model, LABELS)
