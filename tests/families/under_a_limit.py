"""Run by ``test_under_a_limit.py`` in a process of its own: a ViT-B/16 passes 64 pictures forward and backward.

Arguments: the side of the pictures; bytes of address space left beside the model, or 0 for no limit; how many of the pictures pass
uncut, or 0 for all of them, cut to what fits; a file for features and gradients. Prints, as JSON, how many passed at once and whether
with a graph, and by how many bytes the process grew at most.
"""

import json
import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from vlaudit.families.passes import Cut

PICTURES = 64


def highest() -> int:
    """The most bytes that were resident so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main(side: int, left: int, uncut: int, out: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16,
                              image_size=side, projection_dim=512)  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    sizes: list[tuple[int, bool]] = []

    def encode(_: slice, images: torch.Tensor) -> torch.Tensor:
        sizes.append((len(images), torch.is_grad_enabled()))
        return torch.nn.functional.normalize(model(pixel_values=images).image_embeds, dim=-1)

    images = torch.rand(PICTURES, 3, side, side, generator=torch.Generator().manual_seed(1))
    images = images[: uncut or None].clone().requires_grad_()
    cut = Cut(torch.device("cpu"), "vit-b-16")
    if left:
        reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (reserved + left,) * 2)
    before = highest()
    features = encode(slice(None), images) if uncut else cut("pictures", encode, images)
    features[:, 0].sum().backward()
    assert images.grad is not None
    save_file({"features": features.detach(), "gradients": images.grad}, out)
    print(json.dumps({"sizes": sizes, "peak": highest() - before}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4])
