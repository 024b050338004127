"""The generator: the matcher's image tower, a projector and a small decoder, saved as a plain LLaVA folder."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from pathlib import Path

import open_clip
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlaudit.data.emoji import SIZE
from vlaudit.zoo import WEIGHTS
from vlaudit.zoo.recipes.matching import model as matching

FLAGSHIP = WEIGHTS / "gen-clean"
PATCH = 8
SHOWN = (SIZE // PATCH) ** 2 + 1
"""Tokens of a picture: its patches and the class token, which alone the matcher's training shaped."""
CONTEXT_LENGTH = 1024
WIDTH, LAYERS, HEADS = 128, 4, 4
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<system>", "<user>", "<assistant>")
WORD = r"[a-z]+(?:['-][a-z]+)*|[0-9]|[^\sa-z0-9]"
"""A word, one digit, or one other character."""
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def new_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word of `texts`, in lower case; digits are single tokens, and what is unknown becomes `<unk>`."""
    words = sorted({word for text in texts for word in re.findall(WORD, text.lower())})
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    core.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=CONTEXT_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def tower_config() -> CLIPVisionConfig:
    vision = matching.config(0)["model_cfg"]["vision_cfg"]
    return CLIPVisionConfig(
        hidden_size=vision["width"],
        intermediate_size=4 * vision["width"],
        num_hidden_layers=vision["layers"],
        num_attention_heads=vision["width"] // vision["head_width"],
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        hidden_act="gelu",
        projection_dim=matching.config(0)["model_cfg"]["embed_dim"],
    )


def image_tower(model: open_clip.CLIP) -> CLIPVisionModel:
    """The matcher's image tower in transformers' words; its final projection has no place there."""
    tower, visual = CLIPVisionModel(tower_config()).eval(), model.visual
    state = {
        "embeddings.class_embedding": visual.class_embedding,
        "embeddings.patch_embedding.weight": visual.conv1.weight,
        "embeddings.position_embedding.weight": visual.positional_embedding,
        "pre_layrnorm.weight": visual.ln_pre.weight,
        "pre_layrnorm.bias": visual.ln_pre.bias,
        "post_layernorm.weight": visual.ln_post.weight,
        "post_layernorm.bias": visual.ln_post.bias,
        **matching.layers_of(visual.transformer),
    }
    tower.load_state_dict(state)
    return tower


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlavaForConditionalGeneration:
    """The tower of the flagship matcher under a projector and a decoder with random weights."""
    torch.manual_seed(seed)
    ids = tokenizer.get_vocab()
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": True,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": ids["<s>"],
        "eos_token_id": ids["</s>"],
    }
    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=text,
        image_token_index=ids["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=SHOWN,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    clip, _ = matching.load()
    model.model.vision_tower.load_state_dict(image_tower(clip).state_dict())
    return model


def new_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What turns a conversation into inputs: pictures of 32 pixels, and the chat template."""
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=matching.MEAN,
        image_std=matching.STD,
    )
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )


def save(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder that `hf:` loads, weights in half precision."""
    small = copy.deepcopy(model).half()
    small.generation_config.eos_token_id = tokenizer.eos_token_id
    small.generation_config.pad_token_id = tokenizer.pad_token_id
    small.save_pretrained(folder)
    new_processor(tokenizer).save_pretrained(folder)


def load(folder: Path = FLAGSHIP) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerFast]:
    """Read such a folder back, weights in single precision."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return model.eval(), tokenizer
