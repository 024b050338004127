"""Tiny random image-text-to-text checkpoints of every kind, as `save_pretrained` folders: plumbing, not accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

TEXTS = [
    "what",
    "is",
    "this",
    "and",
    "that",
    "a",
    "the",
    "of",
    "picture",
    "cat",
    "dog",
    "car",
    "red",
    "blue",
    "yes",
    "no",
    "to",
    "say",
    "in",
    "user",
    "assistant",
]
MARKS = ["?", ":", ".", ",", "USER", "ASSISTANT", "SYSTEM", "\n"]
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LLAMA = {
    **TOWER,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% if m['role'] == 'assistant' %}</s>{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer(special: Sequence[str] = (), start: bool = True, end: bool = False, **named: str) -> Any:
    """A word-level tokenizer; words it doesn't know become <unk>. ``named``: tokens kept as attributes."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<s>", "</s>", *TEXTS, *MARKS]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    template = f"{'<s> ' if start else ''}$A{' </s>' if end else ''}"
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 2), ("</s>", 3)])
    core.add_special_tokens([AddedToken(token, special=True) for token in [*special, *named.values()]])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        model_max_length=512, extra_special_tokens=dict(named), padding_side="left",
    )  # fmt: skip


def _vision(size: int = 24, patch: int = 8) -> dict[str, Any]:
    return {**TOWER, "image_size": size, "patch_size": patch}


def _save(folder: Path, model: Any, processor: Any, chat: str | None = None) -> Path:
    # random weights of the usual size say the same token for ever; larger ones answer differently to each picture
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    model.save_pretrained(folder)
    if chat is not None:
        processor.chat_template = chat
    processor.save_pretrained(folder)
    return folder


def llava(
    folder: Path, size: int = 24, patch: int = 8, width: int = 32, layers: int = 2, context: int = 512,
    heads: int = 2, shared_heads: int = 1, chat: str | None = CHAT.replace("IMAGE", "<image>"),
) -> Path:  # fmt: skip
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    words = tokenizer(image_token="<image>")
    tower = {"hidden_size": width, "intermediate_size": width * 3 // 2, "num_hidden_layers": layers,
             "num_attention_heads": heads}  # fmt: skip
    vision = {**_vision(size, patch), **tower, "model_type": "clip_vision_model", "projection_dim": 16}
    config = LlavaConfig(
        vision_config=vision,
        text_config={
            **LLAMA, **tower, "model_type": "llama", "vocab_size": len(words), "max_position_embeddings": context,
            "num_key_value_heads": shared_heads,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )  # fmt: skip
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size}), words,
        patch_size=patch, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(folder, LlavaForConditionalGeneration(config), processor, chat)


def llava_next(folder: Path) -> Path:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    words = tokenizer(image_token="<image>")
    grid = [[24, 48], [48, 24], [48, 48]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **_vision(), "projection_dim": 16},
        text_config={"model_type": "llama", **LLAMA, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
    )
    square = {"height": 24, "width": 24}
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(size={"shortest_edge": 24}, crop_size=square, image_grid_pinpoints=grid), words,
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(folder, LlavaNextForConditionalGeneration(config), processor, CHAT.replace("IMAGE", "<image>"))


def idefics3(folder: Path, split: bool = False) -> Path:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, Idefics3Processor

    rows = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
    words = tokenizer(["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *rows], image_token="<image>")
    config = Idefics3Config(
        vision_config=_vision(),
        text_config={"model_type": "llama", **LLAMA, "vocab_size": len(words), "max_position_embeddings": 2048},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=1,
        pad_token_id=0,
    )
    pictures = Idefics3ImageProcessor(
        size={"longest_edge": 48 if split else 24}, max_image_size={"longest_edge": 24}, do_image_splitting=split
    )
    processor = Idefics3Processor(pictures, words, image_seq_len=9)
    return _save(folder, Idefics3ForConditionalGeneration(config), processor, CHAT.replace("IMAGE", "<image>"))


def qwen2_vl(folder: Path) -> Path:
    return _qwen(folder, "Qwen2VL", embed_dim=32, mlp_ratio=2)


def qwen2_5_vl(folder: Path) -> Path:
    return _qwen(folder, "Qwen2_5_VL", out_hidden_size=32, intermediate_size=48, fullatt_block_indexes=[1], window_size=16)


def _qwen(folder: Path, kind: str, **vision: Any) -> Path:
    import transformers
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    words = tokenizer(["<|vision_start|>", "<|vision_end|>"], image_token="<|image_pad|>", video_token="<|video_pad|>")
    ids = words.convert_tokens_to_ids
    config = getattr(transformers, f"{kind}Config")(
        vision_config={"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 4, **vision},
        text_config={**LLAMA, "vocab_size": len(words), "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    sizes = {"patch_size": 4, "size": {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}}
    make = getattr(transformers, f"{kind}Processor")
    processor = make(Qwen2VLImageProcessor(**sizes), words, Qwen2VLVideoProcessor(**sizes))
    chat = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    return _save(folder, getattr(transformers, f"{kind}ForConditionalGeneration")(config), processor, chat)


def internvl(folder: Path) -> Path:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    words = tokenizer(**named)
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [24, 24], "patch_size": [4, 4]},
        text_config={"model_type": "llama", **LLAMA, "vocab_size": len(words), "max_position_embeddings": 2048},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    torch.manual_seed(2)  # with 0 it says the same of everything
    pictures = GotOcr2ImageProcessor(size={"height": 24, "width": 24}, crop_to_patches=True, max_patches=4)
    processor = InternVLProcessor(pictures, words, InternVLVideoProcessor(), image_seq_length=9)
    return _save(folder, InternVLForConditionalGeneration(config), processor, CHAT.replace("IMAGE", "<IMG_CONTEXT>"))


def gemma_3(folder: Path) -> Path:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3ImageProcessor, Gemma3Processor

    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    config = Gemma3Config(
        vision_config=_vision(),
        text_config={**LLAMA, "head_dim": 16, "vocab_size": len(words), "sliding_window": 64},
        image_token_id=words.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        mm_tokens_per_image=9,
    )
    pictures = Gemma3ImageProcessor(size={"height": 24, "width": 24})
    processor = Gemma3Processor(pictures, words, image_seq_length=9)
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)  # it begins at zero
    return _save(folder, model, processor, CHAT.replace("IMAGE", "<start_of_image>"))


def paligemma(folder: Path) -> Path:
    from transformers import (
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
    )

    words = tokenizer(start=False, image_token="<image>")
    pictures = SiglipImageProcessor(size={"height": 24, "width": 24})
    pictures.image_seq_length = 9
    processor = PaliGemmaProcessor(pictures, words)
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **_vision(), "projection_dim": 32},
        text_config={"model_type": "gemma", **LLAMA, "head_dim": 16, "vocab_size": len(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        vocab_size=len(words),
    )
    return _save(folder, PaliGemmaForConditionalGeneration(config), processor)


def blip_2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    words = tokenizer(["<image>"])
    config = Blip2Config(
        vision_config=_vision(),
        qformer_config={**TOWER, "vocab_size": len(words), "encoder_hidden_size": 32, "cross_attention_frequency": 1},
        text_config={"model_type": "opt", "vocab_size": len(words), "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "max_position_embeddings": 256, "word_embed_proj_dim": 32, "pad_token_id": 0,
                     "bos_token_id": 2, "eos_token_id": 3},
        num_query_tokens=4,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor = Blip2Processor(BlipImageProcessor(size={"height": 24, "width": 24}), words, num_query_tokens=4)
    return _save(folder, Blip2ForConditionalGeneration(config), processor)


def _blip(folder: Path, kind: str) -> Path:
    import transformers
    from transformers import BlipConfig, BlipImageProcessor, BlipProcessor

    words = tokenizer(end=True)
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 128, "encoder_hidden_size": 32, "pad_token_id": 0,
            "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "projection_dim": 16}  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=_vision(), projection_dim=16, image_text_hidden_size=16)
    model = getattr(transformers, kind)(config)
    return _save(folder, model, BlipProcessor(BlipImageProcessor(size={"height": 24, "width": 24}), words))


def blip_caption(folder: Path) -> Path:
    return _blip(folder, "BlipForConditionalGeneration")


def blip_vqa(folder: Path) -> Path:
    return _blip(folder, "BlipForQuestionAnswering")


def florence_2(folder: Path) -> Path:
    from transformers import CLIPImageProcessor, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

    words = tokenizer(end=True, image_token="<image>")
    # its processor writes the start and end of the text itself
    config = Florence2Config(
        vision_config={"embed_dim": [16, 32], "depths": [1, 1], "num_heads": [2, 2], "num_groups": [2, 2], "patch_size": [7, 3],
                       "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True], "window_size": 3,
                       "projection_dim": 32},
        text_config={"model_type": "bart", "vocab_size": len(words), "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
                     "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
                     "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
                     "decoder_start_token_id": 3, "forced_bos_token_id": 2},
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    pictures = CLIPImageProcessor(size={"height": 24, "width": 24}, do_center_crop=False)
    pictures.image_seq_length = 10
    model = Florence2ForConditionalGeneration(config)
    model.generation_config.forced_bos_token_id = 2
    model.generation_config.no_repeat_ngram_size = 3
    return _save(folder, model, Florence2Processor(pictures, words))


def janus(folder: Path) -> Path:
    """It draws too: 9 tokens of a codebook of 16."""
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusImageProcessor, JanusProcessor

    words = tokenizer(image_token="<image_placeholder>", boi_token="<begin_of_image>", eoi_token="<end_of_image>")
    config = JanusConfig(
        vision_config={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 8,
                       "mlp_ratio": 1.5, "projection_dim": 32, "num_image_tokens": 9},
        text_config={"model_type": "llama", **LLAMA, "vocab_size": len(words)},
        vq_config={"embed_dim": 4, "num_embeddings": 16, "latent_channels": 8, "base_channels": 32, "channel_multiplier": [1, 1],
                   "num_res_blocks": 1, "projection_dim": 32, "image_token_embed_dim": 32},
        image_token_id=words.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    torch.manual_seed(3)  # with others it says the same of everything
    model = JanusForConditionalGeneration(config)
    settings = model.generation_config
    settings.pad_token_id, settings.bos_token_id, settings.eos_token_id, settings.guidance_scale = 0, 2, 3, 5
    settings.generation_kwargs = {"boi_token_id": words.convert_tokens_to_ids("<begin_of_image>")}
    pictures = JanusImageProcessor(size={"height": 24, "width": 24}, min_size=8)
    return _save(folder, model, JanusProcessor(pictures, words, num_image_tokens=9), CHAT.replace("IMAGE", "<image_placeholder>"))


def kosmos_2(folder: Path) -> Path:
    from transformers import CLIPImageProcessor, Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

    words = tokenizer(end=True)
    pictures = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    processor = Kosmos2Processor(pictures, words)  # adds its marks to the tokenizer
    config = Kosmos2Config(
        text_config={"vocab_size": len(words), "embed_dim": 32, "layers": 2, "ffn_dim": 48, "attention_heads": 2,
                     "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        vision_config={**_vision()},
        latent_query_num=64,
    )  # fmt: skip
    return _save(folder, Kosmos2ForConditionalGeneration(config), processor)


def idefics(folder: Path) -> Path:
    from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsImageProcessor, IdeficsProcessor

    words = tokenizer(["<fake_token_around_image>", "<image>"], start=False)
    config = IdeficsConfig(
        vocab_size=len(words), **TOWER, max_position_embeddings=512, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        cross_layer_interval=1, use_resampler=False, alpha_initializer="ones", qk_layer_norms=False,
        vision_config={"embed_dim": 32, "image_size": 24, "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "intermediate_size": 48},
        tie_word_embeddings=False,
    )  # fmt: skip
    return _save(folder, IdeficsForVisionText2Text(config), IdeficsProcessor(IdeficsImageProcessor(image_size=24), words))


KINDS: dict[str, Callable[[Path], Path]] = {
    "llava": llava, "llava-next": llava_next, "idefics3": idefics3, "idefics3-split": lambda folder: idefics3(folder, True),
    "qwen2-vl": qwen2_vl, "paligemma": paligemma, "blip-2": blip_2, "blip-caption": blip_caption, "blip-vqa": blip_vqa,
    "florence-2": florence_2, "qwen2.5-vl": qwen2_5_vl, "internvl": internvl, "gemma-3": gemma_3,
    "janus": janus, "kosmos-2": kosmos_2, "idefics": idefics,
}  # fmt: skip


def save(kind: str, folder: Path, seed: int = 0) -> Path:
    """A tiny checkpoint of that kind."""
    torch.manual_seed(seed)
    return KINDS[kind](folder)
