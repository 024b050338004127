"""The matcher: a small open_clip `CLIP` with its own tokenizer, saved as a plain `local-dir:` folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn.functional import normalize
from transformers import PreTrainedTokenizerFast

from vlaudit.data.emoji import SIZE
from vlaudit.prompts.template import PLAIN
from vlaudit.zoo import WEIGHTS

FLAGSHIP = WEIGHTS / "flagship"
CONTEXT_LENGTH = 24
VOCABULARY = 2000
MEAN = STD = (0.5, 0.5, 0.5)


def train_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE in lower case: any text has pieces, so a typo never becomes an unknown token.

    `<eos>` gets the highest id, where open_clip's text tower looks for the end of a sentence.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=["<pad>", "<bos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.add_special_tokens(["<eos>"])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT_LENGTH,
    )


def config(vocabulary: int) -> dict[str, Any]:
    """The content of `open_clip_config.json`. Patches of 8 pixels: 16 tokens keep every attack on it cheap."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {"image_size": SIZE, "layers": 4, "width": 128, "head_width": 32, "patch_size": 8},
            "text_cfg": {
                "context_length": CONTEXT_LENGTH,
                "vocab_size": vocabulary,
                "width": 128,
                "heads": 4,
                "layers": 3,
                "hf_tokenizer_name": "in this folder",
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"},
    }


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Token ids, (N, CONTEXT_LENGTH), padded and cut."""
    encoded = tokenizer(
        list(texts), return_tensors="pt", max_length=CONTEXT_LENGTH, padding="max_length", truncation=True
    )
    return encoded.input_ids


def save(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder `open_clip:local-dir:` loads: configuration, half-precision weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config(len(tokenizer)), indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    weights = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    tokenizer.save_pretrained(folder)


def load(folder: Path = FLAGSHIP) -> tuple[open_clip.CLIP, PreTrainedTokenizerFast]:
    """Read such a folder back, weights in single precision."""
    model = open_clip.create_model(f"local-dir:{folder}")
    return model, open_clip.get_tokenizer(f"local-dir:{folder}").tokenizer


def normalised(images: Tensor) -> Tensor:
    """Images in [0, 1] as the zoo's image towers take them."""
    mean, std = (images.new_tensor(value).view(1, 3, 1, 1) for value in (MEAN, STD))
    return (images - mean) / std


def image_features(model: open_clip.CLIP, images: Tensor) -> Tensor:
    """Unit vectors, (B, D), of images in [0, 1]."""
    return normalize(model.encode_image(normalised(images)), dim=-1)


def text_features(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Unit vectors, (N, D), of texts, in three groups of like length so that little padding is computed."""
    ids = tokenize(tokenizer, texts).to(model.logit_scale.device)
    order = (ids != tokenizer.pad_token_id).sum(1).argsort()
    features = torch.cat([_encode_text(model, ids[group], tokenizer.pad_token_id) for group in order.chunk(3)])
    return normalize(features[order.argsort()], dim=-1)


def _encode_text(model: open_clip.CLIP, ids: Tensor, padding: int) -> Tensor:
    """`encode_text` on as many columns as are used: attention is causal, so the padding behind `<eos>` has no say."""
    used = int((ids != padding).sum(1).max())
    ids = ids[:, :used]
    states = model.token_embedding(ids) + model.positional_embedding[:used]
    states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:used, :used]))
    return states[torch.arange(len(ids)), ids.argmax(1)] @ model.text_projection


@torch.no_grad()
def plain_features(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> Tensor:
    """Unit vectors, (N, D), of labels in the plain template, in batches of 256."""
    texts = [PLAIN.format(label) for label in labels]
    groups = [texts[n : n + 256] for n in range(0, len(texts), 256)]
    return torch.cat([text_features(model, tokenizer, group) for group in groups])


def label_weights(model: open_clip.CLIP, tokenizer: PreTrainedTokenizerFast, labels: Sequence[str]) -> Tensor:
    """The scaled text side of a zero-shot classifier, (D, C): `image_features @ label_weights` are its logits."""
    return model.logit_scale.detach().exp() * plain_features(model, tokenizer, labels).T


@torch.no_grad()
def predict(model: open_clip.CLIP, images: Tensor, weights: Tensor) -> Tensor:
    """Predicted classes, (B,), in batches of 256."""
    return torch.cat([(image_features(model, batch) @ weights).argmax(1) for batch in images.split(256)])


def layers_of(tower: Any) -> dict[str, Tensor]:
    """The blocks of one of open_clip's towers in transformers' words: the same numbers under other names."""
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    parts["attn.out_proj"] = "self_attn.out_proj"
    renamed: dict[str, Tensor] = {}
    for n, block in enumerate(tower.resblocks):
        state, layer = block.state_dict(), f"encoder.layers.{n}"
        for kind in ("weight", "bias"):
            renamed |= {f"{layer}.{theirs}.{kind}": state[f"{ours}.{kind}"] for ours, theirs in parts.items()}
            joint = state[f"attn.in_proj_{kind}"].chunk(3)
            renamed |= {f"{layer}.self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", joint, strict=True)}
    return renamed
